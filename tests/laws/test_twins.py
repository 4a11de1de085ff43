"""Law: a span that is noised and read appears twice, noised for itself and clean for the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from braid import rules
from braid.braid import Braid
from braid.errors import BraidError
from braid.layout import Batch
from braid.rules import Fields
from tests.laws import models

BLOCK = 2


def blocks(length: int = 6) -> tuple[Braid, Batch]:
    """Return a model that refines text in blocks of two, and a batch of one learned text."""
    braid = models.stirred(
        models.experiment("blockdiff", f"strands.text.process.size_of_block={BLOCK}")
    )
    return braid, models.packed(braid, [[[models.span(braid, "text", length)]]])


def visible(batch: Batch) -> Tensor:
    """Return who sees whom in the only row, [L, L]."""
    fields = Fields.of(batch.layout)
    return rules.dense(rules.spans, fields, fields)[0]


def test_a_noised_block_sees_clean_earlier_blocks_and_itself_only():
    _, batch = blocks(6)
    private = batch.layout.private[0]
    assert private.tolist() == [True, True, False, False] * 3
    place = batch.layout.position[0, :, 0]
    seen = visible(batch)
    for query in range(12):
        noised = [k for k in range(12) if seen[query, k] and private[k]]
        clean = {int(place[k]) for k in range(12) if seen[query, k] and not private[k]}
        block = int(place[query]) // BLOCK
        own = [k for k in range(12) if private[k] and int(place[k]) // BLOCK == block]
        assert noised == (own if private[query] else [])
        assert clean == set(range(block * BLOCK + (0 if private[query] else BLOCK)))


def test_a_twin_stands_where_its_clean_block_stands():
    _, batch = blocks(4)
    position = batch.layout.position[0].unflatten(0, (2, 2, BLOCK))  # block, twin, token
    assert (position[:, 0] == position[:, 1]).all()
    assert (
        batch.tokens["text"].view(2, 2, BLOCK)[:, 0] == batch.tokens["text"].view(2, 2, BLOCK)[:, 1]
    ).all()


def test_only_noised_blocks_are_targets_and_only_they_are_noised():
    braid, batch = blocks(6)
    assert (batch.target["text"] == batch.layout.private[0]).all()
    noised = braid.corrupt(batch, 0)["text"]
    clean = ~batch.target["text"]
    assert (noised.noisy[clean] == noised.clean[clean]).all()
    assert (noised.time[clean] == 1).all()
    assert (noised.noisy[~clean] != noised.clean[~clean]).any()


def test_each_block_has_its_own_time():
    braid, batch = blocks(6)
    time = braid.corrupt(batch, 0)["text"].time[batch.target["text"]].view(3, BLOCK)
    assert (time[:, 0] == time[:, 1]).all()
    assert len(time[:, 0].unique()) == 3


def test_learning_in_blocks_counts_each_token_once():
    braid, batch = blocks(6)
    assert braid.loss(batch, 0).counts["text"] == 6


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_parallel_span_has_a_twin_where_a_later_one_is_learned(paradigm):
    braid = models.stirred(models.experiment(paradigm, "rule=spans"))
    batch = models.packed(braid, [[models.all_learned(braid)]])
    for name, strand in braid.strands.items():
        twinned = batch.layout.private.flatten()[batch.layout.slots[name]].any()
        blocks = strand.process is not None and strand.process.block(4) < 4
        last = name == "text"  # the last span is read by none
        if strand.process is None or strand.causal:
            assert not twinned
        elif not last or blocks:
            assert twinned


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_span_that_no_later_target_reads_has_no_twin(paradigm):
    braid = models.stirred(models.experiment(paradigm, "rule=spans"))
    name = models.drawn(paradigm)[-1]
    target = models.span(braid, name)
    given = models.span(braid, name, target=False, seed=1)
    batch = models.packed(braid, [[[target, given]]])
    assert not batch.layout.private.any()
    assert batch.size == len(target) + len(given)


def test_a_length_that_is_no_multiple_of_the_block_is_refused():
    with pytest.raises(BraidError, match="length 5 is not a multiple of block 2; pad the span"):
        blocks(5)


def test_an_infilled_span_in_blocks_holds_its_given_tokens_in_both_twins():
    braid, _ = blocks()
    learned = torch.tensor([True, False, False, True])
    batch = models.packed(braid, [[[models.span(braid, "text", 4, target=learned)]]])
    assert batch.target["text"].tolist() == [True, False, False, False, False, True, False, False]
