"""Mixtures: several sources with tasks of their own, drawn by weight as a function of the step."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
import torch
from rich.console import Console

from braid.braid import Braid
from braid.config import Experiment
from braid.data import Data, Joined, Stream, documents_for, open_data, streams_for, texts_of
from braid.data.dummy import dummy_batch
from braid.data.loader import Loader
from braid.data.sources import Examples
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.modalities import Text
from braid.training import Trainer
from tests.laws import models

MIX = """{
  pairs: {source: toy, tasks: {text_to_image: 1}, weight: 3},
  reading: {source: toy, tasks: {image_to_text: 1}, weight: 1},
  nothing: {source: toy, tasks: {image: 1}, weight: 0}}"""


def mixed(mix: str = MIX, *settings: str) -> tuple[Experiment, Braid]:
    made = models.experiment("fudoki", f"data.mix={mix}", *settings)
    return made, models.build(made)


@pytest.fixture(scope="module")
def loader() -> Loader:
    made, braid = mixed()
    return Loader(streams_for(made, braid, open_data(made.data, 0)), braid, 8, seed=0)


def test_shares_follow_the_weights(loader):
    count = Counter(loader.chosen(torch.arange(4000)))
    assert abs(count[0] / 4000 - 0.75) < 0.03
    assert count[2] == 0


def test_a_part_of_a_batch_is_the_same_wherever_the_batch_begins(loader):
    whole = loader.at(16, 8)
    parts = [loader.at(16, 3), loader.at(19, 5)]
    for name, key in whole.token_key.items():
        assert torch.equal(key, torch.cat([p.token_key[name] for p in parts if name in p.tokens]))
        tokens = torch.cat([p.tokens[name] for p in parts if name in p.tokens])
        assert torch.equal(tokens, whole.tokens[name])


def test_a_batch_is_a_function_of_the_step():
    made, braid = mixed()
    streams = streams_for(made, braid, open_data(made.data, 0))
    first, other = (Loader(streams, braid, 8, seed=0) for _ in range(2))
    for step in (40, 3):  # one has come this way before, and in another epoch
        first.at(8 * step, 8)
    a, b = first.at(16, 8), other.at(16, 8)
    assert all(torch.equal(a.tokens[n], b.tokens[n]) for n in a.tokens)
    assert torch.equal(a.layout.document, b.layout.document)
    c = Loader(streams, braid, 8, seed=1).at(16, 8)
    assert any(not torch.equal(a.tokens[n], c.tokens.get(n, a.tokens[n][:0])) for n in a.tokens)


def test_each_stream_has_only_its_own_tasks(loader):
    for position, stream in enumerate(loader.chosen(torch.arange(60))):
        batch = loader.at(position, 1)
        learned = {n for n, t in batch.target.items() if bool(t.any())}
        assert learned == ({"image"} if stream == 0 else {"text"})


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], []])
def test_weights_that_choose_nothing_are_refused(weights):
    made, braid = mixed()
    source = toy(8, 0)
    documents = documents_for(made.data, braid, source.fields)
    with pytest.raises(BraidError, match="data.mix weights .* give one above 0, and none below"):
        Loader([Stream(source, documents, w) for w in weights], braid, 8, seed=0)


def test_a_column_that_one_part_lacks_is_refused_at_construction():
    made, braid = mixed()
    data = open_data(made.data, 0)
    half = Examples("half", {"image": [toy(8, 0)[0]["image"]] * 4})
    parts = {**data.parts, "reading": Data(half, half)}
    with pytest.raises(BraidError, match="a task needs 'text', the data has image; map a column"):
        streams_for(made, braid, Data(data.train, data.held_out, parts))


def test_a_part_may_lack_what_its_tasks_do_not_need():
    mix = "{pairs: {source: toy}, pictures: {source: toy, tasks: {image: 1}}}"
    made, braid = mixed(mix)
    data = open_data(made.data, 0)
    half = Examples("half", {"image": [toy(8, 0)[0]["image"]] * 4})
    parts = {**data.parts, "pictures": Data(half, half)}
    loader = Loader(streams_for(made, braid, Data(half, half, parts)), braid, 16, seed=0)
    assert braid.loss(loader.at(0, 16), 0).total.isfinite()
    assert loader.skipped == 0


def test_each_part_has_fields_of_its_own():
    mix = """{
      pairs: {source: toy, tasks: {text_to_image: 1}},
      asked: {source: toy, fields: {question: text}, tasks: {image_and_question_to_text: 1}}}"""
    made, braid = mixed(mix)
    data = open_data(made.data, 0)
    rows = [toy(8, 0)[i] for i in range(8)]
    columns: dict[str, list[Any]] = {f: [r[f] for r in rows] for f in ("image", "text")}
    asked = Examples("asked", columns | {"question": [f"which {i}?" for i in range(8)]})
    parts = {**data.parts, "asked": Data(asked, asked)}
    whole = Data(data.train, data.held_out, parts)
    streams = streams_for(made, braid, whole)
    assert [set(s.documents.modality_of) for s in streams] == [
        {"text", "image"},
        {"text", "image", "question"},
    ]
    texts = list(texts_of(made, whole, braid.strand("text").modality))
    assert texts.count("which 3?") == 1
    assert len(texts) == len(data.parts["pairs"].train) + 8 + 8


def test_all_text_fields_teach_the_vocabulary():
    made = models.experiment("fudoki", "data.fields={question: text, other: image, absent: text}")
    source = Examples(
        "rows",
        {
            "image": [toy(1, 0)[0]["image"]] * 3,
            "other": [toy(1, 0)[0]["image"]] * 3,
            "text": ["one", None, "two"],
            "question": ["why?", "how?", None],
        },
    )
    text = Text()
    assert list(texts_of(made, Data(source, source), text)) == ["one", "two", "why?", "how?"]


def test_joined_sources_count_on():
    a, b = Examples("a", {"x": [1, 2], "y": [3, 4]}), Examples("b", {"x": [5], "z": [6]})
    joined = Joined({"one": a, "two": b})
    assert (len(joined), joined.fields, joined.name) == (3, ("x", "y", "z"), "one+two")
    assert [joined[i] for i in range(3)] == [
        {"x": 1, "y": 3, "z": None},
        {"x": 2, "y": 4, "z": None},
        {"x": 5, "y": None, "z": 6},
    ]
    assert joined.describe(2) == "b row 0"
    with pytest.raises(IndexError, match=r"row 3 of one\+two is out of range 0..2"):
        joined[3]


def test_held_out_data_of_all_parts_is_joined():
    made, _ = mixed()
    data = open_data(made.data, 0)
    assert list(data.parts) == ["pairs", "reading", "nothing"]
    assert len(data.held_out) == sum(len(d.held_out) for d in data.parts.values())
    first = data.parts["reading"].held_out[5]
    assert data.held_out[64 + 5]["text"] == first["text"]


def test_a_mixture_is_tried_without_data():
    made, braid = mixed()
    assert braid.loss(dummy_batch(braid, made, 4), 0).total.isfinite()


def test_a_mixture_in_packed_rows_is_trained_and_goes_on(tmp_path):
    settings = ("train.steps=4", "train.batch=8", "train.warmup=1", "train.save_every=2")
    made, _ = mixed(MIX, "data.row=24", "train.preview_every=2", *settings)
    out = tmp_path / "run"
    trainer = Trainer(made, out, Console(file=io.StringIO()), "cpu")
    trainer.run()
    assert trainer.state.step == 4
    assert list((out / "samples").glob("step-*.png"))
    again = Trainer(made, out, Console(file=io.StringIO()), "cpu")
    assert again.state.step == 4


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("{a: {source: toy, tsks: {image: 1}}}", "unknown setting 'data.mix.a.tsks'"),
        ("{a: {source: toy, weight: -1}}", "data.mix.a.weight"),
    ],
)
def test_a_mistake_in_a_part_is_named(mix, message):
    with pytest.raises(BraidError, match=message):
        models.experiment("fudoki", f"data.mix={mix}")


def test_an_unknown_source_of_a_part_is_named():
    made, _ = mixed("{a: {source: toyy}}")
    with pytest.raises(BraidError, match="unknown data source 'toyy'; did you mean 'toy'"):
        open_data(made.data, 0)
