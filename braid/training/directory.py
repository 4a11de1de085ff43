"""A run directory: whose it is, and what describes the run in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from braid import storage
from braid.braid import Braid
from braid.config import Experiment
from braid.errors import BraidError

Resume = Literal["auto", "never", "must"]
"""What to do with a run that is already there: go on, refuse it, or refuse its absence."""

_FREE: dict[str, tuple[str, ...] | Literal["all"]] = {
    "train": (
        "steps",
        "minutes",
        "log_every",
        "save_every",
        "keep",
        "keep_every",
        "preview_every",
        "save_in_background",
        "on_save_error",
        "bad_steps",
        "rollbacks",
        "spike",
        "log_samples",
        "profile",
        "loggers",
        "accumulate",
        "compile",
    ),
    "data": ("workers",),
    "parallel": "all",
    "evaluate": "all",
}
"""Settings that may change when a run goes on: they do not change what is learned."""


def check_resume(out: Path, resume: Resume) -> None:
    """Refuse a folder that holds a run, or holds none, as `resume` says."""
    there = bool(storage.steps(out / "checkpoints"))
    if resume == "never" and there:
        raise BraidError(
            f"{str(out)!r} holds a run already; choose another folder with --out, or go on with "
            "--resume auto"
        )
    if resume == "must" and not there:
        raise BraidError(
            f"{str(out)!r} holds no checkpoint to go on from; correct --out, or start afresh with "
            "--resume auto"
        )


def known_states(out: Path, experiment: Experiment) -> dict[str, Any] | None:
    """Return the modality states of a run that is already there, or None.

    Raises:
        BraidError: it is a run of another experiment.
    """
    path = out / "experiment.json"
    if not path.exists():
        return None
    there = storage.read_json(path)
    here = experiment.model_dump(mode="json")
    for section in here:
        free = _FREE.get(section, ())
        if free == "all":
            continue
        before, now = (
            {k: v for k, v in d.items() if k not in free} if isinstance(d, dict) else d
            for d in (there.get(section), here[section])
        )
        if before != now:
            differ = section
            if isinstance(before, dict) and isinstance(now, dict):
                names = [k for k in {**before, **now} if before.get(k) != now.get(k)]
                differ = ", ".join(f"{section}.{k}" for k in names)
            raise BraidError(
                f"{str(out)!r} holds a run of another experiment (they differ in {differ}); "
                "choose another folder with --out, or repeat the same settings"
            )
    states = out / "modalities.json"
    return storage.read_json(states) if states.exists() else None


def describe(out: Path, experiment: Experiment, states: dict[str, Any], braid: Braid) -> None:
    """Write the experiment, what the modalities have learned, and copies of what they use."""
    # experiment.json comes last: what a killed process left half done is no run yet
    storage.write_json(out / "modalities.json", states)
    for name, strand in braid.strands.items():
        for option, folder in strand.modality.folders().items():
            copy = out / f"{name}-{option}"
            if not copy.exists():  # the run can be used wherever it is moved
                storage.copy_folder(folder, copy)
    experiment.save(out / "experiment.json")
