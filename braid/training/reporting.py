"""What a step found: a line of metrics.jsonl for programs, and one for people."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from braid.braid import Braid
from braid.data.loader import Sample, Step
from braid.parallel import World
from braid.training.checkpoint import State
from braid.transformer.cost import flops_per_token, peak_flops


@dataclass(frozen=True)
class Result:
    """What one step found, over all ranks.

    Attributes:
        total: weighted sum of the losses.
        per_strand: modality -> mean loss over its targets; without those that had none.
        norm: norm of the gradient before clipping.
        learning_rate: the schedule's, of parameters without a rate of their own.
        wrong: why the step was skipped, or None.
    """

    total: float
    per_strand: dict[str, float]
    norm: float
    learning_rate: float
    wrong: str | None


def numbers(
    state: State, result: Result, braid: Braid, device: torch.device, ranks: int, row: int
) -> dict[str, Any]:
    """Return the line of metrics.jsonl.

    Args:
        state: how far the run is.
        result: of its last step.
        braid: the model.
        device: where this rank computes, one of equals.
        ranks: how many there are.
        row: tokens that attend to each other, for the number of operations.
    """
    speed = state.tokens / max(state.seconds, 1e-9)
    flops = speed * flops_per_token(braid.transformer.config, row)
    peak = peak_flops(device)
    return {
        "step": state.step,
        "position": state.position,
        "seconds": round(state.seconds, 2),
        "tokens": state.tokens,
        "tokens_per_second": round(speed),
        "learning_rate": result.learning_rate,
        "gradient_norm": result.norm,
        "memory_bytes": _memory(device),
        "flops_per_second": round(flops),
        **({} if peak is None else {"utilisation": flops / (peak * ranks)}),
        "skipped_rows": sum(state.skipped_rows.values()),
        "skipped_steps": state.skipped_steps,
        **_losses(state, result),
    }


def line(told: dict[str, Any], state: State, result: Result, progress: float) -> str:
    """Return what people are shown of those numbers, at a share of the budget."""
    losses = "  ".join(f"{n.split('/')[1]} {v:.3f}" for n, v in _losses(state, result).items())
    share = f"  {told['utilisation']:.0%} of peak" if "utilisation" in told else ""
    left = state.seconds * (1 / progress - 1) if progress else 0.0
    return (
        f"step {state.step}  {losses}  {told['tokens_per_second']:,} tokens/s{share}  "
        f"{left:,.0f} s left"
    )


def samples(data: Step, parts: int, tensor: int, world: World) -> list[Sample]:
    """Return the (stream, row) of a step's documents over all ranks, in order of position.

    Args:
        data: what this rank trains on.
        parts: micro-batches of a step.
        tensor: neighbouring ranks that read the same documents.
        world: the ranks; all of them call it.
    """
    said = world.gather(data.samples)[::tensor]
    share = len(data.samples) // parts  # of each rank in each micro-batch
    return [
        row
        for part in range(parts)
        for rank in said
        for row in rank[part * share : (part + 1) * share]
    ]


def _losses(state: State, result: Result) -> dict[str, float]:
    losses = {f"train/{n}/loss": v for n, v in result.per_strand.items()}
    return losses if state.matched is None else losses | {"train/match/loss": state.matched}


def _memory(device: torch.device) -> int:
    """Return the most memory that was used so far, of the device or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
