"""The table of memory and time in docs/scale.md.

    python -m braid.doctor.tables

writes it into the page anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from braid.doctor.estimating import GB, Estimate, Machine
from braid.doctor.planning import Plan, plan

TABLE = (("1b", 1), ("1b", 8), ("7b", 8), ("7b", 64), ("70b", 64), ("70b", 512))
"""Sizes and numbers of GPUs."""

_HEAD = (
    "size",
    "parameters",
    "GPUs",
    "settings",
    "state",
    "gathered",
    "activations",
    "logits",
    "total",
    "a step",
    "tokens/s",
    "days for 1e12 tokens",
    "checkpoint",
)


def table() -> str:
    """Return the table in Markdown: the fastest layout that fits, on GPUs of 80 GB."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    rows += [_row(plan(name, Machine(gpus=gpus))) for name, gpus in TABLE]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(made: Plan) -> tuple[str, ...]:
    sizes, e, gpus = made.sizes, made.best, made.machine.gpus
    if e is None:
        return (sizes.name, f"{sizes.parameters:,}", str(gpus), "nothing fits", *("",) * 9)
    settings = " ".join(f"`{s}`" for s in e.layout.settings(gpus)) or "none"
    speed = sizes.tokens / e.seconds
    return (
        sizes.name,
        f"{sizes.parameters:,}",
        str(gpus),
        settings,
        _gb(_state(e)),
        *(_gb(e.memory[n]) for n in ("gathered", "activations", "logits")),
        _gb(e.total),
        f"{e.seconds:.3g} s",
        f"{speed:,.0f}",
        f"{1e12 / speed / 86400:.3g}",
        f"{_gb(made.checkpoint)}, {made.saving:.0f} s",
    )


def _state(e: Estimate) -> float:
    return sum(e.memory.get(n, 0.0) for n in ("parameters", "gradients", "optimizer", "average"))


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB"


def main() -> None:
    """Write the table into a page, docs/scale.md by default."""
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/scale.md")
    text = page.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- plan -->\n).*?(\n<!-- /plan -->)", re.S)
    page.write_text(marked.sub(lambda m: m[1] + table() + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
