"""What the ranks of the tests do."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from braid import parallel
from braid.data import Loader, open_data, streams_for
from braid.parallel import World
from braid.recipes import resolve
from braid.training import gradient
from braid.training.optimizer import make_optimizer
from tests.laws import models


def tell(world: World, values: list[int]) -> dict[str, Any]:
    """Return what the ranks agree on."""
    return {
        "total": world.total(torch.tensor([values[world.rank], 1])).tolist(),
        "gathered": world.gather({"rank": world.rank, "text": "é" * world.rank}),
        "told": world.tell(world.rank),
        "any": world.any(world.rank == 1),
        "all": world.all(world.rank == 1),
    }


def fail(world: World) -> str:
    """Let one rank fail; returns what this one hears of it."""
    try:
        with world.together():
            if world.rank == 1:
                raise OSError("the disk is full")
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "nothing"


def gradients(
    world: World,
    settings: list[str],
    shard: int | None = None,
    tensor: int = 1,
    match: bool = False,
) -> dict[str, Any]:
    """Do one forward and backward pass on this rank's documents.

    Returns the loss, the norm and a digest of the gradient over all ranks, and how far a step of
    Muon along it moves the weights.
    """
    made = resolve("toy", [*models.SMALL, "train.batch=8", *settings])
    torch.manual_seed(0)
    data = open_data(made.data, made.seed)
    braid = models.build(made)
    loader = Loader(streams_for(made, braid, data), braid, 8, 0, made.data.row)
    replicas = world.size // tensor
    if made.parallel.recompute:
        parallel.recompute(braid)
    if world.group is not None:
        parallel.shard(braid, parallel.mesh("cpu", world.size, shard, tensor))
    share = 8 // replicas
    batch = loader.at(world.rank // tensor * share, share)
    braid.train()
    names = list(braid.strands)
    own = torch.tensor([int(batch.target[n].sum()) if n in batch.target else 0 for n in names])
    counts = dict(zip(names, world.total(own) // tensor, strict=True))
    losses = braid.loss(batch, 0, counts)
    losses.total.backward()
    if match:
        pairs = loader.pairs(0, 6)
        assert pairs is not None
        (braid.match_loss(*pairs) / replicas).backward()
    grads = {n: p.grad for n, p in braid.named_parameters() if p.grad is not None}
    whole = {n: _whole(g) for n, g in grads.items()}
    digest = hashlib.sha256(b"".join(g.numpy().tobytes() for g in whole.values()))
    config = made.train.model_copy(update={"optimizer": "muon", "learning_rate": 0.1})
    norms = {n: float(g.norm()) for n, g in whole.items()}
    before = {n: _whole(p) for n, p in braid.named_parameters()}
    reached = gradient.norm(braid.parameters(), world)
    make_optimizer(braid, config).step()
    return {
        "loss": float(world.total(losses.total.detach().double()) / tensor),
        "norm": reached,
        "norms": norms,
        "moved": {n: _mark(_whole(p) - before[n]) for n, p in braid.named_parameters()},
        "digest": digest.hexdigest(),
    }


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor whose shards the ranks hold, copied."""
    return getattr(tensor, "full_tensor", tensor.clone)().detach().clone()


def _mark(tensor: torch.Tensor) -> list[float]:
    """Return three numbers in which all of a tensor's count, each in its place."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(3, tensor.numel(), generator=rng, dtype=torch.float64)
    return (weights @ tensor.double().flatten() / tensor.numel() ** 0.5).tolist()
