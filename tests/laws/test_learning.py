"""Laws of learning: gradients reach what has targets, and a few documents are learned by heart."""

from __future__ import annotations

import pytest
import torch

from braid.braid import Braid
from braid.layout import Batch
from tests.laws import models


def batch_of(braid: Braid, count: int = 8) -> Batch:
    """Return pairs in which each generated modality is learned, and spans that stand alone."""
    drawn = [n for n, s in braid.strands.items() if s.process is not None]
    pairs = [models.pair(braid, n, seed) for n in drawn for seed in range(count)]
    alone = [[models.span(braid, n, 4, seed=count)] for n in drawn]
    return models.packed(braid, [[d] for d in pairs + alone])


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_gradients_reach_every_parameter(paradigm):
    braid = models.stirred(paradigm)
    braid.loss(batch_of(braid), 0).total.backward()
    unreached = {n for n, p in braid.named_parameters() if p.grad is None or not p.grad.any()}
    assert unreached == set()


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_gradients_reach_nothing_of_an_absent_strand(paradigm, name):
    braid = models.stirred(paradigm)
    alone = models.packed(braid, [[[models.span(braid, name, 4, seed=i)]] for i in range(8)])
    braid.loss(alone, 0).total.backward()
    reached = {
        n.split(".")[1] for n, p in braid.strands.named_parameters("strands") if p.grad is not None
    }
    assert reached == {name}


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_strand_that_is_only_read_gets_no_gradient_at_its_head(paradigm, name):
    braid = models.stirred(paradigm)
    pairs = [[models.pair(braid, name, seed)] for seed in range(8)]
    braid.loss(models.packed(braid, pairs), 0).total.backward()
    for other, strand in braid.strands.items():
        if strand.head is not None:
            grads = [p.grad for p in strand.head.parameters()]
            assert any(g is not None and g.any() for g in grads) == (other == name)


def test_a_frozen_strand_gets_no_gradient():
    braid = models.stirred("showo")
    braid.strand("text").requires_grad_(False)
    braid.loss(batch_of(braid), 0).total.backward()
    assert all(p.grad is None for p in braid.strand("text").parameters())
    assert all(p.grad is not None for p in braid.strand("image").parameters())


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_the_loss_is_a_sum_over_targets_divided_by_their_number(paradigm):
    braid = models.stirred(paradigm)
    batch = batch_of(braid)
    losses = braid.loss(batch, 0)
    predictions, noised = models.trained(braid, batch)
    for name in models.drawn(paradigm):
        target = batch.target[name]
        per_token = braid.strand(name).process.loss(predictions[name], noised[name])[target]
        assert losses.counts[name] == target.sum()
        torch.testing.assert_close(losses.per_strand[name], per_token.sum() / target.sum())
    weights = {n: braid.strand(n).weight for n in losses.per_strand}
    total = sum(weights[n] * value for n, value in losses.per_strand.items())
    torch.testing.assert_close(losses.total, total)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_the_counts_of_others_divide_the_loss(paradigm):
    braid = models.stirred(paradigm)
    batch = batch_of(braid)
    own = braid.loss(batch, 0)
    doubled = braid.loss(batch, 0, {n: 2 * c for n, c in own.counts.items()})
    torch.testing.assert_close(doubled.total, own.total / 2)


def test_a_strand_counts_by_its_weight():
    plain, heavy = (
        models.stirred(models.experiment("showo", f"strands.image.weight={w}")) for w in (0, 3)
    )
    batch = batch_of(plain)
    a, b = plain.loss(batch, 0), heavy.loss(batch, 0)
    torch.testing.assert_close(b.total - a.total, 3 * b.per_strand["image"].to(b.total.dtype))


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_batch_without_targets_costs_nothing(paradigm):
    braid = models.stirred(paradigm)
    name = models.drawn(paradigm)[0]
    batch = models.packed(braid, [[models.pair(braid, name, learned=False)]])
    losses = braid.loss(batch, 0)
    assert losses.total == 0
    assert all(c == 0 for c in losses.counts.values())
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in braid.parameters())


def learn(paradigm: str, name: str, steps: int = 150) -> tuple[float, float]:
    """Learn four documents of a strand; return the loss before and after, on the same noise."""
    braid = models.build(models.experiment(paradigm))
    rows = [[models.pair(braid, name, seed)] for seed in range(4)] * 4
    batch = models.packed(braid, rows)
    optimizer = torch.optim.AdamW(braid.parameters(), lr=1e-2, weight_decay=0.0)

    def measured() -> float:
        with torch.no_grad():
            return sum(float(braid.loss(batch, -seed - 1).total) for seed in range(8)) / 8

    before = measured()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        braid.loss(batch, step).total.backward()
        torch.nn.utils.clip_grad_norm_(braid.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return before, measured()


@pytest.mark.slow
@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_few_documents_are_learned_by_heart(paradigm, name):
    before, after = learn(paradigm, name)
    assert after < 0.2 * before


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_few_documents_are_half_learned_in_a_moment(name):
    before, after = learn("mmada", name, steps=50)
    assert after < 0.5 * before
