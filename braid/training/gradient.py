"""The gradient of a model whose parameters may be sharded: its norm, and clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from braid.parallel import World


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing memory; all of it where it is not sharded."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def norm(parameters: Iterable[nn.Parameter], world: World) -> float:
    """Return the norm of the whole gradient, equal in every bit on all ranks."""
    by_copies: dict[int, list[Tensor]] = {}
    for p in parameters:
        if p.grad is not None:
            by_copies.setdefault(_copies(p.grad, world.size), []).append(local(p.grad))
    squares = torch.zeros((), dtype=torch.float64)
    for copies, grads in by_copies.items():
        part = torch.nn.utils.get_total_norm(grads)
        squares += part.cpu().double() ** 2 / copies
    return float(world.total(squares).sqrt())


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], norm: float, largest: float) -> None:
    """Scale the gradient so that its norm is at most `largest`."""
    if norm > largest:
        grads = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_mul_(grads, largest / norm)  # pyright: ignore[reportPrivateImportUsage]


def _copies(tensor: Tensor, ranks: int) -> int:
    """Return how many ranks hold the same part of a tensor."""
    placements, mesh = getattr(tensor, "placements", None), getattr(tensor, "device_mesh", None)
    if placements is None or mesh is None:
        return ranks
    shards = 1
    for dimension, placement in enumerate(placements):
        shards *= 1 if placement.is_replicate() else mesh.size(dimension)
    return ranks // shards
