"""Rotary positions over three axes: sequence, row and column (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sections(pairs: int, weights: Sequence[int]) -> list[int]:
    """Split `pairs` rotary pairs over the axes in proportion to integer weights.

    The first takes the remainder.
    """
    sizes = [pairs * w // sum(weights) for w in weights]
    sizes[0] += pairs - sum(sizes)
    return sizes


def rotary(
    position: Tensor, width: int, theta: float, weights: Sequence[int]
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
