"""Open the data of an experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from braid.braid import Braid
from braid.config import DataConfig, Experiment
from braid.data.sources import Source, digits, open_source
from braid.data.synthetic import toy
from braid.data.tasks import Documents
from braid.errors import BraidError, unknown


@dataclass(frozen=True)
class Data:
    """Training examples and held-out ones."""

    train: Source
    held_out: Source

    def column(self, modality: str, limit: int = 20_000) -> Iterator[Any]:
        """Yield raw training values of a modality, at most `limit`; missing ones are left out."""
        if modality not in self.train.fields:
            raise BraidError(
                f"the data has no {modality!r}; it has {', '.join(self.train.fields)}: map a "
                f"column with data.columns.{modality}"
            )
        for i in range(min(limit, len(self.train))):
            try:
                value = self.train[i].get(modality)
            except (BraidError, OSError):
                continue  # counted and named when the row is read for training
            if value is not None:
                yield value


class Part(Source):
    """Some rows of a source."""

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        self.source, self.rows = source, list(rows)
        self.name, self.fields = source.name, source.fields

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[self.rows[i]]

    def describe(self, i: int) -> str:
        """Name a row of the whole source."""
        return self.source.describe(self.rows[i])


def open_data(config: DataConfig, seed: int) -> Data:
    """Open training and held-out data.

    Where there is no validation data, a seeded share of the rows is held out.
    """
    if config.source == "digits":
        return Data(digits("train"), digits("test"))
    if config.source == "toy":
        return Data(toy(256, seed), toy(64, seed + 1))
    if config.source != "files":
        raise unknown("data source", config.source, ("digits", "toy", "files"))
    if config.path is None:
        raise BraidError("data.path is not set; add data.path=FILE_OR_FOLDER")
    train = open_source(config.path, config.columns, config.split)
    if config.validation is not None:
        return Data(train, open_source(config.validation, config.columns))
    n = len(train)
    if n < 2:
        raise BraidError(f"{train.name} has {n} row; give at least 2, or set data.validation")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(1, round(n * config.hold_out))
    return Data(Part(train, sorted(order[held:])), Part(train, sorted(order[:held])))


def documents_for(experiment: Experiment, braid: Braid, fields: Sequence[str]) -> Documents:
    """Return the maker of an experiment's documents.

    Refuses tasks whose modalities the data lacks.
    """
    modalities = {n: s.modality for n, s in braid.strands.items()}
    documents = Documents(
        experiment.data.tasks,
        modalities,
        {n: s.causal for n, s in braid.strands.items()},
        experiment.data.drop,
    )
    for name, _ in documents.needs:
        if modalities[name].field not in fields:
            raise BraidError(
                f"a task needs {modalities[name].field!r}, the data has {', '.join(fields)}; map "
                "a column with data.columns, or change data.tasks"
            )
    return documents
