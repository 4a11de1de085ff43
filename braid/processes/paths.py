"""Probability paths on symbols: p_t(x | x1), kinetic-optimal rates along it, and one solver step.

A path leads from a simple source at t = 0 to the clean symbol x1 at t = 1. Both paths work on flat
symbols, or on any shape in which `time` has the leading axes of the symbols. Rows of a rate matrix
sum to zero: velocity(...)[i, x] is the rate of jumping from noisy[i] to x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from braid.errors import BraidError, unknown
from braid.processes import schedules
from braid.processes.draws import LEAST, blocks, invert
from braid.processes.process import each
from braid.randomness import Rng, integers, uniform, weighted

_SMALL = 1 << 20  # distances that are kept in a table: those of 1024 symbols


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
        square = points.square().sum(-1, keepdim=True)
        prepared = torch.cat([points, square, torch.ones_like(square)], 1)
        object.__setattr__(self, "_prepared", {(torch.float64, torch.device("cpu")): prepared})
        object.__setattr__(self, "_tables", {})

    def points(self, like: Tensor) -> Tensor:
        """Return the prepared table, typed and placed as `like`, [V, width + 2].

        Behind each row stand its squared length and a 1: |p - q|^2 is then one product of
        (-2 p, 1, |p|^2) and (q, |q|^2, 1).
        """
        known: dict[Any, Tensor] = self._prepared  # type: ignore[attr-defined]
        at = (like.dtype, like.device)
        if at not in known:  # copied there once
            known[at] = next(iter(known.values())).to(like.dtype).to(like.device)
        return known[at]

    def beta(self, time: Tensor) -> Tensor:
        """Return beta(t)."""
        return self.c * (time / (1 - time)) ** self.a

    def beta_rate(self, time: Tensor) -> Tensor:
        """Return d beta / dt."""
        return self.c * self.a * time ** (self.a - 1) * (1 - time) ** (-self.a - 1)

    def distances(self, clean: Tensor, like: Tensor, out: Tensor | None = None) -> Tensor:
        """Return d(x, x1) to every symbol, [N, V], in `out` if it is given.

        O(V) a symbol, or a look-up in a small table.
        """
        V = len(self.table)
        if V * V > _SMALL:
            return self._distances(clean, like, out)
        known: dict = self._tables  # type: ignore[attr-defined]
        at = (like.dtype, like.device)
        if at not in known:
            known[at] = self._distances(torch.arange(V, device=like.device), like)
        return known[at][clean] if out is None else torch.index_select(known[at], 0, clean, out=out)

    def _distances(self, clean: Tensor, like: Tensor, out: Tensor | None = None) -> Tensor:
        square = self._squares(clean, like, 1.0, out)
        square.clamp_(0, 4 if self.distance == "cosine" else 1)
        return square if self.power == 2 else square.pow_(self.power / 2)

    def _squares(
        self, clean: Tensor, like: Tensor, scale: Tensor | float, out: Tensor | None
    ) -> Tensor:
        """Return scale |x - x1|^2 of the prepared rows, [..., V], up to rounding, in `out`."""
        points = self.points(like)
        near, width = points[clean], self.table.shape[1]
        if self.distance == "ordinal" and width == 1:
            square = torch.sub(near[..., :1], points[:, 0], out=out).square_().mul_(scale)
        else:
            pair = torch.cat([-2 * near[..., :width], near[..., [-1, -2]]], -1) * scale
            square = torch.matmul(pair, points.T, out=out)
        # rounding must not put the clean symbol away from itself
        return square.scatter_(-1, clean[..., None], 0)

    def _exponents(self, clean: Tensor, scale: Tensor | float, out: Tensor) -> Tensor:
        """Write -scale d(x, x1) for clean [n] and all x in `out` [n, V].

        Where d is not looked up, the scale goes into the product of the rows, and a pass over all
        symbols is saved.
        """
        if len(self.table) ** 2 <= _SMALL:
            return self.distances(clean, out, out).mul_(-scale)
        square = self._squares(clean, out, scale ** (2 / self.power), out)
        if self.power == 4:  # a rounding error below 0 is squared away
            return torch.addcmul(out.new_zeros(()), square, square, value=-1, out=out)
        return square.clamp_(min=0).pow_(self.power / 2).neg_()

    def _apart(self, one: Tensor, other: Tensor, like: Tensor) -> Tensor:
        """Return d of pairs of symbols [n], up to rounding."""
        points = self.points(like)[:, :-2]
        return (points[one] - points[other]).square_().sum(-1).pow_(self.power / 2)

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
        beta = self.beta(time.clamp(max=1 - 1e-6).float()).flatten()
        mark, x1 = uniform(rng, tuple(clean.shape)).flatten(), clean.flatten()
        noisy = torch.empty_like(x1)
        space: Tensor | None = None
        for rows in self._blocks(len(x1), x1.device):
            # one block for all: fresh memory takes longer than what is computed in it
            space = beta.new_empty(rows.stop, len(self.table)) if space is None else space
            scale = beta[rows, None] * math.log2(math.e)
            e = self._exponents(x1[rows], scale, space[: len(scale)])
            noisy[rows] = invert(_power(e, e), mark[rows])[0]
        return torch.where(time >= 1, clean, noisy.view_as(clean))

    def _blocks(self, rows: int, device: torch.device) -> Iterator[slice]:
        """Split rows so that a wide table is not read again for each few of them."""
        V, width = self.table.shape
        if V * V <= _SMALL:
            return blocks(rows, V, device)
        # twice the usual block: the many short operations of a jump would take longer to start
        return blocks(rows, -(-V // 2), device, least=min(64, width // 8))

    def jump(self, noisy: Tensor, clean: Tensor, t: float, s: float, rng: Rng, size: int) -> Tensor:
        """Jump with probability 1 - exp(-rate), with beta's exact increment and the midpoint's p.

        The error is about an eighth of the plain step's, at the same number of network calls.
        """
        self._check(size)
        u, mark = uniform(rng, tuple(noisy.shape)), uniform(rng, tuple(noisy.shape))
        if s >= 1:
            return clean
        before, beta, after = self.beta(
            torch.tensor([t, (t + s) / 2, s], dtype=torch.float64)
        ).tolist()
        growth = after - before
        # the rate is E[(d_z - d)_+] <= d_z: symbols that stay even so are spared the sum over all
        limit = -torch.expm1(-growth * self._apart(noisy, clean, u))
        rows = ((noisy != clean) & (u <= limit * (1 + 1e-4) + 1e-6)).flatten().nonzero()[:, 0]
        z, x1, u, mark = (v.flatten()[rows] for v in (noisy, clean, u, mark))
        return (
            noisy.flatten()
            .index_copy(0, rows, self._leap(z, x1, beta, growth, u, mark))
            .view_as(noisy)
        )

    def _leap(
        self, z: Tensor, x1: Tensor, beta: float, growth: float, u: Tensor, mark: Tensor
    ) -> Tensor:
        """Return where symbols z [n] are next: at z, or where mark [n] leads them."""
        if not len(z):
            return z
        goal, pull = self._pulled(z, x1, beta, mark)
        return torch.where(u < -torch.expm1(-growth * pull), goal, z)

    def _pulled(self, z: Tensor, x1: Tensor, beta: float, mark: Tensor) -> tuple[Tensor, Tensor]:
        """Return where marks [n] lead from z in proportion to p(x) (d(z, x1) - d(x, x1))_+.

        Returned are the symbols [n] and the sums of these over x, [n]. Distances from a clean
        symbol that several share are computed once.
        """
        known, which = torch.unique(x1, return_inverse=True)
        if 2 * len(known) > len(x1):
            return self._pulled_alone(z, x1, beta, mark)
        order = which.argsort()
        z, mark, own = z[order], mark[order], which[order]
        ends = torch.searchsorted(own, torch.arange(len(known) + 1, device=z.device)).tolist()
        scale = beta * math.log2(math.e)
        goal, total = torch.empty_like(z), torch.empty_like(mark)
        parts = list(self._blocks(len(known), z.device))
        most = next(self._blocks(len(z), z.device)).stop
        # the same blocks for all: fresh memory takes longer than what is computed in it
        space = mark.new_empty(2, parts[0].stop, len(self.table))
        copies = mark.new_empty(2, most, len(self.table))
        for part in parts:
            e, p = space[:, : part.stop - part.start]
            norm = _power(self._exponents(known[part], scale, e), p).sum(-1)
            begin, end = ends[part.start], ends[part.stop]
            for first in range(begin, end, most):
                rows = slice(first, min(first + most, end))
                at = own[rows] - part.start
                own_e, own_p = copies[:, : len(at)]
                torch.index_select(e, 0, at, out=own_e)
                torch.index_select(p, 0, at, out=own_p)
                goal[rows], pull = _nearer(own_e, own_p, z[rows], mark[rows])
                total[rows] = pull / (norm[at] * scale)
        back = order.argsort()
        return goal[back], total[back]

    def _pulled_alone(
        self, z: Tensor, x1: Tensor, beta: float, mark: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what `_pulled` does where most clean symbols differ: nothing is shared."""
        scale = beta * math.log2(math.e)
        goal, total = torch.empty_like(z), torch.empty_like(mark)
        parts = list(self._blocks(len(x1), z.device))
        space = mark.new_empty(2, parts[0].stop, len(self.table))
        for part in parts:
            e, p = space[:, : part.stop - part.start]
            norm = _power(self._exponents(x1[part], scale, e), p).sum(-1)
            goal[part], pull = _nearer(e, p, z[part], mark[part])
            total[part] = pull / (norm * scale)
        return goal, total

    def progress(self, t: Tensor, size: int) -> Tensor:
        """Return 1 - E[d] / E_0[d], averaged over (at most 64) clean symbols."""
        return torch.from_numpy(np.interp(t.numpy(), *_travelled(self)))


def _power(exponent: Tensor, out: Tensor) -> Tensor:
    """Write 2 to the exponents, of which the largest is 0 at the clean symbol; not below 2^-64."""
    return torch.clamp(exponent, min=LEAST, out=out).exp2_()


def _nearer(e: Tensor, p: Tensor, z: Tensor, mark: Tensor) -> tuple[Tensor, Tensor]:
    """Draw x in proportion to p(x) (e(x) - e(z))_+ [n, V] by marks [n]; return it and the sums.

    Both arguments are used up. As e(z) is from the same row, symbols as far from x1 as z is get no
    weight by rounding.
    """
    far = e.gather(-1, z[:, None])
    return invert(p.mul_(e.clamp_min_(far).sub_(far)), mark)


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
