"""Memory and time of one layout of a run over GPUs.

A model of the two, not a measurement: docs/scale.md says what it was compared with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from braid.cross_entropy import chunk
from braid.doctor.sizes import Sizes
from braid.errors import BraidError
from braid.transformer import TransformerConfig

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a model is trained on.

    Attributes:
        gpus: number of them, one rank each.
        per_node: of them in one machine.
        memory_gb: of each.
        usable: share of it that tensors can take; the rest goes to the driver and to gaps.
        tflops: dense bfloat16 operations of each, 1e12 a second.
        utilisation: share of them that training reaches.
        inside_gbs: GB a second that each sends within a machine.
        between_gbs: GB a second that each sends to other machines.
        host_gbs: GB a second between each GPU and its host, for offloading.
        disk_gbs: GB a second that all of them write together.
        hash_gbs: GB a second that each hashes, for the manifest of a checkpoint.
    """

    gpus: int = 8
    per_node: int = 8
    memory_gb: float = 80.0
    usable: float = 0.92
    tflops: float = 990.0
    utilisation: float = 0.4
    inside_gbs: float = 300.0
    between_gbs: float = 40.0
    host_gbs: float = 25.0
    disk_gbs: float = 2.0
    hash_gbs: float = 1.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise BraidError(f"{name} {value} must be more than 0")
        if self.utilisation > 1 or self.usable > 1:
            raise BraidError("utilisation and usable are shares; give at most 1")


@dataclass(frozen=True)
class Layout:
    """How a run is laid over GPUs; none of it changes what is learned.

    Attributes:
        accumulate: forward passes in a step.
        recompute: compute a block's activations again in the backward pass.
        shard: ranks over which parameters are sharded.
        tensor: ranks over which each matrix is split.
        offload: keep shards and the optimiser's state in the host's memory.
    """

    accumulate: int = 1
    recompute: bool = False
    shard: int = 1
    tensor: int = 1
    offload: bool = False

    def settings(self, gpus: int) -> list[str]:
        """Return the layout as overrides of an experiment."""
        made = [f"train.accumulate={self.accumulate}"] if self.accumulate > 1 else []
        made += ["parallel.recompute=true"] if self.recompute else []
        made += [f"parallel.shard={self.shard}"] if self.shard * self.tensor != gpus else []
        made += [f"parallel.tensor={self.tensor}"] if self.tensor > 1 else []
        return made + (["parallel.offload=true"] if self.offload else [])


@dataclass(frozen=True)
class Estimate:
    """What one layout needs.

    Attributes:
        layout: which.
        memory: what for -> bytes on each GPU at the peak of a step.
        host: bytes in the host's memory for each GPU.
        tokens: of one forward pass on one rank, padding included.
        flops: operations of a step on one rank, recomputation included.
        compute: seconds of computing in a step.
        communication: seconds in which a rank sends, in a step; overlaps with computing.
        transfer: seconds between GPU and host in a step; does not.
        sent: bytes that a rank sends in a step.
    """

    layout: Layout
    memory: dict[str, float]
    host: float
    tokens: int
    flops: float
    compute: float
    communication: float
    transfer: float
    sent: float

    @property
    def total(self) -> float:
        """Bytes on each GPU at the peak of a step."""
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return max(self.compute, self.communication) + self.transfer


def state_bytes(sizes: Sizes) -> dict[str, int]:
    """Return the bytes of what training keeps over steps, over all ranks together.

    Weights, gradients, the optimiser's moments and the average are float32 whatever the precision
    is: two moments of AdamW, one of what Muon moves.
    """
    n = 4 * sizes.parameters
    moments = 2 * n - 4 * sizes.turned
    kept = {"parameters": n, "gradients": n, "optimizer": moments, "average": n}
    return {**kept, "checkpoint": n + moments + n}


def block_activations(
    c: TransformerConfig, size: int, fused: bool = True, tensor: int = 1
) -> float:
    """Return the bytes that one block keeps for its backward pass, a token.

    Args:
        c: sizes of the block.
        size: bytes of a number in the forward pass.
        fused: RMSNorm and attention are single kernels, as on a GPU; composed of others if not.
        tensor: ranks over which each matrix is split.
    """
    heads, key_heads = c.heads / tensor, (c.key_heads or c.heads) / tensor
    query, key = heads * c.size_of_head, key_heads * c.size_of_head
    normed = {"rms": 1 if fused else 2, "layer": 1, "heads": 2, "none": 0}[c.qk_norm]
    wide = size if fused else 4  # composed norms keep float32
    norms = 2 * c.width * ((wide if fused else 2 * wide) + size)
    norms += normed * wide * (query + key)
    attention = size * ((2 if fused else 3) * query + 2 * key)
    feed = 4 * c.size_of_hidden / tensor * size
    statistics = 4 * (2 + heads + (heads + key_heads) * (normed > 0))
    extra = 2 * c.width * (c.dropout > 0) + 9 * c.width * size * c.adaln
    return norms + attention + feed + statistics + extra


