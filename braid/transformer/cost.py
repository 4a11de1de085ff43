"""What the transformer costs: parameters and operations, and what devices can do in a second."""

from __future__ import annotations

import torch
from torch import nn

from braid.transformer.block import Block, TransformerConfig

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIE": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Part of a GPU's name -> dense bfloat16 operations a second, of its maker's data sheet.

Longer names come first.
"""


def peak_flops(device: torch.device | str) -> float | None:
    """Return the dense bfloat16 operations a second of a device; None where they are not known.

    Args:
        device: a device, or the name that its driver gives it.
    """
    if isinstance(device, torch.device):
        if device.type != "cuda":
            return None
        device = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAKS.items() if name in device.upper()), None)


def block_parameters(config: TransformerConfig) -> int:
    """Return the number of parameters of one block, exactly."""
    with torch.device("meta"):
        return sum(p.numel() for p in Block(config).parameters())


def block_products(config: TransformerConfig) -> int:
    """Return how many parameters of one block multiply each token: all weights of linear layers."""
    with torch.device("meta"):
        return products(Block(config))


def products(module: nn.Module) -> int:
    """Return the parameters in a module's matrix products, one multiplication a token each."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def flops_per_token(config: TransformerConfig, row: int, outside: float = 0.0) -> float:
    """Return the operations of a forward and backward pass for one token of a row.

    6 for each parameter in a matrix product, and 12 x row x width of all heads a block for
    attention (arXiv:2204.02311, appendix B). Masks are not subtracted, recomputation is not added.

    Args:
        config: sizes of the transformer.
        row: tokens that attend to each other.
        outside: parameters in matrix products of embeddings and heads, a token on average.
    """
    attention = 12 * row * config.heads * config.size_of_head
    return config.depth * (6 * block_products(config) + attention) + 6 * outside
