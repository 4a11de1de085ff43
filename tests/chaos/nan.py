"""A gradient that is not a number on one rank: all ranks skip, and go back if it stays."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from braid.errors import BraidError
from braid.parallel import World
from braid.recipes import resolve
from braid.training import Trainer
from tests.chaos.harness import EXACT, lines
from tests.parallel.ranks import call


def train(
    world: World, out: str, steps: int, spoiled: list[int], settings: list[str] | None = None
) -> dict[str, Any]:
    """Train; the last rank's gradient is not a number for the documents at some positions."""
    made = resolve("toy", [*EXACT, f"train.steps={steps}", *(settings or [])])
    told = io.StringIO()
    trainer = Trainer(made, Path(out), Console(file=told), "cpu", world=world)
    last = world.rank == world.size - 1

    def spoil(module: torch.nn.Module, given: Any, hidden: torch.Tensor) -> torch.Tensor:
        bad = last and trainer.state.position in spoiled
        return hidden * float("nan") if bad else hidden

    trainer.braid.transformer.norm.register_forward_hook(spoil)
    error = None
    try:
        trainer.run()
    except BraidError as e:
        error = str(e)
    state = trainer.state
    return {
        "error": error,
        "step": state.step,
        "position": state.position,
        "skipped": state.skipped_steps,
        "rollbacks": state.rollbacks,
        "sum": {
            n: float(getattr(p, "full_tensor", lambda p=p: p)().double().sum()).hex()
            for n, p in trainer.braid.named_parameters()
        },
    }


def dropped(world: World, out: str, steps: int, spoiled: list[int]) -> dict[str, Any]:
    """Train without the documents at some positions, by starting later positions by hand."""
    made = resolve("toy", [*EXACT, f"train.steps={steps}"])
    trainer = Trainer(made, Path(out), Console(quiet=True), "cpu", world=world)
    from dataclasses import replace

    original = trainer.loader.steps

    def leave_out(position: int, *args: Any, **kwargs: Any) -> Any:
        for step in original(position, *args, **kwargs):
            if step.position in spoiled:
                trainer.state = replace(trainer.state, position=step.position + made.train.batch)
                continue
            yield step

    trainer.loader.steps = leave_out  # type: ignore[method-assign]
    trainer.run()
    return {
        "sum": {
            n: float(getattr(p, "full_tensor", lambda p=p: p)().double().sum()).hex()
            for n, p in trainer.braid.named_parameters()
        }
    }


def main(folder: Path, quick: bool = False) -> str:
    """Spoil batches of two-rank runs; returns what was seen."""
    module, spoiled = "tests.chaos.nan", [16, 40]
    a, b = call(module, "train", 2, {"out": str(folder / "a"), "steps": 8, "spoiled": spoiled})
    assert a == b, "the ranks differ"
    assert (a["step"], a["skipped"], a["position"]) == (8, 2, 80), a
    clean = call(module, "dropped", 2, {"out": str(folder / "b"), "steps": 8, "spoiled": spoiled})[
        0
    ]
    assert a["sum"] == clean["sum"], "parameters differ from a run without the documents"
    said = [line for line in lines(folder / "a") if "skipped" in line]
    assert [line["position"] for line in said] == spoiled, json.dumps(said)
    assert all(len(line["samples"]) == 8 for line in said), json.dumps(said)
    long = [8 * n for n in range(6, 10)]  # four in a row, after a checkpoint
    more = ["train.bad_steps=4", "train.save_every=4"]
    back = call(
        module,
        "train",
        2,
        {"out": str(folder / "c"), "steps": 8, "spoiled": long, "settings": more},
    )[0]
    assert (back["step"], back["rollbacks"], back["skipped"]) == (8, 1, 4), back
    stopped = call(
        module,
        "train",
        2,
        {
            "out": str(folder / "d"),
            "steps": 8,
            "spoiled": long,
            "settings": [*more, "train.rollbacks=0"],
        },
    )[0]
    assert stopped["error"] is not None and "4 steps in a row were bad" in stopped["error"], stopped
    return (
        "2 steps skipped by both ranks, parameters equal a run without them; "
        "4 in a row: back once; then stopped"
    )
