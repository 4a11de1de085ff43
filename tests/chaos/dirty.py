"""Broken files among the data: none ends the run, each is counted, the others keep their places."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from braid.data import Data
from braid.parallel import World
from braid.recipes import resolve
from braid.training import Trainer
from tests.chaos.harness import EXACT, lines
from tests.data.dirty import PICTURES, corpus
from tests.parallel.ranks import call

BATCH = 40


def train(world: World, data: str, out: str, dirty: bool, workers: int) -> dict[str, Any]:
    """Train one epoch on the corpus's pictures, which each rank writes for itself."""
    made = corpus(Path(data) / str(world.rank), dirty)
    source = made.sources["pictures"]
    settings = [
        *EXACT,
        f"train.batch={BATCH}",
        f"train.steps={len(source) // BATCH}",
        "train.log_samples=true",
        "data.match=null",
        "data.bad_limit=1",
        f"data.workers={workers}",
        "strands.image.modality.resize=true",
    ]
    told = io.StringIO()
    trainer = Trainer(
        resolve("toy", settings),
        Path(out),
        Console(file=told),
        "cpu",
        Data(source, source),
        world=world,
    )
    trainer.run()
    return {
        "skipped": trainer.state.skipped_rows,
        "bad": sorted(made.bad["pictures"]),
        "reasons": dict(Counter(made.bad["pictures"].values())),
    }


def main(folder: Path, quick: bool = False) -> str:
    """Train on broken files; returns what was seen."""
    plan = ((2, 0), (1, 3)) if quick else ((1, 0), (2, 0), (1, 3), (2, 3))
    seen = []
    for dirty, (ranks, workers) in [(False, (1, 0)), *((True, p) for p in plan)]:
        name = f"{dirty}-{ranks}-{workers}"
        where = {"data": str(folder / f"data-{name}"), "out": str(folder / name)}
        found = call(
            "tests.chaos.dirty", "train", ranks, {**where, "dirty": dirty, "workers": workers}
        )
        samples = [tuple(s) for line in lines(folder / name) for s in line["samples"]]
        seen.append((found[0], samples))
    (_, clean), *broken = seen
    for told, samples in broken:
        assert told["skipped"] == told["reasons"], f"{told['skipped']}, expected {told['reasons']}"
        bad = set(told["bad"])
        moved = [(a, b) for a, b in zip(clean, samples, strict=True) if a != b]
        assert {row for (_, row), _ in moved} == bad, f"{moved}, bad {sorted(bad)}"
        assert samples == broken[0][1], "the order follows from ranks or workers"
    told = broken[0][0]
    return (
        f"{len(PICTURES)} strange of {len(clean)} rows, {len(told['bad'])} of them bad, "
        f"{len(told['reasons'])} reasons counted exactly on "
        f"{', '.join(f'{r} ranks {w} workers' for r, w in plan)}; all others in their places"
    )
