"""Known parts in, filled parts out: the library's front door for using a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from braid import adapting, calling, publishing, quantisation, storage
from braid.braid import Braid
from braid.config import Experiment
from braid.errors import BraidError
from braid.generation import (
    BlockCache,
    Finished,
    Nats,
    Watch,
    nats,
    together,
)
from braid.generation.context import Transform
from braid.layout import Document, Span, pack
from braid.modalities import Modality, ReleasedText, opening
from braid.parts import Choice, Hole, Part, Parts
from braid.preparing import Callback, Chosen, Order, Preparing, Watching, Work, block_cache, form
from braid.randomness import derive, signed
from braid.samplers import Sampler

T = TypeVar("T")
Each = T | Sequence[T]
"""One for all documents, or one for each."""


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
    _preparing: Preparing = field(init=False, repr=False)
    _interrupt: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.braid.eval()
        self._known = {n: s.modality for n, s in self.braid.strands.items()}
        self._opening = opening(self._known)
        self._preparing = Preparing(self.braid, self._known, self._opening)

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
        options = [Chosen(*chosen) for chosen in zip(*given, strict=True)]
        rows = calling.whole("rows", rows, 1)
        cache = block_cache(cache)
        seeds = range(len(documents)) if seeds is None else seeds
        seeds = [calling.whole("seed", seed) for seed in seeds]
        if len(seeds) != len(documents):
            raise BraidError(f"{len(seeds)} seeds for {len(documents)} documents; give one each")
        read = [self._preparing.read(d) for d in documents]
        groups: dict[tuple, list[int]] = {}
        for i, parts in enumerate(read):
            groups.setdefault((options[i], *(form(p) for p in parts)), []).append(i)

        chunks = [
            members[first : first + rows]
            for members in groups.values()
            for first in range(0, len(members), rows)
        ]
        if not chunks:
            return []
        watching = Watching(callback, watch, trajectory)
        jobs = [
            self._preparing.work(
                Order(
                    [documents[i] for i in chunk],
                    [read[i] for i in chunk],
                    [seeds[i] for i in chunk],
                    options[chunk[0]],
                    sampler,
                    cache,
                    watching,
                )
            )
            for chunk in chunks
        ]
        made = together(self.braid.transformer, jobs, rows)
        order = [i for chunk in chunks for i in chunk]
        found = dict(zip(order, (parts for some in made for parts in some), strict=True))
        return [found[i] for i in range(len(documents))]

    def prepare(
        self,
        parts: Sequence[Any],
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        temperature: float | None = None,
        seed: int = 0,
        n: int = 1,
        sampler: Sampler | str | Mapping[str, Any] | None = None,
        watch: Watch | None = None,
        finished: Finished | None = None,
        cache: BlockCache | str | None = None,
    ) -> Work:
        """Read a document, and return the work of filling its holes.

        `generation.Passes` advances it beside others, as `braid serve` does; its results are those
        of a call with the same options. Every mistake in them is found here.

        Args:
            parts: as in a call, and so are the options.
            steps: network calls per hole, for samplers that walk in steps.
            guidance: 1 is none.
            temperature: of drawing symbols.
            seed: of the first result.
            n: number of results.
            sampler: exchanges the sampler of every hole it suits.
            watch: gets the `Frame` of each network call.
            finished: is called after every block with its part's number and tokens so far, and may
                end rows of it.
            cache: decode block by block with keys and values that are not exact, as "dual:16".
        """
        parts, count = _parts(parts), calling.whole("n", n, 1)
        seeds = [_seed(calling.whole("seed", seed), i) for i in range(count)]
        return self._preparing.work(
            Order(
                [parts] * count,
                [self._preparing.read(parts)] * count,
                seeds,
                Chosen(steps, guidance, temperature),
                sampler,
                block_cache(cache),
                Watching(watch=watch, finished=finished),
            )
        )

    def joined(self, works: Sequence[Work]) -> Work:
        """Return several works of one `Work.form` as one; its results are theirs in their order."""
        return self._preparing.joined(works)

    def document(self, parts: Sequence[Any]) -> Document:
        """Encode a document as in training: after its opening, with the last part as the target."""
        *given, last = self.spans(parts)
        return [*self._opening, *(dataclasses.replace(s, target=False) for s in given), last]

    def score(
        self,
        parts: Sequence[Any],
        times: int = 16,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> list[Nats]:
        """Return each part's negative log-likelihood given the parts before it, in nats.

        It says whether it is exact or a bound.

        Parts of read-only modalities are left out. In a `generation.Job`, `transform` is what the
        job is given in the transformer's place.
        """
        parts, out = _parts(parts), []
        for end in range(1, len(self.spans(parts)) + 1):
            document = self.document(parts[:end])  # as in training, a learned part ends it
            if self.braid.strand(document[-1].modality).process is not None:
                out.append(nats(self.braid, [document], times, seed, transform=transform))
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
    def embed(self, parts: Sequence[Any], transform: Transform | None = None) -> Tensor:
        """Return the mean hidden vector of the parts, [D].

        In a `generation.Job`, `transform` is what the job is given in the transformer's place.
        """
        document: Document = [dataclasses.replace(s, target=False) for s in self.spans(parts)]
        batch = pack([[document]], self.braid.placements, twins=False).to(self.braid.device)
        return self.braid.embed(batch, transform)[0]

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

    def conversation(self, messages: Any) -> list[Any]:
        """Return the parts of a conversation, to which a hole for the answer is added.

        A text conversation with a released model takes the format of its chat template, for which
        several texts of one message are lines of one text; all else is the parts in their order, as
        `data.tasks` has taught conversations.

        Args:
            messages: [{"role": "system", "user" or "assistant", "content": text, or a list of
                {"type": modality, modality: raw data}}].

        Raises:
            BraidError: names the message that has another form.
        """
        from braid.data.conversation import flatten  # reading data is more than an answer needs

        parts = flatten(messages)
        text = self._known.get("text")
        if isinstance(text, ReleasedText) and all(kind == "text" for _, kind, _ in parts):
            wrong = next((raw for _, _, raw in parts if not isinstance(raw, str)), None)
            if wrong is not None:
                raise BraidError(
                    "a text of a conversation is a string, got "
                    f"{type(wrong).__name__} {wrong!r:.40}; put a prompt of pieces together "
                    "without `conversation`"
                )
            told = [(message["role"], flatten([message])) for message in messages]
            pieces = text.conversation(
                [(role, "\n".join(raw for _, _, raw in texts)) for role, texts in told]
            )
            if pieces is not None:
                return [Part("text", pieces)]
        return [raw if kind == "text" else Part(kind, raw) for _, kind, raw in parts]

    def modality(self, raw: object) -> tuple[str, Any]:
        """Return the modality that reads raw data, and the data."""
        return self._preparing.modality(raw)

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


def _seed(seed: int, number: int) -> int:
    """Return the seed of the n-th result of a call; the first is the call's own."""
    if number == 0:
        return seed
    return int(derive(torch.tensor([signed(seed)]), "result", number)[0])


def _parts(document: Any) -> Any:
    """Return a document that can be read more than once; a string is refused later."""
    return document if isinstance(document, str) else list(document)


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
