"""A model laid over ranks: FSDP2, tensor parallelism, recomputation, applied from outside.

No layer knows of it. Parameters become DTensors; names, shapes and results stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from braid.errors import BraidError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from braid.braid import Braid


def mesh_shape(ranks: int, shard: int | None = None, tensor: int = 1) -> tuple[int, int, int]:
    """Return the sizes of "replicate", "shard" and "tensor" for a number of processes.

    Raises:
        BraidError: the numbers do not divide the ranks.
    """
    if ranks % tensor:
        raise BraidError(
            f"parallel.tensor {tensor} does not divide {ranks} ranks; use a divisor of {ranks}"
        )
    rest = ranks // tensor
    shard = rest if shard is None else shard
    if rest % shard:
        raise BraidError(
            f"parallel.shard {shard} does not divide {rest} ranks ({ranks} over parallel.tensor "
            f"{tensor}); use a divisor of {rest}"
        )
    return rest // shard, shard, tensor


def mesh(device: str, ranks: int, shard: int | None = None, tensor: int = 1) -> DeviceMesh:
    """Return the mesh "replicate" x "shard" x "tensor" over all ranks.

    Args:
        device: "cpu" or "cuda".
        ranks: number of processes.
        shard: ranks over which parameters are sharded; all that are left if None.
        tensor: ranks over which each matrix is split; neighbours, so that they share a machine.

    Raises:
        BraidError: the numbers do not divide the ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(
        device, mesh_shape(ranks, shard, tensor), mesh_dim_names=("replicate", "shard", "tensor")
    )


def shard(
    braid: Braid,
    mesh: DeviceMesh,
    *,
    precision: torch.dtype | None = None,
    offload: bool = False,
) -> Braid:
    """Lay a model over the ranks of a mesh, in place.

    Each block is a unit of FSDP2 (its parameters are gathered for its own forward and backward
    pass), and so is all the rest. Gradients are summed over ranks, not averaged: losses are
    divided by counts over all ranks.

    Args:
        braid: the model, the same on every rank.
        mesh: as `mesh` makes it; a size of 1 leaves its way of sharding out.
        precision: of gathered parameters in computations; their own if None.
        offload: keep shards and gradients in the host's memory.

    Returns:
        the same model.

    Raises:
        BraidError: heads do not divide over "tensor" ranks.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    if mesh["tensor"].size() > 1:
        split(braid, mesh["tensor"])
    reduce = torch.float32 if precision is not None else None
    options = {
        "mesh": mesh["replicate", "shard"] if mesh["replicate"].size() > 1 else mesh["shard"],
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=precision, reduce_dtype=reduce, cast_forward_inputs=False
        ),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    units: list[nn.Module] = [*braid.transformer.blocks, braid]
    for unit in units:
        module = fully_shard(unit, **options)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(braid, "hidden")
    return braid


@contextmanager
def gathered(braid: Braid) -> Iterator[Braid]:
    """Let a sharded model generate: what lies outside its blocks is gathered for a while.

    Blocks gather themselves when they are called. Every rank has to make the same calls.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(braid, FSDPModule):
        yield braid
        return
    braid.unshard()
    try:
        yield braid
    finally:
        braid.reshard()


def split(braid: Braid, mesh: DeviceMesh) -> None:
    """Split heads and hidden units of each block over a mesh (arXiv:1909.08053)."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        ParallelStyle,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    c, ranks = braid.transformer.config, mesh.size()
    for name, heads in (("heads", c.heads), ("key_heads", c.key_heads or c.heads)):
        if heads % ranks:
            raise BraidError(
                f"transformer.{name} {heads} cannot be split over parallel.tensor {ranks} ranks; "
                f"use a divisor of {heads}"
            )
    if c.size_of_hidden % ranks:
        raise BraidError(
            f"a feed-forward layer of {c.size_of_hidden} cannot be split over parallel.tensor "
            f"{ranks} ranks; set transformer.hidden to a multiple of {ranks}"
        )
    if c.qk_norm == "heads":
        raise BraidError(
            "transformer.qk_norm 'heads' has gains of each head's own, which are not split over "
            "ranks; set parallel.tensor to 1"
        )
    plan: dict[str, ParallelStyle] = {
        f"attention.{n}": ColwiseParallel() for n in ("query", "key", "value")
    }
    plan |= {"feed.gate": ColwiseParallel(), "feed.up": ColwiseParallel()}
    plan |= {"attention.out": RowwiseParallel(), "feed.down": RowwiseParallel()}
    if c.qk_norm != "none":  # each rank normalises its own heads with the same weights
        for n in ("query_norm", "key_norm"):
            plan[f"attention.{n}"] = SequenceParallel(sequence_dim=1, use_local_output=True)
    for block in braid.transformer.blocks:
        parallelize_module(block, mesh, plan)


def recompute(braid: Braid) -> None:
    """Compute each block's activations again in the backward pass (arXiv:1604.06174)."""
    from torch.utils.checkpoint import checkpoint

    for block in braid.transformer.blocks:
        # a block draws from keys that it is given, so that there is no generator's state to keep
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
