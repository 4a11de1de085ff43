"""Data that was encoded once: the codes of every picture, with all texts and numbers beside them.

A folder of codes.safetensors (one tensor a field), rows.json and cache.json. It names the codec;
a model with another codec refuses it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from rich.console import Console
from torch import Tensor

from braid import storage
from braid.data.rows import Row, Source
from braid.errors import BraidError
from braid.modalities import conversions
from braid.modalities.codecs import Codec, Codes
from braid.modalities.pictures import convert, fit_to, open_picture
from braid.spaces import Discrete

FILES = ("codes.safetensors", "rows.json", "cache.json")
"""What a cache consists of."""

LOOKED_AT = 256
"""Rows by which it is decided what holds pictures."""


class Cached(Source):
    """Rows of an encoded data set; pictures are `Codes`."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write` made."""
        header = storage.read_json(folder / "cache.json")
        self.name, self.fingerprint = folder.name, header["codec"]
        self.fields = tuple(header["fields"])
        self._codes = storage.read_tensors(folder / "codes.safetensors")
        self._rows = storage.read_json(folder / "rows.json")["rows"]
        self.encoded = {field: str(self.fingerprint) for field in self._codes}
        short = [f for f, x in self._codes.items() if len(x) != len(self._rows)]
        if short or len(self._rows) != header["rows"]:
            raise BraidError(f"{str(folder)!r} is incomplete; encode the data again")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Row:
        codes = {f: Codes(_wide(x[i]), self.fingerprint) for f, x in self._codes.items()}
        return self._rows[i] | codes


def _wide(codes: Tensor) -> Tensor:
    return codes if codes.is_floating_point() else codes.long()


def write(
    codec: Codec,
    source: Source,
    out: Path,
    size: int = 32,
    limit: int | None = None,
    console: Console | None = None,
) -> Path:
    """Encode the pictures of a source in batches.

    What holds a picture in one of the first LOOKED_AT rows is encoded. Rows that cannot be read, or
    that lack one of these pictures, are left out, and counted in cache.json. Fields other than
    pictures, texts and numbers are left out too, and named on the console.

    Args:
        codec: what encodes.
        source: rows; every field that holds pictures is encoded.
        out: folder to write.
        size: side of the pictures in pixels.
        limit: encode only so many rows.
        console: where progress is printed.

    Raises:
        BraidError: there are no pictures, or a later row has one in a further field, which would be
            lost.
    """
    if codec.medium != "image":
        raise BraidError("only pictures are encoded beforehand; sound is encoded as it is read")
    rows: list[dict[str, Any]] = []
    codes: dict[str, list[Tensor]] = {}
    waiting: list[dict[str, Tensor]] = []
    converted: dict[str, Counter[str]] = defaultdict(Counter)
    skipped = 0
    total = min(limit or len(source), len(source))

    pictures = _picture_fields(source, total)
    symbols = codec.space.size if isinstance(codec.space, Discrete) else 0
    kind = torch.int16 if 0 < symbols <= 1 << 15 else torch.int32 if symbols else torch.float32

    def flush() -> None:
        for field in pictures if waiting else ():
            media = torch.stack([w[field] for w in waiting])
            codes.setdefault(field, []).extend(codec.encode(media).to(kind).unbind())
        waiting.clear()

    for i in range(total):
        try:
            row = source[i]
            media = {f: _pixels(row.get(f), codec, size, converted[f]) for f in pictures}
        except (BraidError, OSError):
            skipped += 1
            continue
        further = [f for f, v in row.items() if f not in media and _is_picture(f, v)]
        if further:
            raise BraidError(
                f"{source.describe(i)} holds a picture in {further[0]!r}, and none of the first "
                f"{LOOKED_AT} rows does; put a row that has all pictures first, or encode data "
                "without this column"
            )
        waiting.append(media)
        rows.append({f: v for f, v in row.items() if isinstance(v, str | int | float)})
        if len(waiting) == 64:
            flush()
        if console is not None and (i + 1) % 5000 == 0:
            console.print(f"{i + 1} of {total} rows", highlight=False)
    flush()
    if not codes:
        raise BraidError(
            f"{source.name} has no row that can be read and holds a picture in each of "
            f"{', '.join(pictures)}; repair the rows, or encode data without such a column"
        )
    if console is not None:
        for line in conversions(converted):
            console.print(line, highlight=False, soft_wrap=True)
        held = {*codes, *(f for r in rows for f in r)}
        if lost := [f for f in source.fields if f not in held]:
            line = f"left out, as they are no pictures, texts or numbers: {', '.join(lost)}"
            console.print(line, highlight=False, soft_wrap=True)
    return _save(codec, source, out, rows, codes, skipped)


def _picture_fields(source: Source, total: int) -> tuple[str, ...]:
    """Return the fields that hold a picture in one of the first rows, as one may lack some."""
    found = set[str]()
    for i in range(total):
        if found and i >= LOOKED_AT:
            break
        try:
            found |= {f for f, v in source[i].items() if _is_picture(f, v)}
        except (BraidError, OSError):
            continue  # counted when it is encoded
    if not found:
        raise BraidError(f"{source.name} holds no pictures; give data that does")
    return tuple(f for f in source.fields if f in found)


def _save(
    codec: Codec,
    source: Source,
    out: Path,
    rows: list[dict[str, Any]],
    codes: Mapping[str, list[Tensor]],
    skipped: int,
) -> Path:
    header = {
        "codec": codec.fingerprint(),
        "fields": list(dict.fromkeys([*(f for r in rows for f in r), *codes])),
        "rows": len(rows),
        "skipped": skipped,
        "source": source.name,
    }
    tensors = {f: torch.stack(x) for f, x in codes.items()}
    storage.save(out, {"codes": tensors}, {"cache": header, "rows": {"rows": rows}})
    return out


def _is_picture(field: str, value: object) -> bool:
    if isinstance(value, Mapping):
        there = value.get("bytes") is not None or value.get("path") is not None
        return field != "audio" and there
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim in (2, 3)
    return isinstance(value, PIL.Image)


def _pixels(value: Any, codec: Codec, size: int, converted: Counter[str]) -> Tensor:
    def note(done: str) -> None:
        converted[done] += 1

    picture = convert(open_picture(value), codec.channels, note=note)
    picture = fit_to(picture, (size, size), resize=True)
    pixels = torch.from_numpy(np.array(picture)).view(size, size, codec.channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
