"""Texts that are scored and continued: what evaluations of language models ask for.

A context and its continuation are one text, cut where the continuation begins, as a model that
continues texts has learned them. With `turns` they are two texts, each closed by its own symbol,
as a model that answers has learned them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.generation import Finished, Known, Nats, Opening, generate, nats
from braid.layout import Document, Span
from braid.modalities import Text, opening
from braid.pipeline import Pipeline
from braid.randomness import derive
from braid.samplers import Sampler
from braid.strand import Strand


@dataclass(frozen=True)
class _Cut:
    """The tokens of a text, cut where its continuation begins."""

    seen: Tensor
    scored: Tensor


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        nats: log-likelihood, exact or a lower bound.
        greedy: it is what the model itself writes without randomness.
    """

    nats: float
    greedy: bool


@dataclass(frozen=True)
class Wish:
    """How to continue a text.

    Attributes:
        tokens: at most so many.
        stops: the continuation ends before the first of these.
        temperature: 0 takes the likeliest symbols.
    """

    tokens: int = 256
    stops: tuple[str, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True)
class Continuing:
    """Scores and continues texts with a model.

    Attributes:
        pipe: the model.
        turns: context and continuation are texts of their own.
        times: random times at which a bound is measured, where the likelihood is not exact.
        seed: of the bound's noise and of drawing.
        rows: texts in a batch.
        length: longest text in tokens, context included, which is cut on its left; None is no
            limit.
        steps: network calls of a parallel process; None is the sampler's own number.
        greedy: find out whether a continuation is the model's own where the likelihood is a bound,
            which takes a generation each; False calls none of them greedy.
    """

    pipe: Pipeline
    turns: bool = False
    times: int = 32
    seed: int = 0
    rows: int = 16
    length: int | None = None
    steps: int | None = None
    greedy: bool = True

    def __post_init__(self) -> None:
        for name in ("times", "rows", "length", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BraidError(f"{name} {value} must be at least 1")
        if self._strand.process is None:
            raise BraidError("this model reads text and writes none, so it continues nothing")

    @property
    def _strand(self) -> Strand:
        return self.pipe.braid.strand("text")

    @property
    def _text(self) -> Text:
        modality = self._strand.modality
        if not isinstance(modality, Text):
            raise BraidError(f"strand 'text' holds {type(modality).__name__}, not text")
        return modality

    @property
    def _block(self) -> int:
        """Tokens that are written together; 1 where it is all of them or one after the other."""
        process = self._strand.process
        assert process is not None, "checked when this was made"
        return 1 if process.whole else process.block(sys.maxsize)

    @property
    def _begin(self) -> list[Span]:
        """The spans with which every document begins."""
        return opening({n: s.modality for n, s in self.pipe.braid.strands.items()})

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return how likely each continuation is after its context, which may be empty.

        The continuations of one context are measured with the same times and noise.
        """
        cuts = [self._parted(*pair) for pair in pairs]
        out: list[Likelihood | None] = [None] * len(cuts)
        for chosen in _batches([len(c.seen) + len(c.scored) for c in cuts], self.rows):
            some = [cuts[i] for i in chosen]
            scored = self._nats([self._document(c) for c in some])
            greedy = self._own(some) if scored.greedy is None else scored.greedy
            for i, value, own in zip(chosen, scored.value, greedy, strict=True):
                out[i] = Likelihood(-float(value), bool(own))
        return [one for one in out if one is not None]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of whole texts.

        One that is too long is cut into windows; each scores the tokens that the one before did
        not, after as many others as there is room for.
        """
        windows: list[tuple[int, _Cut]] = []
        for i, text in enumerate(texts):
            tokens = torch.tensor(self._text.symbols(text))
            room = self._room(len(tokens))
            for first in range(0, len(tokens), room):
                last = min(first + room, len(tokens))
                seen = tokens[max(0, last - room) : first]
                windows.append((i, _Cut(seen, tokens[first:last])))
        total = [0.0] * len(texts)
        for chosen in _batches([len(c.seen) + len(c.scored) for _, c in windows], self.rows):
            scored = self._nats([self._document(windows[i][1]) for i in chosen])
            for i, value in zip(chosen, scored.value, strict=True):
                total[windows[i][0]] -= float(value)
        return total

    def texts(self, contexts: Sequence[str], wishes: Sequence[Wish]) -> list[str]:
        """Return a continuation of each context; it depends on no other one."""
        out = [""] * len(contexts)
        given = [self._given(c) for c in contexts]
        alike: dict[tuple[Wish, bool], list[int]] = {}
        for i, wish in enumerate(wishes):
            alike.setdefault((wish, bool(len(given[i]))), []).append(i)
        for (wish, seen), members in alike.items():
            (n,) = self._text.hole_shape(wish.tokens, self._strand.causal)
            if self._room(n + seen) < n + seen:
                raise BraidError(
                    f"{n} tokens to write leave no room for a context in a length of "
                    f"{self.length}; write fewer (max_gen_toks), or allow more (max_length)"
                )
            for batch in _batches([len(given[i]) for i in members], self.rows):
                chosen = [members[i] for i in batch]
                some = [self._cut(given[i], n) for i in chosen]
                keys = derive(torch.tensor(chosen), self.seed, "continuation")
                made = self._write(some, n, keys, wish.temperature, self._stopped(wish.stops))
                for i, tokens in zip(chosen, made, strict=True):
                    out[i] = _before(self._text.decode(tokens), wish.stops)
        return out

    def _nats(self, documents: list[Document]) -> Nats:
        """Score last spans, all with the same times and noise."""
        samples = [0] * len(documents)
        scored = nats(self.pipe.braid, documents, self.times, self.seed, self.rows, samples)
        if scored.kind == "none":
            raise BraidError(f"{type(self._strand.process).__name__} of text has no likelihood")
        return scored

    def _parted(self, context: str, continuation: str) -> _Cut:
        """Return the tokens of context and continuation."""
        if not continuation:
            raise BraidError(
                f"the continuation of {context[-40:]!r} is empty, so there is nothing to score; "
                "leave it out"
            )
        if self.turns:
            parts = [context, continuation] if context.strip() else [continuation]
            *given, last = self.pipe.spans(parts)
            seen, scored = given[0].tokens if given else last.tokens[:0], last.tokens
        else:
            before = context.rstrip()  # a space belongs to the word that follows
            whole = torch.tensor(self._text.symbols(context + continuation))
            cut = len(self._text.symbols(before)) if before else 0
            cut = min(cut, len(whole) - 1)
            seen, scored = whole[:cut], whole[cut:]
        return _Cut(self._cut(seen, len(scored)), scored)

    def _document(self, cut: _Cut) -> Document:
        """Return the spans of a text, of which the last is scored.

        Where text is written in blocks, that span begins with as many tokens of the context, given
        and not scored, as fill its first block.
        """
        seen, scored = cut.seen, cut.scored
        block = self._block
        lent = min(-len(scored) % block, len(seen))
        size = lent + len(scored)
        if size > block and size % block:
            raise BraidError(
                f"a text of {len(seen) + len(scored)} tokens does not fill the blocks of {block} "
                "in which this model writes; use turns, which are padded"
            )
        kept = len(seen) - lent
        spans = [Span("text", seen[:kept], target=False)] if kept else []
        if lent == 0:
            return [*self._begin, *spans, Span("text", scored)]
        target = torch.arange(lent + len(scored)) >= lent
        return [*self._begin, *spans, Span("text", torch.cat([seen[kept:], scored]), target)]

    def _given(self, context: str) -> Tensor:
        """Return the tokens of a context that is continued; none of an empty one."""
        if not context.strip():
            return torch.zeros(0, dtype=torch.int64)
        if self.turns:
            return self._text.encode(context, "text")
        return torch.tensor(self._text.symbols(context.rstrip()))

    def _room(self, most: int) -> int:
        """Return how many tokens fit beside the opening, of `most` that there are."""
        if self.length is None:
            return most
        used = sum(len(s.tokens) for s in self._begin)
        if used >= self.length:
            raise BraidError(f"length {self.length} has no room beside {used} opening tokens")
        return self.length - used

    def _cut(self, given: Tensor, n: int) -> Tensor:
        """Return the last tokens of a context that leave room for n."""
        room = self._room(len(given) + n) - n
        return given[max(0, len(given) - room) :] if room > 0 else given[:0]

    def _own(self, cuts: list[_Cut]) -> Tensor:
        """Return whether the model itself writes what is scored, [cuts] bool."""
        own = torch.zeros(len(cuts), dtype=torch.bool)
        if not self.greedy:
            return own
        alike: dict[tuple[int, bool], list[int]] = {}
        for i, cut in enumerate(cuts):
            alike.setdefault((len(cut.scored), bool(len(cut.seen))), []).append(i)
        for (n, _), members in alike.items():
            keys = derive(torch.zeros(len(members), dtype=torch.int64), self.seed, "greedy")
            made = self._write([cuts[i].seen for i in members], n, keys, 0.0, None)
            for i, tokens in zip(members, made, strict=True):
                own[i] = torch.equal(tokens, cuts[i].scored)
        return own

    def _write(
        self,
        given: list[Tensor],
        n: int,
        keys: Tensor,
        temperature: float,
        finished: Finished | None,
    ) -> list[Tensor]:
        """Return n tokens after each context; all contexts are empty, or none is."""
        known = [Known(s.modality, [s.tokens] * len(given)) for s in self._begin]
        known += [Known("text", given)] if len(given[0]) else []
        done = generate(
            self.pipe.braid,
            [*known, Opening("text", (n,))],
            keys,
            {len(known): self._sampler(temperature)},
            finished=finished,
        )
        return list(done.tokens[-1].cpu())

    def _sampler(self, temperature: float) -> Sampler:
        sampler = self._strand.sampler
        assert sampler is not None, "every process of text has a sampler"
        wanted = {"temperature": temperature, "steps": self.steps}
        names = {f.name for f in dataclasses.fields(sampler)}
        changes = {k: v for k, v in wanted.items() if k in names and v is not None}
        return dataclasses.replace(sampler, **changes)

    def _stopped(self, stops: Sequence[str]) -> Finished | None:
        """Return what ends a row as soon as its text holds a stop."""
        if not stops:
            return None

        def finished(part: int, tokens: Tensor) -> Tensor:
            texts = [self._text.decode(row) for row in tokens.cpu()]
            held = [any(stop in text for stop in stops) for text in texts]
            return torch.tensor(held, device=tokens.device)

        return finished


def _before(text: str, stops: Iterable[str]) -> str:
    """Return a text up to the first stop in it."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


def _batches(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Return numbers of texts in batches, the longest first, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + rows] for i in range(0, len(order), rows)]
