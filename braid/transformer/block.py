"""The decoder block: attention and a gated feed-forward layer, each with a norm and a residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from braid.errors import BraidError
from braid.randomness import Keys, uniform
from braid.transformer.attend import Apart, attend
from braid.transformer.rope import RopeScaling, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible

Past = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B, key heads, tokens, head width]."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes and choices of the transformer; the defaults are the modern decoder block.

    Attributes:
        width: D, size of a hidden vector.
        depth: number of blocks.
        heads: attention heads.
        key_heads: heads of keys and values; fewer than `heads` is grouped-query attention; None is
            as many.
        head_width: size of a head; None is width / heads.
        hidden: size of the feed-forward layer; None is 8/3 width, rounded up to a multiple of 16.
        norm_eps: epsilon of RMSNorm.
        norm_order: "pre" normalises a layer's input, "post" its output before the residual
            (Chameleon 34B).
        qk_norm: normalise queries and keys; "rms" per head, "layer" with a mean and a bias
            (Chameleon), "heads" the same with gains and biases of each head's own, or "none".
        attention_bias: biases on the query, key and value projections (Qwen2).
        bias: biases on the output and feed-forward projections.
        output_bias: the same for attention's output projection alone; None is as `bias`.
        dropout: after attention and feed-forward, in training.
        rope_theta: base of the rotary frequencies.
        rope_scaling: slower rotary frequencies, for longer contexts; None keeps them.
        rope_sections: weights by which the axes sequence, row, column share the rotary pairs.
        adaln: modulate each block by `condition` (AdaLN, arXiv:2212.09748; starts as the identity).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {
        "extra": "forbid"
    }  # read by pydantic where the class is part of an experiment

    width: int = 128
    depth: int = 4
    heads: int = 4
    key_heads: int | None = None
    head_width: int | None = None
    hidden: int | None = None
    norm_eps: float = 1e-6
    norm_order: Literal["pre", "post"] = "pre"
    qk_norm: Literal["rms", "layer", "heads", "none"] = "rms"
    attention_bias: bool = False
    bias: bool = False
    output_bias: bool | None = None
    dropout: float = 0.0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_sections: tuple[int, int, int] = (2, 1, 1)
    adaln: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1:
            raise BraidError(
                f"transformer width {self.width}, depth {self.depth}, heads {self.heads}: each "
                "must be at least 1"
            )
        for name in ("key_heads", "head_width", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BraidError(f"transformer.{name} {value} must be at least 1, or none")
        if min(self.rope_sections) < 0 or sum(self.rope_sections) < 1:
            raise BraidError(
                f"transformer.rope_sections {self.rope_sections}: give no negative weight, and at "
                "least one above 0"
            )
        if self.head_width is None and self.width % self.heads:
            raise BraidError(
                f"transformer.width {self.width} is not a multiple of transformer.heads "
                f"{self.heads}; change one of them"
            )
        if self.heads % (self.key_heads or self.heads):
            raise BraidError(
                f"transformer.heads {self.heads} is not a multiple of transformer.key_heads "
                f"{self.key_heads}; change one of them"
            )
        if self.size_of_head % 2:
            raise BraidError(
                f"a head of width {self.size_of_head} cannot be rotated; make width / heads even"
            )
        if not 0 <= self.dropout < 1:
            raise BraidError(
                f"transformer.dropout {self.dropout} is out of range; use 0 up to (not including) 1"
            )

    @property
    def size_of_head(self) -> int:
        """Width of one head."""
        return self.head_width or self.width // self.heads

    @property
    def size_of_hidden(self) -> int:
        """Width of the feed-forward layer."""
        return self.hidden or -(-self.width * 8 // 3 // 16) * 16


class Attention(nn.Module):
    """Multi-head attention with rotary positions and optional norms on queries and keys."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_width = (
            c.heads,
            c.key_heads or c.heads,
            c.size_of_head,
        )
        self.query = nn.Linear(c.width, self.heads * self.head_width, bias=c.attention_bias)
        self.key = nn.Linear(c.width, self.key_heads * self.head_width, bias=c.attention_bias)
        self.value = nn.Linear(c.width, self.key_heads * self.head_width, bias=c.attention_bias)
        out_bias = c.bias if c.output_bias is None else c.output_bias
        self.out = nn.Linear(self.heads * self.head_width, c.width, bias=out_bias)
        norm = {
            "rms": lambda heads: Norm(self.head_width, c.norm_eps),
            "layer": lambda heads: nn.LayerNorm(self.head_width),
            "heads": lambda heads: HeadNorm(heads, self.head_width),
            "none": lambda heads: nn.Identity(),
        }[c.qk_norm]
        self.query_norm, self.key_norm = norm(self.heads), norm(self.key_heads)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        visible: Visible | BlockMask | Apart,
        past: Any,
    ) -> tuple[Tensor, Any]:
        """Attend within x [B, L, D] and to `past`.

        Return [B, L, D] and the keys and values so far; under `Apart` a list of them, as `past` is.
        """
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for p in (self.query, self.key, self.value)
        )
        q, k = rotate(self.query_norm(q), *turn), rotate(self.key_norm(k), *turn)
        if isinstance(visible, Apart):
            y, present = visible.attend(q, k, v, past)
            return self.out(y.transpose(1, 2).flatten(2)), present
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = attend(q, k, v, visible).transpose(1, 2).flatten(2)
        return self.out(y), (k, v)


