"""braid's own request: a document with holes, of any modalities in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from braid.parts import Hole, Part, Parts
from braid.serving.asked import (
    Asked,
    Body,
    Given,
    Reply,
    Sampling,
    Served,
    dumps,
    listed,
    parse,
    say,
)
from braid.serving.refusals import invalid
from braid.serving.wishes import Preview, Written, check_texts


class TextPart(Body):
    """A text that is given."""

    type: Literal["text"]
    text: str
    modality: str | None = None


class ImagePart(Body):
    """A picture that is given: PNG, JPEG or WebP, as base64 or a data: URL."""

    type: Literal["image"]
    image: str
    modality: str | None = None


class AudioPart(Body):
    """A sound that is given: WAV, FLAC, OGG or MP3, as base64 or a data: URL."""

    type: Literal["audio"]
    audio: str
    modality: str | None = None


class LabelPart(Body):
    """A class that is given, by its number or name."""

    type: Literal["label"]
    label: int | str
    modality: str | None = None


KnownPart = Annotated[TextPart | ImagePart | AudioPart | LabelPart, Field(discriminator="type")]


class HolePart(Body):
    """A part to generate; see `braid.Hole`.

    `keep` is what is held of the draft: a picture, held where it is white, or one bool a token.
    """

    type: Literal["hole"]
    modality: str
    shape: int | list[int] | None = None
    draft: KnownPart | None = None
    keep: str | list[bool] | list[list[bool]] | None = None
    start: float = 0.0


class Generate(Sampling, Body):
    """The request of `POST /v1/generate`."""

    model: str | None = None
    parts: list[
        Annotated[
            TextPart | ImagePart | AudioPart | LabelPart | HolePart, Field(discriminator="type")
        ]
    ] = Field(min_length=1)
    n: int = Field(1, ge=1)
    cache: str | None = None
    stop: str | list[str] = []
    stream: bool = False
    previews: int = Field(0, ge=0)
    image_format: Literal["png", "jpeg", "webp"] = "png"


@dataclass
class Generation(Asked):
    """A document that is being filled.

    Attributes:
        form: of the pictures in the answer.
    """

    form: str = "png"

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Generation:
        """Read the request of `POST /v1/generate`."""
        asked = parse(Generate, body)
        served.check_name(asked.model)
        wish = asked.wish(
            _parts(asked.parts, served),
            n=asked.n,
            cache=asked.cache,
            stops=listed(asked.stop),
            stream=asked.stream,
            previews=asked.previews,
        )
        return cls(wish, served.name, asked.stream, form=asked.image_format)

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return the holes of all results, filled."""
        return Reply(dumps(self._whole(results, usage)).encode())

    def piece(self, event: Written | Preview) -> Iterator[str]:
        """Say what has been written, or what a part will be."""
        at: dict[str, Any] = {"id": self.id, "result": event.result, "part": event.part}
        if isinstance(event, Written):
            yield dumps({"object": "generation.text", **at, "text": event.text})
        else:
            told = {"call": event.call, "time": event.time, "belief": say(event.raw, self.form)}
            yield dumps({"object": "generation.preview", **at, **told})

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Say all of it, and that it ends."""
        yield dumps(self._whole(results, usage))
        yield "[DONE]"

    def _whole(self, results: Sequence[Parts], usage: Mapping[str, int]) -> dict[str, Any]:
        holes = [i for i, part in enumerate(self.wish.parts) if isinstance(part, Hole)]
        return {
            "id": self.id,
            "object": "generation",
            "created": self.created,
            "model": self.model,
            "seed": self.wish.seed,
            "results": [
                {
                    "parts": [
                        {"part": i, **say(parts[i], self.form), "closed": parts.closed[i]}
                        for i in holes
                    ],
                    "calls": parts.calls,
                }
                for parts in results
            ],
            "usage": dict(usage),
        }


def known(parts: Sequence[Any], served: Served) -> list[Any]:
    """Return the parts of a document without holes, as a pipeline takes them."""
    out = _parts(parts, served)
    check_texts(out, served.limits)
    return out


def _parts(parts: Sequence[Any], served: Served) -> list[Any]:
    given = Given(served)
    if len(parts) > served.limits.parts:
        raise invalid(
            f"{len(parts)} parts are more than this server's {served.limits.parts}", "parts"
        )
    return [
        _hole(part, given, f"parts.{i}")
        if isinstance(part, HolePart)
        else _known(part, given, f"parts.{i}")
        for i, part in enumerate(parts)
    ]


def _known(part: Any, given: Given, param: str) -> Any:
    served = given.served
    if isinstance(part, TextPart):
        return part.text if part.modality is None else Part(part.modality, part.text)
    if isinstance(part, ImagePart):
        name = part.modality or served.reader("image", "vision")
        return Part(name, given.picture(part.image, f"{param}.image"))
    if isinstance(part, AudioPart):
        name = part.modality or served.reader("audio")
        return Part(name, given.sound(part.audio, f"{param}.audio"))
    return Part(part.modality or served.reader("label"), part.label)


def _hole(part: HolePart, given: Given, param: str) -> Hole:
    draft = None if part.draft is None else _known(part.draft, given, f"{param}.draft")
    keep: Any = part.keep
    if isinstance(keep, str):
        keep = np.asarray(given.picture(keep, f"{param}.keep").convert("L")) >= 128
    shape = tuple(part.shape) if isinstance(part.shape, list) else part.shape
    raw = draft.raw if isinstance(draft, Part) else draft
    return Hole(part.modality, shape, raw, keep, part.start)
