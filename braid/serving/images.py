"""`POST /v1/images/...`: pictures of a prompt, and those that are changed or completed."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image as PIL
from pydantic import Field

from braid.parts import Hole, Part, Parts
from braid.serving import media
from braid.serving.asked import Asked, Given, Reply, Served, dumps
from braid.serving.openai import Drawn, accept, words
from braid.serving.refusals import invalid
from braid.serving.wishes import Preview, Written


class Images(Drawn):
    """The request of `POST /v1/images/generations` and, as a form, `POST /v1/images/edits`."""

    harmless: ClassVar = {
        "negative_prompt": ("",),
        "background": ("auto", "opaque"),
        "quality": ("auto", "standard"),
        "style": (),
    }

    prompt: str = Field(min_length=1)
    n: int = Field(1, ge=1)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    start: float = Field(0.0, ge=0, lt=1)


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
        asked = accept(Images, body, served)
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
        asked = accept(Images, body, served, form=True)
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
            "usage": words(usage),
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
            told = {"b64_json": self._picture(parts[-1]), "usage": words(usage)}
            yield dumps({"type": f"{self.event}.completed"} | told | self._about(parts[-1]))

    def _about(self, picture: PIL.Image) -> dict[str, Any]:
        size = f"{picture.width}x{picture.height}"
        return {"created_at": self.created, "size": size, "output_format": self.form}

    def _picture(self, picture: PIL.Image) -> str:
        return base64.b64encode(media.encoded(picture, self.form)).decode()


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
