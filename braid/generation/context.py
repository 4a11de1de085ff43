"""What generation has finished: `predict` reads it, `commit` adds to it.

`CachedContext` keeps keys and values, which is exact where finished spans never look forward;
`RereadContext` reads
everything again at each prediction, and serves every rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from braid import rules
from braid.braid import Braid
from braid.rules import Fields
from braid.transformer import Past


@dataclass(frozen=True)
class Place:
    """Where a block of tokens stands.

    Attributes:
        span: number of its span in the document.
        position: [B, n, 3].
        valid: [B, n] bool; the rest is padding, since rows may hold texts of different lengths.
    """

    span: int
    position: Tensor
    valid: Tensor

    def twice(self, position: Tensor | None = None, valid: Tensor | None = None) -> Place:
        """Return each row twice, the second time with another position or validity."""
        position = self.position if position is None else position
        valid = self.valid if valid is None else valid
        return Place(
            self.span, torch.cat([self.position, position]), torch.cat([self.valid, valid])
        )

    def of(self, rows: Tensor) -> Place:
        """Return the place of some rows."""
        return Place(self.span, self.position[rows], self.valid[rows])

    def fields(self, index: int, causal: bool) -> Fields:
        """Return the layout fields [B, n], for tokens that begin at column `index`."""
        B, n = self.valid.shape
        column = torch.arange(index, index + n, device=self.valid.device).expand(B, n)
        return Fields(
            document=torch.where(self.valid, 0, -1),
            span=torch.full_like(column, self.span),
            index=column,
            causal=torch.full_like(self.valid, causal),
            private=torch.zeros_like(self.valid),
        )


Transform = Callable[..., tuple[Tensor, list[Past]]]
"""What `Transformer.forward` is."""


class Context:
    """Base of contexts over B rows.

    Attributes:
        braid: the model.
        rows: B.
        transform: the transformer, or what passes calls on to it.
    """

    def __init__(self, braid: Braid, rows: int, transform: Transform | None = None) -> None:
        self.braid, self.rows = braid, rows
        self.transform = braid.transformer if transform is None else transform

    def predict(self, name: str, x: Tensor, time: Tensor, place: Place) -> Tensor:
        """Return the prediction [B, n, ...] for tokens x [B, n, ...] at times [B, n].

        Changes nothing.
        """
        raise NotImplementedError

    def commit(self, name: str, x: Tensor, place: Place) -> None:
        """Add finished tokens x [B, n, ...]."""
        raise NotImplementedError

    def of(self, rows: Tensor) -> Context:
        """Return a context of some rows [R]; this one stays as it is."""
        raise NotImplementedError


def make(braid: Braid, rows: int, transform: Transform | None = None) -> Context:
    """Return the exact context for the braid's rule."""
    return (CachedContext if braid.rule.cacheable else RereadContext)(braid, rows, transform)


def _join(parts: list[Fields]) -> Fields:
    return Fields(
        *(
            torch.cat([getattr(p, f) for p in parts], 1)
            for f in ("document", "span", "index", "causal", "private")
        )
    )


class CachedContext(Context):
    """Keys and values of finished spans; a prediction runs only the tokens at hand."""

    def __init__(self, braid: Braid, rows: int, transform: Transform | None = None) -> None:
        super().__init__(braid, rows, transform)
        self.past: list[Past] | None = None
        self.fields: list[Fields] = []
        self.columns = 0
        self.padded = False
        self.last: Tensor | None = None  # [B, D] hidden vector of each row's last token
        self.begun = torch.zeros(rows, dtype=torch.bool, device=braid.device)
        self._known: tuple[Place, int, Tensor | None] | None = None  # what a place sees

    def predict(self, name: str, x: Tensor, time: Tensor, place: Place) -> Tensor:
        """Predict without writing.

        A block no longer than its shift needs no run of the transformer.
        """
        strand, n = self.braid.strand(name), x.shape[1]
        if not strand.shift:
            return strand.read(self._run(name, x, time, place)[0])
        parts = [self._before(name)[:, None]]
        if n > 1:
            parts.append(self._run(name, x, time, place)[0])
        return strand.read(torch.cat(parts, 1)[:, :n])

    def commit(self, name: str, x: Tensor, place: Place) -> None:
        """Run the clean tokens once and keep their keys and values."""
        hidden, self.past = self._run(name, x, torch.ones(x.shape[:2], device=x.device), place)
        self.fields.append(place.fields(self.columns, self.braid.strand(name).causal))
        self.columns += x.shape[1]
        self.padded = self.padded or not bool(place.valid.all())
        some = place.valid.any(1)
        index = (
            torch.arange(x.shape[1], device=x.device)
            .expand_as(place.valid)
            .masked_fill(~place.valid, 0)
            .amax(1)
        )
        new = hidden[torch.arange(self.rows, device=x.device), index]
        self.last = new if self.last is None else torch.where(some[:, None], new, self.last)
        self.begun = self.begun | some

    def of(self, rows: Tensor) -> CachedContext:
        """Return a context of some rows, with their keys and values."""
        out = CachedContext(self.braid, len(rows), self.transform)
        out.past = [(k[rows], v[rows]) for k, v in self.past] if self.past is not None else None
        out.fields = [f.map(lambda x: x[rows]) for f in self.fields]
        out.columns, out.begun = self.columns, self.begun[rows]
        out.padded = any(bool((f.document < 0).any()) for f in out.fields)
        out.last = self.last[rows] if self.last is not None else None
        return out

    def _before(self, name: str) -> Tensor:
        """Return the hidden vector before the next token, [B, D]."""
        start = self.braid.strand(name).start
        assert start is not None, "asked only for strands with a shift"
        if self.last is None:
            return start.expand(self.rows, -1)
        return torch.where(self.begun[:, None], self.last, start.to(self.last.dtype))

    def _run(self, name: str, x: Tensor, time: Tensor, place: Place) -> tuple[Tensor, list[Past]]:
        strand = self.braid.strand(name)
        hidden = strand.embed(x, time, place.position)
        if self._known is None or self._known[0] is not place or self._known[1] != self.columns:
            self._known = place, self.columns, self._visible(place, strand.causal)
        visible = self._known[2]
        condition = strand.condition(time) if self.braid.transformer.config.adaln else None
        return self.transform(hidden, place.position, visible, self.past, condition)

    def _visible(self, place: Place, causal: bool) -> Tensor | None:
        """Return what tokens at hand see of all that is committed and of themselves."""
        rule, padded = self.braid.rule, self.padded or not bool(place.valid.all())
        if rule.sequential and not padded and place.valid.shape[1] == 1:
            return None  # the last token sees all before it
        own = place.fields(self.columns, causal)
        self.fields = [_join(self.fields)] if self.fields else []
        seen = _join([*self.fields, own])
        if padded:
            return rules.dense(rule, own, seen)
        # rows are alike: look at one
        visible = rules.dense(rule, own.map(lambda f: f[:1]), seen.map(lambda f: f[:1]))
        return None if bool(visible.all()) else visible.expand(self.rows, -1, -1)


