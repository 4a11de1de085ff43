"""Messages of VLMEvalKit are answered as the pipeline answers the same parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braid import Hole, Part, Pipeline
from braid.clients.vlmeval import BraidVLM
from braid.errors import BraidError
from tests.laws import models

READERS = [p for p in models.NAMES if "text" in models.drawn(p)]


@pytest.fixture
def picture(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path := tmp_path / "picture.png")
    return str(path)


def answered(pipe: Pipeline, parts: list) -> str:
    return pipe([*parts, Hole("text", 4)], temperature=0.0, steps=2)[-1]


def asked(pipe: Pipeline) -> BraidVLM:
    return BraidVLM(pipe, tokens=4, steps=2)


@pytest.mark.parametrize("paradigm", READERS)
def test_an_answer_is_the_pipelines(paradigm, picture):
    pipe = models.pipeline(paradigm)
    eye = "image" if "image" in pipe.braid.strands else "vision"
    message = [{"type": "image", "value": picture}, {"type": "text", "value": "row or column"}]
    direct = answered(pipe, [Part(eye, Path(picture)), "row or column"])
    assert asked(pipe).generate(message=message, dataset="MMBench") == direct
    assert asked(pipe).generate([picture, "row or column"]) == direct


def test_pictures_stay_in_their_places_and_texts_become_lines(picture):
    pipe = models.pipeline("chameleon")
    message = [
        {"type": "text", "value": "row"},
        {"type": "text", "value": "column"},
        {"type": "image", "value": picture},
        {"type": "text", "value": "two"},
    ]
    parts = ["row\ncolumn", Part("image", Path(picture)), "two"]
    assert asked(pipe).generate_inner(message) == answered(pipe, parts)


def test_it_has_what_the_runner_calls():
    model = asked(models.pipeline("chameleon"))
    model.set_dump_image(lambda line: None)
    assert not model.use_custom_prompt("MMBench")
    assert isinstance(model.generate("row", dataset=None), str)


WRONG = [
    ([{"type": "video", "value": "film.mp4"}], "'video'.* is not supported"),
    ([{"type": "text"}], "is not supported"),
    ([], "the message is empty"),
]


@pytest.mark.parametrize(("message", "told"), WRONG)
def test_a_wrong_message_is_named(message, told):
    with pytest.raises(BraidError, match=told):
        asked(models.pipeline("chameleon")).generate_inner(message)


def test_a_model_that_cannot_answer_is_refused():
    with pytest.raises(BraidError, match="tokens 0 must be at least 1"):
        BraidVLM(models.pipeline("chameleon"), tokens=0)
