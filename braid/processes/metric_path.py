"""The path of symbols with a metric: far symbols fade first, and each jump leads closer.

A jump looks at all symbols a block at a time, or, where that is enough, at a few proposals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from braid.errors import BraidError, unknown
from braid.processes import proposals
from braid.processes.draws import LEAST, blocks, invert
from braid.processes.paths import Path
from braid.processes.process import each
from braid.randomness import Keys, Rng, bits, uniform

LATEST = 1 - 1e-6
"""Latest time at which beta, infinite at 1, is taken."""

_SMALL = 1 << 20  # distances that are kept in a table: those of 1024 symbols
_COST = 16  # symbols of a pass over all of them that take as long as a proposal, where a row is
_NARROW = 64  # of at most so many numbers
_HELD = 1 << 22  # numbers of the rows of one round of proposals


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
            pair = torch.cat([-2 * near[..., :width], near[..., -2:].flip(-1)], -1) * scale
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

    def _apart(self, like: Tensor) -> proposals.Distances:
        """Return what gives d of symbols [..., k] and clean symbols [...], up to rounding."""
        points, width = self.points(like), self.table.shape[1]

        def apart(x: Tensor, clean: Tensor) -> Tensor:
            away = F.embedding(x, points).sub_(F.embedding(clean[..., None], points))
            # not of a slice of the points, which would be a copy of them
            return away[..., :width].square_().sum(-1).pow_(self.power / 2)

        return apart

    @property
    def _tries(self) -> bool:
        """Whether proposals are tried: many symbols, whose distances are soon computed."""
        V, width = self.table.shape
        return V * V > _SMALL and width <= _NARROW

    @property
    def _most(self) -> int:
        """How many proposals cost as much as a pass over all symbols."""
        return len(self.table) // _COST

    @property
    def _together(self) -> int:
        """How many symbols are proposed for at a time."""
        return max(1, _HELD // (proposals.LARGEST * self.table.shape[1]))

    def _check(self, size: int) -> None:
        if size != len(self.table):
            raise BraidError(
                f"metric path: its table has {len(self.table)} rows, the space {size} symbols; "
                f"give a table of {size} rows"
            )

    def probabilities(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t(x | x1); at time 1 all of it is on x1."""
        self._check(size)
        time = time.expand(clean.shape)[..., None]
        beta = self.beta(time.clamp(max=LATEST))
        p = torch.softmax(-beta * self.distances(clean, beta), -1)
        return torch.where(time >= 1, F.one_hot(clean, size).to(p.dtype), p)

    def derivative(self, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return p_t beta' (E[d] - d)."""
        p, d = self.probabilities(clean, time, size), self.distances(clean, time)
        rate = self.beta_rate(time.clamp(max=LATEST)).expand(clean.shape)[..., None]
        return p * rate * ((p * d).sum(-1, keepdim=True) - d)

    def velocity(self, noisy: Tensor, clean: Tensor, time: Tensor, size: int) -> Tensor:
        """Return the rates out of `noisy`."""
        p, d = self.probabilities(clean, time, size), self.distances(clean, time)
        rate = self.beta_rate(time.clamp(max=LATEST)).expand(clean.shape)[..., None]
        z = noisy[..., None]
        u = p * rate * (d.gather(-1, z) - d).clamp(min=0)
        return u.scatter(-1, z, 0).scatter_add(-1, z, -u.sum(-1, keepdim=True))

    def corrupt(self, clean: Tensor, time: Tensor, rng: Rng, size: int) -> Tensor:
        """Draw x ~ p_t(. | clean); at time 1 it is clean."""
        self._check(size)
        time = each(time, clean).expand(clean.shape)
        beta = self.beta(time.clamp(max=LATEST).float()).flatten()
        mark, x1 = uniform(rng, tuple(clean.shape)).flatten(), clean.flatten()
        if not self._tries:
            return torch.where(time >= 1, clean, self._drawn(x1, beta, mark).view_as(clean))
        keys = bits(rng, tuple(clean.shape)).flatten()
        due, soon = time.flatten() < 1, beta <= _limit(self)
        noisy, rest = x1.clone(), [(due & ~soon).nonzero()[:, 0]]
        for rows in (due & soon).nonzero()[:, 0].split(self._together):
            noisy[rows], left = proposals.reject(
                self._apart(beta), x1[rows], beta[rows], size, keys[rows], self._most
            )
            rest.append(rows[left])
        rows = torch.cat(rest)
        noisy[rows] = self._drawn(x1[rows], beta[rows], mark[rows])
        return noisy.view_as(clean)

    def _drawn(self, x1: Tensor, beta: Tensor, mark: Tensor) -> Tensor:
        """Return draws from exp(-beta d(x, x1)), by marks; all are [n]."""
        noisy = torch.empty_like(x1)
        space: Tensor | None = None
        for rows in self._blocks(len(x1), x1.device):
            # one block for all: fresh memory takes longer than what is computed in it
            space = beta.new_empty(rows.stop, len(self.table)) if space is None else space
            scale = beta[rows, None] * math.log2(math.e)
            e = self._exponents(x1[rows], scale, space[: len(scale)])
            noisy[rows] = invert(_power(e, e), mark[rows])[0]
        return noisy

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
        keys = bits(rng, tuple(noisy.shape)) if self._tries else torch.zeros_like(noisy)
        if s >= 1:
            return clean
        before, beta, after = self.beta(
            torch.tensor([t, (t + s) / 2, s], dtype=torch.float64)
        ).tolist()
        growth = after - before
        # the rate is E[(d_z - d)_+] <= d_z: symbols that stay even so are spared the sum over all
        events, clock = growth * self._apart(u)(noisy[..., None], clean)[..., 0], -torch.log1p(-u)
        rows = ((noisy != clean) & (clock <= events * (1 + 1e-4) + 1e-6)).flatten().nonzero()[:, 0]
        z, x1, events, clock, mark, keys = (
            v.flatten()[rows] for v in (noisy, clean, events, clock, mark, keys)
        )
        moved = z
        if self._tries and beta <= _limit(self):
            given = (v.split(self._together) for v in (z, x1, events, clock, mark, keys))
            parts = [self._thinned(part, beta, growth) for part in zip(*given, strict=True)]
            moved = torch.cat(parts)
        elif len(z):
            goal, pull = self._pulled(z, x1, beta, mark)
            moved = torch.where(clock < growth * pull, goal, z)
        return noisy.flatten().index_copy(0, rows, moved).view_as(noisy)

    def _thinned(self, tokens: Sequence[Tensor], beta: float, growth: float) -> Tensor:
        """Return where symbols z [n] are next: by proposals, then by all symbols for the rest.

        The tokens are z, x1, events, clock, mark and keys, each [n].
        """
        z, x1, events, clock, mark, keys = tokens
        moved, rows, clock = proposals.thin(
            self._apart(mark), z, x1, beta, events, clock, len(self.table), keys, self._most
        )
        if len(rows):
            z, events = z[rows], events[rows]
            goal, pull = self._pulled(z, x1[rows], beta, mark[rows])
            share = growth * pull / events  # of the events, the next of which is due, that move z
            stays = (1 - share) * torch.exp(-(events - clock) * share)
            fresh = uniform(Keys(keys[rows], draws=1), (len(rows),))
            moved[rows] = torch.where(fresh < stays, z, goal)
        return moved

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
def _limit(path: MetricPath) -> float:
    """Return the largest beta at which proposals are accepted soon enough to be worth trying."""
    size = len(path.table)
    clean = torch.linspace(0, size - 1, min(size, 64)).long()
    d = path.distances(clean, torch.zeros((), dtype=torch.float64))
    beta = torch.logspace(-2, 3, 61, dtype=torch.float64)
    accepted = torch.stack([torch.exp(-b * d).mean() for b in beta])
    soon = beta[accepted * path._most >= 3]
    return float(soon[-1]) if len(soon) else 0.0


@lru_cache(maxsize=16)
def _travelled(path: MetricPath) -> tuple[np.ndarray, np.ndarray]:
    size = len(path.table)
    clean = torch.linspace(0, size - 1, min(size, 64)).long()
    time = torch.linspace(0, LATEST, 257, dtype=torch.float64)
    d = path.distances(clean, time)
    left = torch.stack([(torch.softmax(-b * d, -1) * d).sum(-1).mean() for b in path.beta(time)])
    return time.numpy(), (1 - left / left[0]).cummax(0).values.numpy()


def _diameter(points: Tensor) -> float:
    low, high = points.amin(0), points.amax(0)
    return max(float((high - low).norm()), 1e-12)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
