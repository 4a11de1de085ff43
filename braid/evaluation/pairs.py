"""The pairs suite: pictures with captions of any kind, without a judge."""

from __future__ import annotations

import time

from PIL import Image

from braid.config import EvaluateConfig
from braid.data.sources import Source
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.likelihood import bits
from braid.evaluation.quality import accuracy, frechet_distance, pixels
from braid.modalities import Vision
from braid.pipeline import Hole, Part, Pipeline


def pairs(pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0) -> Evaluation:
    """Caption held-out pictures, draw held-out captions, and score both.

    Captions count where they are equal to the letter. Rows that the model cannot read are counted
    and left out.
    """
    strands = pipe.braid.strands
    reads = "image" if "image" in strands else "vision"
    pictures, captions, left_out = _read(pipe, held_out, reads, config.limit or 200)
    out = Evaluation(numbers={"held_out": len(pictures), "left_out": left_out})
    if "text" in strands and strands["text"].process is not None:
        said = [
            p[1]
            for p in pipe.batch([[Part(reads, p), Hole("text")] for p in pictures], temperature=0.0)
        ]
        out.numbers["caption_accuracy"] = accuracy(said, captions)
        rows = list(zip(said, pictures, strict=True))[:16]
        out.panels["Captions of held-out pictures"] = [
            rows[i : i + 8] for i in range(0, len(rows), 8)
        ]
        bits(
            pipe,
            [[Part(reads, p), c] for p, c in zip(pictures, captions, strict=True)],
            "text",
            out.numbers,
        )
    if reads == "image" and strands["image"].process is not None:
        _draw(pipe, pictures, captions, config, seed, out)
        bits(pipe, [[c, p] for p, c in zip(pictures, captions, strict=True)], "image", out.numbers)
    return out


def _read(
    pipe: Pipeline, held_out: Source, reads: str, limit: int
) -> tuple[list[Image.Image], list[str], int]:
    """Return the pictures as the model sees them, their captions, and the number left out."""
    modality = pipe.braid.strand(reads).modality
    picture = modality.picture if isinstance(modality, Vision) else modality
    text = pipe.braid.strand("text").modality
    pictures, captions, left_out = [], [], 0
    for i in range(len(held_out)):
        row = held_out[i]
        try:
            shown = picture.decode(picture.encode(row["image"]), picture.shape)
            text.encode(row["text"])
        except BraidError:
            left_out += 1
            continue
        pictures.append(shown)
        captions.append(row["text"])
        if len(pictures) == limit:
            break
    if not pictures:
        raise BraidError(
            f"no row of {held_out.name} can be read as a picture with a caption; see data.columns"
        )
    return pictures, captions, left_out


def _draw(
    pipe: Pipeline,
    pictures: list[Image.Image],
    captions: list[str],
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    asked = captions[: config.drawings]
    began = time.monotonic()
    done = pipe.batch(
        [[c, Hole("image")] for c in asked],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(asked)),
        rows=32,
    )
    out.numbers["seconds_per_drawing"] = (time.monotonic() - began) / len(asked)
    out.numbers["calls_per_drawing"] = done[0].calls
    drawn = [p[1] for p in done]
    if len(drawn) > 1:
        out.numbers["frechet_distance"] = frechet_distance(
            pixels(drawn), pixels(pictures[: len(drawn)])
        )
        half = len(pictures) // 2
        if half > 1:
            out.numbers["frechet_floor"] = frechet_distance(
                pixels(pictures[:half]), pixels(pictures[half:])
            )
    rows = list(zip(asked, drawn, strict=True))[:16]
    out.panels["Drawn from held-out captions"] = [rows[i : i + 8] for i in range(0, len(rows), 8)]
    out.panels["The real pictures"] = [
        list(zip(captions, pictures, strict=True))[i : i + 8] for i in range(0, len(rows), 8)
    ]
    out.trajectory = (
        pipe(
            [asked[0], Hole("image")],
            steps=config.steps,
            guidance=config.guidance,
            seed=seed,
            trajectory=True,
        ),
        1,
    )
