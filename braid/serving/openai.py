"""Requests in the words of OpenAI's interface, so that its clients work with this server.

Fields that braid has a use for are honoured, those that ask for something it cannot do are refused
by name, and the rest is left alone, as that interface's servers do.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image as PIL
from pydantic import Field

from braid.errors import BraidError
from braid.modalities.sounds import Sound
from braid.parts import Hole, Part, Parts
from braid.serving import media
from braid.serving.asked import Asked, Foreign, Given, Reply, Served, dumps, parse
from braid.serving.refusals import Refusal, invalid
from braid.serving.wishes import Preview, Wish, Written


class Drawn(Foreign):
    """What all requests share: how braid samples; the names of diffusers serve too."""

    model: str | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    steps: int | None = Field(None, ge=1)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    sampler: str | dict[str, Any] | None = None

    def wish(self, parts: Sequence[Any], **more: Any) -> Wish:
        """Return the wish for a document with these options."""
        guidance = _one("guidance", self.guidance, "guidance_scale", self.guidance_scale)
        return Wish(
            parts,
            steps=_one("steps", self.steps, "num_inference_steps", self.num_inference_steps),
            guidance=1.0 if guidance is None else guidance,
            temperature=self.temperature,
            sampler=self.sampler,
            **({} if self.seed is None else {"seed": self.seed}),
            **more,
        )


class Chat(Drawn):
    """The request of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None


class Images(Drawn):
    """The request of `POST /v1/images/generations` and, as a form, `POST /v1/images/edits`."""

    prompt: str = Field(min_length=1)
    n: int = Field(1, ge=1)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    start: float = Field(0.0, ge=0, lt=1)


class Speech(Drawn):
    """The request of `POST /v1/audio/speech`."""

    input: str = Field(min_length=1)
    response_format: Literal["wav", "pcm", "flac"] = "wav"


class Transcription(Drawn):
    """The form of `POST /v1/audio/transcriptions`."""

    prompt: str | None = None
    response_format: Literal["json", "text"] = "json"
    stream: bool = False


_UNKNOWN: dict[type[Foreign], dict[str, tuple[Any, ...]]] = {
    Chat: {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "logit_bias": ({},),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "audio": (),
        "top_p": (1,),
    },
    Images: {
        "negative_prompt": ("",),
        "background": ("auto", "opaque"),
        "quality": ("auto", "standard"),
        "style": (),
    },
    Speech: {
        "voice": ("default",),
        "instructions": ("",),
        "speed": (1,),
        "stream_format": ("audio",),
    },
    Transcription: {
        "timestamp_granularities": ("segment",),
        "timestamp_granularities[]": ("segment",),
        "include": (),
        "include[]": (),
    },
}
"""Fields that this server has no use for, and the values that ask for nothing."""


def _read(kind: type[Any], body: Mapping[str, Any], served: Served, form: bool = False) -> Any:
    for name, harmless in _UNKNOWN[kind].items():
        value = body.get(name)
        if value is not None and value not in harmless:
            remedy = f" or use {harmless[0]!r}" if harmless else ""
            raise invalid(
                f"{name} {value!r:.60} is nothing this server can do; leave it out{remedy}",
                name,
                "unsupported_parameter",
            )
    asked = parse(kind, body, form)
    served.check_name(asked.model)
    return asked


