"""Cross-entropy of a linear layer's logits that never holds all of them.

At 100 000 symbols the logits of a batch are larger than the model. Here the rows are taken in
chunks: a chunk's logits, its loss and its share of both gradients are computed while the logits are
at hand, in one buffer that all chunks share. That is as much work as the plain form, which holds
the logits, their softmax and its gradient for all rows at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from braid.errors import BraidError

_ELEMENTS, _LEAST_ROWS = {"cpu": 1 << 24}, 128
"""Logits of a chunk by kind of device, and its least rows: each chunk passes over the gradient of
the weight once more, so that small ones are slow."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    symbols: Tensor,
    factor: Tensor,
    z_loss: float = 0.0,
    rows: int | None = None,
) -> Tensor:
    """Return the sum of factor (-log p(symbol) + z_loss log^2 Z), a scalar of at least float32.

    Z is the sum of a group's exponentials. The result can be differentiated once, with respect to
    `hidden` and `weight`. Rows whose factors are all 0 cost nothing on a CPU. Under autocast the
    products are computed in its type, and gradients are still added up in the weight's.

    Args:
        hidden: [N, D].
        weight: [groups * V, D]; logits are hidden weight^T.
        symbols: [N] or [N, groups] int64.
        factor: in the shape of `symbols`, a constant.
        z_loss: weight of the squared logarithm of Z.
        rows: rows of a chunk; None chooses them by the size of their logits.
    """
    if symbols.shape != factor.shape or len(symbols) != len(hidden):
        raise BraidError(
            f"cross-entropy of hidden {tuple(hidden.shape)}: symbols {tuple(symbols.shape)} and "
            f"factor {tuple(factor.shape)} must have one shape, with as many rows"
        )
    if factor.device.type == "cpu":  # elsewhere it would wait for the device
        used = factor.flatten(1).any(1) if factor.ndim > 1 else factor != 0
        if not bool(used.all()):
            hidden, symbols, factor = hidden[used], symbols[used], factor[used]
    if rows is None:
        rows = chunk(len(weight), hidden.device.type)
    groups = symbols[0].numel() if len(symbols) else 1
    kind, device = hidden.dtype, hidden.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    return _Chunked.apply(
        hidden,
        weight,
        symbols.reshape(-1, groups),
        factor.reshape(-1, groups),
        z_loss,
        rows,
        kind,
        torch.is_grad_enabled(),
    )


def chunk(logits: int, device: str) -> int:
    """Return the rows of a chunk, for logits of a row on a kind of device."""
    return max(_LEAST_ROWS, _ELEMENTS.get(device, 1 << 27) // logits)


class _Chunked(torch.autograd.Function):
    """The sum over chunks; gradients are made in the forward pass and scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        symbols: Tensor,
        factor: Tensor,
        z_loss: float,
        rows: int,
        kind: torch.dtype,
        graded: bool,
    ) -> Tensor:
        """Add up the chunks; symbols and factor are [N, groups]."""
        (n, groups), wide = symbols.shape, torch.promote_types(kind, torch.float32)
        rows, size = max(1, min(rows, n)), len(weight) // groups
        h, w, factor = hidden.to(kind), weight.to(kind), factor.to(wide)
        buffer = torch.empty(rows, len(weight), dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if graded and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if graded and ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, n, rows):
                part = slice(start, start + rows)
                logits = _product(h[part], w.T, buffer[: len(h[part])])
                grouped, f = logits.view(-1, groups, size), factor[part, :, None]
                nats, log_z = _nats(grouped, symbols[part, :, None])
                total += (f * (nats + z_loss * log_z.square())).sum()
                if d_hidden is None and d_weight is None:
                    continue
                # d loss / d logits = factor ((1 + 2 z log Z) p - [symbol])
                grouped.mul_(f * (1 + 2 * z_loss * log_z))
                grouped.scatter_add_(-1, symbols[part, :, None], -f)
                d_logits = logits.to(kind)
                if d_hidden is not None:
                    d_hidden[part] = d_logits @ w
                if d_weight is not None and d_weight.dtype == kind:
                    d_weight.addmm_(d_logits.T, h[part])
                elif d_weight is not None:
                    d_weight += d_logits.T @ h[part]
        ctx.gradients = d_hidden, d_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Scale the gradients, in place: they are as large as the weight."""
        if ctx.gradients is None:
            raise BraidError(
                "the gradient of this cross-entropy was already taken; compute the loss again, or "
                "add losses before their gradient is taken"
            )
        scaled = [None if g is None else g.mul_(grad.to(g.dtype)) for g in ctx.gradients]
        ctx.gradients = None
        return *scaled, None, None, None, None, None, None


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write a b into `out`, which may have a wider type."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return out.copy_(a @ b)


def _nats(logits: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits [n, groups, V] into probabilities, in place.

    Return -log p of symbols [n, groups, 1] and log Z, both [n, groups, 1].
    """
    at = logits.gather(-1, symbols)
    top = logits.amax(-1, keepdim=True)
    z = logits.sub_(top).exp_().sum(-1, keepdim=True)
    logits.div_(z)
    log_z = z.log() + top
    return log_z - at, log_z
