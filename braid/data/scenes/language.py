"""The language of scenes: captions and prompts, their reading, and whether they are true."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from braid.data.scenes.reader import look
from braid.data.scenes.world import (
    COLORS,
    MIRRORED,
    SHAPES,
    SIZES,
    Combination,
    Scene,
    Thing,
    lies_at,
    place_of,
    related,
    relation_of,
)
from braid.errors import BraidError

COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4}
NUMBERS = {number: word for word, number in COUNTS.items()}
SLACK = 2
"""Pixels by which a drawn thing may miss a place or relation that was asked for."""

_PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in (*SHAPES, "object")}
_SINGULARS = {plural: shape for shape, plural in _PLURALS.items()}
_ARTICLES = {"a": 1, "an": 1, "the": 1}
_RELATION = re.compile(r" (?:is )?(?:to the |on the )?(left of|right of|above|below) ")
_PLACE = re.compile(r" (?:at|in) the ((?:top|bottom) (?:left|right)|center|centre)$")
_MOST = 6  # things of a crowded picture that are compared with what was asked for


@dataclass(frozen=True)
class Named:
    """A noun phrase: how many things, and what is said of each (None is nothing said)."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None
    count: int = 1

    @property
    def whole(self) -> bool:
        """Whether size, color and shape are all said."""
        return None not in (self.size, self.color, self.shape)

    def means(self, combination: Combination) -> bool:
        """Return whether the phrase is true of such a thing."""
        said = zip((self.color, self.shape, self.size), combination, strict=True)
        return all(word is None or word == fact for word, fact in said)

    @property
    def bare(self) -> str:
        """The phrase without an article or number: "small red circles"."""
        noun = self.shape or "object"
        words = (self.size, self.color, _PLURALS[noun] if self.count > 1 else noun)
        return " ".join(word for word in words if word)

    @property
    def definite(self) -> str:
        """The phrase for what is known: "the small red circles"."""
        return f"the {self.bare}"

    @property
    def indefinite(self) -> str:
        """The phrase for what is new: "three small red circles", "an orange cross"."""
        if self.count > 1:
            return f"{NUMBERS[self.count]} {self.bare}"
        return f"{'an' if self.bare[0] in 'aeiou' else 'a'} {self.bare}"


@dataclass(frozen=True)
class Description:
    """What a text says.

    Attributes:
        named: one or two noun phrases.
        relation: of the first to the second, if said.
        place: of the only thing, if said.
    """

    named: tuple[Named, ...]
    relation: str | None = None
    place: str | None = None

    @property
    def things(self) -> tuple[Named, ...]:
        """Every thing by itself, so that "three small red circles" are three."""
        return tuple(name for name in self.named for _ in range(name.count))


def name_of(thing: Thing, count: int = 1) -> Named:
    """Return the whole noun phrase for a thing."""
    return Named(thing.size, thing.color, thing.shape, count)


def caption(scene: Scene) -> str:
    """Return the one canonical caption of a scene."""
    things = scene.objects
    kinds = list(dict.fromkeys(thing.combination for thing in things))
    if len(things) == 2 and len(kinds) == 2:
        for first, second in (things, things[::-1]):
            relation = relation_of(first, second)
            if relation in ("left of", "above"):
                return pair(first, relation, second)
    counts = [sum(thing.combination == kind for thing in things) for kind in kinds]
    named = [Named(kind[2], kind[0], kind[1], n) for kind, n in zip(kinds, counts, strict=True)]
    return " and ".join(name.indefinite for name in named)


def prompts(scene: Scene) -> list[str]:
    """Return every description of a scene that is true and complete, the canonical one first."""
    texts = [caption(scene)]
    things = scene.objects
    place = place_of(things[0]) if len(things) == 1 else None
    if place:
        texts.append(f"{texts[0]} at the {place}")
    if len(things) == 2 and (relation := relation_of(things[0], things[1])):
        both = pair(things[0], relation, things[1]), pair(things[1], MIRRORED[relation], things[0])
        texts += [text for text in both if text != texts[0]]
    return texts


def pair(first: Thing, relation: str, second: Thing) -> str:
    """Return the description of two things by their relation."""
    return f"{name_of(first).indefinite} {relation} {name_of(second).indefinite}"


