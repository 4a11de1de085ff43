"""Tasks: which modalities of an example are given, and which one is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.layout import Document, Span
from braid.modalities import Modality
from braid.randomness import Keys, derive, uniform

Encoded = dict[tuple[str, str | None], Tensor]
"""(modality, modality that follows it) -> tokens."""


@dataclass(frozen=True)
class Task:
    """Learn `target`, given the modalities in `given`.

    With `infill` a part of the target is given too; with `joint` the modalities in `given` are
    learned as well, each at
    its own time.
    """

    name: str
    given: tuple[str, ...]
    target: str
    infill: bool = False
    joint: bool = False

    @property
    def needs(self) -> list[tuple[str, str | None]]:
        """Return what has to be encoded: (modality, modality that follows)."""
        order = [*self.given, self.target]
        return list(zip(order, [*order[1:], None], strict=True))


def parse(name: str, modalities: Sequence[str]) -> Task:
    """Read a task's name.

    "A_to_B", "A_and_B_to_C", "B", "A_with_B" (both learned), "infill_B" (given all else).
    """
    infill = name.startswith("infill_")
    joint = "_with_" in name
    given_text, to, target = name.removeprefix("infill_").rpartition("_with_" if joint else "_to_")
    given = tuple(given_text.split("_and_")) if to else ()
    if infill and not to:
        given = tuple(m for m in modalities if m != target)
    for m in (*given, target):
        if m not in modalities:
            raise BraidError(
                f"task {name!r}: {unknown('modality', m, modalities)}; tasks are written "
                "'text_to_image', 'image' or 'infill_image'"
            )
    return Task(name, given, target, infill, joint)


@dataclass(frozen=True)
class Choice:
    """What is learned from one example.

    Attributes:
        task: which modalities are given and learned.
        dropped: leave the given ones out.
        numbers: four numbers in (0, 1) that choose what an infilling task keeps.
        key: [1] int64, for more of them.
    """

    task: Task
    dropped: bool
    numbers: tuple[float, ...]
    key: Tensor


class Documents:
    """Turns encoded examples into documents of the mixed tasks."""

    def __init__(
        self,
        tasks: Mapping[str, float],
        modalities: Mapping[str, Modality],
        causal: Mapping[str, bool],
        drop: float,
    ) -> None:
        if not tasks or min(tasks.values()) < 0 or sum(tasks.values()) <= 0:
            raise BraidError(
                f"data.tasks {dict(tasks)}: give at least one task a weight above 0, and none a "
                "negative one"
            )
        self.tasks = [parse(name, list(modalities)) for name in tasks]
        self.weights = torch.tensor(list(tasks.values()), dtype=torch.float64).cumsum(0)
        self.modalities, self.causal, self.drop = modalities, causal, drop
        for task in self.tasks:
            for name in (task.target, *(task.given if task.joint else ())):
                if not modalities[name].generated:
                    raise BraidError(
                        f"task {task.name!r}: modality {name!r} is read only; it cannot be learned"
                    )
            if task.infill and causal[task.target]:
                raise BraidError(
                    f"task {task.name!r}: modality {task.target!r} is generated token by token "
                    "and cannot look ahead; drop the task"
                )

    @property
    def needs(self) -> set[tuple[str, str | None]]:
        """Return everything that has to be encoded."""
        return {need for task in self.tasks for need in task.needs}

    def draw(self, keys: Tensor) -> list[Choice]:
        """Return what to learn from each of n examples, drawn from their keys [n]."""
        u = uniform(Keys(derive(keys, "task")), (len(keys), 6)).double()
        number = torch.searchsorted(self.weights, u[:, 0] * self.weights[-1], right=True)
        return [
            Choice(self.tasks[i], dropped, tuple(numbers), key)
            for i, dropped, numbers, key in zip(
                number.tolist(),
                (u[:, 1] < self.drop).tolist(),
                u[:, 2:].tolist(),
                keys.split(1),
                strict=True,
            )
        ]

    def make(self, choice: Choice, encoded: Encoded) -> Document:
        """Return a document of an example."""
        task, document = choice.task, []
        for need in task.needs[:-1] if task.joint or not choice.dropped else []:
            document.append(self._span(need[0], encoded[need], target=task.joint))
        last = self._span(task.target, encoded[task.needs[-1]], target=True)
        if task.infill:
            last = replace(last, target=~kept(last.shape or (len(last),), choice))
        return [*document, last]

    def _span(self, name: str, tokens: Tensor, target: bool) -> Span:
        """Return a span; what is learned stands on its canvas."""
        modality = self.modalities[name]
        if target:
            tokens = modality.canvas(tokens, self.causal[name])
        return Span(name, tokens, target, shape=modality.span_shape(tokens))


def kept(shape: tuple[int, ...], choice: Choice) -> Tensor:
    """Return which tokens of a span are given, [n] bool.

    Single ones, or everything on one side of a cut; never all.
    """
    n = torch.Size(shape).numel()
    kind, share, along, side = choice.numbers
    if kind < 0.5:
        keep = uniform(Keys(derive(choice.key, "kept")), (1, n))[0] < share
    else:
        axis = int(along * len(shape))
        line = torch.arange(shape[axis])
        cut = 1 + int(share * (shape[axis] - 1)) if shape[axis] > 1 else 0
        chosen = line < cut if side < 0.5 else line >= shape[axis] - cut
        view = [1] * len(shape)
        view[axis] = shape[axis]
        keep = chosen.view(view).expand(shape).flatten().clone()
    if bool(keep.all()):
        keep[int(share * n)] = False
    return keep
