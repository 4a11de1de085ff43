"""A model as VLMEvalKit asks it (https://github.com/open-compass/VLMEvalKit).

Its runner calls `use_custom_prompt`, `set_dump_image` and `generate`, its model classes implement
`generate_inner`; this class has them all and needs nothing of the package. A line in VLMEvalKit's
`vlmeval/config.py` makes it known there:

    "braid": functools.partial(braid.clients.vlmeval.BraidVLM, "RUN")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from braid import loading
from braid.errors import BraidError
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

Message = Sequence[Mapping[str, str]]
"""[{"type": "image", "value": PATH}, {"type": "text", "value": QUESTION}, ...], in any order."""


class BraidVLM:
    """Answers questions about pictures.

    Attributes:
        pipe: the model.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image")
    is_api = False

    def __init__(
        self,
        model: str | Pipeline,
        device: str | None = None,
        tokens: int = 256,
        temperature: float = 0.0,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Load a model.

        Args:
            model: a run directory, a saved model, a Hub id, or a pipeline.
            device: where it runs.
            tokens: longest answer.
            temperature: 0 takes the likeliest symbols.
            steps: network calls of a parallel process.
            seed: of what is drawn.

        Raises:
            BraidError: the model reads no pictures, or writes no text.
        """
        self.pipe = loading.load(model, device) if isinstance(model, str) else model
        if tokens < 1:
            raise BraidError(f"tokens {tokens} must be at least 1")
        self.tokens, self.temperature, self.steps, self.seed = tokens, temperature, steps, seed
        strands = self.pipe.braid.strands
        self.eye = next((name for name in ("image", "vision") if name in strands), None)
        if self.eye is None:
            raise BraidError(f"this model reads no pictures; it has {', '.join(strands)}")
        if "text" not in strands or strands["text"].process is None:
            raise BraidError("this model writes no text, so it answers nothing")

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Take the prompts that a data set builds."""
        return False

    def set_dump_image(self, dump_image: Callable[..., Any]) -> None:
        """Take what writes a data set's pictures; prompts of its own would need it."""
        self.dump_image_func = dump_image

    def generate(self, message: str | Sequence[str] | Message, dataset: str | None = None) -> str:
        """Answer a question, or a list of questions and paths of pictures, or a message."""
        items = [message] if isinstance(message, str) else list(message)
        return self.generate_inner([_item(x) for x in items], dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer a message.

        Texts that follow each other are one text, a line each; pictures stay where they are.

        Args:
            message: pictures and texts in order.
            dataset: its name; all are answered alike.
        """
        parts = [*self._parts(message), Hole("text", self.tokens)]
        done = self.pipe(parts, temperature=self.temperature, steps=self.steps, seed=self.seed)
        return done[-1]

    def _parts(self, message: Message) -> list[Any]:
        parts: list[Any] = []
        for item in message:
            kind, value = item.get("type"), item.get("value")
            if kind not in self.allowed_types or value is None:
                raise BraidError(
                    f"message item {dict(item)!r:.80} is not supported; use {{'type': 'image' or "
                    "'text', 'value': ...}}"
                )
            if kind == "image":
                assert self.eye is not None, "checked when this was made"
                parts.append(Part(self.eye, Path(value)))
            elif parts and isinstance(parts[-1], str):
                parts[-1] += f"\n{value}"
            else:
                parts.append(value)
        if not parts:
            raise BraidError("the message is empty; give a question or a picture")
        return parts


def _item(given: str | Mapping[str, str]) -> Mapping[str, str]:
    """Return an item of a message; a string that is the path of a file is a picture."""
    if not isinstance(given, str):
        return given
    try:
        picture = Path(given).is_file()
    except OSError:  # too long for a name
        picture = False
    return {"type": "image" if picture else "text", "value": given}
