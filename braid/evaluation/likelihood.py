"""Likelihoods of held-out documents, in nats and bits, named exact or a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from braid.evaluation.evaluation import Number
from braid.generation import nats
from braid.pipeline import Pipeline


def bits(
    pipe: Pipeline,
    documents: Sequence[Sequence[Any]],
    name: str,
    numbers: dict[str, Number],
    times: int = 16,
    seed: int = 0,
) -> None:
    """Score the last part of each document given the others.

    Adds NAME_nats, NAME_bits_per_symbol and NAME_likelihood.

    Nats are of a whole part; symbols are text symbols with the closing one, or the numbers of a
    picture. `seed` is of a bound's times and noise.
    """
    result = nats(pipe.braid, [pipe.document(parts) for parts in documents], times, seed)
    numbers[f"{name}_likelihood"] = result.kind
    if result.kind == "none":
        numbers |= {f"{name}_nats": None, f"{name}_bits_per_symbol": None}
        return
    numbers[f"{name}_nats"] = float(result.value.mean())
    numbers[f"{name}_bits_per_symbol"] = float(
        result.value.sum() / result.symbols.sum()
    ) / math.log(2)