@dataclass
class _Chunk:
    name: str
    tokens: Tensor
    time: Tensor
    place: Place


@dataclass
class Reading:
    """What a run over a whole document gave.

    Attributes:
        hidden: [B, L, D].
        columns: [B, n] where the tokens at hand stand.
        mask: [B, L, L] bool, who saw whom.
        past: keys and values of each layer.
    """

    hidden: Tensor
    columns: Tensor
    mask: Tensor
    past: list[Past]


class RereadContext(Context):
    """The finished tokens themselves.

    A prediction reads all of them again, in the order of the document.
    """

    def __init__(self, braid: Braid, rows: int, transform: Transform | None = None) -> None:
        super().__init__(braid, rows, transform)
        self.chunks: list[_Chunk] = []

    def commit(self, name: str, x: Tensor, place: Place) -> None:
        """Remember the tokens."""
        self.chunks.append(_Chunk(name, x, torch.ones(x.shape[:2], device=x.device), place))

    def of(self, rows: Tensor) -> RereadContext:
        """Return a context of some rows, with their tokens."""
        out = RereadContext(self.braid, len(rows), self.transform)
        for c in self.chunks:
            out.chunks.append(_Chunk(c.name, c.tokens[rows], c.time[rows], c.place.of(rows)))
        return out

    def predict(self, name: str, x: Tensor, time: Tensor, place: Place) -> Tensor:
        """Read everything, predict the tokens at hand."""
        read = self._read_all(name, x, time, place)
        return self._predicted(name, read.hidden, read.columns)

    def _read_all(self, name: str, x: Tensor, time: Tensor, place: Place) -> Reading:
        """Read the finished tokens and those at hand, in the order of the document."""
        now = _Chunk(name, x, time, place)
        # a stable sort: blocks of a span stay in order
        chunks = sorted([*self.chunks, now], key=lambda c: c.place.span)
        mine = next(i for i, c in enumerate(chunks) if c is now)
        at = sum(c.tokens.shape[1] for c in chunks[:mine])
        hidden = torch.cat(
            [self.braid.strand(c.name).embed(c.tokens, c.time, c.place.position) for c in chunks], 1
        )
        condition = None
        if self.braid.transformer.config.adaln:
            told = [self.braid.strand(c.name).condition(c.time) for c in chunks]
            condition = torch.cat(told, 1)
        position = torch.cat([c.place.position for c in chunks], 1)
        # a number for each block, as in training: an earlier block of a span does not see a later
        # one
        fields = _join(
            [
                replace(c.place, span=i).fields(0, self.braid.strand(c.name).causal)
                for i, c in enumerate(chunks)
            ]
        )
        columns = torch.arange(at, at + x.shape[1], device=x.device).expand(x.shape[:2])
        if not bool((fields.document >= 0).all()):
            # close the gaps, so that "the token before" is the column before
            order = (fields.document < 0).to(torch.int8).argsort(dim=1, stable=True)
            hidden = hidden.gather(1, order[..., None].expand_as(hidden))
            if condition is not None:
                condition = condition.gather(1, order[..., None].expand_as(condition))
            position = position.gather(1, order[..., None].expand_as(position))
            fields = fields.map(lambda f: f.gather(1, order))
            columns = order.argsort(1).gather(1, columns)
        index = torch.arange(hidden.shape[1], device=x.device).expand(self.rows, -1)
        fields = Fields(fields.document, fields.span, index, fields.causal, fields.private)
        mask = rules.dense(self.braid.rule, fields, fields)
        visible = None if bool(mask.all()) else mask
        hidden, past = self.transform(hidden, position, visible, condition=condition)
        return Reading(hidden, columns, mask, past)

    def _predicted(self, name: str, hidden: Tensor, columns: Tensor) -> Tensor:
        strand = self.braid.strand(name)
        before = columns - strand.shift
        picked = hidden.gather(1, before.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1]))
        if strand.start is not None:
            picked = torch.where((before < 0)[..., None], strand.start.to(picked.dtype), picked)
        return strand.read(picked)
