"""Bright rows and columns of 4x4 pixels.

Seconds of training, for trying things out and for tests.
"""

from __future__ import annotations

from braid import paradigms
from braid.config import DataConfig, Experiment, TrainConfig
from braid.paradigms import Paradigm
from braid.recipes.strands import paired
from braid.transformer import TransformerConfig


def toy(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Bright rows and columns of 4x4 pixels; seconds of training, for trying things out."""
    p = paradigms.get(paradigm)
    made, tasks = paired(
        p,
        {
            "text": {"kind": "text", "vocabulary": 270, "length": 4},
            "image": {"kind": "image", "size": 4, "channels": 1, "patch": 2, "levels": 2},
            "vision": {"kind": "vision", "size": 4, "channels": 1, "patch": 2},
        },
        draw=1.0,
    )
    return Experiment(
        name="toy",
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=64, depth=2, heads=2),
        data=DataConfig(source="toy", tasks=tasks),
        train=TrainConfig(
            steps=300, batch=32, learning_rate=3e-3, warmup=20, preview_every=0, save_every=100
        ),
    )
