"""Reading a picture of the world back: which things it shows, and where."""

from __future__ import annotations

from functools import cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from braid.data.scenes.world import (
    BACKGROUND,
    COLORS,
    SHAPES,
    SIDE,
    SIZES,
    UNKNOWN,
    Scene,
    Thing,
    arranged,
    template,
)
from braid.errors import BraidError

SPECK = 6
"""Pixels below which a spot is taken for noise."""
ALIKE = 0.6
"""Least overlap with the best template (intersection over union) that makes a shape."""

_PURE = 0.6  # least share of a thing's pixels that must have its color
_FAINT = 60.0  # distance from the background, in levels, of what is there but has no color
_STAIN = 12  # pixels from which something faint counts as a thing
_SHIFT = 2  # templates are tried this many pixels around the middle of a spot

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def look(picture: PIL.Image.Image | NDArray[np.uint8]) -> Scene:
    """Return what a picture of 32 x 32 pixels shows.

    Every pixel is taken for a mixture of the background and one color; pixels that are mostly
    color make spots, and a spot is the template that it overlaps best. A spot that is like no
    template has the shape "unknown", one of several colors the color "unknown".
    """
    away = _pixels(picture) - np.asarray(BACKGROUND, np.float32)  # [32, 32, 3]
    cover, nearest = _unmix(away)
    strength = np.take_along_axis(cover, nearest[..., None], -1)[..., 0]
    spots = [spot for spot in _spots(strength >= 0.5) if spot.sum() >= SPECK]
    things = [
        _thing(spot, strength, cover, nearest, _others(spots, i)) for i, spot in enumerate(spots)
    ]
    near = _grown(_grown(strength >= 0.5))
    stains = _spots((np.square(away).sum(-1) >= _FAINT**2) & ~near)
    things += [_stain(stain) for stain in stains if stain.sum() >= _STAIN]
    return arranged(things)


def _pixels(picture: PIL.Image.Image | NDArray[np.uint8]) -> Floats:
    """Return the levels as float32 [32, 32, 3]."""
    if isinstance(picture, PIL.Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if picture.shape != (SIDE, SIDE, 3) or picture.dtype != np.uint8:
        raise BraidError(
            f"look: the picture is {picture.dtype} {list(picture.shape)}, expected uint8 "
            f"[{SIDE}, {SIDE}, 3]; convert it first"
        )
    return picture.astype(np.float32)


@cache
def _inks() -> Floats:
    """Return how far each color is from the background: [colors, 3]."""
    return np.asarray(list(COLORS.values()), np.float32) - np.asarray(BACKGROUND, np.float32)


def _unmix(away: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return each color's share of each pixel [32, 32, colors], and the color that fits best."""
    inks = _inks()
    along, length = away @ inks.T, np.square(inks).sum(-1)
    cover = np.clip(along / length, 0, 1)
    # the squared distance of a pixel from its mixture, without what all colors share
    left = cover * (cover * length - 2 * along)
    return cover, left.argmin(-1)


def _spots(mask: Mask) -> list[Mask]:
    """Return the connected parts of a mask, diagonal neighbours included, each [32, 32]."""
    waiting = set(np.flatnonzero(np.pad(mask, 1)).tolist())
    width, spots = SIDE + 2, []
    steps = [down * width + right for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    while waiting:
        edge = [waiting.pop()]
        found = list(edge)
        while edge:
            pixel = edge.pop()
            fresh = waiting.intersection([pixel + step for step in steps])
            waiting -= fresh
            edge += fresh
            found += fresh
        spot = np.zeros(width * width, np.bool_)
        spot[found] = True
        spots.append(spot.reshape(width, width)[1:-1, 1:-1])
    return spots


def _grown(mask: Mask) -> Mask:
    """Return the mask with all pixels next to it."""
    rows = mask.copy()
    rows[1:] |= mask[:-1]
    rows[:-1] |= mask[1:]
    grown = rows.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return grown


def _others(spots: list[Mask], i: int) -> Mask:
    """Return the pixels of all spots but one."""
    return np.any([np.zeros((SIDE, SIDE), np.bool_), *spots[:i], *spots[i + 1 :]], axis=0)


def _middle(spot: Mask) -> tuple[int, int]:
    """Return the middle of a spot's box, x and y."""
    rows, columns = np.flatnonzero(spot.any(1)), np.flatnonzero(spot.any(0))
    return int(columns[0] + columns[-1]) // 2, int(rows[0] + rows[-1]) // 2


def _thing(
    spot: Mask, strength: Floats, cover: Floats, nearest: NDArray[np.int64], others: Mask
) -> Thing:
    """Return the thing that a spot shows."""
    votes = np.bincount(nearest[spot], strength[spot], len(COLORS))
    best = int(votes.argmax())
    pure = votes[best] >= _PURE * votes.sum()
    # the ring around the spot holds the edge pixels that the thing covers by less than half
    covered = np.where(_grown(spot) & ~others, cover[..., best] if pure else strength, 0)
    alike, shape, size, x, y = max(_match(covered, size, *_middle(spot)) for size in SIZES)
    color = list(COLORS)[best] if pure else UNKNOWN
    return Thing(color, shape if alike >= ALIKE else UNKNOWN, size, x, y)


def _match(covered: Floats, size: str, x: int, y: int) -> tuple[float, str, str, int, int]:
    """Return the best overlap of a size's templates near x, y: how good, which and where."""
    across, tries = SIZES[size], 2 * _SHIFT + 1
    border = across // 2 + _SHIFT
    padded = np.pad(covered, border)
    around = padded[y : y + 2 * border + 1, x : x + 2 * border + 1]
    windows = np.lib.stride_tricks.sliding_window_view(around, (across, across))
    masks = np.stack([template(shape, size) for shape in SHAPES])
    # [shapes, tries, tries]
    common = np.minimum(windows, masks[:, None, None]).sum((-2, -1))
    alike = common / (covered.sum() + masks.sum((-2, -1))[:, None, None] - common)
    best = int(alike.argmax())
    shape, down, right = np.unravel_index(best, (len(SHAPES), tries, tries))
    where = x + int(right) - _SHIFT, y + int(down) - _SHIFT
    return float(alike.flat[best]), SHAPES[int(shape)], size, *where


def _stain(spot: Mask) -> Thing:
    """Return something that is there, but no thing of this world."""
    size = "large" if spot.sum() > SIZES["small"] ** 2 else "small"
    return Thing(UNKNOWN, UNKNOWN, size, *_middle(spot))
