"""The drawings suite: what is real is told from what is copied, and judges are kept."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from braid import config
from braid.config import EvaluateConfig
from braid.data.sources import Examples
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.evaluation.drawings import (
    PIXELS,
    Captioned,
    _averaged,
    _copies,
    _Run,
    distinct,
    drawings,
    nearest,
    read,
    usual_distance,
)
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.features import Classifier
from braid.modalities import Image
from braid.paradigms import PARADIGMS
from braid.recipes import resolve
from tests.laws import models

SMALL = EvaluateConfig(suite="drawings", steps=2, drawings=12, limit=16, judge_seconds=0.5)


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("own", [True, False])
def test_the_nearest_rows_are_those_of_a_plain_search(k, own, rng):
    among = rng.integers(0, 256, (5000, 12)).astype(np.uint8)  # more than one part
    rows = among[:20]
    far, which = nearest(rows, among, k, np.arange(20) if own else None)
    apart = np.linalg.norm(rows[:, None].astype(float) - among[None], axis=2)
    if own:
        apart[np.arange(20), np.arange(20)] = np.inf
    assert np.allclose(far, np.sort(apart, 1)[:, :k], rtol=1e-3, atol=0.5)
    assert np.allclose(np.take_along_axis(apart, which, 1), far, rtol=1e-3, atol=0.5)


def test_as_many_are_found_as_there_are():
    far, which = nearest(np.zeros((2, 3)), np.ones((1, 3)))
    assert far.shape == which.shape == (2, 1)
    assert np.allclose(far, 3**0.5)


def test_equal_pictures_count_once_and_the_usual_distance_is_between_different_ones():
    pixels = np.zeros((6, 4, 4, 1), np.uint8)
    pixels[2:, 0, 0] = 30
    pixels[5, 3, 3] = 40
    assert distinct(pixels).tolist() == [0, 2, 5]
    assert usual_distance(pixels[[0, 2, 5]].reshape(3, -1)) == pytest.approx(30)


def test_copies_are_counted_and_others_are_not(rng):
    train = rng.integers(100, 156, (40, 8, 8, 1)).astype(np.uint8)
    names = [str(i) for i in range(40)]
    some = Captioned(train, names, [])
    asked = {
        "": Captioned(train[:10] ^ 1, names[:10], []),  # the last bit differs
        "_of_real": Captioned(train[:10] - 100, names[:10], []),
        "_recalled": Captioned(train[[3, 4, 5, 6]], ["3", "4", "5", "9"], []),
    }
    run = _Run(None, Image(size=8), SMALL, 0, Evaluation())
    found = _copies(run, PIXELS, some, asked)
    numbers = run.out.numbers
    assert found[""][:, 0].tolist() == list(range(10))
    assert (numbers["copied_share"], numbers["copied_share_of_real"]) == (1, 0)
    assert (numbers["copied_share_recalled"], numbers["recalled_share"]) == (1, 0.75)


def test_pictures_are_averaged_in_blocks(rng):
    pixels = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    blocks = pixels.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)) / 255
    assert np.allclose(_averaged(pixels), blocks.transpose(0, 3, 1, 2).reshape(3, -1), atol=1e-6)
    assert _averaged(pixels[:, :4, :4]).shape == (3, 48)


def test_rows_that_cannot_be_read_are_counted():
    good = np.zeros((4, 4), np.uint8)
    columns = {
        "image": [good, np.zeros((5, 5), np.uint8), good, good, None],
        "text": ["a", "b", " ", "d", "e"],
        "label": [1, 1, 1, None, 1],
    }
    made = read(Examples("some", columns), Image(size=4), 10)
    assert (made.captions, made.labels, made.left_out) == (["a"], ["1"], 4)
    bad = Examples("bad", {name: values[1:] for name, values in columns.items()})
    with pytest.raises(BraidError, match="no row of bad can be read"):
        read(bad, Image(size=4), 10)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return what an untrained model draws of labelled pictures, and the judge's folder."""
    folder = tmp_path_factory.mktemp("judges") / "toy"
    options = SMALL.model_copy(update={"judge": str(folder)})
    return drawings(models.pipeline("fudoki"), toy(16, 1), options), folder


@pytest.mark.slow
def test_labelled_drawings_are_judged(judged):
    out, folder = judged
    numbers = out.numbers
    for name in (
        *("judge_accuracy", "drawn_accuracy", "caption_accuracy", "copied_share"),
        *("pixel_precision", "pixel_recall", "feature_precision", "copied_share_of_real"),
    ):
        assert 0 <= numbers[f"{name}_low"] <= numbers[name] <= numbers[f"{name}_high"] <= 1
    for space in ("pixel", "feature"):
        for kind in ("distance", "floor"):
            assert numbers[f"{space}_frechet_{kind}"] > -1e-3  # but for rounding
            assert np.isfinite(numbers[f"{space}_kernel_{kind}"])
    assert (numbers["held_out"], numbers["drawings"], numbers["left_out"]) == (16, 12, 0)
    assert numbers["image_bits_per_dimension"] > 0
    assert numbers["text_bits_per_symbol_low"] <= numbers["text_bits_per_symbol"]
    assert "classifier trained on 256 pictures of toy" in numbers["feature_frechet_distance_note"]
    assert Classifier.load(folder).about["validation_pictures"] == 16
    rows = out.panels["Drawn from held-out captions, a row a class"]
    assert sum(map(len, rows)) == 12
    (near,) = (rows for title, rows in out.panels.items() if "nearest by pixels" in title)
    assert all(len(row) == 7 for row in near)  # a drawing, and three in each space


