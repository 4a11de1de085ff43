"""Documents as lists of spans, and the layout of documents packed into the rows of a batch."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.randomness import derive


@dataclass(frozen=True)
class Span:
    """A run of clean tokens of one modality.

    Attributes:
        modality: name of the strand that reads or writes it.
        tokens: [n] or [n, groups] symbols, or [n, width] vectors, clean.
        target: learn to generate it; a bool tensor [n] marks single tokens, the others are held as
            context.
        private: seen only by itself (the noised twin of a clean span).
        shape: shape of the span in tokens, for positions: (n,) for a sequence, (rows, columns) for
            a picture.
    """

    modality: str
    tokens: Tensor
    target: bool | Tensor = True
    private: bool = False
    shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> Tensor:
        """Return [n] bool: which tokens are learned."""
        if isinstance(self.target, Tensor):
            return self.target
        return torch.full((len(self),), self.target)


Document = list[Span]


@dataclass(frozen=True)
class Placement:
    """What packing has to know about a modality and its process."""

    positions: Callable[[tuple[int, ...]], Tensor]
    causal: bool = False
    block: Callable[[int], int] = lambda length: length


@dataclass(frozen=True)
class Layout:
    """Where each token is: no values.

    Attributes:
        document: [B, L] which packed document; -1 is padding.
        span: [B, L] span number, increasing along the row.
        position: [B, L, 3] sequence, row, column, counted from the start of the document.
        causal: [B, L] inside its span the token sees only what came before.
        private: [B, L] only its own span sees it.
        slots: modality -> [N] flat positions of its tokens, in order.
        solid: every row is one document without padding (so a mask may be dropped).
        sequential: every token is causal and none is private.
    """

    document: Tensor
    span: Tensor
    position: Tensor
    causal: Tensor
    private: Tensor
    slots: dict[str, Tensor]
    solid: bool = False
    sequential: bool = False


@dataclass(frozen=True)
class Batch:
    """Packed documents.

    Attributes:
        tokens: modality -> [N, ...] clean tokens.
        target: modality -> [N] bool, learned.
        followed: modality -> [N] bool, the span is noised in place and later spans of its document
            read it.
        span_key: modality -> [N] int64 key of the token's span; from the document's global
            position, not from the batch.
        token_key: modality -> [N] int64 key of the token.
        layout: where they are.
    """

    tokens: dict[str, Tensor]
    target: dict[str, Tensor]
    followed: dict[str, Tensor]
    span_key: dict[str, Tensor]
    token_key: dict[str, Tensor]
    layout: Layout

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Copy every tensor to a device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        def each(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: move(x) for name, x in values.items()}

        at = self.layout
        layout = replace(
            at,
            document=move(at.document),
            span=move(at.span),
            position=move(at.position),
            causal=move(at.causal),
            private=move(at.private),
            slots=each(at.slots),
        )
        return Batch(
            each(self.tokens),
            each(self.target),
            each(self.followed),
            each(self.span_key),
            each(self.token_key),
            layout,
        )

    @property
    def size(self) -> int:
        """Number of tokens without padding."""
        return sum(len(x) for x in self.tokens.values())


@dataclass(frozen=True)
class _Piece:
    """A span as it stands in a row, after twins are made.

    `start` is its sequence position in the document, `order` its number there.
    """

    modality: str
    tokens: Tensor
    target: bool | Tensor
    private: bool
    start: int
    order: int
    followed: bool
    positions: Tensor


def _pieces(
    document: Document,
    placements: Mapping[str, Placement],
    twins: bool,
    known: dict[object, Tensor],
) -> Iterator[_Piece]:
    """Yield the spans of a document in row order.

    A noised span that others read gets a private twin.

    A target span whose process works in blocks, or which later targets read, appears as noised
    private block,
    clean block, noised private block ... so that every token is predicted from clean history.
    """
    start = 0
    learned = [s.target if isinstance(s.target, bool) else bool(s.target.any()) for s in document]
    for order, span in enumerate(document):
        if span.modality not in placements:
            raise unknown("modality", span.modality, placements)
        place, n = placements[span.modality], len(span)
        if n == 0:
            raise BraidError(
                f"span {order} ({span.modality}) is empty; give it a token or leave it out"
            )
        shape = span.shape or (n,)
        if (span.modality, shape) not in known:
            known[span.modality, shape] = place.positions(shape)
        at = known[span.modality, shape]
        if len(at) != n:
            raise BraidError(
                f"span {order} ({span.modality}) holds {n} tokens, its shape {shape} asks for "
                f"{len(at)}"
            )
        block = place.block(n) if learned[order] and not place.causal else n
        if block < 1 or n % block:
            raise BraidError(
                f"span {order} ({span.modality}): length {n} is not a multiple of block {block}; "
                "pad the span"
            )
        read_later = learned[order] and not place.causal and any(learned[order + 1 :])
        if twins and (block < n or read_later):
            for i in range(0, n, block):
                part = slice(i, i + block)
                target = span.target if isinstance(span.target, bool) else span.target[part]
                for private in (True, False):
                    yield _Piece(
                        span.modality,
                        span.tokens[part],
                        private and target,
                        private,
                        start,
                        order,
                        False,
                        at[part],
                    )
        else:
            yield _Piece(
                span.modality, span.tokens, span.target, span.private, start, order, read_later, at
            )
        start += n


def pack(
    rows: Sequence[Sequence[Document]],
    placements: Mapping[str, Placement],
    length: int | None = None,
    samples: Sequence[Sequence[int]] | None = None,
    twins: bool = True,
) -> Batch:
    """Lay documents out in rows.

    Args:
        rows: rows[b] holds the documents packed in row b.
        placements: modality -> what packing has to know about it.
        length: tokens in a row; the longest row where it is None.
        samples: global position of each document, the root of its random numbers; 0, 1, 2 ... where
            it is None.
        twins: give noised spans that others read a clean twin (needs a rule that honours
            `private`).

    Raises:
        BraidError: a row does not fit, a span is empty or no multiple of its block, a modality is
            unknown.
    """
    known: dict[object, Tensor] = {}
    pieces: list[_Piece] = []
    numbers: list[
        tuple[int, ...]
    ] = []  # row, column, tokens, document, span, sample, piece of the document
    used: list[int] = []
    sample = 0
    for b, row in enumerate(rows):
        column = span = 0
        for d, document in enumerate(row):
            root = samples[b][d] if samples is not None else sample
            for j, piece in enumerate(_pieces(document, placements, twins, known)):
                pieces.append(piece)
                numbers.append((b, column, len(piece.tokens), d, span, root, j))
                column += len(piece.tokens)
                span += 1
            sample += 1
        used.append(column)
    length = max(used) if length is None else length
    for b, n in enumerate(used):
        if n > length:
            raise BraidError(
                f"row {b} holds {n} tokens but has room for {length}; raise the row length or "
                "shorten the text"
            )
    table = torch.tensor(numbers)  # [pieces, 7]
    size = table[:, 2]
    of = torch.repeat_interleave(
        torch.arange(len(pieces)), size
    )  # [tokens] the piece of each token
    inside = torch.arange(len(of)) - (size.cumsum(0) - size)[of]
    flat = table[of, 0] * length + table[of, 1] + inside

    def grid(values: Tensor, empty: int | bool) -> Tensor:
        full: Tensor = torch.full(
            (len(rows) * length, *values.shape[1:]), empty, dtype=values.dtype
        )
        shape = (len(rows), length, *values.shape[1:])
        return full.index_copy(0, flat, values).view(shape)

    position = torch.cat([p.positions for p in pieces])
    position[:, 0] += torch.tensor([p.start for p in pieces])[of]
    causal = torch.tensor([placements[p.modality].causal for p in pieces])[of]
    private = torch.tensor([p.private for p in pieces])[of]
    followed = torch.tensor([p.followed for p in pieces])[of]
    target = torch.tensor([p.target is True for p in pieces])[of]
    for k, p in enumerate(pieces):
        if isinstance(p.target, Tensor):
            target[of == k] = p.target
    span_key = derive(table[:, 5], table[:, 6])[of]
    token_key = derive(span_key, inside)
    names = [n for n in placements if any(p.modality == n for p in pieces)]
    chosen = {n: torch.tensor([p.modality == n for p in pieces])[of] for n in names}
    layout = Layout(
        document=grid(table[of, 3], -1),
        span=grid(table[of, 4], -1),
        position=grid(position, 0),
        causal=grid(causal, False),
        private=grid(private, False),
        slots={n: flat[chosen[n]] for n in names},
        solid=all(len(row) == 1 for row in rows) and min(used) == length,
        sequential=bool(causal.all()) and not bool(private.any()),
    )
    return Batch(
        tokens={n: torch.cat([p.tokens for p in pieces if p.modality == n]) for n in names},
        target={n: target[chosen[n]] for n in names},
        followed={n: followed[chosen[n]] for n in names},
        span_key={n: span_key[chosen[n]] for n in names},
        token_key={n: token_key[chosen[n]] for n in names},
        layout=layout,
    )


def room(document: Document, placements: Mapping[str, Placement], twins: bool = True) -> int:
    """Return how many tokens a document takes in a row, with its twins."""
    return sum(len(piece.tokens) for piece in _pieces(document, placements, twins, {}))


def fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Assign items to rows of `length` by best fit; return item numbers per row.

    The longest item comes first, each goes into the row that it leaves with the least room; or
    items come in their given order, where that needs fewer rows. Items of a row are in their given
    order, and so are rows by their first item: the result depends on nothing but the arguments.

    Raises:
        BraidError: an item is longer than a row.
    """
    if max(lengths, default=0) > length:
        raise BraidError(
            f"a document of {max(lengths)} tokens does not fit a row of {length}; raise data.row "
            "or shorten the text"
        )
    given = range(len(lengths))
    decreasing = sorted(given, key=lambda item: -lengths[item])
    rows = min((_best_fit(lengths, order, length) for order in (decreasing, given)), key=len)
    return sorted(sorted(row) for row in rows)


def _best_fit(lengths: Sequence[int], order: Sequence[int], length: int) -> list[list[int]]:
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # room and number of each row, sorted
    for item in order:
        at = bisect_left(rooms, (lengths[item], 0))
        if at < len(rooms):
            room, row = rooms.pop(at)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(item)
        insort(rooms, (room - lengths[item], row))
    return rows
