"""The optimiser of a run: what decays, what turns, and which parts have a rate of their own."""

from __future__ import annotations

import torch
from torch import nn

from braid import adapting
from braid.config import TrainConfig
from braid.training.muon import Muon

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Modules whose weights decay, unless they are those of an embedding too."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101), or Muon for the matrices of the transformer's blocks.

    The weights of linear layers and convolutions are decayed; embeddings, norms and biases are not.
    Each group of parameters has a "factor", by which its learning rate differs from the schedule's.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = {id(m.weight) for m in model.modules() if isinstance(m, LAYERS)} - tables
    turned = {id(p) for p in turning(model)} if config.optimizer == "muon" else set()
    factors = adapting.rates(model, config)
    kinds: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            kind = (factors.get(id(p), 1.0), id(p) in layers, id(p) in turned)
            kinds.setdefault(kind, []).append(p)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "factor": factor,
            "orthogonal": orthogonal,
        }
        for (factor, decayed, orthogonal), parameters in kinds.items()
    ]
    if config.optimizer == "muon":
        return Muon(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def turning(model: nn.Module) -> list[torch.Tensor]:
    """Return the matrices that Muon moves, those between hidden states.

    Those at the ends see symbols, not directions.
    """
    return [
        m.weight
        for name, m in model.named_modules()
        if name.startswith("transformer.blocks.") and isinstance(m, nn.Linear)
    ]
