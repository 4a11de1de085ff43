"""One job a run: a lock on its folder, which the system frees when its holder dies."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braid.errors import BraidError

if TYPE_CHECKING:
    from filelock import BaseFileLock


NOTE = ".lock.json"
"""Beside the lock: who holds it."""


class Lock:
    """Hold a run's folder for this process; a context manager.

    The lock itself is the system's, on `.lock`; the note beside it only tells others who holds it.
    A process that is killed leaves both files and no lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._note = folder / NOTE
        self._held: BaseFileLock | None = None

    def __enter__(self) -> Lock:
        """Take the lock.

        Raises:
            BraidError: another job holds it, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock", blocking=False, thread_local=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self._held = lock
            self._note.write_text(json.dumps(_me()) + "\n", encoding="utf-8")
        except Timeout as e:
            raise BraidError(
                f"{str(self.folder)!r} is in use by {holder(self.folder) or 'another process'}; "
                "wait until it has ended, or "
                "choose another folder with --out"
            ) from e
        except OSError as e:
            self.__exit__()
            raise BraidError(
                f"cannot lock {str(self.folder)!r} ({e.strerror or e}); choose another folder "
                "with --out"
            ) from e
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        if self._held is not None:
            self._note.unlink(missing_ok=True)
            self._held.release()
            self._held = None


def holder(folder: Path) -> str | None:
    """Return who holds a run's folder, as the note beside its lock says; None if nobody does.

    A note of another machine is told as it stands: whether its process lives is not to be seen
    from here. A note without a process was left by one that was killed.
    """
    try:
        who = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        host, pid, since = str(who["host"]), int(who["pid"]), who["since"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    told = f"process {pid} on {host} since {since}"
    if host != socket.gethostname():
        return f"{told}, if it still lives; look there"
    return told if lives(pid) else None


def lives(pid: int) -> bool:
    """Return whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True


def _me() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
