"""Who sees whom.

One predicate over the layout fields of two tokens, turned into the cheapest mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from braid.errors import unknown
from braid.layout import Layout

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Visible = Tensor | Literal["causal"] | None
"""Attention mask.

Bool [B, queries, keys], "causal" (plain lower triangle), or None (all see all).
"""


@dataclass(frozen=True)
class Fields:
    """The layout fields a rule may look at; any shapes that broadcast.

    `index` is the place in the row.
    """

    document: Tensor
    span: Tensor
    index: Tensor
    causal: Tensor
    private: Tensor

    @staticmethod
    def of(layout: Layout) -> Fields:
        """Return the fields of every token, [B, L]."""
        index = torch.arange(layout.document.shape[1], device=layout.document.device)
        return Fields(
            layout.document,
            layout.span,
            index.expand_as(layout.document),
            layout.causal,
            layout.private,
        )

    def map(self, f: Callable[[Tensor], Tensor]) -> Fields:
        """Apply f to each field."""
        return Fields(
            f(self.document), f(self.span), f(self.index), f(self.causal), f(self.private)
        )


@dataclass(frozen=True)
class Rule:
    """An attention rule.

    Attributes:
        name: its name in the registry.
        sees: predicate (query, key) -> bool over fields that broadcast.
        cacheable: finished spans never look forward, so their keys and values stay valid.
        sequential: what a layout of causal tokens alone needs is the plain lower triangle.
    """

    name: str
    sees: Callable[[Fields, Fields], Tensor]
    cacheable: bool
    sequential: bool


def _same(q: Fields, k: Fields) -> Tensor:
    return (q.document == k.document) & (q.document >= 0)


def _full(q: Fields, k: Fields) -> Tensor:
    return _same(q, k) | (q.index == k.index)  # padding sees itself: an empty softmax row is NaN


def _spans(q: Fields, k: Fields) -> Tensor:
    earlier = (k.span < q.span) & ~k.private
    inside = (k.span == q.span) & (~q.causal | (k.index <= q.index))
    return _same(q, k) & (earlier | inside) | (q.index == k.index)


def _causal(q: Fields, k: Fields) -> Tensor:
    return _same(q, k) & (k.index <= q.index) & (~k.private | (k.span == q.span)) | (
        q.index == k.index
    )


full = Rule("full", _full, cacheable=False, sequential=False)
spans = Rule("spans", _spans, cacheable=True, sequential=True)
causal = Rule("causal", _causal, cacheable=True, sequential=True)
RULES = {rule.name: rule for rule in (full, spans, causal)}


def get(name: str | Rule) -> Rule:
    """Return a rule by name."""
    if isinstance(name, Rule):
        return name
    if name not in RULES:
        raise unknown("attention rule", name, RULES)
    return RULES[name]


def dense(rule: Rule, query: Fields, key: Fields) -> Tensor:
    """Return the mask [B, queries, keys] for fields [B, queries] and [B, keys]."""
    return rule.sees(query.map(lambda x: x[:, :, None]), key.map(lambda x: x[:, None, :]))


def visible(rule: Rule, layout: Layout) -> Visible | BlockMask:
    """Return the cheapest form of the mask.

    Nothing, the causal flag, a block mask on a GPU, or a dense mask.
    """
    if layout.solid and not rule.cacheable:
        return None
    if layout.solid and layout.sequential and rule.sequential:
        return "causal"
    if layout.document.is_cuda:
        return block_mask(rule, layout)
    fields = Fields.of(layout)
    return dense(rule, fields, fields)


def block_mask(rule: Rule, layout: Layout) -> BlockMask:
    """Return the same predicate as a FlexAttention block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    fields = Fields.of(layout)

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return rule.sees(fields.map(lambda x: x[b, q]), fields.map(lambda x: x[b, k]))

    B, L = layout.document.shape
    return create_block_mask(sees, B, None, L, L, device=str(layout.document.device))
