"""Rotary positions over three axes: sequence, row and column (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Slower rotary frequencies, for contexts longer than a model was first trained on.

    Attributes:
        kind: "linear" divides all frequencies by the factor (arXiv:2306.15595); "llama3" only
            those whose waves do not fit `high` times into the first context, and partly those
            that do not fit `low` times (arXiv:2407.21783).
        factor: at least 1.
        low: waves in the first context below which a frequency is divided.
        high: waves above which it is kept.
        context: tokens of the first context.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # as TransformerConfig

    kind: Literal["linear", "llama3"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    context: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise unknown("kind of rope_scaling", self.kind, ("linear", "llama3"))
        if self.factor < 1 or self.context < 1 or not 0 < self.low < self.high:
            raise BraidError(
                f"rope_scaling factor {self.factor}, context {self.context}, low {self.low}, high "
                f"{self.high}: use a factor and a context of at least 1, and 0 < low < high"
            )

    def __call__(self, frequency: Tensor) -> Tensor:
        """Return the scaled frequencies [n]."""
        if self.kind == "linear":
            return frequency / self.factor
        waves = self.context * frequency / (2 * math.pi)
        kept = ((waves - self.low) / (self.high - self.low)).clamp(0, 1)
        return kept * frequency + (1 - kept) * frequency / self.factor


def sections(pairs: int, weights: Sequence[int]) -> list[int]:
    """Split `pairs` rotary pairs over the axes in proportion to integer weights.

    The first takes the remainder.
    """
    sizes = [pairs * w // sum(weights) for w in weights]
    sizes[0] += pairs - sum(sizes)
    return sizes


def rotary(
    position: Tensor,
    width: int,
    theta: float,
    weights: Sequence[int],
    scaling: RopeScaling | None = None,
) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines [B, 1, L, width] in float32 for positions [B, L, 3].

    Each axis turns its own pairs with frequencies from 1 down to 1 / theta. The two halves are
    alike, but for the sign of the sine: minus for the first of a pair.
    """
    angles = []
    for axis, size in enumerate(sections(width // 2, weights)):
        frequency = theta ** -(
            torch.arange(size, device=position.device, dtype=torch.float32) / max(size, 1)
        )
        if scaling is not None:
            frequency = scaling(frequency)
        angles.append(position[..., axis, None].float() * frequency)
    angle = torch.cat(angles, -1)[:, None]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, heads, L, width].

    The halves of the width form the pairs, as in released Llama weights.
    """
    u, v = x.chunk(2, -1)
    # u cos - v sin and v cos + u sin, in three passes over memory
    return torch.addcmul(x * cos.to(x.dtype), torch.cat([v, u], -1), sin.to(x.dtype))
