"""Guidance: combine a conditional and an unconditional prediction (arXiv:2207.12598)."""

from __future__ import annotations

from torch import Tensor


def combine(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Return u + w (c - u), for logits and for vectors alike.

    Weight 1 is no guidance, 0 is unconditional.
    """
    return unconditional + weight * (conditional - unconditional)
