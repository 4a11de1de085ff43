"""What every kind of request shares: reading its JSON, its parts, and saying parts in JSON."""

from __future__ import annotations

import json
import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Semaphore
from typing import Any, TypeVar

from PIL import Image as PIL
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from braid.modalities.sounds import Sound
from braid.parts import Parts
from braid.pipeline import Pipeline
from braid.serving import media
from braid.serving.limits import Limits
from braid.serving.refusals import Refusal, invalid
from braid.serving.wishes import Preview, Wish, Written

M = TypeVar("M", bound=BaseModel)

_DECODERS = 4


class Body(BaseModel):
    """A request in braid's own words: a field that nobody knows is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Foreign(BaseModel):
    """A request in the words of another interface: fields that nobody knows are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Sampling(BaseModel):
    """How braid samples, whatever words a request is in; the names of diffusers serve too."""

    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    steps: int | None = Field(None, ge=1)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    sampler: str | dict[str, Any] | None = None

    def wish(self, parts: Sequence[Any], **more: Any) -> Wish:
        """Return the wish for a document with these options."""
        guidance = one("guidance", self.guidance, "guidance_scale", self.guidance_scale)
        return Wish(
            parts,
            steps=one("steps", self.steps, "num_inference_steps", self.num_inference_steps),
            guidance=1.0 if guidance is None else guidance,
            temperature=self.temperature,
            sampler=self.sampler,
            **({} if self.seed is None else {"seed": self.seed}),
            **more,
        )


