"""How fast noise becomes data: kappa(t), the probability (or share) of clean content at time t.

Each schedule is one frozen dataclass with `kappa(t, overlap)` and its derivative `rate`,
where kappa(0) = 0 and kappa(1) = 1. `overlap` is the probability that the source already shows the
clean symbol; only the kinetic-optimal schedule looks at it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from braid.errors import BraidError, unknown


@dataclass(frozen=True)
class Linear:
    """kappa = t."""

    def kappa(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return kappa(t)."""
        return t

    def rate(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return d kappa / dt."""
        return t * 0 + 1


@dataclass(frozen=True)
class Polynomial:
    """kappa = t ** power; a power above 1 spends more time where little is known."""

    power: float = 3.0

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise BraidError(f"polynomial schedule: power {self.power} must be positive")

    def kappa(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return kappa(t)."""
        return t**self.power

    def rate(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return d kappa / dt."""
        return self.power * t ** (self.power - 1)


@dataclass(frozen=True)
class Cosine:
    """kappa = 1 - cos(pi t / 2): the masked share falls as a cosine (MaskGIT, arXiv:2202.04200)."""

    def kappa(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return kappa(t)."""
        return 1 - (t * (math.pi / 2)).cos()

    def rate(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return d kappa / dt."""
        return (math.pi / 2) * (t * (math.pi / 2)).sin()


@dataclass(frozen=True)
class Kinetic:
    """1 - kappa = sin^2((1 - t) W) / sin^2 W, W = arccos sqrt(overlap) (arXiv:2412.03487).

    On its mixture path probabilities travel with the least kinetic energy.
    """

    def kappa(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return kappa(t)."""
        w = self._angle(overlap)
        return 1 - (((1 - t) * w).sin() / math.sin(w)) ** 2

    def rate(self, t: Tensor, overlap: float = 0.0) -> Tensor:
        """Return d kappa / dt."""
        w = self._angle(overlap)
        return w * (2 * (1 - t) * w).sin() / math.sin(w) ** 2

    @staticmethod
    def _angle(overlap: float) -> float:
        return max(
            math.acos(math.sqrt(overlap)), 1e-4
        )  # 0 for a single symbol, where sin W / W = 1


Schedule = Linear | Polynomial | Cosine | Kinetic
SCHEDULES = {"linear": Linear, "polynomial": Polynomial, "cosine": Cosine, "kinetic": Kinetic}


def get(name: str | Schedule) -> Schedule:
    """Return a schedule by name; "polynomial:4" sets the power."""
    if not isinstance(name, str):
        return name
    kind, _, option = name.partition(":")
    if kind not in SCHEDULES:
        raise unknown("schedule", kind, SCHEDULES)
    if not option:
        return SCHEDULES[kind]()
    if kind != "polynomial":
        raise BraidError(
            f"schedule {name!r}: only polynomial takes an option, as in 'polynomial:3'"
        )
    try:
        return Polynomial(float(option))
    except ValueError as e:
        raise BraidError(
            f"schedule {name!r}: expected a positive number after the colon, as in 'polynomial:3'"
        ) from e
