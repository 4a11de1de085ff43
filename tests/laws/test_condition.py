"""AdaLN: the time that a token is told reaches the blocks in training and in generation alike."""

from __future__ import annotations

import pytest
import torch

from braid.generation.context import Place, make
from braid.layout import pack
from tests.laws.models import PARALLEL, experiment, span, stirred


@pytest.mark.parametrize(("paradigm", "name"), PARALLEL)
def test_a_context_predicts_what_training_predicts_with_adaln(paradigm, name):
    braid = stirred(experiment(paradigm, "transformer.adaln=true"))
    x = span(braid, name).tokens
    x = x.double() if x.is_floating_point() else x
    shape = span(braid, name).shape
    batch = pack([[[span(braid, name)]]], braid.placements, twins=False)
    time = torch.full((len(x),), 0.3)
    trained = braid({name: x}, {name: time}, batch.layout)[name]
    position = braid.strand(name).modality.positions(shape)[None]
    place = Place(0, position, torch.ones(1, len(x), dtype=torch.bool))
    predicted = make(braid, 1).predict(name, x[None], time[None], place)[0]
    torch.testing.assert_close(predicted, trained, atol=1e-10, rtol=0)


def test_adaln_is_the_time_and_nothing_else():
    braid = stirred(experiment("dfm_fm", "transformer.adaln=true"))
    batch = pack([[[span(braid, "image")]]], braid.placements)
    x, n = {"image": batch.tokens["image"].double()}, len(batch.tokens["image"])
    early, late = (
        braid(x, {"image": torch.full((n,), t)}, batch.layout)["image"] for t in (0.1, 0.9)
    )
    assert (early - late).abs().max() > 1e-3