@dataclass(frozen=True)
class Served:
    """What requests are read against.

    Attributes:
        pipe: the model.
        name: under which it is served.
        limits: of one request.
        picture_decoders: hold who decodes one too many at a time: a picture is many times its file.
        sound_decoders: the same of sounds, each of which may have a process of its own.
    """

    pipe: Pipeline
    name: str
    limits: Limits
    picture_decoders: Semaphore = field(default_factory=lambda: Semaphore(_DECODERS))
    sound_decoders: Semaphore = field(default_factory=lambda: Semaphore(_DECODERS))

    def check_name(self, model: str | None) -> None:
        """Refuse the name of another model."""
        if model is not None and model != self.name:
            raise Refusal(
                404,
                f"model {model!r} is not served here; use {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def reader(self, *names: str) -> str:
        """Return the first of some strands that the model has."""
        found = [name for name in names if name in self.pipe.braid.strands]
        if not found:
            has = ", ".join(self.pipe.braid.strands)
            raise invalid(f"this model reads no {names[0]}; it has {has}", names[0])
        return found[0]


@dataclass(frozen=True)
class Reply:
    """An answer's body and its media type."""

    content: bytes
    type: str = "application/json"


@dataclass
class Asked(ABC):
    """A request that has been read, and how it is answered.

    Attributes:
        wish: what is to be generated.
        model: name of the model.
        stream: answer piece by piece.
        id: of the answer.
        created: seconds since 1970.
    """

    wish: Wish
    model: str
    stream: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @abstractmethod
    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return the whole answer."""

    def piece(self, event: Written | Preview) -> Iterator[str]:
        """Yield what a stream says of something that happened."""
        yield from ()

    @abstractmethod
    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Yield what ends a stream."""


def read_json(content: bytes, depth: int) -> dict[str, Any]:
    """Return a request's object.

    Raises:
        Refusal: it is none, is nested deeper than `depth`, or holds what is no Unicode.
    """
    try:
        found = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        raise invalid("the body is no JSON; send one object, in UTF-8", code="bad_json") from e
    if not isinstance(found, dict):
        raise invalid(f"the body is {_kind(found)}; send an object", code="bad_json")
    _check(found, depth)
    return found


def _no_number(name: str) -> float:
    raise ValueError(name)


def _check(found: Any, depth: int) -> None:
    level = [found]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not value.isascii():
                _check_text(value)
        if not inner:
            return
        level = inner
    raise invalid(f"the body is nested deeper than {depth}; send a flatter one", code="bad_json")


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise invalid(
            "the body holds half of a surrogate pair; repair its encoding", code="bad_json"
        ) from e


def parse(kind: type[M], body: Mapping[str, Any], form: bool = False) -> M:
    """Return a request's fields; those of a form are all strings, which stand for numbers, too.

    In the words of another interface null is a field that is not given.

    Raises:
        Refusal: names the first field that is wrong.
    """
    if issubclass(kind, Foreign):
        body = {name: value for name, value in body.items() if value is not None}
    try:
        return kind.model_validate(body, strict=not form)
    except ValidationError as e:
        found = [(_place(error, body), error["msg"]) for error in e.errors(include_url=False)]
        first = found[0][0]
        # where several forms are allowed, the one that fails deepest is the one that was meant
        place = max((p for p, _ in found if p[: len(first)] == first), key=len)
        told = " or ".join(dict.fromkeys(message for p, message in found if p == place))
        param = ".".join(map(str, place))[:100]
        raise invalid(f"{param or 'the body'}: {told}", param or None) from None


def _place(error: ErrorDetails, body: Any) -> tuple[int | str, ...]:
    """Return where an error is in a request, without pydantic's names of the forms it tried."""
    place: list[int | str] = []
    steps = error["loc"]
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(body, dict):
            if not last and step == body.get("type"):
                continue  # which kind of part it is
            if step not in body and not (last and error["type"] == "missing"):
                continue
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            body = body[step]
        else:
            continue
        place.append(step)
    return tuple(place)


class Given:
    """Counts what a request brings, and reads it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._pictures = self._sounds = 0
        self._pixels, self._seconds = served.limits.picture_pixels, served.limits.audio_seconds

    def picture(self, data: str | bytes, param: str) -> PIL.Image:
        """Return a picture from base64 or the bytes of a file."""
        limits = self.served.limits
        self._pictures += 1
        if self._pictures > limits.pictures:
            raise invalid(f"more than {limits.pictures} pictures; send fewer", param)
        file = self._bytes(data, param)
        left = replace(limits, picture_pixels=max(1, self._pixels))
        with self.served.picture_decoders:
            made = media.picture(file, param, left)
        self._pixels -= made.width * made.height
        return made

    def sound(self, data: str | bytes, param: str) -> Sound:
        """Return a sound from base64 or the bytes of a file."""
        limits = self.served.limits
        self._sounds += 1
        if self._sounds > limits.sounds or self._seconds < 1:
            raise invalid(
                f"more than {limits.sounds} sounds, or {limits.audio_seconds} s of them; send less",
                param,
            )
        file = self._bytes(data, param)
        with self.served.sound_decoders:
            made = media.sound(file, param, replace(limits, audio_seconds=self._seconds))
        self._seconds -= math.ceil(made.seconds)
        return made

    def _bytes(self, data: str | bytes, param: str) -> bytes:
        if isinstance(data, bytes):
            return data
        return media.payload(data, param, self.served.limits.body_bytes)


def one(name: str, value: Any, other: str, same: Any) -> Any:
    """Return the value of an option that has two names.

    Raises:
        Refusal: both are given.
    """
    if value is not None and same is not None:
        raise invalid(f"{name} and {other} are two names of one option; give one of them", name)
    return same if value is None else value


def listed(value: str | Sequence[str] | None) -> Sequence[str]:
    """Return what may be one string, several or none."""
    return [value] if isinstance(value, str) else value or []


def say(raw: Any, form: str = "png") -> dict[str, Any]:
    """Return a part in JSON.

    Args:
        raw: what a modality decoded.
        form: of a picture: png, jpeg or webp.
    """
    if isinstance(raw, PIL.Image):
        return {"type": "image", "image": media.data_url(media.encoded(raw, form), f"image/{form}")}
    if isinstance(raw, Sound):
        return {"type": "audio", "audio": media.data_url(media.wav(raw), "audio/wav")}
    if isinstance(raw, str):
        return {"type": "text", "text": raw}
    return {"type": "label", "label": raw}


def dumps(value: Any) -> str:
    """Return JSON in ASCII, on one line."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
