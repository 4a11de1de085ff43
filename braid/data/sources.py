"""Where examples come from: raw rows of named values; bad rows are skipped and counted.

`open_source` reads files, folders and the Hugging Face Hub; `Checked` encodes the rows of a source.
"""

from __future__ import annotations

import bisect
import csv
import glob
import importlib
import json
import os
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Generic, TypeVar

import numpy as np

from braid.errors import BraidError, unknown

T = TypeVar("T")

Row = dict[str, Any]
"""Field to raw value: a picture or sound as {"bytes": ...} or an array, a text, a label."""

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

MEMORY_BYTES = 1 << 30
"""Parquet files that take more, together, are mapped from the cache of `datasets` instead."""

PARAGRAPH = 1000
"""Longest document that is cut out of a text file, in characters."""

_MEDIA = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".pgm", ".ppm"), "image"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg"), "audio"),
}
_TEXT_COLUMNS = ("caption", "text", "prompt", "label", "label_name")
_SPLITS = ("train", "test", "validation", "valid", "val", "dev")


class Source:
    """Base of all sources: rows by number. Reads from several threads are safe.

    Attributes:
        name: short name for messages.
        fields: what each row holds, such as ("image", "text"); a value that is absent is None.
    """

    name: str
    fields: tuple[str, ...]

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, i: int) -> Row:
        """Return the raw row; BraidError or OSError if this one row cannot be read."""
        raise NotImplementedError

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
        self._length = _filled(name, next(iter(lengths.values())))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        return {field: values[i] for field, values in self._columns.items()}


