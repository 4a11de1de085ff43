"""Unlike documents that advance together, beside the same ones form by form and one by one.

    python benchmarks/mixed_batch.py [--quick] [--json FILE]

A model of text token by token and pictures by flow, random weights. 24 requests: captions of
pictures, pictures in 8, 16 and 32 steps, half of them guided, prompts of several lengths. Results
are the same on all sides, which is checked. Interleaved runs in one process, medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from figures import Figure, finish, parser
from PIL import Image

from braid import Hole, config
from braid.pipeline import Pipeline
from braid.recipes import resolve

CAPTIONS = ["a red house", "a small red house", "a blue boat on a green sea", "two boats"]
Request = tuple[list[Any], dict[str, Any]]


def model(width: int, depth: int) -> Pipeline:
    """Return a pipeline of random weights: 64 tokens a picture, up to 24 a text."""
    made = resolve(
        "digits",
        [
            "paradigm=transfusion",
            f"transformer.width={width}",
            f"transformer.depth={depth}",
            "strands.image.modality.size=16",
            "strands.text.modality.length=24",
        ],
    )
    modalities = {n: config.make_modality(n, s) for n, s in made.strands.items()}
    for modality in modalities.values():
        modality.fit(CAPTIONS)
    torch.manual_seed(0)
    return Pipeline(config.build(made, {n: m.state() for n, m in modalities.items()}), made)


def requests(count: int) -> list[Request]:
    """Return documents with options of their own, in no order of form."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    out: list[Request] = []
    for i in range(count):
        if i % 3 == 0:
            out.append(([Image.fromarray(pixels[i]), Hole("text", 24)], {}))
        else:
            options = {"steps": (8, 16, 32)[i // 3 % 3], "guidance": float(i % 3)}
            out.append(([CAPTIONS[i % 4], Hole("image")], options))
    return out


def sides(pipe: Pipeline, asked: list[Request]) -> dict[str, Callable[[], list[Any]]]:
    """Return what fills all requests, on each side."""
    documents = [d for d, _ in asked]
    steps = [o.get("steps") for _, o in asked]
    guidance = [o.get("guidance", 1.0) for _, o in asked]
    forms: dict[tuple, list[int]] = {}
    for i, (document, options) in enumerate(asked):
        forms.setdefault((document[-1].modality, *options.values()), []).append(i)

    def run(members: list[int]) -> list[Any]:
        done = pipe.batch(
            [documents[i] for i in members],
            seeds=members,
            steps=[steps[i] for i in members],
            guidance=[guidance[i] for i in members],
        )
        return [p[-1] for p in done]

    def by_form() -> list[Any]:
        found = {i: x for m in forms.values() for i, x in zip(m, run(m), strict=True)}
        return [found[i] for i in range(len(asked))]

    return {
        "together": lambda: run(list(range(len(asked)))),
        "form by form": by_form,
        "one by one": lambda: [x for i in range(len(asked)) for x in run([i])],
    }


def differ(ours: list[Any], theirs: list[Any]) -> int:
    """Return how many results differ by more than a grey level."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, str):
            return a == b
        return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()) <= 1

    return sum(not same(a, b) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure, print and write."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    count, times = (9, 1) if chosen.quick else (24, 5)
    results, figures = [], []
    for width, depth in ((128, 4),) if chosen.quick else ((128, 4), (384, 8)):
        runs = sides(model(width, depth), requests(count))
        wanted = runs["one by one"]()
        spent: dict[str, list[float]] = {name: [] for name in runs}
        wrong = 0
        for _ in range(times):
            for name, run in runs.items():
                since = time.process_time()
                done = run()
                spent[name].append(time.process_time() - since)
                wrong = max(wrong, differ(done, wanted))
        if wrong:
            raise SystemExit(f"{wrong} of {count} results differ from those made one by one")
        seconds = {name: statistics.median(values) for name, values in spent.items()}
        results.append({"width": width, "depth": depth, **seconds})
        for other in ("form by form", "one by one"):
            what = f"{count} unlike requests, width {width}, depth {depth}"
            figures.append(Figure(what, seconds["together"], "s", seconds[other], other))
    finish(chosen.json, "mixed_batch", figures, results)


if __name__ == "__main__":
    main()
