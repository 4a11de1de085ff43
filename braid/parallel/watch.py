"""Who keeps the others waiting: each rank says that it lives and how far it is."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

_EVERY = 2.0
"""Seconds between signs of life."""


class Watch:
    """Signs of life of all ranks in the store through which they met."""

    def __init__(self, store: Store, rank: int, ranks: int) -> None:
        # a connection that waits for another rank would hold up every sign of life meanwhile
        own = store.clone()  # pyright: ignore[reportAttributeAccessIssue] - torch's stub lacks it
        self._store, self._rank, self._ranks = own, rank, ranks
        self._step, self._what = 0, "starting"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="braid-watch", daemon=True)
        self._say()
        self._thread.start()

    def at(self, step: int, what: str) -> None:
        """Note what this rank does now; costs nothing."""
        self._step, self._what = step, what

    def late(self) -> str:
        """Say which ranks do not live, or are behind this one."""
        now, told = time.time(), []
        for rank in range(self._ranks):
            if rank == self._rank:
                continue
            try:
                seen, step, what = self._store.get(f"braid/{rank}").decode().split(" ", 2)
            except RuntimeError:  # it went with the process that kept it
                told.append("the store through which the ranks met is gone")
                break
            silent = now - float(seen)
            if silent > 3 * _EVERY:
                told.append(
                    f"rank {rank} has been silent for {silent:.0f} s, at step {step}: {what}"
                )
            elif (int(step), what) != (self._step, self._what):
                told.append(f"rank {rank} is at step {step}: {what}")
        here = f"this is rank {self._rank} at step {self._step}: {self._what}"
        return "; ".join([*told, here])

    def close(self) -> None:
        """Give no more signs."""
        self._stop.set()

    def _live(self) -> None:
        while not self._stop.wait(_EVERY):
            try:
                self._say()
            except Exception:  # the store goes with the launcher; so does this process
                return

    def _say(self) -> None:
        self._store.set(f"braid/{self._rank}", f"{time.time():.1f} {self._step} {self._what}")
