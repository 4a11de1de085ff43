"""Batches as a function of the position of their first document.

Order, tasks and noise follow from the seed and the position alone, so every rank and every worker
makes its part of a batch without a word to the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from braid.braid import Braid
from braid.data.ahead import ahead, never
from braid.data.order import rows_at
from braid.data.parcel import Parcel, sealed, unsealed
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


_BESIDE = 1000
"""Bytes that an encoded span takes beside its numbers; of a short text they are most."""

Sample = tuple[int, int]
"""(stream, row of its source)."""


@dataclass(frozen=True)
class Step:
    """What one rank trains on in a step.

    Attributes:
        position: global position of the first document of the step, of all ranks.
        batches: its micro-batches.
        samples: the row that each of its documents was made of, micro-batch by micro-batch.
        skipped: how many of its positions met a bad row, by reason; `samples` has what took its
            place. Follows from the positions alone, so sums over ranks and steps are exact.
    """

    position: int
    batches: list[Batch]
    samples: list[Sample]
    skipped: dict[str, int]


@dataclass
class _Made:
    """What follows from some positions."""

    documents: list[Document]
    samples: list[Sample]
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _News:
    """What a worker has to tell beside a step.

    Attributes:
        step: the step.
        bad: stream, row, reason and message of rows that this worker had not met before.
        converted: strand -> how often its raw data was converted, by what was done.
    """

    step: Parcel[Step]
    bad: list[tuple[int, int, str, str]]
    converted: dict[str, Counter[str]]


class Loader:
    """Makes the batch of any positions: position -> stream, example, task and document."""

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
            batch: documents of a step, of all ranks.
            seed: of order, tasks and noise.
            row: pack documents into rows of this many tokens; what does not fit is a bad row.
            bad_limit: largest share of a stream's rows that this process, with its workers, may
                find bad.
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
                s.documents.encode if row is None else self._fitting(s.documents, row),
                size_of=_size,
                cache_bytes=(512 << 20) // len(self.streams),
                limit=bad_limit,
                fields=sorted({s.documents.columns[m] for m, _ in s.documents.needs}),
            )
            for s in streams
        ]

    @property
    def skipped(self) -> int:
        """Number of rows that this process, with its workers, found bad so far."""
        return sum(sum(rows.skipped.values()) for rows in self.rows)

    def describe(self, sample: Sample) -> str:
        """Return words by which a user finds a sample."""
        stream, row = sample
        return self.rows[stream].source.describe(row)

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
        return rows_at(self.seed, positions, len(self.rows[stream])).tolist()

    def at(self, first: int, size: int) -> Batch:
        """Return the batch of the documents at global positions first .. first + size - 1."""
        return self._packed(first, self._made(first, size).documents)

    def _made(self, first: int, size: int) -> _Made:
        """Return the documents of global positions first .. first + size - 1."""
        positions = torch.arange(first, first + size)
        keys = Keys.of(self.seed, positions).key
        out = _Made([[]] * size, [(0, 0)] * size)
        chosen = self.chosen(positions)
        for stream in sorted(set(chosen)):
            mine = [j for j, c in enumerate(chosen) if c == stream]
            documents = self.streams[stream].documents
            examples = self.examples(positions[mine], stream)
            for j, i, choice in zip(mine, examples, documents.draw(keys[mine]), strict=True):
                found = self.rows[stream].find(i)
                out.documents[j] = documents.make(choice, found.encoded)
                out.samples[j] = stream, found.row
                if found.reason is not None:
                    out.skipped[found.reason] += 1
        return out

    def _fitting(self, documents: Documents, row: int) -> Callable[[Mapping[str, Any]], Encoded]:
        """Return what encodes an example, and refuses one whose documents do not all fit a row.

        Whether an example is bad must follow from itself alone, not from the task that is drawn.
        """
        placements, twins = self.braid.placements, self.braid.rule.cacheable

        def encode(raw: Mapping[str, Any]) -> Encoded:
            encoded = documents.encode(raw)
            for document in documents.longest(encoded):
                if (length := room(document, placements, twins)) > row:
                    raise BraidError(
                        f"a document of {length} tokens does not fit a row of {row}; shorten it, "
                        "or begin a run with a higher data.row"
                    )
            return encoded

        return encode

    def _packed(self, first: int, documents: list[Document]) -> Batch:
        """Lay out the documents of global positions from `first` on."""
        placements, twins = self.braid.placements, self.braid.rule.cacheable
        if self.row is None:
            rows = [[j] for j in range(len(documents))]
        else:
            rows = fit([room(d, placements, twins) for d in documents], self.row)
        return pack(
            [[documents[j] for j in row] for row in rows],
            placements,
            self.row,
            samples=[[first + j for j in row] for row in rows],
            twins=twins,
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
        for name in stream.match:
            made = [[stream.documents.context(name, e)] for e in encoded]
            sides.append(made)
        raw = [
            tuple(d[0].tokens.flatten().tolist() for d in pair) for pair in zip(*sides, strict=True)
        ]
        same = torch.tensor([[bool(a[0] == b[0] or a[1] == b[1]) for b in raw] for a in raw])
        a, b = (pack([[d] for d in side], self.braid.placements, twins=False) for side in sides)
        return a, b, same

    def steps(
        self,
        position: int,
        accumulate: int = 1,
        *,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        stopped: Callable[[], bool] = never,
        seconds: float = 600.0,
    ) -> Generator[Step]:
        """Yield a rank's part of every step from a position on, made ahead of its use.

        A step is cut into micro-batches, and each of them into equal shares, in order of rank. What
        is yielded depends on the number of workers in nothing. Ends where a step is not ready and
        `stopped()` is true; close it to end the workers.

        Args:
            position: global position of the first document.
            accumulate: micro-batches of a step.
            rank: number of this rank.
            ranks: how many there are.
            workers: processes that read; none leave it to a thread.
            stopped: is asked while a step is waited for.
            seconds: how long a step is waited for.

        Raises:
            BraidError: the batch cannot be cut evenly; and, when a step is taken: more rows are bad
                than bad_limit allows, a worker died, or a step took too long.
        """
        parts = max(1, accumulate) * max(1, ranks)
        assert 0 <= rank < ranks, f"rank {rank} of {ranks}"
        if self.batch_size % parts or accumulate < 1:
            raise BraidError(
                f"train.batch {self.batch_size} is not a multiple of train.accumulate {accumulate} "
                f"x {ranks} ranks; change one of them"
            )
        share = self.batch_size // parts

        def make(number: int) -> Step:
            first = position + number * self.batch_size
            starts = [first + (i * ranks + rank) * share for i in range(accumulate)]
            made = [self._made(start, share) for start in starts]
            return Step(
                first,
                [self._packed(s, m.documents) for s, m in zip(starts, made, strict=True)],
                [sample for m in made for sample in m.samples],
                dict(sum((m.skipped for m in made), Counter[str]())),
            )

        if not workers:
            return ahead(make, 0, stopped, seconds)
        return self._steps_of_workers(make, workers, stopped, seconds)

    def _steps_of_workers(
        self,
        make: Callable[[int], Step],
        workers: int,
        stopped: Callable[[], bool],
        seconds: float,
    ) -> Generator[Step]:
        """Yield steps that processes make, after what they had to tell."""
        bad: list[tuple[int, int, str, str]] = []
        modalities = {n: s.modality for n, s in self.braid.strands.items()}

        def prepare() -> None:
            for stream, rows in enumerate(self.rows):
                rows.share(workers)
                rows.on_skip = lambda i, message, stream=stream: bad.append(
                    (stream, i, self.rows[stream].why(i), message)
                )

        def told(number: int) -> _News:
            before = {n: Counter(m.converted) for n, m in modalities.items()}
            bad.clear()
            step = sealed(make(number))
            converted = {n: Counter(m.converted) - before[n] for n, m in modalities.items()}
            return _News(step, list(bad), converted)

        made = ahead(told, workers, stopped, seconds, prepare)
        try:
            for news in made:
                for stream, row, reason, message in news.bad:
                    self.rows[stream].refuse(row, reason, message)
                for name, counts in news.converted.items():
                    if isinstance(known := modalities[name].converted, Counter):
                        known.update(counts)
                yield unsealed(news.step)
        finally:
            made.close()


def _size(encoded: Encoded) -> int:
    """Return the bytes of an encoded example."""
    spans: dict[int, Tokens] = {}  # several needs may share one
    for value in encoded.values():
        for tokens in (
            [value] if isinstance(value, Tokens) else [t for x in value for t in (x.given, x.final)]
        ):
            spans[id(tokens)] = tokens
    return sum(_BESIDE + tokens.values.nbytes for tokens in spans.values())
