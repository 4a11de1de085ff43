"""A tiny model of every paradigm, and documents of random tokens for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from braid import config, recipes, rules
from braid.braid import Braid
from braid.config import Experiment
from braid.data.synthetic import CAPTIONS
from braid.layout import Batch, Document, Span, pack
from braid.paradigms import PARADIGMS
from braid.pipeline import Pipeline
from braid.processes import Noised
from braid.spaces import Discrete

NAMES = list(PARADIGMS)
SMALL = ("transformer.width=32", "transformer.depth=2", "transformer.heads=2")


@functools.cache
def experiment(paradigm: str, *settings: str) -> Experiment:
    """Return the toy recipe under a paradigm, with a small transformer."""
    return recipes.resolve("toy", [f"paradigm={paradigm}", *SMALL, *settings])


@functools.cache
def _states(made: str) -> dict[str, Any]:
    strands = Experiment.model_validate_json(made).strands
    modalities = [config.make_modality(n, s) for n, s in strands.items()]
    for modality in modalities:
        modality.fit(CAPTIONS)
    return {m.name: m.state() for m in modalities}


def build(made: Experiment | str, seed: int = 0) -> Braid:
    """Make the model of an experiment or of a paradigm's name, as it is before training."""
    made = experiment(made) if isinstance(made, str) else made
    torch.manual_seed(seed)
    return config.build(made, _states(made.model_dump_json()))


def stirred(made: Experiment | str, dtype: torch.dtype = torch.float64) -> Braid:
    """Make a model whose weights are random where training would begin at zero or at one."""
    braid = build(made).to(dtype).eval()
    with torch.no_grad():
        for p in braid.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return braid


def pipeline(paradigm: str) -> Pipeline:
    """Return a pipeline of stirred weights in float32."""
    return Pipeline(stirred(paradigm, torch.float32), experiment(paradigm))


def drawn(paradigm: str) -> list[str]:
    """Return the modalities that a paradigm generates, in the toy's experiment."""
    return [n for n, s in experiment(paradigm).strands.items() if s.process is not None]


CASES = [(p, m) for p in NAMES for m in drawn(p)]
"""Every paradigm with every modality that it generates."""

PARALLEL = [(p, m) for p, m in CASES if not build(p).strand(m).causal]
"""Those that are generated in parallel."""


def span(
    braid: Braid, name: str, n: int | None = None, target: bool | Tensor = True, seed: int = 0
) -> Span:
    """Return a span of random tokens; n is the length of a text."""
    modality = braid.strand(name).modality
    shape = modality.shape if n is None or len(modality.shape) == 2 else (n,)
    rng = torch.Generator().manual_seed(seed)
    size, space = torch.Size(shape).numel(), modality.space
    if isinstance(space, Discrete):
        tokens = torch.randint(space.size, space.shape(size), generator=rng)
    else:
        tokens = torch.rand(space.shape(size), generator=rng, dtype=torch.float64) * 2 - 1
        tokens = tokens.to(next(braid.parameters()).dtype)
    return Span(name, tokens, target, shape=shape)


def pair(
    braid: Braid, target: str, seed: int = 0, n: int = 4, learned: bool | Tensor = True
) -> Document:
    """Return a document whose last span is learned, after another; texts have n tokens."""
    given = next(
        name for name in ("text", "image", "vision") if name in braid.strands and name != target
    )
    return [
        span(braid, given, n, target=False, seed=2 * seed),
        span(braid, target, n, target=learned, seed=2 * seed + 1),
    ]


def all_learned(braid: Braid, seed: int = 0, lengths: Sequence[int] = (4, 4)) -> Document:
    """Return two texts with every other modality between them; all that can be is learned."""
    between = [n for n in braid.strands if n != "text"]
    names = ["text", *between, "text"]
    sizes = [lengths[0], *[None] * len(between), lengths[1]]
    learns = {n: s.process is not None for n, s in braid.strands.items()}
    return [
        span(braid, name, n, learns[name], 10 * seed + i)
        for i, (name, n) in enumerate(zip(names, sizes, strict=True))
    ]


def packed(braid: Braid, rows: Sequence[Sequence[Document]], **options: Any) -> Batch:
    """Pack as training does."""
    return pack(rows, braid.placements, twins=braid.rule.cacheable, **options)


@torch.no_grad()
def trained(
    braid: Braid, batch: Batch, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Noised]]:
    """Return the predictions of a training step, and what was destroyed in it."""
    noised = braid.corrupt(batch, seed)
    tokens, time = {n: x.noisy for n, x in noised.items()}, {n: x.time for n, x in noised.items()}
    return braid(tokens, time, batch.layout), noised


RULES = list(rules.RULES)
RULED = [(p, r) for p in NAMES for r in RULES if rules.get(r).cacheable or experiment(p).rule == r]
"""Every paradigm under every rule that can carry its processes."""
