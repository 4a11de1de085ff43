"""Known parts in, filled parts out: the library's front door for using a model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from braid import adapting, calling, config, publishing, quantisation, storage
from braid.braid import Braid
from braid.config import Experiment
from braid.errors import BraidError
from braid.generation import (
    BlockCache,
    Frame,
    Job,
    Known,
    Nats,
    Opening,
    Watch,
    generate,
    nats,
    together,
)
from braid.generation.context import Transform, make
from braid.layout import Document, Span, pack
from braid.modalities import Modality, opening
from braid.randomness import derive, signed
from braid.samplers import SAMPLERS, Sampler, check

T = TypeVar("T")
Each = T | Sequence[T]
"""One for all documents, or one for each."""


@dataclass(frozen=True)
class Part:
    """Raw data of a named modality, where its kind alone does not say which, as with a label."""

    modality: str
    raw: Any


@dataclass(frozen=True, eq=False)
class Hole:
    """A part to generate.

    Attributes:
        modality: name of the strand that fills it.
        shape: its shape in tokens: (rows, columns) for a picture, at most so many tokens for text;
            None is the trained size.
        draft: raw data to hold or to refine.
        keep: bool mask of what is held of the draft, in tokens or in pixels of the picture.
        start: 0 generates from noise; above it, the draft is noised up to this time and refined
            from there.
    """

    modality: str
    shape: int | tuple[int, ...] | None = None
    draft: Any = None
    keep: Any = None
    start: float = 0.0


class Parts(list):
    """The parts of a finished document, raw, holes filled.

    Attributes:
        calls: network calls that all holes took.
        stopped: the callback interrupted the generation.
        trajectory: a `Frame` of each network call where it was asked for (tokens with a leading
            axis of 1).
    """

    def __init__(
        self,
        parts: Sequence[Any],
        calls: int = 0,
        stopped: bool = False,
        trajectory: Sequence[Frame] = (),
    ) -> None:
        super().__init__(parts)
        self.calls, self.stopped, self.trajectory = calls, stopped, list(trajectory)


@dataclass(frozen=True)
class Choice:
    """Which of several candidates is the most likely.

    Attributes:
        index: its number.
        raw: the candidate itself.
        nats: negative log-likelihood of each candidate.
        symbols: symbols or numbers of each, to compare likelihoods per symbol.
        kind: "exact" or "bound".
    """

    index: int
    raw: Any
    nats: list[float]
    symbols: list[int]
    kind: str


Callback = Callable[[int, Any, Any], bool | None]
"""(network call, state, belief) as tokens [rows, n, ...]; returning False interrupts."""


@dataclass
class Pipeline:
    """A model with all that is needed to use it.

    Attributes:
        braid: the model.
        experiment: what it was made from.
        source: folder that it was loaded from, or None.
        checkpoint: checkpoint of a run whose weights these are, or None.
    """

    braid: Braid
    experiment: Experiment
    source: Path | None = None
    checkpoint: Path | None = None
    _known: dict[str, Modality] = field(init=False, repr=False)
    _opening: list[Span] = field(init=False, repr=False)
    _interrupt: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.braid.eval()
        self._known = {n: s.modality for n, s in self.braid.strands.items()}
        self._opening = opening(self._known)

    def __call__(
        self,
        parts: Sequence[Any] | str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        n: int | None = None,
        sampler: Sampler | str | Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        trajectory: bool = False,
        cache: BlockCache | str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: calling.StepEnd | None = None,
    ) -> Any:
        """Fill the holes of a document.

        Args:
            parts: strings, pictures, `Part`s and `Hole`s, in order; with an option of diffusers, a
                prompt alone asks for its picture.
            steps: network calls per hole, for samplers that walk in steps; decoding token by token
                makes one a token.
            guidance: weight of the prediction against the one without the other parts; 1, as None,
                is no guidance.
            temperature: of drawing symbols; 0 takes the most likely ones.
            seed: fixes the result, whatever it is batched with; None is 0.
            n: number of results; None returns one without a list.
            sampler: exchanges the sampler of every hole it suits.
            callback: called at each network call.
            trajectory: keep each network call's state and belief.
            cache: decode masked symbols block by block with keys and values that are not exact, as
                "dual:16"; None is exact.
            num_inference_steps: `steps` in the words of diffusers.
            guidance_scale: `guidance` in the words of diffusers.
            generator: draws the seed, in the words of diffusers.
            callback_on_step_end: `callback` in the words of diffusers, see `braid.calling`.

        Returns:
            `Parts`, or a list of n.
        """
        words = (num_inference_steps, guidance_scale, generator, callback_on_step_end)
        parts = calling.prompted(parts, Hole("image"), words)
        steps = calling.one(steps=steps, num_inference_steps=num_inference_steps)
        guidance = calling.one(guidance=guidance, guidance_scale=guidance_scale)
        seed = calling.seed_of(calling.one(seed=seed, generator=generator))
        calling.one(callback=callback, callback_on_step_end=callback_on_step_end)
        count = 1 if n is None else calling.whole("n", n, 1)
        out = self.batch(
            [_parts(parts)] * count,
            steps=steps,
            guidance=1.0 if guidance is None else guidance,
            temperature=temperature,
            seeds=[_seed(seed, i) for i in range(count)],
            sampler=sampler,
            callback=callback,
            watch=calling.step_end(self, callback_on_step_end),
            trajectory=trajectory,
            cache=cache,
        )
        return out[0] if n is None else out

    def batch(
        self,
        documents: Sequence[Sequence[Any]],
        *,
        steps: Each[int | None] = None,
        guidance: Each[float] = 1.0,
        temperature: Each[float | None] = None,
        seeds: Sequence[int] | None = None,
        sampler: Sampler | str | Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        watch: Watch | None = None,
        trajectory: bool = False,
        cache: BlockCache | str | None = None,
        rows: int = 256,
    ) -> list[Parts]:
        """Fill the holes of many documents.

        All advance together, at most `rows` at a time: documents of the same form and options as
        one batch, others beside it in the same passes of the transformer. A batch that has ended
        makes room for the next.
        The options are those of a call; steps, guidance and temperature may be one for each
        document. `watch` gets the whole `Frame` of each network call; calls of unlike documents
        take turns, each batch counted from 0.
        """
        each = {"steps": steps, "guidance": guidance, "temperature": temperature}
        documents = [_parts(d) for d in documents]
        given = [_for_each(name, value, len(documents)) for name, value in each.items()]
        options = [_Chosen(*chosen) for chosen in zip(*given, strict=True)]
        rows = calling.whole("rows", rows, 1)
        cache = BlockCache.parse(cache) if isinstance(cache, str) else cache
        if not isinstance(cache, BlockCache | None):
            raise BraidError(f"cache {cache!r} is no block cache; give one as 'dual:16', or none")
        seeds = range(len(documents)) if seeds is None else seeds
        seeds = [calling.whole("seed", seed) for seed in seeds]
        if len(seeds) != len(documents):
            raise BraidError(f"{len(seeds)} seeds for {len(documents)} documents; give one each")
        before: list[Known | Opening] = [
            Known(s.modality, [s.tokens], stays=True) for s in self._opening
        ]
        read = [before + self._read(d) for d in documents]
        groups: dict[tuple, list[int]] = {}
        for i, parts in enumerate(read):
            groups.setdefault((options[i], *(_form(p) for p in parts)), []).append(i)

        def job(chunk: list[int]) -> Job[list[Parts]]:
            stacked = [_stack([read[i][k] for i in chunk]) for k in range(len(read[chunk[0]]))]
            same = options[chunk[0]]
            samplers = self._samplers(stacked, sampler, same.steps, same.temperature, cache)
            frames: list[Frame] = []
            seen = _watch(callback, watch, frames if trajectory else None, len(before))
            keys = torch.tensor([_root(seeds[i]) for i in chunk])

            def run(transform: Transform) -> list[Parts]:
                context = functools.partial(make if cache is None else cache, transform=transform)
                done = generate(self.braid, stacked, keys, samplers, same.guidance, seen, context)
                return [
                    Parts(
                        [
                            self._raw(documents[i][k], stacked[at], done.tokens[at], row)
                            for k, at in enumerate(range(len(before), len(stacked)))
                        ],
                        done.calls,
                        done.stopped,
                        [f.of(row) for f in frames],
                    )
                    for row, i in enumerate(chunk)
                ]

            return Job(run, len(chunk))

        chunks = [
            members[first : first + rows]
            for members in groups.values()
            for first in range(0, len(members), rows)
        ]
        if not chunks:
            return []
        made = together(self.braid.transformer, [job(chunk) for chunk in chunks], rows)
        order = [i for chunk in chunks for i in chunk]
        found = dict(zip(order, (parts for some in made for parts in some), strict=True))
        return [found[i] for i in range(len(documents))]

    def document(self, parts: Sequence[Any]) -> Document:
        """Encode a document as in training: after its opening, with the last part as the target."""
        *given, last = self.spans(parts)
        return [*self._opening, *(dataclasses.replace(s, target=False) for s in given), last]

    def score(self, parts: Sequence[Any], times: int = 16, seed: int = 0) -> list[Nats]:
        """Return each part's negative log-likelihood given the parts before it, in nats.

        It says whether it is exact or a bound.

        Parts of read-only modalities are left out.
        """
        parts, out = _parts(parts), []
        for end in range(1, len(self.spans(parts)) + 1):
            document = self.document(parts[:end])  # as in training, a learned part ends it
            if self.braid.strand(document[-1].modality).process is not None:
                out.append(nats(self.braid, [document], times, seed))
        return out

    def choose(
        self, parts: Sequence[Any], candidates: Sequence[Any], times: int = 16, seed: int = 0
    ) -> Choice:
        """Return which of several last parts is the most likely after the others.

        All are scored with the same random numbers. Of texts of different lengths the shorter is
        often the likelier one: `Choice.nats` and `Choice.symbols` allow another rule.

        Args:
            parts: the document before them; may be empty.
            candidates: raw data of one modality, at least two.
            times: times at which a bound is measured.
            seed: of its noise.
        """
        if len(candidates) < 2:
            raise BraidError(f"give at least two candidates to choose from, got {len(candidates)}")
        parts = _parts(parts)
        documents = [self.document([*parts, candidate]) for candidate in candidates]
        if len({d[-1].modality for d in documents}) > 1:
            raise BraidError(
                "candidates must be of one modality, or their likelihoods differ in kind"
            )
        scored = [nats(self.braid, [d], times, seed) for d in documents]
        if scored[0].kind == "none":
            raise BraidError(
                f"modality {documents[0][-1].modality!r} has no likelihood to choose by"
            )
        values = [float(s.value.sum()) for s in scored]
        best = min(range(len(values)), key=values.__getitem__)
        symbols = [int(s.symbols.sum()) for s in scored]
        return Choice(best, candidates[best], values, symbols, scored[0].kind)

    @torch.no_grad()
    def embed(self, parts: Sequence[Any]) -> Tensor:
        """Return the mean hidden vector of the parts, [D]."""
        document: Document = [dataclasses.replace(s, target=False) for s in self.spans(parts)]
        batch = pack([[document]], self.braid.placements, twins=False).to(self.braid.device)
        return self.braid.embed(batch)[0]

    def save(self, path: str | Path) -> None:
        """Write the model as a folder of safetensors and JSON that `braid.load` reads."""
        if quantisation.quantised(self.braid):
            raise BraidError(
                "a quantised model is not saved; save the full one, and load it with quantise=..."
            )
        states = {n: m.state() for n, m in self._known.items()}
        tree = self.experiment.model_dump(mode="json")
        for name, modality in self._known.items():
            for option in modality.folders():  # they lie beside the model
                tree["strands"][name]["modality"][option] = f"{name}-{option}"
        storage.save(
            Path(path),
            # what is tied is written once, and adapters are in the weights beside them
            {"model": adapting.merged(self.braid)},
            {"experiment": tree, "modalities": states},
            {f"{n}-{o}": f for n, m in self._known.items() for o, f in m.folders().items()},
        )

    @classmethod
    def from_pretrained(
        cls,
        id_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Pipeline:
        """Load a model; `braid.load` under the name that it has elsewhere."""
        from braid.loading import load

        return load(
            id_or_folder,
            device,
            dtype=dtype,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = publishing.MESSAGE,
        revision: str | None = None,
        license: str | None = None,
    ) -> None:
        """Write the model with a model card, which never replaces one that was written by hand.

        Args:
            folder: where to.
            push_to_hub: upload it too, with the options of `push_to_hub`.
            repo_id: where to upload it; None is the folder's name.
            private: see `push_to_hub`.
            token: see `push_to_hub`.
            commit_message: see `push_to_hub`.
            revision: see `push_to_hub`.
            license: for the card.
        """
        publishing.save(self, folder, name=repo_id, license=license)
        if push_to_hub:
            self.push_to_hub(
                repo_id or Path(folder).resolve().name,
                private=private,
                token=token,
                commit_message=commit_message,
                revision=revision,
                license=license,
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = publishing.MESSAGE,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> str:
        """Upload the model with a card, and return the address; see `braid.publishing.push`."""
        return publishing.push(
            self,
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            license=license,
        )

    def modality(self, raw: object) -> tuple[str, Any]:
        """Return the modality that reads raw data, and the data."""
        if isinstance(raw, Part):
            self.braid.strand(raw.modality)
            return raw.modality, raw.raw
        for name, modality in self._known.items():
            if modality.accepts(raw):
                return name, raw
        raise BraidError(
            f"no modality of this model reads {type(raw).__name__} {raw!r:.40}; it has "
            f"{', '.join(self._known)}: name one with braid.Part(modality, raw)"
        )

    def spans(self, parts: Sequence[Any]) -> list[Span]:
        """Encode a document without holes.

        Its last part stands on the canvas that a model learns to fill.
        """
        if isinstance(parts, str) or not parts:
            raise BraidError(f'give a list of at least one part, such as ["a cat"]; got {parts!r}')
        named = [self.modality(p) for p in parts]
        after = [n for n, _ in named[1:]] + [None]
        spans = []
        for (name, raw), follows in zip(named, after, strict=True):
            modality = self._known[name]
            tokens, shape = modality.tokenise(raw, follows)
            if self.braid.strand(name).process is not None and follows is None:
                padded = modality.canvas(tokens, self.braid.strand(name).causal)
                tokens, shape = padded, shape if len(padded) == len(tokens) else (len(padded),)
            spans.append(Span(name, tokens, shape=shape))
        return spans

    def _read(self, parts: Sequence[Any]) -> list[Known | Opening]:
        """Encode one document; every mistake in it is found here, before the model runs."""
        if isinstance(parts, str) or not any(isinstance(p, Hole) for p in parts):
            raise BraidError(
                'give a list of parts with at least one hole, such as ["a cat", '
                'braid.Hole("image")]'
            )
        named = [(p.modality, p) if isinstance(p, Hole) else self.modality(p) for p in parts]
        out: list[Known | Opening] = []
        for i, (name, raw) in enumerate(named):
            strand = self.braid.strand(name)
            if isinstance(raw, Hole):
                out.append(self._open(raw))
            else:
                follows = named[i + 1][0] if i + 1 < len(named) else None
                tokens, shape = strand.modality.tokenise(raw, follows)
                out.append(Known(name, [tokens], [shape]))
        return out

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

    def _samplers(
        self,
        parts: Sequence[Known | Opening],
        sampler: Sampler | str | Mapping[str, Any] | None,
        steps: int | None,
        temperature: float | None,
        cache: BlockCache | None = None,
    ) -> dict[int, Sampler]:
        """Return the sampler of each hole, with the options of this call."""
        given = sampler
        if given is not None and not isinstance(given, Sampler):
            given = config.make(SAMPLERS, "sampler", _options(given))
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
            wanted = {"steps": steps, "temperature": temperature}
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
            if cache is not None:
                cache.check(self.braid, part.modality, out[i])
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
        return self._known[part.modality].decode(tokens[row].cpu(), part.shape)


def _seed(seed: int, number: int) -> int:
    """Return the seed of the n-th result of a call; the first is the call's own."""
    if number == 0:
        return seed
    return int(derive(torch.tensor([signed(seed)]), "result", number)[0])


