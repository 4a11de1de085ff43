"""Tiny made-up data with which tests train in seconds."""

from __future__ import annotations

import numpy as np

from braid.data.sources import Examples, Source
from braid.errors import BraidError

PLACES = ("one", "two", "three", "four")
CAPTIONS = tuple(f"{line} {place}" for line in ("row", "column") for place in PLACES)


def toy(n: int, seed: int) -> Source:
    """Return n bright lines on black: image uint8 [4, 4] of 0 and 255, text, label 0..7.

    There are 8 different examples, "row one" to "column four"; each comes up equally often, or
    once more, in an order drawn from the seed.
    """
    if n < 1:
        raise BraidError(f"toy: n {n} must be at least 1 example")
    kinds = np.random.RandomState(seed).permutation(np.arange(n) % len(CAPTIONS)).tolist()
    images = [np.zeros((4, 4), dtype=np.uint8) for _ in CAPTIONS]
    for place in range(4):
        images[place][place] = 255
        images[place + 4][:, place] = 255
    columns = {
        "image": [images[kind].copy() for kind in kinds],
        "text": [CAPTIONS[kind] for kind in kinds],
        "label": kinds,
    }
    return Examples("toy", columns)
