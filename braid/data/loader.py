"""Batches as a function of the step.

Order, tasks and noise follow from the seed and the position alone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from braid.braid import Braid
from braid.data.sources import Checked, Source
from braid.data.tasks import Documents, Encoded
from braid.errors import BraidError
from braid.layout import Batch, Document, fit, pack, room
from braid.modalities import Tokens
from braid.randomness import Keys, derive, uniform


@dataclass(frozen=True)
class Stream:
    """One source of a mixture.

    Attributes:
        source: raw examples.
        documents: what is made of them.
        weight: share of the batch, beside the other streams' weights.
        match: two fields whose embeddings are pulled together.
    """

    source: Source
    documents: Documents
    weight: float = 1.0
    match: tuple[str, str] | None = None


class Loader:
    """Makes the batch of any step: position -> stream, example, task and document."""

    def __init__(
        self,
        streams: Sequence[Stream],
        braid: Braid,
        batch: int,
        seed: int,
        row: int | None = None,
        bad_limit: float = 0.01,
    ) -> None:
        """Make a loader.

        Args:
            streams: where documents come from.
            braid: the model, for how its spans are laid out.
            batch: documents of a step.
            seed: of order, tasks and noise.
            row: pack documents into rows of this many tokens.
            bad_limit: largest share of unreadable rows of a stream.
        """
        self.batch_size, self.seed, self.row, self.braid = batch, seed, row, braid
        self.streams = list(streams)
        weights = torch.tensor([s.weight for s in streams], dtype=torch.float64)
        if not len(weights) or float(weights.min()) < 0 or not float(weights.sum()) > 0:
            raise BraidError(
                f"data.mix weights {weights.tolist()}: give one above 0, and none below"
            )
        if sum(s.match is not None for s in self.streams) > 1:
            raise BraidError("data.match: only one source of a mixture can be matched")
        self._share = weights.cumsum(0) / weights.sum()
        self.rows = [
            Checked(
                s.source,
                s.documents.encode,
                size_of=_size,
                cache_bytes=(512 << 20) // len(self.streams),
                limit=bad_limit,
                fields=sorted({s.documents.columns[m] for m, _ in s.documents.needs}),
            )
            for s in streams
        ]
        self._orders: dict[int, tuple[int, Tensor]] = {}

    @property
    def skipped(self) -> int:
        """Number of rows that could not be used so far."""
        return sum(sum(rows.skipped.values()) for rows in self.rows)

    def chosen(self, positions: Tensor) -> list[int]:
        """Return the stream of each global position."""
        if len(self.streams) == 1:
            return [0] * len(positions)
        u = uniform(Keys(derive(Keys.of(self.seed, positions).key, "stream")), (len(positions), 1))
        return torch.searchsorted(self._share, u[:, 0].double(), right=True).tolist()

    def examples(self, positions: Tensor, stream: int = 0) -> list[int]:
        """Return the row of a stream's source at each global position.

        Each epoch has its own order.
        """
        n = len(self.rows[stream])
        out = []
        for p in positions.tolist():
            epoch, order = self._orders.get(stream, (-1, torch.empty(0)))
            if p // n != epoch:
                epoch = p // n
                seed = int(derive(torch.tensor([self.seed]), "order", epoch)[0])
                order = torch.randperm(
                    n, generator=torch.Generator().manual_seed(seed & (2**63 - 1))
                )
                self._orders[stream] = epoch, order
            out.append(int(order[p % n]))
        return out

    def at(self, first: int, size: int) -> Batch:
        """Return the batch of the documents at global positions first .. first + size - 1."""
        positions = torch.arange(first, first + size)
        keys = Keys.of(self.seed, positions).key
        made: list[Document] = [[]] * size
        chosen = self.chosen(positions)
        for stream in sorted(set(chosen)):
            mine = [j for j, c in enumerate(chosen) if c == stream]
            documents = self.streams[stream].documents
            for j, i, choice in zip(
                mine,
                self.examples(positions[mine], stream),
                documents.draw(keys[mine]),
                strict=True,
            ):
                made[j] = documents.make(choice, self.rows[stream].get(i))
        if self.row is None:
            rows = [[j] for j in range(size)]
        else:
            placements, twins = self.braid.placements, self.braid.rule.cacheable
            rows = fit([room(d, placements, twins) for d in made], self.row)
        return pack(
            [[made[j] for j in row] for row in rows],
            self.braid.placements,
            self.row,
            samples=[[int(positions[j]) for j in row] for row in rows],
            twins=self.braid.rule.cacheable,
        )

    def pairs(self, first: int, size: int) -> tuple[Batch, Batch, Tensor] | None:
        """Return the two sides of data.match at global positions, and which rows are the same.

        None where no stream matches anything.
        """
        found = next((i for i, s in enumerate(self.streams) if s.match and s.weight), None)
        if found is None:
            return None
        stream, rows = self.streams[found], self.rows[found]
        assert stream.match is not None, "just looked for"
        encoded = [rows.get(i) for i in self.examples(torch.arange(first, first + size), found)]
        sides = []
        for field in stream.match:
            made = [[stream.documents.context(field, e)] for e in encoded]
            sides.append(made)
        raw = [
            tuple(d[0].tokens.flatten().tolist() for d in pair) for pair in zip(*sides, strict=True)
        ]
        same = torch.tensor([[bool(a[0] == b[0] or a[1] == b[1]) for b in raw] for a in raw])
        a, b = (pack([[d] for d in side], self.braid.placements, twins=False) for side in sides)
        return a, b, same

    def steps(self, first: int, accumulate: int = 1) -> Generator[list[Batch]]:
        """Yield the micro-batches of each step from `first` on, one step ahead of its use."""
        size = self.batch_size // accumulate

        def make(step: int) -> list[Batch]:
            start = step * self.batch_size
            return [self.at(start + i * size, size) for i in range(accumulate)]

        with ThreadPoolExecutor(1) as pool:
            step = first
            ahead = pool.submit(make, step)
            while True:
                now = ahead.result()
                step += 1
                ahead = pool.submit(make, step)
                yield now


def _size(encoded: Encoded) -> int:
    """Return the bytes of an encoded example."""
    total = 0
    for value in encoded.values():
        spans = (
            [value] if isinstance(value, Tokens) else [t for x in value for t in (x.given, x.final)]
        )
        total += sum(tokens.values.nbytes for tokens in spans)
    return total
