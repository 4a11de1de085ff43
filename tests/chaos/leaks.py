"""Nothing grows: memory, open files and threads over many steps and checkpoints."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from braid.recipes import resolve
from braid.training import Trainer
from tests.chaos.harness import EXACT


class Measured(Trainer):
    """A trainer that notes what its process holds."""

    held: list[tuple[int, int, int]]

    def step(self, batches: Any) -> Any:
        """Do a step, and look."""
        result = super().step(batches)
        if self.state.step % 50 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.held.append((pages * os.sysconf("SC_PAGE_SIZE"), files, threading.active_count()))
        return result


def main(folder: Path, quick: bool = False) -> str:
    """Train for long; returns what was seen."""
    torch.set_num_threads(1)
    length, every = (600, 30) if quick else (3000, 60)
    made = resolve(
        "toy", [*EXACT, f"train.steps={length}", f"train.save_every={every}", "data.match=null",
                "train.save_in_background=true"]
    )  # fmt: skip
    trainer = Measured(made, folder / "run", Console(file=io.StringIO()), "cpu")
    trainer.held = []
    trainer.run()
    settled = trainer.held[len(trainer.held) // 3 :]  # caches fill first
    megabytes = [b / 2**20 for b, _, _ in settled]
    half = len(megabytes) // 2
    growth = (sum(megabytes[half:]) / (len(megabytes) - half)) - sum(megabytes[:half]) / half
    per_thousand = growth / (length * 2 / 3 / 2) * 1000
    assert per_thousand < 3, f"{per_thousand:.1f} MB in 1000 steps: {megabytes}"
    for name, values in (
        ("files", [f for _, f, _ in settled]),
        ("threads", [t for *_, t in settled]),
    ):
        assert max(values) - min(values) <= 2, f"{name}: {values}"
    return (
        f"{length} steps, {length // every} checkpoints: {per_thousand:+.2f} MB in 1000 steps, "
        f"{settled[-1][1]} files, {settled[-1][2]} threads"
    )
