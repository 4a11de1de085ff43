"""The contract of a sampler: a frozen dataclass of options that turns noise into data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from braid.errors import BraidError
from braid.processes import Process
from braid.randomness import Rng

Predict = Callable[[Tensor, float], Tensor]
"""(tokens [B, n, ...], time) -> prediction [B, n, ...]."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Base of all samplers."""

    @staticmethod
    def suits(process: Process) -> bool:
        """Return whether the sampler can run this process."""
        raise NotImplementedError

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, ...] from the process's source to data."""
        raise NotImplementedError

    def calls(self, n: int, groups: int = 1) -> int:
        """Return the most network calls that n tokens of so many symbols each take."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Options of samplers that walk a time grid.

    Attributes:
        steps: number of steps, and of network calls.
        start: time of the state that is handed in; above 0 it refines a draft.
    """

    steps: int = 16
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BraidError(f"steps {self.steps} must be at least 1")
        if not 0 <= self.start < 1:
            raise BraidError(
                f"start {self.start} is out of range; use 0 (from noise) up to (not including) 1"
            )

    def calls(self, n: int, groups: int = 1) -> int:
        """Return the number of steps."""
        return self.steps

    def times(self) -> list[float]:
        """Return steps + 1 times from start to 1, exactly."""
        return [self.start + (1 - self.start) * i / self.steps for i in range(self.steps)] + [1.0]
