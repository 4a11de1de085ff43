"""Draw symbols from large vocabularies, block of rows by block of rows.

A step of a sampler needs one symbol a row, not the probabilities of all of them. A block is small
enough to stay in a processor's cache between the passes over it, and is forgotten when its symbols
are drawn: no [N, V] is ever held. A draw takes one uniform number a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_GROUP = 128  # symbols that are added up before the search
LEAST = -64.0
"""Exponents of 2 below it are taken for it: never drawn, and smaller numbers are slow."""
_BLOCK = {"cpu": 1 << 19}  # numbers in a block: 2 MiB of float32
_LARGE = 1 << 26  # on an accelerator, where launches cost more than memory


def blocks(rows: int, width: int, device: torch.device, least: int = 1) -> Iterator[slice]:
    """Split rows of `width` numbers into blocks of at least `least` rows."""
    step = max(1, least, _BLOCK.get(device.type, _LARGE) // width)
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def invert(weight: Tensor, mark: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one index a row of non-negative weights [n, V], in proportion, by uniform marks [n].

    Returned are the indices and the totals of the rows. An index is the one at which the running
    sum passes `mark` of the total: sums of groups are searched first, and only one group of each
    row is looked into.
    """
    V = weight.shape[-1]
    total = running(add_groups(weight))
    group, rest = search(total, mark.to(total.dtype) * total[:, -1])
    index = members(group, V)
    inside = weight.gather(1, index.clamp(max=V - 1)).masked_fill_(index >= V, 0)
    at = index[:, 0] + search(running(inside), rest)[0]
    return at.clamp_(max=V - 1), total[:, -1].to(weight.dtype)


def add_groups(weight: Tensor) -> Tensor:
    """Add up weights [n, V] in groups of 128, of which the last may be smaller: [n, groups]."""
    whole = weight.shape[-1] // _GROUP * _GROUP
    sums = weight[:, :whole].unflatten(1, (-1, _GROUP)).sum(-1)
    if whole < weight.shape[-1]:
        sums = torch.cat([sums, weight[:, whole:].sum(-1, keepdim=True)], 1)
    return sums


def members(group: Tensor, size: int) -> Tensor:
    """Return the indices of groups [n], [n, 128]; those from `size` on do not exist."""
    within = torch.arange(min(_GROUP, size), device=group.device)
    return group[:, None] * _GROUP + within


def running(weight: Tensor) -> Tensor:
    """Return running sums [n, k], exact enough for any number of symbols."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64  # which that has not
    return weight.to(wide).cumsum(-1)


def search(total: Tensor, mark: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index at which running sums [n, k] pass marks [n], and what is left of the mark.

    Below the total and from the right: an index of weight 0 is never found, not even in a tie.
    """
    last = total[:, -1]
    mark = torch.minimum(mark, torch.nextafter(last, torch.zeros_like(last)))
    at = torch.searchsorted(total, mark[:, None], right=True).clamp_(max=total.shape[1] - 1)
    before = total.gather(1, (at - 1).clamp_(min=0)).masked_fill_(at == 0, 0)
    return at[:, 0], mark - before[:, 0]
