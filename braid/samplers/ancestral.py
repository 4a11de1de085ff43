"""Ancestral sampling of mixture paths: D3PM, MDLM, ReMDM and predictor-correctors in one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes import MixturePath, Process
from braid.randomness import Rng, uniform
from braid.samplers.filters import PENDING, Drawing
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class Ancestral(Stepped, Drawing, Sampler):
    """Draw x1, then x_s from psi posterior(x_s | x_t, x1) + (1 - psi) p_s(x_s | x1).

    That is the psi-sampler of arXiv:2602.21185. psi = 1 is ancestral sampling (D3PM,
    arXiv:2107.03006; MDLM, arXiv:2406.07524), psi = 0 noises afresh at every step.

    Attributes:
        psi: share of the posterior.
        remask: choose psi so that a symbol is covered again with ReMDM's probability
            (arXiv:2503.00307): "cap" is min(eta, largest), "rescale" is eta times the largest, both
            at most 1 - kappa_s, where psi is 0; "none" keeps psi.
        eta: strength of the re-masking.
    """

    psi: float = 1.0
    remask: Literal["none", "cap", "rescale"] = "none"
    eta: float = 0.02

    def __post_init__(self) -> None:
        Stepped.__post_init__(self)
        Drawing.__post_init__(self)
        if not 0 <= self.psi <= 1 or not 0 <= self.eta <= 1:
            raise BraidError(f"psi {self.psi} and eta {self.eta} must lie in 0..1")
        if self.remask not in ("none", "cap", "rescale"):
            raise unknown("remask", self.remask, ("none", "cap", "rescale"))

    @staticmethod
    def suits(process: Process) -> bool:
        """Run mixture paths."""
        return isinstance(getattr(process, "path", None), MixturePath)

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Carry x [B, n, ...] from the source to data."""
        path: MixturePath = process.path  # type: ignore[attr-defined]
        for t, s in pairwise(self.times()):
            logits = predict(x, t)
            V = logits.shape[-1]
            draw = self.begin(logits, rng)
            if path.masked:  # what is uncovered is taken as known
                clean = torch.where(x == V, PENDING, x)
            else:  # the posterior looks at the symbol
                clean = draw.all()
            after = path.posterior(x, clean, t, s, rng, V)
            fresh = path.corrupt(clean, torch.full(x.shape, s, device=x.device), rng, V)
            x = torch.where(uniform(rng, tuple(x.shape)) < self._psi(path, t, s, V), after, fresh)
            x = draw.fill(x) if path.masked else x
        return x

    def _psi(self, path: MixturePath, t: float, s: float, size: int) -> float:
        if self.remask == "none" or s >= 1:
            return self.psi
        k_t, k_s = path.kappa(torch.tensor([t, s], dtype=torch.float64), size).tolist()
        largest = min(1.0, (1 - k_s) / k_t) if k_t > 0 else 1.0
        sigma = min(self.eta, largest) if self.remask == "cap" else self.eta * largest
        return max(0.0, 1 - sigma / (1 - k_s))
