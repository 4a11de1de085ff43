"""Heun's method (arXiv:2206.00364, algorithm 1 without noise), of second order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from braid.processes import Process
from braid.randomness import Rng
from braid.samplers.euler import advance, at
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class Heun(Stepped, Sampler):
    """Average the velocities at both ends of a step: two network calls.

    The last step is Euler's, since the velocity at 1 is not defined for all predictions.
    """

    @staticmethod
    def suits(process: Process) -> bool:
        """Run processes on vectors."""
        return process.continuous

    def calls(self, n: int, groups: int = 1) -> int:
        """Return two for each step but the last."""
        return 2 * self.steps - 1

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, width] from noise to data."""
        for t, s in pairwise(self.times()):
            y = advance(predict(x, t), x, process, t, s)
            if s < 1:
                w = process.velocity(predict(y, s), y, at(s, y))  # type: ignore[attr-defined]
                y = (y + x + (s - t) * w) / 2  # between the steps with either end's velocity
            x = y
        return x
