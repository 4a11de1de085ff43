"""Sizes of a model and of what it reads, without making it: tensors lie on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from braid import config
from braid.braid import Braid
from braid.config import DataConfig, Experiment, StrandConfig, TrainConfig
from braid.data.dummy import dummy_batch
from braid.modalities import Modality
from braid.processes import Noised
from braid.spaces import Discrete
from braid.strand import Strand
from braid.training.muon import operations
from braid.training.optimizer import turning
from braid.transformer import Transformer, TransformerConfig
from braid.transformer.cost import block_parameters, block_products, flops_per_token, products

_SYMBOLS = 65536
_ROW = 4096


def _size(name: str, batch: int, **sizes: Any) -> Experiment:
    """Return next-token training of text in rows of 4096; the symbols are those of Chameleon."""
    text = {"kind": "text", "vocabulary": _SYMBOLS, "length": _ROW, "frames": []}
    return Experiment(
        name=name,
        strands={"text": StrandConfig(modality=text, process={"kind": "autoregressive"})},
        rule="spans",
        transformer=TransformerConfig(**sizes),
        data=DataConfig(source="files", tasks={"text": 1.0}, row=_ROW),
        train=TrainConfig(batch=batch, steps=100_000, precision="bfloat16", learning_rate=3e-4),
    )


SIZES = {
    "1b": lambda: _size("1b", 256, width=2048, depth=16, heads=16, key_heads=8, hidden=5632),
    "7b": lambda: _size("7b", 512, width=4096, depth=32, heads=32, hidden=11008),
    "70b": lambda: _size("70b", 1024, width=8192, depth=80, heads=64, key_heads=8, hidden=28672),
}
"""Sizes that are planned by name; 7b and 70b are those of arXiv:2307.09288."""


@dataclass(frozen=True)
class Sizes:
    """What the memory and the time of training depend on.

    Attributes:
        name: of the experiment.
        transformer: sizes of the blocks.
        parameters: of the whole model.
        block: parameters of one block.
        block_products: those of them that multiply each token.
        row: tokens that attend to each other, padding included.
        tokens: tokens of an optimiser step, padding included.
        outside: parameters of embeddings and heads that multiply a token, on average.
        logits: predicted numbers a token that are held all at once, on average.
        chunked: logits of a row where they are held in chunks; of the strand that has most.
        strands: number of strands.
        batch: documents of an optimiser step.
        bfloat16: whether the forward pass runs in bfloat16.
        turned: parameters, all in blocks, that Muon moves: it keeps one moment of them, not two.
        turning: operations of those moves, a step.
    """

    name: str
    transformer: TransformerConfig
    parameters: int
    block: int
    block_products: int
    row: int
    tokens: int
    outside: float
    logits: float
    chunked: int
    strands: int
    batch: int
    bfloat16: bool
    turned: int = 0
    turning: float = 0.0

    @property
    def rest(self) -> int:
        """Parameters outside of blocks."""
        return self.parameters - self.transformer.depth * self.block

    @property
    def flops(self) -> float:
        """Operations of a forward and backward pass, a token."""
        return flops_per_token(self.transformer, self.row, self.outside)

    @classmethod
    def of(
        cls, experiment: Experiment, states: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Sizes:
        """Measure an experiment on the documents of its tasks.

        Args:
            experiment: what would be trained.
            states: modality -> what it learned from data, as a run's modalities.json holds it;
                without it vocabularies are as large as they may become.
        """
        braid = skeleton(experiment, states)
        c, train = experiment.transformer, experiment.train
        documents = min(train.batch, 32)
        batch = dummy_batch(braid, experiment, documents)
        row, used = batch.layout.document.shape[1], int((batch.layout.document >= 0).sum())
        rows = float(train.batch)
        if experiment.data.row is not None:
            rows = max(1.0, train.batch * used / documents / experiment.data.row)
            row = experiment.data.row
        turned = turning(braid) if train.optimizer == "muon" else []
        share = {name: len(slots) / used for name, slots in batch.layout.slots.items()}
        return cls(
            experiment.name,
            c,
            sum(p.numel() for p in braid.parameters()),
            block_parameters(c),
            block_products(c),
            row,
            round(rows * row),
            sum(share[n] * products(s) for n, s in braid.strands.items() if n in share),
            sum(share[n] * _predicted(s) for n, s in braid.strands.items() if n in share),
            max(map(_chunked, braid.strands.values())),
            len(braid.strands),
            train.batch,
            train.precision == "bfloat16",
            sum(p.numel() for p in turned),
            sum(operations(p.shape) for p in turned),
        )


def skeleton(
    experiment: Experiment,
    states: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "meta",
) -> Braid:
    """Return the model of an experiment without data; on the meta device, without numbers."""
    strands = {}
    for name, strand in experiment.strands.items():
        modality = _modality(name, strand, None if states is None else states.get(name, {}))
        try:
            with torch.device(device):
                strands[name] = _strand(experiment, modality, strand)
        except RuntimeError:  # its embeddings start from a table of numbers
            strands[name] = _strand(experiment, modality, strand)
    with torch.device(device):
        return Braid(strands, Transformer(experiment.transformer), experiment.rule)


def _strand(experiment: Experiment, modality: Modality, c: StrandConfig) -> Strand:
    width, sampler = experiment.transformer.width, config.make_sampler(c)
    return Strand(modality, config.make_process(c), width, sampler, c.weight, c.tied)


def _modality(name: str, c: StrandConfig, state: Mapping[str, Any] | None) -> Modality:
    """Make a modality; one that would learn its symbols from data has as many as it may."""
    modality = config.make_modality(name, c)
    if state is not None:
        modality.load_state(dict(state))
        return modality
    most = getattr(modality, "vocabulary", 0)
    modality.fit(["a model without data"])
    missing = most - getattr(modality, "vocabulary", 0)
    if missing > 0 and isinstance(modality.space, Discrete):
        modality.space = replace(modality.space, size=modality.space.size + missing)
        vars(modality)["size"] = modality.space.size  # of its table for metric paths
    return modality


def _predicted(strand: Strand) -> int:
    if strand.process is None or _chunked(strand):
        return 0
    space = strand.modality.space
    return space.size * space.groups if isinstance(space, Discrete) else space.width


def _chunked(strand: Strand) -> int:
    """Return the logits of a token whose loss is computed in chunks, else 0."""
    space = strand.modality.space
    if strand.process is None or not isinstance(space, Discrete):
        return 0
    token = torch.zeros(space.shape(1), dtype=torch.int64)
    noised = Noised(token, token, token, torch.zeros(1))
    return 0 if strand.process.factor(noised, space.size) is None else space.size * space.groups
