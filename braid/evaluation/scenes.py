"""The scenes suite: what a model draws, says, answers and edits, judged exactly by a reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from PIL import Image

from braid.config import EvaluateConfig
from braid.data.scenes import judge as judged
from braid.data.scenes import look, same, scenes
from braid.data.scenes.source import Scenes, Split
from braid.data.sources import Source
from braid.evaluation.captions import exact_match
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.metrics import mean, retrieval_recall
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

TESTS: tuple[Split, ...] = tuple(s for s in get_args(Split) if s != "train")
"""Scenes of combinations that training showed, and of ones that it never did."""

SEED = 1_000_003
"""Of the test scenes; far from any seed of training data."""


def scenes_suite(
    pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0
) -> Evaluation:
    """Evaluate a model on scenes of seen and of unseen combinations of color, shape and size.

    The scenes are made here, from a seed of their own; `held_out` is not needed.
    """
    draws = "image" in pipe.braid.strands and pipe.braid.strand("image").process is not None
    out = Evaluation(numbers={"edit_guidance": config.guidance} if draws else {})
    count = config.limit or config.drawings
    for split in TESTS:
        test = scenes(count, SEED, split)
        rows = [test[i] for i in range(count)]
        _caption(pipe, rows, split, seed, out)
        _answer(pipe, rows, split, seed, out)
        if not draws:
            continue
        for objects in (1, 2, 3):
            _draw(pipe, scenes(count, SEED + 1, split, objects), objects, split, config, seed, out)
        _edit(pipe, test, rows, split, config, seed, out)
    if draws:
        _retrieve(pipe, out)
    return out


def _read(pipe: Pipeline, picture: object) -> object:
    """Return a picture as a part that the model reads."""
    return picture if "image" in pipe.braid.strands else Part("vision", picture)


def _ask(pipe: Pipeline, documents: list[list[Any]], seed: int) -> list[str]:
    seeds = range(seed, seed + len(documents))
    return [p[-1] for p in pipe.batch(documents, temperature=0.0, seeds=seeds)]


def _caption(pipe: Pipeline, rows: Sequence[dict], split: str, seed: int, out: Evaluation) -> None:
    said = _ask(pipe, [[_read(pipe, r["image"]), Hole("text")] for r in rows], seed)
    true = [r["text"] for r in rows]
    out.numbers |= exact_match(said, true).numbers(f"{split}_caption_accuracy")
    shown = [
        (a if a == b else f"{a} (is {b})", Image.fromarray(r["image"]))
        for a, b, r in zip(said, true, rows, strict=True)
    ]
    out.panels[f"Captions, {split} combinations"] = [shown[i : i + 6] for i in (0, 6)]


def _answer(pipe: Pipeline, rows: Sequence[dict], split: str, seed: int, out: Evaluation) -> None:
    asked = [[_read(pipe, r["image"]), r["question"], Hole("text")] for r in rows]
    said = _ask(pipe, asked, seed)
    true = [r["answer"] for r in rows]
    out.numbers |= exact_match(said, true).numbers(f"{split}_answer_accuracy")
    shown = [
        (f"{r['question']} {a}" + ("" if a == b else f" (is {b})"), Image.fromarray(r["image"]))
        for a, b, r in zip(said, true, rows, strict=True)
    ]
    out.panels[f"Questions, {split} combinations"] = [shown[:6]]


def _draw(
    pipe: Pipeline,
    test: Scenes,
    objects: int,
    split: str,
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    """Draw prompts, and judge the drawings in all and by attribute."""
    prompts = [test.texts(i)["prompt"] for i in range(len(test))]
    done = pipe.batch(
        [[p, Hole("image")] for p in prompts],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(prompts)),
    )
    drawn = [p[-1] for p in done]
    verdicts = [judged(p, x) for p, x in zip(prompts, drawn, strict=True)]
    for key in ("all", "count", "color", "shape", "size", "relation", "place"):
        asked = [float(v[key]) for v in verdicts if key in v]
        if asked:
            name = f"{split}_drawn_{objects}" + ("" if key == "all" else f"_{key}")
            out.numbers |= mean(asked).numbers(name)
    shown = [
        (p + ("" if v["all"] else " (wrong)"), x)
        for p, x, v in zip(prompts, drawn, verdicts, strict=True)
    ]
    title = f"Drawn, {objects} object{'s' * (objects > 1)}, {split} combinations"
    out.panels[title] = [shown[i : i + 6] for i in (0, 6)]
    if split == "seen" and objects == 2:
        example = pipe(
            [prompts[0], Hole("image")],
            steps=config.steps,
            guidance=config.guidance,
            seed=seed,
            trajectory=True,
        )
        out.trajectory = example, 1


def _edit(
    pipe: Pipeline,
    test: Scenes,
    rows: Sequence[dict],
    split: str,
    config: EvaluateConfig,
    seed: int,
    out: Evaluation,
) -> None:
    """Edit pictures as guided as drawings are; compare what is there with what should be."""
    done = pipe.batch(
        [[r["image"], r["instruction"], Hole("image")] for r in rows],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(rows)),
    )
    drawn = [p[-1] for p in done]
    right = [float(same(look(x), test.edited_scene(i))) for i, x in enumerate(drawn)]
    out.numbers |= mean(right).numbers(f"{split}_edit_accuracy")
    given = [(r["instruction"], Image.fromarray(r["image"])) for r in rows[:6]]
    made = [("" if ok else "wrong", x) for x, ok in zip(drawn[:6], right[:6], strict=True)]
    out.panels[f"Edits, {split} combinations: given, edited"] = [given, made]


def _retrieve(pipe: Pipeline, out: Evaluation, among: int = 100, galleries: int = 4) -> None:
    """Find the picture of a caption among others and back, by embeddings."""
    test = scenes(100 * among * galleries, SEED + 2, "seen")
    number, words, pictures = 0, [], []
    for _ in range(galleries):
        captions: dict[str, int] = {}
        while len(captions) < among:  # captions of a gallery differ
            captions.setdefault(test.texts(number)["text"], number)
            number += 1
        words += [pipe.embed([t]).cpu() for t in captions]
        pictures += [pipe.embed([test[i]["image"]]).cpu() for i in captions.values()]
    to_picture, to_caption = retrieval_recall(
        torch.stack(words), torch.stack(pictures), among=among
    )
    out.numbers |= to_picture.numbers("retrieved_picture_recall")
    out.numbers |= to_caption.numbers("retrieved_caption_recall")
    out.numbers["retrieval_galleries"] = f"{galleries} of {among} different captions"
