"""What one request may ask for; all of it is checked before anything is decoded or encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from braid import calling
from braid.errors import BraidError, unknown


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; `/v1/models` tells them.

    Attributes:
        body_bytes: of a request.
        depth: of JSON that is nested.
        prompt_characters: of all texts of a request together.
        context: tokens that a document gives to read.
        parts: of a document, holes included.
        results: of one request.
        steps: of a sampler.
        tokens: that all holes of a result have together.
        pictures: that are given.
        picture_pixels: of all of them together.
        sounds: that are given.
        audio_seconds: of all of them together.
        stops: strings that end a text.
        stop_characters: of each.
        previews: pictures of what is being drawn, for each result.
        seconds: from a request's arrival to its end.
        body_seconds: from a request's head to the end of its body.
        write_seconds: that a client may take to read what has been sent.
    """

    body_bytes: int = 20 * 2**20
    depth: int = 32
    prompt_characters: int = 32_000
    context: int = 8192
    parts: int = 64
    results: int = 10
    steps: int = 200
    tokens: int = 8192
    pictures: int = 8
    picture_pixels: int = 16_000_000
    sounds: int = 4
    audio_seconds: int = 60
    stops: int = 4
    stop_characters: int = 256
    previews: int = 16
    seconds: float = 600.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0

    @classmethod
    def of(cls, settings: Sequence[str]) -> Limits:
        """Return the limits with some of them set, each as name=value.

        Raises:
            BraidError: there is no limit of this name, or it takes another value.
        """
        kinds = {f.name: int if f.type == "int" else float for f in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise unknown("limit", name, kinds)
            try:
                given[name] = kinds[name](value)
            except ValueError:
                raise BraidError(
                    f"limit {setting!r} is no number; give one as {name}={getattr(cls, name)}"
                ) from None
        return cls(**given)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                calling.whole(field.name, value, 1)
            elif not 0 < value < float("inf"):
                raise BraidError(f"{field.name} {value} must be a positive number of seconds")
