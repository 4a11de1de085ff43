"""Any pictures with captions."""

from __future__ import annotations

from braid import paradigms
from braid.config import DataConfig, Experiment, TrainConfig
from braid.paradigms import Paradigm
from braid.recipes.strands import paired
from braid.transformer import TransformerConfig


def image_text(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Pictures with captions from files: data.path=FILE_OR_FOLDER.

    32x32 RGB unless strands.image.modality.size says otherwise.
    """
    p = paradigms.get(paradigm)
    made, tasks = paired(
        p,
        {
            "text": {"kind": "text", "vocabulary": 1024, "length": 16},
            "image": {
                "kind": "image",
                "size": 32,
                "channels": 3,
                "patch": 4,
                "levels": 16,
                "resize": True,
            },
            "vision": {"kind": "vision", "size": 32, "channels": 3, "patch": 4, "resize": True},
        },
    )
    return Experiment(
        name="image-text",
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=192, depth=5, heads=6),
        data=DataConfig(source="files", tasks=tasks),
        train=TrainConfig(steps=5000, batch=32, learning_rate=1e-3, warmup=200),
    )
