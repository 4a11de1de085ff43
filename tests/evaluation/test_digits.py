"""The digits suite: what is no handwritten digit is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from braid import config
from braid.config import EvaluateConfig
from braid.data.sources import Examples
from braid.data.sources import digits as real_digits
from braid.errors import BraidError
from braid.evaluation.digits import digits
from braid.pipeline import Pipeline
from braid.recipes import resolve
from tests.laws import models

pytest.importorskip("sklearn")

SMALL = EvaluateConfig(suite="digits", steps=1, drawings=2, unguided=2, limit=3)


def untrained(*settings: str) -> Pipeline:
    """Return a small model of the digits recipe before training."""
    made = resolve("digits", [*models.SMALL, *settings])
    modalities = [config.make_modality(n, s) for n, s in made.strands.items()]
    for modality in modalities:
        modality.fit(["one", "two"])
    torch.manual_seed(0)
    return Pipeline(config.build(made, {m.name: m.state() for m in modalities}), made)


def grey(*shape: int) -> Examples:
    """Return three rows, of which the second is a picture of that shape."""
    pictures = [np.zeros(s, np.uint8) for s in ((8, 8), shape, (8, 8))]
    return Examples("some", {"image": pictures, "text": ["one", "two", "one"]})


@pytest.mark.slow
def test_grey_digits_of_any_source_are_measured():
    assert digits(untrained(), grey(8, 8), SMALL).numbers["held_out"] == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (grey(8, 9), "some row 1: the picture is 9x8 in mode L, the suite digits judges 8x8"),
        (grey(8, 8, 3), "some row 1: the picture is 8x8 in mode RGB, the suite digits judges"),
        (Examples("words", {"text": ["one"]}), "digits needs the field 'image', words has text"),
        (Examples("bare", {"image": [np.zeros((8, 8))]}), "digits needs the field 'text', bare"),
    ],
)
def test_data_of_other_things_is_refused(rows, message):
    with pytest.raises(BraidError, match=message):
        digits(untrained(), rows, SMALL)


@pytest.mark.parametrize(
    ("size", "channels", "drawn"), [(16, 1, "16x16 in mode L"), (8, 3, "8x8 in mode RGB")]
)
def test_a_model_of_other_pictures_is_refused(size, channels, drawn):
    kind = f"{{kind: image, size: {size}, channels: {channels}, patch: 2, resize: true}}"
    pipe = untrained(f"strands.image.modality={kind}", "data.row=256")
    with pytest.raises(BraidError, match=f"the model draws {drawn}, the suite digits judges 8x8"):
        digits(pipe, real_digits("test"), SMALL)
