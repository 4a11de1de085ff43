"""Real pictures with captions, through a codec that was trained on the same pictures."""

from __future__ import annotations

from typing import Any

from braid import paradigms
from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.paradigms import Paradigm
from braid.recipes.strands import by_the_clock, paired
from braid.transformer import TransformerConfig


def emoji(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Emoji with their names, 64x64: data.path=FILE data.validation=FILE; 10 minutes on two cores.

    Pictures pass through codecs/emoji-vq (braid codec train emoji --out codecs/emoji-vq), or for
    paradigms with continuous pictures codecs/emoji-kl (codec.quantiser=kl:4,1e-6).
    """
    return _captioned(
        "emoji",
        paradigm,
        size=64,
        text={"vocabulary": 512, "length": 20},
        row=256,
        dropout=0.1,  # few pictures, each seen dozens of times
    )


def cifar10(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """CIFAR-10 photos with their classes, 32x32: data.path=FILES data.validation=FILE; 10 minutes.

    The files have the columns image, caption and label. Pictures pass through codecs/cifar10-vq
    (braid codec train cifar10 --out codecs/cifar10-vq), or for paradigms with continuous pictures
    codecs/cifar10-kl (codec.quantiser=kl:4,1e-5).
    """
    return _captioned(
        "cifar10",
        paradigm,
        size=32,
        text={"vocabulary": 320, "length": 6},
        row=128,
        columns={"image": "image", "text": "caption", "label": "label"},
        judge="judges/cifar10",
    )


def _captioned(
    name: str,
    paradigm: str | Paradigm,
    *,
    size: int,
    text: dict[str, Any],
    row: int,
    dropout: float = 0.0,
    columns: dict[str, str] | None = None,
    judge: str | None = None,
) -> Experiment:
    """Return an experiment on pictures of one size; cells of 4 pixels, 2 x 2 of them a token.

    Next-token paradigms have a token a cell.
    """
    p = paradigms.get(paradigm)
    process = p.processes.get("image")
    codec = f"codecs/{name}-{'kl' if process and process.continuous else 'vq'}"
    alone = bool(process and process.causal)  # symbols of a token would be drawn blindly
    patch = 1 if alone else 2
    shape = {"size": size, "resize": True}
    made, tasks = paired(
        p,
        {
            "text": {"kind": "text", **text},
            "image": {"kind": "coded_image", "codec": codec, "patch": patch, **shape},
            "vision": {"kind": "vision", "channels": 3, "patch": size // 8, **shape},
        },
    )
    return Experiment(
        name=name,
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=160, depth=6, heads=5, dropout=dropout),
        data=DataConfig(
            source="files", columns=columns, tasks=tasks, row=2 * row if alone else row
        ),
        train=by_the_clock(10, ema=0.998, preview_every=1000),
        evaluate=EvaluateConfig(suite="drawings", steps=24, judge=judge),
    )
