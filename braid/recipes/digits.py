"""Handwritten digits (scikit-learn) and their names.

Reads, draws and completes them, in minutes on a laptop.
"""

from __future__ import annotations

from braid import paradigms
from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.paradigms import Paradigm
from braid.recipes.strands import by_the_clock, strands
from braid.transformer import TransformerConfig


def digits(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Handwritten digits with their names, 8x8 pixels; three minutes on two CPU cores."""
    p = paradigms.get(paradigm)
    made = strands(
        p,
        {
            "text": {"kind": "text", "vocabulary": 320, "length": 2},
            "image": {"kind": "image", "size": 8, "channels": 1, "patch": 2, "levels": 17},
            "vision": {"kind": "vision", "size": 8, "channels": 1, "patch": 2},
        },
    )
    if "image" in made:
        made.pop("vision", None)  # the picture is read as it is drawn
    draws = "image" in made
    image = made["image"].process if draws else None
    if image and image["kind"] == "discrete_flow":
        image["errors"] = 0.15  # so that drafts can be refined
    tasks = {"text_to_image": 2.0, "image_to_text": 1.0} if draws else {"vision_to_text": 1.0}
    causal = bool(image and image["kind"] == "autoregressive")
    if image and not causal:
        tasks["infill_image"] = 1.0
    return Experiment(
        name="digits",
        strands=made,
        rule=p.rule,
        # token by token, 1500 pictures are learned by heart without dropout (Chameleon has it too)
        transformer=TransformerConfig(width=96, depth=3, heads=4, dropout=0.1 if causal else 0.0),
        data=DataConfig(source="digits", tasks=tasks, drop=0.15),
        train=by_the_clock(2.8, steps=100_000, batch=128, warmup=100, preview_every=400),
        evaluate=EvaluateConfig(suite="digits"),
    )
