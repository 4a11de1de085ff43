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

    Rows that cannot be read, or that lack a picture where the first good row has one, are left out,
    and counted in cache.json. Fields other than pictures, texts and numbers are left out too.

    Args:
        codec: what encodes.
        source: rows; every field that holds a picture is encoded.
        out: folder to write.
        size: side of the pictures in pixels.
        limit: encode only so many rows.
        console: where progress is printed.
    """
    if codec.medium != "image":
        raise BraidError("only pictures are encoded beforehand; sound is encoded as it is read")
    rows: list[dict[str, Any]] = []
    codes: dict[str, list[Tensor]] = {}
    waiting: list[dict[str, Tensor]] = []
    converted: dict[str, Counter[str]] = defaultdict(Counter)
    skipped = 0
    total = min(limit or len(source), len(source))

    pictures: tuple[str, ...] = ()
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
            pictures = pictures or tuple(f for f, v in row.items() if _is_picture(f, v))
            media = {f: _pixels(row.get(f), codec, size, converted[f]) for f in pictures}
        except (BraidError, OSError):
            skipped += 1
            continue
        if not pictures:
            skipped += 1
            continue
        waiting.append(media)
        rows.append({f: v for f, v in row.items() if isinstance(v, str | int | float)})
        if len(waiting) == 64:
            flush()
        if console is not None and (i + 1) % 5000 == 0:
            console.print(f"{i + 1} of {total} rows", highlight=False)
    flush()
    if not codes:
        raise BraidError(f"{source.name} holds no pictures")
    if console is not None:
        for line in conversions(converted):
            console.print(line, highlight=False, soft_wrap=True)
    return _save(codec, source, out, rows, codes, skipped)


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
        return field != "audio" and ("bytes" in value or "path" in value)
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
