"""Conversations: what the assistant says is learned, in the light of all that came before."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from braid.data import Documents, Stream, documents_for, open_source, streams_for, texts_of
from braid.data.conversation import flatten, turns
from braid.data.loader import Loader
from braid.data.open import open_data
from braid.data.sources import Examples
from braid.data.synthetic import CAPTIONS, toy
from braid.errors import BraidError
from braid.layout import room
from braid.modalities import Image, Modality, Text, Vision
from braid.parts import Hole
from braid.pipeline import Pipeline
from braid.settings import load
from tests.laws import models


def modalities() -> dict[str, Modality]:
    text = Text(vocabulary=270, length=4)
    text.fit(CAPTIONS)
    return {"text": text, "image": Image(size=4, levels=2), "vision": Vision(size=4, patch=2)}


MODALITIES = modalities()
PICTURES = [toy(8, 0)[i]["image"] for i in range(8)]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(number: int) -> dict[str, Any]:
    return {"type": "image", "image": PICTURES[number]}


TALK = [
    {"role": "system", "content": "row one"},
    {"role": "user", "content": [image(0), text("row two")]},
    {"role": "assistant", "content": "column one"},
    {"role": "user", "content": "column two"},
    {"role": "assistant", "content": [text("row three"), image(1)]},
]
KINDS = ["text", "image", "text", "text", "text", "text", "image"]
SAID = [3, 5, 6]
"""Which parts are the assistant's."""


def documents(drop: float = 0.0) -> Documents:
    causal = dict.fromkeys(MODALITIES, False)
    return Documents({"talk_messages": 1.0}, MODALITIES, causal, drop)


def made(count: int, drop: float = 0.0):
    maker = documents(drop)
    encoded = maker.encode({"messages": TALK})
    return [maker.make(c, encoded) for c in maker.draw(torch.arange(count))]


def test_a_conversation_is_its_parts_in_order():
    assert [kind for _, kind, _ in flatten(TALK)] == KINDS
    assert [i for i, (role, _, _) in enumerate(flatten(TALK)) if role == "assistant"] == SAID
    assert flatten(TALK)[2] == ("user", "text", "row two")


def test_a_text_may_stand_alone_or_be_a_part():
    as_text, as_part = ({"role": "user", "content": c} for c in ("row one", [text("row one")]))
    assert flatten([as_text]) == flatten([as_part])


def test_a_part_may_have_the_empty_fields_of_a_table():
    part = {"type": "text", "text": "row one", "image": None}
    assert flatten([{"role": "user", "content": [part]}]) == [("user", "text", "row one")]


def test_what_the_assistant_says_is_learned_and_nothing_else():
    encoded = turns(TALK, MODALITIES)
    assert [i for i, turn in enumerate(encoded) if turn.learned] == SAID
    assert [turn.modality for turn in encoded] == KINDS


def test_what_is_read_only_is_not_learned():
    seen = {"role": "assistant", "content": [{"type": "vision", "vision": PICTURES[0]}, text("x")]}
    assert [turn.learned for turn in turns([seen], MODALITIES)] == [False, True]


def test_every_part_of_the_assistant_ends_a_document_sometimes():
    ends = [len(d) - 1 for d in made(60)]
    assert set(ends) == set(SAID)
    assert all(ends.count(n) > 10 for n in SAID)


def test_only_the_last_part_is_learned_and_all_before_it_are_given():
    encoded = turns(TALK, MODALITIES)
    for document in made(20):
        *given, last = document
        assert bool(last.targets.all()) and not any(bool(s.targets.any()) for s in given)
        assert [s.modality for s in document] == KINDS[: len(document)]
        for span, turn in zip(given, encoded, strict=False):
            assert torch.equal(span.tokens, turn.given.values)


def test_a_text_says_what_follows_while_it_is_given_and_ends_while_it_is_learned():
    closing = MODALITIES["text"].closing
    for document in made(20):
        if len(document) == 7:  # "row three", then a picture
            assert int(document[5].tokens[-1]) == closing("image")
        if len(document) == 6:
            assert closing("image") not in document[5].tokens
            assert int(document[5].tokens[-1]) == closing(None)


