"""Death at each named point of saving: the newest committed step is used, two are always sound."""

from __future__ import annotations

from pathlib import Path

from braid import checkpoints
from braid.checkpoints.faults import PLACES
from tests.chaos.harness import EXACT, Job, lines, same, steps, whole

EVERY = 4


def sound(out: Path) -> list[int]:
    """Return the steps whose checkpoints verify."""
    return [s for s in steps(out) if not checkpoints.verify(out / "checkpoints" / f"step-{s}")]


def main(folder: Path, quick: bool = False) -> str:
    """Let rank 0 die while it saves; returns what was seen."""
    length = 24
    base = [*EXACT, f"train.steps={length}", f"train.save_every={EVERY}", "train.keep=2"]
    whole(folder / "whole", base, 2)
    died = 0
    for point in PLACES[3:5] if quick else PLACES:
        out = folder / point
        background = point == "mid-background"
        settings = [*base, f"train.save_in_background={str(background).lower()}"]
        for number in (3, 4) if quick else (2, 3, 4):  # there are checkpoints before
            job = Job(out, settings, 2, BRAID_FAULT=f"{point}:{number}")
            codes = job.end()
            if 137 not in codes:
                assert codes == [0, 0], f"{point}: {codes}\n{job.said}"
                continue
            died += 1
            found = sound(out)
            reached = max((line["step"] for line in lines(out)), default=0)
            # the save at hand may be lost; those before it are there, and two of them are kept
            made = max(0, (reached - 1) // EVERY - background)
            assert len(found) >= min(2, made), f"{point}: sound {found} at step {reached}"
            last = found[-1] if found else 0
            # in the background the step after the save may have begun
            assert reached - last <= EVERY + background, f"{point}: step {reached}, saved {last}"
        whole(out, settings, 2)
        same(folder / "whole", out)
        leftovers = list((out / "checkpoints").glob("*.tmp-*"))
        assert not leftovers, f"{point}: {leftovers}"
    assert died, "no fault was reached"
    return (
        f"{died} deaths while saving, at most {EVERY} steps lost, same curve, two sound ones kept"
    )
