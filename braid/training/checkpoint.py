"""What a checkpoint of a run holds: tensors by name, and the few numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from braid.errors import BraidError
from braid.training.ema import EMA


@dataclass(frozen=True)
class State:
    """What a run needs to go on, besides tensors; the same on every rank and for any number.

    Attributes:
        step: optimiser steps done.
        position: documents used so far, good steps and bad; the next step reads from here on.
        seconds: time spent training.
        tokens: tokens read in good steps.
        skipped_steps: steps whose loss or gradient was bad.
        skipped_rows: why -> documents whose row could not be used and was replaced.
        rollbacks: how often the run went back to a checkpoint.
        matched: the last matching loss.
        norms: recent gradient norms, where spikes are looked for.
        bad_in_row: bad steps since the last good one.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    tokens: int = 0
    skipped_steps: int = 0
    skipped_rows: dict[str, int] = field(default_factory=dict)
    rollbacks: int = 0
    matched: float | None = None
    norms: list[float] = field(default_factory=list)
    bad_in_row: int = 0

    @staticmethod
    def of(value: Mapping[str, Any]) -> State:
        """Make a state from JSON."""
        # checkpoints of earlier versions do not count bad steps
        if {"bad_in_row", *value} != {f.name for f in fields(State)}:
            raise BraidError(
                f"a checkpoint's state has the keys {sorted(value)}; it was written by another "
                "version of braid"
            )
        return State(**value)

    def json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def tensors(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint, group -> name -> tensor, sharing memory with their own.

    What is loaded into them is in place at once, except for the optimiser: see `adopt`. One
    that has no state yet takes a step of nothing here, as torch lists states only where they are.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    flat = get_optimizer_state_dict(
        model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True)
    )
    return {
        "model": dict(model.state_dict()),
        "ema": ema.average,
        "optimizer": {n: t for n, t in flat.items() if isinstance(t, Tensor)},
    }


def adopt(model: nn.Module, optimizer: torch.optim.Optimizer, loaded: Mapping[str, Tensor]) -> None:
    """Give the optimiser the tensors of a checkpoint; its settings stay the experiment's."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    flat = get_optimizer_state_dict(model, optimizer, options=options)
    state: Any = {**flat, **loaded}
    set_optimizer_state_dict(model, optimizer, state, options=options)
