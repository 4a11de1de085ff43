"""Imports of a command, without looking for garbage among them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Keep the collector of cycles away from what is imported here, now and when the process ends.

    Modules stay as long as the process does, yet torch makes so many objects that Python would
    search them again and again while it imports and once more at its end: half a second in all.
    For a process of our own only: what other code has made until then is kept too.
    """
    on, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if on:
            gc.enable()