def test_a_picture_of_a_conversation_is_encoded_once():
    read = Image(size=4, levels=2)
    colour = np.zeros((4, 4, 3), np.uint8)
    talk = [{"role": "assistant", "content": [{"type": "image", "image": colour}, text("row one")]}]
    turns(talk, {**MODALITIES, "image": read})
    assert read.converted == {"RGB converted to grey": 1}


def test_a_long_conversation_has_few_ends_that_may_be_the_longest():
    maker = documents()
    encoded = maker.encode({"messages": TALK * 50})
    ends = [len(document) for document in maker.longest(encoded)]
    assert ends == [350, 349]  # of a picture, and of a text on as long a canvas as any


def test_dropping_leaves_what_came_before_out():
    assert {len(d) for d in made(10, drop=1.0)} == {1}


def refused(message: Any) -> Any:
    return [TALK[0], message]


REFUSED = {
    "no list": ("row one", "a conversation is a list of"),
    "empty": ([], "a conversation is a list of"),
    "a mapping": ({"role": "user", "content": "x"}, "a conversation is a list of"),
    "no message": (refused("row one"), "message 1 of a conversation: expected a role out of"),
    "no role": (refused({"content": "x"}), "message 1 of a conversation: expected a role"),
    "another role": (refused({"role": "bot", "content": "x"}), "message 1 .*role out of system, "),
    "no content": (refused({"role": "user"}), "message 1 of a conversation is empty"),
    "empty content": (refused({"role": "user", "content": []}), "message 1 .* is empty"),
    "a part without a type": (
        refused({"role": "user", "content": [{"text": "x"}]}),
        "message 1 of a conversation: expected a part such as",
    ),
    "a part without a value": (
        refused({"role": "user", "content": [{"type": "image", "text": "x"}]}),
        "message 1 of a conversation: expected a part such as",
    ),
    "a type that is no modality": (
        refused({"role": "user", "content": [{"type": "audio", "audio": "x"}]}),
        "a conversation holds 'audio'; the model has text, image, vision",
    ),
    "a silent assistant": (TALK[:2], "the assistant says nothing"),
    "a text that is none": (
        refused({"role": "assistant", "content": [{"type": "text", "text": 5}]}),
        "text: expected a string, got int 5",
    ),
    "an empty text": (refused({"role": "assistant", "content": " "}), "the text is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_conversation_is_refused_with_the_number_of_the_message(name):
    talk, message = REFUSED[name]
    with pytest.raises(BraidError, match=message):
        turns(talk, MODALITIES)


def conversations(count: int = 8) -> Examples:
    """Return conversations: a picture, its name, a name, its picture."""
    talks = []
    for i in range(count):
        other = (i + 3) % 8
        rows = toy(8, 0)
        talks.append(
            [
                {"role": "user", "content": [image(i)]},
                {"role": "assistant", "content": rows[i]["text"]},
                {"role": "user", "content": rows[other]["text"]},
                {"role": "assistant", "content": [image(other)]},
            ]
        )
    return Examples("talks", {"messages": talks})


def experiment(paradigm: str, *settings: str):
    return models.experiment(paradigm, "data.tasks={talk_messages: 1}", *settings)


@pytest.mark.parametrize("paradigm", ["fudoki", "chameleon", "transfusion", "showo", "mmada"])
def test_a_conversation_is_trained_and_its_next_turn_generated(paradigm):
    made = experiment(paradigm)
    braid = models.build(made).train()
    source = conversations()
    stream = Stream(source, documents_for(made.data, braid, source.fields))
    batch = Loader([stream], braid, 8, seed=0).at(0, 8)
    optimizer = torch.optim.Adam(braid.parameters(), lr=3e-3)
    totals = []
    for _ in range(4):
        losses = braid.loss(batch, 0)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(float(losses.total.detach()))
    assert totals[-1] < totals[0]
    pipe = Pipeline(braid, made)
    talk = [PICTURES[0]]
    for hole in (Hole("text"), Hole("image")):
        talk = list(pipe([*talk, hole], steps=2))
        if hole.modality == "text":
            talk = [talk[0], talk[1].strip() or "row one", "row two"]
    assert np.asarray(talk[-1]).shape == (4, 4)


def test_other_tasks_may_be_mixed_with_conversations():
    made = models.experiment("fudoki", "data.tasks={talk_messages: 1, image_to_text: 1}")
    braid = models.build(made)
    columns = toy(8, 0)
    source = Examples(
        "both",
        {
            "messages": [conversations()[i]["messages"] for i in range(8)],
            "image": PICTURES,
            "text": [columns[i]["text"] for i in range(8)],
        },
    )
    stream = Stream(source, documents_for(made.data, braid, source.fields))
    loader = Loader([stream], braid, 8, seed=0)
    keys = torch.arange(8)
    choices = stream.documents.draw(keys)
    assert {c.task.name for c in choices} == {"talk_messages", "image_to_text"}
    assert braid.loss(loader.at(0, 8), 0).total.isfinite()


def write(path, talks) -> None:
    path.write_text("\n".join(json.dumps({"messages": t}) for t in talks))


WORDS = [
    [{"role": "user", "content": f"zebra {n}"}, {"role": "assistant", "content": "quagga"}]
    for n in range(6)
]


def test_conversations_are_read_from_a_file_and_teach_the_vocabulary(tmp_path):
    write(tmp_path / "talks.jsonl", WORDS)
    settings = [
        "data.source=files",
        f"data.path={tmp_path / 'talks.jsonl'}",
        "data.columns={messages: messages}",
    ]
    made = experiment("chameleon", *settings)
    assert load(made.model_dump()) == made
    data = open_data(made.data, 0)
    texts = list(texts_of(made, data, MODALITIES["text"]))
    assert texts.count("quagga") == len(data.train) and len(texts) == 2 * len(data.train)
    assert list(texts_of(made, data, MODALITIES["vision"])) == []
    known = Text(vocabulary=280, length=4)
    known.fit(texts)
    assert len(known.encode("quagga")) < 7
    braid = models.build(made)
    loader = Loader(streams_for(made, braid, data), braid, 4, 0)
    assert "image" not in loader.at(0, 4).tokens


def test_a_malformed_conversation_in_a_file_is_a_bad_row(tmp_path):
    write(tmp_path / "talks.jsonl", [*WORDS, [{"role": "user", "content": "alone"}], "text"])
    source = open_source(tmp_path / "talks.jsonl", {"messages": "messages"})
    made = experiment("chameleon")
    braid = models.build(made)
    stream = Stream(source, documents_for(made.data, braid, source.fields))
    loader = Loader([stream], braid, 8, seed=0, bad_limit=0.5)
    loader.at(0, 8)
    reasons = loader.rows[0].skipped
    assert loader.skipped == 2
    assert any("assistant says nothing" in reason for reason in reasons)
    assert any("a conversation is a list" in reason for reason in reasons)


@pytest.mark.parametrize("paradigm", ["chameleon", "fudoki", "transfusion"])
def test_no_document_that_is_drawn_is_longer_than_the_longest(paradigm):
    tasks = "{talk_messages: 1, image_to_text: 1, text_with_image: 1, text: 0}"
    made = models.experiment(paradigm, f"data.tasks={tasks}")
    braid = models.build(made)
    columns = {f: [toy(8, 0)[i][f] for i in range(8)] for f in ("image", "text")}
    talks = [conversations()[i]["messages"] for i in range(8)]
    source = Examples("both", {"messages": talks, **columns})
    documents = documents_for(made.data, braid, source.fields)
    twins = braid.rule.cacheable
    for i in range(8):
        encoded = documents.encode(source[i])
        longest = {room(d, braid.placements, twins) for d in documents.longest(encoded)}
        drawn = {
            room(documents.make(c, encoded), braid.placements, twins)
            for c in documents.draw(torch.arange(200))
        }
        assert max(drawn) == max(longest)
