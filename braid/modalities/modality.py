"""The contract of a modality: raw data to tokens and back, and where the tokens sit."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from braid.errors import BraidError
from braid.layout import Span
from braid.spaces import Space

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_TOKENS = 2**20
"""Tokens of a hole; more is a slip of the pen."""


class Tokens(NamedTuple):
    """Clean tokens [n, ...] and the shape of their span."""

    values: Tensor
    shape: tuple[int, ...]


class Modality:
    """Base of all modalities.

    Attributes:
        name: name of its strand.
        field: name of its field in raw examples; several modalities may read the same one.
        space: what a token is.
        shape: default shape of a span in tokens; (n,) for sequences, (rows, columns) for pictures.
        grid: largest (rows, columns), for learned places; None for sequences.
        limit: bound on the absolute value of continuous data, or None.
        levels: number of equidistant values in [-limit, limit] that continuous data takes, or None.
        generated: it can be written, not only read.
        lossless: data that its tokens stand for comes back bit for bit.
        closes: its tokens depend on what follows, as a text's closing symbol does.
        opening: tokens [n, ...] with which every document of a model that has it begins, or None.
    """

    name: str
    field: str
    space: Space
    shape: tuple[int, ...]
    grid: tuple[int, int] | None = None
    limit: float | None = None
    levels: int | None = None
    generated: bool = True
    lossless: bool = True
    closes: bool = False
    opening: Tensor | None = None

    @cached_property
    def converted(self) -> Counter[str]:
        """How often raw data was converted, by what was done to it."""
        return Counter()

    def accepts(self, raw: object) -> bool:
        """Return whether raw data is plainly of this modality, as a string is text."""
        return False

    def fit(self, examples: Iterable[Any]) -> None:
        """Learn what encoding needs (such as a vocabulary) from raw training examples.

        Most modalities need nothing.
        """

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Turn raw data into clean tokens [n, ...].

        A modality of many shapes gives the leading axes of the span, such as [rows, columns, ...].
        `following` names the modality of the next span, None at the end.
        """
        raise NotImplementedError

    def tokenise(self, raw: Any, following: str | None = None) -> Tokens:
        """Return the tokens of raw data, flat, and the shape of their span."""
        tokens = self.encode(raw, following)
        extra = tokens.ndim - len(self.space.shape(0))
        if extra:
            shape = tuple(tokens.shape[: extra + 1])
            return Tokens(tokens.flatten(0, extra), shape)
        return Tokens(tokens, self.span_shape(tokens))

    def decode(self, tokens: Tensor, shape: tuple[int, ...]) -> Any:
        """Turn tokens [n, ...] back into raw data."""
        raise NotImplementedError

    def span_shape(self, tokens: Tensor) -> tuple[int, ...]:
        """Return the shape in tokens of an encoded span."""
        return (len(tokens),) if len(self.shape) == 1 else self.shape

    def canvas(self, tokens: Tensor, causal: bool) -> Tensor:
        """Return the tokens as a training target.

        A canvas that is filled in parallel needs padding.
        """
        return tokens

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return the shape in tokens of a hole that a user asked for."""
        if shape is None:
            return self.shape
        try:
            sizes = shape if isinstance(shape, Iterable) else (shape,)
            shape = tuple(map(operator.index, sizes))
        except TypeError:
            raise BraidError(
                f"a hole of {self.name} has shape {self.shape} in tokens, not {shape!r}; give "
                "whole numbers"
            ) from None
        if len(shape) != len(self.shape) or min(shape) < 1:
            raise BraidError(f"a hole of {self.name} has shape {self.shape} in tokens, not {shape}")
        if math.prod(shape) > MOST_TOKENS:
            raise BraidError(
                f"a hole of {self.name} of {shape} has more than {MOST_TOKENS} tokens; fill it in "
                "parts"
            )
        if self.grid is not None and any(
            n > most for n, most in zip(shape, self.grid, strict=True)
        ):
            raise BraidError(
                f"a hole of {self.name} spans at most {self.grid} tokens, not {shape}; train a "
                "larger size"
            )
        return shape

    def finished(self, tokens: Tensor) -> Tensor:
        """Return [B] bool: whether rows of tokens [B, n, ...] need no further token."""
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    def withheld(self, tokens: Tensor) -> Tensor | None:
        """Return what stands for tokens [B, n, ...] in a prediction without them, for guidance.

        None leaves them out.
        """
        return None

    def positions(self, shape: tuple[int, ...]) -> Tensor:
        """Return [n, 3] sequence, row and column of a span of this shape."""
        n = math.prod(shape)
        place = torch.zeros(n, 3, dtype=torch.int64)
        place[:, 0] = torch.arange(n)
        if len(shape) == 2:
            place[:, 1] = torch.arange(n) // shape[1]
            place[:, 2] = torch.arange(n) % shape[1]
        return place

    def metric(self) -> dict[str, Any]:
        """Return the options of a metric path that suit the symbols: at least their table."""
        raise BraidError(
            f"modality {self.name!r} has no table of symbols; give the metric path one"
        )

    def alike(self) -> Tensor | None:
        """Return how alike the symbols are, [V, V] positive definite.

        Their embeddings start with this covariance.
        """
        return None

    def embedder(self, width: int, extra: int = 0) -> nn.Module:
        """Return the way of tokens into a model of this width."""
        return self.space.embedder(width, extra, self.alike())

    def head(self, width: int) -> nn.Module:
        """Return the way from hidden vectors to predictions."""
        return self.space.head(width)

    def folders(self) -> dict[str, Path]:
        """Return folders that a saved model has to hold: the option that names each, and its path.

        They lie beside the model, which reads them from there wherever it is moved.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""

    def _note(self, done: str) -> None:
        """Count a conversion."""
        self.converted[done] += 1


def opening(modalities: Mapping[str, Modality]) -> list[Span]:
    """Return the spans with which every document of a model with these modalities begins."""
    return [
        Span(name, modality.opening, target=False)
        for name, modality in modalities.items()
        if modality.opening is not None
    ]


def conversions(converted: Mapping[str, Mapping[str, int]], most: int = 10) -> list[str]:
    """Return lines such as "image: 12 x palette converted to RGB", the most frequent kinds first.

    Args:
        converted: name -> how often something was converted, by what was done to it.
        most: lines of a name; what is rarer is summed up.
    """
    lines = []
    for name, counts in converted.items():
        kinds = Counter(counts).most_common()
        lines += [f"{name}: {count} x {done}" for done, count in kinds[:most]]
        if kinds[most:]:
            rest = sum(count for _, count in kinds[most:])
            lines.append(f"{name}: {rest} x converted in {len(kinds) - most} other ways")
    return lines