def estimate(sizes: Sizes, machine: Machine, layout: Layout, fused: bool = True) -> Estimate:
    """Return what a layout needs on a machine."""
    c, alone = sizes.transformer, machine.gpus == 1 and not layout.offload
    size = 2 if sizes.bfloat16 else 4
    ranks = machine.gpus // layout.tensor
    rows = sizes.tokens / sizes.row
    tokens = round(max(1.0, rows / ranks / layout.accumulate) * sizes.row)
    split = c.depth * sizes.block / layout.tensor
    share = (split + sizes.rest) / layout.shard
    state = {
        "parameters": 4 * share,
        "gradients": 4 * share,
        "optimizer": 8 * share - 4 * sizes.turned / layout.tensor / layout.shard,
        "average": 4 * share,
    }
    host = 0.0
    if layout.offload:
        host, state = sum(state.values()), {}
    memory = {
        **state,
        "gathered": _gathered(sizes, layout, size, alone),
        "activations": _activations(sizes, layout, size, tokens, fused),
        "logits": _logits(sizes, size, tokens, "cuda" if fused else "cpu"),
    }
    sent, seconds = _communication(sizes, machine, layout, size, tokens)
    repeated = sizes.block_products - c.width * c.size_of_hidden  # the last product is not needed
    again = c.depth * (2 * repeated + 4 * sizes.row * c.heads * c.size_of_head)
    flops = (sizes.flops + again * layout.recompute) * sizes.tokens / machine.gpus
    flops += sizes.turning  # each rank computes every whole update
    return Estimate(
        layout,
        memory,
        host,
        tokens,
        flops,
        flops / (machine.tflops * 1e12 * machine.utilisation),
        seconds,
        _transfer(share, layout, machine) * layout.offload,
        sent,
    )


def _gathered(sizes: Sizes, layout: Layout, size: int, alone: bool) -> float:
    """Bytes of whole weights and gradients, where shards are put together.

    Two blocks are whole at a time and one is being copied, with one gradient before and one after
    it is cast; what is outside of blocks stays whole during a step.
    """
    if alone:
        return 2.0 * sizes.parameters * sizes.bfloat16  # copies that autocast makes
    block = sizes.block / layout.tensor
    return block * (4 * size + 4) + sizes.rest * (2 * size + 4)


def _activations(sizes: Sizes, layout: Layout, size: int, tokens: int, fused: bool) -> float:
    """Bytes that a forward pass keeps until the backward pass; with recomputation, the input of
    each block and all of one.
    """
    c = sizes.transformer
    block = block_activations(c, size, fused, layout.tensor)
    around = c.width * size * (4 + 2 * sizes.strands)
    if not layout.recompute:
        return tokens * (c.depth * block + around)
    gradients = size * (3 * c.size_of_hidden / layout.tensor + 2 * c.width)
    return tokens * (c.depth * c.width * size + around + block + gradients)


def _logits(sizes: Sizes, size: int, tokens: int, device: str) -> float:
    """Bytes of logits: those of one chunk in float32, and in what they are multiplied in if that is
    less; where a loss needs all, with their logarithms and both gradients.
    """
    rows = min(tokens, chunk(max(sizes.chunked, 1), device))
    part = rows * sizes.chunked * (4 + size * (size < 4))
    return part + tokens * sizes.logits * (size + 12)


def _communication(
    sizes: Sizes, machine: Machine, layout: Layout, size: int, tokens: int
) -> tuple[float, float]:
    """Bytes that a rank sends in a step, and the seconds that takes."""
    c, passes = sizes.transformer, layout.accumulate
    blocks = c.depth * sizes.block / layout.tensor
    others = (layout.shard - 1) / layout.shard
    gathers = size * (2 * blocks + sizes.rest)
    sharded = others * passes * (gathers + 4 * (blocks + sizes.rest))
    copies = machine.gpus // layout.tensor // layout.shard
    repeated = passes * 2 * (copies - 1) / copies * 4 * (blocks + sizes.rest) / layout.shard
    reduces = c.depth * (4 + 2 * layout.recompute) * 2 * (layout.tensor - 1) / layout.tensor
    within = passes * reduces * tokens * c.width * size
    inside, between = machine.inside_gbs * GB, machine.between_gbs * GB
    near = machine.gpus <= machine.per_node
    seconds = sharded / (inside if layout.shard * layout.tensor <= machine.per_node else between)
    seconds += repeated / (inside if near else between)
    seconds += within / (inside if layout.tensor <= machine.per_node else between)
    return sharded + repeated + within, seconds


def _transfer(share: float, layout: Layout, machine: Machine) -> float:
    """Seconds of offloading in a step: shards come twice a pass, gradients go once, and AdamW
    reads and writes 28 bytes a parameter in the host.
    """
    return share * (12 * layout.accumulate + 28) / machine.host_gbs / GB