def test_the_training_pictures_are_no_farther_from_held_out_ones_than_drawings(judged):
    numbers = judged[0].numbers  # the weights are random
    assert numbers["pixel_frechet_distance"] > numbers["pixel_frechet_floor"]
    assert numbers["copied_share_of_real"] == 1  # the toy has eight pictures in all


def test_a_judge_is_trained_once(judged):
    _, folder = judged
    before = (folder / "classifier.safetensors").stat().st_mtime_ns
    options = SMALL.model_copy(update={"judge": str(folder), "drawings": 2})
    again = drawings(models.pipeline("chameleon"), toy(4, 1), options).numbers
    assert (folder / "classifier.safetensors").stat().st_mtime_ns == before
    assert "drawn_accuracy" in again


def test_a_judge_of_other_labels_is_refused(judged):
    held_out = toy(8, 1)
    columns = {f: [held_out[i][f] for i in range(8)] for f in ("image", "text")}
    strange = Examples("strange", {**columns, "label": ["cat"] * 8})
    options = SMALL.model_copy(update={"judge": str(judged[1])})
    with pytest.raises(BraidError, match="of cat; set evaluate.judge to another folder"):
        drawings(models.pipeline("chameleon"), strange, options)


def test_without_labels_pixels_are_compared_and_new_captions_tell_training_captions_apart():
    held_out = toy(8, 1)
    rows = [r for i in range(8) if (r := held_out[i])["text"] != "row one"]
    columns = {f: [r[f] for r in rows] for f in ("image", "text")}
    out = drawings(models.pipeline("chameleon"), Examples("some", columns), SMALL)
    assert out.numbers["drawn_accuracy"] is None
    assert "label" in out.numbers["drawn_accuracy_note"]
    assert not any(name.startswith("feature_") for name in out.numbers)
    assert 0 <= out.numbers["recalled_share"] <= 1
    (title,) = (t for t in out.panels if t.startswith("Drawn from training captions"))
    assert {row[0][0] for row in out.panels[title]} == {"row one"}


def test_a_model_that_only_reads_is_not_asked_to_draw():
    out = drawings(models.pipeline("llava"), toy(8, 1), SMALL)
    assert "caption_cider" in out.numbers
    assert not any("drawn" in name or "frechet" in name for name in out.numbers)


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize(("recipe", "tokens"), [("emoji", 64), ("cifar10", 16)])
@pytest.mark.usefixtures("beside_codecs")
def test_a_recipe_of_pictures_has_the_codec_that_its_paradigm_needs(recipe, tokens, paradigm):
    made = resolve(recipe, [f"paradigm={paradigm}"])
    assert (made.name, made.train.minutes, made.evaluate.suite) == (recipe, 10, "drawings")
    if "image" not in made.strands:
        assert list(made.data.tasks) == ["vision_to_text"]
        return
    modality = config.make_modality("image", made.strands["image"])
    process = config.make_process(made.strands["image"])
    assert modality.shape[0] * modality.shape[1] == tokens * (4 if process.causal else 1)
    assert made.data.row > modality.shape[0] * modality.shape[1] + 20
    assert modality.source == f"codecs/{recipe}-{'kl' if process.continuous else 'vq'}"


@pytest.mark.slow
@pytest.mark.usefixtures("beside_codecs")
def test_drawings_through_a_codec_stand_beside_pictures_through_it():
    made = resolve(
        "cifar10",
        [*models.SMALL, "paradigm=chameleon", "data.source=toy", "data.columns=null"],
    )
    pipe = models.Pipeline(models.stirred(made, torch.float32), made)
    out = drawings(pipe, toy(8, 1), SMALL.model_copy(update={"drawings": 4}))
    for name in ("coded_accuracy", "pixel_frechet_coded", "feature_kernel_coded"):
        assert np.isfinite(out.numbers[name])
    assert "same codec" in out.numbers["image_bits_per_dimension_note"]


def test_a_missing_library_is_found_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    nothing = Examples("nothing", {"image": [None], "text": [None]})
    with pytest.raises(BraidError, match="sacrebleu is not installed"):
        drawings(models.pipeline("fudoki"), nothing, SMALL)
    with pytest.raises(BraidError, match="no row of nothing"):
        monkeypatch.undo()
        drawings(models.pipeline("fudoki"), nothing, SMALL)
