"""Names for the parts of a step, as traces and tables of `train.profile` show them."""

from __future__ import annotations

from torch.profiler import record_function

PREFIX = "part: "


def part(name: str) -> record_function:
    """Return a context that names what happens within it; microseconds where nobody watches.

    A slash puts a part into another: "losses/noise".
    """
    return record_function(PREFIX + name)
