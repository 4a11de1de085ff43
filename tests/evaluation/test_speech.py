"""The suites of speech: each clip is judged against its own caption, whatever rows are left out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from braid import config
from braid.config import Experiment
from braid.data import Joined, Source, open_data
from braid.data.sources import Examples
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.omni import _digits, omni_suite
from braid.evaluation.speech import speech_suite, train_listeners
from braid.modalities.sounds import Sound
from braid.paradigms import with_sound
from braid.pipeline import Pipeline
from braid.recipes import resolve
from tests.evaluation.test_listener import RATE, glide
from tests.laws import models

pytest.importorskip("sklearn")
pytest.importorskip("jiwer")

SPEAKERS = {"anna": ("low", "high"), "theo": ("rising", "falling")}
"""Speaker -> the sounds that stand for one and two."""


def clips(folder: Path, name: str, count: int, first: int) -> Path:
    """Write sounds with captions, "anna says one", as JSON lines."""
    rows = []
    for i in range(count):
        speaker = list(SPEAKERS)[i % 2]
        digit = i // 2 % 2
        path = folder / f"{name}-{i}.wav"
        Sound(glide(SPEAKERS[speaker][digit], first + i), RATE).save(path)
        text = f"{speaker} says {('one', 'two')[digit]}"
        rows.append({"audio": path.name, "caption": text, "digit": digit + 1})
    out = folder / f"{name}.jsonl"
    out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Return training and held-out clips."""
    folder = tmp_path_factory.mktemp("clips")
    return clips(folder, "train", 24, 0), clips(folder, "validation", 8, 1000)


def untrained(made: Experiment) -> Pipeline:
    """Return a model of an experiment before training."""
    modalities = [config.make_modality(n, s) for n, s in made.strands.items()]
    for modality in modalities:
        modality.fit(["anna says one", "theo says two", "a handwritten one"])
    torch.manual_seed(0)
    return Pipeline(config.build(made, {m.name: m.state() for m in modalities}), made)


def recipe(train: Path, validation: Path) -> Experiment:
    """Return the small experiment of the speech recipe on clips."""
    columns = "data.columns={audio: audio, text: caption, digit: digit}"
    paths = (f"data.path={train}", f"data.validation={validation}", columns)
    small = ("evaluate.steps=1", "evaluate.drawings=5", "evaluate.limit=4")
    return resolve("speech", [*models.SMALL, *paths, *small])


@pytest.fixture(scope="module")
def speaking(files) -> Pipeline:
    """Return an untrained model of the speech recipe."""
    return untrained(recipe(*files))


def test_listeners_know_the_clips_that_they_learned_from(speaking):
    listeners = train_listeners(speaking)
    assert list(listeners) == ["digit", "speaker"]
    for i, (speaker, sounds) in enumerate(SPEAKERS.items()):
        heard = [glide(x, 2000 + i) for x in sounds]
        assert listeners["digit"](heard) == ["one", "two"]
        assert listeners["speaker"](heard) == [speaker] * 2


def test_listeners_learn_from_the_other_rows_where_some_cannot_be_read(files, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(files[0].parent, folder)
    (folder / "empty.wav").write_bytes(b"")
    lines = (folder / "train.jsonl").read_text().splitlines()
    bad = [{"audio": "train-0.wav", "caption": None}, {"audio": None, "caption": "anna says one"}]
    bad += [{"audio": name, "caption": "theo says two"} for name in ("empty.wav", "gone.wav")]
    lines[3:3] = [*map(json.dumps, bad), "no JSON"]
    (folder / "train.jsonl").write_text("\n".join(lines))
    listeners = train_listeners(untrained(recipe(folder / "train.jsonl", files[1])))
    for speaker, sounds in SPEAKERS.items():
        heard = [glide(x, 3000) for x in sounds]
        assert listeners["digit"](heard) == ["one", "two"]
        assert listeners["speaker"](heard) == [speaker] * 2


def test_listeners_need_one_row_that_can_be_read(files, tmp_path):
    row = json.dumps({"audio": "gone.wav", "caption": "anna says one", "digit": 1})
    (tmp_path / "train.jsonl").write_text(f"{row}\n{row}\n")
    pipe = untrained(recipe(tmp_path / "train.jsonl", files[1]))
    with pytest.raises(BraidError, match="no row of train can be read as sound with a text"):
        train_listeners(pipe)


def test_real_clips_are_heard_as_what_their_captions_say(speaking):
    made = speaking.experiment
    held_out = open_data(made.data, made.seed).held_out
    out = speech_suite(speaking, held_out, made.evaluate)
    numbers = out.numbers
    assert (numbers["held_out"], numbers["left_out"]) == (4, 0)
    assert numbers["listener_digit_accuracy"] == numbers["listener_speaker_accuracy"] == 1
    for kind in ("decoded", "spoken"):
        assert all(0 <= numbers[f"{kind}_{name}_accuracy"] <= 1 for name in ("digit", "speaker"))
    assert len(out.sounds["Spoken"]) == 5


def test_digits_that_cannot_be_heard_are_left_out_and_the_others_asked(files):
    train, validation = files
    paths = (f"speech={train}", f"speech_validation={validation}")
    made = resolve("omni", [*models.SMALL, *paths, "evaluate.steps=1"])
    pipe = untrained(made)
    good = Sound(glide("low", 1), RATE)
    columns = {
        "image": [np.zeros((8, 8), np.uint8)] * 4,
        "text": ["one", "two", "one", "two"],
        "caption": ["a handwritten one"] * 4,
        "audio": [good, Sound(np.zeros(RATE, np.float32), RATE), good, good],
    }
    out = Evaluation()
    options = made.evaluate.model_copy(update={"limit": 4})
    _digits(pipe, Examples("digits", columns), options, 0, train_listeners(pipe)["digit"], out)
    assert len(out.sounds["Digits read aloud"]) == 3
    assert 0 <= out.numbers["digit_spoken_from_picture"] <= 1


def test_data_without_a_field_that_is_needed_is_refused(speaking):
    words = Examples("words", {"text": ["anna says one"]})
    with pytest.raises(BraidError, match="speech needs the field 'audio', words has text; give"):
        speech_suite(speaking, words, speaking.experiment.evaluate)


@pytest.mark.parametrize("recipe", ["speech", "omni"])
def test_a_paradigm_without_sound_is_refused_with_those_that_have_it(recipe):
    with pytest.raises(BraidError, match="'llava' makes no sound, as it draws nothing") as error:
        resolve(recipe, ["paradigm=llava"])
    able = str(error.value).split("use one of ")[1].split(", ")
    assert able == [n for n in models.NAMES if "audio" in with_sound(n).processes]


@pytest.mark.parametrize("library", ["jiwer", "sklearn.svm"])
@pytest.mark.parametrize("suite", [speech_suite, omni_suite])
def test_a_missing_library_is_found_before_any_work(library, suite, speaking, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    nothing = Joined(dict.fromkeys(("digits", "speech"), Unreadable()))
    with pytest.raises(BraidError, match=r"not installed; run: pip install .*\[eval\]"):
        suite(speaking, nothing, speaking.experiment.evaluate)


class Unreadable(Source):
    """Rows that nobody may read."""

    name, fields = "unreadable", ("audio", "text")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict:
        raise AssertionError("read before the libraries were looked for")
