"""Likelihoods of a report are of the documents that the model was trained on."""

import pytest
import torch

from braid import Pipeline
from braid.evaluation.likelihood import bits
from braid.generation import nats
from tests.laws import models


def test_a_report_scores_what_the_pipeline_scores_opening_and_all():
    first = models.pipeline("chameleon")
    found = []
    for opening in (None, torch.tensor([1, 2])):
        first.braid.strand("text").modality.opening = opening
        pipe = Pipeline(first.braid, first.experiment)
        numbers: dict = {}
        bits(pipe, [["row two"]], "text", numbers)
        found.append(numbers["text_nats"])
        assert found[-1] == pytest.approx(float(pipe.score(["row two"])[-1].value))
    assert found[0] != found[1]


def test_symbols_of_a_text_are_counted_up_to_the_one_that_closes_it():
    """Whatever canvas it stands on: bits per symbol of all paradigms are of the same symbols."""
    counts = {}
    for paradigm in ("chameleon", "mmada", "fudoki", "blockdiff"):
        pipe = models.pipeline(paradigm)
        counts[paradigm] = [int(pipe.score([x])[-1].symbols) for x in ("row", "row two")]
    text = models.pipeline("fudoki").braid.strand("text").modality
    assert set(map(tuple, counts.values())) == {
        tuple(len(text.symbols(x)) + 1 for x in ("row", "row two"))
    }


@pytest.mark.parametrize("paradigm", ["fudoki", "mmada"])
def test_target_spans_that_see_each_other_are_scored_at_one_time(paradigm):
    braid = models.stirred(paradigm)
    seen = []
    braid.register_forward_pre_hook(lambda _, given: seen.append(given[1]["text"]))
    spans = [models.span(braid, "text", 4, seed=k) for k in range(2)]
    documents = [spans, [models.span(braid, "text", 4)]]
    nats(braid, documents, times=3)
    for time in seen:
        assert (time[:8] == time[0]).all() and (time[8:] == time[8]).all()
    assert (seen[0][0] != seen[0][8]) and (seen[0][0] != seen[1][0])


def test_a_document_is_scored_alike_alone_and_beside_others():
    braid = models.stirred("fudoki")
    documents = [[models.span(braid, "text", 4, seed=k)] for k in range(3)]
    together = nats(braid, documents, times=3, samples=[0, 1, 2]).value
    alone = [nats(braid, [d], times=3, samples=[k]).value for k, d in enumerate(documents)]
    torch.testing.assert_close(together, torch.cat(alone))
