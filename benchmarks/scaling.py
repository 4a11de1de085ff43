"""How cost grows with vocabulary, length, steps, batch and width, beside what the machine allows.

    python benchmarks/scaling.py [--quick] [--json FILE]

One axis at a time, all else fixed; every point of an axis in turn, medians of processor time on one
thread. The exponent is the slope between the last two points on logarithmic axes: 1 is cost in
proportion. Floors are the operations of a training step or a drawing at the speed of a large matrix
product, and for drawing symbols the time to read their logits once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from figures import Figure, bandwidth, finish, matrix_peak, parser
from train_step import Size, braid_side, make_braid

BASE = Size("scaling", 192, 4, 6, 528, 0, 0, 0, 4, 32, 8)
"""32 words and 8 x 8 patches in each of 4 rows."""
SYMBOLS = 256  # drawn at a time
Run = Callable[[], object]


def drawing(V: int) -> tuple[Run, float]:
    """Return a draw of symbols from logits, and the bytes that it has to read."""
    from braid.randomness import Keys
    from braid.samplers import Drawing

    logits = torch.randn(1, SYMBOLS, V)
    return lambda: Drawing().draw(logits, Keys.of(0, 1)), 4.0 * logits.numel()


def training(size: Size) -> tuple[Run, float]:
    """Return a training step, and its operations."""
    from braid.transformer.cost import flops_per_token

    step, model = braid_side(size, mixed=True)
    tokens = size.rows * size.tokens
    return step, tokens * flops_per_token(model.transformer.config, size.tokens)


def sampling(steps: int) -> tuple[Run, float]:
    """Return the drawing of a picture for each row in so many steps, and its operations."""
    from braid.generation import Known, Opening, generate
    from braid.randomness import Keys
    from braid.samplers import Euler
    from braid.transformer.cost import flops_per_token

    model = make_braid(BASE, mixed=True).eval()
    prompt = torch.randint(256, (BASE.rows, BASE.text))
    hole = Opening("image", (BASE.side, BASE.side))

    def run() -> object:
        parts, keys = [Known("text", list(prompt)), hole], Keys.of(0, BASE.rows).key
        return generate(model, parts, keys, {1: Euler(steps=steps)})

    one = flops_per_token(model.transformer.config, BASE.tokens) / 3  # a pass without gradient
    return run, BASE.rows * (BASE.text + steps * BASE.side**2) * one


def wide(width: int) -> Size:
    """Return the base size at another width, with heads of 32."""
    return replace(BASE, width=width, heads=width // 32, hidden=width * 11 // 4)


AXES: dict[str, tuple[str, list[int], Callable[[int], tuple[Run, float]]]] = {
    "vocabulary": (f"drawing {SYMBOLS} symbols", [1 << i for i in range(10, 18)], drawing),
    "length": (
        "training step",
        [4, 8, 16, 32],
        lambda side: training(replace(BASE, side=side)),
    ),
    "steps": (f"drawing {BASE.rows} pictures", [4, 8, 16, 32], sampling),
    "batch": (
        "training step",
        [1, 2, 4, 8, 16],
        lambda rows: training(replace(BASE, rows=rows)),
    ),
    "width": ("training step", [96, 192, 384, 768], lambda width: training(wide(width))),
}
"""Axis -> what is measured, points, and what makes the run of a point and its work."""


def measure(axis: str, repeats: int, few: bool) -> dict[str, Any]:
    """Return the points of an axis."""
    what, points, make = AXES[axis]
    chosen = points[:2] if few else points
    made = {at: make(at) for at in chosen}
    spent: dict[int, list[float]] = {at: [] for at in made}
    for again in range(-1, repeats):  # the first is not counted
        for at, (run, _) in made.items():
            since = time.process_time()
            run()
            if again >= 0:
                spent[at].append(time.process_time() - since)
    speed = bandwidth() if axis == "vocabulary" else matrix_peak()
    found = [
        {
            "at": BASE.text + at**2 if axis == "length" else at,
            "seconds": statistics.median(spent[at]),
            "floor_seconds": made[at][1] / speed,
        }
        for at in made
    ]
    one, other = found[-2:]
    exponent = math.log(other["seconds"] / one["seconds"]) / math.log(other["at"] / one["at"])
    return {"axis": axis, "what": what, "points": found, "exponent": exponent}


def figure_of(found: dict[str, Any]) -> Figure:
    """Return the largest point of an axis."""
    last = found["points"][-1]
    what = f"{found['what']}, {found['axis']} {last['at']:,} (grows with power "
    what += f"{found['exponent']:.2f})"
    return Figure(what, 1e3 * last["seconds"], "ms", limit=1e3 * last["floor_seconds"])


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, "two points of each axis").parse_args()
    torch.set_num_threads(1)
    results = [measure(axis, 2 if options.quick else 7, options.quick) for axis in AXES]
    finish(options.json, "scaling", [figure_of(found) for found in results], results)


if __name__ == "__main__":
    main()
