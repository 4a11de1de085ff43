"""Jump processes in continuous time: draw x1, then let each symbol jump at its path's rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes import Path, Process
from braid.randomness import Rng, uniform
from braid.samplers.filters import PENDING, Drawing
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class Jump(Stepped, Drawing, Sampler):
    """Simulate the Markov chain of a discrete flow (arXiv:2407.15595, arXiv:2412.03487).

    Each step uses the exact increment of the path's clock, and probabilities at its middle; the
    last one takes x1. n steps cost n network calls. Where a path does no more than copy x1, it is
    drawn only for the symbols that jump.

    Attributes:
        spacing: time grid uniform in "time" or in the "distance" that symbols travel.
        churn: expected number of times a symbol is drawn afresh from p_s(. | x1) on the way; leaves
            the marginals as they are for a known x1 (the divergence-free part of the velocity), and
            gives errors a chance to be corrected.
    """

    spacing: Literal["time", "distance"] = "time"
    churn: float = 0.0

    def __post_init__(self) -> None:
        Stepped.__post_init__(self)
        Drawing.__post_init__(self)
        if self.spacing not in ("time", "distance"):
            raise unknown("spacing", self.spacing, ("time", "distance"))
        if not 0 <= self.churn < math.inf:
            raise BraidError(f"churn {self.churn} must be a number, 0 or more")

    @staticmethod
    def suits(process: Process) -> bool:
        """Run every path on symbols."""
        return hasattr(process, "path")

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, ...] from the source to data."""
        path: Path = process.path  # type: ignore[attr-defined]
        times: list[float] | None = None
        step = 0
        again = -math.expm1(-self.churn / self.steps)
        while times is None or step < self.steps:
            t = self.start if times is None else times[step]
            logits = predict(x, t)
            V = logits.shape[-1]
            times = times or path.grid(self.steps, self.start, self.spacing, V)
            draw = self.begin(logits, rng)
            clean = torch.full_like(x, PENDING) if path.copies else draw.all()
            if process.keeps:
                clean = torch.where(x == V, clean, x)
            s = times[step + 1]
            x = path.jump(x, clean, t, s, rng, V)
            if self.churn and s < 1:
                fresh = path.corrupt(clean, torch.full(x.shape, s, device=x.device), rng, V)
                x = torch.where(uniform(rng, tuple(x.shape)) < again, fresh, x)
            x = draw.fill(x) if path.copies else x
            step += 1
        return x
