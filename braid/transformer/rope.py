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
    """Return cosines and sines [B, 1, L, width / 2] in float32 for positions [B, L, 3].

    Each axis turns its own pairs with frequencies from 1 down to 1 / theta.
    """
    angles = []
    for axis, size in enumerate(sections(width // 2, weights)):
        frequency = theta ** -(
            torch.arange(size, device=position.device, dtype=torch.float32) / max(size, 1)
        )
        angles.append(position[..., axis, None].float() * frequency)
    angle = torch.cat(angles, -1)[:, None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, heads, L, width].

    The halves of the width form the pairs, as in released Llama weights.
    """
    u, v = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([u * cos - v * sin, u * sin + v * cos], -1)
