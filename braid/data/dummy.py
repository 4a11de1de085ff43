"""A batch of random documents in an experiment's shapes, for trying it without data."""

from __future__ import annotations

import torch
from torch import Tensor

from braid.braid import Braid
from braid.config import Experiment
from braid.data.open import documents_for
from braid.layout import Batch, pack
from braid.randomness import Keys
from braid.spaces import Discrete


def dummy_batch(braid: Braid, experiment: Experiment, documents: int | None = None) -> Batch:
    """Return documents of the experiment's tasks, full of random tokens."""
    rng = torch.Generator().manual_seed(0)
    fields = [s.modality.field for s in braid.strands.values()]
    maker = documents_for(experiment, braid, fields)
    count = documents or min(experiment.train.batch, 32)

    def tokens(name: str) -> Tensor:
        modality = braid.strand(name).modality
        n = int(torch.tensor(modality.shape).prod())
        if isinstance(modality.space, Discrete):
            return torch.randint(modality.space.size, modality.space.shape(n), generator=rng)
        return torch.randn(modality.space.shape(n), generator=rng)

    choices = maker.draw(Keys.of(0, count).key)
    rows = [
        [maker.make(choice, {need: tokens(need[0]) for need in choice.task.needs})]
        for choice in choices
    ]
    return pack(rows, braid.placements, twins=braid.rule.cacheable)
