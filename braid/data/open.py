"""Open the data of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from braid.braid import Braid
from braid.config import DataConfig, Experiment
from braid.data.conversation import flatten
from braid.data.loader import Stream
from braid.data.paired import Paired
from braid.data.scenes import scenes
from braid.data.sources import Source, digits, open_source
from braid.data.synthetic import toy
from braid.data.tasks import Documents
from braid.errors import BraidError, unknown
from braid.modalities import Modality


@dataclass(frozen=True)
class Data:
    """Training examples and held-out ones.

    Attributes:
        train: raw training examples; of a mixture all of them, one source after the other.
        held_out: held-out ones.
        parts: name -> data of each source of a mixture; empty where there is only one.
    """

    train: Source
    held_out: Source
    parts: dict[str, Data] = field(default_factory=dict)

    def column(self, name: str, limit: int = 20_000) -> Iterator[Any]:
        """Yield raw training values of a column, at most `limit`; missing ones are left out."""
        sources = [d.train for d in self.parts.values()] or [self.train]
        having = [s for s in sources if name in s.fields]
        if not having:
            raise BraidError(
                f"the data has no {name!r}; it has {', '.join(self.train.fields)}: map a "
                f"column with data.columns.{name}"
            )
        for source in having:
            for i in range(min(limit // len(having), len(source))):
                try:
                    value = source.value(i, name)  # a text needs no picture beside it
                except (BraidError, OSError):
                    continue  # counted and named when the row is read for training
                if value is not None:
                    yield value


class Joined(Source):
    """Sources one after the other; fields that one of them lacks are None.

    Attributes:
        parts: name -> source.
    """

    def __init__(self, parts: Mapping[str, Source]) -> None:
        self.parts = dict(parts)
        self.name = "+".join(parts)
        self.fields = tuple(dict.fromkeys(f for s in parts.values() for f in s.fields))

    def __len__(self) -> int:
        return sum(len(s) for s in self.parts.values())

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, row = self._find(i)
        return dict.fromkeys(self.fields) | source[row]

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row of its own source."""
        source, row = self._find(i)
        return source.value(row, field) if field in source.fields else None

    def describe(self, i: int) -> str:
        """Name a row of its own source."""
        source, row = self._find(i)
        return source.describe(row)

    def _find(self, i: int) -> tuple[Source, int]:
        row = i
        for source in self.parts.values():
            if row < len(source):
                return source, row
            row -= len(source)
        raise IndexError(f"row {i} of {self.name} is out of range 0..{len(self) - 1}")


