"""What comes before the first step: who reads, what is learned from data, where the model lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from braid import compiling, config, parallel
from braid.braid import Braid
from braid.config import Experiment
from braid.data import Data, texts_of
from braid.errors import BraidError
from braid.parallel import World


def replicas(experiment: Experiment, world: World, device: torch.device) -> int:
    """Return the number of ranks, or groups of them, that read documents of their own.

    Raises:
        BraidError: the settings contradict themselves, the device or the number of ranks.
    """
    c, p = experiment.train, experiment.parallel
    if p.offload and c.optimizer == "muon":
        raise BraidError(
            "parallel.offload keeps shards in the host's memory, and train.optimizer=muon "
            "computes its updates on the device; use train.optimizer=adamw with a quarter of "
            "the learning rate"
        )
    if p.offload and device.type == "cpu":
        raise BraidError(
            "parallel.offload moves shards from an accelerator to the host's memory, and this "
            "run is on a CPU; leave it out"
        )
    if world.group is None and (p.offload or p.tensor > 1 or (p.shard or 1) > 1):
        raise BraidError(
            "parallel.offload, parallel.tensor and parallel.shard need several processes, or "
            "one under a launcher; start with torchrun"
        )
    if p.tensor > 1 and c.lora is not None:
        raise BraidError(
            "parallel.tensor splits matrices that train.lora has adapters beside; use "
            "parallel.tensor=1 (parallel.shard shards adapters too)"
        )
    replicate, shard, _ = parallel.mesh_shape(world.size, p.shard, p.tensor)
    count = replicate * shard
    if c.batch % (c.accumulate * count):
        raise BraidError(
            f"train.batch {c.batch} is not a multiple of train.accumulate {c.accumulate} x "
            f"{count} ranks that read data; change one of them"
        )
    return count


def fit(
    experiment: Experiment, data: Data, states: Mapping[str, Any], world: World
) -> dict[str, Any]:
    """Return what the modalities know or learn from the data, the same on all ranks.

    Args:
        experiment: describes them.
        data: what they learn from.
        states: what is known of some of them.
        world: the ranks; the first one reads the data.
    """
    torch.manual_seed(experiment.seed)
    modalities = {n: config.make_modality(n, s) for n, s in experiment.strands.items()}
    with world.together():
        for name, modality in modalities.items():
            if name in states:
                modality.load_state(states[name])
            elif world.first:
                modality.fit(texts_of(experiment, data, modality))
    found = {n: m.state() for n, m in modalities.items()} if world.first else None
    return world.tell(found)


def lay_out(braid: Braid, experiment: Experiment, world: World, device: torch.device) -> None:
    """Compile the blocks and lay the model over the ranks, in place."""
    c, p = experiment.train, experiment.parallel
    if p.recompute:
        parallel.recompute(braid)
    if c.compile:
        compiling.compile_blocks(braid)
    if world.group is not None:
        mesh = parallel.mesh(device.type, world.size, p.shard, p.tensor)
        precision = torch.bfloat16 if c.precision == "bfloat16" else None
        parallel.shard(braid, mesh, precision=precision, offload=p.offload)
