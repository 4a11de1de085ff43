"""What the ranks of the tests do."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from braid.checkpoints import Checkpoints
from braid.errors import BraidError
from braid.parallel import World
from tests.checkpoints.made import Named, leftovers, sound, tensors, zeros


def laid(world: World, whole: Named, replicas: int = 1) -> Named:
    """Shard tensors over ranks, most of them unevenly; some stay whole on every rank."""
    mesh = torch.distributed.init_device_mesh("cpu", (replicas, world.size // replicas))
    over = {"transposed": Shard(1), "half": Shard(1), "mask": Replicate()}
    return {
        group: {
            n: t
            if t.ndim == 0 or n == "empty"
            else distribute_tensor(t, mesh, [Replicate(), over.get(n, Shard(0))])
            for n, t in named.items()
        }
        for group, named in whole.items()
    }


def loaded(world: World, folder: Path, replicas: int = 1) -> dict[str, Any]:
    """Load into sharded tensors; returns the state, and what is not as it was saved."""
    into = laid(world, zeros(tensors()), replicas)
    state = Checkpoints(folder, world).load(into)
    assert state is not None
    wanted = tensors(state["step"])
    wrong = []
    for group, named in into.items():
        for name, t in named.items():
            whole = t.full_tensor() if isinstance(t, DTensor) else t
            if not torch.equal(whole, wanted[group][name]):
                wrong.append(f"{group}/{name}")
    return {"step": state["step"], "wrong": wrong}


def limited(world: World, folder: Path) -> list[str]:
    """Save where rank 1 may write small files only; returns what this rank hears of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = []
    for background in (False, True):
        made = Checkpoints(folder, world, background=background)
        if world.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            made.save(90, laid(world, tensors(90)), {"step": 90})
            made.wait()
            said.append("nothing")
        except BraidError as e:
            said.append(str(e))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return said


def everything(world: World, alone: str, both: str) -> dict[str, Any]:
    """Read what one process wrote, and write what one process will read."""
    out: dict[str, Any] = {"one": loaded(world, Path(alone))}
    for step, background in ((1, False), (2, True), (3, True)):
        made = Checkpoints(Path(both), world, background=background)
        values = laid(world, tensors(step))
        made.save(step, values, {"step": step})
        if background:
            with torch.no_grad():
                for named in values.values():
                    for t in named.values():
                        t.zero_()  # training goes on
        made.wait()
    out["two"] = loaded(world, Path(both))
    out["limited"] = limited(world, Path(both))
    return {**out, "sound": sound(Path(both)), "left": leftovers(Path(both))}


def hybrid(world: World, both: str) -> dict[str, Any]:
    """Load and save on a mesh of 2 replicas."""
    out = loaded(world, Path(both), 2)
    Checkpoints(Path(both), world).save(4, laid(world, tensors(4), 2), {"step": 4})
    return {**out, "again": loaded(world, Path(both))}


def series(world: World, folder: str, background: bool = False) -> int:
    """Save steps 1 to 6; every rank notes each that has returned."""
    made = Checkpoints(Path(folder), world, background=background)
    found = made.load(zeros(tensors()))
    for step in range(1 if found is None else found["step"] + 1, 7):
        made.save(step, laid(world, tensors(step)), {"step": step})
        made.wait()
        (Path(folder).parent / f"done-{world.rank}").write_text(str(step))
    return made.steps()[-1]
