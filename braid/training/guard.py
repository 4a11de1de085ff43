"""What a run does about steps that would spoil the model: skip them, go back, or give up."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

LOOK_BACK = 100
"""Gradient norms that a step's is compared with."""

FEWEST = 20
"""Norms that have to be known before a spike can be told."""


class Guard:
    """Tells bad steps from good ones; all ranks see the same numbers and so agree.

    Attributes:
        bad_in_row: bad steps since the last good one.
    """

    def __init__(
        self, spike: float | None = None, norms: Sequence[float] = (), bad_in_row: int = 0
    ) -> None:
        """Make a guard.

        Args:
            spike: deviations above the median of recent norms that are too many; None is no limit.
            norms: recent norms of a run that goes on.
            bad_in_row: its bad steps since the last good one.
        """
        self.spike, self.bad_in_row = spike, bad_in_row
        self._norms: deque[float] = deque(norms, maxlen=LOOK_BACK)

    @property
    def norms(self) -> list[float]:
        """What a run that goes on has to know; nothing where no spikes are looked for."""
        return [] if self.spike is None else list(self._norms)

    def judge(self, loss: float, norm: float) -> str | None:
        """Return what is wrong with a step, or None."""
        found = self._wrong(loss, norm)
        if found is None:
            self.bad_in_row = 0
            self._norms.append(norm)
        else:
            self.bad_in_row += 1
        return found

    def _wrong(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"the loss is {loss} and the gradient's norm {norm}"
        if self.spike is None or len(self._norms) < FEWEST:
            return None
        middle = statistics.median(self._norms)
        deviation = 1.4826 * statistics.median(abs(x - middle) for x in self._norms)
        limit = middle + self.spike * max(deviation, 0.05 * middle)  # a flat past has no deviation
        if norm > limit:
            return f"the gradient's norm {norm:.4g} is above {limit:.4g}"
        return None
