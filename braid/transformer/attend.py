"""Scaled dot-product attention under any form of mask."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visible | BlockMask) -> Tensor:
    """Attend from q [B, heads, queries, width] to k, v [B, key heads, keys, width].

    `visible` is None (all see all), "causal", a bool mask [B, queries, keys] or a FlexAttention
    block mask.
    Where there are fewer key heads than heads, groups of query heads share one (arXiv:2305.13245).
    """
    grouped = k.shape[1] != q.shape[1]
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    if isinstance(visible, str):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    if isinstance(visible, Tensor):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible[:, None], enable_gqa=grouped
        )
    return _flex()(q, k, v, block_mask=visible, enable_gqa=grouped)


@cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
