"""Where a model runs."""

from __future__ import annotations

import torch

from braid.errors import BraidError


def choose(name: str | None = None) -> torch.device:
    """Return a device by its name, or this machine's accelerator, or else the CPU.

    Refuses one that is not there.
    """
    if name is None:
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found if found is not None else torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise BraidError(f"device {name!r} is not there; this machine has {choose()}") from e
