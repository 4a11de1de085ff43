"""Matching: what belongs together is embedded alike, and equal captions are no negatives."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from braid.braid import Braid
from braid.config import Experiment
from braid.data import open_data, streams_for
from braid.data.loader import Loader
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.evaluation.metrics import retrieval_recall
from braid.pipeline import Pipeline
from braid.training import Trainer
from tests.laws import models

MATCH = ("data.match=[text, image]", "train.batch=8", "train.warmup=1")


def experiment(paradigm: str = "fudoki", *settings: str) -> Experiment:
    return models.experiment(paradigm, *MATCH, *settings)


def loader(made: Experiment, braid: Braid) -> Loader:
    data = open_data(made.data, made.seed)
    return Loader(streams_for(made, braid, data), braid, made.train.batch, made.seed)


@pytest.fixture(scope="module")
def fudoki() -> tuple[Experiment, Braid]:
    made = experiment()
    return made, models.stirred(made, torch.float32)


def test_the_two_sides_of_a_pair_are_of_one_example(fudoki):
    made, braid = fudoki
    a, b, _ = loader(made, braid).pairs(0, 16)
    assert (list(a.tokens), list(b.tokens)) == (["text"], ["image"])
    pictures = b.tokens["image"].view(16, 4, -1)
    known = {toy(8, 0)[i]["text"]: toy(8, 0)[i]["image"] for i in range(8)}
    image, text = (braid.strand(n).modality for n in ("image", "text"))
    words = a.layout.document.shape[1]
    for row in range(16):
        mine = (a.layout.slots["text"] // words) == row
        said = text.decode(a.tokens["text"][mine])
        assert torch.equal(image.encode(known[said]), pictures[row])


def test_pairs_are_a_function_of_the_position(fudoki):
    made, braid = fudoki
    first, other = loader(made, braid), loader(made, braid)
    first.pairs(100, 8)
    (a, b, same), (c, d, alike) = first.pairs(8, 8), other.pairs(8, 8)
    assert torch.equal(a.tokens["text"], c.tokens["text"])
    assert torch.equal(b.tokens["image"], d.tokens["image"])
    assert torch.equal(same, alike)


def test_nothing_is_matched_unless_it_is_asked_for():
    made = models.experiment("fudoki")
    assert loader(made, models.build(made)).pairs(0, 4) is None


def test_pairs_of_equal_captions_or_pictures_are_the_same(fudoki):
    made, braid = fudoki
    a, b, same = loader(made, braid).pairs(0, 24)
    pictures = b.tokens["image"].view(24, -1)
    equal = (pictures[:, None] == pictures).all(-1)
    assert torch.equal(same, equal)  # the toy has eight captions, each with its picture
    assert bool(same.diagonal().all()) and bool((same.sum(1) > 1).any())


def by_hand(x: torch.Tensor, y: torch.Tensor, same: torch.Tensor, temperature: float) -> float:
    x, y = functional.normalize(x, dim=1), functional.normalize(y, dim=1)
    total = 0.0
    for left, right, mask in ((x, y, same), (y, x, same.T)):
        for i in range(len(left)):
            others = [j for j in range(len(left)) if j == i or not mask[i, j]]
            cosine = torch.tensor([float(left[i] @ right[j]) for j in others]) / temperature
            total += float(cosine.logsumexp(0) - cosine[others.index(i)])
    return total / (2 * len(x))


def test_the_loss_is_that_of_the_true_pair_among_those_that_differ(fudoki):
    made, braid = fudoki
    a, b, same = loader(made, braid).pairs(0, 12)
    with torch.no_grad():
        loss = float(braid.match_loss(a, b, same, temperature=0.2))
        x, y = braid.embed(a), braid.embed(b)
    assert loss == pytest.approx(by_hand(x, y, same, 0.2), rel=1e-4)
    everything = torch.ones_like(same)
    assert float(braid.match_loss(a, b, everything).detach()) == pytest.approx(0, abs=1e-6)


def test_equal_captions_do_not_push_each_other_away(fudoki):
    made, braid = fudoki
    a, b, same = loader(made, braid).pairs(0, 24)
    told, untold = braid.match_loss(a, b, same), braid.match_loss(a, b, torch.zeros_like(same))
    assert float(told) < float(untold)


@pytest.mark.parametrize("paradigm", ["fudoki", "chameleon", "transfusion"])
def test_a_row_is_embedded_as_the_pipeline_embeds_it(paradigm):
    made = experiment(paradigm)
    braid = models.stirred(made, torch.float32)
    pipe, source = Pipeline(braid, made), loader(made, braid)
    _, b, _ = source.pairs(0, 4)
    rows = source.examples(torch.arange(4))
    a, _, _ = source.pairs(0, 4)
    raw = [source.streams[0].source[i] for i in rows]
    with torch.no_grad():
        for side, field in ((a, "text"), (b, "image")):
            expected = torch.stack([pipe.embed([r[field]]) for r in raw])
            torch.testing.assert_close(braid.embed(side), expected, atol=1e-4, rtol=1e-4)


def recall(pipe: Pipeline) -> float:
    rows = {toy(8, 0)[i]["text"]: toy(8, 0)[i]["image"] for i in range(8)}
    words = torch.stack([pipe.embed([text]) for text in rows])
    pictures = torch.stack([pipe.embed([image]) for image in rows.values()])
    return sum(e.value for e in retrieval_recall(words, pictures)) / 2


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_training_matches_and_finds(tmp_path):
    settings = ("train.steps=40", "train.match_every=1", "train.match_pairs=24")
    made = experiment("fudoki", *settings, "train.match_weight=1", "train.ema=0", "data.drop=0")
    trainer = Trainer(made, tmp_path / "run", Console(file=io.StringIO()), "cpu")
    a, b, same = trainer.loader.pairs(0, 32)
    before = float(trainer.braid.match_loss(a, b, same).detach())
    braid = trainer.run()
    with torch.no_grad():
        after = float(braid.match_loss(a, b, same))
    assert after < 0.7 * before
    assert recall(Pipeline(braid, made)) >= 0.5  # chance is 1 in 8
    key = "train/match/loss"
    logged = [line[key] for line in lines(tmp_path / "run") if key in line]
    assert logged and logged[-1] < before


def test_matching_in_part_of_the_steps_is_reported(tmp_path):
    made = experiment("chameleon", "train.steps=4", "train.match_every=3", "train.match_pairs=4")
    trainer = Trainer(made, tmp_path / "run", Console(file=io.StringIO()), "cpu")
    trainer.run()
    assert trainer.state.matched is not None


def test_a_misspelt_field_is_refused():
    made = models.experiment("fudoki", "data.match=[txt, image]")
    braid = models.build(made)
    with pytest.raises(BraidError, match="data.match: unknown field 'txt'; did you mean 'text'"):
        loader(made, braid)


def test_a_field_that_the_data_lacks_is_refused():
    made = models.experiment("fudoki", "data.match=[title, image]", "data.fields={title: text}")
    with pytest.raises(BraidError, match="a task needs 'title', the data has image, text, label"):
        loader(made, models.build(made))
