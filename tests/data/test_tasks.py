"""Tasks: what is given, what is learned, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from braid import recipes
from braid.braid import Braid
from braid.data import Documents, Stream, Task, documents_for, open_data, streams_for
from braid.data.dummy import dummy_batch
from braid.data.loader import Loader
from braid.data.sources import Examples
from braid.data.synthetic import CAPTIONS, toy
from braid.data.tasks import kept, parse
from braid.errors import BraidError
from braid.modalities import Image, Label, Modality, Text, Vision, codecs
from braid.modalities.codecs import ImageCodec
from braid.settings import load
from tests.laws import models

FIELDS = {"question": "text", "answer": "text", "instruction": "text", "edited": "image"}


def modalities() -> dict[str, Modality]:
    text = Text(vocabulary=270, length=4)
    text.fit(CAPTIONS)
    image = Image(size=4, levels=2)
    return {"text": text, "image": image, "label": Label(classes=["a", "b"])}


MODALITIES = modalities()


def documents(*tasks: str, drop: float = 0.0, causal: tuple[str, ...] = (), **options) -> Documents:
    """Return the maker of documents of some tasks, each of weight 1."""
    options = {"fields": FIELDS, **options}
    weights = dict.fromkeys(tasks, 1.0)
    return Documents(weights, MODALITIES, {m: m in causal for m in MODALITIES}, drop, **options)


def row(**values: Any) -> dict[str, Any]:
    source = toy(8, 0)
    return source[0] | {
        "text": "row one",
        "label": "b",
        "question": "what is it?",
        "answer": "row two",
        "instruction": "column one",
        "edited": source[1]["image"],
        **values,
    }


def made(task: str, key: int = 0, **options):
    """Return the document of a row under a task."""
    maker = documents(task, **options)
    (choice,) = maker.draw(torch.tensor([key]))
    return maker.make(choice, maker.encode(row()))


def said(span) -> str:
    return MODALITIES["text"].decode(span.tokens)


TASKS = {
    "text_to_image": (["text", "image"], [1]),
    "image_to_text": (["image", "text"], [1]),
    "image": (["image"], [0]),
    "text": (["text"], [0]),
    "image_and_question_to_answer": (["image", "text", "text"], [2]),
    "image_and_instruction_to_edited": (["image", "text", "image"], [2]),
    "text_with_image": (["text", "image"], [0, 1]),
    "question_to_answer": (["text", "text"], [1]),
    "infill_edited": (["text", "image", "label", "image"], [3]),
    "text_and_label_to_image": (["text", "label", "image"], [2]),
}
"""Task -> modalities of its spans, and which spans are learned."""


@pytest.mark.parametrize("task", TASKS)
def test_a_task_gives_some_fields_and_learns_others(task):
    document = made(task)
    kinds, learned = TASKS[task]
    assert [s.modality for s in document] == kinds
    assert [i for i, s in enumerate(document) if bool(s.targets.any())] == learned


@pytest.mark.parametrize("task", [t for t in TASKS if "infill" not in t])
def test_what_is_learned_is_learned_whole(task):
    assert all(bool(s.targets.all()) for s in made(task) if bool(s.targets.any()))


def test_each_field_is_read_from_its_own_column():
    _, question, answer = made("image_and_question_to_answer")
    assert (said(question), said(answer)) == ("what is it?", "row two")
    image, instruction, edited = made("image_and_instruction_to_edited")
    assert said(instruction) == "column one"
    assert not torch.equal(image.tokens, edited.tokens)
    assert torch.equal(edited.tokens, MODALITIES["image"].encode(row()["edited"]))


def test_a_text_closes_with_what_follows_it():
    text = MODALITIES["text"]
    assert int(made("text_to_image")[0].tokens[-1]) == text.closing("image")
    assert int(made("question_to_answer")[0].tokens[-1]) == text.closing(None)
    assert int(made("image_and_instruction_to_edited")[1].tokens[-1]) == text.closing("image")


def test_a_learned_text_stands_on_its_canvas_unless_it_is_causal():
    given, learned = made("question_to_answer")
    assert len(given) == len(MODALITIES["text"].encode("what is it?"))
    assert len(learned) % 4 == 0 and said(learned) == "row two"
    causal = made("question_to_answer", causal=("text",))[1]
    assert len(causal) == len(MODALITIES["text"].encode("row two"))


def test_dropping_leaves_the_condition_out():
    assert [s.modality for s in made("image_and_question_to_answer", drop=1.0)] == ["text"]
    assert len(made("text_with_image", drop=1.0)) == 2  # nothing of it is a condition


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_conditions_are_dropped_as_often_as_asked(share):
    choices = documents("text_to_image", drop=share).draw(torch.arange(2000))
    assert abs(sum(c.dropped for c in choices) / 2000 - share) < 0.04


def test_tasks_come_as_often_as_their_weights_say():
    tasks = {"image": 1.0, "text": 0.0, "text_to_image": 3.0}
    maker = Documents(tasks, MODALITIES, dict.fromkeys(MODALITIES, False), 0.0)
    names = [c.task.name for c in maker.draw(torch.arange(2000))]
    assert names.count("text") == 0
    assert abs(names.count("image") / 2000 - 0.25) < 0.04


def test_a_choice_is_a_function_of_its_key():
    maker = documents("text_to_image", "infill_image", drop=0.3)
    keys = torch.arange(40)
    one, other = maker.draw(keys), maker.draw(keys.flip(0))[::-1]
    assert [(c.task, c.dropped, c.numbers) for c in one] == [
        (c.task, c.dropped, c.numbers) for c in other
    ]


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (1, 5), (8,), (3, 2)])
def test_infilling_gives_some_tokens_and_never_all(shape):
    maker = documents("infill_image")
    masks = [kept(shape, c) for c in maker.draw(torch.arange(400))]
    n = torch.Size(shape).numel()
    assert all(len(m) == n and not bool(m.all()) for m in masks)
    if n > 1:
        assert any(bool(m.any()) for m in masks)


def test_infilling_continues_pictures_over_their_edges():
    masks = [kept((4, 4), c).view(4, 4) for c in documents("infill_image").draw(torch.arange(400))]
    halves = {"upper": (0, 0, 2), "left": (1, 0, 2), "lower": (0, 2, 4), "right": (1, 2, 4)}
    for axis, first, last in halves.values():
        given = torch.zeros(4, 4, dtype=torch.bool)
        given.narrow(axis, first, last - first).fill_(True)
        assert any(torch.equal(m, given) for m in masks)
    scattered = [m for m in masks if len(m.unique(dim=0)) > 1 and len(m.unique(dim=1)[0]) > 1]
    assert len(scattered) > 40


def test_infilling_may_be_given_less_than_all_else():
    assert [s.modality for s in made("infill_text_to_image")] == ["text", "image"]
    given = [made("infill_text_to_image", key)[1].targets.logical_not().sum() for key in range(20)]
    assert 0 < sum(given) < 20 * 4


def test_a_name_says_the_whole_task():
    names = list(MODALITIES) + list(FIELDS)
    assert parse("image_and_question_to_answer", names) == Task(
        "image_and_question_to_answer", ("image", "question"), "answer"
    )
    assert parse("text_with_image", names).joint
    assert parse("infill_text_to_image", names) == Task(
        "infill_text_to_image", ("text",), "image", infill=True
    )


REFUSED = {
    "a misspelt field": (["txet_to_image"], {}, "unknown field 'txet'; did you mean 'text'?"),
    "a misspelt target": (["image_to_anwser"], {}, "unknown field 'anwser'; did you mean 'answer'"),
    "one of several": (["image_and_qestion_to_answer"], {}, "did you mean 'question'?"),
    "no task": ([], {}, "give at least one task a weight above 0"),
    "infilling what is causal": (
        ["infill_text"],
        {"causal": ("text",)},
        "'text' is generated token by token and cannot look ahead; drop the task",
    ),
    "a field of no modality": (
        ["image"],
        {"fields": {"question": "txt"}},
        "data.fields.question: unknown modality 'txt'; did you mean 'text'?",
    ),
    "a field like a modality": (
        ["image"],
        {"fields": {"text": "image"}},
        "data.fields.text: 'text' is a modality of the model",
    ),
    "a conversation like a modality": (
        ["talk_text"],
        {},
        "'text' is read as text; a conversation has a column of its own, as in 'talk_messages'",
    ),
    "a misspelt match": (
        ["image"],
        {"match": ("txt", "image")},
        "data.match: unknown field 'txt'; did you mean 'text'?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name):
    tasks, options, message = REFUSED[name]
    with pytest.raises(BraidError) as error:
        documents(*tasks, **options)
    assert message in str(error.value)


def test_negative_weights_are_refused():
    with pytest.raises(BraidError, match="none a negative one"):
        Documents({"image": 1.0, "text": -1.0}, MODALITIES, {}, 0.0)


def test_what_is_read_only_is_not_learned():
    modalities = MODALITIES | {"vision": Vision(size=4, patch=2)}
    with pytest.raises(BraidError, match="'vision' is read only; it cannot be learned"):
        Documents({"text_to_vision": 1.0}, modalities, dict.fromkeys(modalities, False), 0.0)


def test_a_field_of_matching_is_read_alone_on_its_canvas():
    maker = documents("text_to_image", match=("text", "image"))
    encoded = maker.encode(row())
    span = maker.context("text", encoded)
    assert not bool(span.targets.any())
    assert len(span) % 4 == 0 and said(span) == "row one"


def build(*settings: str) -> tuple[Braid, Any]:
    made = models.experiment("fudoki", *settings)
    return models.build(made), made


def test_a_column_that_is_missing_is_refused_with_those_there_are():
    braid, made = build("data.fields.question=text", "data.tasks={question_to_image: 1}")
    with pytest.raises(BraidError, match="a task needs 'question', the data has image, text, lab"):
        documents_for(made.data, braid, ("image", "text", "label"))


@pytest.mark.parametrize(
    "tasks",
    [
        "{image_and_question_to_answer: 1}",
        "{image_and_question_to_edited: 1, infill_image: 1}",
        "{talk_messages: 1}",
        "{question_with_image: 1, talk_messages: 2}",
    ],
)
def test_an_experiment_of_fields_is_tried_without_data(tasks):
    fields = "{question: text, answer: text, edited: image}"
    braid, made = build(f"data.fields={fields}", f"data.tasks={tasks}")
    batch = dummy_batch(braid, made, 8)
    assert braid.loss(batch, 0).total.isfinite()


@pytest.mark.parametrize("paradigm", ["fudoki", "transfusion", "chameleon"])
def test_answers_and_edits_are_trained_in_a_step(paradigm):
    tasks = "{image_and_question_to_answer: 1, image_and_instruction_to_edited: 1}"
    fields = str(FIELDS)
    made = models.experiment(paradigm, f"data.tasks={tasks}", f"data.fields={fields}")
    braid = models.build(made)
    source = toy(8, 0)
    pictures = [source[i]["image"] for i in range(8)]
    texts = [source[i]["text"] for i in range(8)]
    data = Examples(
        "questions",
        {
            "image": pictures,
            "text": texts,
            "question": ["which line?"] * 8,
            "answer": texts,
            "instruction": texts[::-1],
            "edited": pictures[::-1],
        },
    )
    stream = Stream(data, documents_for(made.data, braid, data.fields))
    batch = Loader([stream], braid, 8, seed=0).at(0, 8)
    assert {n for n, t in batch.target.items() if bool(t.any())} == {"text", "image"}
    losses = braid.loss(batch, 0)
    losses.total.backward()
    assert all(v.isfinite() for v in losses.per_strand.values())


@pytest.mark.parametrize(("paradigm", "stride"), [("fudoki", None), ("chameleon", 4)])
def test_the_recipe_of_scenes_reads_every_field(paradigm, stride, tmp_path, monkeypatch):
    settings = [f"paradigm={paradigm}", *models.SMALL, "train.batch=6"]
    monkeypatch.chdir(tmp_path)  # where no codec of the recipe is
    if stride:  # a codec of one symbol a token, as codecs/scenes-vq
        codec = ImageCodec("vq:8x4", stride=stride, width=8, encoder=1, decoder=1, fine=8)
        codecs.save(codec.eval().requires_grad_(False), tmp_path / "codec")
        settings.append(f"strands.image.modality.codec={tmp_path / 'codec'}")
    made = recipes.resolve("scenes", settings)
    data = open_data(made.data, 0)
    assert {"text", "image", *made.data.fields} <= set(data.train.fields)
    braid = models.build(made)
    loader = Loader(streams_for(made, braid, data), braid, 6, 0, made.data.row)
    batch = loader.at(0, 6)
    assert batch.layout.document.shape[1] == made.data.row


DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", DOCS, re.S))
def test_the_data_in_the_docs_can_be_configured(text):
    made = load(models.experiment("fudoki").model_dump() | {"data": yaml.safe_load(text)}).data
    for part in made.mix.values() or [made]:
        known = {"text": "text", "image": "image", "audio": "audio", **part.fields}
        assert all(parse(t, list(known)) for t in part.tasks if not t.startswith("talk_"))
        assert set(known.values()) == {"text", "image", "audio"}
        if part.columns is not None and part.tasks != type(part)().tasks:
            needed = {f for t in part.tasks for f in (*parse(t, list(known)).given,)}
            assert needed <= set(part.columns)


def test_the_tasks_in_the_table_of_the_docs_are_tasks():
    names = re.findall(r"^\| [^|]+ \| `(\w+)` \|", DOCS, re.M)
    fields = ["text", "image", "audio", "question", "answer", "instruction", "edited"]
    assert len(names) >= 9
    assert all(parse(name, fields) for name in names)


def test_an_answer_is_chosen_by_its_likelihood_as_in_the_docs():
    space: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", DOCS, re.S)[1], space)  # noqa: S102
    pipe, shown = models.pipeline("chameleon"), toy(8, 0)[0]["image"]
    said, nats, kind = space["answer"](pipe, shown, "row two")
    scores = [pipe.score([shown, "row two", a])[-1] for a in ("yes", "no")]
    assert nats == pytest.approx([float(s.value) for s in scores])
    assert (said, kind) == (("yes", "no")[nats.index(min(nats))], "exact")
