from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.evaluation.features import (
    Classifier,
    Training,
    as_pixels,
    one_cycle,
    train_classifier,
)
from braid.evaluation.metrics import frechet, kernel_distance

STILL = Training(batch=32, shift=0)  # a moved line is another line


def lines(n: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return noisy pictures of the toy data and their labels."""
    source = toy(n, seed)
    clean = np.stack([source[i]["image"] for i in range(n)])[..., None]
    noise = np.random.default_rng(seed).integers(0, 60, clean.shape)
    pictures = np.where(clean > 0, 255 - noise, noise).astype(np.uint8)
    return pictures, [source[i]["text"] for i in range(n)]


def trained(steps: int, seed: int = 0) -> Classifier:
    return train_classifier(
        *lines(256, 0),
        steps=steps,
        seed=seed,
        validation=lines(200, 1),
        trained_on="toy lines",
        training=STILL,
    )


@pytest.fixture(scope="module")
def judge() -> Classifier:
    """Return a classifier that knows the toy data."""
    return trained(40)


def test_a_classifier_learns_the_toy_data_in_a_few_dozen_steps(judge: Classifier):
    assert judge.about["validation_accuracy"] > 0.95
    pictures, labels = lines(100, 2)
    assert np.mean([a == b for a, b in zip(judge.predict(pictures), labels, strict=True)]) > 0.95


def test_steps_and_a_seed_repeat_exactly_and_leave_the_global_draws_alone():
    before = torch.random.get_rng_state()
    first, second, other = trained(5), trained(5), trained(5, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_loaded_classifier_is_the_saved_one(judge: Classifier, tmp_path: Path):
    judge.save(tmp_path / "judge")
    again = Classifier.load(tmp_path / "judge")
    pictures, _ = lines(50, 3)
    assert again.predict(pictures) == judge.predict(pictures)
    assert np.array_equal(again.features(pictures), judge.features(pictures))
    assert again.about == judge.about
    told = json.loads((tmp_path / "judge" / "classifier.json").read_text(encoding="utf-8"))
    assert told["about"]["trained_on"] == "toy lines"
    assert told["about"]["validation_pictures"] == 200
    assert told["about"]["steps"] == 40


def test_features_do_not_depend_on_the_other_pictures(judge: Classifier):
    pictures, _ = lines(20, 3)
    assert judge.features(pictures).shape == (20, 128)
    np.testing.assert_allclose(
        judge.features(pictures)[3:4], judge.features(pictures[3:4]), rtol=1e-4, atol=1e-5
    )


def test_images_and_arrays_are_the_same_pictures(judge: Classifier):
    pictures, _ = lines(9, 4)
    images = [Image.fromarray(p[..., 0]) for p in pictures]
    assert judge.predict(images) == judge.predict(pictures)
    assert np.array_equal(
        judge.features([i.convert("RGB") for i in images]), judge.features(images)
    )


def test_distances_of_features_tell_lost_kinds_from_a_second_draw(judge: Classifier):
    (real, _), (same, labels) = lines(300, 5), lines(300, 6)
    rows = same[[label.startswith("row") for label in labels]]
    real_f, same_f, rows_f = (judge.features(p) for p in (real, same, rows))
    assert kernel_distance(real_f, same_f).high < kernel_distance(real_f, rows_f).low
    assert frechet(real_f, same_f, resamples=5).high < frechet(real_f, rows_f, resamples=5).low


@pytest.mark.parametrize(("channels", "size"), [(1, 4), (1, 8), (3, 15), (3, 32)])
def test_every_size_has_its_features(channels: int, size: int):
    judge = Classifier(channels, size, ["a", "b"])
    pictures = np.zeros((3, size, size, channels), dtype=np.uint8)
    assert judge.features(pictures).shape == (3, 128)
    assert set(judge.predict(pictures)) <= {"a", "b"}


def test_moved_and_mirrored_pictures_train_too():
    pictures = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    images = [Image.fromarray(p) for p in pictures]
    labels = ["a", "b"] * 20
    judge = train_classifier(images, labels, steps=2, training=Training(flip=True))
    assert (judge.channels, judge.size, judge.classes) == (3, 16, ("a", "b"))
    assert "validation_accuracy" not in judge.about


def test_training_stops_when_its_time_is_over():
    judge = train_classifier(*lines(64, 0), seconds=0.2, training=STILL)
    assert judge.about["steps"] >= 1


def test_the_rate_rises_and_falls_to_nothing():
    rates = [one_cycle(x) for x in np.linspace(0, 1, 41)]
    assert rates.index(max(rates)) == 10
    assert max(rates) == pytest.approx(1)
    assert rates[-1] == pytest.approx(0)
    assert all(a <= b for a, b in zip(rates[:10], rates[1:11], strict=True))


def test_what_is_no_picture_is_refused():
    with pytest.raises(BraidError, match="0 pictures"):
        as_pixels([], 1, 4)
    with pytest.raises(BraidError, match="resize"):
        as_pixels([Image.new("L", (4, 5))], 1, 4)
    with pytest.raises(BraidError, match="uint8"):
        as_pixels(np.zeros((1, 4, 4, 1)), 1, 4)
    with pytest.raises(BraidError, match="labels"):
        train_classifier(np.zeros((2, 4, 4, 1), np.uint8), ["a"], steps=1)
    with pytest.raises(BraidError, match="at least 2"):
        train_classifier(np.zeros((2, 4, 4, 1), np.uint8), ["a", "a"], steps=1)


def test_what_is_no_classifier_is_refused(tmp_path: Path):
    with pytest.raises(BraidError, match="channels"):
        Classifier(2, 8, ["a", "b"])
    with pytest.raises(BraidError, match="does not exist"):
        Classifier.load(tmp_path)
    (tmp_path / "classifier.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BraidError, match="no classifier"):
        Classifier.load(tmp_path)
