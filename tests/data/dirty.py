"""A corpus of 200 rows in three sources, of which some are broken in every way that is known."""

from __future__ import annotations

import io
import json
import math
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

from braid.data.sources import Source, open_source

WORDS = [f"square {n}" for n in range(8)]


@dataclass(frozen=True)
class Corpus:
    """Sources by name, and why each of their bad rows is bad."""

    sources: dict[str, Source]
    bad: dict[str, dict[int, str]] = field(default_factory=dict)


Row = dict[str, Any]
Make = Callable[[Path, Row], bytes | None]
"""Spoils a row of a folder in place; returns its line if that is no JSON."""


def picture(
    mode: str = "L", size: tuple[int, int] = (4, 4), form: str = "PNG", **options: Any
) -> bytes:
    """Return a file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    file = io.BytesIO()
    made = PIL.Image.fromarray(pixels[..., :3]).convert("RGBA" if "A" in mode else "RGB")
    made.convert(mode).save(file, form, **options)
    return file.getvalue()


def animated() -> bytes:
    """Return a GIF of three frames."""
    frames = [PIL.Image.new("L", (4, 4), level) for level in (0, 100, 200)]
    return picture("P", form="GIF", save_all=True, append_images=frames)


def sixteen_bits() -> bytes:
    """Return a grey PNG of 16 bits."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000).save(file, "PNG")
    return file.getvalue()


def text_bomb() -> bytes:
    """Return a PNG whose text is small only while it is compressed."""
    notes = PngInfo()
    notes.add_text("comment", "a" * (8 << 20), zip=True)
    return picture(pnginfo=notes)


def header_bomb(side: int = 30_000) -> bytes:
    """Return a PNG of a few bytes that promises 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def sound(samples: np.ndarray, rate: int = 8000) -> bytes:
    """Return a WAV file of 32-bit floats."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tone(hertz: float = 300.0, seconds: float = 0.3) -> np.ndarray:
    """Return a tone at 8 kHz."""
    return 0.5 * np.sin(2 * math.pi * hertz * np.arange(round(8000 * seconds)) / 8000)


def holding(name: str, data: bytes) -> Make:
    """Return what puts other bytes into a row's file."""

    def make(folder: Path, row: Row) -> None:
        (folder / row[name]).write_bytes(data)

    return make


def saying(**values: Any) -> Make:
    """Return what changes a row's values."""
    return lambda folder, row: row.update(values)


def elsewhere(absolute: bool) -> Make:
    """Return what names a good picture outside the folder."""

    def make(folder: Path, row: Row) -> None:
        there = folder.parent / "elsewhere.png"
        there.write_bytes(picture())
        row["image"] = str(there.resolve()) if absolute else "../elsewhere.png"

    return make


def linked(folder: Path, row: Row) -> None:
    """Make the picture a link to a file of the system."""
    (folder / row["image"]).unlink()
    (folder / row["image"]).symlink_to("/etc/passwd")


def not_utf8(folder: Path, row: Row) -> bytes:
    """Return a line with a byte that no UTF-8 has."""
    return json.dumps(row).encode().replace(b"square", b"squ\xffre")


UNREADABLE = "image: not a readable picture"
TRUNCATED = "image: the picture is truncated or damaged"
OUTSIDE = "file ... lies outside the folder of its data"

