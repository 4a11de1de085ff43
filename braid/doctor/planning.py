"""What an experiment needs on a machine, as it is set and in the layout that goes best.

All of it is computed before anything is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from braid.config import Experiment
from braid.doctor.estimating import GB, Estimate, Layout, Machine, estimate, state_bytes
from braid.doctor.sizes import SIZES, Sizes
from braid.errors import BraidError, unknown
from braid.settings import override


@dataclass(frozen=True)
class Plan:
    """What an experiment needs on a machine, as it is set and as it would go best.

    Attributes:
        sizes: of the model and of what it reads.
        machine: on which.
        asked: with the experiment's own settings.
        best: the fastest layout that fits, or None.
        fewest: the fewest GPUs on which some layout fits without offloading.
        checkpoint: bytes on disk.
        saving: seconds of writing and hashing them.
    """

    sizes: Sizes
    machine: Machine
    asked: Estimate
    best: Estimate | None
    fewest: int | None
    checkpoint: float
    saving: float

    @property
    def room(self) -> float:
        """Bytes that tensors can take on each GPU."""
        return self.machine.memory_gb * GB * self.machine.usable

    @property
    def fits(self) -> bool:
        """Whether the experiment's own settings do."""
        return self.asked.total <= self.room

    def numbers(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "name": self.sizes.name,
            "parameters": self.sizes.parameters,
            "flops_per_token": self.sizes.flops,
            "row": self.sizes.row,
            "tokens_per_step": self.sizes.tokens,
            "machine": asdict(self.machine),
            "room_bytes": self.room,
            "fits": self.fits,
            "asked": self._one(self.asked),
            "best": None if self.best is None else self._one(self.best),
            "fewest_gpus": self.fewest,
            "checkpoint_bytes": self.checkpoint,
            "saving_seconds": self.saving,
        }

    def _one(self, e: Estimate) -> dict[str, Any]:
        return {
            "settings": e.layout.settings(self.machine.gpus),
            "memory_bytes": {**e.memory, "total": e.total},
            "host_bytes": e.host,
            "tokens_per_rank": e.tokens,
            "seconds_per_step": e.seconds,
            "compute_seconds": e.compute,
            "communication_seconds": e.communication,
            "transfer_seconds": e.transfer,
            "sent_bytes": e.sent,
            "tokens_per_second": self.sizes.tokens / e.seconds,
            "days_per_trillion_tokens": 1e12 / (self.sizes.tokens / e.seconds) / 86400,
        }


def plan(
    what: str | Experiment,
    machine: Machine | None = None,
    settings: Sequence[str] = (),
    states: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Compute memory and time of training an experiment.

    Args:
        what: an experiment, or a name of `SIZES`.
        machine: what it would be trained on; eight GPUs of 80 GB if None.
        settings: `key.path=value` overrides.
        states: modality -> what it learned from data, for exact sizes.

    Raises:
        BraidError: the settings contradict themselves or the number of GPUs.
    """
    machine = machine or Machine()
    if isinstance(what, str):
        if what not in SIZES:
            raise unknown("size", what, SIZES)
        what = SIZES[what]()
    experiment = override(what, settings)
    sizes, p = Sizes.of(experiment, states), experiment.parallel
    if machine.gpus % p.tensor or (machine.gpus // p.tensor) % (p.shard or 1):
        raise BraidError(
            f"parallel.shard {p.shard} x parallel.tensor {p.tensor} do not divide {machine.gpus} "
            "GPUs; change one of them"
        )
    ranks = machine.gpus // p.tensor
    if experiment.train.batch % (experiment.train.accumulate * ranks):
        raise BraidError(
            f"train.batch {experiment.train.batch} is not a multiple of train.accumulate "
            f"{experiment.train.accumulate} x {ranks} ranks that read data; change one of them"
        )
    asked = Layout(
        experiment.train.accumulate,
        p.recompute,
        p.shard or ranks,
        p.tensor,
        p.offload,
    )
    checkpoint = state_bytes(sizes)["checkpoint"]
    return Plan(
        sizes,
        machine,
        estimate(sizes, machine, asked),
        best(sizes, machine),
        fewest(sizes, machine),
        checkpoint,
        checkpoint / machine.disk_gbs / GB + checkpoint / machine.gpus / machine.hash_gbs / GB,
    )


def best(sizes: Sizes, machine: Machine, offload: bool = True) -> Estimate | None:
    """Return the fastest layout that fits, the plainest among equals; None if none does.

    Offloading is a last resort, and none for Muon, which computes its updates on the GPU.
    """
    room = machine.memory_gb * GB * machine.usable
    for off in (False, True) if offload and not sizes.turned else (False,):
        made = (estimate(sizes, machine, layout) for layout in layouts(sizes, machine, off))
        fitting = [e for e in made if e.total <= room]
        if fitting:
            return min(
                fitting,
                key=lambda e: (
                    float(f"{e.seconds:.3g}"),
                    len(e.layout.settings(machine.gpus)),
                    e.total,
                ),
            )
    return None


def layouts(sizes: Sizes, machine: Machine, offload: bool) -> Iterator[Layout]:
    """Yield the layouts that the numbers of GPUs, heads and documents allow."""
    c = sizes.transformer
    heads, hidden = c.key_heads or c.heads, c.size_of_hidden
    for tensor in _powers(min(machine.gpus, machine.per_node)):
        if machine.gpus % tensor or heads % tensor or c.heads % tensor or hidden % tensor:
            continue
        if tensor > 1 and c.qk_norm == "heads":
            continue
        ranks = machine.gpus // tensor
        if sizes.batch % ranks:
            continue
        shards = {ranks} | ({machine.per_node} if ranks % machine.per_node == 0 else set())
        passes = [n for n in _powers(sizes.batch // ranks) if sizes.batch % (n * ranks) == 0]
        for shard, n, recompute in itertools.product(sorted(shards), passes, (False, True)):
            yield Layout(n, recompute, shard, tensor, offload)


def fewest(sizes: Sizes, machine: Machine, most: int = 8192) -> int | None:
    """Return the fewest GPUs, a power of two, on which some layout fits without offloading."""
    return next(
        (n for n in _powers(most) if best(sizes, replace(machine, gpus=n), offload=False)), None
    )


def _powers(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length()) if 1 << i <= most]
