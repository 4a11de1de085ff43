"""Making scenes, and changing them by an instruction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from braid.data.scenes.language import Named
from braid.data.scenes.world import (
    APART,
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    Combination,
    Scene,
    Thing,
    arranged,
    clearance,
    fits,
    place_of,
    reach,
)

Item = TypeVar("Item")

NUMBER_WEIGHTS = (0.4, 0.4, 0.1, 0.1)
"""How often a scene has one, two, three and four objects."""

CHANGES = {"color": tuple(COLORS), "shape": SHAPES, "size": tuple(SIZES), "remove": ()}
"""Kind of change to the values that it can lead to."""

_PLACED = 0.4  # share of single objects that are put at a place with a name
_FULLER = 0.25  # share of referring phrases that say more than they must
_STAY = 0.5  # share of edits that stay among the held-out combinations, where they can
_TRIES = (0, 0, 32, 64, 256)  # arrangements drawn at once, by objects; the first good one is taken


@dataclass(frozen=True)
class Edit:
    """An instruction and the scene that follows it."""

    instruction: str
    scene: Scene


def pick(rng: np.random.Generator, options: Sequence[Item]) -> Item:
    """Return one of the options, each with equal probability."""
    return options[int(rng.random() * len(options))]


def compose(
    rng: np.random.Generator, allowed: Sequence[Combination], objects: int | None = None
) -> Scene:
    """Return a scene of one to four allowed combinations.

    Two objects differ and have a plain relation; three and four are small and all alike.
    """
    if objects is None:
        objects = 1 + int(np.searchsorted(np.cumsum(NUMBER_WEIGHTS)[:-1], rng.random(), "right"))
    if objects > 2:
        kinds = [pick(rng, [kind for kind in allowed if kind[2] == "small"])] * objects
    else:
        kinds = [pick(rng, allowed)]
        if objects == 2:
            kinds.append(pick(rng, [kind for kind in allowed if kind != kinds[0]]))
    where = _somewhere(rng, kinds[0]) if objects == 1 else _apart(rng, [k[2] for k in kinds])
    return arranged(Thing(*kind, x, y) for kind, (x, y) in zip(kinds, where, strict=True))


def _somewhere(rng: np.random.Generator, kind: Combination) -> list[tuple[int, int]]:
    """Return where a single object lies."""
    low, high = reach(kind[2])
    place = pick(rng, list(PLACES)) if rng.random() < _PLACED else None
    while True:
        x, y = rng.integers(low, high + 1, 2).tolist()
        if place is None or place_of(Thing(*kind, x, y)) == place:
            return [(x, y)]


def _apart(rng: np.random.Generator, sizes: list[str]) -> list[list[int]]:
    """Return where objects lie that do not touch; of two, with a plain relation."""
    low, high = np.array([reach(size) for size in sizes]).T[:, :, None]
    count = _TRIES[len(sizes)]
    while True:
        tries = rng.integers(low, high + 1, (count, len(sizes), 2))
        good = np.ones(count, np.bool_)
        for i in range(len(sizes)):
            for j in range(i):
                far = np.abs(tries[:, i] - tries[:, j])  # [tries, 2]
                good &= far.max(-1) >= clearance(sizes[i], sizes[j])
                if len(sizes) == 2:
                    good &= (far.max(-1) >= APART) & (far[:, 0] != far[:, 1])
        if good.any():
            return tries[good.argmax()].tolist()


def refer(
    rng: np.random.Generator, scene: Scene, thing: Thing, without: str | None = None
) -> Named | None:
    """Return a phrase that means this thing alone, and does not say the attribute `without`.

    Things that are all alike are meant together. None if there is no such phrase.
    """
    alike = sum(other.combination == thing.combination for other in scene.objects)
    phrases = [
        attributes(thing, kinds, alike)
        for kinds in (("shape",), ("color", "shape"), ("size", "shape"), ("color",), ("size",))
        if without not in kinds
    ]
    whole = Named(thing.size, thing.color, thing.shape, alike)
    phrases.append(replace(whole, **{without: None}) if without else whole)
    if without != "shape":
        phrases = [phrase for phrase in phrases if phrase.shape]
    unique = [
        phrase
        for phrase in phrases
        if sum(phrase.means(other.combination) for other in scene.objects) == alike
    ]
    if len(unique) > 1 and rng.random() < _FULLER:
        return pick(rng, unique[1:])
    return unique[0] if unique else None


def attributes(thing: Thing, kinds: Collection[str], count: int = 1) -> Named:
    """Return the noun phrase that says these attributes of a thing."""
    said = {kind: getattr(thing, kind) for kind in kinds}
    return Named(said.get("size"), said.get("color"), said.get("shape"), count)


def edit(
    rng: np.random.Generator,
    scene: Scene,
    allowed: Collection[Combination],
    prefer: Collection[Combination] = (),
) -> Edit:
    """Return a change of one thing (or of all, where all are alike) that leaves the rest alone.

    Args:
        rng: where the choice comes from.
        scene: the scene before.
        allowed: combinations that may come out.
        prefer: half of the changes come out among these, where they can.
    """
    kinds = [kind for kind in CHANGES if kind != "remove" or len(scene.objects) == 2]
    kinds = [kinds[i] for i in rng.permutation(len(kinds)).tolist()]
    stay = [(kind, prefer) for kind in kinds if kind != "remove"] if prefer else []
    anywhere = [(kind, allowed) for kind in kinds]
    for kind, among in [*stay, *anywhere] if rng.random() < _STAY else anywhere:
        changes = [change for change in _changes(scene, kind) if _sound(scene, *change, among)]
        if changes:
            old, new = pick(rng, changes)
            return Edit(_instruction(rng, scene, kind, old, new), _changed(scene, old, new))
    raise AssertionError("some color is always free")


def _changes(scene: Scene, kind: str) -> Iterator[tuple[Thing, Thing | None]]:
    """Yield every change of one kind, old and new; things that are all alike change as one."""
    for thing in scene.objects if len(scene.objects) < 3 else scene.objects[:1]:
        if kind == "remove":
            yield thing, None
        for value in CHANGES[kind]:
            if value != getattr(thing, kind):
                yield thing, replace(thing, **{kind: value})


def _sound(scene: Scene, old: Thing, new: Thing | None, among: Collection[Combination]) -> bool:
    """Return whether a change leads to a scene of this world."""
    if new is None:
        return True
    if new.combination not in among:
        return False
    if len(scene.objects) == 2 and any(t.combination == new.combination for t in scene.objects):
        return False
    return new.size == old.size or (len(scene.objects) < 3 and fits(_changed(scene, old, new)))


def _changed(scene: Scene, old: Thing, new: Thing | None) -> Scene:
    """Return the scene in which `new`, if any, stands for `old` and all that are like it."""
    return Scene(
        tuple(
            replace(new, x=thing.x, y=thing.y)
            if new and thing.combination == old.combination
            else thing
            for thing in scene.objects
            if new or thing != old
        )
    )


def _instruction(
    rng: np.random.Generator, scene: Scene, kind: str, old: Thing, new: Thing | None
) -> str:
    """Return the words of a change."""
    name = refer(rng, scene, old)
    assert name is not None, "the whole phrase means one thing only"
    alone = len(scene.objects) != 2
    short = "them" if name.count > 1 else "it"
    which = short if alone and rng.random() < 0.5 else name.definite
    if new is None:
        return f"remove {which}"
    if kind == "shape":
        shape = Named(shape=new.shape, count=name.count)
        return f"change {which} to {shape.bare if name.count > 1 else shape.indefinite}"
    return f"make {which} {getattr(new, kind)}"
