"""Masked decoding, a symbol a step, beside all symbols that are sure enough, with a block cache.

    python benchmarks/parallel_decoding.py [--run RUN] [--minutes 3] [--quick] [--json FILE]

RUN is a model with masked text that reads captions; one is trained on handwritten digits where it
is left out. Captions of held-out pictures are read in three ways: a symbol a step (LLaDA,
arXiv:2502.09992), every symbol above a threshold (arXiv:2505.22618), and that with a dual cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from braid.data.sources import digits
from braid.generation import BlockCache
from braid.pipeline import Hole, Pipeline, load
from braid.recipes import resolve
from braid.samplers import Confidence
from braid.training import Trainer

LENGTH, BLOCK = 24, 8


def trained(folder: Path, minutes: float) -> Pipeline:
    """Train a masked model that reads pictures of digits as whole captions."""
    made = resolve(
        "digits",
        [
            "paradigm=mmada",
            "data.fields={caption: text}",
            "data.tasks={image_to_caption: 1}",
            "strands.text.modality.vocabulary=300",
            f"strands.text.modality.length={LENGTH}",
            f"train.minutes={minutes}",
            "train.preview_every=0",
        ],
    )
    trainer = Trainer(made, folder / "run", Console(), "cpu")
    return Pipeline(trainer.run(), made)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pipe = load(chosen.run) if chosen.run else trained(Path(folder), chosen.minutes)
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
    for _ in range(1 if chosen.quick else 3):
        for name, options in ways.items():
            since = time.process_time()
            read = [p[-1] for p in pipe.batch(documents, rows=32, **options)]
            seconds[name].append(time.process_time() - since)
            same = [a == row["caption"] for a, row in zip(read, rows, strict=True)]
            right[name] = sum(same) / len(same)
    took = {name: statistics.median(values) for name, values in seconds.items()}
    plain = took["a symbol a step"]
    for name in ways:
        print(
            f"{name:24} {took[name]:6.2f} s  {plain / took[name]:5.2f} x  right {right[name]:.3f}",
            flush=True,
        )
    if chosen.json:
        told = {"torch": torch.__version__, "seconds": took, "right": right}
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
