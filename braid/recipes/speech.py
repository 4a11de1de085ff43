"""Spoken digits: who says what, and saying it."""

from __future__ import annotations

from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.paradigms import Paradigm
from braid.recipes.strands import by_the_clock, sounding, strands
from braid.transformer import TransformerConfig


def speech(paradigm: str | Paradigm = "fudoki") -> Experiment:
    """Spoken digits with who says them: data.path=FILE data.validation=FILE; ten minutes.

    Sound passes through a codec: the one that comes with the package, or for paradigms with
    continuous media codecs/speech-kl (braid codec train speech codec.quantiser=kl:16).
    """
    p = sounding(paradigm)
    process = p.processes["audio"]
    codec = "codecs/speech-kl" if process and process.continuous else "mini/audio-codec"
    made = strands(
        p,
        {
            "text": {"kind": "text", "vocabulary": 320, "length": 6},
            "audio": {"kind": "audio", "codec": codec, "seconds": 0.8},
        },
    )
    return Experiment(
        name="speech",
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=128, depth=6, heads=4, dropout=0.1),
        data=DataConfig(source="files", tasks={"text_to_audio": 2.0, "audio_to_text": 1.0}),
        train=by_the_clock(10, preview_every=0),
        evaluate=EvaluateConfig(suite="speech", steps=24, guidance=1.5, drawings=300),
    )