@dataclass
class Completion(Asked):
    """An answer in a conversation.

    Attributes:
        usage: a stream ends with how many tokens were used.
        begun: results of which a stream has said something.
    """

    usage: bool = False
    begun: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Completion:
        """Read the request of `POST /v1/chat/completions`.

        The conversation's parts become the document in their order, and the answer is a text after
        them; who says what is told by what a model has learned to expect there.
        """
        asked: Chat = _read(Chat, body, served)
        options = dict(asked.stream_options or {})
        room = _one(
            "max_tokens", asked.max_tokens, "max_completion_tokens", asked.max_completion_tokens
        )
        wish = asked.wish(
            [*_said(asked.messages, served), Hole("text", room)],
            n=asked.n,
            stops=[asked.stop] if isinstance(asked.stop, str) else asked.stop or [],
            stream=asked.stream,
        )
        made = cls(wish, served.name, asked.stream, usage=bool(options.get("include_usage")))
        made.id = f"chatcmpl-{made.id}"
        return made

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return all answers."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": parts[-1]},
                "finish_reason": _reason(parts),
                "logprobs": None,
            }
            for i, parts in enumerate(results)
        ]
        whole = self._head("chat.completion") | {"choices": choices, "usage": dict(usage)}
        return Reply(dumps(whole).encode())

    def piece(self, event: Written | Preview) -> Iterator[str]:
        """Say what has been written."""
        if isinstance(event, Written):
            yield self._chunk([self._choice(event.result, {"content": event.text}, None)])

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Say why each answer ends, and what was used where that was asked for."""
        for i, parts in enumerate(results):
            yield self._chunk([self._choice(i, {}, _reason(parts))])
        if self.usage:
            yield self._chunk([], usage)
        yield "[DONE]"

    def _choice(self, index: int, delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        # clients add up what they are sent: who speaks is said once
        who = {} if index in self.begun else {"role": "assistant"}
        self.begun.add(index)
        return {
            "index": index,
            "delta": {**who, **delta},
            "finish_reason": reason,
            "logprobs": None,
        }

    def _chunk(self, choices: list[Any], usage: Mapping[str, int] | None = None) -> str:
        used = {} if usage is None else {"usage": dict(usage)}
        return dumps(self._head("chat.completion.chunk") | {"choices": choices} | used)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass
class Drawing(Asked):
    """Pictures of a prompt.

    Attributes:
        form: png, jpeg or webp.
        event: what a stream's events begin with.
        shown: how many previews of each result were sent.
    """

    form: str = "png"
    event: str = "image_generation"
    shown: Counter[int] = field(default_factory=Counter)

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Drawing:
        """Read the request of `POST /v1/images/generations`."""
        asked: Images = _read(Images, body, served)
        if asked.start:
            raise invalid(
                "start refines a picture, and here none is given; send both to /v1/images/edits",
                "start",
                "unsupported_parameter",
            )
        hole = Hole("image", _canvas(asked.size, served))
        return cls._of(asked, [asked.prompt, hole], served)

    @classmethod
    def edit(
        cls, body: Mapping[str, Any], images: Sequence[bytes], mask: bytes | None, served: Served
    ) -> Drawing:
        """Read the form of `POST /v1/images/edits`.

        With a mask, what it leaves transparent is drawn anew and the rest is held; with `start`
        the picture is refined from that time on; with neither, the picture is something to read,
        and the prompt says what to change.
        """
        asked: Images = _read(Images, body, served, form=True)
        given = Given(served)
        pictures = [given.picture(data, "image") for data in images]
        if not pictures:
            raise invalid("an edit needs a picture; send it as the form's `image`", "image")
        shape = _canvas(asked.size, served)
        if mask is None and not asked.start:
            parts = [*(Part(served.reader("image", "vision"), p) for p in pictures), asked.prompt]
            return cls._of(asked, [*parts, Hole("image", shape)], served, "image_edit")
        if len(pictures) > 1:
            raise invalid("a mask or a start belongs to one picture; send one `image`", "image")
        keep = None if mask is None else _held(given.picture(mask, "mask"))
        hole = Hole("image", shape, pictures[0], keep, asked.start)
        return cls._of(asked, [asked.prompt, hole], served, "image_edit")

    @classmethod
    def _of(
        cls, asked: Images, parts: list[Any], served: Served, event: str = "image_generation"
    ) -> Drawing:
        if asked.response_format == "url":
            raise invalid(
                "this server keeps no pictures, so it has no address for one; use b64_json",
                "response_format",
                "unsupported_parameter",
            )
        wish = asked.wish(parts, n=asked.n, stream=asked.stream, previews=asked.partial_images)
        return cls(wish, served.name, asked.stream, form=asked.output_format, event=event)

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return all pictures."""
        whole = {
            "created": self.created,
            "output_format": self.form,
            "data": [{"b64_json": self._picture(parts[-1])} for parts in results],
            "usage": _words(usage),
        }
        return Reply(dumps(whole).encode())

    def piece(self, event: Written | Preview) -> Iterator[str]:
        """Say what a picture will be."""
        if isinstance(event, Preview) and isinstance(event.raw, PIL.Image):
            number = self.shown[event.result]
            self.shown[event.result] += 1
            told = {"b64_json": self._picture(event.raw), "partial_image_index": number}
            yield dumps({"type": f"{self.event}.partial_image"} | told | self._about(event.raw))

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Say each picture."""
        for parts in results:
            told = {"b64_json": self._picture(parts[-1]), "usage": _words(usage)}
            yield dumps({"type": f"{self.event}.completed"} | told | self._about(parts[-1]))

    def _about(self, picture: PIL.Image) -> dict[str, Any]:
        size = f"{picture.width}x{picture.height}"
        return {"created_at": self.created, "size": size, "output_format": self.form}

    def _picture(self, picture: PIL.Image) -> str:
        return base64.b64encode(media.encoded(picture, self.form)).decode()


@dataclass
class Spoken(Asked):
    """A text read aloud.

    Attributes:
        form: wav, pcm or flac.
    """

    form: str = "wav"

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Spoken:
        """Read the request of `POST /v1/audio/speech`."""
        asked: Speech = _read(Speech, body, served)
        wish = asked.wish([asked.input, Hole("audio")])
        return cls(wish, served.name, form=asked.response_format)

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return the sound."""
        sound: Sound = results[0][-1]
        made = {"wav": media.wav, "pcm": media.pcm, "flac": media.flac}[self.form](sound)
        return Reply(
            made, "application/octet-stream" if self.form == "pcm" else f"audio/{self.form}"
        )

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Sound is answered whole."""
        yield from ()


@dataclass
class Transcribed(Asked):
    """What was said.

    Attributes:
        plain: the answer is the text alone.
    """

    plain: bool = False

    @classmethod
    def read(cls, body: Mapping[str, Any], sound: bytes, served: Served) -> Transcribed:
        """Read the form of `POST /v1/audio/transcriptions`."""
        asked: Transcription = _read(Transcription, body, served, form=True)
        if asked.stream:
            raise invalid(
                "a transcription is answered whole; leave stream out",
                "stream",
                "unsupported_parameter",
            )
        heard = Part(served.reader("audio"), Given(served).sound(sound, "file"))
        prompt = [asked.prompt] if asked.prompt else []
        wish = asked.wish([heard, *prompt, Hole("text")])
        return cls(wish, served.name, plain=asked.response_format == "text")

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return the text."""
        if self.plain:
            return Reply(results[0][-1].encode(), "text/plain; charset=utf-8")
        return Reply(dumps({"text": results[0][-1], "usage": _words(usage)}).encode())

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Text of a sound is answered whole."""
        yield from ()


def _one(name: str, value: Any, other: str, same: Any) -> Any:
    if value is not None and same is not None:
        raise invalid(f"{name} and {other} are two names of one option; give one of them", name)
    return same if value is None else value


def _said(messages: list[dict[str, Any]], served: Served) -> list[Any]:
    """Return the parts of a conversation."""
    given = Given(served)
    told = [_message(message, number, given) for number, message in enumerate(messages)]
    try:
        return served.pipe.conversation(told)
    except BraidError as e:
        raise invalid(str(e), "messages") from None


def _message(message: Mapping[str, Any], number: int, given: Given) -> dict[str, Any]:
    """Return a message with its parts read, as braid's conversations have them."""
    told = {**message, "role": "system"} if message.get("role") == "developer" else {**message}
    content = message.get("content")
    if isinstance(content, list):
        told["content"] = [
            _part(part, f"messages.{number}.content.{i}", given) for i, part in enumerate(content)
        ]
    return told


