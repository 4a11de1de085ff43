"""What a client wants generated, and the work that it makes; whatever words it was asked in."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image as PIL
from torch import Tensor

from braid.generation import Frame, Opening
from braid.modalities import Audio, Label, Modality, Text
from braid.modalities.sounds import Sound
from braid.parts import Hole, Part, Parts
from braid.pipeline import Pipeline
from braid.preparing import Work
from braid.serving.limits import Limits
from braid.serving.refusals import invalid

_SEEDS = 1 << 53
"""Seeds are drawn below: clients read larger numbers as floats, and would tell another one."""


@dataclass(frozen=True)
class Written:
    """Text that has been written; what came before it stays.

    Attributes:
        result: number of the result.
        part: number of the part in the document.
        text: what is new.
    """

    result: int
    part: int
    text: str


@dataclass(frozen=True)
class Preview:
    """What the model believes a part will be, while it draws.

    Attributes:
        result: number of the result.
        part: number of the part in the document.
        call: network calls until then.
        time: process time, 0 (noise) to 1 (data).
        raw: the belief, as raw data of the part.
    """

    result: int
    part: int
    call: int
    time: float
    raw: Any


Tell = Callable[[Written | Preview], None]


@dataclass(frozen=True)
class Wish:
    """A document with holes, and how to fill them.

    Attributes:
        parts: as in a call of a pipeline.
        n: number of results.
        seed: of the first one; drawn by chance where a client names none.
        steps: network calls of a hole.
        guidance: 1 is none.
        temperature: of drawing symbols; None is the sampler's own.
        sampler: exchanges the sampler of every hole it suits.
        cache: decode block by block with keys and values that are not exact, as "dual:16".
        stops: a text ends before the first of these.
        stream: tell of text as it is written.
        previews: how many pictures of what is being drawn to tell of, for each result.
    """

    parts: Sequence[Any]
    n: int = 1
    seed: int = field(default_factory=lambda: secrets.randbelow(_SEEDS))
    steps: int | None = None
    guidance: float = 1.0
    temperature: float | None = None
    sampler: str | Mapping[str, Any] | None = None
    cache: str | None = None
    stops: Sequence[str] = ()
    stream: bool = False
    previews: int = 0

    def check(self, limits: Limits) -> None:
        """Refuse what is more than one request may ask for."""
        asked = {
            "parts": (len(self.parts), limits.parts),
            "n": (self.n, limits.results),
            "stop": (len(self.stops), limits.stops),
            "previews": (self.previews, limits.previews),
        }
        for name, (value, most) in asked.items():
            if value > most:
                raise invalid(f"{name} {value} is more than this server's {most}", name)
        check_texts(self.parts, limits)
        for stop in self.stops:
            if not 0 < len(stop) <= limits.stop_characters:
                raise invalid(
                    f"a stop of {len(stop)} characters; use 1 to {limits.stop_characters}", "stop"
                )


class Filling:
    """One wish at work: `prepare` makes the work, and `tell` hears of it as it goes on.

    Both are called by the engine's thread.
    """

    def __init__(self, wish: Wish, pipe: Pipeline, limits: Limits, tell: Tell) -> None:
        self.wish, self.pipe, self.limits, self.tell = wish, pipe, limits, tell
        self._told: dict[tuple[int, int], str] = {}
        self._calls = 0
        self._shown: set[int] = set()  # calls whose belief is to be told
        self._tried = False
        self._shapes: dict[int, tuple[int, ...]] = {}

    def prepare(self) -> Work:
        """Read the document.

        Raises:
            BraidError: something in it is wrong.
            Refusal: it or its holes have more tokens than this server allows.
        """
        wish = self.wish
        check_kinds(wish.parts, self.pipe)
        self._calls = 0  # where it is tried again, what was told stays told
        watched = wish.previews > 0
        heard = bool(wish.stops) or wish.stream
        work = self.pipe.prepare(
            wish.parts,
            steps=wish.steps,
            guidance=wish.guidance,
            temperature=wish.temperature,
            seed=wish.seed,
            n=wish.n,
            sampler=wish.sampler,
            cache=wish.cache,
            watch=self._watch if watched else None,
            finished=self._finished if heard else None,
        )
        read = work.order.read[0][-len(wish.parts) :]  # without what opens a document
        self._shapes = {i: p.shape for i, p in enumerate(read) if isinstance(p, Opening)}
        check_context(work.given, self.limits)
        chosen = wish.steps is not None or wish.sampler is not None  # or they are the model's own
        if chosen and work.steps > self.limits.steps:
            raise invalid(
                f"this sampler may make {work.steps} network calls, more than this server's "
                f"{self.limits.steps} steps",
                "sampler" if wish.steps is None else "steps",
            )
        if work.asked > self.limits.tokens:
            raise invalid(
                f"the holes have {work.asked} tokens, more than this server's "
                f"{self.limits.tokens}; ask for smaller ones"
            )
        if not self._tried:  # evenly, the last of them before the end
            count, self._tried = wish.previews, True
            self._shown = {work.calls * (i + 1) // (count + 1) for i in range(count)}
        return work

    def of(self, parts: Parts) -> Parts:
        """Return a result whose texts end before the first stop."""
        if not self.wish.stops:
            return parts
        out, closed = list(parts), list(parts.closed)
        for i in self._shapes:
            if isinstance(out[i], str) and (cut := self._cut(out[i])) < len(out[i]):
                out[i], closed[i] = out[i][:cut], True
        return Parts(out, parts.calls, parts.stopped, parts.trajectory, parts.tokens, closed)

    def rest(self, result: int, parts: Parts) -> list[Written]:
        """Return the texts of a result that have not been told of."""
        out = []
        for i in self._shapes:
            if isinstance(parts[i], str):
                told = self._told.get((result, i), "")
                if len(parts[i]) > len(told):
                    out.append(Written(result, i, parts[i][len(told) :]))
        return out

    def _watch(self, frame: Frame) -> None:
        if self._calls in self._shown:
            self._shown.discard(self._calls)
            modality = self._modality(frame.part)
            shape = self._shapes[frame.part]
            for result, belief in enumerate(frame.belief.cpu()):
                if len(belief) == math.prod(shape):  # a whole part, and no block of it
                    raw = modality.decode(belief, shape)
                    self.tell(Preview(result, frame.part, self._calls, frame.time, raw))
        self._calls += 1

    def _finished(self, part: int, tokens: Tensor) -> Tensor | None:
        """Tell of new text, and return the rows that hold a stop."""
        modality = self._modality(part)
        if not modality.closes:
            return None
        held = []
        for result, row in enumerate(tokens.cpu()):
            text = modality.decode(row, (len(row),))
            cut = self._cut(text)
            held.append(cut < len(text))
            if self.wish.stream:
                self._tell(result, part, text[:cut] if held[-1] else self._certain(text))
        return torch.tensor(held, device=tokens.device)

    def _modality(self, part: int) -> Modality:
        return self.pipe.braid.strand(self.wish.parts[part].modality).modality

    def _tell(self, result: int, part: int, text: str) -> None:
        told = self._told.get((result, part), "")
        if len(text) > len(told) and text.startswith(told):
            self._told[result, part] = text
            self.tell(Written(result, part, text[len(told) :]))

    def _cut(self, text: str) -> int:
        """Return where a text ends: before its first stop."""
        places = [at for stop in self.wish.stops if (at := text.find(stop)) >= 0]
        return min(places, default=len(text))

    def _certain(self, text: str) -> str:
        """Return what of a text will stay: no half of a character, and no beginning of a stop."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        begun = [
            size
            for stop in self.wish.stops
            for size in range(1, len(stop))
            if text.endswith(stop[:size])
        ]
        return text[: len(text) - max(begun, default=0)]


