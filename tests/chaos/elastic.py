"""The same documents in the same order on any number of ranks and of workers."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.harness import EXACT, Job, lines

PLAN = ((2, 0), (1, 0), (4, 3), (2, 0))
"""Ranks and workers of each launch."""


def main(folder: Path, quick: bool = False) -> str:
    """Go on with a run on other numbers of ranks; returns what was seen."""
    plan, steps = (PLAN[:2], 8) if quick else (PLAN, 50)
    settings = [*EXACT, "train.log_samples=true", "train.save_every=1000"]
    for number, (ranks, workers) in enumerate(plan, 1):
        # the rate follows the budget, so it is held still
        part = steps * number // len(plan)
        job = Job(
            folder / "parts",
            [*settings, f"train.steps={part}", "train.final_rate=1", f"data.workers={workers}"],
            ranks,
        )
        job.must_end()
    Job(
        folder / "whole-flat", [*settings, f"train.steps={steps}", "train.final_rate=1"], 1
    ).must_end()
    a, b = (
        {line["step"]: line for line in lines(folder / name)} for name in ("whole-flat", "parts")
    )
    assert sorted(a) == sorted(b) == list(range(1, steps + 1)), f"{sorted(a)}, {sorted(b)}"
    for step in a:
        assert a[step]["samples"] == b[step]["samples"], f"step {step}"
        assert a[step]["position"] == b[step]["position"], f"step {step}"
    worst = max(
        abs(a[s][k] - b[s][k]) / abs(a[s][k])
        for s in a
        for k in a[s]
        if k.startswith("train/") and a[s][k]
    )
    assert worst <= 1e-5, f"losses differ by {worst:.1e}"
    ranks = " -> ".join(f"{r} ranks {w} workers" for r, w in plan)
    return f"{ranks}: {steps} steps of the same documents, losses within {worst:.1e}"
