"""The pairs suite: pictures with captions of any kind, without a judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from braid.config import EvaluateConfig
from braid.data.rows import need_fields
from braid.data.sources import Source
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.likelihood import bits
from braid.evaluation.quality import accuracy, frechet_distance, pixels, shuffled
from braid.modalities import Vision
from braid.parts import Hole, Part
from braid.pipeline import Pipeline


@dataclass(frozen=True)
class Pair:
    """A held-out row.

    Attributes:
        picture: as the model sees it.
        caption: what is written beside it.
        shape: of the picture in tokens.
    """

    picture: Image.Image
    caption: str
    shape: tuple[int, ...]


def pairs(pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0) -> Evaluation:
    """Caption held-out pictures, draw held-out captions, and score both.

    Captions count where they are equal to the letter. Rows that the model cannot read are counted
    and left out.
    """
    need_fields(held_out, ("image", "text"), "pairs")
    strands = pipe.braid.strands
    reads = "image" if "image" in strands else "vision"
    found, left_out = _read(pipe, held_out, reads, config.limit or 200)
    pictures, captions = [p.picture for p in found], [p.caption for p in found]
    out = Evaluation(numbers={"held_out": len(pictures), "left_out": left_out})
    if "text" in strands and strands["text"].process is not None:
        done = pipe.batch(
            [[Part(reads, p), Hole("text")] for p in pictures],
            temperature=0.0,
            seeds=range(seed, seed + len(pictures)),
        )
        said = [p[1] for p in done]
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
            seed=seed,
        )
    if reads == "image" and strands["image"].process is not None:
        _draw(pipe, found, config, seed, out)
        documents = [[c, p] for p, c in zip(pictures, captions, strict=True)]
        bits(pipe, documents, "image", out.numbers, seed=seed)
    return out


def _read(pipe: Pipeline, held_out: Source, reads: str, limit: int) -> tuple[list[Pair], int]:
    """Return rows from all over a source that the model can read, and the number left out."""
    modality = pipe.braid.strand(reads).modality
    picture = modality.picture if isinstance(modality, Vision) else modality
    text = pipe.braid.strand("text").modality
    found, left_out = [], 0
    for i in shuffled(len(held_out)):
        try:
            row = held_out[i]
            tokens, shape = picture.tokenise(row["image"])
            text.encode(row["text"])
        except (BraidError, OSError):
            left_out += 1
            continue
        found.append(Pair(picture.decode(tokens, shape), row["text"], shape))
        if len(found) == limit:
            break
    if not found:
        raise BraidError(
            f"no row of {held_out.name} can be read as a picture with a caption; see data.columns"
        )
    return found, left_out


def _draw(
    pipe: Pipeline, found: Sequence[Pair], config: EvaluateConfig, seed: int, out: Evaluation
) -> None:
    """Draw captions, each in the shape of its own picture."""
    asked = [[p.caption, Hole("image", p.shape)] for p in found[: config.drawings]]
    began = time.monotonic()
    done = pipe.batch(
        asked,
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(asked)),
        rows=32,
    )
    out.numbers["seconds_per_drawing"] = (time.monotonic() - began) / len(asked)
    out.numbers["calls_per_drawing"] = done[0].calls
    drawn = [p[1] for p in done]
    compare(drawn, [p.picture for p in found], out)
    shown = [(p.caption, x) for p, x in zip(found[: len(drawn)], drawn, strict=True)][:16]
    real = [(p.caption, p.picture) for p in found[: len(shown)]]
    for title, cells in (("Drawn from held-out captions", shown), ("The real pictures", real)):
        out.panels[title] = [cells[i : i + 8] for i in range(0, len(cells), 8)]
    out.trajectory = (
        pipe(
            asked[0],
            steps=config.steps,
            guidance=config.guidance,
            seed=seed,
            trajectory=True,
        ),
        1,
    )


def compare(drawn: list[Image.Image], pictures: list[Image.Image], out: Evaluation) -> None:
    """Add the Frechet distance of drawings on pixels, and of two sets of real pictures.

    All sets are of one size, on which the distance depends: half of the pictures at most.
    """
    if len(drawn) < 2:
        return
    if len({p.size for p in pictures}) > 1:
        out.numbers["frechet_distance"] = None
        out.numbers["frechet_distance_note"] = "pictures of several shapes have no common pixels"
        return
    half = len(pictures) // 2
    size = min(len(drawn), half) if half > 1 else len(drawn)
    real = pixels(pictures[:size])
    out.numbers["frechet_distance"] = frechet_distance(pixels(drawn[:size]), real)
    if half > 1:
        other = pixels(pictures[half : half + size])
        out.numbers["frechet_floor"] = frechet_distance(other, real)
