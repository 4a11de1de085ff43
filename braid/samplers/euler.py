"""Euler's method on the probability-flow equation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from braid.processes import Process
from braid.randomness import Rng
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class Euler(Stepped, Sampler):
    """x + (s - t) velocity, and at last the data estimate; one network call a step."""

    @staticmethod
    def suits(process: Process) -> bool:
        """Run processes on vectors."""
        return process.continuous

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, width] from noise to data."""
        for t, s in pairwise(self.times()):
            x = advance(predict(x, t), x, process, t, s)
        return x


def advance(prediction: Tensor, x: Tensor, process: Process, t: float, s: float) -> Tensor:
    """Take Euler's step from t to s.

    At s = 1 it is the data estimate, as it is in any case where x is linear in time.
    """
    if s >= 1:
        return process.split(prediction, x, at(t, x))[0]  # type: ignore[attr-defined]
    return x + (s - t) * process.velocity(prediction, x, at(t, x))  # type: ignore[attr-defined]


def at(t: float, x: Tensor) -> Tensor:
    """Return the time t for each token of x [B, n, width]."""
    return torch.full(x.shape[:-1], t, device=x.device)
