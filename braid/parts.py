"""The parts of a document: what is given, what is to be generated, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from braid.generation import Frame


@dataclass(frozen=True)
class Part:
    """Raw data of a named modality, where its kind alone does not say which, as with a label."""

    modality: str
    raw: Any


@dataclass(frozen=True, eq=False)
class Hole:
    """A part to generate.

    Attributes:
        modality: name of the strand that fills it.
        shape: its shape in tokens: (rows, columns) for a picture, at most so many tokens for text;
            None is the trained size.
        draft: raw data to hold or to refine.
        keep: bool mask of what is held of the draft, in tokens or in pixels of the picture.
        start: 0 generates from noise; above it, the draft is noised up to this time and refined
            from there.
    """

    modality: str
    shape: int | tuple[int, ...] | None = None
    draft: Any = None
    keep: Any = None
    start: float = 0.0


class Parts(list):
    """The parts of a finished document, raw, holes filled.

    Attributes:
        calls: network calls that all holes took.
        stopped: the callback interrupted the generation.
        trajectory: a `Frame` of each network call where it was asked for (tokens with a leading
            axis of 1).
        tokens: how many tokens of each part count.
        closed: whether each part ended by itself, as a text does with its closing symbol, and not
            for want of room.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        calls: int = 0,
        stopped: bool = False,
        trajectory: Sequence[Frame] = (),
        tokens: Sequence[int] = (),
        closed: Sequence[bool] = (),
    ) -> None:
        super().__init__(parts)
        self.calls, self.stopped, self.trajectory = calls, stopped, list(trajectory)
        self.tokens, self.closed = list(tokens), list(closed)


@dataclass(frozen=True)
class Choice:
    """Which of several candidates is the most likely.

    Attributes:
        index: its number.
        raw: the candidate itself.
        nats: negative log-likelihood of each candidate.
        symbols: symbols or numbers of each, to compare likelihoods per symbol.
        kind: "exact" or "bound".
    """

    index: int
    raw: Any
    nats: list[float]
    symbols: list[int]
    kind: str
