"""Draw near a clean symbol by proposals: a few random symbols are looked at instead of all.

While the weights exp(-beta d(x, x1)) of most symbols are not small, a symbol that is proposed at
random is accepted with its weight soon enough (rejection, von Neumann 1951), and a rate of at most
R is followed by accepting the events of a Poisson process of rate R (thinning, Lewis and Shedler
1979). Both are exact, but for weights below 2^-24, and never need the sum over all symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from braid.randomness import Keys

Distances = Callable[[Tensor, Tensor], Tensor]
"""Distances d of symbols [..., k] from clean symbols [...]."""

_FIRST = 16  # proposals of the first round; each round has twice those of the one before
LARGEST = 256
"""Most proposals of a round: more would only take memory."""
_INDEX = 40  # bits of a proposal that choose its symbol; 23 others are its mark


def reject(
    apart: Distances, clean: Tensor, beta: Tensor, size: int, keys: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Draw x in proportion to exp(-beta d(x, clean)) from at most `most` proposals a row.

    Args:
        apart: the distances.
        clean: int64 [n].
        beta: [n].
        size: number of symbols.
        keys: int64 [n], random bits of each row.
        most: proposals for a row.

    Returns:
        The symbols [n], and the rows [m] for which none was accepted.
    """
    out, rows = clean.clone(), torch.arange(len(clean), device=clean.device)
    for first, count in _rounds(most):
        if not len(rows):
            break
        x, mark, _ = _propose(keys[rows], first, count, size)
        weight = torch.exp_(apart(x, clean[rows]).mul_(-beta[rows, None]))
        found, at = _earliest(mark < weight)
        out[rows] = torch.where(found, x.gather(1, at)[:, 0], out[rows])
        rows = rows[~found]
    return out, rows


def thin(
    apart: Distances,
    noisy: Tensor,
    clean: Tensor,
    beta: float,
    events: Tensor,
    clock: Tensor,
    size: int,
    keys: Tensor,
    most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow the rates p(x) (d(noisy, clean) - d(x, clean))_+ for a while, by proposals.

    p(x) is proportional to exp(-beta d(x, clean)). An event, of rate d(noisy, clean), is a draw
    from p that is taken with probability 1 - d(x, clean) / d(noisy, clean).

    Args:
        apart: the distances.
        noisy: where the symbols are, int64 [n].
        clean: int64 [n].
        beta: inverse temperature of p.
        events: expected number of events until the end, [n].
        clock: expected number of events until the first one, [n]; past `events`, there is none.
        size: number of symbols.
        keys: int64 [n], random bits of each row.
        most: proposals for a row.

    Returns:
        Where the symbols are at the end, [n]; the rows [m] whose next event was to be decided when
        the proposals were used up; and the clock at that event, [m].
    """
    out, clock = noisy.clone(), clock.clone()
    far = apart(noisy[:, None], clean)[:, 0]
    rows = (clock <= events).nonzero()[:, 0]
    for first, count in _rounds(most):
        if not len(rows):
            break
        x, mark, wait = _propose(keys[rows], first, count, size)
        d = apart(x, clean[rows])
        weight = torch.exp(-beta * d)
        # a proposal that p accepts is an event, and brings the time until the next one
        wait = wait.log_().neg_().masked_fill_(mark >= weight, 0)
        after, end = wait.cumsum(1).add_(clock[rows, None]), events[rows, None]
        found, at = _earliest((mark < weight * (1 - d / far[rows, None])) & (after - wait <= end))
        out[rows] = torch.where(found, x.gather(1, at)[:, 0], out[rows])
        clock[rows] = after[:, -1]
        rows = rows[~found & (after[:, -1] <= end[:, 0])]
    return out, rows, clock[rows]


def _rounds(most: int) -> Iterator[tuple[int, int]]:
    """Yield the first proposal of each round and their number."""
    first, count = 0, _FIRST
    while first < most:
        yield first, min(count, most - first)
        first, count = first + count, min(2 * count, LARGEST)


def _propose(keys: Tensor, first: int, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return symbols [n, count] and two uniform numbers in (0, 1) for each, from one hash.

    A proposal depends on its row's key and its number, not on the round that it is made in.
    """
    bits = Keys(keys).bits((len(keys), count), first)
    scaled = (bits & ((1 << _INDEX) - 1)) * size
    rest = scaled & ((1 << _INDEX) - 1)
    mark = (bits >> (_INDEX + 1)) & ((1 << 23) - 1)
    return scaled >> _INDEX, _unit(mark), _unit(rest >> (_INDEX - 23))


def _unit(bits: Tensor) -> Tensor:
    return bits.float().add_(0.5).mul_(2.0**-23)


def _earliest(taken: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether any of [n, k] is true, [n], and where the first one is, [n, 1]."""
    return taken.any(1), taken.to(torch.uint8).argmax(1, keepdim=True)
