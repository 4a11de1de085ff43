"""`POST /v1/audio/...`: a text that is read aloud, and a sound that is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from braid.modalities.sounds import Sound
from braid.parts import Hole, Part, Parts
from braid.serving import media
from braid.serving.asked import Asked, Given, Reply, Served, dumps
from braid.serving.openai import Drawn, accept, words
from braid.serving.refusals import invalid


class Speech(Drawn):
    """The request of `POST /v1/audio/speech`."""

    harmless: ClassVar = {
        "voice": ("default",),
        "instructions": ("",),
        "speed": (1,),
        "stream_format": ("audio",),
    }

    input: str = Field(min_length=1)
    response_format: Literal["wav", "pcm", "flac"] = "wav"


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
        asked = accept(Speech, body, served)
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


class Transcription(Drawn):
    """The form of `POST /v1/audio/transcriptions`."""

    harmless: ClassVar = {
        "timestamp_granularities": ("segment",),
        "timestamp_granularities[]": ("segment",),
        "include": (),
        "include[]": (),
    }

    prompt: str | None = None
    response_format: Literal["json", "text"] = "json"
    stream: bool = False


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
        asked = accept(Transcription, body, served, form=True)
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
        return Reply(dumps({"text": results[0][-1], "usage": words(usage)}).encode())

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Text of a sound is answered whole."""
        yield from ()
