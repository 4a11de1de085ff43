"""AdamW with decay on matrices only, and a learning rate of its own where a part has one."""

from __future__ import annotations

import torch
from torch import nn

from braid import adapting
from braid.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101).

    Embeddings, norms, biases and other vectors are not decayed. Each group of parameters has a
    "factor", by which its learning rate differs from the schedule's.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    factors = adapting.rates(model, config)
    kinds: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for p in model.parameters():
        if p.requires_grad:
            kind = (factors.get(id(p), 1.0), p.ndim >= 2 and id(p) not in tables)
            kinds.setdefault(kind, []).append(p)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "factor": factor,
        }
        for (factor, decayed), parameters in kinds.items()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
