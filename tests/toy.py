"""Dense twins in float64 of what the library does with draws: small enough to enumerate."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from braid.processes import MetricPath, MixturePath, Path


def at(t: float) -> Tensor:
    """Return a time, float64."""
    return torch.tensor(t, dtype=torch.float64)


def states(path: Path, size: int) -> Tensor:
    """Return all symbols that a path can show."""
    return torch.arange(size + path.extra_symbols)


def probabilities(path: Path, t: float, size: int) -> Tensor:
    """Return p_t(x | x1) for every x1, [x1, x]."""
    clean = torch.arange(size)
    return path.probabilities(clean, at(t).expand(size), size)


def rates(path: Path, t: float, size: int) -> Tensor:
    """Return the rate matrix of every x1, [x1, from, to]."""
    noisy = states(path, size)
    clean = torch.arange(size).repeat_interleave(len(noisy))
    u = path.velocity(noisy.repeat(size), clean, at(t).expand(len(clean)), size)
    return u.view(size, len(noisy), len(noisy))


def support(path: Path, size: int) -> Tensor:
    """Return which symbols p_t(. | x1) shows for 0 < t < 1, [x1, x]."""
    return probabilities(path, 0.5, size) > 0


def step_matrix(path: Path, t: float, s: float, size: int, plain: bool = False) -> Tensor:
    """Return the transition matrices of one solver step from t to s < 1, [x1, from, to].

    `plain` is Euler's step: the rates at its beginning.
    """
    n = size + path.extra_symbols
    stay = torch.eye(n, dtype=torch.float64)
    hot = torch.eye(n, dtype=torch.float64)[:size, None]
    if isinstance(path, MixturePath):
        k_t, k_s = (path.kappa(at(u), size) for u in (t, s))
        share = (k_s - k_t) / (1 - k_t)
        return share * hot + (1 - share) * stay
    assert isinstance(path, MetricPath)
    d = path.distances(torch.arange(size), at(0.0))  # [x1, x]
    growth = path.beta_rate(at(t)) * (s - t) if plain else path.beta(at(s)) - path.beta(at(t))
    p = torch.softmax(-path.beta(at(t if plain else (t + s) / 2)) * d, -1)
    closer = p[:, None] * (d[:, :, None] - d[:, None]).clamp(min=0)
    total = closer.sum(-1, keepdim=True)
    moves = -torch.expm1(-growth * total)
    return moves * closer / total.clamp(min=1e-300) + (1 - moves) * stay


def propagate(p: Tensor, rate_at, t: float, s: float, steps: int) -> Tensor:
    """Carry row vectors p [..., x] along dp/dt = p U(t) by the classical Runge-Kutta method."""
    h = (s - t) / steps

    def flow(p: Tensor, t: float) -> Tensor:
        return (p[..., None, :] @ rate_at(t)).squeeze(-2)

    for i in range(steps):
        a = t + i * h
        k1 = flow(p, a)
        k2 = flow(p + h / 2 * k1, a + h / 2)
        k3 = flow(p + h / 2 * k2, a + h / 2)
        k4 = flow(p + h * k3, a + h)
        p = p + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return p


def variation(p: Tensor, q: Tensor) -> float:
    """Return the total variation distance, the largest over leading axes."""
    return float((p - q).abs().sum(-1).max() / 2)


def counts(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Count pairs, [rows, columns]."""
    flat = torch.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return flat.view(shape).numpy()


def chi_square(observed: np.ndarray, probability: Tensor) -> float:
    """Return the p-value of counts under probabilities, both [rows, columns]."""
    expected = probability.numpy() * observed.sum(1, keepdims=True)
    if observed[expected == 0].any():
        return 0.0
    rare = (expected > 0) & (expected < 5)
    keep = expected >= 5
    value = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    freedom = keep.sum() - (expected.sum(1) > 0).sum()
    if expected[rare].sum() > 0:  # all rare cells are one cell
        value += (observed[rare].sum() - expected[rare].sum()) ** 2 / max(expected[rare].sum(), 1)
        freedom += 1
    return float(stats.chi2.sf(value, max(freedom, 1)))


class Joint:
    """A joint distribution q of D symbols, with the exact posterior as the model.

    `pairs` lists the clean states [V^D, D]; `noisy` those that a path can show.
    """

    def __init__(self, path: Path, size: int, length: int = 2, seed: int = 0) -> None:
        self.path, self.size, self.length = path, size, length
        self.pairs = torch.tensor(list(itertools.product(range(size), repeat=length)))
        self.noisy = torch.tensor(list(itertools.product(states(path, size), repeat=length)))
        rng = torch.Generator().manual_seed(seed)
        weight = torch.randn(len(self.pairs), generator=rng, dtype=torch.float64).mul(1.5).exp()
        self.q = weight / weight.sum()

    def index(self, x: Tensor) -> Tensor:
        """Return the number of noisy states x [..., D]."""
        base = self.size + self.path.extra_symbols
        place = base ** torch.arange(self.length - 1, -1, -1)
        return (x * place).sum(-1)

    def forward(self, t: float) -> Tensor:
        """Return p_t(x | x1), [clean states, noisy states]."""
        p = probabilities(self.path, t, self.size)  # [x1, x]
        return p[self.pairs[:, None], self.noisy[None]].prod(-1)

    def marginal(self, t: float) -> Tensor:
        """Return p_t(x), [noisy states]."""
        return self.q @ self.forward(t)

    def posterior(self, t: float) -> Tensor:
        """Return p(x1_i | x_t), [noisy states, D, V]; uniform where x_t cannot be."""
        return self.factorise(self.q[:, None] * self.forward(t))

    def factorise(self, joint: Tensor) -> Tensor:
        """Turn a joint [clean, noisy] into posteriors of each symbol, [noisy, D, V]."""
        hot = torch.nn.functional.one_hot(self.pairs, self.size).double()  # [clean, D, V]
        p = torch.einsum("cn,cdv->ndv", joint, hot)
        total = p.sum(-1, keepdim=True)
        return torch.where(total > 0, p / total.clamp(min=1e-300), 1 / self.size)

    def matrix(self, single: Tensor, t: float) -> Tensor:
        """Return [noisy states, D, from, to] -> the model's average of matrices [x1, from, to]."""
        return torch.einsum("ndv,vfx->ndfx", self.posterior(t), single)

    def generator(self, t: float) -> Tensor:
        """Return the rate matrix of the model's chain on noisy states."""
        n = len(self.noisy)
        mean = self.matrix(rates(self.path, t, self.size), t)
        out = torch.zeros(n, n, dtype=torch.float64)
        for i in range(self.length):
            rate = mean[torch.arange(n), i, self.noisy[:, i]]  # [state, to]
            goal = self.noisy[:, None].repeat(1, rate.shape[1], 1)
            goal[:, :, i] = states(self.path, self.size)
            out.scatter_add_(1, self.index(goal), rate)
        return out

    def transition(self, t: float, s: float) -> Tensor:
        """Return one solver step of all symbols at once, as a matrix on noisy states."""
        mean = self.matrix(step_matrix(self.path, t, s, self.size), t)
        n = torch.arange(len(self.noisy))
        out = torch.ones(len(n), len(n), dtype=torch.float64)
        for i in range(self.length):
            out = out * mean[n, i, self.noisy[:, i]][:, self.noisy[:, i]]
        return out
