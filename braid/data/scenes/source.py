"""Scenes as a source of rows: pictures, captions, prompts, questions, edits and dialogues."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from braid.data.rows import Row, Source
from braid.data.scenes.ask import TAUGHT, Question, ask
from braid.data.scenes.compose import Edit, compose, edit, pick
from braid.data.scenes.language import caption, prompts
from braid.data.scenes.world import (
    Combination,
    Scene,
    combinations,
    draw,
    held_out,
    trained,
)
from braid.errors import BraidError, unknown

Split = Literal["train", "seen", "unseen"]
Message = dict[str, Any]
"""{"role": "user" or "assistant", "content": parts}, each part a text or an image."""

FIELDS = ("image", "text", "prompt", "question", "answer", "instruction", "edited", "messages")
STREAMS = ("scene", "prompt", "question", "edit", "messages")
"""What has random numbers of its own, so that a scene does not depend on what is asked of it."""
MOST = 4
"""Objects in the fullest scene."""


class Scenes(Source):
    """Rows that are functions of the seed, the split and their number; see `scenes`."""

    def __init__(self, n: int, seed: int, split: Split, objects: int | None) -> None:
        """Check the options; no row is made before it is asked for."""
        if n < 1:
            raise BraidError(f"scenes: n {n} must be at least 1 row")
        if split not in get_args(Split):
            raise unknown("split", split, get_args(Split))
        if objects is not None and not 1 <= objects <= MOST:
            raise BraidError(f"scenes: objects {objects} must be from 1 to {MOST}, or None for any")
        self.name, self.fields = f"scenes/{split}", FIELDS
        self._n, self._objects, self._split = n, objects, split
        self._key = (seed * len(get_args(Split)) + get_args(Split).index(split)) % 2**64

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> Row:
        scene = self.scene(i)
        prompt, asked, change = self._prompt(i, scene), self._ask(i, scene), self._edit(i, scene)
        image, edited = draw(scene), draw(change.scene)
        return {
            "image": image,
            "text": caption(scene),
            "prompt": prompt,
            "question": asked.question,
            "answer": asked.answer,
            "instruction": change.instruction,
            "edited": edited,
            "messages": _dialogue(self._rng(i, "messages"), prompt, image, asked, change, edited),
        }

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row; a text without drawing."""
        scene = self.scene(i)
        made: dict[str, Callable[[], Any]] = {
            "image": lambda: draw(scene),
            "text": lambda: caption(scene),
            "prompt": lambda: self._prompt(i, scene),
            "question": lambda: self._ask(i, scene).question,
            "answer": lambda: self._ask(i, scene).answer,
            "instruction": lambda: self._edit(i, scene).instruction,
            "edited": lambda: draw(self._edit(i, scene).scene),
        }
        return made[field]() if field in made else super().value(i, field)

    def scene(self, i: int) -> Scene:
        """Return what the picture of a row shows."""
        return compose(self._rng(i, "scene"), self._shown, self._objects)

    def edited_scene(self, i: int) -> Scene:
        """Return what the edited picture of a row shows."""
        return self._edit(i, self.scene(i)).scene

    def texts(self, i: int) -> dict[str, str]:
        """Return the fields of a row that are texts, without drawing."""
        scene = self.scene(i)
        asked = self._ask(i, scene)
        return {
            "text": caption(scene),
            "prompt": self._prompt(i, scene),
            "question": asked.question,
            "answer": asked.answer,
            "instruction": self._edit(i, scene).instruction,
        }

    def _prompt(self, i: int, scene: Scene) -> str:
        """Return one of the descriptions of the row's scene, all equally often."""
        return pick(self._rng(i, "prompt"), prompts(scene))

    def _ask(self, i: int, scene: Scene) -> Question:
        """Return the row's question with its answer."""
        weights = TAUGHT if self._split == "train" else None
        return ask(self._rng(i, "question"), scene, self._named, weights=weights)

    def _edit(self, i: int, scene: Scene) -> Edit:
        """Return the row's instruction and the scene after it."""
        prefer = held_out() if self._split == "unseen" else ()
        return edit(self._rng(i, "edit"), scene, self._named, prefer)

    @cached_property
    def _shown(self) -> tuple[Combination, ...]:
        """The combinations of which scenes are made."""
        return tuple(sorted(held_out())) if self._split == "unseen" else trained()

    @cached_property
    def _named(self) -> tuple[Combination, ...]:
        """The combinations that questions may name and edits may lead to."""
        return combinations() if self._split == "unseen" else trained()

    def _rng(self, i: int, stream: str) -> np.random.Generator:
        """Return the row's random numbers for one purpose; IndexError if there is no such row."""
        row = range(self._n)[i]
        key = np.array([self._key, row], np.uint64)
        return np.random.Generator(
            np.random.Philox(key=key, counter=[0, 0, 0, STREAMS.index(stream)])
        )


def scenes(
    n: int = 1_000_000,
    seed: int = 0,
    split: Split = "train",
    objects: int | None = None,
) -> Scenes:
    """Return a source of colored shapes, in which what a picture shows is known exactly.

    A row has `image` and `edited` (uint8 [32, 32, 3]), `text` (the one caption of the picture),
    `prompt` (one of its descriptions), `question` and `answer`, `instruction` (it leads from
    `image` to `edited`) and `messages` (a dialogue of two turns with pictures in it).

    Args:
        n: rows; they are made when asked for.
        seed: other seeds give other rows.
        split: "train" never shows or names a combination of `held_out`, and asks more often what is
            learned last; "seen" has test rows of the same combinations; in "unseen" every object of
            a scene is a held-out combination, while a question or the result of an edit may have
            any.
        objects: number of objects in every scene, 1 to 4; None mixes them.
    """
    return Scenes(n, seed, split, objects)


def _dialogue(
    rng: np.random.Generator,
    prompt: str,
    image: NDArray[np.uint8],
    asked: Question,
    change: Edit,
    edited: NDArray[np.uint8],
) -> list[Message]:
    """Return two turns: drawing and edit, drawing and question, or question and edit."""
    drawing = _turn([f"draw {prompt}"], [image])
    editing = _turn([change.instruction], [edited])
    asking = _turn([asked.question], [asked.answer])
    asking_first = _turn([image, asked.question], [asked.answer])
    first, second = pick(rng, ((drawing, editing), (drawing, asking), (asking_first, editing)))
    return [*first, *second]


def _turn(user: list[Any], assistant: list[Any]) -> list[Message]:
    """Return what a user says and the reply."""
    return [
        {"role": role, "content": [_part(value) for value in values]}
        for role, values in (("user", user), ("assistant", assistant))
    ]


def _part(value: str | NDArray[np.uint8]) -> dict[str, Any]:
    """Return a text or picture as a part of a message."""
    kind = "text" if isinstance(value, str) else "image"
    return {"type": kind, kind: value}
