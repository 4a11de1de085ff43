"""The one decode loop: known parts are committed, holes are filled block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError
from braid.generation.context import Context, Place, make
from braid.generation.guidance import combine
from braid.processes import Process
from braid.randomness import Keys, derive
from braid.samplers import Sampler, Stepped


@dataclass(frozen=True)
class Known:
    """A part that is given: one run of tokens per row, of any length.

    Attributes:
        modality: name of the strand that reads it.
        tokens: [n, ...] of each row.
        shapes: shape of each row's span; None takes the modality's.
        stays: guidance does not withhold it: it opens every document, without a prompt too.
    """

    modality: str
    tokens: list[Tensor]
    shapes: list[tuple[int, ...]] | None = None
    stays: bool = False


@dataclass(frozen=True)
class Opening:
    """A part to generate, of the same shape in all rows.

    Attributes:
        modality: name of the strand.
        shape: its shape in tokens.
        draft: [B, n, ...] tokens to start from or to hold, or None.
        keep: [B, n] bool, tokens of the draft that are held; None holds none.
        start: time at which sampling starts; above 0 the draft is noised to there and refined.
    """

    modality: str
    shape: tuple[int, ...]
    draft: Tensor | None = None
    keep: Tensor | None = None
    start: float = 0.0

    def __len__(self) -> int:
        return math.prod(self.shape)

    def of(self, rows: Tensor) -> Opening:
        """Return the part for some rows."""
        draft = self.draft[rows.to(self.draft.device)] if self.draft is not None else None
        keep = self.keep[rows.to(self.keep.device)] if self.keep is not None else None
        return replace(self, draft=draft, keep=keep)


@dataclass(frozen=True)
class Frame:
    """One network call: what was read, and what the model believed.

    Attributes:
        part: number of the part being generated.
        first: number of its first token in the part (blocks are generated one after the other).
        time: process time.
        state: [B, n, ...] tokens read.
        belief: [B, n, ...] most likely clean tokens.
    """

    part: int
    first: int
    time: float
    state: Tensor
    belief: Tensor

    def of(self, row: int) -> Frame:
        """Return the call of one row."""
        return self.rows(slice(row, row + 1))

    def rows(self, at: slice) -> Frame:
        """Return the call of some rows."""
        return replace(self, state=self.state[at], belief=self.belief[at])


Watch = Callable[[Frame], bool | None]
"""Called at every network call; returning False stops there, and the belief is the result."""


Finished = Callable[[int, Tensor], Tensor | None]
"""Called after every block with the part's number and its tokens [B, n, ...] so far; returns [B]
bool, the rows that need no more, or None."""


@dataclass
class Generated:
    """Tokens of each part, [B, n, ...], and how many network calls they took.

    Attributes:
        tokens: one entry a part; known parts are padded.
        used: one entry a part, [B, n] bool: tokens that count.
        calls: network calls, guidance not counted twice.
        stopped: the watch stopped the generation.
    """

    tokens: list[Tensor] = field(default_factory=list)
    used: list[Tensor] = field(default_factory=list)
    calls: int = 0
    stopped: bool = False


class _Stop(Exception):  # noqa: N818 - a signal, not an error
    def __init__(self, belief: Tensor) -> None:
        self.belief = belief


@torch.no_grad()
def generate(
    braid: Braid,
    parts: Sequence[Known | Opening],
    keys: Tensor,
    samplers: Mapping[int, Sampler] | None = None,
    guidance: float = 1.0,
    watch: Watch | None = None,
    make_context: Callable[[Braid, int], Context] = make,
    finished: Finished | None = None,
) -> Generated:
    """Fill the openings of B rows in order.

    Args:
        braid: the model.
        parts: the document; rows agree in the kinds of their parts.
        keys: [B] int64, the root of each row's random numbers.
        samplers: part number -> sampler; the strand's own where it is missing.
        guidance: weight of the conditional prediction against the one without the other parts, or
            with what their modalities put in their place (`Modality.withheld`).
        watch: called at every network call.
        make_context: makes the contexts.
        finished: ends rows of an opening besides those that their modality ends.
    """
    options = (samplers or {}, guidance, watch, make_context, finished)
    return _Generation(braid, parts, keys, *options).run()


@dataclass(frozen=True)
class _Block:
    """Finished tokens.

    Attributes:
        modality: name of the strand.
        tokens: [B, n, ...].
        place: where they stand.
        stays: guidance withholds them nowhere.
    """

    modality: str
    tokens: Tensor
    place: Place
    stays: bool = False


class _Generation:
    def __init__(
        self,
        braid: Braid,
        parts: Sequence[Known | Opening],
        keys: Tensor,
        samplers: Mapping[int, Sampler],
        guidance: float,
        watch: Watch | None,
        make_context: Callable[[Braid, int], Context],
        finished: Finished | None,
    ) -> None:
        self.braid, self.parts, self.samplers = braid, parts, samplers
        self.guidance, self.watch, self.make_context = guidance, watch, make_context
        self.finished = finished
        self.keys = keys.to(braid.device)
        self.rows = len(keys)
        self.guided = guidance != 1
        self.finished_blocks: list[_Block] = []
        self.out = Generated(
            tokens=[torch.empty(0)] * len(parts), used=[torch.empty(0)] * len(parts)
        )

    def run(self) -> Generated:
        context = self._context()
        known = [i for i, p in enumerate(self.parts) if isinstance(p, Known)]
        holes = [i for i, p in enumerate(self.parts) if isinstance(p, Opening)]
        # what comes later can be read only under a rule that looks forward
        order = [*range(len(self.parts))] if self.braid.rule.cacheable else [*known, *holes]
        for i in order:
            offset = self._offset(i)
            part = self.parts[i]
            if isinstance(part, Known):
                self._read(i, part, offset, context)
                continue
            self._fill(i, part, offset, context, last=i == order[-1])
            if self.out.stopped:
                break
            if self.guided and i != order[-1]:
                context = self._context()  # in which this part is withheld, too
        return self.out

    def _context(self) -> Context:
        """Return a context of all finished blocks.

        Under guidance it has each row twice, so that both predictions are one batch: the rows as
        they are, then those from which other parts are withheld.
        """
        context = self.make_context(self.braid, self.rows * (2 if self.guided else 1))
        for block in self.finished_blocks:
            self._commit(context, block)
        return context

    def _commit(self, context: Context, block: _Block, alone: Tensor | None = None) -> None:
        """Add a finished block.

        Among the rows without other parts it stands at `alone` [B, n, 3]; None withholds it there.
        """
        name, tokens, place = block.modality, block.tokens, block.place
        if self.guided and block.stays:
            place, tokens = place.twice(), torch.cat([tokens, tokens])
        elif self.guided and alone is None:
            instead = self.braid.strand(name).modality.withheld(tokens)
            if instead is None:
                place = place.twice(valid=torch.zeros_like(place.valid))
                tokens = torch.cat([tokens, tokens])
            else:
                place, tokens = place.twice(), torch.cat([tokens, instead])
        elif self.guided:
            place, tokens = place.twice(alone), torch.cat([tokens, tokens])
        context.commit(name, tokens, place)

    def _offset(self, i: int) -> Tensor:
        """Return the sequence position at which part i starts, [B]."""
        offset = torch.zeros(self.rows, dtype=torch.int64)
        for j, part in enumerate(self.parts[:i]):
            if isinstance(part, Known):
                offset += torch.tensor([len(t) for t in part.tokens])
            elif self.out.used[j].ndim == 2:
                offset += self.out.used[j].sum(1).cpu()
            else:
                offset += len(part)
        return offset.to(self.braid.device)

    def _read(self, i: int, part: Known, offset: Tensor, context: Context) -> None:
        modality = self.braid.strand(part.modality).modality
        n = max(len(t) for t in part.tokens)
        valid = torch.zeros(self.rows, n, dtype=torch.bool)
        tokens = part.tokens[0].new_zeros((self.rows, n, *part.tokens[0].shape[1:]))
        position = torch.zeros(self.rows, n, 3, dtype=torch.int64)
        for b, t in enumerate(part.tokens):
            valid[b, : len(t)], tokens[b, : len(t)] = True, t.to(tokens.device)
            shape = part.shapes[b] if part.shapes else modality.span_shape(t)
            position[b, : len(t)] = modality.positions(shape)
        device = self.braid.device
        tokens, valid, position = tokens.to(device), valid.to(device), position.to(device)
        position[..., 0] += offset[:, None]
        block = _Block(part.modality, tokens, Place(i, position, valid), part.stays)
        self._commit(context, block)
        self.finished_blocks.append(block)
        self.out.tokens[i], self.out.used[i] = tokens, valid

    def _stands(self) -> bool:
        """Return whether anything stands for what guidance withholds."""
        return any(
            self.braid.strand(b.modality).modality.withheld(b.tokens) is not None
            for b in self.finished_blocks
        )

    def _fill(self, i: int, hole: Opening, offset: Tensor, context: Context, last: bool) -> None:
        strand = self.braid.strand(hole.modality)
        process, modality = strand.process, strand.modality
        if process is None or strand.sampler is None:
            raise BraidError(f"modality {hole.modality!r} is read only here; it cannot fill a hole")
        sampler = self.samplers.get(i, strand.sampler)
        if hole.start and isinstance(sampler, Stepped):
            sampler = replace(sampler, start=hole.start)
        stands = self.guided and self._stands()
        keys = derive(self.keys, "part", i)
        grid = modality.positions(hole.shape).to(self.braid.device)
        opened = sum((b.place.valid.sum(1) for b in self.finished_blocks if b.stays), 0 * offset)
        done, total = 0, len(hole)
        alive = torch.ones(self.rows, dtype=torch.bool, device=self.braid.device)
        left = self.rows  # how many are alive
        rows = torch.arange(self.rows, device=self.braid.device)  # those that are computed
        blocks: list[Tensor] = []
        written: list[Tensor] = []  # a row that has ended writes no further blocks
        while done < total and left and not self.out.stopped:
            n = min(process.block(total - done), total - done)
            at = slice(done, done + n)
            valid = alive[:, None].expand(-1, n)
            position = grid[at].expand(self.rows, -1, -1)
            here = Place(i, position + _along(offset), valid)
            # with nothing before it a part begins where a document does, after its opening
            alone = here.position if stands else position + _along(opened)
            # rows that have ended leave, unless something reads them later or watches them
            if last and self.watch is None and 4 * left <= 3 * len(rows):
                stay = alive[rows].nonzero()[:, 0]
                context = context.of(torch.cat([stay, stay + len(rows)]) if self.guided else stay)
                rows, keys = rows[stay], keys[stay]
                hole = hole.of(stay)
            here, alone = here.of(rows), alone[rows]
            # anew for each block: another row may have taken more steps over the last one
            rng = Keys(derive(keys, done))
            x = self._block(i, hole, at, process, sampler, rng, context, here, alone)
            block = _Block(hole.modality, x, here)
            self.finished_blocks.append(block)
            blocks.append(x.new_zeros(self.rows, *x.shape[1:]).index_copy_(0, rows, x))
            written.append(valid)
            done += n
            so_far = torch.cat(blocks, 1)
            alive = alive & ~modality.finished(so_far)
            ended = None if self.finished is None else self.finished(i, so_far)
            if ended is not None:
                alive = alive & ~ended
            left = int(alive.sum())
            if last and not (done < total and left):
                break  # nothing will read it
            self._commit(context, block, alone)
        tokens, used = torch.cat(blocks, 1), torch.cat(written, 1)
        self.out.tokens[i], self.out.used[i] = tokens, used

    def _block(
        self,
        i: int,
        hole: Opening,
        at: slice,
        process: Process,
        sampler: Sampler,
        keys: Keys,
        context: Context,
        place: Place,
        alone: Tensor,
    ) -> Tensor:
        """Draw one block [B, n, ...]; `alone` [B, n, 3] is where it stands without other parts."""
        B, n = len(place.valid), at.stop - at.start
        space = self.braid.strand(hole.modality).modality.space
        draft = hole.draft[:, at].to(self.braid.device) if hole.draft is not None else None
        keep = (
            hole.keep[:, at].to(self.braid.device)
            if hole.keep is not None and draft is not None
            else None
        )
        each = keys.spread(n) if n > 1 else keys  # hashing keys for each token costs as much as one
        x = process.source(space, B * n, each).to(self.braid.device).unflatten(0, (B, n))
        if draft is not None and hole.start > 0:
            time = torch.full((B * n,), hole.start, device=self.braid.device)
            x = process.corrupt(space, draft.flatten(0, 1), time, keys.spread(n)).noisy.unflatten(
                0, (B, n)
            )

        def hold(x: Tensor) -> Tensor:
            if keep is None or draft is None:
                return x
            return torch.where(keep.view(keep.shape + (1,) * (x.ndim - 2)), draft, x)

        # one place for all calls: contexts remember what a place sees
        place = place.twice(alone) if self.guided else place

        def predict(x: Tensor, t: float) -> Tensor:
            x = hold(x)
            time = torch.full((B, n), t, device=x.device)
            if keep is not None:
                time = time.masked_fill(keep, 1.0)
            if self.guided:
                both = torch.cat([x, x]), torch.cat([time, time])
                found = context.predict(hole.modality, *both, place)
                prediction = combine(found[:B], found[B:], self.guidance)
            else:
                prediction = context.predict(hole.modality, x, time, place)
            self.out.calls += 1
            if self.watch is not None:
                belief = hold(process.belief(prediction, x, t))
                if self.watch(Frame(i, at.start, t, x, belief)) is False:
                    raise _Stop(belief)
            return prediction

        try:
            return hold(sampler(predict, hold(x), process, keys))
        except _Stop as stop:
            self.out.stopped = True
            return stop.belief


def _along(offset: Tensor) -> Tensor:
    """Return an offset [B] of the sequence axis, as [B, 1, 3]."""
    zero = torch.zeros_like(offset)
    return torch.stack([offset, zero, zero], -1)[:, None]
