"""The learning rate over a run."""

from __future__ import annotations

import math


def rate(step: int, progress: float, warmup: int, final: float) -> float:
    """Return the share of the peak rate.

    Linear warm-up over `warmup` steps, then a cosine down to `final` at progress 1.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rise * fall
