"""The begin and the end of a process that answers one question, without work for nobody."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


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


def leave(code: int = 0) -> NoReturn:
    """End the process once what it wrote is out and what waits for its end has been called.

    Python would take down torch's thousand modules one by one, a fifth of a second in which nothing
    is left to do. For a process of our own whose results are written and whose files are closed.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as e:  # a closed pipe, a full disk
        print(f"error: the output could not be written: {e}", file=sys.stderr)
        code = code or 1
    sys.stderr.flush()
    os._exit(code)
