"""Law: what a document is packed with changes nothing about it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError
from braid.layout import Batch, Document
from tests.laws import models

ROWS = [[0, 1], [2], [3, 4, 5]]
"""Which document stands in which row; the shorter rows are padded."""
SAMPLES = [[7, 3], [0], [12, 1, 5]]
EXACT = {"rtol": 0, "atol": 1e-10}


def documents(braid: Braid) -> list[Document]:
    """Return six documents: pairs, one span alone, and everything at once."""
    drawn = [n for n, s in braid.strands.items() if s.process is not None]
    made = [models.pair(braid, drawn[i % len(drawn)], i, n=2 + 2 * (i % 2)) for i in range(4)]
    return [*made, [models.span(braid, drawn[0], 4, seed=9)], models.all_learned(braid, 3)]


def alone_and_packed(braid: Braid, room: int = 0) -> tuple[list, object]:
    """Return the batches of single documents, and of all of them; `room` is extra padding."""
    made = documents(braid)
    single = [
        models.packed(braid, [[made[d]]], samples=[[sample]])
        for row, samples in zip(ROWS, SAMPLES, strict=True)
        for d, sample in zip(row, samples, strict=True)
    ]
    rows = [[made[d] for d in row] for row in ROWS]
    length = max(sum(single[d].size for d in row) for row in ROWS) + room
    return single, models.packed(braid, rows, length=length, samples=SAMPLES)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate values by modality."""
    names = sorted({n for p in parts for n in p})
    return {n: torch.cat([p[n] for p in parts if n in p]) for n in names}


@pytest.mark.parametrize(("paradigm", "rule"), models.RULED)
def test_packing_changes_no_prediction(paradigm, rule):
    braid = models.stirred(models.experiment(paradigm, f"rule={rule}"))
    single, together = alone_and_packed(braid, room=3)
    expected = joined([models.trained(braid, b)[0] for b in single])
    assert set(expected) == set(models.drawn(paradigm))
    torch.testing.assert_close(models.trained(braid, together)[0], expected, **EXACT)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_packing_changes_no_noise(paradigm):
    braid = models.stirred(paradigm)
    single, together = alone_and_packed(braid)
    alone = [braid.corrupt(b, 5) for b in single]
    for field in ("noisy", "time"):
        expected = joined([{n: getattr(x, field) for n, x in noised.items()} for noised in alone])
        packed = {n: getattr(x, field) for n, x in braid.corrupt(together, 5).items()}
        torch.testing.assert_close(packed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_packing_changes_no_loss(paradigm):
    braid = models.stirred(paradigm)
    single, together = alone_and_packed(braid, room=2)
    counts = {n: t.sum() for n, t in together.target.items()}
    parts = [braid.loss(b, 0, counts).total for b in single]
    expected = torch.stack(parts).sum()
    torch.testing.assert_close(braid.loss(together, 0).total, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_packed_losses_in_float64_are_the_same_float32_numbers(paradigm):
    braid = models.stirred(paradigm)
    single, together = alone_and_packed(braid, room=2)
    expected = joined([losses(braid, b) for b in single])
    for name, loss in losses(braid, together).items():
        assert torch.equal(loss.float(), expected[name].float())
        assert torch.equal(loss.double().mean().float(), expected[name].double().mean().float())


def losses(braid: Braid, batch: Batch) -> dict[str, Tensor]:
    """Return the loss of every token of every strand with a process."""
    predictions, noised = models.trained(braid, batch)
    found = {}
    for name, prediction in predictions.items():
        process = braid.strands[name].process
        assert process is not None
        found[name] = process.loss(prediction, noised[name])
    return found


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_packing_changes_no_dropout(paradigm):
    braid = models.stirred(models.experiment(paradigm, "transformer.dropout=0.3")).train()
    single, together = alone_and_packed(braid)
    counts = {n: t.sum() for n, t in together.target.items()}
    total = braid.loss(together, 0).total
    expected = torch.stack([braid.loss(b, 0, counts).total for b in single]).sum()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert total != braid.eval().loss(together, 0).total


def test_another_sample_number_draws_other_noise():
    braid = models.stirred("mmada")
    document = models.pair(braid, "image")
    one, two = (models.packed(braid, [[document]], samples=[[i]]) for i in (1, 2))
    assert one.token_key["image"].tolist() != two.token_key["image"].tolist()
    assert braid.corrupt(one, 0)["image"].time[0] != braid.corrupt(two, 0)["image"].time[0]


def test_the_tokens_of_a_span_share_their_time():
    braid = models.stirred("fudoki")
    batch = models.packed(braid, [[models.pair(braid, "image", i)] for i in range(3)])
    time = braid.corrupt(batch, 0)["image"].time.view(3, -1)
    assert (time == time[:, :1]).all()
    assert len(time[:, 0].unique()) == 3


def test_a_later_span_reads_a_picture_that_is_not_too_noisy():
    floor = "strands.image.process.noise_limit=0.5"
    braid = models.stirred(models.experiment("dfm_fm", floor))
    batch = models.packed(braid, [[models.all_learned(braid, i)] for i in range(8)])
    noised = braid.corrupt(batch, 0)
    assert batch.followed["image"].all()
    assert noised["image"].time.min() >= 0.5
    assert noised["text"].time[batch.target["text"]].min() < 0.5


def test_a_row_that_does_not_fit_is_refused():
    braid = models.build("mmada")
    with pytest.raises(BraidError, match="row 0 holds 8 tokens but has room for 7"):
        models.packed(braid, [[models.pair(braid, "image")]], length=7)