def digits(split: str) -> Source:
    """Return scikit-learn's handwritten digits: image uint8 [8, 8], text ("seven"), label (7).

    The split is fixed: "test" holds 297 of the 1797 rows, each digit in proportion (largest
    remainders), drawn digit by digit from numpy's `RandomState(0)`; "train" holds the other 1500.
    Rows keep the order of the original.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    data = _require("sklearn.datasets", "demo").load_digits()
    labels = data.target.astype(int)
    share = np.bincount(labels) * 297 / len(labels)
    quota = np.floor(share).astype(int)
    quota[np.argsort(quota - share, kind="stable")[: 297 - quota.sum()]] += 1
    rng = np.random.RandomState(0)  # its stream is frozen; that of default_rng may change
    test = np.zeros(len(labels), dtype=bool)
    for digit, most in enumerate(quota):
        test[rng.permutation(np.flatnonzero(labels == digit))[:most]] = True
    keep = np.flatnonzero(test == (split == "test"))
    pictures = np.rint(data.images[keep] * 255 / 16).astype(np.uint8)  # levels 0..16
    known = [int(label) for label in labels[keep]]
    columns = {"image": list(pictures), "text": [NUMERALS[n] for n in known], "label": known}
    return Examples(f"digits-{split}", columns)


def open_source(
    path: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
) -> Source:
    """Open data by path, list or glob of paths, or by the id of a dataset on the Hugging Face Hub.

    Args:
        path: one or more files of a kind (.parquet, .arrow, .csv, .tsv, .jsonl, .txt, .tar); a
            folder of pictures with same-stem .txt files, or with a metadata.csv, metadata.jsonl or
            captions.txt that has a column file_name; a folder of Parquet files; a folder that
            `datasets.save_to_disk` wrote; or else an id "owner/name" or "owner/name:config".
            Paths within CSV and JSONL files are relative to the file.
        columns: field to column, such as {"image": "picture", "text": "title"}. Otherwise the one
            column of pictures is "image", of sounds "audio", and "text" is the first of caption,
            text, prompt and label. Class numbers become names, except in the field "label".
        split: which part of a folder or dataset that has several.

    Raises:
        BraidError: nothing there, nothing in it, or it is not plain which column is what.
    """
    if isinstance(path, str) and (dataset := _hub_id(path)):
        return _from_hub(*dataset, columns, split)
    paths = [path] if isinstance(path, str | Path) else list(path)
    files = [file for item in paths for file in _expand(item)]
    if not files:
        raise BraidError(f"data path {path!r} names no file; give at least one")
    if len(files) == 1 and files[0].is_dir():
        return _from_folder(files[0], columns, split)
    if split is not None:
        raise BraidError(f"data path {str(path)!r} has no splits; leave out split {split!r}")
    return _from_files(files, columns)


def _hub_id(path: str) -> tuple[str, str | None] | None:
    """Return id and configuration if this can only be a dataset on the Hub."""
    match = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?", path)
    local = Path(path).exists() or Path(path).parent.is_dir() or Path(path).suffix in _READERS
    return (match[1], match[2]) if match and not local else None


def _expand(path: str | Path) -> list[Path]:
    """Return the path, or what the glob matches, in order of name."""
    here = Path(path).expanduser()
    if here.exists():
        return [here]
    if any(c in str(path) for c in "*?["):
        pattern = str(here)  # may be absolute, which Path.glob refuses
        found = sorted(Path(f) for f in glob.glob(pattern, recursive=True))  # noqa: PTH207
        if found:
            return found
        raise BraidError(f"data path {str(path)!r} matches no file; correct the pattern")
    raise BraidError(
        f"data path {str(path)!r} does not exist; give a file, a folder, a glob, or the id "
        '"owner/name" of a dataset on the Hugging Face Hub'
    )


def _from_files(files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    kinds = {"a folder" if file.is_dir() else file.suffix.lower() for file in files}
    if len(kinds) > 1:
        raise BraidError(
            f"data files are of several kinds, {', '.join(sorted(kinds))}; give files of one kind"
        )
    (kind,) = kinds
    if kind not in _READERS:
        raise unknown("kind of data file", kind or files[0].name, _READERS)
    stems = [file.stem for file in files]
    name = os.path.commonprefix(stems).rstrip("-_.0123456789") if len(stems) > 1 else stems[0]
    return _READERS[kind](name or stems[0], files, columns)


def _from_folder(folder: Path, columns: Mapping[str, str] | None, split: str | None) -> Source:
    if any((folder / f).is_file() for f in ("dataset_dict.json", "state.json")):
        return _from_disk(folder, columns, split)
    parts = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name in _SPLITS]
    if split is not None and (folder / split).is_dir():
        return _from_folder(folder / split, columns, None)
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if tables:
        words = {table: set(re.split(r"[-_.]", table.stem)) for table in tables}
        parts = [part for part in _SPLITS if any(part in found for found in words.values())]
        if split in parts:
            tables, parts = [table for table in tables if split in words[table]], [split]
    if len(parts) > 1 or (split is not None and parts != [split]):
        raise _which_part(str(folder), split, parts)
    return _from_files(tables, columns) if tables else _from_pictures(folder, columns)


def _which_part(path: str, split: str | None, parts: Sequence[str]) -> BraidError:
    if split is None:
        return BraidError(f"{path!r} has the splits {', '.join(parts)}; name one with split")
    if not parts:
        return BraidError(f"data path {path!r} has no splits; leave out split {split!r}")
    return unknown("split", split, parts)


def _filled(name: str, length: int) -> int:
    if length == 0:
        raise BraidError(f"data {name!r} holds no rows; give data with at least one")
    return length


def _unreadable(path: Path, error: Exception) -> BraidError:
    return BraidError(f"{str(path)!r} cannot be read: {error}; write it again or leave it out")


def _not_unicode() -> BraidError:
    return BraidError("a text is not valid Unicode; save it as UTF-8")


def _require(module: str, extra: str) -> ModuleType:
    """Import a library that only some data needs."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        library = module.split(".")[0].replace("sklearn", "scikit-learn")
        raise BraidError(
            f'{library} is not installed; run: pip install "braid-models[{extra}]"'
        ) from e


