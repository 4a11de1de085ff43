"""Tensors to save, and what came back of them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from braid.checkpoints import Checkpoints, Tensors, faults, verify

Named = dict[str, dict[str, Tensor]]


def tensors(seed: int = 0, size: int = 5) -> Named:
    """Return tensors of every shape and kind that training has."""
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(size, 6, generator=rng)
    return {
        "model": {
            "table": table,
            "tied": table,
            "transposed": table.t(),
            "view": table[1:3],
            "row": torch.randn(1, 3, generator=rng),
            "half": torch.randn(3, 5, generator=rng).bfloat16(),
            "empty": torch.empty(0, 3),
            "mask": torch.rand(7, generator=rng) > 0.5,
        },
        "ema": {"table": torch.randn(size, 6, generator=rng)},
        "optimizer": {"0.step": torch.tensor(float(seed)), "0.exp_avg": table**2},
    }


def zeros(like: Tensors) -> Named:
    """Return tensors of the same shapes to load into."""
    return {g: {n: torch.zeros_like(t) for n, t in named.items()} for g, named in like.items()}


def differing(a: Tensors, b: Tensors) -> list[str]:
    """Return the names of tensors that are not equal to the bit."""
    assert {g: set(n) for g, n in a.items()} == {g: set(n) for g, n in b.items()}
    return [f"{g}/{n}" for g in a for n in a[g] if not torch.equal(a[g][n], b[g][n])]


def saved(folder: Path, *steps: int, **options: Any) -> Checkpoints:
    """Save the tensors of some steps, each with its own seed."""
    made = Checkpoints(folder, **options)
    for step in steps:
        made.save(step, tensors(step), {"step": step})
    return made


def resumed(folder: Path, **options: Any) -> tuple[int, list[str]]:
    """Load as a new process would; returns the step and what was said of it."""
    said: list[str] = []
    into = zeros(tensors())
    state = Checkpoints(folder, say=said.append, **options).load(into)
    assert state is not None
    assert differing(into, tensors(state["step"])) == []
    return state["step"], said


def sound(folder: Path) -> list[int]:
    """Return the steps whose checkpoints verify."""
    return [n for n in Checkpoints(folder).steps() if verify(folder / f"step-{n}") == []]


def leftovers(folder: Path) -> list[str]:
    """Return what lies in a folder beside committed checkpoints."""
    committed = {f"step-{n}" for n in Checkpoints(folder).steps()}
    return sorted(p.name for p in folder.iterdir() if p.name not in committed)


def apart(job: Callable[[], object], fault: str | None = None) -> int:
    """Run a job in a process of its own; returns how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if fault is not None:
            os.environ[faults.VARIABLE] = fault
        job()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
