"""Checkpoints of a run: model, average and optimiser as safetensors, the rest as JSON."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from braid import storage
from braid.errors import BraidError
from braid.training.ema import EMA


@dataclass(frozen=True)
class State:
    """What a run needs to go on, besides tensors.

    Attributes:
        step: optimiser steps done; the next one reads the documents from position step * batch on.
        seconds: time spent training so far.
        tokens: tokens read so far.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


def save(
    folder: Path,
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    state: State,
    keep: int,
) -> Path:
    """Write step-N, then delete the oldest beyond `keep`."""
    path = folder / f"step-{state.step}"
    tensors = {
        "model": dict(model.state_dict()),
        "ema": ema.average,
        "optimizer": _optimizer_tensors(optimizer),
    }
    storage.save(path, tensors, {"state": {**asdict(state), "ema_updates": ema.updates}})
    for _, old in storage.steps(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def resume(
    folder: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer
) -> State | None:
    """Load the newest checkpoint; None if there is none."""
    found = storage.steps(folder)
    if not found:
        return None
    path = found[-1][1]
    text = storage.read_json(path / "state.json")
    if text.keys() != {f.name for f in fields(State)} | {"ema_updates"}:
        raise BraidError(f"{str(path / 'state.json')!r} is damaged; use an earlier checkpoint")
    storage.adopt(model, storage.read_tensors(path / "model.safetensors"), str(path))
    average = storage.read_tensors(path / "ema.safetensors")
    if average.keys() != ema.average.keys():
        raise BraidError(
            f"{str(path)!r} holds an average of other weights; the checkpoint belongs to another "
            "experiment"
        )
    for name, tensor in ema.average.items():
        tensor.copy_(average[name])
    ema.updates = text.pop("ema_updates")
    _load_optimizer(optimizer, storage.read_tensors(path / "optimizer.safetensors"))
    return State(**text)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the optimiser's state: "number.name" -> tensor."""
    states = optimizer.state_dict()["state"]
    return {
        f"{i}.{name}": torch.as_tensor(x)
        for i, state in states.items()
        for name, x in state.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        states.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
