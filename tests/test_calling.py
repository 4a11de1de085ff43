"""A call in the words of diffusers gives what the same call in braid's words gives."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from braid import Hole, Pipeline
from braid.errors import BraidError
from tests.laws import models


@functools.cache
def pipe(paradigm: str) -> Pipeline:
    """Return a pipeline of random weights."""
    return models.pipeline(paradigm)


def same(a, b) -> bool:
    """Return whether two pictures are equal."""
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("paradigm", [p for p in models.NAMES if "image" in models.drawn(p)])
def test_both_ways_of_calling_draw_the_same(paradigm):
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(3)))
    ours = pipe(paradigm)(["row", Hole("image")], steps=3, guidance=1.5, seed=seed)
    theirs = pipe(paradigm)(
        "row",
        num_inference_steps=3,
        guidance_scale=1.5,
        generator=torch.Generator().manual_seed(3),
    )
    assert theirs[0] == "row"
    assert same(ours[1], theirs[1])


def test_a_generator_gives_another_result_at_its_next_call():
    generator = torch.Generator().manual_seed(0)
    a, b = (pipe("showo")([Hole("image")], steps=2, generator=generator)[0] for _ in range(2))
    assert not same(a, b)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"steps": 2}, {"num_inference_steps": 2}),
        ({"guidance": 1.0}, {"guidance_scale": 1.0}),
        ({"seed": 0}, {"generator": torch.Generator()}),
        ({"callback": lambda *_: None}, {"callback_on_step_end": lambda *_: {}}),
    ],
)
def test_two_names_of_one_option_are_refused(ours, theirs):
    names = f"{next(iter(ours))} and {next(iter(theirs))}"
    with pytest.raises(BraidError, match=f"{names} are two names of one option"):
        pipe("showo")([Hole("image")], **ours, **theirs)


def test_the_callback_sees_every_step():
    seen, frames = [], []

    def watch(given, step, time, told):
        assert given is pipe("showo")
        seen.append((step, time))
        frames.append((told["latents"].clone(), told["belief"].clone()))
        return {"latents": told["latents"]}

    out = pipe("showo")(
        [Hole("image")], num_inference_steps=3, callback_on_step_end=watch, trajectory=True
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [time for _, time in seen] == [f.time for f in out.trajectory]
    for (state, belief), frame in zip(frames, out.trajectory, strict=True):
        assert torch.equal(state, frame.state)
        assert torch.equal(belief, frame.belief)


@pytest.mark.parametrize("how", ["answer", "attribute"])
def test_the_callback_stops_in_either_way(how):
    def stop(given, step, time, told):
        given._interrupt = how == "attribute" and step == 1
        return {"interrupt": how == "answer" and step == 1}

    out = pipe("showo")([Hole("image")], num_inference_steps=5, callback_on_step_end=stop)
    assert out.stopped
    assert out.calls == 2
    assert not pipe("showo")([Hole("image")], steps=2, callback_on_step_end=lambda *_: {}).stopped


def test_a_changed_state_is_refused():
    def change(given, step, time, told):
        return {"latents": told["latents"] + 1}

    with pytest.raises(BraidError, match="returned another 'latents'"):
        pipe("showo")([Hole("image")], steps=2, callback_on_step_end=change)


def test_a_bare_prompt_without_these_words_stays_a_mistake():
    with pytest.raises(BraidError, match="give a list of parts"):
        pipe("showo")("row")
