"""Starting from a trained model instead of from random weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from braid.braid import Braid
from braid.config import Experiment, Options, StrandConfig
from braid.errors import BraidError
from braid.pipeline import Pipeline
from braid.spaces import Discrete, SymbolEmbedding

What = Literal["taken", "new", "left"]


@dataclass
class Started:
    """What became of the tensors of a trained model, and of those of the model that it starts.

    Attributes:
        path: the trained model.
        rows: (what became of it, name, shape, note) of each tensor.
    """

    path: str
    rows: list[tuple[What, str, tuple[int, ...], str]] = field(default_factory=list)

    def add(self, what: What, name: str, tensor: Tensor, note: str = "") -> None:
        """Note a tensor."""
        self.rows.append((what, name, tuple(tensor.shape), note))

    def count(self, what: What) -> int:
        """Return how many tensors that became of."""
        return sum(row[0] == what for row in self.rows)

    def lines(self) -> list[str]:
        """Return a summary, and a table with a line for each module."""
        tensors, numbers = Counter(), Counter()
        for what, name, shape, note in self.rows:
            key = (what, _module(name), note)
            tensors[key] += 1
            numbers[key] += torch.Size(shape).numel()
        wide = max((len(module) for _, module, _ in tensors), default=0)
        table = [
            f"  {what:5}  {module:{wide}}  {count:4} tensors {numbers[what, module, note]:>13,}"
            f"  {note}".rstrip()
            for (what, module, note), count in sorted(tensors.items(), key=_order)
        ]
        return [
            f"started from {self.path}: {self.count('taken')} tensors taken, "
            f"{self.count('new')} new, {self.count('left')} left behind",
            *table,
        ]


def learned(source: Pipeline, experiment: Experiment) -> dict[str, Any]:
    """Return what the modalities of a trained model know that `experiment` describes alike.

    A vocabulary fitted anew would give the same words other symbols, and the trained rows of
    embeddings and heads would be lost. The length of a canvas is nothing that is learned.
    """
    theirs = source.experiment.strands
    return {
        name: source.braid.strands[name].modality.state()
        for name, strand in experiment.strands.items()
        if name in theirs and _fitted(theirs[name]) == _fitted(strand)
    }


@torch.no_grad()
def start_from(braid: Braid, source: Braid, path: str) -> Started:
    """Take the tensors of a trained model whose names and shapes agree with this one's.

    A table of symbols that has a mask, and had none, or the other way round, takes the rows of the
    symbols; the mask begins as their mean. A clock that the trained model lacks begins at zero, so
    that this model begins as that one.

    Args:
        braid: the model to fill.
        source: the trained one.
        path: its name, for messages.

    Raises:
        BraidError: none agrees.
    """
    theirs, ours = source.state_dict(), braid.state_dict()
    other = _other_symbols(braid, source)
    started = Started(path)
    for name, own in ours.items():
        given = theirs.get(name)
        if name.startswith(other):
            started.add("new", name, own, "symbols mean other things there")
        elif given is None and _is_clock(name) and f"{_strand(name)}.kind" in theirs:
            own.zero_()
            started.add("new", name, own, "begins at zero")
        elif given is None:
            started.add("new", name, own)
        elif given.shape == own.shape:
            own.copy_(given)
            started.add("taken", name, own)
        elif _take_rows(braid, source, name):
            started.add("taken", name, own, "rows of the symbols; a mask begins as their mean")
        else:
            started.add("new", name, own, f"of shape {_by(given)} there, {_by(own)} here")
    taken = {name for what, name, _, _ in started.rows if what == "taken"}
    if not taken:
        raise BraidError(f"train.start {path!r} has no tensor in common with this model")
    for name, given in theirs.items():
        if name not in taken:
            started.add("left", name, given)
    return started


def _fitted(strand: StrandConfig) -> Options:
    """Return the options on which what a modality learns depends."""
    return {name: x for name, x in strand.modality.items() if name != "length"}


def _other_symbols(braid: Braid, source: Braid) -> tuple[str, ...]:
    """Return the beginnings of names of tensors whose rows are other symbols there."""
    return tuple(
        f"strands.{name}.{part}."
        for name, strand in braid.strands.items()
        for part in ("embedder", "head")
        if name in source.strands
        and source.strands[name].modality.state() != strand.modality.state()
    )


def _take_rows(braid: Braid, source: Braid, name: str) -> bool:
    """Copy the symbols' rows of a table that differs by its mask alone; return whether it does."""
    first, strand, *rest = name.split(".")
    if first != "strands" or rest != ["embedder", "table", "weight"]:
        return False
    mine, its = braid.strands[strand].embedder, source.strands[strand].embedder
    space = braid.strands[strand].modality.space
    if not isinstance(mine, SymbolEmbedding) or not isinstance(its, SymbolEmbedding):
        return False
    if mine.groups != its.groups or not isinstance(space, Discrete):
        return False
    own = mine.table.weight.unflatten(0, (mine.groups, -1))
    given, size = its.table.weight.unflatten(0, (its.groups, -1)), space.size
    if own.shape[2] != given.shape[2] or min(own.shape[1], given.shape[1]) != size:
        return False
    own[:, :size] = given[:, :size]
    own[:, size:] = given[:, :size].mean(1, keepdim=True)
    return True


def _is_clock(name: str) -> bool:
    return name.startswith("strands.") and name.split(".")[2] == "clock"


def _strand(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _module(name: str) -> str:
    """Return the part of a strand that a tensor is in, or the module at the top."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "strands" else parts[0]


def _order(item: tuple[tuple[str, str, str], int]) -> tuple[int, str, str]:
    what, module, note = item[0]
    return ["taken", "new", "left"].index(what), module, note


def _by(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
