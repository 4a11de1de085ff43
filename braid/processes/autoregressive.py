"""Next-token prediction: nothing is destroyed, each token is predicted from what came before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.processes.process import (
    Noised,
    Process,
    cross_entropy,
    evenly,
    per_token,
    per_token_sum,
    wide,
)
from braid.randomness import Rng
from braid.spaces import Discrete, Space


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Process):
    """Next-token cross-entropy.

    Attributes:
        z_loss: weight of (log Z)^2, which keeps the softmax from drifting (1e-5 in Chameleon,
            arXiv:2405.09818).
    """

    causal: ClassVar[bool] = True
    timed: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    shift: ClassVar[int] = 1  # type: ignore[override] - not an option here
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise BraidError(f"autoregressive: z_loss {self.z_loss} must not be negative")

    def block(self, length: int) -> int:
        """Decode one token at a time."""
        return 1

    def source(self, space: Space, n: int, rng: Rng) -> Tensor:
        """Return placeholders; a causal model never reads the token it predicts."""
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        return torch.zeros(space.shape(n), dtype=torch.int64, device=rng.device)

    def corrupt(self, space: Space, clean: Tensor, time: Tensor, rng: Rng) -> Noised:
        """Leave the tokens as they are, at time 1."""
        return Noised(clean, clean, clean, torch.ones_like(time))

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return -log p(token), and the z-loss."""
        loss = cross_entropy(prediction, noised.clean)
        if self.z_loss:
            loss = loss + self.z_loss * wide(prediction).logsumexp(-1).square()
        return per_token(loss)

    def factor(self, noised: Noised, size: int) -> Tensor:
        """Return 1 for each token."""
        return evenly(noised)

    def bound(self, prediction: Tensor, noised: Noised, rng: Rng | None = None) -> Tensor:
        """Return the exact nats of each token."""
        return per_token_sum(cross_entropy(prediction, noised.clean))

    def belief(self, prediction: Tensor, noisy: Tensor, time: float) -> Tensor:
        """Return the most likely symbols."""
        return prediction.argmax(-1)
