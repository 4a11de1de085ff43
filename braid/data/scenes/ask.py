"""Questions about a scene, with their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from braid.data.scenes.compose import attributes, pick, refer
from braid.data.scenes.language import NUMBERS, Named
from braid.data.scenes.world import (
    MIRRORED,
    Combination,
    Scene,
    Thing,
    place_of,
    relation_of,
)


@dataclass(frozen=True)
class Question:
    """A question and its answer of one or two words."""

    question: str
    answer: str


Asker = Callable[[np.random.Generator, Scene, Sequence[Combination]], Question | None]


def ask(
    rng: np.random.Generator,
    scene: Scene,
    allowed: Sequence[Combination],
    kind: str | None = None,
    weights: Mapping[str, float] | None = None,
) -> Question:
    """Return a question about a scene; each kind that the scene allows comes equally often.

    Args:
        rng: where the choice comes from.
        scene: what is asked about.
        allowed: the combinations that may be named.
        kind: "color", "shape", "size", "count", "existence", "relation" or "place"; None is any.
        weights: kind -> how often it is tried first, in place of equally often; 1 where not named.
    """
    kinds = [kind] if kind else list(KINDS)
    if weights is None:
        order = rng.permutation(len(kinds))
    else:
        share = np.array([weights.get(k, 1.0) for k in kinds])
        order = rng.choice(len(kinds), len(kinds), replace=False, p=share / share.sum())
    for i in order.tolist():
        question = KINDS[kinds[i]](rng, scene, allowed)
        if question:
            return question
    return _existence(rng, scene, allowed)


def _color(
    rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]
) -> Question | None:
    """Ask for the color of one thing, or of things that are all alike."""
    thing = pick(rng, scene.objects)
    name = refer(rng, scene, thing, without="color")
    return name and Question(f"what color {_be(name)} {name.definite}?", thing.color)


def _shape(
    rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]
) -> Question | None:
    """Ask for the shape."""
    thing = pick(rng, scene.objects)
    name = refer(rng, scene, thing, without="shape")
    return name and Question(f"what shape {_be(name)} {name.definite}?", thing.shape)


def _size(
    rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]
) -> Question | None:
    """Ask for the size of one thing; three and four are always small."""
    thing = pick(rng, scene.objects)
    name = refer(rng, scene, thing, without="size") if len(scene.objects) < 3 else None
    return name and Question(f"what size is {name.definite}?", thing.size)


def _count(rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]) -> Question:
    """Ask how many objects there are, or how many of a shape."""
    shape = pick(rng, scene.objects).shape if rng.random() < 0.5 else None
    count = sum(shape in (None, thing.shape) for thing in scene.objects)
    plural = Named(shape=shape, count=2).bare
    return Question(f"how many {plural} are there?", NUMBERS[count])


def _existence(rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]) -> Question:
    """Ask whether something is there; it is in half of the questions.

    What is not there differs from something that is in one attribute, or in all.
    """
    said = pick(
        rng, (("shape",), ("color", "shape"), ("color", "shape"), ("size", "color", "shape"))
    )
    present = rng.random() < 0.5
    model = pick(rng, scene.objects).combination
    near = rng.random() < 0.5
    while True:
        kind = model if present else pick(rng, allowed)
        alike = sum(a == b for a, b in zip(kind, model, strict=True))
        if not present and near and alike != 2:
            continue
        name = attributes(Thing(*kind, 0, 0), said)
        if any(name.means(thing.combination) for thing in scene.objects) == present:
            return Question(f"is there {name.indefinite}?", "yes" if present else "no")


def _relation(
    rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]
) -> Question | None:
    """Ask whether one of two things lies where it does, or on the opposite side."""
    if len(scene.objects) != 2:
        return None
    first, second = scene.objects if rng.random() < 0.5 else scene.objects[::-1]
    relation = relation_of(first, second)
    names = refer(rng, scene, first), refer(rng, scene, second)
    if relation is None or names[0] is None or names[1] is None:
        return None
    true = rng.random() < 0.5
    said = relation if true else MIRRORED[relation]
    text = f"is {names[0].definite} {said} {names[1].definite}?"
    return Question(text, "yes" if true else "no")


def _place(
    rng: np.random.Generator, scene: Scene, allowed: Sequence[Combination]
) -> Question | None:
    """Ask where the only thing lies, if the place has a name."""
    thing = scene.objects[0]
    place = place_of(thing) if len(scene.objects) == 1 else None
    name = refer(rng, scene, thing)
    return Question(f"where is {name.definite}?", place) if place and name else None


def _be(name: Named) -> str:
    """Return the verb that goes with a phrase."""
    return "are" if name.count > 1 else "is"


KINDS: dict[str, Asker] = {
    "color": _color,
    "shape": _shape,
    "size": _size,
    "count": _count,
    "existence": _existence,
    "relation": _relation,
    "place": _place,
}
"""Kind of question to what asks it; None where the scene gives no such question."""

TAUGHT = {"relation": 6.0, "existence": 3.0, "size": 2.0}
"""Weights of kinds in training. A yes or no is right half of the time by chance, and few scenes
allow a relation: with equally many questions of each kind these are learned last, or not at all."""
