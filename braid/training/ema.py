"""An exponential moving average of the weights, for sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from braid.training.gradient import local


class EMA:
    """Average of a model's parameters.

    The decay grows from 0 so that the first steps are forgotten.

    Attributes:
        average: parameter name -> averaged tensor, sharded as the parameter is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {
            n: p.detach().clone() for n, p in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's weights after step 1, 2, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [local(a) for a in self.average.values()],
            [local(p.detach()) for p in model.parameters()],
            1 - decay,
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model use the average for a while."""
        own = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.copy(model, self.average)
        try:
            yield
        finally:
            self.copy(model, own)

    @staticmethod
    @torch.no_grad()
    def copy(model: nn.Module, values: dict[str, Tensor]) -> None:
        """Write tensors into a model's parameters."""
        for name, p in model.named_parameters():
            p.copy_(values[name])
