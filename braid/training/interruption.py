"""Signals that ask a run to stop: it saves at the next step's end, and says so by its exit code."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals after which a run saves and ends: Ctrl-C, a scheduler's notice, a scheduler's warning."""

SAVED = 75
"""Exit code of a run that was asked to stop and saved; the same command goes on (EX_TEMPFAIL)."""

ECHO = 2.0
"""Seconds in which a signal may come twice under a launcher, which passes on what the terminal or
the scheduler has already sent to every process."""


class Interruption:
    """Whether this process was asked to stop; a second time ends it at once.

    Use as a context manager. In other threads than the main one it never asks.

    Attributes:
        number: the signal that asked, or None.
    """

    def __init__(self, echo: float = 0.0) -> None:
        """Make one; a signal that comes again within `echo` seconds is the same one."""
        self.number: int | None = None
        self.echo = echo
        self._since = 0.0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @property
    def code(self) -> int:
        """What the process should exit with: 130 after Ctrl-C, as shells expect, or 75."""
        return 130 if self.number == signal.SIGINT else SAVED

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
        elif now - self._since >= self.echo:
            os._exit(128 + number)


@contextmanager
def saved() -> Iterator[None]:
    """Leave at a signal with the code of a run that is saved, for the work that follows training.

    Evaluation changes nothing that has to be kept: the same command finds the finished training
    and evaluates it.
    """
    with Interruption() as asked:

        def leave(number: int, frame: FrameType | None) -> None:
            asked.number = number
            raise SystemExit(asked.code)

        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                signal.signal(number, leave)  # Interruption puts back what was there before
        yield
