"""From documents with holes to work for the transformer; every mistake in them is found here."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braid import calling, config
from braid.braid import Braid
from braid.errors import BraidError
from braid.generation import (
    BlockCache,
    Finished,
    Frame,
    Generated,
    Job,
    Known,
    Opening,
    Watch,
    generate,
)
from braid.generation.context import Transform, make
from braid.layout import Span
from braid.modalities import Modality
from braid.parts import Hole, Part, Parts
from braid.randomness import derive, signed
from braid.samplers import SAMPLERS, Sampler, check

Callback = Callable[[int, Any, Any], bool | None]
"""(network call, state, belief) as tokens [rows, n, ...]; returning False interrupts."""


@dataclass(frozen=True)
class Order:
    """Documents of one form that are filled as one batch.

    Attributes:
        documents: raw, with holes.
        read: the same, encoded and after what opens them.
        seeds: of each.
        chosen: options of all.
        sampler: exchanges the sampler of every hole it suits.
        cache: that is not exact, or None.
        watching: who is told of it.
    """

    documents: Sequence[Sequence[Any]]
    read: Sequence[list[Known | Opening]]
    seeds: Sequence[int]
    chosen: Chosen
    sampler: Sampler | str | Mapping[str, Any] | None
    cache: BlockCache | None
    watching: Watching


@dataclass(frozen=True, eq=False)
class Work(Job[list[Parts]]):
    """The filling of documents' holes, as `generation.Passes` takes it.

    Attributes:
        order: what is filled.
        given: tokens that are read, of the longest row.
        asked: tokens of all holes, of one row; texts may end before.
        calls: network calls at most; texts may end before.
        steps: those of one block.
        form: works of one form can be `Preparing.joined`; None cannot: its rows end one by one.
    """

    order: Order
    given: int
    asked: int
    calls: int
    steps: int
    form: Hashable


@dataclass(frozen=True)
class Preparing:
    """Reads documents for a model.

    Attributes:
        braid: the model.
        modalities: those of its strands.
        opening: spans with which every document begins.
    """

    braid: Braid
    modalities: Mapping[str, Modality]
    opening: Sequence[Span]

    def modality(self, raw: object) -> tuple[str, Any]:
        """Return the modality that reads raw data, and the data."""
        if isinstance(raw, Part):
            self.braid.strand(raw.modality)
            return raw.modality, raw.raw
        for name, modality in self.modalities.items():
            if modality.accepts(raw):
                return name, raw
        raise BraidError(
            f"no modality of this model reads {type(raw).__name__} {raw!r:.40}; it has "
            f"{', '.join(self.modalities)}: name one with braid.Part(modality, raw)"
        )

    def read(self, parts: Sequence[Any]) -> list[Known | Opening]:
        """Encode one document; every mistake in it is found here, before the model runs."""
        if isinstance(parts, str) or not any(isinstance(p, Hole) for p in parts):
            raise BraidError(
                'give a list of parts with at least one hole, such as ["a cat", '
                'braid.Hole("image")]'
            )
        named = [(p.modality, p) if isinstance(p, Hole) else self.modality(p) for p in parts]
        out: list[Known | Opening] = [
            Known(s.modality, [s.tokens], stays=True) for s in self.opening
        ]
        for i, (name, raw) in enumerate(named):
            strand = self.braid.strand(name)
            if isinstance(raw, Hole):
                out.append(self._open(raw))
            else:
                follows = named[i + 1][0] if i + 1 < len(named) else None
                tokens, shape = strand.modality.tokenise(raw, follows)
                out.append(Known(name, [tokens], [shape]))
        return out

    def work(self, order: Order) -> Work:
        """Return the work of an order."""
        stacked = [_stack(parts) for parts in zip(*order.read, strict=True)]
        samplers = self._samplers(stacked, order)
        frames: list[Frame] = []
        before = len(self.opening)
        seen = order.watching.each(frames, before)
        finished = order.watching.after(before)
        keys = torch.tensor([_root(seed) for seed in order.seeds])
        kept = make if order.cache is None else order.cache
        guidance = order.chosen.guidance

        def run(transform: Transform) -> list[Parts]:
            context = functools.partial(kept, transform=transform)
            done = generate(self.braid, stacked, keys, samplers, guidance, seen, context, finished)
            return [
                self._filled(document, stacked, done, row, [f.of(row) for f in frames])
                for row, document in enumerate(order.documents)
            ]

        rows = len(order.documents)
        known = [p.tokens for p in stacked if isinstance(p, Known)]
        given = [sum(len(tokens[row]) for tokens in known) for row in range(rows)]
        asked = calls = cost = most = 0
        whole = order.cache is None  # rows of a cache that is not exact are not quite apart
        for i, hole in enumerate(stacked):
            if isinstance(hole, Opening):
                process = self.braid.strand(hole.modality).process
                assert process is not None, "checked when the hole was read"
                block = process.block(len(hole))
                groups = getattr(self.modalities[hole.modality].space, "groups", 1)
                steps = samplers[i].calls(block, groups)
                asked += len(hole)
                calls += -(-len(hole) // block) * steps
                cost += len(hole) * steps
                most = max(most, steps)
                whole &= block >= len(hole)
        forms = tuple(form(p) for p in stacked)
        shared = (order.chosen, tuple(samplers.items()), forms) if whole else None
        cost = sum(given) + rows * cost  # what is given is read once
        return Work(run, rows, order, max(given), asked, calls, most, shared, cost=cost)

    def joined(self, works: Sequence[Work]) -> Work:
        """Return several works of one form as one, whose results are theirs in order."""
        orders = [work.order for work in works]
        return self.work(
            dataclasses.replace(
                orders[0],
                documents=[d for order in orders for d in order.documents],
                read=[r for order in orders for r in order.read],
                seeds=[s for order in orders for s in order.seeds],
                watching=_together([(w.order.watching, w.rows) for w in works]),
            )
        )

    def _filled(
        self,
        document: Sequence[Any],
        parts: Sequence[Known | Opening],
        done: Generated,
        row: int,
        frames: Sequence[Frame],
    ) -> Parts:
        """Return a finished document, raw and without what opens it."""
        out, tokens, closed = [], [], []
        for given, at in zip(document, range(len(self.opening), len(parts)), strict=True):
            part, written, used = parts[at], done.tokens[at], done.used[at]
            out.append(self._raw(given, part, written, row))
            tokens.append(int(used[row].sum()) if used.ndim == 2 else 0)
            modality = self.modalities[part.modality]
            if isinstance(part, Opening) and not (modality.closes and tokens[-1]):
                closed.append(tokens[-1] == len(part))
            else:
                closed.append(isinstance(part, Known) or bool(modality.finished(written)[row]))
        return Parts(out, done.calls, done.stopped, frames, tokens, closed)

    def _open(self, hole: Hole) -> Opening:
        strand = self.braid.strand(hole.modality)
        if strand.process is None or strand.sampler is None:
            drawn = [n for n, s in self.braid.strands.items() if s.process is not None]
            raise BraidError(
                f"modality {hole.modality!r} is read only in this model; holes can be of "
                f"{', '.join(drawn)}"
            )
        if not 0 <= hole.start < 1:
            raise BraidError(
                f"hole start {hole.start} is out of range; use 0 (from noise) up to (not "
                "including) 1"
            )
        if (hole.start > 0 or hole.keep is not None) and hole.draft is None:
            raise BraidError("a hole with `start` or `keep` needs a draft; give draft=...")
        shape = strand.modality.hole_shape(hole.shape, strand.causal)
        n = math.prod(shape)
        block = strand.process.block(n)
        if n % block:
            raise BraidError(
                f"a hole of {n} tokens of {hole.modality} is no multiple of the block {block}; "
                f"use {n + -n % block}"
            )
        if hole.draft is None:
            return Opening(hole.modality, shape)
        drafted = strand.modality.tokenise(hole.draft).values
        draft = strand.modality.canvas(drafted, strand.causal)
        if len(draft) != n:
            raise BraidError(
                f"the draft has {len(draft)} tokens, the hole {n}; give the hole the draft's size"
            )
        if hole.start == 0 and hole.keep is None:
            raise BraidError(
                "nothing of the hole's draft would be used; hold parts of it with keep=..., or "
                "refine it with start above 0"
            )
        keep = None if hole.keep is None else _mask(hole.keep, shape, hole.modality)
        return Opening(
            hole.modality, shape, draft[None], None if keep is None else keep[None], hole.start
        )

    def _samplers(self, parts: Sequence[Known | Opening], order: Order) -> dict[int, Sampler]:
        """Return the sampler of each hole, with the options of the order."""
        given = order.sampler
        if given is not None and not isinstance(given, Sampler):
            given = config.make(SAMPLERS, "sampler", _options(given))
        wanted = {"steps": order.chosen.steps, "temperature": order.chosen.temperature}
        out, used = {}, given is None
        for i, part in enumerate(parts):
            if isinstance(part, Known):
                continue
            strand = self.braid.strand(part.modality)
            assert strand.process is not None and strand.sampler is not None, (
                "checked when the hole was read"
            )
            chosen = strand.sampler
            if given is not None and given.suits(strand.process):
                chosen, used = given, True
            names = {f.name for f in dataclasses.fields(chosen)}
            if getattr(chosen, "start", 0) and not part.start:
                raise BraidError(
                    f"{chosen} of {part.modality!r} has no draft to start from; leave its start "
                    "at 0, and refine a draft with Hole(draft=..., start=...)"
                )
            if part.start and "start" not in names:
                raise BraidError(
                    f"{part.modality!r} is generated token by token, so a draft of it cannot be "
                    "refined; use start=0"
                )
            out[i] = dataclasses.replace(
                chosen, **{k: v for k, v in wanted.items() if v is not None and k in names}
            )
            if order.cache is not None:
                order.cache.check(self.braid, part.modality, out[i])
        if not used and given is not None:
            first = next(p for p in parts if isinstance(p, Opening))
            process = self.braid.strand(first.modality).process
            assert process is not None, "checked when the hole was read"
            check(given, process)
        return out

    def _raw(self, given: object, part: Known | Opening, tokens: Tensor, row: int) -> Any:
        """Return a part raw; a hole that an interruption left untouched stays a hole."""
        if isinstance(part, Known):
            return given.raw if isinstance(given, Part) else given
        if not len(tokens):
            return given
        return self.modalities[part.modality].decode(tokens[row].cpu(), part.shape)


def _root(seed: int) -> int:
    return int(derive(torch.tensor([signed(seed)]), "sample")[0])


def _options(sampler: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(sampler, str | Mapping):
        raise BraidError(
            f"sampler {sampler!r} is no sampler; give its name, its options with a "
            "'kind', or a Sampler"
        )
    return {"kind": sampler} if isinstance(sampler, str) else dict(sampler)


def block_cache(given: BlockCache | str | None) -> BlockCache | None:
    """Return a block cache that may be given in words, as "dual:16"."""
    cache = BlockCache.parse(given) if isinstance(given, str) else given
    if not isinstance(cache, BlockCache | None):
        raise BraidError(f"cache {cache!r} is no block cache; give one as 'dual:16', or none")
    return cache


def form(part: Known | Opening) -> tuple:
    """Return what parts must share to run together."""
    if isinstance(part, Known):
        return ("known", part.modality, part.stays)
    return ("hole", part.modality, part.shape, part.start, part.draft is None, part.keep is None)


def _stack(parts: Sequence[Known | Opening]) -> Known | Opening:
    first = parts[0]
    if isinstance(first, Known):
        known = [p for p in parts if isinstance(p, Known)]
        shapes = [s for p in known for s in p.shapes or ()]
        return Known(first.modality, [p.tokens[0] for p in known], shapes, first.stays)
    holes = [p for p in parts if isinstance(p, Opening)]
    draft = (
        None if first.draft is None else torch.cat([h.draft for h in holes if h.draft is not None])
    )
    keep = None if first.keep is None else torch.cat([h.keep for h in holes if h.keep is not None])
    return dataclasses.replace(first, draft=draft, keep=keep)


@dataclass(frozen=True)
class Chosen:
    """What documents of one batch share.

    Attributes:
        steps: network calls of a hole; None is the sampler's own number.
        guidance: 1 is none.
        temperature: None is the sampler's own.
    """

    steps: int | None
    guidance: float
    temperature: float | None

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise BraidError(
                f"guidance {self.guidance} is out of range; use 0 or more (1 is no guidance)"
            )
        if self.steps is not None:
            calling.whole("steps", self.steps, 1)


def _mask(keep: object, shape: tuple[int, ...], name: str) -> Tensor:
    """Return which tokens are held, [n].

    A mask in pixels holds a token where it holds all its pixels.
    """
    try:
        mask = torch.from_numpy(np.asarray(keep)).bool()
    except (TypeError, ValueError) as e:
        raise BraidError(f"keep {keep!r:.40} is no mask ({e}); give an array of bools") from e
    if mask.shape == shape or mask.shape == (math.prod(shape),):
        return mask.flatten()
    if (
        mask.ndim == 2
        and len(shape) == 2
        and not any(m % s for m, s in zip(mask.shape, shape, strict=True))
    ):
        p, q = mask.shape[0] // shape[0], mask.shape[1] // shape[1]
        return mask.view(shape[0], p, shape[1], q).permute(0, 2, 1, 3).flatten(2).all(-1).flatten()
    raise BraidError(
        f"keep has shape {tuple(mask.shape)}; a hole of {name} takes {shape} tokens, or the "
        "picture's pixels"
    )


@dataclass(frozen=True)
class Watching:
    """Who is told of a generation; parts are numbered without those that open every document."""

    callback: Callback | None = None
    watch: Watch | None = None
    trajectory: bool = False
    finished: Finished | None = None

    def each(self, frames: list[Frame], before: int) -> Watch | None:
        """Return what is called at each network call, and adds to `frames` what is kept."""
        if self.callback is None and self.watch is None and not self.trajectory:
            return None
        calls = itertools.count()

        def watch_all(frame: Frame) -> bool:
            frame = dataclasses.replace(frame, part=frame.part - before)
            if self.trajectory:
                state, belief = frame.state.cpu().clone(), frame.belief.cpu().clone()
                frames.append(dataclasses.replace(frame, state=state, belief=belief))
            told = self.callback and self.callback(next(calls), frame.state, frame.belief)
            watched = self.watch and self.watch(frame)
            return told is not False and watched is not False

        return watch_all

    def after(self, before: int) -> Finished | None:
        """Return what is called after each block."""
        finished = self.finished
        return finished and (lambda part, tokens: finished(part - before, tokens))


def _together(all: Sequence[tuple[Watching, int]]) -> Watching:
    """Return what tells several watchers of their own rows; they come with how many they have."""
    ends = list(itertools.accumulate(rows for _, rows in all))
    each = [(w, slice(end - rows, end)) for (w, rows), end in zip(all, ends, strict=True)]

    def watch(frame: Frame) -> bool:
        told = [w.watch is None or w.watch(frame.rows(mine)) is not False for w, mine in each]
        return any(told)  # it ends early where nobody wants more

    def finished(part: int, tokens: Tensor) -> Tensor:
        out = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for w, mine in each:
            ended = w.finished and w.finished(part, tokens[mine])
            if ended is not None:
                out[mine] = ended
        return out

    return Watching(
        watch=watch if any(w.watch for w, _ in each) else None,
        finished=finished if any(w.finished for w, _ in each) else None,
    )
