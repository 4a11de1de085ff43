"""The pairs suite: what is read and drawn, in whatever shape it has."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image as PIL

from braid.config import EvaluateConfig
from braid.data.sources import Examples
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.pairs import compare, pairs
from braid.pipeline import Pipeline
from tests.laws import models
from tests.modalities.test_coded_image import experiment, made, picture, stirred

SMALL = EvaluateConfig(suite="pairs", steps=2, drawings=3, limit=4)


@pytest.mark.parametrize("paradigm", ["fudoki", "transfusion", "llava"])
def test_pictures_of_one_shape_are_compared_with_drawings(paradigm):
    out = pairs(models.pipeline(paradigm), toy(8, 1), SMALL)
    assert (out.numbers["held_out"], out.numbers["left_out"]) == (4, 0)
    assert 0 <= out.numbers["caption_accuracy"] <= 1
    drawn = "image" in models.drawn(paradigm)
    assert drawn == ("frechet_distance" in out.numbers)
    if drawn:
        assert out.numbers["frechet_distance"] > 0
        for title in ("Drawn from held-out captions", "The real pictures"):
            assert [len(row) for row in out.panels[title]] == [3]


@pytest.fixture(scope="module")
def any_shape(tmp_path_factory) -> Pipeline:
    """Return a pipeline that reads pictures of any shape."""
    codec = made(tmp_path_factory.mktemp("codecs") / "vq", "vq:8x4")
    run = experiment("fudoki", str(codec), budget=16)
    return Pipeline(stirred(run), run)


def test_each_picture_is_read_and_drawn_in_its_own_shape(any_shape):
    shapes = [(4, 16), (12, 6), (8, 8), (4, 4)]  # height and width
    columns = {
        "image": [picture(*shape, 1) for shape in shapes] + [None],
        "text": ["row one", "row two", "row one", "row two", "row one"],
    }
    options = SMALL.model_copy(update={"limit": 5})
    out = pairs(any_shape, Examples("some", columns), options)
    assert (out.numbers["held_out"], out.numbers["left_out"]) == (4, 1)
    sizes = [p.size for _, p in out.panels["Captions of held-out pictures"][0]]
    assert sorted(sizes) == [(4, 4), (6, 10), (8, 8), (16, 4)]  # in whole tokens
    for title in ("Drawn from held-out captions", "The real pictures"):
        assert [p.size for _, p in out.panels[title][0]] == sizes[:3]
    assert out.numbers["frechet_distance"] is None
    assert np.isfinite(out.numbers["image_bits_per_symbol"])


def test_rows_that_cannot_be_read_at_all_are_refused():
    nothing = Examples("nothing", {"image": [None], "text": ["row one"]})
    with pytest.raises(BraidError, match="no row of nothing can be read as a picture"):
        pairs(models.pipeline("fudoki"), nothing, SMALL)


def test_data_without_a_field_that_is_needed_is_refused():
    words = Examples("words", {"text": ["row one"]})
    with pytest.raises(BraidError, match="pairs needs the field 'image', words has text; give"):
        pairs(models.pipeline("fudoki"), words, SMALL)


def test_the_distance_of_drawings_and_its_floor_are_of_sets_of_one_size():
    real = [PIL.fromarray(x.astype(np.uint8) * 15) for x in sklearn.datasets.load_digits().images]
    out = Evaluation()
    compare(real[:150], real[200:350], out)  # "drawn" as well as a model could
    distance, floor = out.numbers["frechet_distance"], out.numbers["frechet_floor"]
    assert isinstance(distance, float) and isinstance(floor, float)
    assert 0.6 < distance / floor < 1.6
