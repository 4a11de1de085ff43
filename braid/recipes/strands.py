"""Put the modalities of an experiment under the processes of a paradigm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from braid import paradigms
from braid.config import StrandConfig, TrainConfig, describe
from braid.errors import BraidError
from braid.modalities import MODALITIES
from braid.paradigms import PARADIGMS, Paradigm
from braid.processes import PROCESSES
from braid.samplers import SAMPLERS


def strands(
    paradigm: Paradigm,
    modalities: Mapping[str, dict[str, Any]],
    weights: Mapping[str, float] | None = None,
) -> dict[str, StrandConfig]:
    """Return a strand for each modality that the paradigm has a process for.

    Args:
        paradigm: the assignment.
        modalities: name -> {"kind": ..., options}; where the kind can be continuous, the process
            decides, unless a codec does.
        weights: name -> factor of its loss.
    """
    made = {}
    for name, options in modalities.items():
        if name not in paradigm.processes:
            continue
        process = paradigm.processes[name]
        if process is not None and process.continuous and "codec" not in options:
            if "continuous" not in MODALITIES[options["kind"]].__init__.__annotations__:
                raise BraidError(
                    f"modality {name!r} has no continuous form for {type(process).__name__}; "
                    "choose another paradigm"
                )
            options = {**options, "continuous": True}
        sampler = paradigm.samplers.get(name)
        made[name] = StrandConfig(
            modality=options,
            process=None if process is None else describe(PROCESSES, process),
            sampler=None if sampler is None else describe(SAMPLERS, sampler),
            weight=(weights or {}).get(name, 1.0),
        )
    return made


def paired(
    paradigm: Paradigm, modalities: Mapping[str, dict[str, Any]], draw: float = 2.0
) -> tuple[dict[str, StrandConfig], dict[str, float]]:
    """Return the strands of captioned pictures, and the tasks that they learn.

    Where the paradigm draws, "vision" is left out: pictures are read as they are drawn.

    Args:
        paradigm: the assignment.
        modalities: "text", "image" and "vision", as in `strands`.
        draw: weight of drawing, beside reading's 1.
    """
    made = strands(paradigm, modalities)
    if "image" not in made:
        return made, {"vision_to_text": 1.0}
    made.pop("vision", None)
    return made, {"text_to_image": draw, "image_to_text": 1.0}


def sounding(name: str | Paradigm) -> Paradigm:
    """Return a paradigm with a process for sound.

    Raises:
        BraidError: it makes no pictures, whose process sound takes over.
    """
    paradigm = paradigms.with_sound(name)
    if "audio" not in paradigm.processes:
        able = [n for n in PARADIGMS if "audio" in paradigms.with_sound(n).processes]
        raise BraidError(
            f"paradigm {name!r} makes no sound, as it draws nothing; use one of {', '.join(able)}"
        )
    return paradigm


# noqa: ANN401 - processes differ in their fields
def processes(paradigm: Paradigm, **changes: Any) -> Paradigm:
    """Return the paradigm with some of its processes exchanged, by modality."""
    return replace(paradigm, processes={**paradigm.processes, **changes})


def told_from_noise(strand: StrandConfig) -> StrandConfig:
    """Noise answers with a mask where a metric path would with other words, and weigh them more.

    Beside a question, noise that is words reads as words: what is answered by yes or no was
    answered by chance. An answer is a token or two, beside a picture's sixteen.
    """
    if strand.process is None or strand.process.get("path") != {"kind": "metric"}:
        return strand
    masked = {**strand.process, "path": "mask", "early": 1.5}
    return strand.model_copy(update={"process": masked, "weight": 10.0})


def decided_early(strand: StrandConfig) -> StrandConfig:
    """Let a diffusion learn what is decided early: where things are, and how many.

    An error of predicted noise counts least where there is nearly nothing but noise; a diffusion
    of latents then predicts velocities (arXiv:2202.00512).
    """
    if strand.process is None or strand.process["kind"] != "gaussian_flow":
        return strand
    return strand.model_copy(update={"process": {**strand.process, "prediction": "velocity"}})


def by_the_clock(minutes: float, **own: Any) -> TrainConfig:
    """Return a training of some minutes with Muon, at the rate that suits it (see docs/log.md)."""
    common = {
        "steps": 1_000_000,  # more than fit into the minutes
        "batch": 64,
        "optimizer": "muon",
        "learning_rate": 8e-3,
        "warmup": 200,
    }
    return TrainConfig.model_validate({**common, "minutes": minutes, **own})
