"""A rank that stops answering, and a data worker that dies: the run ends and says who it was."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from braid.checkpoints.lock import lives
from tests.chaos.harness import EXACT, Job, lines, pids_of, same, whole

SECONDS = 8


def main(folder: Path, quick: bool = False) -> str:
    """Stop a rank of two, then kill a worker of one; returns what was seen."""
    settings = [
        *EXACT,
        "train.steps=2000" if not quick else "train.steps=400",
        "train.save_every=20",
        f"parallel.seconds={SECONDS}",
    ]
    job = Job(folder / "run", settings, 2)
    assert job.wait_for(lambda: len(lines(folder / "run")) > 20), job.end() or job.said
    job.send(signal.SIGSTOP, [1])
    since = time.monotonic()
    limit = since + 60
    while job.processes[0].poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    took = time.monotonic() - since
    code = job.processes[0].poll()
    job.kill([1])
    assert code not in (None, 0), f"rank 0 still waits after {took:.0f} s"
    assert "rank 1 has been silent" in job.said, job.said
    assert took < SECONDS + 20, f"{took:.0f} s"

    out = folder / "workers"
    settings = [*EXACT, "train.steps=400", "data.workers=2", "train.save_every=20"]
    job = Job(out, settings, 1)
    assert job.wait_for(lambda: len(lines(out)) > 20), job.end() or job.said
    worker = pids_of(job)[-1]
    os.kill(worker, signal.SIGKILL)
    since = time.monotonic()
    codes = job.end(60)
    dead = time.monotonic() - since
    assert codes[0] not in (0, 75) and "worker" in job.said, f"{codes}: {job.said}"
    assert dead < 8, f"{dead:.0f} s"
    assert not lives(worker), "the worker is still there"
    if not quick:
        whole(out, settings, 1)
        whole(folder / "undisturbed", settings, 1)
        same(folder / "undisturbed", out)
    return f"a silent rank was named after {took:.0f} s, a dead worker after {dead:.1f} s"
