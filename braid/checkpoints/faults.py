"""Places where a test can end a process that writes a checkpoint, as a power cut would.

`BRAID_FAULT="name:k"` ends the process, with exit code 137 and without any cleaning up, when it
comes to a place for the k-th time:

    before-data       the temporary folder is there, and empty
    after-first-data  rank 0 has written its files of the first group; other ranks may have not
    between-files     one group of tensors is written, the next is not
    before-manifest   all data is written and hashed
    after-manifest    the manifest is written; the folder still has its temporary name
    after-rename      the checkpoint is committed; nothing old is deleted yet
    mid-purge         an old checkpoint has lost its name; its files are still there
    mid-background    tensors are copied; the thread begins to write, and training goes on
"""

from __future__ import annotations

import os
from collections import Counter

from braid.errors import BraidError, unknown

PLACES = (
    "before-data",
    "after-first-data",
    "between-files",
    "before-manifest",
    "after-manifest",
    "after-rename",
    "mid-purge",
    "mid-background",
)
"""Names of the places."""

VARIABLE = "BRAID_FAULT"
"""The environment variable that asks for a fault."""

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """End the process here if the environment asks for it."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    place, _, number = wanted.partition(":")
    if place not in PLACES:
        raise unknown(f"place in {VARIABLE}", place, PLACES)
    if not number.isdecimal():
        raise BraidError(f"{VARIABLE} {wanted!r}: expected name:k, as in {PLACES[0]}:1")
    _reached[name] += 1
    if name == place and _reached[name] == int(number):
        os._exit(137)
