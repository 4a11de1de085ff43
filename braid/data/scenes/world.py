"""The world of scenes: what things there are, which combinations are held out, and drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from braid.errors import BraidError, unknown

Combination = tuple[str, str, str]
"""Color, shape and size."""

SIDE = 32
"""Height and width of every picture, in pixels."""
BACKGROUND = (245, 245, 245)
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 205, 30),
    "purple": (140, 50, 170),
    "orange": (245, 130, 30),
    "cyan": (50, 200, 220),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 9, "large": 13}
"""Pixels across; both are odd, so that a thing can change its size and keep its centre."""
PLACES = {
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
    "center": (0, 0),
}
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""Relation to the direction in which the second thing lies, x and y."""
MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
APART = 10
"""Pixels between two centres from which a relation is plain."""
UNKNOWN = "unknown"
"""A color or shape that the reader cannot name; it equals nothing that can be asked for."""

_MARGIN = 1
_GAP = 2
_MIDDLE = (SIDE - 1) / 2
_CENTRAL, _OUTER = 2.5, 4.5  # pixels from the middle: within is the center, beyond is a corner
_HELD_PAIRS = (("red", "triangle"), ("green", "circle"), ("blue", "cross"), ("orange", "square"))
_HELD_SINGLE = (
    ("yellow", "circle", "large"),
    ("purple", "triangle", "small"),
    ("cyan", "square", "small"),
    ("black", "cross", "large"),
)


@dataclass(frozen=True)
class Thing:
    """One colored shape; x (to the right) and y (down) are the pixel at its centre."""

    color: str
    shape: str
    size: str
    x: int
    y: int

    @property
    def combination(self) -> Combination:
        """What it is, wherever it lies."""
        return self.color, self.shape, self.size


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `arranged` puts the things into the one order in which scenes compare.

    Attributes:
        objects: the things, from left to right, and from top to bottom in a column.
    """

    objects: tuple[Thing, ...]


def arranged(things: Iterable[Thing]) -> Scene:
    """Return the scene of these things."""
    return Scene(tuple(sorted(things, key=lambda thing: (thing.x, thing.y))))


@cache
def combinations() -> tuple[Combination, ...]:
    """Return all 64 combinations."""
    return tuple(product(COLORS, SHAPES, SIZES))


@cache
def held_out() -> frozenset[Combination]:
    """Return the 12 combinations that no training row shows or names.

    Four pairs of color and shape are held out in both sizes, four more in one size only; every
    color, shape and size is left in at least six combinations of training.
    """
    both = {(*pair, size) for pair in _HELD_PAIRS for size in SIZES}
    return frozenset(both.union(_HELD_SINGLE))


@cache
def trained() -> tuple[Combination, ...]:
    """Return the 52 combinations of training."""
    return tuple(kind for kind in combinations() if kind not in held_out())


@cache
def template(shape: str, size: str) -> NDArray[np.float32]:
    """Return how much of each pixel a thing covers: [across, across] of 0 to 1, read-only."""
    across, finer = SIZES[size], 4
    line = (np.arange(across * finer) + 0.5) * 2 / (across * finer) - 1  # -1 .. 1
    x, y = np.abs(line)[None, :], line[:, None]
    third = 1 / 3
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": (x <= 1) & (y <= 1),
        "triangle": x <= (y + 1) / 2,
        "cross": (x <= third) | (np.abs(y) <= third),
    }[shape]
    covered = inside.reshape(across, finer, across, finer).mean((1, 3)).astype(np.float32)
    covered.setflags(write=False)
    return covered


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Return the picture: uint8 [32, 32, 3]."""
    picture = np.full((SIDE, SIDE, 3), BACKGROUND, np.float32)
    for thing in scene.objects:
        _drawable(thing)
        half = SIZES[thing.size] // 2
        patch = picture[thing.y - half : thing.y + half + 1, thing.x - half : thing.x + half + 1]
        ink = np.asarray(COLORS[thing.color], np.float32)
        patch += template(thing.shape, thing.size)[..., None] * (ink - patch)
    return (picture + 0.5).astype(np.uint8)


def _drawable(thing: Thing) -> None:
    """Refuse what cannot be drawn."""
    named = (("color", thing.color, COLORS), ("shape", thing.shape, SHAPES))
    for kind, name, valid in (*named, ("size", thing.size, SIZES)):
        if name not in valid:
            raise unknown(kind, name, valid)
    if not within(thing, margin=0):
        raise BraidError(
            f"a {thing.size} thing at x {thing.x}, y {thing.y} leaves the picture of "
            f"{SIDE} x {SIDE} pixels; move it inward"
        )


def reach(size: str) -> tuple[int, int]:
    """Return the least and the greatest coordinate at which a thing of this size may lie."""
    inset = _MARGIN + SIZES[size] // 2
    return inset, SIDE - 1 - inset


def within(thing: Thing, margin: int = _MARGIN) -> bool:
    """Return whether a thing lies wholly inside the picture, with a margin in pixels."""
    inset = margin + SIZES[thing.size] // 2
    return all(inset <= place <= SIDE - 1 - inset for place in (thing.x, thing.y))


def clearance(one: str, other: str) -> int:
    """Return how far apart, along x or y, the centres of things of two sizes must be."""
    return SIZES[one] // 2 + SIZES[other] // 2 + 1 + _GAP


def fits(scene: Scene) -> bool:
    """Return whether all things lie inside and none touches another."""
    things = scene.objects
    free = all(
        max(abs(a.x - b.x), abs(a.y - b.y)) >= clearance(a.size, b.size)
        for i, a in enumerate(things)
        for b in things[:i]
    )
    return free and all(within(thing) for thing in things)


def related(first: Thing, relation: str, second: Thing, slack: int = 0) -> bool:
    """Return whether the relation plainly holds, give or take `slack` pixels.

    Plain is a distance of 10 pixels along the relation's axis, and less across it than along it.
    """
    x, y = RELATIONS[relation]
    right, down = second.x - first.x, second.y - first.y
    along, across = right * x + down * y, right * y + down * x
    return along >= APART - slack and abs(across) < along + slack


def relation_of(first: Thing, second: Thing) -> str | None:
    """Return the relation that plainly holds of the first thing to the second, if one does."""
    return next((name for name in RELATIONS if related(first, name, second)), None)


def lies_at(thing: Thing, place: str, slack: int = 0) -> bool:
    """Return whether a thing plainly lies at the place, give or take `slack` pixels."""
    x, y = PLACES[place]
    right, down = thing.x - _MIDDLE, thing.y - _MIDDLE
    if place == "center":
        return max(abs(right), abs(down)) <= _CENTRAL + slack
    return min(right * x, down * y) >= _OUTER - slack


def place_of(thing: Thing) -> str | None:
    """Return the place at which a thing plainly lies, if there is one."""
    return next((place for place in PLACES if lies_at(thing, place)), None)


def same(a: Scene, b: Scene, tolerance: float = 2.0) -> bool:
    """Return whether both show the same things at the same places, within `tolerance` pixels."""
    left = list(b.objects)
    for thing in a.objects:
        near = [
            other
            for other in left
            if other.combination == thing.combination
            and max(abs(other.x - thing.x), abs(other.y - thing.y)) <= tolerance
        ]
        if not near:
            return False
        left.remove(near[0])
    return not left
