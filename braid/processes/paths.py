"""Probability paths on symbols: p_t(x | x1), kinetic-optimal rates along it, and one solver step.

A path leads from a simple source at t = 0 to the clean symbol x1 at t = 1. Both paths work on flat
symbols, or on any shape in which `time` has the leading axes of the symbols. Rows of a rate matrix
sum to zero: velocity(...)[i, x] is the rate of jumping from noisy[i] to x.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from braid.errors import unknown
from braid.processes import schedules
from braid.processes.process import each
from braid.randomness import Rng, integers, uniform, weighted


class Path:
    """What both paths share.

    Attributes:
        extra_symbols: 1 if noise is an extra symbol, with id `size`.
        masked: noise is the mask.
        horizon: where a likelihood bound stops integrating.
        copies: `jump` and `corrupt` put clean symbols where they go, and never look at them.
    """

    copies: ClassVar[bool] = False
    extra_symbols: int = 0
    masked: bool = False
    horizon: float = 1 - 1e-3

    def source(self, shape: tuple[int, ...], size: int, rng: Rng) -> Tensor:
        """Draw noise symbols."""
        return integers(rng, size, shape)

    def probabilities(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t(x | x1), [N, size + extra_symbols], for clean [N] and time [N] or scalar."""
        raise NotImplementedError

    def derivative(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return d p_t(x | x1) / dt, [N, size + extra_symbols]."""
        raise NotImplementedError

    def velocity(self, noisy: Tensor, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return the kinetic-optimal rates out of `noisy`, [N, size + extra_symbols].

        Those to other symbols are at least 0; rows sum to 0.
        """
        raise NotImplementedError

    def corrupt(self, clean: Tensor, time: Tensor, rng: Rng, size: int) -> Tensor:
        """Draw x ~ p_t(. | clean)."""
        raise NotImplementedError

    def jump(self, noisy: Tensor, clean: Tensor, t: float, s: float, rng: Rng, size: int) -> Tensor:
        """Take one solver step from t to s > t, given clean symbols; at s = 1 all are clean."""
        raise NotImplementedError

    def progress(self, t: Tensor, size: int) -> Tensor:
        """Return the share in [0, 1] of the way from source to data covered at times t."""
        raise NotImplementedError

    def grid(
        self, steps: int, start: float, spacing: Literal["time", "distance"], size: int
    ) -> list[float]:
        """Return steps + 1 times from `start` to 1, uniform in time or in distance travelled."""
        even = [start + (1 - start) * i / steps for i in range(steps)] + [1.0]
        if spacing == "time":
            return even
        fine = torch.linspace(start, 1, 2049, dtype=torch.float64)
        covered = self.progress(fine, size).numpy()
        marks = np.linspace(covered[0], covered[-1], steps + 1)
        times = [start, *np.interp(marks, covered, fine.numpy())[1:-1].tolist(), 1.0]
        # where no distance is left but rounding, times would fall together, or be none at all
        return times if all(t < s for t, s in itertools.pairwise(times)) else even


@dataclass(frozen=True)
class MixturePath(Path):
    """p_t(x | x1) = (1 - kappa) p(x) + kappa [x = x1], with the mask or the uniform source p.

    Rates: kappa' / (1 - kappa) ([x = x1] - [x = z]) (Gat et al., arXiv:2407.15595).
    """

    copies: ClassVar[bool] = True
    source_kind: Literal["mask", "uniform"]
    schedule: schedules.Schedule

    def __init__(
        self,
        source: Literal["mask", "uniform"] = "uniform",
        schedule: str | schedules.Schedule = "linear",
    ) -> None:
        if source not in ("mask", "uniform"):
            raise unknown("source", source, ("mask", "uniform"))
        object.__setattr__(self, "source_kind", source)
        object.__setattr__(self, "schedule", schedules.get(schedule))

    @property
    def masked(self) -> bool:  # type: ignore[override]
        """Whether noise is the mask symbol."""
        return self.source_kind == "mask"

    @property
    def extra_symbols(self) -> int:  # type: ignore[override]
        """One for the mask."""
        return int(self.masked)

    def overlap(self, size: int) -> float:
        """Return the probability that the source shows a given clean symbol."""
        return 0.0 if self.masked else 1 / size

    def kappa(self, time: Tensor, size: int) -> Tensor:
        """Return the probability that a symbol is clean."""
        return self.schedule.kappa(time, self.overlap(size))

    def rate(self, time: Tensor, size: int) -> Tensor:
        """Return kappa' / (1 - kappa), the rate at which a symbol jumps to the clean one."""
        return self.schedule.rate(time, self.overlap(size)) / (1 - self.kappa(time, size))

    def source(self, shape: tuple[int, ...], size: int, rng: Rng) -> Tensor:
        """Draw mask symbols (id `size`) or uniform ones."""
        drawn = integers(rng, size, shape)
        return torch.full_like(drawn, size) if self.masked else drawn

    def _source_probabilities(self, like: Tensor, size: int) -> Tensor:
        p = like.new_zeros(size + self.extra_symbols)
        if self.masked:
            p[size] = 1
        else:
            p[:] = 1 / size
        return p

    def probabilities(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t(x | x1)."""
        kappa = self.kappa(time, size).expand(clean.shape)[..., None]
        hot = F.one_hot(clean, size + self.extra_symbols).to(kappa.dtype)
        return (1 - kappa) * self._source_probabilities(kappa, size) + kappa * hot

    def derivative(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return d p_t / dt."""
        rate = self.schedule.rate(time, self.overlap(size)).expand(clean.shape)[..., None]
        hot = F.one_hot(clean, size + self.extra_symbols).to(rate.dtype)
        return rate * (hot - self._source_probabilities(rate, size))

    def velocity(self, noisy: Tensor, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return the rates out of `noisy`."""
        rate = self.rate(time, size).expand(clean.shape)[..., None]
        V = size + self.extra_symbols
        return rate * (F.one_hot(clean, V) - F.one_hot(noisy, V)).to(rate.dtype)

    def corrupt(self, clean: Tensor, time: Tensor, rng: Rng, size: int) -> Tensor:
        """Keep each symbol with probability kappa, else draw noise."""
        keep = uniform(rng, tuple(clean.shape)) < each(self.kappa(time, size), clean)
        return torch.where(keep, clean, self.source(tuple(clean.shape), size, rng))

    def share(self, t: float, s: float, size: int) -> float:
        """Return the probability that a noise symbol becomes clean from time t to s.

        It is (kappa_s - kappa_t) / (1 - kappa_t).
        """
        if s >= 1:
            return 1.0
        at = self.kappa(torch.tensor([t, s], dtype=torch.float64), size)
        return float((at[1] - at[0]) / (1 - at[0]))

    def jump(self, noisy: Tensor, clean: Tensor, t: float, s: float, rng: Rng, size: int) -> Tensor:
        """Move to the clean symbol with the exact probability of a jump; O(N)."""
        return torch.where(uniform(rng, tuple(noisy.shape)) < self.share(t, s, size), clean, noisy)

    def posterior(
        self, noisy: Tensor, clean: Tensor, t: float, s: float, rng: Rng, size: int
    ) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x1) of the noising chain, s > t (D3PM, arXiv:2107.03006); O(N).

        For the mask this is `jump`. For the uniform source the posterior is a mixture of staying,
        becoming clean, and a fresh uniform symbol.
        """
        if self.masked or s >= 1:
            return self.jump(noisy, clean, t, s, rng, size)
        k_t, k_s = (float(self.kappa(torch.tensor(x, dtype=torch.float64), size)) for x in (t, s))
        stay = k_t / k_s  # probability that the chain keeps the symbol from s back to t
        equal = (noisy == clean).double()
        weight = torch.stack(
            [
                stay * (1 - k_s) / size + equal * stay * k_s,
                equal * 0 + (1 - stay) * k_s / size,
                equal * 0 + (1 - stay) * (1 - k_s) / size,
            ],
            -1,
        )
        choice = weighted(rng, weight)
        fresh = integers(rng, size, tuple(noisy.shape))
        return torch.where(choice == 0, noisy, torch.where(choice == 1, clean, fresh))

    def progress(self, t: Tensor, size: int) -> Tensor:
        """Return kappa."""
        return self.kappa(t, size)
