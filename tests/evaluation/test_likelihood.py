"""Likelihoods of a report are of the documents that the model was trained on."""

import pytest
import torch

from braid import Pipeline
from braid.evaluation.likelihood import bits
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