def parse(text: str) -> Description | None:
    """Return what a caption or prompt says; None if it is not of the grammar.

    A size or color may be left out, or the shape by saying "object"; the article may be any.
    """
    text = " ".join(text.lower().split()).rstrip(" .!")
    place = _PLACE.search(text)
    found = _RELATION.search(text)
    if found:
        parts, relation = [text[: found.start()], text[found.end() :]], found[1]
    else:
        parts, relation = text[: place.start() if place else None].split(" and "), None
    named = tuple(_noun(part) for part in parts)
    if None in named or len(named) > 2:
        return None
    description = Description(
        tuple(name for name in named if name),
        relation,
        place[1].replace("centre", "center") if place else None,
    )
    single = len(description.things) == len(named)
    if (relation and not single) or (place and len(description.things) > 1):
        return None
    return description


def _noun(text: str) -> Named | None:
    """Return a noun phrase; None if it is none."""
    words = text.split()
    if not words:
        return None
    count = (COUNTS | _ARTICLES).get(words[0])
    if count is not None:
        words = words[1:]
    *adjectives, noun = words or [""]
    shape = _SINGULARS.get(noun, noun)
    plural = noun in _SINGULARS
    if shape not in _PLURALS or plural != ((count or 1) > 1):
        return None
    said: dict[str, str] = {}
    for word in adjectives:
        kind = "size" if word in SIZES else "color" if word in COLORS else ""
        if not kind or kind in said:
            return None
        said[kind] = word
    return Named(
        said.get("size"), said.get("color"), shape if shape in SHAPES else None, count or 1
    )


def describes(text: str, scene: Scene) -> bool:
    """Return whether a text is true of a scene and complete.

    Complete is the right number of things, each with size, color and shape, and for two things
    that differ their relation. A text that cannot be parsed describes nothing.
    """
    description = parse(text)
    if description is None or not all(name.whole for name in description.named):
        return False
    if len(description.named) == 2 and description.relation is None:
        return False
    return _verdict(description, scene, 0)["all"]


def judge(text: str, picture: PIL.Image.Image | NDArray[np.uint8]) -> dict[str, bool]:
    """Return whether a picture shows what a prompt asks for, in all and by what is asked.

    The keys are "all", "count", and of "color", "shape", "size", "relation" and "place" those
    that the prompt speaks of. The things seen are matched with the things asked for so that as
    much as possible is right; places and relations may be missed by 2 pixels.
    """
    description = parse(text)
    if description is None:
        raise BraidError(
            f"the prompt {text!r} is not of the grammar; write, for example, "
            f'"a small red circle left of a large blue square"'
        )
    return _verdict(description, look(picture), SLACK)


def _verdict(description: Description, scene: Scene, slack: int) -> dict[str, bool]:
    """Return which parts of a description are true of a scene."""
    asked, relation, place = description.things, description.relation, description.place
    best = max(
        _pairings(asked, scene.objects[:_MOST]),
        key=lambda seen: (_points(asked, seen), _holds(relation, seen, slack)),
    )
    verdict = {"count": len(scene.objects) == len(asked)}
    for kind in ("color", "shape", "size"):
        pairs = [(getattr(name, kind), thing) for name, thing in zip(asked, best, strict=True)]
        pairs = [(word, thing) for word, thing in pairs if word is not None]
        if pairs:
            verdict[kind] = all(thing and getattr(thing, kind) == word for word, thing in pairs)
    if relation:
        verdict["relation"] = _holds(relation, best, slack)
    if place:
        verdict["place"] = best[0] is not None and lies_at(best[0], place, slack)
    return {"all": all(verdict.values()), **verdict}


def _pairings(asked: Sequence[Named], seen: Sequence[Thing]) -> Iterator[tuple[Thing | None, ...]]:
    """Yield every choice of one seen thing, or none, for each that was asked for."""
    missing = [None] * max(0, len(asked) - len(seen))
    return permutations([*seen, *missing], len(asked))


def _points(asked: Sequence[Named], seen: Sequence[Thing | None]) -> int:
    """Return how many words are true."""
    pairs = [(name, thing) for name, thing in zip(asked, seen, strict=True) if thing]
    return sum(
        getattr(name, kind) == getattr(thing, kind)
        for name, thing in pairs
        for kind in ("color", "shape", "size")
    )


def _holds(relation: str | None, seen: Sequence[Thing | None], slack: int) -> bool:
    """Return whether the relation that was asked for holds."""
    if relation is None or seen[0] is None or seen[1] is None:
        return False
    return related(seen[0], relation, seen[1], slack)
