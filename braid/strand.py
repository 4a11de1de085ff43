"""One modality, the process that generates it, and its way into and out of the transformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from braid.errors import BraidError
from braid.modalities import Modality
from braid.processes import Noised, Process
from braid.processes.process import each
from braid.samplers import SAMPLERS, Sampler, check, suitable
from braid.spaces import Continuous, SymbolHead

_FREQUENCIES = 32


class Strand(nn.Module):
    """Embedder and head of one modality under one process.

    A strand without a process is context only: it is read through a projector and never written.

    Attributes:
        modality: raw data to tokens and back.
        process: how its tokens are generated, or None.
        sampler: the default way of generating them, or None.
        weight: factor of its loss.
        start: [D] stands for the hidden vector before the first token of a document, where the
            process has a shift.
    """

    def __init__(
        self,
        modality: Modality,
        process: Process | None,
        width: int,
        sampler: Sampler | None = None,
        weight: float = 1.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.modality, self.weight = modality, weight
        self.process = process.bind(modality) if process is not None else None
        self.sampler = sampler
        self.kind = nn.Parameter(torch.zeros(width))
        rows, columns = modality.grid or (0, 0)
        self.row = nn.Parameter(torch.randn(rows, width) * 0.3) if rows else None
        self.column = nn.Parameter(torch.randn(columns, width) * 0.3) if rows else None
        if self.process is None:
            self.embedder, self.head, self.clock, self.start = (
                _projector(modality, width),
                None,
                None,
                None,
            )
            return
        if not modality.generated:
            raise BraidError(f"modality {modality.name!r} is read only; give its strand no process")
        if self.process.shift not in (0, 1):
            raise BraidError(
                f"strand {modality.name!r}: shift {self.process.shift} is not supported; use 0 or 1"
            )
        if self.sampler is None and suitable(self.process):
            self.sampler = SAMPLERS[suitable(self.process)[0]]()
        if self.sampler is not None:
            check(self.sampler, self.process)
        self.embedder = modality.embedder(width, self.process.extra_symbols)
        self.head = modality.head(width)
        if tied:
            _tie(self.embedder, self.head, modality.name)
        self.clock = nn.Linear(2 * _FREQUENCIES, width) if self.process.timed else None
        self.start = nn.Parameter(torch.zeros(width)) if self.process.shift else None

    @property
    def causal(self) -> bool:
        """Whether its tokens see only what came before."""
        return self.process is not None and self.process.causal

    @property
    def shift(self) -> int:
        """How far before a token its prediction is read."""
        return self.process.shift if self.process is not None else 0

    def embed(self, tokens: Tensor, time: Tensor, position: Tensor) -> Tensor:
        """Embed tokens [..., (groups | width)], times [...] and positions [..., 3] as [..., D]."""
        if tokens.is_floating_point():
            # vectors come in float32; the weights may have less
            tokens = tokens.to(self.kind.dtype)
        x = self.embedder(tokens) + self.kind
        if self.row is not None and self.column is not None:
            x = x + self.row[position[..., 1]] + self.column[position[..., 2]]
        return x if self.clock is None else x + self.condition(time).to(x.dtype)

    def condition(self, time: Tensor) -> Tensor:
        """Return what the model is told of the time, [..., D]; zero where it is told nothing.

        It stands in the embedding, and where blocks are modulated (AdaLN) is also what they read.
        """
        if self.clock is None:
            return self.kind.new_zeros(*time.shape, len(self.kind))
        return self.clock(_waves(time).to(self.kind.dtype))

    def read(self, hidden: Tensor) -> Tensor:
        """Predict from hidden vectors [..., D]; symbols as logits, vectors as vectors."""
        if self.head is None:
            raise BraidError(f"strand {self.modality.name!r} is context only; it predicts nothing")
        return self.head(hidden)

    def loss(self, hidden: Tensor, noised: Noised, target: Tensor) -> Tensor:
        """Return the sum of the losses of the targets [N], read from hidden vectors [N, D].

        Where it is a weighted cross-entropy, the logits are never held all at once.
        """
        assert self.process is not None, "only strands with a process predict"
        if isinstance(self.head, SymbolHead):
            factor = self.process.factor(noised, self.head.size)
            if factor is not None:
                factor = torch.where(each(target, factor), factor, 0.0)
                return self.head.entropy(hidden, noised.clean, factor, self.process.z_loss)
        nats = self.process.loss(self.read(hidden), noised)
        return torch.where(target, nats, 0.0).sum()


def _waves(time: Tensor) -> Tensor:
    """Return sines and cosines of times [...] at frequencies from 1 to 1000, [..., 64]."""
    frequency = torch.logspace(0, 3, _FREQUENCIES, device=time.device)
    angle = time.float()[..., None] * frequency * (math.pi / 2)
    return torch.cat([angle.sin(), angle.cos()], -1)


def _projector(modality: Modality, width: int) -> nn.Module:
    """Return a context strand's two-layer projector (arXiv:2310.03744), or a table for symbols."""
    if not isinstance(modality.space, Continuous):
        return modality.space.embedder(width)
    return nn.Sequential(nn.Linear(modality.space.width, width), nn.GELU(), nn.Linear(width, width))


def _tie(embedder: nn.Module, head: nn.Module, name: str) -> None:
    """Let the head use the embedding's rows.

    Only plain symbols without a mask have the same table on both sides.
    """
    table, linear = getattr(embedder, "table", None), getattr(head, "linear", None)
    if table is None or linear is None or table.weight.shape != linear.weight.shape:
        raise BraidError(
            f"strand {name!r} cannot be tied: its embedding and its head have different shapes; "
            "set tied: false"
        )
    linear.weight = table.weight
