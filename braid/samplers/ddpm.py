"""DDPM and DDIM: from estimates of data and noise to less noise, with fresh noise in between."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.processes import Process
from braid.randomness import Rng, normal
from braid.samplers.euler import at
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class DDPM(Stepped, Sampler):
    """x_s = alpha_s data + sqrt(sigma_s^2 - v^2) noise + v fresh (DDIM, arXiv:2010.02502).

    Attributes:
        eta: 1 is ancestral (DDPM, arXiv:2006.11239), 0 is deterministic (DDIM).
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise BraidError(f"eta {self.eta} is out of range; use 0 (DDIM) up to 1 (DDPM)")

    @staticmethod
    def suits(process: Process) -> bool:
        """Run processes on vectors."""
        return process.continuous

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, width] from noise to data."""
        for t, s in pairwise(self.times()):
            clean, noise = process.split(predict(x, t), x, at(t, x))  # type: ignore[attr-defined]
            ends = torch.tensor([t, s], dtype=torch.float64)
            (a_t, a_s), (s_t, s_s) = process.alpha_sigma(ends)  # type: ignore[attr-defined]
            # v^2 / eta^2 is the chain's: sigma_s^2 (1 - (sigma_s alpha_t / sigma_t alpha_s)^2)
            v = self.eta * float(s_s * (1 - (s_s * a_t / (s_t * a_s)) ** 2).clamp(min=0).sqrt())
            fresh = normal(rng, tuple(x.shape))
            x = float(a_s) * clean + max(0.0, float(s_s) ** 2 - v**2) ** 0.5 * noise + v * fresh
        return x