def _root(seed: int) -> int:
    return int(derive(torch.tensor([signed(seed)]), "sample")[0])


def _options(sampler: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(sampler, str | Mapping):
        raise BraidError(
            f"sampler {sampler!r} is no sampler; give its name, its options with a "
            "'kind', or a Sampler"
        )
    return {"kind": sampler} if isinstance(sampler, str) else dict(sampler)


def _parts(document: Any) -> Any:
    """Return a document that can be read more than once; a string is refused later."""
    return document if isinstance(document, str) else list(document)


def _form(part: Known | Opening) -> tuple:
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
class _Chosen:
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


def _for_each(name: str, value: Each[Any], count: int) -> list[Any]:
    """Return an option of each document."""
    value = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    if isinstance(value, str):
        raise BraidError(f"{name} {value!r} is no number; give one, or one each")
    if not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise BraidError(f"{len(value)} {name} for {count} documents; give one, or one each")
    return list(value)


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


def _watch(
    callback: Callback | None, watch: Watch | None, frames: list[Frame] | None, before: int
) -> Watch | None:
    """Return what is called at each network call; parts are numbered without those `before`."""
    if callback is None and watch is None and frames is None:
        return None
    calls = 0

    def watch_all(frame: Frame) -> bool:
        nonlocal calls
        frame = dataclasses.replace(frame, part=frame.part - before)
        if frames is not None:
            frames.append(
                dataclasses.replace(
                    frame, state=frame.state.cpu().clone(), belief=frame.belief.cpu().clone()
                )
            )
        calls += 1
        told = callback(calls - 1, frame.state, frame.belief) if callback is not None else None
        watched = watch(frame) if watch is not None else None
        return told is not False and watched is not False

    return watch_all
