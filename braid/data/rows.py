"""What every source shares: raw rows, files read on demand, and which column is which field."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from braid.errors import BraidError, unknown

Row = dict[str, Any]
"""Field to raw value: a picture or sound as {"bytes": ...} or an array, a text, a label."""

MEDIA = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".pgm", ".ppm"), "image"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg"), "audio"),
}
_TEXT_COLUMNS = ("caption", "text", "prompt", "label", "label_name")


class Source:
    """Base of all sources: rows by number. Reads from several threads are safe.

    Attributes:
        name: short name for messages.
        fields: what each row holds, such as ("image", "text"); a value that is absent is None.
        encoded: field -> fingerprint of the codec that encoded it beforehand.
    """

    name: str
    fields: tuple[str, ...]
    encoded: Mapping[str, str] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, i: int) -> Row:
        """Return the raw row; BraidError or OSError if this one row cannot be read."""
        raise NotImplementedError

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row, where possible without reading the others."""
        return self[i].get(field)

    def describe(self, i: int) -> str:
        """Return words by which a user finds the row."""
        return f"{self.name} row {i}"


class Examples(Source):
    """Rows held in memory."""

    def __init__(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Make a source of columns of equal length."""
        lengths = {field: len(values) for field, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise BraidError(
                f"{name}: columns have lengths {lengths}; give one value a row in each"
            )
        self.name, self.fields = name, tuple(columns)
        self._columns = dict(columns)
        self._length = filled(name, next(iter(lengths.values())))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        return {field: values[i] for field, values in self._columns.items()}

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row."""
        return self._columns[field][i]


MOST_BYTES = 2 << 30
"""Largest file that is read; it has to fit into memory."""


@dataclass(frozen=True)
class File:
    """A file that is read when its row is: a whole one, or a member of a tar.

    Attributes:
        path: the file.
        name: what the data calls it.
        offset: where it begins in the file.
        size: its bytes; -1 for all that follow.
        folder: where it has to lie, since the data names it; None for wherever it is.
    """

    path: Path
    name: str
    offset: int = 0
    size: int = -1
    folder: Path | None = None

    def read(self) -> bytes:
        """Return the bytes; BraidError if they cannot be read."""
        try:
            if self.folder is not None and not _within(self.path, self.folder):
                raise BraidError(
                    f"file {self.name!r} lies outside the folder of its data; move it there"
                )
            if not self.path.is_file():  # a device or a pipe could block for ever
                raise FileNotFoundError(2, "no such file")
            with self.path.open("rb") as file:
                wanted = self.size if self.size >= 0 else os.fstat(file.fileno()).st_size
                if wanted > MOST_BYTES:
                    raise BraidError(
                        f"file {self.name!r} has {wanted} bytes, more than {MOST_BYTES}; cut it"
                    )
                file.seek(self.offset)
                data = file.read(wanted)
        except BraidError:
            raise
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else e
            raise BraidError(f"file {self.name!r} cannot be read: {why}; restore it") from e
        if len(data) < wanted:
            raise BraidError(
                f"file {self.name!r} is cut off: {len(data)} of {wanted} bytes are there; restore "
                "it"
            )
        return data


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path leads into a folder.

    Folders that are links are followed, as whoever laid out the data made them; a file that is a
    link must not lead out, except to the blobs of the Hugging Face cache beside its snapshots.
    """
    here = Path(os.path.abspath(folder))  # noqa: PTH100  # resolve() would follow links
    if not Path(os.path.abspath(path)).is_relative_to(here) and not _really(path, folder):  # noqa: PTH100
        return False
    if not path.is_symlink():
        return True
    snapshot = next((p for p in (here, *here.parents) if p.parent.name == "snapshots"), None)
    blobs = [] if snapshot is None else [snapshot.parent.parent / "blobs"]
    return any(_really(path, allowed) for allowed in (folder, *blobs))


def _really(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def choose(
    name: str, kinds: Mapping[str, str], columns: Mapping[str, str] | None
) -> dict[str, str]:
    """Return field to column; `kinds` says of each column: image, audio, text, class or other."""
    if columns:
        alias = {"image": "file_name"} if "image" not in kinds and "file_name" in kinds else {}
        chosen = {field: alias.get(column, column) for field, column in columns.items()}
        for column in chosen.values():
            if column not in kinds:
                raise unknown("column", column, kinds)
        return chosen
    found = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    hint = f'columns found: {found}; say which with columns, such as {{"text": "title"}}'
    chosen = {}
    for field in ("image", "audio"):
        candidates = [column for column, kind in kinds.items() if kind == field]
        if len(candidates) > 1:
            raise BraidError(f"data {name!r} has {len(candidates)} columns of {field}; {hint}")
        if candidates:
            chosen[field] = candidates[0]
    words = [column for column, kind in kinds.items() if kind in ("text", "class")]
    text = next((column for column in _TEXT_COLUMNS if column in words), None)
    if text is not None:
        chosen["text"] = text
    elif words or not chosen:
        raise BraidError(f"data {name!r}: it is not plain which column is the text; {hint}")
    return chosen


def kind_of(column: str, value: object) -> str:
    """Return the kind of a column, judging by a value; what ends like a file name is a file."""
    if isinstance(value, str) and column not in _TEXT_COLUMNS:
        return MEDIA.get(PurePosixPath(value).suffix.lower(), "text")
    if isinstance(value, File):
        return MEDIA.get(PurePosixPath(value.name).suffix.lower(), "text")
    return "text" if isinstance(value, str) else "other"


def media_fields(columns: Mapping[str, str], kinds: Mapping[str, str]) -> set[str]:
    """Return the fields whose texts are paths of files.

    A kind is judged by the first value, which may end in a suffix that is not known; what a user
    calls image or audio names files all the same.
    """
    media = set(MEDIA.values())
    return {f for f, c in columns.items() if f in media or kinds[c] in media} - {"text"}


def which_part(path: str, split: str | None, parts: Sequence[str]) -> BraidError:
    """Return the error of a split that is missing or unknown."""
    if split is None:
        return BraidError(f"{path!r} has the splits {', '.join(parts)}; name one with split")
    if not parts:
        return BraidError(f"data path {path!r} has no splits; leave out split {split!r}")
    return unknown("split", split, parts)


def filled(name: str, length: int) -> int:
    """Return the length, which must not be 0."""
    if length == 0:
        raise BraidError(f"data {name!r} holds no rows; give data with at least one")
    return length


def need_fields(source: Source, fields: Sequence[str], suite: str) -> None:
    """Refuse a source that lacks a field of an evaluation suite."""
    for field in fields:
        if field not in source.fields:
            raise BraidError(
                f"the suite {suite} needs the field {field!r}, {source.name} has "
                f"{', '.join(source.fields)}; give data with it, or another suite"
            )


def unreadable(path: Path, error: Exception) -> BraidError:
    """Return the error of a file or folder that is damaged."""
    return BraidError(f"{str(path)!r} cannot be read: {error}; write it again or leave it out")


def not_unicode() -> BraidError:
    """Return the error of a text that is not valid Unicode."""
    return BraidError("a text is not valid Unicode; save it as UTF-8")


def require(module: str, extra: str) -> ModuleType:
    """Import a library that only some data needs."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        library = module.split(".")[0].replace("sklearn", "scikit-learn")
        raise BraidError(
            f'{library} is not installed; run: pip install "braid-models[{extra}]"'
        ) from e