def _part(part: Any, at: str, given: Given) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    found = part.get(kind) if isinstance(kind, str) else None
    if kind == "text" and isinstance(found, str):
        return {"type": "text", "text": found}
    if kind == "image_url":
        raw = found.get("url") if isinstance(found, dict) else found
        if isinstance(raw, str):
            name = _reader(given.served, at, "vision", "image")
            return {"type": name, name: given.picture(raw, at)}
    if kind == "input_audio":
        raw = found.get("data") if isinstance(found, dict) else found
        if isinstance(raw, str):
            name = _reader(given.served, at, "audio")
            return {"type": name, name: given.sound(raw, at)}
    raise invalid(
        f"{at}: expected a part of type text, image_url or input_audio with its content, got "
        f"{part!r:.60}",
        at,
    )


def _reader(served: Served, at: str, *names: str) -> str:
    """Return the first of some strands that the model has, or say which part asks for them."""
    try:
        return served.reader(*names)
    except Refusal as e:
        raise invalid(f"{at}: {e.message}", at) from None


def _canvas(size: str | None, served: Served) -> tuple[int, int] | None:
    """Return the shape in tokens of a picture of WIDTHxHEIGHT pixels; None is the trained one."""
    name = served.reader("image")
    if size in (None, "auto"):
        return None
    modality: Any = served.pipe.braid.strand(name).modality
    edges = modality.width // modality.shape[1], modality.height // modality.shape[0]
    try:
        width, height = (int(n) for n in str(size).split("x"))
        columns, rows = width // edges[0], height // edges[1]
        if (columns * edges[0], rows * edges[1]) != (width, height) or min(columns, rows) < 1:
            raise ValueError(size)
    except ValueError:
        raise invalid(
            f"size {size!r:.40} is no multiple of the {edges[0]}x{edges[1]} pixels of a token; use "
            f"{modality.width}x{modality.height}, or auto",
            "size",
        ) from None
    return rows, columns


def _held(mask: PIL.Image) -> np.ndarray:
    """Return which pixels a mask holds: those that are not transparent."""
    if "A" not in mask.getbands():
        raise invalid(
            "the mask has no transparency; make what is to be drawn anew transparent", "mask"
        )
    return np.asarray(mask.getchannel("A")) > 0


def _reason(parts: Parts) -> str:
    return "stop" if parts.closed[-1] else "length"


def _words(usage: Mapping[str, int]) -> dict[str, int]:
    """Return the usage in the names that all but the conversations have."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }
