"""Sources that are read row by row: CSV, JSON lines, text files, tars, folders of pictures."""

from __future__ import annotations

import codecs
import csv
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from braid.data.rows import (
    MEDIA,
    File,
    Row,
    Source,
    choose,
    filled,
    kind_of,
    media_fields,
    not_unicode,
)
from braid.errors import BraidError

PARAGRAPH = 1000
"""Longest document that is cut out of a text file, in characters."""

_LONGEST_CELL = 2**31 - 1
"""Characters of a cell of a CSV file; the reader counts no further on every system."""

_Record = tuple[Path, "Row | BraidError"]
"""The folder that paths are relative to, and a row by column, or why there is none."""


def from_csv(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open CSV or TSV files, whose first line names the columns."""
    return _from_records(name, [r for file in files for r in _csv_records(file)], columns)


def _csv_records(file: Path) -> Iterator[_Record]:
    with _opened(file) as lines:
        header = lines.readline()
        lines.seek(0)
        tabs = file.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)
        reader = csv.DictReader(lines, delimiter="\t" if tabs else ",", strict=True)
        before = csv.field_size_limit(_LONGEST_CELL)  # of the whole process, as there is no other
        try:
            _check_names(file, reader.fieldnames)
            for row in reader:
                if row.pop(None, None) is None:  # type: ignore[arg-type]
                    yield file.parent, row
                    continue
                beyond = BraidError(
                    "a line has more cells than the first line names; quote cells with commas"
                )
                yield file.parent, beyond
        except csv.Error as e:
            raise BraidError(
                f"{str(file)!r} after line {reader.line_num}: {e}; quote cells as in a CSV file"
            ) from e
        finally:
            csv.field_size_limit(before)


def _check_names(file: Path, names: Sequence[str] | None) -> None:
    """Refuse a header by which columns could not be told apart; an empty file has none."""
    if names is not None and not any(names):
        raise BraidError(f"{str(file)!r} names no columns in its first line; write them there")
    for column, times in Counter(names or ()).items():
        if column and times > 1:
            raise BraidError(f"{str(file)!r} has {times} columns {column!r}; rename all but one")


def from_jsonl(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open files of one JSON object a line."""
    return _from_records(name, [r for file in files for r in _json_records(file)], columns)


def _json_records(file: Path) -> Iterator[_Record]:
    with _opened(file) as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                row = BraidError("a line is not a JSON object; write one object a line")
            yield file.parent, row


def from_text(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open text files; blank lines part documents."""
    records: list[_Record] = []
    for file in files:
        with _opened(file) as lines:
            whole = lines.read().replace("\r\n", "\n")
        documents = (part.strip() for part in re.split(r"\n[^\S\n]*\n", whole))
        pieces = (piece for document in documents for piece in _cut(document))
        records += [(file.parent, {"text": piece}) for piece in pieces]
    return _from_records(name, records, columns)


def _cut(document: str) -> Iterator[str]:
    """Cut a document at ends of lines, else between words, into pieces of at most PARAGRAPH."""
    start, stop = 0, len(document)
    while stop - start > PARAGRAPH:
        least, most = start + PARAGRAPH // 2, start + PARAGRAPH
        ends = (document.rfind(mark, least, most) for mark in ("\n", " "))
        end = next((end for end in ends if end > 0), most)
        if piece := document[start:end].strip():  # there may be a page of spaces
            yield piece
        start = end
    if piece := document[start:].strip():
        yield piece


def from_tar(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open uncompressed tars of pictures or sounds and same-stem texts.

    Their headers are read once, for where each member lies; the members are, when their row is.
    """
    members: list[File] = []
    lost: list[BraidError] = []
    for file in files:
        try:
            found, errors = _members(file)
        except (tarfile.TarError, OSError) as e:
            raise BraidError(f"{str(file)!r} is no plain tar ({e}); pack it uncompressed") from e
        members += found
        lost += errors
    return _from_records(name, [*_paired(members), *((Path(), e) for e in lost)], columns)


def _members(file: Path) -> tuple[list[File], list[BraidError]]:
    """Return the members of a tar, and an error for each sample that is lost."""
    members: dict[str, File] = {}
    bad: list[BraidError] = []
    again: dict[str, Counter[str]] = defaultdict(Counter)
    cut = False
    with tarfile.open(file, "r:") as tar:
        try:
            for member in tar:
                name, medium = member.name, PurePosixPath(member.name).suffix.lower() in MEDIA
                if (member.issym() or member.islnk()) and medium:
                    bad.append(BraidError(f"{name!r} is a link in {str(file)!r}; pack the file"))
                elif member.isreg() and name in members:
                    again[str(PurePosixPath(name).with_suffix(""))][name] += 1
                elif member.isreg():
                    members[name] = File(file, name, member.offset_data, member.size)
        except tarfile.ReadError:  # it ends within the last member
            cut = True
        size = file.stat().st_size
        with file.open("rb") as raw:
            raw.seek(tar.offset)
            cut = cut or bool(raw.read(tarfile.BLOCKSIZE).strip(b"\0"))
    for stem, names in again.items():
        why = f"{stem!r} is in {str(file)!r} more than once; give each sample its own name"
        bad += [BraidError(why)] * max(names.values())
    if cut and not any(m.offset + m.size > size for m in members.values()):  # else its row tells
        bad.append(BraidError(f"{str(file)!r} is cut off or damaged; restore it"))
    return list(members.values()), bad


def from_pictures(folder: Path, columns: Mapping[str, str] | None) -> Source:
    """Open a folder of pictures or sounds, with or without captions."""
    if (folder / "metadata.jsonl").is_file():
        records = list(_json_records(folder / "metadata.jsonl"))
    elif (folder / "metadata.csv").is_file():
        records = list(_csv_records(folder / "metadata.csv"))
    elif (folder / "captions.txt").is_file():
        records = list(_caption_records(folder / "captions.txt"))
    else:
        files = [(f.relative_to(folder).as_posix(), f) for f in sorted(folder.rglob("*"))]
        there = [(f, name) for name, f in files if f.is_file() or f.is_symlink()]
        records = _paired([File(f, name, folder=folder) for f, name in there])
        if not records:
            raise BraidError(
                f"data path {str(folder)!r} holds neither pictures, sounds nor Parquet files; "
                "give the folder that does"
            )
    return _from_records(folder.name, records, columns)


def _caption_records(file: Path) -> Iterator[_Record]:
    """Read lines "name, caption", parted by a tab or else the first comma; a header is optional."""
    column = "text"
    with _opened(file) as lines:
        for number, line in enumerate(lines):
            mark = "\t" if "\t" in line else ","
            name, _, caption = (cell.strip() for cell in line.partition(mark))
            if number == 0 and not PurePosixPath(name).suffix:
                column = caption or column
            elif name:
                yield file.parent, {"file_name": name, column: _unquoted(caption)}


def _unquoted(caption: str) -> str:
    """Return a caption without the quotes of a CSV cell; all others are its own."""
    inner = caption[1:-1]
    if caption == f'"{inner}"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return caption


def _paired(files: Iterable[File]) -> list[_Record]:
    """Join files of one stem to rows; folders that part the files are their labels."""
    captions: dict[str, File] = {}
    rows: dict[str, dict[str, Any]] = {}
    for file in files:
        path = PurePosixPath(file.name)
        if any(part.startswith(".") for part in path.parts if part not in (".", "..")):
            continue  # thumbnails and the like
        stem = f"{file.path if file.size >= 0 else ''}:{path.with_suffix('')}"  # tars stay apart
        field = MEDIA.get(path.suffix.lower())
        if path.suffix.lower() == ".txt":
            captions[stem] = file
        elif field is not None:
            key = f"{stem}{path.suffix}" if field in rows.get(stem, {}) else stem
            rows.setdefault(key, {"stem": stem, "label": path.parent.name})[field] = file
    stems = [row.pop("stem") for row in rows.values()]
    labels = {row["label"] for row in rows.values()}
    for stem, row in zip(stems, rows.values(), strict=True):
        if captions:
            row["text"] = captions.get(stem)
        if len(labels) < 2 or "" in labels:
            del row["label"]
    return [(Path(), row) for row in rows.values()]


def _opened(file: Path) -> Any:
    with file.open("rb") as raw:
        if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise BraidError(f"{str(file)!r} is in UTF-16; save it as UTF-8")
    # what is no UTF-8 becomes a lone surrogate, for which its row alone is refused
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _from_records(
    name: str, records: Sequence[_Record], columns: Mapping[str, str] | None
) -> Source:
    filled(name, len(records))
    errors = [row for _, row in records if isinstance(row, BraidError)]
    if len(errors) == len(records):
        raise BraidError(f"data {name!r} has no row that can be read: {errors[0]}")
    kinds: dict[str, str] = {}
    for _, row in records:
        for column, value in row.items() if isinstance(row, dict) else ():
            if column not in kinds or (kinds[column] == "other" and value not in (None, "")):
                kinds[column] = kind_of(column, None if value == "" else value)
    chosen = choose(name, kinds, columns)
    files = media_fields(chosen, kinds)
    rows: list[Row | BraidError] = []
    for folder, record in records:
        if isinstance(record, BraidError):
            rows.append(record)
            continue
        row = {field: record.get(column) for field, column in chosen.items()}
        for field, value in row.items():
            if field != "text" and _is_cell(value):
                row[field] = _file(value.get("path"), folder)
            elif field in files and isinstance(value, str):
                row[field] = _file(value, folder)
        rows.append(row)
    return _Records(name, rows, tuple(chosen))


def _is_cell(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a value is a cell of a medium that names a file."""
    if not isinstance(value, dict) or value.get("array") is not None:
        return False
    return "path" in value or "bytes" in value


def _file(place: object, folder: Path) -> File | None:
    """Return the file that a row names; what is no path is missing, as JSON has no bytes."""
    if not isinstance(place, str) or not place:
        return None
    return File(folder / place, place, folder=folder)


class _Records(Source):
    """Rows of plain values and of files that are read when asked for."""

    def __init__(
        self, name: str, rows: Sequence[Row | BraidError], fields: tuple[str, ...]
    ) -> None:
        self.name, self.fields, self._rows = name, fields, rows
        labels = (row.get("label") for row in rows if isinstance(row, dict))
        # a CSV file writes numbers as text; longer ones number no class
        self._numbered = all(re.fullmatch(r"\d{0,18}", x) for x in labels if isinstance(x, str))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Row:
        return {field: self._value(field, value) for field, value in self._row(i).items()}

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row; no other file is read."""
        return self._value(field, self._row(i)[field])

    def _row(self, i: int) -> Row:
        row = self._rows[i]
        if isinstance(row, BraidError):
            raise BraidError(str(row))
        return row

    def _value(self, field: str, value: Any) -> Any:
        if isinstance(value, File):
            data = value.read()
            if field != "text":
                return {"bytes": data}
            value = data.decode("utf-8-sig", errors="surrogateescape").strip()
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as e:  # lone surrogates stand for what could not be read
                raise not_unicode() from e
        if field == "label" and self._numbered and isinstance(value, str):
            return int(value) if value else None
        return value

    def describe(self, i: int) -> str:
        row = self._rows[i]
        values = row.values() if isinstance(row, dict) else ()
        names = [value.name for value in values if isinstance(value, File)]
        return f"{self.name} row {i}" + (f" ({names[0]})" if names else "")
