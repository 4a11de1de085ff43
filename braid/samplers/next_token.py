"""Next-token decoding: one symbol from one prediction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from braid.processes import Process
from braid.randomness import Rng
from braid.samplers.filters import Drawing
from braid.samplers.sampler import Predict, Sampler


@dataclass(frozen=True, kw_only=True)
class NextToken(Drawing, Sampler):
    """Draw the next token from its logits."""

    @staticmethod
    def suits(process: Process) -> bool:
        """Run causal processes."""
        return process.causal

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Replace the placeholder x [B, 1, ...] by a drawn token."""
        return self.draw(predict(x, 1.0), rng)