def check_texts(parts: Sequence[Any], limits: Limits) -> None:
    """Refuse texts that are too long together, before a tokenizer sees them."""
    characters = sum(len(text) for part in parts for text in _texts(_raw(part)))
    if characters > limits.prompt_characters:
        raise invalid(
            f"the texts have {characters} characters, more than this server's "
            f"{limits.prompt_characters}; shorten them",
            code="context_length_exceeded",
        )


def _texts(raw: Any) -> list[str]:
    """Return what of raw data is text: all of it, or pieces."""
    pieces = raw if isinstance(raw, list | tuple) else [raw]
    return [piece for piece in pieces if isinstance(piece, str)]


def check_kinds(parts: Sequence[Any], pipe: Pipeline) -> None:
    """Refuse raw data of another kind than its modality's.

    A pipeline opens the file that a string names; nothing of a client may be taken for a name.
    """
    for i, part in enumerate(parts):
        name = part.modality if isinstance(part, Part | Hole) else None
        raw = _raw(part)
        if name is None or raw is None:  # a bare text, or a hole without a draft
            continue
        modality = pipe.braid.strand(name).modality
        if isinstance(modality, Text):
            fits = isinstance(raw, str | list)
        elif isinstance(modality, Label):
            fits = isinstance(raw, int | str)
        elif isinstance(modality, Audio):
            fits = isinstance(raw, Sound)
        else:
            fits = isinstance(raw, PIL.Image)
        if not fits:
            kinds = {str: "a text", list: "a text", int: "a number", Sound: "a sound"}
            raise invalid(
                f"part {i}: {kinds.get(type(raw), 'a picture')} is nothing that {name!r} reads; "
                "name another modality, or send what this one reads",
                f"parts.{i}",
            )


def check_context(tokens: int, limits: Limits) -> None:
    """Refuse a document of which one network call alone would keep all others waiting."""
    if tokens > limits.context:
        raise invalid(
            f"the document has {tokens} tokens, more than this server's {limits.context}; "
            "shorten it",
            code="context_length_exceeded",
        )


def memory(parts: Sequence[Any]) -> int:
    """Return roughly how many bytes the pictures and sounds of a document take."""
    total = 0
    for part in parts:
        raw = _raw(part)
        if isinstance(raw, PIL.Image):
            total += raw.width * raw.height * len(raw.getbands())
        elif isinstance(raw, Sound):
            total += raw.samples.nbytes
    return total


def _raw(part: Any) -> Any:
    """Return what a part gives to read."""
    part = part.draft if isinstance(part, Hole) else part
    return part.raw if isinstance(part, Part) else part


def used(parts: Sequence[Any], results: Sequence[Parts]) -> dict[str, int]:
    """Return how many tokens were read and written, in OpenAI's words."""
    holes = [i for i, part in enumerate(parts) if isinstance(part, Hole)]
    given = sum(n for i, n in enumerate(results[0].tokens) if i not in holes)
    made = sum(result.tokens[i] for result in results for i in holes)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
