"""Vectors in, vectors out.

The backbone knows positions and visibility, and nothing of modalities or noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from braid.randomness import Keys
from braid.transformer.block import Block, Past, TransformerConfig
from braid.transformer.rope import rotary

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
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
        visible: Visible | BlockMask,
        past: Sequence[Past] | None = None,
        condition: Tensor | None = None,
        keys: Keys | None = None,
    ) -> tuple[Tensor, list[Past]]:
        """Transform x [B, L, D].

        Args:
            x: [B, L, D] embedded tokens.
            position: [B, L, 3] sequence, row, column.
            visible: the mask over past and present keys, see `attend`.
            past: keys and values of earlier tokens, one pair a block.
            condition: [B, L, D] for AdaLN.
            keys: [B * L] for dropout.

        Returns:
            hidden [B, L, D] and the keys and values so far.
        """
        c = self.config
        turn = rotary(position, c.size_of_head, c.rope_theta, c.rope_sections, c.rope_scaling)
        present = []
        for i, block in enumerate(self.blocks):
            x, kv = block(x, turn, visible, past[i] if past is not None else None, condition, keys)
            present.append(kv)
        return self.norm(x), present
