"""Muon: matrices move along the nearest orthogonal matrix to their momentum, the rest by AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of Jordan et al., 2024: fast, and good enough


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for the groups with "orthogonal", AdamW for all others.

    The update of a matrix has about the size that AdamW's usually has, 0.2 a number (Moonlight,
    arXiv:2502.16982), so that one learning rate and one decay serve both. Weights of more axes, as
    those of convolutions, are matrices [first axis, all others]. torch.optim.Muon takes neither
    these nor vectors, and computes in bfloat16 everywhere, which is slow on most CPUs; here GPUs
    do.

    Of a matrix that is sharded each rank computes the whole update, and keeps its shard.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        momentum: float = 0.95,
    ) -> None:
        """Make an optimiser of groups with "params", "orthogonal", and what AdamW's groups have."""
        groups = [{"momentum": momentum, **group} for group in groups]
        super().__init__(groups, lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [g for g in groups if not g["orthogonal"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                for p in group["params"]:
                    if p.grad is not None:
                        self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())  # AdamW, which restores a state, expects one
            state["momentum"] = torch.zeros_like(p)
        state["step"] += 1
        average, momentum = state["momentum"], group["momentum"]
        average.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(average, momentum)  # Nesterov's
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update(ahead), alpha=-group["lr"])


def update(gradient: Tensor) -> Tensor:
    """Return the update of a weight [out, ...] along a gradient.

    Its root mean square is 0.14 to 0.24, as far as the gradient has no direction that is zero.
    """
    if type(gradient) is not Tensor:  # the import is for those who shard
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(gradient, DTensor), type(gradient)
        whole = update(gradient.full_tensor())
        # every rank has the whole update: none has to be told of it
        return distribute_tensor(
            whole, gradient.device_mesh, gradient.placements, src_data_rank=None
        )
    half = gradient.device.type == "cuda"  # Jordan et al.: bfloat16 is enough
    matrix = gradient.flatten(1).to(torch.bfloat16 if half else torch.float32)
    size = 0.2 * max(matrix.shape) ** 0.5
    return orthogonal(matrix).to(gradient.dtype).mul_(size).view_as(gradient)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the singular vectors of a matrix [m, n] with values of 0.7 to 1.2 for all of them.

    By Newton-Schulz iterations (Jordan et al., 2024): values below 1/500 of the norm come less
    far.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


def operations(shape: Sequence[int]) -> float:
    """Return the operations of `orthogonal` for a weight of a shape [out, ...]."""
    m, n = sorted((shape[0], math.prod(shape[1:])))
    return _STEPS * (4.0 * m * m * n + 2.0 * m**3)
