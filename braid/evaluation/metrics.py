"""Measures of what models predict, draw and sound like, each with its bootstrap interval.

Those of texts stand in captions.py; accuracy and the plain Frechet distance in quality.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from braid.data.rows import require
from braid.errors import BraidError
from braid.evaluation.quality import frechet_distance

Numbers = Sequence[float] | np.ndarray
"""One number an item."""

_SLACK = 1e-12  # rounding of a cosine in float64: what is this close counts as a tie


@dataclass(frozen=True)
class Estimate:
    """A measurement and its bootstrap interval, 95 % unless said otherwise.

    The interval tells how far another draw of the items would move the value, and nothing of the
    seed of the training. Items that are all equal leave it without width: read `n` beside it.

    Attributes:
        value: the statistic of all items.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of items.
    """

    value: float
    low: float
    high: float
    n: int

    def numbers(self, name: str) -> dict[str, float]:
        """Return name, name_low and name_high to numbers, for a table of an evaluation."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Return the statistic of the items 0..n-1, and the percentile interval of its resamples.

    `statistic` takes the indices of the items, [n], some of them more than once.
    """
    _check_bootstrap(n, resamples, level)
    rng = np.random.default_rng(seed)
    value = float(statistic(np.arange(n)))
    redone = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    return percentiles(value, redone, n, level)


def bootstrap_sums(
    sums: Callable[[np.ndarray], np.ndarray],
    stats: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Return what `bootstrap` does, quickly, for a statistic of sums over items.

    `stats` holds what is summed, [n, K]; `sums` takes the sums of R resamples, [R, K], and returns
    their statistics, [R].
    """
    n = len(stats)
    _check_bootstrap(n, resamples, level)
    rng = np.random.default_rng(seed)
    rows = max(1, 2**20 // stats.size)  # resamples at a time: [rows, n, K] must fit into memory
    drawn = [
        stats[rng.integers(0, n, (min(rows, resamples - start), n))].sum(1)
        for start in range(0, resamples, rows)
    ]
    value = float(sums(stats.sum(0, keepdims=True))[0])
    return percentiles(value, sums(np.concatenate(drawn)), n, level)


def percentiles(value: float, redone: np.ndarray, n: int, level: float = 0.95) -> Estimate:
    """Return an estimate from a value and the statistics of its resamples, [R]."""
    if not math.isfinite(value) or not np.isfinite(redone).all():
        raise BraidError(
            f"the statistic of {n} items is {value}, or not finite on a resample; leave out or cap "
            "the items that have none"
        )
    low, high = np.quantile(redone, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)


def _check_bootstrap(n: int, resamples: int, level: float) -> None:
    """Refuse a bootstrap that has no interval."""
    if n < 1:
        raise BraidError("a bootstrap got 0 items; give at least one")
    if resamples < 1 or not 0 < level < 1:
        raise BraidError(
            f"a bootstrap of {resamples} resamples at level {level}; expected at least 1 resample "
            "and a level between 0 and 1"
        )


def mean(values: Numbers, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Return the mean of one number an item."""
    column = _column("values", values)
    n = len(column)
    return bootstrap_sums(lambda s: s[:, 0] / n, column[:, None], resamples, seed, level)


def ratio(over: Numbers, under: Numbers, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the sum of `over` through that of `under`: every unit counts the same, not every item.

    Each entry of `under` must be above 0.
    """
    top, bottom = _column("the dividend", over), _column("the divisor", under)
    if len(top) != len(bottom):
        raise BraidError(
            f"a ratio got {len(top)} dividends and {len(bottom)} divisors; give one of each an item"
        )
    if bottom.min() <= 0:
        raise BraidError(
            f"the divisor of item {bottom.argmin()} is {bottom.min():g}, expected more than 0; "
            "leave out items without content"
        )
    stats = np.stack([top, bottom], 1)
    return bootstrap_sums(lambda s: s[:, 0] / s[:, 1], stats, resamples, seed)


def bits_per_byte(nats: Numbers, sizes: Numbers, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the bits of all texts through their bytes, from the nats and bytes of each text."""
    return ratio(_column("nats", nats) / math.log(2), sizes, resamples, seed)


def bits_per_dimension(
    nats: Numbers, dimensions: Numbers, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Return the bits of all items through their dimensions: pixels times channels, or samples."""
    return ratio(_column("nats", nats) / math.log(2), dimensions, resamples, seed)


def _column(name: str, values: Numbers) -> np.ndarray:
    """Return one finite number an item, float64 [n]."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not len(column):
        raise BraidError(f"{name} have shape {column.shape}; give one number an item, at least one")
    if not np.isfinite(column).all():
        where = int(np.flatnonzero(~np.isfinite(column))[0])
        raise BraidError(
            f"{name}: item {where} is {column[where]}, expected a finite number; leave it out or "
            "cap it"
        )
    return column


def retrieval_recall(
    a: Tensor,
    b: Tensor,
    k: int = 1,
    among: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Return how often row i of b is among the k nearest of row i of a, and the other way.

    Nearest by cosine; ties count against the true one. `a` and `b` are [n, D]. `among` splits the
    rows, in their order, into galleries of that size and leaves out the rest; chance is k / among.
    The interval keeps each gallery and resamples the queries.
    """
    left, right = _rows(a, b, least=1)
    if len(left) != len(right):
        raise BraidError(
            f"retrieval got {len(left)} and {len(right)} rows; row i of one belongs to row i of "
            "the other"
        )
    size = len(left) if among is None else among
    if not 1 <= k < size or size > len(left):
        raise BraidError(
            f"retrieval of k {k} among {size} of {len(left)} rows; expected 1 <= k < among <= rows"
        )
    n = len(left) // size * size
    galleries = zip(left[:n].split(size), right[:n].split(size), strict=True)
    hits = torch.cat([torch.stack(_hits(x, y, k)) for x, y in galleries], 1)  # [2, n]
    there, back = (mean(h.numpy(), resamples, seed) for h in hits)
    return there, back


def _hits(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return, both ways, where fewer than k others are as near as the true one, [n] each."""
    cosine = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T  # [n, n]
    rivals = cosine >= cosine.diagonal()[:, None] - _SLACK
    rivals_back = cosine.diagonal()[:, None] - _SLACK <= cosine.T
    return rivals.sum(1) <= k, rivals_back.sum(1) <= k  # the true one is its own rival


def frechet(
    a: Tensor | np.ndarray, b: Tensor | np.ndarray, resamples: int = 50, seed: int = 0
) -> Estimate:
    """Return the Frechet distance of two sets of features, [n, D] and [m, D].

    It is biased upwards, the more the fewer rows there are for the width, and a resample, which
    has fewer different rows, is biased more. So the resamples are moved to have the value as their
    mean: the interval tells the spread, and the bias stays in value and bounds. Compare only sets
    of the same sizes, with the distance of two real sets beside, and several rows a feature.
    """
    _check_bootstrap(1, resamples, 0.95)
    left, right = (x.numpy() for x in _rows(a, b, least=2))
    rng = np.random.default_rng(seed)
    value = frechet_distance(left, right)
    redone = np.array(
        [
            frechet_distance(*(x[rng.integers(0, len(x), len(x))] for x in (left, right)))
            for _ in range(resamples)
        ]
    )
    moved = np.maximum(redone - redone.mean() + value, 0)
    return percentiles(value, moved, min(len(left), len(right)))


def kernel_distance(
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    rows: int = 5000,
    resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Return the squared maximum mean discrepancy of two sets of features, [n, D] and [m, D].

    The kernel is (x y / D + 1)^3 and the estimate unbiased, so it may fall below 0
    (arXiv:1801.01401). That paper averages over small subsets to save memory; here all pairs count,
    which has the same mean and less variance; of longer sets a random subset of `rows` is taken.
    A resample weighs rows by how often it drew them, and leaves out each row's pair with itself.
    The interval is too narrow for few rows whose kernel has heavy tails (narrow features, below
    some hundred rows), and too wide where the two distributions are equal.
    """
    _check_bootstrap(1, resamples, 0.95)
    rng = np.random.default_rng(seed)
    left, right = (
        x[torch.from_numpy(rng.permutation(len(x))[:rows])] for x in _rows(a, b, least=2)
    )
    counts_a, counts_b = (_counts(len(x), resamples, rng) for x in (left, right))  # [1 + R, n]
    found = (
        _pairs(left, left, counts_a, counts_a, itself=False)
        + _pairs(right, right, counts_b, counts_b, itself=False)
        - 2 * _pairs(left, right, counts_a, counts_b, itself=True)
    ).numpy()  # [1 + R]
    return percentiles(float(found[0]), found[1:], min(len(left), len(right)))


def _counts(n: int, resamples: int, rng: np.random.Generator) -> Tensor:
    """Return how often each item is drawn: once each, then by each resample, float64 [1 + R, n]."""
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples)]
    return torch.from_numpy(np.stack([np.ones(n), *drawn]).astype(np.float64))


def _pairs(a: Tensor, b: Tensor, counts_a: Tensor, counts_b: Tensor, itself: bool) -> Tensor:
    """Return the weighted mean kernel over all pairs, or those of different rows, [1 + R]."""
    total = a.new_zeros(len(counts_a))
    for start in range(0, len(a), 1000):  # the whole matrix may not fit into memory
        part = slice(start, start + 1000)
        kernel = (a[part] @ b.T / a.shape[1] + 1) ** 3
        total += ((counts_a[:, part] @ kernel) * counts_b).sum(1)
    weight = counts_a.sum(1) * counts_b.sum(1)
    if not itself:
        own = ((a * a).sum(1) / a.shape[1] + 1) ** 3
        total -= counts_a.square() @ own
        weight -= counts_a.square().sum(1)
    # a resample of one row alone, drawn n times, has no pair
    return total / weight.clamp(min=1)


def precision_recall(
    real: Tensor | np.ndarray,
    drawn: Tensor | np.ndarray,
    k: int = 3,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Return the improved precision and recall of drawn features, [n, D] and [m, D].

    Precision is the share of drawn rows that lie among the real ones, recall that of real rows
    among the drawn (arXiv:1904.06991); "among" is no farther from a row than its k-th neighbour.
    The intervals keep the neighbourhoods and resample the rows that are asked about.
    """
    if k < 1:
        raise BraidError(f"precision and recall of k {k}; expected at least 1 neighbour")
    left, right = _rows(real, drawn, least=k + 1)
    precision, recall = _covered(right, left, k), _covered(left, right, k)
    return mean(precision, resamples, seed), mean(recall, resamples, seed)


def _covered(asked: Tensor, support: Tensor, k: int) -> np.ndarray:
    """Return whether each row lies in the neighbourhood of some row of the support, [n]."""
    # a row is its own nearest neighbour, hence k + 1
    radius = torch.cat([_far(x, support).kthvalue(k + 1).values for x in support.split(1000)])
    inside = [(_far(x, support) <= radius).any(1) for x in asked.split(1000)]
    return torch.cat(inside).numpy()


def _far(a: Tensor, b: Tensor) -> Tensor:
    """Return distances, [n, m], exactly 0 between equal rows, which the fast formula is not."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(a: Tensor | np.ndarray, b: Tensor | np.ndarray, least: int) -> tuple[Tensor, Tensor]:
    """Return two sets of rows of one width, float64 on the CPU: [n, D] and [m, D]."""
    left, right = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (a, b))
    shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise BraidError(f"the features have shapes {shapes}; give two sets of rows of one width")
    if min(len(left), len(right)) < least:
        raise BraidError(f"the features have shapes {shapes}; give at least {least} rows of each")
    if not (left.isfinite().all() and right.isfinite().all()):
        raise BraidError("the features hold NaN or infinity; look at the model that made them")
    return left, right


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each pair of pictures, decibels [n].

    Pictures are [n, H, W, C], uint8 in 0..255 or floats in 0..1. Equal pictures have infinity:
    cap it, such as with np.minimum(psnr, 100), before taking a mean.
    """
    left, right = _unit_pictures(a, b)
    error = np.square(left - right).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the structural similarity of each pair of pictures, [n], 1 if they are equal.

    Pictures are [n, H, W, C], uint8 in 0..255 or floats in 0..1, at least 11 wide and high; the
    window is a Gaussian of 11 x 11 with sigma 1.5 that lies whole within the picture (Wang et al.
    2004), and channels are averaged.
    """
    module = require("torchmetrics.functional.image", "eval")
    left, right = _unit_pictures(a, b)
    if min(left.shape[1:3]) < 11:
        raise BraidError(
            f"structural similarity of pictures {left.shape[1]} x {left.shape[2]}; its window "
            "needs at least 11 x 11: enlarge them, or use psnr"
        )
    found = []
    for start in range(0, len(left), 256):
        x, y = (
            torch.from_numpy(p[start : start + 256]).permute(0, 3, 1, 2).float()
            for p in (left, right)
        )
        _, places = module.structural_similarity_index_measure(
            x, y, data_range=1.0, return_full_image=True
        )
        whole = places[..., 5:-5, 5:-5]  # around the others the borders are mirrored
        found.append(whole.double().mean((1, 2, 3)).numpy())
    return np.concatenate(found)


def _unit_pictures(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of pictures as float64 in 0..1, [n, H, W, C]."""
    if a.shape != b.shape or a.ndim != 4 or not a.size:
        raise BraidError(
            f"the pictures have shapes {a.shape} and {b.shape}; give two of the same [n, H, W, C]"
        )
    return _unit(a), _unit(b)


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Return pictures as float64 in 0..1."""
    if pictures.dtype == np.uint8:
        return pictures / 255.0
    if not np.issubdtype(pictures.dtype, np.floating):
        raise BraidError(f"pictures are {pictures.dtype}; give uint8 in 0..255 or floats in 0..1")
    low, high = float(pictures.min()), float(pictures.max())
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise BraidError(
            f"pictures of floats reach from {low:g} to {high:g}, expected 0..1; scale or clip them"
        )
    return pictures.astype(np.float64)


def si_sdr(estimate: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> np.ndarray:
    """Return the scale-invariant signal-to-distortion ratio of each clip, decibels [n].

    That is 10 log10(|s|^2 / |s - e|^2), with s the target scaled to come nearest to the estimate e
    (arXiv:1811.02508, eq. 3). Clips are [samples], of any lengths, or all [n, samples]. A scaled
    copy has infinity, or some 300 dB by rounding; silence instead of a target has none.
    """
    if len(estimate) != len(target) or not len(target):
        raise BraidError(
            f"got {len(estimate)} estimates and {len(target)} targets; give one of each a clip"
        )
    pairs = enumerate(zip(estimate, target, strict=True))
    return np.array([_clip_ratio(i, np.asarray(e), np.asarray(t)) for i, (e, t) in pairs])


def _clip_ratio(i: int, estimate: np.ndarray, target: np.ndarray) -> float:
    """Return the ratio of one clip."""
    if estimate.shape != target.shape or target.ndim != 1:
        raise BraidError(
            f"clip {i} has shapes {estimate.shape} and {target.shape}; give two of the same "
            "[samples]"
        )
    e, t = estimate.astype(np.float64), target.astype(np.float64)
    if not (np.isfinite(e).all() and np.isfinite(t).all()):
        raise BraidError(f"clip {i} holds NaN or infinity; look at the model that made it")
    if not t @ t > 0:
        raise BraidError(f"the target of clip {i} is silent; leave the clip out")
    scaled = t * (e @ t) / (t @ t)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10 * np.log10((scaled @ scaled) / ((scaled - e) @ (scaled - e)))
    return -math.inf if np.isnan(found) else float(found)  # silence: 0 / 0
