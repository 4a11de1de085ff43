"""Batches as a function of the step.

Order, tasks and noise follow from the seed and the position alone.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from braid.braid import Braid
from braid.data.sources import Checked, Source
from braid.data.tasks import Documents, Encoded
from braid.layout import Batch, Document, fit, pack, room
from braid.randomness import Keys, derive


class Loader:
    """Makes the batch of any step: position -> example, task and document."""

    def __init__(
        self,
        source: Source,
        documents: Documents,
        braid: Braid,
        batch: int,
        seed: int,
        row: int | None = None,
        bad_limit: float = 0.01,
    ) -> None:
        self.documents, self.batch_size, self.seed, self.row = documents, batch, seed, row
        self.braid = braid
        self.rows = Checked(
            source,
            self._encode,
            size_of=lambda e: sum(t.nbytes for t in e.values()),
            limit=bad_limit,
            fields=sorted({documents.modalities[m].field for m, _ in documents.needs}),
        )
        self._epoch = -1
        self._order = torch.empty(0)

    def _encode(self, raw: dict[str, object]) -> Encoded:
        modalities = self.documents.modalities
        return {
            (m, after): modalities[m].encode(raw[modalities[m].field], after)
            for m, after in sorted(self.documents.needs, key=str)
        }

    def examples(self, positions: Tensor) -> list[int]:
        """Return the row of the source at each global position; each epoch has its own order."""
        n = len(self.rows)
        out = []
        for p in positions.tolist():
            if p // n != self._epoch:
                self._epoch = p // n
                seed = int(derive(torch.tensor([self.seed]), "order", self._epoch)[0])
                self._order = torch.randperm(
                    n, generator=torch.Generator().manual_seed(seed & (2**63 - 1))
                )
            out.append(int(self._order[p % n]))
        return out

    def at(self, first: int, size: int) -> Batch:
        """Return the batch of the documents at global positions first .. first + size - 1."""
        positions = torch.arange(first, first + size)
        keys = Keys.of(self.seed, positions).key
        choices = self.documents.draw(keys)
        made: list[Document] = [
            self.documents.make(choice, self.rows.get(i))
            for i, choice in zip(self.examples(positions), choices, strict=True)
        ]
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
