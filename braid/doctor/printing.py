"""A plan as a table for people, and what they should switch on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from braid.doctor.estimating import GB
from braid.doctor.planning import Plan

if TYPE_CHECKING:
    from rich.console import Console


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan as a table, and what to switch on."""
    from rich.table import Table

    sizes, machine = plan.sizes, plan.machine
    console.print(
        f"{sizes.name}: {sizes.parameters:,} parameters, {sizes.flops / 1e9:.3g} GFLOP a token in "
        f"rows of {sizes.row:,}, {sizes.tokens:,} tokens a step; {machine.gpus} GPUs of "
        f"{machine.memory_gb:g} GB at {machine.tflops:g} TFLOP/s, {machine.utilisation:.0%} of it "
        "reached",
        highlight=False,
        soft_wrap=True,
    )
    columns = {"as set": plan.asked}
    if plan.best is not None and plan.best.layout != plan.asked.layout:
        columns["best"] = plan.best
    table = Table(box=None, padding=(0, 2))
    table.add_column("a GPU holds", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    names = ("parameters", "gradients", "optimizer", "average", "gathered", "activations", "logits")
    for name in names:
        table.add_row(name, *(_gb(e.memory.get(name, 0.0)) for e in columns.values()))
    table.add_row("total", *(_gb(e.total) for e in columns.values()))
    if any(e.host for e in columns.values()):
        table.add_row("in the host", *(_gb(e.host) for e in columns.values()))
    rows = {
        "tokens a pass": lambda e: f"{e.tokens:,}",
        "sent a step": lambda e: _gb(e.sent),
        "computing": lambda e: f"{e.compute:.3g} s",
        "sending": lambda e: f"{e.communication:.3g} s",
        "a step": lambda e: f"{e.seconds:.3g} s",
        "tokens a second": lambda e: f"{sizes.tokens / e.seconds:,.0f}",
    }
    for name, text in rows.items():
        table.add_row(name, *(text(e) for e in columns.values()))
    console.print(table)
    for line in advice(plan):
        console.print(line, highlight=False, soft_wrap=True)


def advice(plan: Plan) -> list[str]:
    """Return what fits and what to switch on."""
    gpus, room = plan.machine.gpus, _gb(plan.room)
    said = [
        f"as set: {_gb(plan.asked.total)} of {room} that can be used: "
        + ("fits" if plan.fits else "does not fit")
    ]
    if plan.best is None:
        rest = "" if plan.sizes.turned else ", not even with parallel.offload=true"
        said.append(f"no layout fits on {gpus} GPUs{rest}")
    elif plan.best.layout != plan.asked.layout:
        made = plan.best.layout.settings(gpus) or ["the defaults"]
        said.append(f"the fastest that fits: {' '.join(made)} ({_gb(plan.best.total)})")
    if plan.fewest is None:
        said.append("no number of GPUs up to 8192 is enough without offloading")
    elif plan.fewest != gpus:
        said.append(f"fewest GPUs without offloading: {plan.fewest}")
    said.append(f"a checkpoint: {_gb(plan.checkpoint)}, {plan.saving:.3g} s to write and hash")
    return said


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= 0.1 * GB else f"{size / 1e6:.1f} MB"
