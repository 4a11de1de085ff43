"""The digits suite: reads, draws, completes and refines held-out handwritten digits."""

from __future__ import annotations

import importlib.util
import time

import numpy as np
from PIL import Image

from braid.config import EvaluateConfig
from braid.data.rows import need_fields
from braid.data.sources import Source
from braid.data.sources import digits as real_digits
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.likelihood import bits
from braid.evaluation.quality import Judge, accuracy, frechet_distance, pixels, shuffled
from braid.modalities import open_picture
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DAMAGE = 0.3  # share of a digit's symbols that are replaced before refinement
REFINE_FROM = 0.8


def need_scikit_learn() -> None:
    """Refuse to begin where the digits and their judge are missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise BraidError('the digits come with scikit-learn: pip install "braid-models[demo]"')


def digits(pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0) -> Evaluation:
    """Evaluate a model of digits on held-out ones.

    Drawings are judged by a classifier trained on real digits.
    """
    need_fields(held_out, ("image", "text"), "digits")
    # neighbours are of one writer; in their own order, all of them are always the same
    chosen = sorted(shuffled(len(held_out))[: config.limit])
    held = [held_out[i] for i in chosen]
    real = [open_picture(r["image"]) for r in held]
    names = [r["text"] for r in held]
    for i, picture in zip(chosen, real, strict=True):
        _judged(picture, f"{held_out.describe(i)}: the picture is")
    if "image" in pipe.braid.strands:
        modality = pipe.braid.strand("image").modality
        _judged(modality.decode(*modality.tokenise(real[0])), "the model draws")
    digits_seen = real_digits("train")
    train = [digits_seen[i] for i in range(len(digits_seen))]
    train_pictures = [open_picture(r["image"]) for r in train]
    judge = Judge.train(train_pictures, [r["text"] for r in train])
    out = Evaluation(
        numbers={"held_out": len(held), "judge_accuracy": accuracy(judge(real), names)}
    )
    _read(pipe, real, names, seed, out)
    if "image" in pipe.braid.strands:
        _draw(pipe, judge, config, seed, out)
        _spread(pipe, real, train_pictures, config, seed, out)
        _infill(pipe, judge, real, names, config, seed, out)
        _refine(pipe, judge, real, names, config, seed, out)
    bits(
        pipe,
        [[_picture(pipe, p), n] for p, n in zip(real, names, strict=True)],
        "text",
        out.numbers,
        seed=seed,
    )
    if "image" in pipe.braid.strands:
        documents = [[n, p] for p, n in zip(real, names, strict=True)]
        bits(pipe, documents, "image", out.numbers, seed=seed)
    return out


def _judged(picture: Image.Image, what: str) -> None:
    """Refuse a picture that the judge cannot see, before any work."""
    if picture.size != (8, 8) or picture.mode != "L":
        raise BraidError(
            f"{what} {picture.width}x{picture.height} in mode {picture.mode}, the suite digits "
            "judges 8x8 in mode L (grey); use such digits, or the suite pairs"
        )


def _picture(pipe: Pipeline, picture: Image.Image) -> object:
    """Return the picture as a part that the model reads."""
    return picture if "image" in pipe.braid.strands else Part("vision", picture)


def _read(
    pipe: Pipeline, real: list[Image.Image], names: list[str], seed: int, out: Evaluation
) -> None:
    done = pipe.batch(
        [[_picture(pipe, p), Hole("text")] for p in real],
        temperature=0.0,
        seeds=range(seed, seed + len(real)),
    )
    said = [p[1] for p in done]
    out.numbers["caption_accuracy"] = accuracy(said, names)
    rows = [
        (f"{a}" if a == b else f"{a} (is {b})", p)
        for a, b, p in zip(said, names, real, strict=True)
    ]
    out.panels["Reading held-out digits"] = [rows[i : i + 10] for i in range(0, 20, 10)]


def _draw(pipe: Pipeline, judge: Judge, config: EvaluateConfig, seed: int, out: Evaluation) -> None:
    asked = [NAMES[i % 10] for i in range(config.drawings)]
    began = time.monotonic()
    done = pipe.batch(
        [[n, Hole("image")] for n in asked],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(asked)),
    )
    seconds = time.monotonic() - began
    drawn = [p[1] for p in done]
    out.numbers["drawn_accuracy"] = accuracy(judge(drawn), asked)
    out.numbers["calls_per_drawing"] = done[0].calls
    out.numbers["seconds_per_drawing"] = seconds / len(asked)
    out.panels[f"Drawn from names, guidance {config.guidance:g}"] = [
        [(asked[i], drawn[i]) for i in range(r, r + 10)]
        for r in range(0, min(40, len(asked) - 9), 10)
    ]
    out.trajectory = (
        pipe(
            ["three", Hole("image")],
            steps=config.steps,
            guidance=config.guidance,
            seed=seed,
            trajectory=True,
        ),
        1,
    )


def _spread(
    pipe: Pipeline,
    real: list[Image.Image],
    train: list[Image.Image],
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    asked = [NAMES[i % 10] for i in range(config.unguided)]
    first = seed + config.drawings
    done = pipe.batch(
        [[n, Hole("image")] for n in asked], steps=32, seeds=range(first, first + len(asked))
    )
    drawn = pixels([p[1] for p in done])
    out.numbers["frechet_distance_to_training"] = frechet_distance(drawn, pixels(train))
    if len(real) < 2:
        out.numbers |= dict.fromkeys(("frechet_distance", "frechet_floor"))
        out.numbers["frechet_distance_note"] = "one held-out picture has no spread to compare"
        return
    out.numbers["frechet_distance"] = frechet_distance(drawn, pixels(real))
    # as many, on which the distance depends; neighbours are of one writer
    some = np.random.default_rng(seed).permutation(len(train))[: len(drawn)]
    out.numbers["frechet_floor"] = frechet_distance(pixels(train)[some], pixels(real))


def _infill(
    pipe: Pipeline,
    judge: Judge,
    real: list[Image.Image],
    names: list[str],
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    keep = np.zeros((real[0].height, real[0].width), bool)
    keep[: real[0].height // 2] = True
    done = pipe.batch(
        [[n, Hole("image", draft=p, keep=keep)] for n, p in zip(names, real, strict=True)],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(real)),
    )
    filled = [p[1] for p in done]
    out.numbers["infilled_accuracy"] = accuracy(judge(filled), names)
    half = [Image.fromarray(np.where(keep, np.asarray(p), 96).astype(np.uint8)) for p in real]
    out.panels["Lower half drawn: given, drawn, real"] = [
        [(n, x) for n, x in zip(names[:10], row[:10], strict=True)] for row in (half, filled, real)
    ]


def _refine(
    pipe: Pipeline,
    judge: Judge,
    real: list[Image.Image],
    names: list[str],
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    """Replace symbols at random, and let the model repair the picture: told its name, and not."""
    damaged = _damage(real, seed)
    out.numbers["damaged_accuracy"] = before = accuracy(judge(damaged), names)
    if not hasattr(pipe.braid.strand("image").sampler, "start"):
        none = ("refined_accuracy", "refinement_gain", "refined_alone_accuracy")
        out.numbers |= dict.fromkeys(none)
        out.numbers["refined_accuracy_note"] = "decoding token by token cannot revise a draft"
        return
    holes = [Hole("image", draft=p, start=REFINE_FROM) for p in damaged]
    seeds = range(seed, seed + len(real))
    named = [[n, h] for n, h in zip(names, holes, strict=True)]
    told = pipe.batch(named, steps=config.steps, seeds=seeds)
    alone = pipe.batch([[h] for h in holes], steps=config.steps, seeds=seeds)
    refined = [p[-1] for p in told]
    out.numbers["refined_accuracy"] = after = accuracy(judge(refined), names)
    out.numbers["refinement_gain"] = after - before
    out.numbers["refined_alone_accuracy"] = accuracy(judge([p[-1] for p in alone]), names)
    out.panels["Refined, given the name: damaged, refined, real"] = [
        [(n, x) for n, x in zip(names[:10], row[:10], strict=True)]
        for row in (damaged, refined, real)
    ]


def _damage(pictures: list[Image.Image], seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    out = []
    for picture in pictures:
        array = np.array(picture)
        hit = rng.random(array.shape) < DAMAGE
        noise = np.round(rng.integers(0, 17, array.shape) * 255 / 16)
        out.append(Image.fromarray(np.where(hit, noise, array).astype(np.uint8)))
    return out
