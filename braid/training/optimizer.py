"""AdamW with decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from braid.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101).

    Embeddings, norms, biases and other vectors are not decayed.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed = [
        p for p in model.parameters() if p.requires_grad and p.ndim >= 2 and id(p) not in tables
    ]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
