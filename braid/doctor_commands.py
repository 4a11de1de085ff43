"""`braid recipes` and `braid doctor` as functions: what there is, and what this machine can do."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from braid import config
from braid.errors import unknown


def recipes() -> None:
    """Print recipes, paradigms and registries."""
    import inspect

    from braid import recipes as known
    from braid.modalities import MODALITIES
    from braid.paradigms import PARADIGMS
    from braid.processes import PROCESSES
    from braid.rules import RULES
    from braid.samplers import SAMPLERS

    console = Console()
    first = {name: (inspect.getdoc(f) or "").split("\n")[0] for name, f in PARADIGMS.items()}
    for title, rows in (("recipes", known.describe()), ("paradigms", first)):
        table = Table(
            title=title, title_justify="left", box=None, show_header=False, padding=(0, 2)
        )
        for name, text in rows.items():
            table.add_row(f"[bold]{name}[/bold]", text)
        console.print(table)
        console.print()
    for title, names in (
        ("processes", PROCESSES),
        ("samplers", SAMPLERS),
        ("modalities", MODALITIES),
        ("rules", RULES),
    ):
        console.print(f"[bold]{title}[/bold]: {', '.join(names)}")


def doctor(what: str | None = None, settings: Sequence[str] = ()) -> None:
    """Print what this machine can do.

    With an experiment, make its model and do one step on noise instead of data.
    """
    import importlib.util

    import torch

    console = Console()
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    lines = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "accelerator": str(accelerator.type)
        if accelerator is not None
        else "none; everything runs on the CPU",
        "extras": ", ".join(
            f"{name} {'yes' if importlib.util.find_spec(name) else 'no'}"
            for name in ("sklearn", "matplotlib", "datasets", "transformers")
        ),
    }
    if accelerator is None:
        share = _half_share()
        advice = "try train.precision=bfloat16, --dtype bfloat16" if share < 0.7 else "keep float32"
        lines["bfloat16"] = f"a product takes {share:.2g} of its time in float32: {advice}"
    if importlib.util.find_spec("torchvision") and accelerator is None:
        lines["warning"] = (
            "torchvision is installed; with a CPU build of torch it breaks imports of other "
            "libraries: uninstall it"
        )
    for name, text in lines.items():
        console.print(f"{name:12} {text}", highlight=False, soft_wrap=True)
    if what is not None:
        _try(what, settings, console)


def _half_share(size: int = 512) -> float:
    """Return the time of a product in bfloat16 over that in float32 on the CPU, best of three."""
    import torch

    spent: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(size, size, dtype=dtype)
        for _ in range(3):
            began = time.perf_counter()
            torch.mm(a, a)
            took = time.perf_counter() - began
            spent[dtype] = min(took, spent.get(dtype, took))
    return spent[torch.bfloat16] / spent[torch.float32]


def doctor_run(run: Path, as_json: bool = False) -> int:
    """Print what became of a run; returns 1 where its newest checkpoint is not sound, or 0."""
    from braid.doctor import explain_run

    found = explain_run(run)
    print(json.dumps(found.numbers(), indent=1) if as_json else "\n".join(found.lines()))
    return found.code


def doctor_plan(
    what: str,
    settings: Sequence[str] = (),
    machine: Mapping[str, Any] | None = None,
    as_json: bool = False,
) -> None:
    """Print the memory and time that training would take.

    Args:
        what: a recipe, an experiment or a run; or 1b, 7b, 70b.
        settings: `key.path=value` overrides.
        machine: fields of `braid.doctor.Machine`.
        as_json: print JSON.
    """
    from braid import recipes as known
    from braid.doctor import SIZES, Machine, plan, print_plan

    named = what in SIZES or what in known.RECIPES or Path(what).exists()
    if not named:
        raise unknown("recipe, experiment, run or size", what, (*SIZES, *known.RECIPES))
    of = what if what in SIZES else known.resolve(what, settings)
    found = plan(of, Machine(**(machine or {})), settings if what in SIZES else ())
    if as_json:
        print(json.dumps(found.numbers(), indent=1))
    else:
        print_plan(found, Console())


def _try(what: str, settings: Sequence[str], console: Console) -> None:
    """Make an experiment's model, and do a few training steps on random documents of its shapes."""
    from braid import recipes as known
    from braid.data.dummy import dummy_batch
    from braid.training.optimizer import make_optimizer

    experiment = known.resolve(what, settings)
    states = {}
    for name, strand in experiment.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(["a dry run without data"])
        states[name] = modality.state()
    braid = config.build(experiment, states)
    batch = dummy_batch(braid, experiment)
    optimizer = make_optimizer(braid, experiment.train)
    seconds: list[float] = []
    loss = 0.0
    for step in range(3):
        began = time.monotonic()
        losses = braid.loss(batch, step)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = float(losses.total.detach())
        seconds.append(time.monotonic() - began)
    size = sum(p.numel() for p in braid.parameters())
    speed = batch.size / min(seconds)
    console.print(
        f"{'experiment':12} {experiment.name}: {size:,} parameters, rule {experiment.rule}",
        highlight=False,
    )
    for name, strand in braid.strands.items():
        process = type(strand.process).__name__ if strand.process else "context only"
        sampler = type(strand.sampler).__name__ if strand.sampler else "-"
        console.print(
            f"{'  ' + name:12} {process}, sampled by {sampler}, {strand.modality.space}",
            highlight=False,
            soft_wrap=True,
        )
    memory = size * 4 * (4 + bool(experiment.train.ema))
    console.print(
        f"{'dry run':12} loss {loss:.3f}, {speed:,.0f} tokens/s, "
        f"{memory / 2**20:,.0f} MiB of weights, gradients and optimiser",
        highlight=False,
    )
