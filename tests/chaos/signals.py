"""SIGTERM and SIGUSR1, at any time and to any rank: no step is lost."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from braid import checkpoints
from tests.chaos.harness import EXACT, Job, lines, same, steps, whole

SAVED = 75


def main(folder: Path, quick: bool = False) -> str:
    """Ask runs of two ranks to stop; returns what was seen."""
    times, length = (2, 20) if quick else (20, 200)
    settings = [
        *EXACT,
        f"train.steps={length}",
        "train.save_every=1000",
        "train.preview_every=5",  # many signals come while it draws
    ]
    whole(folder / "whole", settings, 2)
    rng, out, asked = random.Random(0), folder / "asked", 0
    slowest = 0.0
    for number in range(times):
        job = Job(out, settings, 2)
        more = rng.randint(0, max(1, length // times // 2))
        before = len(lines(out))
        if not job.wait_for(lambda b=before, m=more: len(lines(out)) >= b + 1 + m):
            job.must_end(0)
            break
        time.sleep(rng.uniform(0, 0.2))
        kind = signal.SIGTERM if number % 2 else signal.SIGUSR1
        job.send(kind, [0, 1] if number % 3 == 0 else [number % 2])
        since = time.monotonic()
        codes = job.end()
        slowest = max(slowest, time.monotonic() - since)
        if codes == [0, 0]:
            break  # it had just finished
        assert codes == [SAVED, SAVED], f"exit codes {codes}:\n{job.said}"
        newest, last = steps(out)[-1], lines(out)[-1]["step"]
        assert newest == last, f"saved step {newest}, but step {last} was done"
        asked += 1
    whole(out, settings, 2)
    same(folder / "whole", out)
    _compiling(folder / "compiling")
    _evaluating(folder / "evaluating")
    written = [line["step"] for line in lines(out)]
    assert len(written) == len(set(written)), "a step was done twice"
    return (
        f"{asked} signals, exit code 75 within {slowest:.1f} s, no step done twice or lost; also "
        "while blocks compiled, and in an evaluation"
    )


def _compiling(out: Path) -> None:
    """Ask a run to stop in its first step, which compiles the blocks."""
    job = Job(out, [*EXACT, "train.steps=2", "train.compile=true"], 1)
    assert job.wait_for(lambda: (out / "modalities.json").exists()), job.said
    time.sleep(1.0)
    assert not lines(out), "the first step was over before the signal"
    job.send(signal.SIGTERM, [0])
    job.must_end(SAVED)
    assert steps(out) == [1], f"{steps(out)}:\n{job.said}"


def _evaluating(out: Path) -> None:
    """Ask a demonstration to stop while it evaluates; the same command then ends well."""
    arguments = ["-m", "braid", "demo", "--minutes", "0.05", "--out", str(out)]
    job = Job.of(arguments)
    assert job.wait_for(lambda: bool(steps(out)) and not _trains(out)), job.said
    time.sleep(0.5)
    job.send(signal.SIGTERM, [0])
    job.must_end(SAVED)
    assert not (out / "report.json").exists()
    Job.of(arguments).must_end()
    assert (out / "report.json").exists()


def _trains(out: Path) -> bool:
    """Return whether a process holds a run."""
    return checkpoints.holder(out) is not None
