"""A disk that is full or cannot be written: told within a step, and nothing lost."""

from __future__ import annotations

import io
import resource
import signal
from pathlib import Path
from typing import Any

from rich.console import Console

from braid import checkpoints
from braid.errors import BraidError
from braid.parallel import World
from braid.recipes import resolve
from braid.training import Trainer
from tests.chaos.harness import EXACT, steps
from tests.parallel.ranks import call


class Filling(Trainer):
    """A trainer whose disk is full after some step: no file may grow beyond a few bytes."""

    full_at: int
    failed_at: int | None = None

    def step(self, batches: Any) -> Any:
        """Do a step; the disk fills before one."""
        if self.state.step == self.full_at:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
        return super().step(batches)


def train(world: World, out: str, background: bool, stop: bool) -> dict[str, Any]:
    """Train until the disk is full on all ranks."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    made = resolve(
        "toy",
        [
            *EXACT,
            "train.steps=14",
            "train.save_every=4",
            "train.log_every=100",
            f"train.save_in_background={str(background).lower()}",
            f"train.on_save_error={'stop' if stop else 'warn'}",
        ],
    )
    told = io.StringIO()
    trainer = Filling(made, Path(out), Console(file=told), "cpu", world=world)
    trainer.full_at = 9
    error = None
    try:
        trainer.run()
    except BraidError as e:
        error = str(e)
    return {"error": error, "step": trainer.state.step, "said": told.getvalue()}


def main(folder: Path, quick: bool = False) -> str:
    """Fill the disk under runs; returns what was seen."""
    told = []
    for background in (False, True):
        for stop in (True, False):
            out = folder / f"run-{background}-{stop}"
            found = call(
                "tests.chaos.disk", "train", 1 if quick else 2,
                {"out": str(out), "background": background, "stop": stop},
            )  # fmt: skip
            kept = steps(out)
            assert kept == [4, 8], f"{kept}: {found}"
            assert all(not checkpoints.verify(out / f"checkpoints/step-{s}") for s in kept)
            assert not list((out / "checkpoints").glob("*.tmp-*"))
            for rank in found:
                if stop:
                    assert rank["error"] is not None, rank
                    assert rank["step"] in ((12, 13) if background else (12,)), rank
                else:
                    assert rank["error"] is None and rank["step"] == 14, rank
            if not stop:
                assert "was not written" in found[0]["said"], found[0]
            told.append(f"{'background' if background else 'at once'}: {found[0]['step']}")
    return "told within a step and nothing lost, whether the run stops or goes on: " + ", ".join(
        told
    )
