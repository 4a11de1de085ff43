"""Vectors in, vectors out.

The backbone knows positions and visibility, and nothing of modalities or noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from braid.randomness import derive
from braid.transformer.attend import Apart
from braid.transformer.block import Block, Norm, Past, TransformerConfig
from braid.transformer.rope import rotary

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible


@dataclass(frozen=True)
class Call:
    """What `Transformer.forward` is asked for in generation.

    Attributes:
        x: [B, L, D] embedded tokens.
        position: [B, L, 3] sequence, row, column.
        visible: the mask over past and present keys, see `attend`.
        past: keys and values of earlier tokens, one pair a block.
        condition: [B, L, D] for AdaLN.
    """

    x: Tensor
    position: Tensor
    visible: Visible
    past: Sequence[Past] | None = None
    condition: Tensor | None = None


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = Norm(config.width, config.norm_eps)
        self._initialise()

    def _initialise(self) -> None:
        """Draw projections from N(0, 1 / fan in).

        Those that feed the residual are scaled down by the depth.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith("modulate"):
                std = module.in_features**-0.5
                if name.endswith(("out", "down")):
                    std *= (2 * self.config.depth) ** -0.5
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        visible: Visible | BlockMask | Apart,
        past: Sequence[Any] | None = None,
        condition: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Transform x [B, L, D].

        Args:
            x: [B, L, D] embedded tokens.
            position: [B, L, 3] sequence, row, column.
            visible: the mask over past and present keys, see `attend`.
            past: keys and values of earlier tokens, one pair a block; under `Apart` a list of each
                call's.
            condition: [B, L, D] for AdaLN.
            keys: [B * L] int64, the roots of the dropout's random numbers.

        Returns:
            hidden [B, L, D] and the keys and values so far.
        """
        c = self.config
        turn = rotary(position, c.size_of_head, c.rope_theta, c.rope_sections, c.rope_scaling)
        present = []
        for i, block in enumerate(self.blocks):
            own = None if keys is None else derive(keys, i)
            x, kv = block(x, turn, visible, past[i] if past is not None else None, condition, own)
            present.append(kv)
        return self.norm(x), present

    def together(self, calls: Sequence[Call]) -> list[tuple[Tensor, list[Past]]]:
        """Answer several calls of unlike shapes in one pass.

        All tokens go through the linear layers side by side, without padding; they attend as in a
        call of their own.
        """
        shapes = [(c.x.shape[0], c.x.shape[1]) for c in calls]
        told = [c.condition.flatten(0, 1) for c in calls if c.condition is not None]
        hidden, present = self(
            torch.cat([c.x.flatten(0, 1) for c in calls])[None],
            torch.cat([c.position.flatten(0, 1) for c in calls])[None],
            Apart(shapes, [c.visible for c in calls]),
            [[c.past and c.past[i] for c in calls] for i in range(len(self.blocks))],
            torch.cat(told)[None] if told else None,
        )
        sizes = [rows * n for rows, n in shapes]
        parts = (h.unflatten(0, s) for h, s in zip(hidden[0].split(sizes), shapes, strict=True))
        return [(h, list(kv)) for h, *kv in zip(parts, *present, strict=True)]
