"""Scenes: drawing, captioning, answering and editing pictures of a made-up world."""

from __future__ import annotations

from braid import paradigms
from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.paradigms import Paradigm
from braid.recipes.strands import by_the_clock, decided_early, strands, told_from_noise
from braid.transformer import TransformerConfig

FIELDS = {
    "prompt": "text",
    "question": "text",
    "answer": "text",
    "instruction": "text",
    "edited": "image",
}
TASKS = {
    "prompt_to_image": 1.5,
    "image_to_text": 1.0,
    "image_and_question_to_answer": 2.0,
    "image_and_instruction_to_edited": 3.0,
}
READING = {"vision_to_text": 1.0, "vision_and_question_to_answer": 1.0}


def scenes(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Colored shapes with captions, questions and edits; hours on two CPU cores.

    The half hour that is set reads captions, and draws little: see docs/results.md.

    Text that a paradigm noises along a metric path is noised with a mask here (`told_from_noise`).
    Pictures pass through a codec. Symbols that are refined together are the levels of the codec
    that comes with the package; next-token paradigms read codecs/scenes-vq, one symbol a token
    (braid codec train scenes codec.quantiser=vq:512x8 --out codecs/scenes-vq), and continuous ones
    codecs/scenes-kl (codec.quantiser=kl:4,1e-4).
    """
    p = paradigms.get(paradigm)
    made = strands(
        p,
        {
            "text": {"kind": "text", "vocabulary": 512, "length": 12},
            "image": {"kind": "coded_image", "size": 32, **_codec(p)},
            "vision": {"kind": "vision", "size": 32, "channels": 3, "patch": 4},
        },
    )
    draws = "image" in made
    if draws:
        made.pop("vision", None)  # pictures are read as they are drawn
        made["image"] = decided_early(made["image"])
        made["text"] = told_from_noise(made["text"])
    return Experiment(
        name="scenes",
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=128, depth=6, heads=4),
        data=DataConfig(
            source="scenes",
            fields=FIELDS if draws else {k: m for k, m in FIELDS.items() if m == "text"},
            tasks=TASKS if draws else READING,
            match=("text", "image") if draws else None,
            drop=0.1,
            row=160 if _by_symbol(p) else 128,  # an edit is two pictures
        ),
        train=by_the_clock(30, ema=0.998, preview_every=1000),
        evaluate=EvaluateConfig(suite="scenes", steps=24, guidance=2.0, drawings=400),
    )


def _by_symbol(paradigm: Paradigm) -> bool:
    process = paradigm.processes.get("image")
    return process is not None and process.causal


def _codec(paradigm: Paradigm) -> dict[str, object]:
    """Return the codec whose tokens suit a paradigm's process for pictures."""
    process = paradigm.processes.get("image")
    if process is not None and process.continuous:
        return {"codec": "codecs/scenes-kl", "patch": 2}
    if _by_symbol(paradigm):  # symbols of a token would be drawn blindly
        return {"codec": "codecs/scenes-vq", "patch": 1}
    return {"codec": "mini/image-codec", "patch": 2}
