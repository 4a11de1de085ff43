"""Tasks: which fields of an example are given, and which one is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from braid.data.conversation import Turn, turns
from braid.errors import BraidError, unknown
from braid.layout import Document, Span
from braid.modalities import Modality, Tokens, opening
from braid.randomness import Keys, derive, uniform

Need = tuple[str, str | None]
"""(field, modality of the span that follows it); what follows decides how a text is closed."""

Encoded = dict[Need, Any]
"""Tokens of each need, or the turns of a conversation."""


@dataclass(frozen=True)
class Task:
    """Learn `target`, given the fields in `given`.

    With `infill` a part of the target is given too; with `joint` the fields in `given` are learned
    as well, each at its own time; with `talk` the target is a conversation, of which one of the
    assistant's turns is learned.
    """

    name: str
    given: tuple[str, ...]
    target: str
    infill: bool = False
    joint: bool = False
    talk: bool = False

    def needs(self, modality_of: Mapping[str, str]) -> list[Need]:
        """Return what has to be encoded: (field, modality that follows)."""
        order = [*self.given, self.target]
        return list(zip(order, [*(modality_of[f] for f in order[1:]), None], strict=True))


def parse(name: str, fields: Sequence[str]) -> Task:
    """Read a task's name.

    "A_to_B", "A_and_B_to_C", "B", "A_with_B" (both learned), "infill_B" (given all else),
    "talk_B" (B is a conversation). A, B and C are fields: modalities, or names in data.fields.
    """
    if name.startswith("talk_"):
        return Task(name, (), name.removeprefix("talk_"), talk=True)
    infill = name.startswith("infill_")
    joint = "_with_" in name
    given_text, to, target = name.removeprefix("infill_").rpartition("_with_" if joint else "_to_")
    given = tuple(given_text.split("_and_")) if to else ()
    for m in (*given, target):
        if m not in fields:
            raise BraidError(
                f"task {name!r}: {unknown('field', m, fields)}; tasks are written "
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
    """Turns raw examples into documents of the mixed tasks.

    Attributes:
        columns: field -> column of the raw examples; several fields may read the same one.
    """

    def __init__(
        self,
        tasks: Mapping[str, float],
        modalities: Mapping[str, Modality],
        causal: Mapping[str, bool],
        drop: float,
        fields: Mapping[str, str] | None = None,
        match: Sequence[str] = (),
    ) -> None:
        """Make the documents of an experiment.

        Args:
            tasks: task -> weight.
            modalities: the model's.
            causal: modality -> its tokens see only what came before.
            drop: share of documents whose condition is left out.
            fields: further fields -> the modality that reads them.
            match: fields that are read alone, to embed them.
        """
        if not tasks or min(tasks.values()) < 0 or sum(tasks.values()) <= 0:
            raise BraidError(
                f"data.tasks {dict(tasks)}: give at least one task a weight above 0, and none a "
                "negative one"
            )
        for field, name in (fields or {}).items():
            if name not in modalities:
                raise BraidError(f"data.fields.{field}: {unknown('modality', name, modalities)}")
            if field in modalities:
                raise BraidError(
                    f"data.fields.{field}: {field!r} is a modality of the model, which reads its "
                    "own column; give the further field another name"
                )
        self.modality_of = {**{m: m for m in modalities}, **(fields or {})}
        self.columns = {m: modalities[m].field for m in modalities} | {f: f for f in fields or {}}
        self.weights = torch.tensor(list(tasks.values()), dtype=torch.float64).cumsum(0)
        self.modalities, self.causal, self.drop = modalities, causal, drop
        self.tasks = [self._complete(parse(name, list(self.modality_of))) for name in tasks]
        for task in self.tasks:
            self._check(task)
        for field in match:
            if field not in self.modality_of:
                raise BraidError(f"data.match: {unknown('field', field, self.modality_of)}")
        self.match = tuple(match)
        self.opening = opening(modalities)

    def _complete(self, task: Task) -> Task:
        """Give an infilling task without conditions all other modalities."""
        if task.talk:
            if task.target in self.modality_of:
                raise BraidError(
                    f"task {task.name!r}: {task.target!r} is read as "
                    f"{self.modality_of[task.target]}; a conversation has a column of its own, as "
                    "in 'talk_messages'"
                )
            self.columns.setdefault(task.target, task.target)
        if not task.infill or task.given:
            return task
        return replace(task, given=tuple(m for m in self.modalities if m != task.target))

    def _check(self, task: Task) -> None:
        learned = () if task.talk else (task.target, *(task.given if task.joint else ()))
        for name in (self.modality_of[field] for field in learned):
            if not self.modalities[name].generated:
                raise BraidError(
                    f"task {task.name!r}: modality {name!r} is read only; it cannot be learned"
                )
        if task.infill and self.causal[self.modality_of[task.target]]:
            raise BraidError(
                f"task {task.name!r}: modality {task.target!r} is generated token by token "
                "and cannot look ahead; drop the task"
            )

    @property
    def needs(self) -> set[Need]:
        """Return everything that has to be encoded."""
        alone: set[Need] = {(field, None) for field in self.match}
        return alone | {need for task in self.tasks for need in self.needs_of(task)}

    def needs_of(self, task: Task) -> list[Need]:
        """Return what a task needs encoded, in the order of its document."""
        return [(task.target, None)] if task.talk else task.needs(self.modality_of)

    def encode(self, raw: Mapping[str, Any]) -> Encoded:
        """Encode what the tasks need of a raw example."""
        talks = {task.target for task in self.tasks if task.talk}
        done: dict[tuple[str, str | None], Tokens] = {}
        out: Encoded = {}
        for field, after in sorted(self.needs, key=str):
            value = raw[self.columns[field]]
            if field in talks:
                out[field, after] = turns(value, self.modalities)
                continue
            modality = self.modalities[self.modality_of[field]]
            known = field, after if modality.closes else None
            if known not in done:
                done[known] = modality.tokenise(value, after)
            out[field, after] = done[known]
        return out

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
        task, document = choice.task, list(self.opening)
        needs = self.needs_of(task)
        if task.talk:
            return self._talk(choice, encoded[needs[0]])
        for need in needs[:-1] if task.joint or not choice.dropped else []:
            document.append(self._span(self.modality_of[need[0]], encoded[need], task.joint))
        last = self._span(self.modality_of[task.target], encoded[needs[-1]], target=True)
        if task.infill:
            last = replace(last, target=~kept(last.shape or (len(last),), choice))
        return [*document, last]

    def longest(self, encoded: Encoded) -> Iterator[Document]:
        """Yield what each task makes of an example at most: nothing is left out of a condition.

        Of a conversation every end is yielded that may be longer than all later ones, as the part
        that is learned stands on a canvas; the last comes first.
        """
        weights = self.weights.diff(prepend=self.weights.new_zeros(1)).tolist()
        for task, weight in zip(self.tasks, weights, strict=True):
            if not weight:
                continue  # it is never drawn
            talk = encoded[self.needs_of(task)[0]] if task.talk else None
            for place in [0.5] if talk is None else self._long_ends(talk):
                numbers = (place, 0.5, 0.5, 0.5)
                yield self.make(Choice(task, False, numbers, torch.zeros(1).long()), encoded)

    def _long_ends(self, talk: Sequence[Turn]) -> Iterator[float]:
        """Yield the numbers that choose the ends of a conversation which may be the longest."""
        said = [turn for turn in talk if turn.learned]
        canvas: dict[str, int] = {}  # the longest of a modality among later ends
        for i, turn in reversed(list(enumerate(said))):
            length = len(self._span(turn.modality, turn.final, target=True))
            if length > canvas.get(turn.modality, 0):
                canvas[turn.modality] = length
                yield (i + 0.5) / len(said)

    def context(self, field: str, encoded: Encoded) -> Span:
        """Return a field alone, to embed it; it stands on its canvas, as `Pipeline.embed` does."""
        span = self._span(self.modality_of[field], encoded[field, None], target=True)
        return replace(span, target=False)

    def _talk(self, choice: Choice, talk: Sequence[Turn]) -> Document:
        """Return a conversation up to one of the assistant's parts, which is learned."""
        said = [i for i, turn in enumerate(talk) if turn.learned]
        last = said[min(int(choice.numbers[0] * len(said)), len(said) - 1)]
        before = [] if choice.dropped else talk[:last]
        document = [self._span(turn.modality, turn.given, target=False) for turn in before]
        return [
            *self.opening,
            *document,
            self._span(talk[last].modality, talk[last].final, target=True),
        ]

    def _span(self, name: str, tokens: Tokens, target: bool) -> Span:
        """Return a span; what is learned stands on its canvas."""
        values, shape = tokens
        if target:
            values = self.modalities[name].canvas(values, self.causal[name])
            shape = shape if len(values) == len(tokens.values) else (len(values),)
        return Span(name, values, target, shape=shape)


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
