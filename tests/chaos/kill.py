"""kill -9 of one rank or all, at random: the run ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.harness import EXACT, killed, same, whole

PARADIGMS = ("fudoki", "transfusion", "chameleon", "mmada")


def main(folder: Path, quick: bool = False) -> str:
    """Kill runs of two ranks; returns what was seen."""
    times, steps, every = (2, 24, 6) if quick else (20, 200, 8)
    told = []
    for number, paradigm in enumerate(PARADIGMS[:1] if quick else PARADIGMS):
        settings = [
            *EXACT,
            f"paradigm={paradigm}",
            f"train.steps={steps}",
            f"train.save_every={every}",
            "transformer.dropout=0.1",
        ]
        oracle, out = folder / f"{paradigm}-whole", folder / f"{paradigm}-killed"
        whole(oracle, settings, 2)
        hits = killed(out, settings, 2, times, seed=number, every=every)
        same(oracle, out)
        told.append(f"{paradigm} {hits} of {times} kills hit a run at work")
    return (
        f"every hexadecimal digit of {steps} steps and all final tensors are equal: "
        + ", ".join(told)
    )
