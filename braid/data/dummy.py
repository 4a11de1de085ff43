"""A batch of random documents in an experiment's shapes, for trying it without data."""

from __future__ import annotations

import torch

from braid.braid import Braid
from braid.config import Experiment
from braid.data.conversation import Turn
from braid.data.open import documents_for
from braid.layout import Batch, pack
from braid.modalities import Tokens
from braid.randomness import Keys
from braid.spaces import Discrete


def dummy_batch(braid: Braid, experiment: Experiment, documents: int | None = None) -> Batch:
    """Return documents of the experiment's tasks, full of random tokens."""
    rng = torch.Generator().manual_seed(0)
    config = next(iter(experiment.data.mix.values()), experiment.data)
    talks = [t.removeprefix("talk_") for t in config.tasks if t.startswith("talk_")]
    columns = [s.modality.field for s in braid.strands.values()] + [*config.fields, *talks]
    maker = documents_for(config, braid, columns)
    count = documents or min(experiment.train.batch, 32)

    def example(field: str) -> Tokens | list[Turn]:
        if field not in talks:
            return tokens(maker.modality_of[field])
        said = [(name, tokens(name)) for name in braid.strands]  # one part of each modality
        return [
            Turn(name, x, x, learned)
            for learned in (False, True)
            for name, x in said
            if not learned or braid.strand(name).process is not None
        ]

    def tokens(name: str) -> Tokens:
        modality = braid.strand(name).modality
        n = int(torch.tensor(modality.shape).prod())
        if isinstance(modality.space, Discrete):
            drawn = torch.randint(modality.space.size, modality.space.shape(n), generator=rng)
        else:
            drawn = torch.randn(modality.space.shape(n), generator=rng)
        return Tokens(drawn, modality.shape)

    choices = maker.draw(Keys.of(0, count).key)
    rows = [
        [maker.make(choice, {need: example(need[0]) for need in maker.needs_of(choice.task)})]
        for choice in choices
    ]
    return pack(rows, braid.placements, twins=braid.rule.cacheable)
