"""Sources that are tables: Parquet and Arrow files, and datasets on disk or on the Hub."""

from __future__ import annotations

import bisect
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from braid.data.rows import (
    File,
    Row,
    Source,
    choose,
    filled,
    kind_of,
    media_fields,
    not_unicode,
    require,
    unreadable,
    which_part,
)
from braid.errors import BraidError

MEMORY_BYTES = 1 << 30
"""Parquet files that take more, together, are mapped from the cache of `datasets` instead."""


def from_parquet(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open Parquet files, in memory unless they take more than MEMORY_BYTES."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    datasets = require("datasets", "data")
    large = sum(file.stat().st_size for file in files) > MEMORY_BYTES
    chosen: dict[str, str] = {}
    tables, starts = [], [0]
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                rows = opened.metadata.num_rows
                if rows and not chosen:
                    head = arrow.Table.from_batches([next(opened.iter_batches(batch_size=20))])
                    chosen = choose(name, _kinds(_dataset([head])), columns)
                used = list(dict.fromkeys(chosen.values()))
                for column in used:
                    if column not in opened.schema_arrow.names:
                        raise BraidError(f"{str(file)!r} has no column {column!r}; leave it out")
                if rows and not large:
                    tables.append(opened.read(columns=used))
        except BraidError:
            raise
        except (OSError, ValueError, arrow.ArrowException) as e:
            raise unreadable(file, e) from e
        starts.append(starts[-1] + rows)
    filled(name, starts[-1])
    if large:
        with _quiet(datasets):
            used = list(dict.fromkeys(chosen.values()))
            dataset = datasets.Dataset.from_parquet([str(file) for file in files], columns=used)
    else:
        dataset = _dataset(tables)
    return _Table(name, dataset, chosen, starts[:-1], [file.parent for file in files])


def from_arrow(name: str, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    """Open Arrow files or streams, mapped from disk."""
    arrow = require("pyarrow", "data")
    tables, starts = [], [0]
    for file in files:
        try:
            mapped = arrow.memory_map(str(file))
            whole = mapped.read(6) == b"ARROW1"  # else a stream, as `datasets` writes it
            mapped.seek(0)
            reader = arrow.ipc.open_file(mapped) if whole else arrow.ipc.open_stream(mapped)
            tables.append(reader.read_all())
        except (OSError, ValueError, arrow.ArrowException) as e:
            raise unreadable(file, e) from e
        starts.append(starts[-1] + len(tables[-1]))
    filled(name, starts[-1])
    dataset = _dataset(tables)
    chosen = choose(name, _kinds(dataset), columns)
    return _Table(name, dataset, chosen, starts[:-1], [file.parent for file in files])


def _dataset(tables: Sequence[Any]) -> Any:
    """Return a Dataset over arrow tables."""
    arrow, datasets = require("pyarrow", "data"), require("datasets", "data")
    try:
        table = arrow.concat_tables(tables, promote_options="permissive")
    except arrow.ArrowException as e:
        raise BraidError(f"the files differ in their columns: {e}; open them one by one") from e
    name = "rows"  # it would else be a hash of all data, which is read and copied for it
    try:
        return datasets.Dataset(table, fingerprint=name)
    except ValueError:  # the features noted in the file are of kinds that this version lacks
        table = table.replace_schema_metadata(None)
        known = [column.name for column in table.schema if _known(column)]
        return datasets.Dataset(table.select(known), fingerprint=name)


def _known(column: Any) -> bool:
    """Return whether `datasets` can hold a column; maps, for instance, it cannot."""
    arrow, datasets = require("pyarrow", "data"), require("datasets", "data")
    try:
        datasets.Features.from_arrow_schema(arrow.schema([column]))
    except ValueError:
        return False
    return True


def from_disk(folder: Path, columns: Mapping[str, str] | None, split: str | None) -> Source:
    """Open a folder that `datasets.save_to_disk` wrote."""
    datasets = require("datasets", "data")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as e:  # the reader fails in many ways; all mean a damaged folder
        raise unreadable(folder, e) from e
    if split is not None and not isinstance(loaded, dict) and split != str(loaded.split):
        raise which_part(str(folder), split, [str(loaded.split)] if loaded.split else [])
    return _from_dataset(folder.name, _part(str(folder), loaded, split), columns)


def from_hub(
    name: str, config: str | None, columns: Mapping[str, str] | None, split: str | None
) -> Source:
    """Open a dataset on the Hugging Face Hub."""
    datasets = require("datasets", "data")
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
        raise which_part(path, split, list(loaded))
    return loaded[split]


def _from_dataset(name: str, dataset: Any, columns: Mapping[str, str] | None) -> Source:
    filled(name, len(dataset))
    dataset = dataset.with_format(None)
    return _Table(name, dataset, choose(name, _kinds(dataset), columns))


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
        elif dtype in ("string", "large_string", "string_view"):
            kinds[column] = kind_of(column, _first(dataset.select_columns([column]), column))
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


def _undecoded(feature: Any) -> Any:
    """Return a feature whose media stay bytes, however deep they lie: our own decoders read them.

    Those of the library take any format and size, and raise what no row may.
    """
    if isinstance(feature, dict):
        return type(feature)({name: _undecoded(inner) for name, inner in feature.items()})
    if hasattr(feature, "feature"):  # a list of it
        return replace(feature, feature=_undecoded(feature.feature))
    if getattr(feature, "decode", False) and type(feature).__name__ != "Json":
        return replace(feature, decode=False)
    return feature


def _class_name(field: str, number: int | None, names: Sequence[str]) -> str | None:
    if number is None or number < 0:  # -1 is a class that nobody gave
        return None
    if number >= len(names):
        raise BraidError(
            f"{field}: class {number} has no name, as there are {len(names)}; repair the column"
        )
    return names[number]


class _Table(Source):
    """A Dataset; if it is of files, they hold rows from `starts` on and lie in `folders`."""

    def __init__(
        self,
        name: str,
        dataset: Any,
        columns: Mapping[str, str],
        starts: Sequence[int] = (),
        folders: Sequence[Path] = (),
    ) -> None:
        self.name, self.fields, self._columns = name, tuple(columns), dict(columns)
        used = list(dict.fromkeys(columns.values()))
        dataset = dataset.select_columns(used)
        kinds, features = _kinds(dataset), dataset.features
        self._dataset, self._features = dataset.with_format("arrow"), _undecoded(features)
        self._alone: dict[str, Any] = {}
        self._media = media_fields(columns, kinds)
        self._names = {
            field: features[column].names
            for field, column in columns.items()
            if kinds[column] == "class" and field != "label"
        }
        self._starts, self._folders = list(starts), list(folders)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, i: int) -> Row:
        row = self._read_row(self._dataset, i)
        return {f: self._value(f, row[column], i) for f, column in self._columns.items()}

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row; no other column is read."""
        column = self._columns[field]
        if column not in self._alone:
            self._alone[column] = self._dataset.select_columns([column])
        return self._value(field, self._read_row(self._alone[column], i)[column], i)

    def _read_row(self, dataset: Any, i: int) -> dict[str, Any]:
        """Return a row by column, in which media are bytes."""
        try:
            (row,) = dataset[i].to_pylist()
        except UnicodeDecodeError as e:
            raise not_unicode() from e
        return self._features.decode_example(row)

    def _value(self, field: str, value: Any, i: int) -> Any:
        if field in self._names:
            return _class_name(field, value, self._names[field])
        if isinstance(value, bytes):
            return {"bytes": value}
        if isinstance(value, dict) and ("bytes" in value or "path" in value):
            if value.get("bytes") is not None:
                return {"bytes": value["bytes"]}
            return self._read(value.get("path"), i)
        if isinstance(value, str) and field in self._media:
            return self._read(value, i)
        return value

    def _read(self, path: str | None, i: int) -> dict[str, bytes] | None:
        if not path:
            return None
        if not self._folders:  # the library that made the dataset knows where its files are
            return {"bytes": File(Path(path), path).read()}
        folder = self._folders[bisect.bisect_right(self._starts, i % len(self)) - 1]
        return {"bytes": File(folder / path, path, folder=folder).read()}
