"""Where examples come from: raw rows of named values; bad rows are skipped and counted.

`open_source` reads files, folders and the Hugging Face Hub; `Checked` encodes the rows of a source.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from braid.data.cache import Cached
from braid.data.checked import Checked
from braid.data.records import (
    PARAGRAPH,
    from_csv,
    from_jsonl,
    from_pictures,
    from_tar,
    from_text,
)
from braid.data.rows import MEDIA, Examples, Row, Source, require, which_part
from braid.data.tables import MEMORY_BYTES, from_arrow, from_disk, from_hub, from_parquet
from braid.errors import BraidError, unknown

__all__ = [
    "MEMORY_BYTES",
    "NUMERALS",
    "PARAGRAPH",
    "Checked",
    "Examples",
    "Row",
    "Source",
    "digits",
    "open_source",
]

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_SPLITS = ("train", "test", "validation", "valid", "val", "dev")


def digits(split: str) -> Source:
    """Return scikit-learn's handwritten digits: image uint8 [8, 8], text ("seven"), label (7).

    The field caption says "a handwritten seven".

    The split is fixed: "test" holds 297 of the 1797 rows, each digit in proportion (largest
    remainders), drawn digit by digit from numpy's `RandomState(0)`; "train" holds the other 1500.
    Rows keep the order of the original.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    data = require("sklearn.datasets", "demo").load_digits()
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
    names = [NUMERALS[n] for n in known]
    captions = [f"a handwritten {name}" for name in names]
    columns = {"image": list(pictures), "text": names, "label": known, "caption": captions}
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
            `datasets.save_to_disk` or `braid codec encode` wrote; or else an id "owner/name" or
            "owner/name:config".
            Paths within CSV and JSONL files are relative to the file.
        columns: field to column, such as {"image": "picture", "text": "title"}. Otherwise the one
            column of pictures is "image", of sounds "audio", and "text" is the first of caption,
            text, prompt and label. Class numbers become names, except in the field "label".
        split: which part of a folder or dataset that has several.

    Raises:
        BraidError: nothing there, nothing in it, or it is not plain which column is what.
    """
    if isinstance(path, str) and (dataset := _hub_id(path)):
        return from_hub(*dataset, columns, split)
    paths = [path] if isinstance(path, str | Path) else list(path)
    files = [file for item in paths for file in _expand(item)]
    if not files:
        raise BraidError(f"data path {path!r} names no file; give at least one")
    if len(files) == 1 and (files[0] / "cache.json").is_file():
        return _cached(files[0], columns, split)
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


def _cached(folder: Path, columns: Mapping[str, str] | None, split: str | None) -> Source:
    """Open a cache of codes, whose fields were chosen when it was encoded."""
    cache = Cached(folder)
    if split is not None:
        raise which_part(str(folder), split, [])
    for field, column in (columns or {}).items():
        if field != column or field not in cache.fields:
            raise BraidError(
                f"data path {str(folder)!r} holds encoded data with the fields "
                f"{', '.join(cache.fields)}, so {field!r} cannot be read from column {column!r}; "
                "leave out columns"
            )
    return cache


def _from_folder(folder: Path, columns: Mapping[str, str] | None, split: str | None) -> Source:
    if any((folder / f).is_file() for f in ("dataset_dict.json", "state.json")):
        return from_disk(folder, columns, split)
    parts = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name in _SPLITS]
    if split is not None and (folder / split).is_dir():
        return _from_folder(folder / split, columns, None)
    if split is None and len(parts) == 1 and _data_in(folder) == parts:
        return _from_folder(folder / parts[0], columns, None)
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if tables:
        words = {table: set(re.split(r"[-_.]", table.stem)) for table in tables}
        parts = [part for part in _SPLITS if any(part in found for found in words.values())]
        if split in parts:
            tables, parts = [table for table in tables if split in words[table]], [split]
    if len(parts) > 1 or (split is not None and parts != [split]):
        raise which_part(str(folder), split, parts)
    return _from_files(tables, columns) if tables else from_pictures(folder, columns)


def _data_in(folder: Path) -> list[str]:
    """Return the names of folders and data files, without hidden ones and such as a README."""
    kinds = {*MEDIA, *_READERS}
    shown = (p for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    return [p.name for p in shown if p.is_dir() or p.suffix.lower() in kinds]


_READERS: dict[str, Callable[[str, Sequence[Path], Mapping[str, str] | None], Source]] = {
    ".parquet": from_parquet,
    ".arrow": from_arrow,
    ".csv": from_csv,
    ".tsv": from_csv,
    ".jsonl": from_jsonl,
    ".ndjson": from_jsonl,
    ".txt": from_text,
    ".tar": from_tar,
}
