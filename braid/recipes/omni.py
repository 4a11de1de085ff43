"""Scenes, handwritten digits and speech in one braid: text, pictures and sound, any to any."""

from __future__ import annotations

from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.paradigms import Paradigm
from braid.recipes.scenes import FIELDS, TASKS, scenes
from braid.recipes.strands import by_the_clock, decided_early, sounding, strands
from braid.transformer import TransformerConfig

CLIPS = {"audio": "audio", "text": "caption", "digit": "digit"}
"""Columns of the spoken digits."""


def omni(
    paradigm: str | Paradigm = "fudoki",
    speech: str = "speech-train.parquet",
    speech_validation: str = "speech-validation.parquet",
    scenes_path: str | None = None,
) -> Experiment:
    """Scenes, digits and speech in one model: speech=FILE speech_validation=FILE.

    Args:
        paradigm: the assignment of processes.
        speech: spoken digits with columns audio, caption and digit.
        speech_validation: held-out ones.
        scenes_path: scenes that `braid codec encode` encoded; they are made as they are read
            where it is None.
    """
    p = sounding(paradigm)
    frame = scenes(paradigm)
    image = {**frame.strands["image"].modality, "resize": True}
    continuous = p.processes["audio"] is not None and p.processes["audio"].continuous
    sound = "codecs/speech-kl" if continuous else "mini/audio-codec"
    made = strands(
        p,
        {
            "text": {
                "kind": "text",
                "vocabulary": 640,
                "length": 12,
                "frames": ["image", "audio"],
            },
            "image": image,
            "audio": {"kind": "audio", "codec": sound, "seconds": 0.8},
        },
    )
    made = {name: decided_early(strand) for name, strand in made.items()}
    world = DataConfig(
        source="files" if scenes_path else "scenes",
        path=scenes_path,
        fields=FIELDS,
        tasks={**TASKS, "prompt_and_image_and_instruction_to_edited": 0.7},
        match=("text", "image"),
        weight=5.0,
    )
    clips = DataConfig(source="files", path=speech, validation=speech_validation, columns=CLIPS)
    digits = DataConfig(
        source="digits",
        partner=clips,
        agree_on={"label": "digit"},
        partners=16,
        fields={"caption": "text"},
        tasks={
            "caption_to_image": 1.0,
            "image_to_caption": 1.0,
            "audio_to_image": 1.0,
            "image_to_audio": 1.0,
        },
        weight=3.0,
    )
    spoken = clips.model_copy(
        update={"tasks": {"text_to_audio": 2.0, "audio_to_text": 1.0}, "weight": 3.0}
    )
    return Experiment(
        name="omni",
        strands=made,
        rule=p.rule,
        transformer=TransformerConfig(width=128, depth=6, heads=4),
        data=DataConfig(
            mix={"scenes": world, "digits": digits, "speech": spoken}, row=frame.data.row
        ),
        train=by_the_clock(60, ema=0.998, preview_every=1000),
        evaluate=EvaluateConfig(suite="omni", steps=32, guidance=2.0, drawings=300),
    )
