"""Masked decoding, a symbol a step, beside all symbols that are sure enough, with a block cache.

    python benchmarks/parallel_decoding.py [--run RUN] [--steps 500] [--quick] [--json FILE]

RUN is a model with masked text that reads captions; one is trained on handwritten digits where it
is left out. Captions of held-out pictures are read in three ways: a symbol a step (LLaDA,
arXiv:2502.09992), every symbol above a threshold (arXiv:2505.22618), and that with a dual cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from figures import Figure, finish, matrix_peak, parser
from rich.console import Console

from braid.data.sources import digits
from braid.generation import BlockCache
from braid.loading import load
from braid.parts import Hole
from braid.pipeline import Pipeline
from braid.recipes import resolve
from braid.samplers import Confidence
from braid.training import Trainer
from braid.transformer.cost import flops_per_token

LENGTH, BLOCK = 24, 8
LITERATE = 0.5
"""Share of captions that the plain way reads right, below which speed says nothing."""


def trained(folder: Path, steps: int) -> Pipeline:
    """Train a masked model that reads pictures of digits as whole captions."""
    made = resolve(
        "digits",
        [
            "paradigm=mmada",
            "data.fields={caption: text}",
            "data.tasks={image_to_caption: 1}",
            "strands.text.modality.vocabulary=300",
            f"strands.text.modality.length={LENGTH}",
            f"train.steps={steps}",
            "train.minutes=null",
            "train.preview_every=0",
        ],
    )
    trainer = Trainer(made, folder / "run", Console(), "cpu")
    return Pipeline(trainer.run(), made)


def main() -> None:
    """Measure, print and write."""
    asked = parser(__doc__)
    asked.add_argument("--run", type=Path)
    asked.add_argument("--steps", type=int, default=500, help="of training, without --run")
    chosen = asked.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pipe = load(chosen.run) if chosen.run else trained(Path(folder), chosen.steps)
    held_out = digits("test")
    rows = [held_out[i] for i in range(32 if chosen.quick else len(held_out))]
    documents = [[row["image"], Hole("text", LENGTH)] for row in rows]
    surely = {"threshold": 0.9, "size_of_block": BLOCK, "temperature": 0.0}
    ways: dict[str, dict[str, Any]] = {
        "a symbol a step": {"sampler": Confidence(steps=LENGTH, temperature=0.0)},
        "threshold": {"sampler": Confidence(steps=LENGTH, **surely)},
        "threshold, dual cache": {
            "sampler": Confidence(steps=LENGTH, **surely),
            "cache": BlockCache(BLOCK),
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    right: dict[str, float] = {}
    floor: dict[str, float] = {}
    one = flops_per_token(pipe.braid.transformer.config, LENGTH) / 3  # a token without gradient
    peak = matrix_peak()
    for _ in range(1 if chosen.quick else 3):
        for name, options in ways.items():
            since = time.process_time()
            found = pipe.batch(documents, rows=32, **options)
            seconds[name].append(time.process_time() - since)
            read = [parts[-1] for parts in found]
            # a block of each row at each call, whatever else a way has to read again
            floor[name] = sum(parts.calls for parts in found) * BLOCK * one / peak
            same = [a == row["caption"] for a, row in zip(read, rows, strict=True)]
            right[name] = sum(same) / len(same)
    took = {name: statistics.median(values) for name, values in seconds.items()}
    plain = took["a symbol a step"]
    if right["a symbol a step"] < LITERATE:
        raise SystemExit(
            f"the model reads {right['a symbol a step']:.3f} of the captions right, so nothing can "
            f"be lost by reading faster; train it until {LITERATE} are right, with more --steps"
        )
    figures = [
        Figure(
            f"{len(rows)} captions, {name}, {right[name]:.3f} right",
            took[name],
            "s",
            plain,
            f"a symbol a step, {right['a symbol a step']:.3f} right",
            floor[name],
            aim=3.0 if "cache" in name else None,
        )
        for name in reversed(ways)
        if name != "a symbol a step"
    ]
    finish(
        chosen.json, "parallel_decoding", figures, {"seconds": took, "right": right, "floor": floor}
    )


if __name__ == "__main__":
    main()
