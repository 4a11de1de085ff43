"""Laws of every suite: what it is asked for is what it measures."""

from __future__ import annotations

import pytest

from braid.config import EvaluateConfig
from braid.data.sources import Examples, Source
from braid.data.sources import digits as real_digits
from braid.data.synthetic import toy
from braid.evaluation import suite
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
