"""Runs that are disturbed, and what has to be the same afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from braid import checkpoints
from tests.parallel.ranks import environment, start

SMALL = ("transformer.width=32", "transformer.depth=2", "transformer.heads=2")

EXACT = (
    *SMALL,
    "train.batch=8",
    "train.warmup=2",
    "train.log_every=1",
    "train.preview_every=0",
    "data.match=[text, image]",
)
"""Settings of a toy run whose every step is in metrics.jsonl."""


def command(out: Path, settings: Sequence[str], recipe: str = "toy") -> list[str]:
    """Return the arguments of python that train in a folder."""
    return ["-m", "braid", "train", recipe, *settings, "--out", str(out), "--device", "cpu"]


class Job:
    """The processes of one launch; if one dies, the others are killed, as a launcher does."""

    def __init__(
        self, out: Path, settings: Sequence[str], ranks: int, recipe: str = "toy", **more: str
    ) -> None:
        """Start a run in a folder on so many ranks; one rank is started without a launcher."""
        self._begin(command(out, settings, recipe), ranks, **more)

    @classmethod
    def of(cls, arguments: Sequence[str], **more: str) -> Job:
        """Start python with any arguments, as one process."""
        job = cls.__new__(cls)
        job._begin(arguments, 1, **more)
        return job

    def _begin(self, arguments: Sequence[str], ranks: int, **more: str) -> None:
        self.said = ""
        if ranks > 1:
            self.processes = start(list(arguments), ranks, **more)
        else:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, *arguments],
                    env=environment(**more),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            ]

    @property
    def alive(self) -> bool:
        """Whether all processes are at work."""
        return all(p.poll() is None for p in self.processes)

    def kill(self, ranks: Sequence[int]) -> None:
        """Kill some ranks, which leave no word, and then the others."""
        for rank in ranks:
            self.processes[rank].kill()
        self.end()

    def send(self, number: signal.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to some ranks."""
        for rank in ranks:
            self.processes[rank].send_signal(number)

    def end(self, seconds: float = 300) -> list[int]:
        """Wait until all have ended; if one fails, the others have ten seconds.

        Returns:
            their exit codes.
        """
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and any(p.poll() is None for p in self.processes):
            if any(p.poll() not in (None, 0) for p in self.processes):
                limit = min(limit, time.monotonic() + 10)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    for p in self.processes:
                        p.wait(max(0.0, limit - time.monotonic()))
                break
            time.sleep(0.02)
        for p in self.processes:
            if p.poll() is None:
                p.kill()
        self.said = "\n".join(p.communicate()[0] or "" for p in self.processes)
        return [p.returncode for p in self.processes]

    def must_end(self, *codes: int) -> None:
        """Wait, and claim that every process ended with one of these codes; 0 if none is given."""
        found = self.end()
        if not set(found) <= set(codes or (0,)):
            raise AssertionError(f"exit codes {found}, expected {codes or (0,)}:\n{self.said}")

    def wait_for(self, what: Callable[[], bool], seconds: float = 120) -> bool:
        """Wait until something is true; False if the processes ended or the time is over."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if what():
                return True
            if not self.alive:
                return False
            time.sleep(0.01)
        return False


def lines(out: Path) -> list[dict]:
    """Return the whole lines of metrics.jsonl; a killed process may have left half a line."""
    path = out / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def curve(out: Path) -> dict[int, dict[str, str]]:
    """Return step -> losses and norms in hexadecimal; what was written last counts."""
    kept: dict[int, dict[str, str]] = {}
    for line in lines(out):
        values = {k: v for k, v in line.items() if k.startswith("train/") or k == "gradient_norm"}
        if "skipped" not in line:
            kept[line["step"]] = {k: float(v).hex() for k, v in values.items()}
    return kept


def steps(out: Path) -> list[int]:
    """Return the committed checkpoints of a run."""
    folder = out / "checkpoints"
    found = [p for p in folder.glob("step-*") if (p / "manifest.json").exists()]
    return sorted(int(p.name.removeprefix("step-")) for p in found if "." not in p.name)


def tensors(out: Path) -> dict[str, Tensor]:
    """Return all tensors of the newest checkpoint."""
    folder = checkpoints.newest(out / "checkpoints")
    assert folder is not None, f"{out} has no sound checkpoint"
    groups = ("model", "ema", "optimizer")
    return {f"{g}/{n}": t for g in groups for n, t in checkpoints.read(folder, g).items()}


def digest(out: Path) -> str:
    """Return a hash of all tensors of the newest checkpoint."""
    h = hashlib.sha256()
    for name, tensor in sorted(tensors(out).items()):
        h.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return h.hexdigest()


def same(a: Path, b: Path) -> None:
    """Claim that two runs have the same curve and the same tensors, to the bit."""
    first, second = curve(a), curve(b)
    assert first.keys() == second.keys(), f"steps {sorted(first)} and {sorted(second)}"
    different = [step for step in first if first[step] != second[step]]
    assert not different, (
        f"the curve differs at {different[:3]}: {first[different[0]]}, {second[different[0]]}"
    )
    assert digest(a) == digest(b), "the final tensors differ"


def whole(out: Path, settings: Sequence[str], ranks: int, recipe: str = "toy") -> None:
    """Let a run train undisturbed."""
    Job(out, settings, ranks, recipe).must_end()


def killed(
    out: Path, settings: Sequence[str], ranks: int, times: int, seed: int, every: int
) -> int:
    """Train to the end while processes are killed at random.

    Args:
        out: the run directory.
        settings: of the run.
        ranks: number of processes.
        times: number of kills.
        seed: of when and whom.
        every: steps between checkpoints, the scale of how far a launch gets.

    Returns:
        the number of kills that hit a running job.
    """
    rng, hits = random.Random(seed), 0
    for _ in range(times):
        job = Job(out, settings, ranks)
        before, more = len(lines(out)), rng.randint(0, 2 * every)
        early = rng.random() < 0.2  # while it starts, or loads
        running = (
            not job.wait_for(lambda: False, rng.uniform(0.5, 6.0)) and job.alive
            if early
            else job.wait_for(lambda b=before, m=more: len(lines(out)) >= b + m)
        )
        time.sleep(rng.uniform(0, 0.03))
        victims = list(range(ranks)) if rng.random() < 0.5 else [rng.randrange(ranks)]
        hits += running and job.alive
        job.kill(victims)
    whole(out, settings, ranks)
    return hits


def folder_bytes(path: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def pids_of(job: Job) -> list[int]:
    """Return the processes of a job and their children."""
    found = []
    for p in job.processes:
        found.append(p.pid)
        children = Path(f"/proc/{p.pid}/task/{p.pid}/children")
        if children.exists():
            found += [int(c) for c in children.read_text().split()]
    return found