class Part(Source):
    """Some rows of a source."""

    def __init__(self, source: Source, rows: Sequence[int] | np.ndarray) -> None:
        self.source, self.rows = source, np.asarray(rows, dtype=np.int64)
        self.name, self.fields, self.encoded = source.name, source.fields, source.encoded

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.rows[i])]

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row of the whole source."""
        return self.source.value(int(self.rows[i]), field)

    def describe(self, i: int) -> str:
        """Name a row of the whole source."""
        return self.source.describe(int(self.rows[i]))


def open_data(config: DataConfig, seed: int) -> Data:
    """Open training and held-out data, of a mixture all of its sources.

    Where there is no validation data, a seeded share of the rows is held out.
    """
    if config.mix:
        parts = {name: open_data(part, seed) for name, part in config.mix.items()}
        return Data(
            Joined({n: d.train for n, d in parts.items()}),
            Joined({n: d.held_out for n, d in parts.items()}),
            parts,
        )
    if config.partner is not None:
        alone = open_data(config.model_copy(update={"partner": None}), seed)
        partner = open_data(config.partner, seed)
        return Data(
            Paired(alone.train, partner.train, config.agree_on, seed, config.partners),
            Paired(alone.held_out, partner.held_out, config.agree_on, seed),
        )
    if config.source in BUILT_IN:
        return BUILT_IN[config.source](seed)
    if config.source != "files":
        raise unknown("data source", config.source, (*BUILT_IN, "files"))
    if config.path is None:
        raise BraidError("data.path is not set; add data.path=FILE_OR_FOLDER")
    train = open_source(config.path, config.columns, config.split)
    if config.validation is not None:
        return Data(train, open_source(config.validation, config.columns))
    n = len(train)
    if n < 2:
        raise BraidError(f"{train.name} has {n} row; give at least 2, or set data.validation")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    held = max(1, round(n * config.hold_out))
    if held == n:
        raise BraidError(
            f"data.hold_out {config.hold_out} of {n} rows leaves none to train on; lower it, or "
            "set data.validation"
        )
    return Data(Part(train, np.sort(order[held:])), Part(train, np.sort(order[:held])))


BUILT_IN: dict[str, Callable[[int], Data]] = {
    "digits": lambda seed: Data(digits("train"), digits("test")),
    "toy": lambda seed: Data(toy(256, seed), toy(64, seed + 1)),
    "scenes": lambda seed: Data(
        scenes(SCENES, seed), Joined({s: scenes(1000, seed, s) for s in ("seen", "unseen")})
    ),
}
"""Name -> data that needs no files, made from a seed."""

SCENES = 60_000
"""Training scenes of a seed; any number can be made."""


def streams_for(
    experiment: Experiment, braid: Braid, data: Data, held_out: bool = False
) -> list[Stream]:
    """Return the streams of an experiment's data, each with the maker of its documents.

    Refuses tasks whose fields the data lacks.
    """
    config = experiment.data
    parts = {n: (config.mix[n], d) for n, d in data.parts.items()} or {"": (config, data)}
    streams = []
    for c, d in parts.values():
        source = d.held_out if held_out else d.train
        documents = documents_for(c, braid, source.fields)
        _check_codes(documents, source)
        streams.append(Stream(source, documents, c.weight, c.match))
    return streams


def _check_codes(documents: Documents, source: Source) -> None:
    """Refuse codes of another codec before the first row is read."""
    for need, _ in documents.needs:
        column = documents.columns[need]
        modality = documents.modalities.get(documents.modality_of.get(need, ""))
        own = getattr(modality, "card", {}).get("fingerprint")
        if column in source.encoded and source.encoded[column] != own:
            raise BraidError(
                f"{source.name}: {column!r} was encoded by codec {source.encoded[column]}, the "
                f"model reads {f'codec {own}' if own else 'no codes'}; encode the data with the "
                "model's codec (braid codec encode)"
            )


def documents_for(config: DataConfig, braid: Braid, columns: Sequence[str]) -> Documents:
    """Return the maker of documents of data with these columns."""
    documents = Documents(
        config.tasks,
        {n: s.modality for n, s in braid.strands.items()},
        {n: s.causal for n, s in braid.strands.items()},
        config.drop,
        config.fields,
        config.match or (),
    )
    for name, _ in sorted(documents.needs, key=str):
        column = documents.columns[name]
        if column not in columns:
            raise BraidError(
                f"a task needs {column!r}, the data has {', '.join(columns)}; map "
                "a column with data.columns (it takes what is text, not numbers or lists), or "
                "change data.tasks"
            )
    return documents


def texts_of(experiment: Experiment, data: Data, modality: Modality) -> Iterator[Any]:
    """Yield the raw training values that a modality will read, to fit it on."""
    configs = {n: experiment.data.mix[n] for n in data.parts} or {"": experiment.data}
    for name, config in configs.items():
        source = data.parts[name] if data.parts else data
        extra = [f for f, m in config.fields.items() if m == modality.name]
        for column in (modality.field, *extra):
            if column in source.train.fields:
                # others are refused row by row when they are read, and counted
                yield from filter(modality.accepts, source.column(column))
        for column in (t.removeprefix("talk_") for t in config.tasks if t.startswith("talk_")):
            for talk in source.column(column) if column in source.train.fields else ():
                yield from _said(talk, modality.name)


def _said(talk: Any, kind: str) -> list[Any]:
    """Return the parts of a conversation that a modality reads."""
    try:
        return [raw for _, part, raw in flatten(talk) if part == kind]
    except BraidError:
        return []  # counted and named when the row is read for training