class Norm(nn.RMSNorm):
    """RMSNorm (arXiv:1910.07467) in one kernel whatever the precisions of input and gain.

    Under autocast queries and keys are bfloat16 and gains float32, for which torch has none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., D]."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class HeadNorm(nn.Module):
    """Layer norm of each head, with a gain and a bias for every component of every head."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, heads, L, width]."""
        plain = F.layer_norm(x, x.shape[-1:])
        return plain * self.weight[:, None] + self.bias[:, None]


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(c.width, c.size_of_hidden, bias=c.bias)
        self.up = nn.Linear(c.width, c.size_of_hidden, bias=c.bias)
        self.down = nn.Linear(c.size_of_hidden, c.width, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [..., D]."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attend(norm(x)), then x + feed(norm(x)); with norm order "post".

    X + norm(attend(x)), x + norm(feed(x)).
    """

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.post, self.dropout = c.norm_order == "post", c.dropout
        self.attention, self.feed = Attention(c), FeedForward(c)
        self.attention_norm, self.feed_norm = (
            Norm(c.width, c.norm_eps),
            Norm(c.width, c.norm_eps),
        )
        self.modulate = nn.Linear(c.width, 6 * c.width) if c.adaln else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        visible: Visible | BlockMask | Apart,
        past: Any = None,
        condition: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Transform x [B, L, D]; `keys` [B * L] are those of the dropout."""
        rng = None if keys is None else Keys(keys)  # anew: a second pass draws the same
        shift_a = scale_a = gate_a = shift_f = scale_f = gate_f = None
        if self.modulate is not None and condition is not None:
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulate(
                F.silu(condition)
            ).chunk(6, -1)
        y, present = self.attention(
            _scaled(x if self.post else self.attention_norm(x), shift_a, scale_a),
            turn,
            visible,
            past,
        )
        x = x + _gated(self._drop(self.attention_norm(y) if self.post else y, rng), gate_a)
        y = self.feed(_scaled(x if self.post else self.feed_norm(x), shift_f, scale_f))
        return x + _gated(self._drop(self.feed_norm(y) if self.post else y, rng), gate_f), present

    def _drop(self, y: Tensor, rng: Keys | None) -> Tensor:
        if not (self.training and self.dropout and rng is not None):
            return y
        keep = uniform(rng, (y.shape[0] * y.shape[1], y.shape[2])).view_as(y) >= self.dropout
        return y * keep / (1 - self.dropout)


def _scaled(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    return x if shift is None or scale is None else x * (1 + scale) + shift


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * (1 + gate)
