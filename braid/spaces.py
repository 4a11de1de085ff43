"""What a token is, and how it enters and leaves the model.

Symbols of a finite set, or real vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from braid.cross_entropy import linear_cross_entropy
from braid.errors import BraidError


@dataclass(frozen=True)
class Discrete:
    """A token is `groups` symbols, each one of `size`.

    Tokens are int64 [n], or [n, groups] where groups > 1; predictions are logits [n, size] or [n,
    groups, size].
    """

    size: int
    groups: int = 1

    def shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of n tokens."""
        return (n,) if self.groups == 1 else (n, self.groups)

    def embedder(self, width: int, extra: int = 0, alike: Tensor | None = None) -> nn.Module:
        """Return tokens -> [..., width].

        `extra` symbols have an input row but no output column; `alike` [size, size] is the
        covariance with which the
        rows start, None makes them independent.
        """
        embedding = SymbolEmbedding(self.size + extra, self.groups, width)
        if alike is not None:
            embedding.correlate(alike)
        return embedding

    def head(self, width: int) -> nn.Module:
        """Return hidden [..., width] -> logits [..., (groups,) size]."""
        return SymbolHead(self.size, self.groups, width)

    def check(self, tokens: Tensor, name: str, extra: int = 0) -> None:
        """Refuse tokens of another shape, kind or range."""
        if tokens.dtype != torch.int64 or tokens.shape[1:] != self.shape(0)[1:]:
            raise BraidError(
                f"{name}: expected int64 tokens of shape {('n', *self.shape(0)[1:])}, got "
                f"{tokens.dtype} {tuple(tokens.shape)}"
            )
        if tokens.numel() and (tokens.min() < 0 or tokens.max() >= self.size + extra):
            raise BraidError(
                f"{name}: symbols span {int(tokens.min())}..{int(tokens.max())}; valid are "
                f"0..{self.size + extra - 1}"
            )


@dataclass(frozen=True)
class Continuous:
    """A token is a real vector; tokens and predictions are float32 [n, width]."""

    width: int

    def shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of n tokens."""
        return (n, self.width)

    def embedder(self, width: int, extra: int = 0, alike: Tensor | None = None) -> nn.Module:
        """Return vectors [..., self.width] -> [..., width].

        Continuous tokens have no extra symbols.
        """
        if extra:
            raise BraidError(
                "a continuous space has no symbols, so a process with extra symbols cannot run "
                "on it"
            )
        return nn.Linear(self.width, width)

    def head(self, width: int) -> nn.Module:
        """Return hidden [..., width] -> vectors [..., self.width].

        Starts at zero, the mean of centred data.
        """
        head = nn.Linear(width, self.width)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    def check(self, tokens: Tensor, name: str, extra: int = 0) -> None:
        """Refuse tokens of another shape or kind, and values that are not finite."""
        if not tokens.is_floating_point() or tokens.ndim != 2 or tokens.shape[1] != self.width:
            raise BraidError(
                f"{name}: expected float tokens [n, {self.width}], got {tokens.dtype} "
                f"{tuple(tokens.shape)}"
            )
        if not tokens.isfinite().all():
            raise BraidError(f"{name}: values must be finite; the input holds NaN or infinity")


Space = Discrete | Continuous


class SymbolEmbedding(nn.Module):
    """Sum of one table row per group."""

    offset: Tensor

    def __init__(self, rows: int, groups: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.table = nn.Embedding(rows * groups, width)
        nn.init.normal_(self.table.weight, std=0.5 * groups**-0.5)
        # real even where the module is made on the meta device: no checkpoint holds it
        offset = torch.arange(groups, device="cpu") * rows
        self.register_buffer("offset", offset, persistent=False)

    @torch.no_grad()
    def correlate(self, alike: Tensor) -> None:
        """Give the first rows of each group a covariance, [V, V]."""
        if self.table.weight.is_meta:
            return
        size, per_group = len(alike), len(self.table.weight) // self.groups
        jittered = alike.double() + 1e-5 * torch.eye(size, dtype=torch.float64)
        root: Tensor = torch.linalg.cholesky(jittered)  # pyright: ignore
        for group in range(self.groups):
            rows = self.table.weight[group * per_group : group * per_group + size]
            rows.copy_((root @ rows.double()).float())  # pyright: ignore

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens [...] or [..., groups] as [..., width]."""
        if self.groups == 1:
            return self.table(tokens)
        return self.table(tokens + self.offset).sum(-2)


class SymbolHead(nn.Module):
    """One linear layer whose logits factorise over the groups."""

    def __init__(self, size: int, groups: int, width: int) -> None:
        super().__init__()
        self.size, self.groups = size, groups
        self.linear = nn.Linear(width, size * groups, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., size], or [..., groups, size] where groups > 1."""
        logits = self.linear(hidden)
        return logits if self.groups == 1 else logits.unflatten(-1, (self.groups, self.size))

    def entropy(
        self, hidden: Tensor, symbols: Tensor, factor: Tensor, z_loss: float = 0.0
    ) -> Tensor:
        """Return the sum of factor (-log p(symbol) + z_loss log^2 Z) without holding all logits.

        Args:
            hidden: [N, D].
            symbols: [N] or [N, groups].
            factor: in the shape of `symbols`, a constant.
            z_loss: weight of the squared logarithm of the softmax's denominator.
        """
        return linear_cross_entropy(hidden, self.linear.weight, symbols, factor, z_loss)


def metric_table(size: int, width: int = 64, seed: int = 0) -> Tensor:
    """Return a table [size, width] with nearly equal distances, for symbols without a metric."""
    if size <= 4 * width:
        return torch.eye(size)
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=rng) / math.sqrt(width)
