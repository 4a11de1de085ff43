"""Scaled dot-product attention under any form of mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visible | BlockMask) -> Tensor:
    """Attend from q [B, heads, queries, width] to k, v [B, key heads, keys, width].

    `visible` is None (all see all), "causal", a bool mask [B, queries, keys] or a FlexAttention
    block mask.
    Where there are fewer key heads than heads, groups of query heads share one (arXiv:2305.13245).
    """
    if _slow_in_half(q, v):
        with torch.autocast(q.device.type, enabled=False):
            return _attend(q.float(), k.float(), v.float(), visible).to(v.dtype)
    return _attend(q, k, v, visible)


def _slow_in_half(q: Tensor, v: Tensor) -> bool:
    """Whether float32 is the faster: on a CPU the gradient in bfloat16 takes 3 to 4 times as long.

    So it is up to a head width of 32; from 64 on there is no difference, then bfloat16 is faster.
    """
    learns = torch.is_grad_enabled() and v.requires_grad
    return learns and v.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[-1] < 64


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Visible | BlockMask) -> Tensor:
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


@dataclass(frozen=True)
class Apart:
    """Tokens of several calls, laid end to end; those of one call never see another's.

    Attributes:
        shapes: rows and tokens a row of each call.
        visible: the mask of each call.
    """

    shapes: Sequence[tuple[int, int]]
    visible: Sequence[Visible]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, past: Sequence[tuple[Tensor, Tensor] | None]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Attend from q [1, heads, tokens, width] to k, v and each call's past, as the call alone.

        Return [1, heads, tokens, width] and the keys and values so far of each call.
        """
        sizes = [rows * n for rows, n in self.shapes]
        out, present = [], []
        for shape, mask, before, *own in zip(
            self.shapes, self.visible, past, *(x[0].split(sizes, 1) for x in (q, k, v)), strict=True
        ):
            q1, k1, v1 = (x.unflatten(1, shape).transpose(0, 1) for x in own)
            if before is not None:
                k1, v1 = torch.cat([before[0], k1], 2), torch.cat([before[1], v1], 2)
            else:  # a view would keep what all calls share for as long as this one is kept
                k1, v1 = k1.clone(), v1.clone()
            out.append(attend(q1, k1, v1, mask).transpose(0, 1).flatten(1, 2))
            present.append((k1, v1))
        return torch.cat(out, 1)[None], present


@cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
