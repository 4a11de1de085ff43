"""Wrong bytes: what was damaged is told, and an older checkpoint is used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from braid import checkpoints
from tests.chaos.harness import EXACT, Job, steps, whole


def flip(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def truncate(path: Path, rng: random.Random) -> None:
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def zero(path: Path, rng: random.Random) -> None:
    """Let a file end in zeros, as after a power failure."""
    data = path.read_bytes()
    keep = rng.randrange(len(data) - 1)
    path.write_bytes(data[:keep] + bytes(len(data) - keep - 1) + b"\0")


def remove(path: Path, rng: random.Random) -> None:
    """Lose a file."""
    path.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "bit flip": flip,
    "truncation": truncate,
    "zeroed tail": zero,
    "missing file": remove,
}


def main(folder: Path, quick: bool = False) -> str:
    """Damage checkpoints of a two-rank run; returns what was seen."""
    out, other = folder / "run", folder / "other"
    settings = [*EXACT, "train.save_every=4", "train.steps=8"]
    whole(out, settings, 2)
    whole(other, [*settings, "seed=1"], 2)
    rng, found = random.Random(0), 0
    counts = {"bit flip": 20 if quick else 200}
    work = folder / "work"
    for kind, damage in DAMAGE.items():
        for _ in range(counts.get(kind, 3 if quick else 20)):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(out / "checkpoints", work)
            newest = work / "step-8"
            victim = rng.choice(sorted(p for p in newest.rglob("*") if p.is_file()))
            before = victim.read_bytes()
            damage(victim, rng)
            if victim.exists() and victim.read_bytes() == before:
                continue  # the tail was zero already
            wrong = checkpoints.verify(newest)
            assert any(victim.name in line for line in wrong), f"{kind} of {victim.name}: {wrong}"
            assert checkpoints.newest(work, say=lambda text: None) == work / "step-4", (
                f"{kind} of {victim.name}"
            )
            found += 1
    for victim in sorted(p for p in (out / "checkpoints/step-8").rglob("*") if p.is_file()):
        name = victim.relative_to(out / "checkpoints")  # the same file of another run
        if (other / "checkpoints" / name).read_bytes() == victim.read_bytes():
            continue
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(out / "checkpoints", work)
        shutil.copy(other / "checkpoints" / name, work / name)
        assert checkpoints.verify(work / "step-8"), f"swapped {name}"
        found += 1
    last = out / "checkpoints/step-8"
    flip(max(last.rglob("*.safetensors"), key=lambda p: p.stat().st_size), rng)
    job = Job(out, [*settings[:-1], "train.steps=12"], 2)
    job.must_end()
    assert "step-8" in job.said and "going on at step 4" in job.said, job.said
    assert steps(out)[-1] == 12, steps(out)
    for step in steps(out):
        flip(out / f"checkpoints/step-{step}/manifest.json", rng)
    job = Job(out, [*settings[:-1], "train.steps=16"], 1)
    codes = job.end()
    assert codes[0] not in (0, 75) and "Traceback" not in job.said, f"{codes}: {job.said}"
    assert "step-12" in job.said, job.said
    return (
        f"{found} damaged checkpoints, all told by file, the one before used; "
        f"all bad: exit code {codes[0]}"
    )
