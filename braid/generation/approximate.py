"""Caches that are not exact: what stands outside the block at hand keeps old keys and values.

Under a rule that lets everything see everything, every uncovered symbol changes the keys and values
of all others, a little. Decoding block by block, most of that may be left out until the next block
begins: Fast-dLLM (arXiv:2505.22618) calls it prefix cache where what follows the block is read
again, and dual cache where it is not. Results differ from exact ones, a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError, unknown
from braid.generation.context import Context, Place, Reading, RereadContext, Transform
from braid.samplers import Sampler


@dataclass(frozen=True)
class BlockCache:
    """Makes contexts that read a document again only when a block begins.

    Serves masked decoding block by block (`Confidence(size_of_block=...)`) of symbols that are
    predicted at their own place; all else is read exactly. The rows of a batch share the moments at
    which everything is read, so what one row gets may depend on the others.

    Attributes:
        block: tokens of a block, as the sampler's size_of_block.
        kind: "dual" reads only the block again at each step, "prefix" also what follows it.
        refresh: predictions after which everything is read again within a block; None is never.
    """

    block: int
    kind: Literal["dual", "prefix"] = "dual"
    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise BraidError(f"a cache's block {self.block} must be at least 1")
        if self.kind not in ("dual", "prefix"):
            raise unknown("kind of cache", self.kind, ("dual", "prefix"))
        if self.refresh is not None and self.refresh < 1:
            raise BraidError(f"a cache's refresh {self.refresh} must be at least 1, or none")

    @staticmethod
    def parse(text: str) -> BlockCache:
        """Read "dual:16" or "prefix:16", with ":4" behind it for a refresh.

        Raises:
            BraidError: the text says something else.
        """
        kind, *numbers = text.split(":")
        if not 1 <= len(numbers) <= 2 or not all(n.isdecimal() and len(n) < 10 for n in numbers):
            raise BraidError(
                f"cache {text[:40]!r} is not understood; write it as dual:16 or prefix:16:4"
            )
        refresh = int(numbers[1]) if len(numbers) == 2 else None
        return BlockCache(int(numbers[0]), kind, refresh)  # type: ignore[arg-type]

    def check(self, braid: Braid, name: str, sampler: Sampler) -> None:
        """Refuse a sampler that uncovers symbols outside of the block at hand.

        It would draw them from predictions that know nothing of what has been drawn since.

        Raises:
            BraidError: the strand's symbols would be read approximately, and not block by block.
        """
        if braid.rule.cacheable or not _masked(braid, name):
            return
        if getattr(sampler, "size_of_block", None) != self.block:
            raise BraidError(
                f"a cache of blocks of {self.block} does not serve {sampler} of {name!r}; give "
                f"sampler=Confidence(size_of_block={self.block}), or no cache"
            )

    def __call__(self, braid: Braid, rows: int, transform: Transform | None = None) -> Context:
        """Make a context of so many rows; the exact one where finished spans never look forward."""
        from braid.generation.context import make

        if braid.rule.cacheable:
            return make(braid, rows, transform)
        return _BlockContext(braid, rows, transform, self)


def _masked(braid: Braid, name: str) -> bool:
    """Whether a strand's symbols are masked and predicted at their own place, time untold."""
    strand = braid.strand(name)
    masked = getattr(getattr(strand.process, "path", None), "masked", False)
    return masked and not strand.shift and not braid.transformer.config.adaln


class _BlockContext(RereadContext):
    """Reads everything when a block begins, and then only what is at hand."""

    def __init__(
        self, braid: Braid, rows: int, transform: Transform | None, options: BlockCache
    ) -> None:
        super().__init__(braid, rows, transform)
        self.options = options
        self._kept: Reading | None = None
        self._of: tuple[str, int, int] | None = None  # what the reading was made for
        self._logits = torch.empty(0)
        self._age = 0

    def of(self, rows: Tensor) -> _BlockContext:
        """Return a context of some rows, which reads everything at its next prediction."""
        out = _BlockContext(self.braid, len(rows), self.transform, self.options)
        out.chunks = super().of(rows).chunks
        return out

    def predict(self, name: str, x: Tensor, time: Tensor, place: Place) -> Tensor:
        """Predict; only what stands in the block at hand is up to date."""
        strand = self.braid.strand(name)
        if not _masked(self.braid, name):
            return super().predict(name, x, time, place)
        now = self._now(x, strand.modality.space.size)  # type: ignore[union-attr]
        of = (name, now.start, len(self.chunks))
        old = self.options.refresh is not None and self._age >= self.options.refresh
        if self._kept is None or of != self._of or old:
            self._kept = self._read_all(name, x, time, place)
            self._logits = self._predicted(name, self._kept.hidden, self._kept.columns)
            self._of, self._age = of, 1
            return self._logits
        self._age += 1
        hidden = self._run(name, x[:, now], time[:, now], place.position[:, now], now)
        logits = self._logits.clone()
        logits[:, now] = strand.read(hidden)
        return logits

    def _now(self, x: Tensor, mask: int) -> slice:
        """Return the block that holds the first symbol which is still masked in some row."""
        covered = (x == mask).flatten(2).any(-1).any(0) if x.ndim > 2 else (x == mask).any(0)
        first = int(covered.int().argmax()) if bool(covered.any()) else 0
        start = first // self.options.block * self.options.block
        end = start + self.options.block if self.options.kind == "dual" else x.shape[1]
        return slice(start, min(end, x.shape[1]))

    def _run(self, name: str, x: Tensor, time: Tensor, position: Tensor, now: slice) -> Tensor:
        """Run some tokens against the kept keys and values of all others, [B, n, D]."""
        kept = self._kept
        assert kept is not None, "a block begins with a reading"
        columns = kept.columns[:, now]
        L = kept.mask.shape[-1]
        seen = kept.mask.gather(1, columns[..., None].expand(-1, -1, L))  # [B, n, L]
        own = seen.gather(2, columns[:, None].expand(-1, columns.shape[1], -1))
        stale = torch.zeros_like(seen).scatter(
            2, columns[:, None].expand(-1, columns.shape[1], -1), True
        )
        visible = torch.cat([seen & ~stale, own], 2)
        hidden = self.braid.strand(name).embed(x, time, position)
        return self.transform(hidden, position, visible, kept.past)[0]
