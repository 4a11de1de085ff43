"""The listener tells apart sounds that differ in their spectra, whatever their loudness."""

from __future__ import annotations

import numpy as np
import pytest

from braid.errors import BraidError
from braid.evaluation.listener import Listener
from braid.modalities.sounds import Sound

pytest.importorskip("sklearn")

RATE = 8000
GLIDES = {"rising": (300, 1200), "falling": (1200, 300), "low": (300, 300), "high": (1200, 1200)}


def glide(label: str, seed: int, rate: int = RATE) -> np.ndarray:
    """Return a tone between two pitches, of random length, loudness, noise and silence around."""
    rng = np.random.default_rng(seed)
    begin, end = np.array(GLIDES[label]) * rng.uniform(0.9, 1.1)
    n = round(rng.uniform(0.2, 0.5) * rate)
    tone = np.sin(2 * np.pi * np.cumsum(np.linspace(begin, end, n)) / rate)
    around = [np.zeros(round(rng.uniform(0, 0.3) * rate)) for _ in range(2)]
    clip = np.concatenate([around[0], tone, around[1]]) * rng.uniform(0.02, 0.9)
    return (clip + 1e-4 * rng.standard_normal(len(clip))).astype(np.float32)


LABELS = [label for label in GLIDES for _ in range(12)]


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener.train([glide(x, i) for i, x in enumerate(LABELS)], LABELS, RATE)


def test_it_recognises_clips_that_it_has_not_heard(listener):
    clips = [glide(x, 1000 + i) for i, x in enumerate(LABELS)]
    assert listener(clips) == LABELS


def test_loudness_and_silence_around_do_not_matter(listener):
    clip = glide("rising", 5000)
    changed = [clip / 50, 5 * clip, np.pad(clip, (4000, 0)), np.pad(clip, (0, 4000))]
    assert listener(changed) == ["rising"] * 4


def test_sounds_are_brought_to_its_rate(listener):
    sounds = [Sound(glide(x, 2000 + i, 16000), 16000) for i, x in enumerate(LABELS)]
    assert listener(sounds) == LABELS


def test_labels_keep_their_kind():
    clips = [glide(x, i) for i, x in enumerate(LABELS)]
    numbers = [list(GLIDES).index(x) for x in LABELS]
    said = Listener.train(clips, numbers, RATE)(clips)
    assert said == numbers
    assert all(type(x) is int for x in said)


def test_silence_and_short_clips_have_some_label(listener):
    assert all(x in GLIDES for x in listener([np.zeros(800, np.float32), np.ones(1, np.float32)]))
    assert listener([]) == []


def test_what_cannot_be_learned_or_heard_is_refused(listener):
    clips = [glide("low", i) for i in range(3)]
    with pytest.raises(BraidError, match="at least 2 labels"):
        Listener.train(clips, ["low"] * 3, RATE)
    with pytest.raises(BraidError, match="3 clips and 2 labels"):
        Listener.train(clips, ["low", "high"], RATE)
    with pytest.raises(BraidError, match="expected a clip as samples"):
        listener([np.zeros((2, 80), np.float32)])
