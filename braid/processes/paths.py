"""Probability paths on symbols: p_t(x | x1), kinetic-optimal rates along it, and one solver step.

A path leads from a simple source at t = 0 to the clean symbol x1 at t = 1. Both paths work on flat
symbols, or on any shape in which `time` has the leading axes of the symbols. Rows of a rate matrix
sum to zero: velocity(...)[i, x] is the rate of jumping from noisy[i] to x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from braid.errors import BraidError, unknown
from braid.processes import schedules
from braid.processes.process import each
from braid.randomness import Rng, integers, uniform, weighted


class Path:
    """What both paths share.

    Attributes:
        extra_symbols: 1 if noise is an extra symbol, with id `size`.
        masked: noise is the mask.
        horizon: where a likelihood bound stops integrating.
    """

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
        if spacing == "time":
            return [start + (1 - start) * i / steps for i in range(steps)] + [1.0]
        fine = torch.linspace(start, 1, 2049, dtype=torch.float64)
        covered = self.progress(fine, size).numpy()
        marks = np.linspace(covered[0], covered[-1], steps + 1)
        times = np.interp(marks, covered, fine.numpy())
        return [start, *(float(t) for t in times[1:-1]), 1.0]


@dataclass(frozen=True)
class MixturePath(Path):
    """p_t(x | x1) = (1 - kappa) p(x) + kappa [x = x1], with the mask or the uniform source p.

    Rates: kappa' / (1 - kappa) ([x = x1] - [x = z]) (Gat et al., arXiv:2407.15595).
    """

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


@dataclass(frozen=True, eq=False)
class MetricPath(Path):
    """p_t(x | x1) proportional to exp(-beta_t d(x, x1)), with beta_t = c (t / (1 - t))^a.

    Rates: p_t(x | x1) beta' [d(z, x1) - d(x, x1)]_+, so a symbol only moves closer to x1
    (Shaul et al., arXiv:2412.03487; FUDOKI, arXiv:2505.20147).

    Attributes:
        table: [V, width] embeddings of the symbols.
        a, c: shape and scale of beta.
        power: d is a Euclidean distance to this power.
        distance: "cosine" normalises the rows first, so that d = (2 - 2 cos)^(power / 2); "ordinal"
            takes the rows as they are and divides by the diagonal of the box that holds them, so
            that d lies in [0, 1].
        horizon: where a likelihood bound stops integrating and draws the symbols; every horizon
            gives a bound, and late ones are loose, since beta grows without limit.
    """

    table: Tensor = field(repr=False)
    a: float = 0.9
    c: float = 3.0
    power: float = 4
    distance: Literal["cosine", "ordinal"] = "cosine"
    horizon: float = 0.6

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or not self.table.is_floating_point():
            raise BraidError(
                "metric path: expected a float table [symbols, width], "
                f"got {self.table.dtype} {tuple(self.table.shape)}"
            )
        if min(self.a, self.c, self.power) <= 0:
            raise BraidError(
                f"metric path: a {self.a}, c {self.c} and power {self.power} must be positive"
            )
        if self.distance not in ("cosine", "ordinal"):
            raise unknown("distance", self.distance, ("cosine", "ordinal"))
        points = self.table.detach().cpu().double()
        if self.distance == "cosine":
            if bool((points.norm(dim=1) == 0).any()):
                _warn(
                    "a row of the metric path's table is zero: it is at distance 1 from all others"
                )
            points = F.normalize(points, dim=1)
        else:
            points = points / _diameter(points)
        if len(torch.unique(points, dim=0)) < len(points):
            _warn(
                "two rows of the metric path's table coincide: it cannot tell their symbols apart"
            )
        prepared = (points, points.square().sum(-1))
        object.__setattr__(self, "_prepared", {(torch.float64, torch.device("cpu")): prepared})

    def points(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prepared table and its squared row lengths, typed and placed as `like`."""
        known: dict = self._prepared  # type: ignore[attr-defined]
        at = (like.dtype, like.device)
        if at not in known:  # copied there once
            known[at] = tuple(x.to(like.dtype).to(like.device) for x in next(iter(known.values())))
        return known[at]

    def beta(self, time: Tensor) -> Tensor:
        """Return beta(t)."""
        return self.c * (time / (1 - time)) ** self.a

    def beta_rate(self, time: Tensor) -> Tensor:
        """Return d beta / dt."""
        return self.c * self.a * time ** (self.a - 1) * (1 - time) ** (-self.a - 1)

    def distances(self, clean: Tensor, like: Tensor) -> Tensor:
        """Return d(x, x1) to every symbol, [N, V]; O(V) a symbol."""
        points, size = self.points(like)
        if self.distance == "ordinal" and points.shape[1] == 1:
            square = (points[clean] - points[:, 0]) ** 2
        else:
            square = points[clean] @ points.T
            square.mul_(-2).add_(size).add_(size[clean][..., None])
        square.clamp_(0, 4 if self.distance == "cosine" else 1)
        # rounding must not put the clean symbol away from itself
        square.scatter_(-1, clean[..., None], 0)
        return square if self.power == 2 else square ** (self.power / 2)

    def _check(self, size: int) -> None:
        if size != len(self.table):
            raise BraidError(
                f"metric path: its table has {len(self.table)} rows, the space {size} symbols; "
                f"give a table of {size} rows"
            )

    def probabilities(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t(x | x1)."""
        self._check(size)
        beta = self.beta(time).expand(clean.shape)[..., None]
        return torch.softmax(-beta * self.distances(clean, beta), -1)

    def derivative(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t beta' (E[d] - d)."""
        p, d = self.probabilities(clean, time, size), self.distances(clean, time)
        rate = self.beta_rate(time).expand(clean.shape)[..., None]
        return p * rate * ((p * d).sum(-1, keepdim=True) - d)

    def velocity(self, noisy: Tensor, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return the rates out of `noisy`."""
        p, d = self.probabilities(clean, time, size), self.distances(clean, time)
        rate = self.beta_rate(time).expand(clean.shape)[..., None]
        z = noisy[..., None]
        u = p * rate * (d.gather(-1, z) - d).clamp(min=0)
        return u.scatter(-1, z, 0).scatter_add(-1, z, -u.sum(-1, keepdim=True))

    def corrupt(self, clean: Tensor, time: Tensor, rng: Rng, size: int) -> Tensor:
        """Draw x ~ p_t(. | clean); at time 1 it is clean."""
        self._check(size)
        time = each(time, clean).expand(clean.shape)
        beta = self.beta(time.clamp(max=1 - 1e-6).float())[..., None]
        weight = (-beta * self.distances(clean, beta)).exp_()
        return torch.where(time >= 1, clean, weighted(rng, weight))

    def jump(self, noisy: Tensor, clean: Tensor, t: float, s: float, rng: Rng, size: int) -> Tensor:
        """Jump with probability 1 - exp(-rate), with beta's exact increment and the midpoint's p.

        The error is about an eighth of the plain step's, at the same number of network calls.
        """
        self._check(size)
        u, alike = uniform(rng, tuple(noisy.shape)), uniform(rng, tuple(noisy.shape))
        if s >= 1:
            return clean
        at = torch.tensor([t, (t + s) / 2, s], dtype=torch.float64)
        beta = self.beta(at).tolist()
        active = (noisy != clean).nonzero(as_tuple=True)
        z, x1 = noisy[active], clean[active]
        d = self.distances(x1, u)
        p = (-beta[1] * d).exp_()
        norm = p.sum(-1)
        weight = p.mul_((d.gather(-1, z[..., None]) - d).clamp_(min=0)).cumsum_(-1)
        total = weight[..., -1]
        moves = u[active] < -torch.expm1(-(beta[2] - beta[0]) * total / norm)
        mark = torch.minimum(alike[active] * total, torch.nextafter(total, torch.zeros_like(total)))
        goal = torch.searchsorted(weight, mark[:, None], right=True)[:, 0].clamp_(max=size - 1)
        return noisy.index_put(active, torch.where(moves, goal, z))

    def progress(self, t: Tensor, size: int) -> Tensor:
        """Return 1 - E[d] / E_0[d], averaged over (at most 64) clean symbols."""
        return torch.from_numpy(np.interp(t.numpy(), *_travelled(self)))


@lru_cache(maxsize=16)
def _travelled(path: MetricPath) -> tuple[np.ndarray, np.ndarray]:
    size = len(path.table)
    clean = torch.linspace(0, size - 1, min(size, 64)).long()
    time = torch.linspace(0, 1 - 1e-6, 257, dtype=torch.float64)
    d = path.distances(clean, time)
    left = torch.stack([(torch.softmax(-b * d, -1) * d).sum(-1).mean() for b in path.beta(time)])
    return time.numpy(), (1 - left / left[0]).cummax(0).values.numpy()


def _diameter(points: Tensor) -> float:
    low, high = points.amin(0), points.amax(0)
    return max(float((high - low).norm()), 1e-12)


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, stacklevel=4)


PATHS = {"mixture": MixturePath, "metric": MetricPath}