def _choose(
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


def _kind_of(column: str, value: object) -> str:
    """Return the kind of a column, judging by a value; what ends like a file name is a file."""
    if isinstance(value, str) and column not in _TEXT_COLUMNS:
        return _MEDIA.get(PurePosixPath(value).suffix.lower(), "text")
    if isinstance(value, _File):
        return _MEDIA.get(PurePosixPath(value.name).suffix.lower(), "text")
    return "text" if isinstance(value, str) else "other"


@dataclass(frozen=True)
class _File:
    """A file that is read when its row is: a whole one, or a member of a tar."""

    path: Path
    name: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        try:
            if not self.path.is_file():  # a device or a pipe could block for ever
                raise FileNotFoundError(2, "no such file")
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else e
            raise BraidError(f"file {self.name!r} cannot be read: {why}; restore it") from e


def _from_parquet(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    arrow, parquet = _require("pyarrow", "data"), _require("pyarrow.parquet", "data")
    datasets = _require("datasets", "data")
    large = sum(file.stat().st_size for file in files) > MEMORY_BYTES
    chosen: dict[str, str] = {}
    tables, starts = [], [0]
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                rows = opened.metadata.num_rows
                if rows and not chosen:
                    head = arrow.Table.from_batches([next(opened.iter_batches(batch_size=20))])
                    chosen = _choose(name, _kinds(_dataset([head])), columns)
                used = list(dict.fromkeys(chosen.values()))
                for column in used:
                    if column not in opened.schema_arrow.names:
                        raise BraidError(f"{str(file)!r} has no column {column!r}; leave it out")
                if rows and not large:
                    tables.append(opened.read(columns=used))
        except BraidError:
            raise
        except (OSError, ValueError, arrow.ArrowException) as e:
            raise _unreadable(file, e) from e
        starts.append(starts[-1] + rows)
    _filled(name, starts[-1])
    if large:
        with _quiet(datasets):
            used = list(dict.fromkeys(chosen.values()))
            dataset = datasets.Dataset.from_parquet([str(file) for file in files], columns=used)
    else:
        dataset = _dataset(tables)
    return _Table(name, dataset, chosen, starts[:-1], [file.parent for file in files])


def _from_arrow(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    arrow = _require("pyarrow", "data")
    tables, starts = [], [0]
    for file in files:
        try:
            mapped = arrow.memory_map(str(file))
            whole = mapped.read(6) == b"ARROW1"  # else a stream, as `datasets` writes it
            mapped.seek(0)
            reader = arrow.ipc.open_file(mapped) if whole else arrow.ipc.open_stream(mapped)
            tables.append(reader.read_all())
        except (OSError, ValueError, arrow.ArrowException) as e:
            raise _unreadable(file, e) from e
        starts.append(starts[-1] + len(tables[-1]))
    _filled(name, starts[-1])
    dataset = _dataset(tables)
    chosen = _choose(name, _kinds(dataset), columns)
    return _Table(name, dataset, chosen, starts[:-1], [file.parent for file in files])


def _dataset(tables: Sequence[Any]) -> Any:
    """Return a Dataset over arrow tables."""
    arrow, datasets = _require("pyarrow", "data"), _require("datasets", "data")
    try:
        table = arrow.concat_tables(tables, promote_options="permissive")
    except arrow.ArrowException as e:
        raise BraidError(f"the files differ in their columns: {e}; open them one by one") from e
    try:
        return datasets.Dataset(table)
    except ValueError:  # the features noted in the file are of kinds that this version lacks
        return datasets.Dataset(table.replace_schema_metadata(None))


def _from_disk(folder: Path, columns: Mapping[str, str] | None, split: str | None) -> Source:
    datasets = _require("datasets", "data")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as e:  # the reader fails in many ways; all mean a damaged folder
        raise _unreadable(folder, e) from e
    if split is not None and not isinstance(loaded, dict) and split != str(loaded.split):
        raise _which_part(str(folder), split, [str(loaded.split)] if loaded.split else [])
    return _from_dataset(folder.name, _part(str(folder), loaded, split), columns)


def _from_hub(
    name: str, config: str | None, columns: Mapping[str, str] | None, split: str | None
) -> Source:
    datasets = _require("datasets", "data")
    try:
        with _quiet(datasets):
            loaded = datasets.load_dataset(name, config, split=split)
    except Exception as e:  # whatever the reason, the remedy is the same
        offline = datasets.config.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set and it is not in the cache" if offline else str(e)
        raise BraidError(
            f"data path {name!r} does not exist here, nor can it be loaded from the Hugging Face "
            f"Hub ({why}); correct the path, or go online once"
        ) from e
    return _from_dataset(name, _part(name, loaded, split), columns)


def _part(path: str, loaded: Any, split: str | None) -> Any:
    """Return one Dataset of what may be a dictionary of them."""
    if not isinstance(loaded, dict):
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        raise _which_part(path, split, list(loaded))
    return loaded[split]


# noqa: ANN401
def _from_dataset(name: str, dataset: Any, columns: Mapping[str, str] | None) -> Source:
    _filled(name, len(dataset))
    dataset = dataset.with_format(None)
    return _Table(name, dataset, _choose(name, _kinds(dataset), columns))


def _kinds(dataset: Any) -> dict[str, str]:
    datasets = importlib.import_module("datasets")
    kinds = {}
    for column, feature in dataset.features.items():
        dtype = getattr(feature, "dtype", "")
        if isinstance(feature, datasets.Image | datasets.Audio):
            kinds[column] = "audio" if isinstance(feature, datasets.Audio) else "image"
        elif isinstance(feature, datasets.ClassLabel):
            kinds[column] = "class"
        elif (isinstance(feature, dict) and "bytes" in feature) or "binary" in dtype:
            sound = re.search("audio|sound|speech|wav", column.lower())
            kinds[column] = "audio" if sound else "image"
        elif dtype in ("string", "large_string"):
            kinds[column] = _kind_of(column, _first(dataset.select_columns([column]), column))
        else:
            kinds[column] = "other"
    return kinds


def _first(dataset: Any, column: str) -> str:
    """Return the first text of a column that is not empty, among a few."""
    for i in range(min(len(dataset), 20)):
        try:
            value = dataset[i][column]
        except UnicodeDecodeError:
            continue
        if value:
            return value
    return ""


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """Switch off progress bars for a while: the user did not ask for a conversion."""
    hub = importlib.import_module("huggingface_hub.utils")
    noisy = [m for m in (datasets, hub) if not m.are_progress_bars_disabled()]
    for module in noisy:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for module in noisy:
            module.enable_progress_bars()


class _Table(Source):
    """A Dataset whose files hold rows from `starts` on and lie in `folders`."""

    def __init__(
        self,
        name: str,
        dataset: Any,
        columns: Mapping[str, str],
        starts: Sequence[int] = (0,),
        folders: Sequence[Path] = (Path(),),
    ) -> None:
        self.name, self.fields, self._columns = name, tuple(columns), dict(columns)
        used = list(dict.fromkeys(columns.values()))
        dataset = dataset.select_columns(used)
        for column, feature in list(dataset.features.items()):
            if getattr(feature, "decode", False):  # our own decoders read the bytes
                dataset = dataset.cast_column(column, type(feature)(decode=False))
        self._dataset, kinds = dataset, _kinds(dataset)
        self._media = {column for column in used if kinds[column] in ("image", "audio")}
        self._names = {
            field: self._dataset.features[column].names
            for field, column in columns.items()
            if kinds[column] == "class" and field != "label"
        }
        self._starts, self._folders = list(starts), list(folders)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, i: int) -> Row:
        try:
            row = self._dataset[i]
        except UnicodeDecodeError as e:
            raise _not_unicode() from e
        return {f: self._value(f, row[column], i) for f, column in self._columns.items()}

    def _value(self, field: str, value: Any, i: int) -> Any:
        if field in self._names:
            known = value is not None and value >= 0  # -1 is a class that nobody gave
            return self._names[field][value] if known else None
        if isinstance(value, bytes):
            return {"bytes": value}
        if isinstance(value, dict) and ("bytes" in value or "path" in value):
            if value.get("bytes") is not None:
                return {"bytes": value["bytes"]}
            return self._read(value.get("path"), i)
        if isinstance(value, str) and field != "text" and self._columns[field] in self._media:
            return self._read(value, i)
        return value

    def _read(self, path: str | None, i: int) -> dict[str, bytes] | None:
        if not path:
            return None
        folder = self._folders[bisect.bisect_right(self._starts, i % len(self)) - 1]
        return {"bytes": _File(folder / path, path).read()}


_Record = tuple[Path, "Row | BraidError"]
"""The folder that paths are relative to, and a row by column, or why there is none."""


def _from_csv(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    return _from_records(name, [r for file in files for r in _csv_records(file)], columns)


def _csv_records(file: Path) -> Iterator[_Record]:
    with _opened(file) as lines:
        header = lines.readline()
        lines.seek(0)
        tabs = file.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)
        reader = csv.DictReader(lines, delimiter="\t" if tabs else ",", strict=True)
        try:
            for row in reader:
                row.pop(None, None)  # type: ignore[arg-type]  # cells beyond the header
                yield file.parent, row
        except csv.Error as e:
            raise BraidError(
                f"{str(file)!r} after line {reader.line_num}: {e}; quote cells as in a CSV file"
            ) from e


def _from_jsonl(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
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


def _from_text(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
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
        yield document[start:end].strip()
        start = end
    if document[start:].strip():
        yield document[start:].strip()


def _from_tar(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    members = []
    for file in files:
        try:
            with tarfile.open(file, "r:") as tar:
                found = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
        except (tarfile.TarError, OSError) as e:
            raise BraidError(f"{str(file)!r} is no plain tar ({e}); pack it uncompressed") from e
        members += [_File(file, member, offset, size) for member, offset, size in found]
    return _from_records(name, _paired(members), columns)


def _from_pictures(folder: Path, columns: Mapping[str, str] | None) -> Source:
    """Open a folder of pictures or sounds, with or without captions."""
    if (folder / "metadata.jsonl").is_file():
        records = list(_json_records(folder / "metadata.jsonl"))
    elif (folder / "metadata.csv").is_file():
        records = list(_csv_records(folder / "metadata.csv"))
    elif (folder / "captions.txt").is_file():
        records = list(_caption_records(folder / "captions.txt"))
    else:
        files = [(f.relative_to(folder).as_posix(), f) for f in sorted(folder.rglob("*"))]
        records = _paired([_File(f, name) for name, f in files if f.is_file()])
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
                yield file.parent, {"file_name": name, column: caption.strip('"')}


def _paired(files: Iterable[_File]) -> list[_Record]:
    """Join files of one stem to rows; folders that part the files are their labels."""
    captions: dict[str, _File] = {}
    rows: dict[str, dict[str, Any]] = {}
    for file in files:
        path = PurePosixPath(file.name)
        if any(part.startswith(".") for part in path.parts if part != "."):
            continue  # thumbnails and the like
        stem = f"{file.path if file.size >= 0 else ''}:{path.with_suffix('')}"  # tars stay apart
        field = _MEDIA.get(path.suffix.lower())
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
    # what is no UTF-8 becomes a lone surrogate, for which its row alone is refused
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _from_records(
    name: str, records: Sequence[_Record], columns: Mapping[str, str] | None
) -> Source:
    _filled(name, len(records))
    kinds: dict[str, str] = {}
    for _, row in records:
        for column, value in row.items() if isinstance(row, dict) else ():
            if column not in kinds or (kinds[column] == "other" and value not in (None, "")):
                kinds[column] = _kind_of(column, None if value == "" else value)
    chosen = _choose(name, kinds, columns)
    files = {field for field, c in chosen.items() if kinds[c] in _MEDIA.values()} - {"text"}
    rows: list[Row | BraidError] = []
    for folder, record in records:
        if isinstance(record, BraidError):
            rows.append(record)
            continue
        row = {field: record.get(column) for field, column in chosen.items()}
        for field in files:
            place = row[field]
            if isinstance(place, str):
                row[field] = _File(folder / place, place) if place else None
        rows.append(row)
    return _Records(name, rows, tuple(chosen))


class _Records(Source):
    """Rows of plain values and of files that are read when asked for."""

    def __init__(
        self, name: str, rows: Sequence[Row | BraidError], fields: tuple[str, ...]
    ) -> None:
        self.name, self.fields, self._rows = name, fields, rows
        labels = (row.get("label") for row in rows if isinstance(row, dict))
        # a CSV file writes numbers as text
        self._numbered = all(re.fullmatch(r"\d+|", x) for x in labels if isinstance(x, str))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Row:
        row = self._rows[i]
        if isinstance(row, BraidError):
            raise BraidError(str(row))
        return {field: self._value(field, value) for field, value in row.items()}

    def _value(self, field: str, value: Any) -> Any:
        if isinstance(value, _File):
            data = value.read()
            if field != "text":
                return {"bytes": data}
            value = data.decode("utf-8-sig", errors="surrogateescape").strip()
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as e:  # lone surrogates stand for what could not be read
                raise _not_unicode() from e
        if field == "label" and self._numbered and isinstance(value, str):
            return int(value) if value else None
        return value

    def describe(self, i: int) -> str:
        row = self._rows[i]
        values = row.values() if isinstance(row, dict) else ()
        names = [value.name for value in values if isinstance(value, _File)]
        return f"{self.name} row {i}" + (f" ({names[0]})" if names else "")


_READERS: dict[str, Callable[[str, Sequence[Path], Mapping[str, str] | None], Source]] = {
    ".parquet": _from_parquet,
    ".arrow": _from_arrow,
    ".csv": _from_csv,
    ".tsv": _from_csv,
    ".jsonl": _from_jsonl,
    ".ndjson": _from_jsonl,
    ".txt": _from_text,
    ".tar": _from_tar,
}


class Checked(Generic[T]):
    """Encoded rows of a source; a bad row is counted and the next one taken in its place.

    A row is bad if it cannot be read (BraidError, OSError), lacks a field, or `encode` refuses it
    (BraidError, OSError). Encoded rows are kept while they fit into `cache_bytes`; callers must not
    write into them.

    Attributes:
        skipped: bad rows counted by reason.
        bad: the first bad rows that were met, at most 100, as (index, message).
    """

    most_remembered = 100

    def __init__(
        self,
        source: Source,
        encode: Callable[[Row], T],
        size_of: Callable[[T], int],
        *,
        cache_bytes: int = 256 << 20,
        limit: float | None = None,
        on_skip: Callable[[int, str], None] | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Check the rows of a source.

        Args:
            source: where raw rows come from.
            encode: turns a raw row into what is trained on; deterministic.
            size_of: bytes that an encoded row takes in memory.
            cache_bytes: room for encoded rows.
            limit: share of bad rows beyond which `get` raises; None leaves it to `check_limit`.
            on_skip: called once for every bad row, with its index and what is wrong with it.
            fields: fields that a row must have; all of the source's otherwise.
        """
        self.source = source
        self._encode, self._size_of = encode, size_of
        self._room, self._limit, self.on_skip = cache_bytes, limit, on_skip
        self._fields = tuple(source.fields if fields is None else fields)
        for field in self._fields:
            if field not in source.fields:
                raise unknown(f"field of {source.name}", field, source.fields)
        self._lock = threading.Lock()
        self._cache: dict[int, T] = {}
        self._skip: set[int] = set()
        self._reasons: Counter[str] = Counter()
        self._bad: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.source)

    @property
    def skipped(self) -> dict[str, int]:
        """Return how many rows were bad, by reason, most frequent first."""
        with self._lock:
            return dict(self._reasons.most_common())

    @property
    def bad(self) -> list[tuple[int, str]]:
        """Return the first bad rows that were met, as (index, message)."""
        with self._lock:
            return list(self._bad)

    def get(self, i: int) -> T:
        """Return row i encoded, or the next good one after it; the last is followed by the first.

        Raises:
            BraidError: every row is bad, or more than `limit` allows.
        """
        length = len(self)
        if not 0 <= i < length:
            raise IndexError(f"row {i} of {self.source.name} is out of range 0..{length - 1}")
        for step in range(length):
            index = (i + step) % length
            if index in self._cache:
                return self._cache[index]
            if index in self._skip:
                continue
            try:
                encoded = self._encode(self._complete(self.source[index]))
            except (BraidError, OSError) as e:
                self._refuse(index, e)
            except Exception as e:
                e.add_note(f"while encoding {self.source.describe(index)}")
                raise
            else:
                self._keep(index, encoded)
                return encoded
        raise self._too_many("none could be used; repair the rows")

    def check_limit(self, limit: float) -> None:
        """Raise if more than a share `limit` of the source's rows, and at least one, was bad."""
        with self._lock:
            count = len(self._skip)
        if count > limit * len(self):
            raise self._too_many(
                f"data.bad_limit {limit:g} allows {int(limit * len(self))}; repair the rows or "
                "raise data.bad_limit"
            )

    def _complete(self, row: Row) -> Row:
        for field in self._fields:
            if row.get(field) is None:
                raise BraidError(f"{field}: the value is missing; fill it in or remove the row")
        return row

    def _refuse(self, index: int, error: BraidError | OSError) -> None:
        message = str(error)
        if isinstance(error, OSError):
            message = f"{type(error).__name__}: {error.strerror or error}"
        message = f"{self.source.describe(index)}: {message}"
        with self._lock:
            if index in self._skip:  # another thread was faster
                return
            reason = _reason(error)
            if reason not in self._reasons and len(self._reasons) >= self.most_remembered:
                reason = "other reasons"
            self._skip.add(index)
            self._reasons[reason] += 1
            if len(self._bad) < self.most_remembered:
                self._bad.append((index, message))
        if self.on_skip is not None:
            self.on_skip(index, message)
        if self._limit is not None:
            self.check_limit(self._limit)

    def _keep(self, index: int, encoded: T) -> None:
        size = self._size_of(encoded)
        with self._lock:
            if index not in self._cache and size <= self._room:
                self._cache[index] = encoded
                self._room -= size

    def _too_many(self, remedy: str) -> BraidError:
        with self._lock:
            count, (_, first) = len(self._skip), self._bad[0]
            reasons = [f"{n} x {reason}" for reason, n in self._reasons.most_common(3)]
        return BraidError(
            f"{count} of {len(self)} rows of {self.source.name!r} are bad "
            f"({', '.join(reasons)}; for instance {first}); {remedy}"
        )


def _reason(error: BraidError | OSError) -> str:
    """Return what is wrong without remedy, names and numbers, so that like rows count together."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or 'cannot be read'}"
    text = re.sub(r"(?<!\w)(?:'[^']*'|\"[^\"]*\")", "...", str(error)).split(";")[0]
    while (shorter := re.sub(r"\s*\([^()]*\)", "", text)) != text:
        text = shorter
    return re.sub(r"(?<![-\d])\d+", "N", text)[:120]  # UTF-8 is a name
