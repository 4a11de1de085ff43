"""Shape logits before a symbol is drawn: temperature, top-k, top-p and min-p."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.processes.draws import LEAST, add_groups, blocks, invert, members, running, search
from braid.randomness import Rng, uniform

PENDING = -1
"""In place of a symbol: it is drawn only if it is still there when the step is done."""

_LIKELY = 256  # symbols that are ranked first for top_p, which they nearly always reach


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

    @property
    def filters(self) -> bool:
        """Whether symbols are dropped."""
        return (self.top_k, self.top_p, self.min_p) != (0, 1, 0)

    def filtered(self, logits: Tensor) -> Tensor:
        """Return logits [..., V] over the temperature, -inf where a symbol is not kept."""
        logits = logits.float()
        top = logits.amax(-1, keepdim=True)
        least = self.least(logits, top, self.weights(logits, top))
        if self.temperature not in (0, 1):  # shifted first: a tiny temperature must not overflow
            kept, logits = logits >= least, (logits - top) / max(self.temperature, 1e-38)
            return logits.masked_fill_(~kept, -torch.inf)
        return logits.masked_fill(logits < least, -torch.inf)

    def weights(self, logits: Tensor, top: Tensor, out: Tensor | None = None) -> Tensor:
        """Return exp((logits - top) / temperature), as no filter has changed it.

        It is at least 2^-64; such a symbol is never drawn.
        """
        scale = min(math.log2(math.e) / (self.temperature or 1), 3e38)
        return torch.sub(logits, top, out=out).mul_(scale).clamp_(min=LEAST).exp2_()

    def least(self, logits: Tensor, top: Tensor, weight: Tensor) -> Tensor:
        """Return the least logit that is kept, [..., 1]; those equal to it are kept as well.

        Args:
            logits: [..., V] float32.
            top: [..., 1] the largest of them.
            weight: [..., V] their weights.
        """
        least = torch.full_like(top, -torch.inf)
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
        if self.min_p:
            least = torch.maximum(least, top + (self.temperature or 1) * math.log(self.min_p))
        if self.top_p < 1:
            total = (weight * (logits >= least)).sum(-1, keepdim=True)
            least = torch.maximum(least, self._nucleus(logits, top, total * self.top_p))
        return least

    def _nucleus(self, logits: Tensor, top: Tensor, enough: Tensor) -> Tensor:
        """Return the logit at which the weights of the likeliest symbols add up to `enough`."""
        V = logits.shape[-1]
        for most in (min(_LIKELY, V), V // 4, V):
            ranked = logits.topk(most, -1).values
            weight = self.weights(ranked, top)
            before = weight.cumsum(-1) - weight
            if most == V or bool((before[..., -1:] >= enough).all()):
                break
        count = (before < enough).sum(-1, keepdim=True)  # the symbol that crosses is kept
        return ranked.gather(-1, (count - 1).clamp(min=0))

    def draw(self, logits: Tensor, rng: Rng) -> Tensor:
        """Draw symbols [...] from logits [..., V]."""
        return self.begin(logits, rng).all()

    def begin(self, logits: Tensor, rng: Rng) -> Draw:
        """Take the random numbers of a draw, and leave the symbols for later."""
        shape = tuple(logits.shape[:-1])
        return Draw(self, logits.detach(), uniform(rng, shape) if self.temperature else None)


@dataclass(frozen=True, eq=False)
class Draw:
    """A draw whose random numbers are taken; which symbols they give is found where it is asked.

    Attributes:
        drawing: the options.
        logits: [..., V].
        mark: [...] uniform in (0, 1); None where the likeliest symbol is taken.
    """

    drawing: Drawing
    logits: Tensor
    mark: Tensor | None

    def all(self) -> Tensor:
        """Return all symbols [...]."""
        return self.symbols(None).view(self.logits.shape[:-1])

    def fill(self, x: Tensor) -> Tensor:
        """Return x [...] with symbols where it is PENDING."""
        rows = (x == PENDING).flatten().nonzero()[:, 0]
        return x.flatten().index_copy(0, rows, self.symbols(rows)).view_as(x)

    def symbols(self, rows: Tensor | None) -> Tensor:
        """Return the symbols [n] of rows: [n] int64 flat numbers, or None for all."""
        if not self.logits.numel() or (rows is not None and not len(rows)):
            return torch.zeros(0, dtype=torch.int64, device=self.logits.device)
        if self.mark is None:
            return torch.cat([block.argmax(-1) for _, block in self._blocks(rows)])
        sums: list[Tensor] = []  # of the weights of each group of symbols
        ends: list[Tensor] = []  # the largest logit and the least that is kept
        space: Tensor | None = None
        for _, block in self._blocks(rows):
            block = block.float()
            top = block.amax(-1, keepdim=True)
            space = torch.empty_like(block) if space is None else space[: len(block)]
            weight = self.drawing.weights(block, top, out=space)
            least = self.drawing.least(block, top, weight)
            if self.drawing.filters:
                weight.masked_fill_(block < least, 0)
            sums.append(add_groups(weight))
            ends.append(torch.cat([top, least], 1))
        return self._inside(rows, torch.cat(sums), torch.cat(ends))

    def _inside(self, rows: Tensor | None, sums: Tensor, ends: Tensor) -> Tensor:
        """Find the group of each row by its sums, and the symbol in it by its weights."""
        V, mark = self.logits.shape[-1], self.mark
        assert mark is not None, "asked only where there is something to draw"
        if rows is None:
            rows = torch.arange(len(sums), device=sums.device)
        total = running(sums)
        group, rest = search(total, mark.flatten()[rows].to(total.dtype) * total[:, -1])
        index = members(group, V)  # [n, size]
        near = self.logits.reshape(-1, V)[rows[:, None], index.clamp(max=V - 1)].float()
        top, least = ends[:, :1], ends[:, 1:]
        weight = self.drawing.weights(near, top)
        weight = weight.masked_fill_((near < least) | (index >= V), 0)
        return (index[:, 0] + search(running(weight), rest)[0]).clamp_(max=V - 1)

    def judged(
        self, rows: Tensor, judge: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the symbols [n] of rows [n] and what the judge thinks of each, float32 [n].

        It takes the model's probabilities [k, V], which no option has changed, and the symbols [k].
        """
        plain = self.mark is not None and not self.drawing.filters and self.drawing.temperature == 1
        drawn = None if plain else self.symbols(rows)
        symbols = torch.empty_like(rows) if drawn is None else drawn
        thought = torch.empty(len(rows), device=rows.device)
        for at, block in self._blocks(rows):
            p = block.float().softmax(-1)
            if drawn is None and self.mark is not None:
                symbols[at] = invert(p, self.mark.flatten()[rows[at]])[0]
            thought[at] = judge(p, symbols[at])
        return symbols, thought

    def _blocks(self, rows: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """Yield which of the rows, and their logits [k, V]."""
        V = self.logits.shape[-1]
        logits = self.logits.reshape(-1, V)
        space: Tensor | None = None  # one for all blocks: the heap would come to hold many
        for part in blocks(len(logits) if rows is None else len(rows), V, logits.device):
            if rows is None:
                yield part, logits[part]
                continue
            at = rows[part]
            space = logits.new_empty(len(at), V) if space is None else space[: len(at)]
            yield part, torch.index_select(logits, 0, at, out=space)
