"""Shape logits before a symbol is drawn: temperature, top-k, top-p and min-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.randomness import Rng, categorical


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a symbol is drawn from logits; the shared options of all samplers of symbols.

    Attributes:
        temperature: divides the logits; 0 takes the most likely symbol.
        top_k: keep the k most likely symbols; 0 keeps all.
        top_p: keep the smallest set whose probability reaches p (arXiv:1904.09751); 1 keeps all.
        min_p: keep symbols at least min_p times as likely as the likeliest (arXiv:2407.01082); 0
            keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise BraidError(
                f"temperature {self.temperature} must be 0 (most likely symbol) or more"
            )
        if self.top_k < 0:
            raise BraidError(f"top_k {self.top_k} must be 0 (all symbols) or more")
        if not 0 < self.top_p <= 1:
            raise BraidError(f"top_p {self.top_p} is out of range; use more than 0, up to 1")
        if not 0 <= self.min_p <= 1:
            raise BraidError(f"min_p {self.min_p} is out of range; use 0 up to 1")

    def filtered(self, logits: Tensor) -> Tensor:
        """Return logits [..., V] over the temperature, -inf where a symbol is not kept."""
        logits = logits.float()
        if self.temperature not in (0, 1):  # shifted first: a tiny temperature must not overflow
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.min_p:
            p = logits.softmax(-1)
            logits = logits.masked_fill(p < self.min_p * p.amax(-1, keepdim=True), -torch.inf)
        if self.top_p < 1:
            ranked, order = logits.sort(-1, descending=True)
            p = ranked.softmax(-1)
            beyond = p.cumsum(-1) - p >= self.top_p  # the symbol that crosses p is kept
            logits = logits.masked_fill(
                torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf
            )
        return logits

    def draw(self, logits: Tensor, rng: Rng) -> Tensor:
        """Draw symbols [...] from logits [..., V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return categorical(rng, self.filtered(logits))
