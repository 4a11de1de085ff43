"""Laws of every suite: what it is asked for is what it measures."""

from __future__ import annotations

import html
import json
import math

import numpy as np
import pytest

from braid.config import EvaluateConfig
from braid.data.sources import Examples, Source
from braid.data.sources import digits as real_digits
from braid.data.synthetic import toy
from braid.evaluation import report, run_suite, suite
from braid.pipeline import Pipeline
from tests.evaluation.test_digits import untrained
from tests.laws import models

pytest.importorskip("sklearn")

SMALL = EvaluateConfig(steps=1, drawings=2, unguided=2, limit=2, judge_seconds=0.1)
SLOW = pytest.mark.slow


def unlabelled() -> Source:
    """Return toy pictures with captions alone."""
    rows = [toy(4, 1)[i] for i in range(4)]
    return Examples("toy", {k: [r[k] for r in rows] for k in ("image", "text")})


CASES = {
    "digits": (untrained, lambda: real_digits("test")),
    "drawings": (lambda: models.pipeline("fudoki"), unlabelled),
    "pairs": (lambda: models.pipeline("fudoki"), unlabelled),
}
"""A suite's model and held-out data."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n != "pairs" else ()) for n in CASES]
)
def test_the_seed_is_that_of_everything_random(name, monkeypatch):
    pytest.importorskip("sacrebleu")
    model, data = CASES[name]
    pipe, asked, batch = model(), [], Pipeline.batch

    def spy(self, documents, **options):
        asked.append(options.get("seeds"))
        return batch(self, documents, **options)

    monkeypatch.setattr(Pipeline, "batch", spy)
    bounds = []
    for seed in (1000, 2000):
        numbers = suite(name)(pipe, data(), SMALL, seed).numbers
        assert asked
        assert all(seeds is not None and min(seeds) >= seed for seeds in asked)
        bounds.append([numbers[f"{n}_nats"] for n in ("text", "image")])
        asked.clear()
    assert all(a != b for a, b in zip(*bounds, strict=True))


def by_class(n: int, size: int) -> Source:
    """Return as many black pictures of "one" as white ones of "two" behind them."""
    pictures = [np.full((size, size), value, np.uint8) for value in (0, 255) for _ in range(n)]
    return Examples("sorted", {"image": pictures, "text": ["one"] * n + ["two"] * n})


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("digits", 8, marks=SLOW), pytest.param("pairs", 4)]
)
def test_a_few_rows_are_from_all_over_the_data(name, size):
    made = models.pipeline("llava") if name == "pairs" else CASES[name][0]()
    few = SMALL.model_copy(update={"limit": 8})
    panels = suite(name)(made, by_class(50, size), few).panels
    title = next(t for t in panels if "held-out" in t)
    assert {np.asarray(p).max() for row in panels[title] for _, p in row} == {0, 255}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_held_out_row_is_measured(name):
    model, data = CASES[name]
    out = suite(name)(model(), data(), SMALL.model_copy(update={"limit": 1}))
    assert out.numbers["held_out"] == 1
    if name == "digits":
        assert out.numbers["frechet_distance"] is out.numbers["frechet_floor"] is None
        assert out.numbers["frechet_distance_to_training"] > 0


def test_a_report_says_what_was_measured_and_how(tmp_path):
    pipe = models.pipeline("llava")
    given = {"evaluate": SMALL.model_copy(update={"suite": "pairs", "judge": "/home/me"})}
    experiment = pipe.experiment.model_copy(update=given)
    path = report.write(tmp_path, experiment, run_suite(pipe, experiment, unlabelled(), 7))
    told = json.loads((tmp_path / "report.json").read_text())["evaluation"]
    assert (told["suite"], told["data"], told["seed"], told["limit"]) == ("pairs", "toy", 7, 2)
    assert told["guidance"] == SMALL.guidance and "/home/me" not in told.values()
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert "the suite pairs on the data 'toy', at most 2 examples, with seed 7." in page


def test_what_is_not_finite_is_left_out_with_a_note():
    pipe = models.pipeline("llava")
    for weight in pipe.braid.parameters():
        weight.data.fill_(math.nan)
    experiment = pipe.experiment.model_copy(
        update={"evaluate": SMALL.model_copy(update={"suite": "pairs"})}
    )
    numbers = run_suite(pipe, experiment, unlabelled()).numbers
    assert numbers["text_nats"] is None
    assert numbers["text_nats_note"] == "it came out as nan; look at the model"
    assert json.loads(json.dumps(numbers, allow_nan=False))["held_out"] == 2