PICTURES: dict[str, tuple[Make, str | None]] = {
    "no bytes": (holding("image", b""), "image: the picture is empty"),
    "half a PNG": (holding("image", picture(size=(64, 64))[:2000]), TRUNCATED),
    "half a JPEG": (holding("image", picture(size=(64, 64), form="JPEG")[:1500]), TRUNCATED),
    "a page named png": (holding("image", b"<html>404</html>"), UNREADABLE),
    "a JPEG named png": (holding("image", picture(form="JPEG")), None),
    "CMYK": (holding("image", picture("CMYK", form="JPEG")), None),
    "16 bits": (holding("image", sixteen_bits()), None),
    "grey with alpha": (holding("image", picture("LA")), None),
    "palette with alpha": (holding("image", picture("P", transparency=0)), None),
    "animation": (holding("image", animated()), None),
    "one pixel": (holding("image", picture(size=(1, 1))), None),
    "a line of pixels": (holding("image", picture(size=(1, 20_000))), None),
    "a bomb of text": (holding("image", text_bomb()), UNREADABLE),
    "a bomb of pixels": (
        holding("image", header_bomb()),
        "image: it has more than N pixels",
    ),
    "no caption": (saying(text=""), "text: the text is empty"),
    "no UTF-8": (not_utf8, "a text is not valid Unicode"),
    "no file": (saying(image="gone.png"), "file ... cannot be read: no such file"),
    "a path up": (elsewhere(absolute=False), OUTSIDE),
    "a path elsewhere": (elsewhere(absolute=True), OUTSIDE),
    "a link": (linked, OUTSIDE),
}
"""What is wrong with a row of pictures, and the reason for which it is skipped, if it is."""

SOUNDS: dict[str, tuple[Make, str | None]] = {
    "a third of a WAV": (
        holding("audio", sound(tone())[:3000]),
        "audio: the sound is truncated, N of N samples are there",
    ),
    "most of a WAV": (holding("audio", sound(tone())[:8000]), None),
    "NaN": (
        holding("audio", sound(np.full(2400, np.nan))),
        "audio: the sound holds NaN or infinite samples",
    ),
    "silence": (
        holding("audio", sound(np.zeros(2400))),
        "audio: the sound is silent, its largest sample is N",
    ),
    "a picture named wav": (holding("audio", picture()), "audio: not a readable sound"),
}
"""The same of sounds."""


def corpus(folder: Path, dirty: bool = True) -> Corpus:
    """Write and open a corpus; without `dirty`, good rows stand for the bad ones."""
    made = Corpus({})
    listed("pictures", 120, PICTURES if dirty else {}, folder / "pictures", made)
    listed("sounds", 40, SOUNDS if dirty else {}, folder / "sounds", made)
    made.sources["tar"], made.bad["tar"] = tarred(folder / "rows.tar", dirty)
    return made


def listed(
    name: str, rows: int, kinds: dict[str, tuple[Make, str | None]], folder: Path, into: Corpus
) -> None:
    """Write rows of files that a JSONL file lists; a row of each kind is spoilt."""
    folder.mkdir(parents=True)
    spoilt = dict(zip(range(1, rows, 6), kinds.values(), strict=False))
    lines, into.bad[name] = [], {}
    for i in range(rows):
        row: Row
        if name == "pictures":
            row, good = {"image": f"{i}.png"}, picture()
        else:
            row, good = {"audio": f"{i}.wav"}, sound(tone(200 + 5 * i))
        (folder / next(iter(row.values()))).write_bytes(good)
        row["text"] = WORDS[i % 8]
        make, reason = spoilt.get(i, (saying(), None))
        line = make(folder, row)
        if reason is not None:
            into.bad[name][i] = reason
        lines.append(json.dumps(row).encode() if line is None else line)
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    into.sources[name] = open_source(folder / "rows.jsonl")


def tarred(path: Path, dirty: bool) -> tuple[Source, dict[int, str]]:
    """Write a tar of 40 samples: one is a link, one is there twice, and the last is cut."""

    def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    end = 0
    with tarfile.open(path, "w") as tar:
        for i in range(38):
            if dirty and i == 37:
                link = tarfile.TarInfo("link.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(link)
                for suffix, data in (("txt", b"again"), ("png", picture())):
                    add(tar, f"4.{suffix}", data)
            add(tar, f"{i}.txt", WORDS[i % 8].encode())
            add(tar, f"{i}.png", picture(size=(64, 64)))
            end = tar.offset
        if not dirty:
            for i in (38, 39):
                add(tar, f"{i}.txt", WORDS[i % 8].encode())
                add(tar, f"{i}.png", picture())
    if not dirty:
        return open_source(path), {}
    with path.open("r+b") as file:
        file.truncate(end - 2048)
    reasons = {37: "file ... is cut off: N of N bytes are there", 38: "... is a link in ..."}
    return open_source(path), reasons | {39: "... is in ... more than once"}
