"""The state of a run's folder: how far it is, what is sound, and what the next start would do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from braid import settings, storage
from braid.errors import BraidError

_TAIL = 1 << 20
"""Bytes at the end of metrics.jsonl in which the last line is looked for."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run.

    Attributes:
        step: optimiser steps done.
        state: "sound", "incomplete" or "damaged".
        faults: what is wrong, one line a file.
        gigabytes: its size.
    """

    step: int
    state: str
    faults: list[str]
    gigabytes: float


@dataclass(frozen=True)
class RunState:
    """What `braid doctor --run` tells.

    Attributes:
        run: the folder.
        name: of the experiment.
        step: of the newest sound checkpoint; 0 without one.
        position: documents used by then.
        progress: share of the budget that is spent by then, or None.
        metrics: the last line of metrics.jsonl with numbers of training.
        skipped_rows: why -> documents that could not be used.
        skipped_steps: steps whose loss or gradient was bad.
        rollbacks: how often the run went back to a checkpoint.
        held: who trains in the folder now, or None.
        checkpoints: all of them, oldest first.
        leftovers: what dead saves left, which the next save clears.
        problem: what is wrong with the run's own files, or None.
        next: what the next start does.
    """

    run: Path
    name: str
    step: int = 0
    position: int | None = None
    progress: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    skipped_rows: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    rollbacks: int = 0
    held: str | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    problem: str | None = None
    next: str = ""

    @property
    def code(self) -> int:
        """1 where the newest checkpoint is not sound or the run's files are damaged, else 0."""
        broken = bool(self.checkpoints) and self.checkpoints[-1].state != "sound"
        return int(broken or self.problem is not None)

    def numbers(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {**asdict(self), "run": str(self.run), "code": self.code}

    def lines(self) -> list[str]:
        """Return everything as lines of text."""
        m = self.metrics
        far = "" if self.progress is None else f", {self.progress:.0%} of its budget"
        said = {
            "run": f"{self.run}: {self.name}",
            "problem": self.problem,
            "held by": self.held or "no job",
            "saved": f"step {self.step}, position {self.position}{far}" if self.step else "nothing",
            "last line": " ".join(f"{k} {v}" for k, v in m.items()) if m else "no metrics yet",
            "speed": f"{m['tokens_per_second']:,} tokens a second"
            if "tokens_per_second" in m
            else None,
            "skipped": f"{sum(self.skipped_rows.values())} rows, {self.skipped_steps} steps; "
            f"went back {self.rollbacks} times",
        }
        lines = [f"{name:12} {text}" for name, text in said.items() if text is not None]
        lines += [f"{'  rows':12} {n}: {why}" for why, n in self.skipped_rows.items()]
        for c in self.checkpoints:
            lines.append(f"{'checkpoint':12} step-{c.step}: {c.state}, {c.gigabytes:.3g} GB")
            lines += [f"{'':12}   {fault}" for fault in c.faults]
        lines += [f"{'left over':12} {name}, of a save that died" for name in self.leftovers]
        return [*lines, f"{'next start':12} {self.next}"]


def explain_run(run: Path) -> RunState:
    """Look at a run's folder and verify its checkpoints; changes nothing.

    Raises:
        BraidError: there is no run.
    """
    from braid.checkpoints import holder

    run = Path(run)
    if not (run / "experiment.json").is_file():
        raise BraidError(
            f"{str(run)!r} holds no run (no experiment.json); give the folder that `braid train "
            "--out` wrote"
        )
    problem, tree = None, {}
    try:
        tree = settings.read(run / "experiment.json")
        settings.load_run(run)
    except BraidError as e:
        problem = f"experiment.json: {e}"
    checkpoints = verified(run / "checkpoints")
    sound = [c for c in checkpoints if c.state == "sound"]
    state: dict[str, Any] = {}
    if sound:
        state = storage.read_json(run / "checkpoints" / f"step-{sound[-1].step}" / "state.json")
    metrics = last_metrics(run / "metrics.jsonl")
    rows = state.get("skipped_rows", {})
    progress = _progress(tree, state)
    return RunState(
        run,
        str(tree.get("name", "?")),
        sound[-1].step if sound else 0,
        state.get("position"),
        progress,
        metrics,
        rows if isinstance(rows, dict) else {"rows": int(rows)},
        int(state.get("skipped_steps", 0)),
        int(state.get("rollbacks", 0)),
        holder(run),
        checkpoints,
        sorted(p.name for p in (run / "checkpoints").glob("step-*.tmp-*")),
        problem,
        _next(checkpoints, metrics, progress),
    )


def verified(folder: Path) -> list[Checkpoint]:
    """Verify every checkpoint of a folder, oldest first."""
    from braid.checkpoints import verify

    found = []
    for step, path in storage.steps(folder):
        faults = verify(path)
        if not path.exists():
            continue  # a job that trains now has made room
        missing = any("is missing" in fault for fault in faults)
        state = "sound" if not faults else "incomplete" if missing else "damaged"
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        found.append(Checkpoint(step, state, faults, size / 1e9))
    return found


def last_metrics(path: Path) -> dict[str, Any]:
    """Return the last whole line of metrics.jsonl that tells of training; {} if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue  # a killed run did not finish it
        if isinstance(value, dict) and "seconds" in value:
            return {k: v for k, v in value.items() if k != "samples"}
    return {}


def _progress(tree: dict[str, Any], state: dict[str, Any]) -> float | None:
    """Return the share of a run's budget that is spent, as its trainer counts it."""
    train = tree.get("train", {})
    if not state or not train.get("steps"):
        return None
    done = state.get("step", 0) / train["steps"]
    if train.get("minutes"):
        done = max(done, state.get("seconds", 0.0) / 60 / train["minutes"])
    return min(1.0, done)


def _next(checkpoints: list[Checkpoint], metrics: dict[str, Any], progress: float | None) -> str:
    sound = [c for c in checkpoints if c.state == "sound"]
    if not checkpoints:
        return "begins at step 0: there is no checkpoint yet"
    if not sound:
        first = checkpoints[-1].faults[0]
        return (
            f"refuses: no checkpoint is sound (step-{checkpoints[-1].step}: {first}); put back a "
            "copy of one, or start afresh in another folder"
        )
    step = sound[-1].step
    if progress is not None and progress >= 1:
        return f"has nothing to do: the budget is spent at step {step}; raise train.steps to go on"
    text = f"goes on at step {step} from step-{step}"
    if sound[-1] is not checkpoints[-1]:
        newest = checkpoints[-1]
        text = (
            f"falls back to step-{step}, because step-{newest.step} is {newest.state} "
            f"({newest.faults[0]})"
        )
    logged = metrics.get("step", 0)
    return text + (f"; steps {step + 1} to {logged} are done again" if logged > step else "")
