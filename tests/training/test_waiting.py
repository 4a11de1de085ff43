"""A step waits for its device where it needs numbers, and nowhere else."""

from __future__ import annotations

import io
from contextlib import nullcontext

import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from braid.recipes import resolve
from braid.training import Trainer
from braid.training.ema import EMA
from tests.laws import models


class Waits(TorchDispatchMode):
    """Notes copies for which a GPU would be waited for; the meta device stands for one."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.ops.aten._to_copy.default:
            return func(*args, **kwargs)
        (tensor,) = args
        ways = tensor.device.type, (kwargs.get("device") or tensor.device).type
        if ways == ("meta", "cpu"):
            self.found.append("to the host")
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        if ways == ("cpu", "meta") and not kwargs.get("non_blocking"):
            self.found.append("to the device")
        return func(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["fudoki", "transfusion", "chameleon"])
def test_a_step_waits_for_its_losses_and_its_norm_alone(paradigm, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    settings = (*models.SMALL, "train.batch=8", "train.accumulate=2", f"paradigm={paradigm}")
    trainer = Trainer(resolve("toy", settings), tmp_path, Console(file=io.StringIO()), "cpu")
    steps = trainer.loader.steps(0, 2)
    batches = next(steps).batches
    steps.close()
    trainer.device = torch.device("meta")
    trainer.braid.to("meta")
    groups = [{"params": trainer.braid.parameters(), "factor": 1.0}]
    trainer.optimizer = torch.optim.AdamW(groups, foreach=True)
    trainer.ema = EMA(trainer.braid, 0.9)
    with torch.no_grad():  # what a process keeps on a device is copied once
        trainer.braid.corrupt(batches[0].to("meta"), 0)
    with Waits() as waits:
        trainer.step(batches)
    assert waits.found == ["to the host"] * 2
