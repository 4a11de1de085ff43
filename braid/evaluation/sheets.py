"""Panels of an evaluation as picture files, for papers and pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from braid.errors import BraidError

Rows = Sequence[Sequence[tuple[str, Image.Image]]]

SIDE = 96
"""Pixels that the longer edge of a picture has at least; small ones are enlarged by whole steps."""

_GAP, _LINE, _MOST_LINES = 8, 13, 4


def save(folder: Path, panels: Mapping[str, Rows]) -> list[Path]:
    """Write each panel to FOLDER/TITLE.png, with its title in lower case; return the paths.

    All PNG files of the folder are removed first, so that it never shows two evaluations.

    Raises:
        BraidError: two titles make the same file.
    """
    shown = {title: rows for title, rows in panels.items() if any(rows)}
    paths = [folder / f"{file_name(title)}.png" for title in shown]
    twice = sorted({p.name for p in paths if paths.count(p) > 1})
    if twice:
        raise BraidError(f"two panels would be written to {twice[0]!r}; give them other titles")
    for old in folder.glob("*.png"):
        old.unlink()
    if shown:
        folder.mkdir(parents=True, exist_ok=True)
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    for path, rows in zip(paths, shown.values(), strict=True):
        sheet(rows).save(path)
    return paths


def file_name(title: str) -> str:
    """Return a title as the name of a file: words in lower case, joined by "-"."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def sheet(rows: Rows) -> Image.Image:
    """Return rows of (caption, picture) as one picture, each caption below its picture."""
    font = ImageFont.load_default(10)
    cells = [[(_wrap(caption, font), _enlarge(p)) for caption, p in row] for row in rows if row]
    wide = max(p.width for row in cells for _, p in row) + _GAP
    tall = [max(p.height + _LINE * len(t) for t, p in row) + _GAP for row in cells]
    out = Image.new("RGB", (wide * max(map(len, cells)) + _GAP, sum(tall) + _GAP), "white")
    pen, y = ImageDraw.Draw(out), _GAP
    for row, height in zip(cells, tall, strict=True):
        for column, (lines, picture) in enumerate(row):
            x = _GAP + column * wide
            out.paste(picture, (x, y))
            for i, line in enumerate(lines):
                pen.text((x, y + picture.height + i * _LINE), line, "black", font)
        y += height
    return out


def _enlarge(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, repeated in whole steps until an edge is SIDE long."""
    times = max(1, -(-SIDE // max(picture.size)))
    size = picture.width * times, picture.height * times
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _wrap(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a caption into lines as wide as a picture; what is too long ends in dots."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > SIDE:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]} ..."]
    return lines
