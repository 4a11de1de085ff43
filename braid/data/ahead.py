"""Values of a function of 0, 1, 2 ..., computed ahead of their use by a thread or by processes.

Whoever waits for a value looks around meanwhile: for a request to stop, for workers that died, and
at the clock.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info

from braid.errors import BraidError

T = TypeVar("T")

GLANCE = 0.2
"""Seconds after which whoever waits looks around."""

_PATIENCE = 1.0
"""Seconds that are left for ending well."""

_SHARED = Path("/dev/shm")
"""Where Linux keeps shared memory; what a process was killed with stays there."""

_IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
"""Signals that a launcher may send to all processes; the parent alone decides what they mean."""


def never() -> bool:
    """Return False."""
    return False


def ahead(
    make: Callable[[int], T],
    workers: int = 0,
    stopped: Callable[[], bool] = never,
    seconds: float = 600.0,
    prepare: Callable[[], object] = never,
) -> Generator[T]:
    """Yield make(0), make(1) ... in order, while the next are computed.

    Ends where a value is not ready and `stopped()` is true.

    Args:
        make: a function; without `workers` it is called by a thread, with them in forked processes
            of one torch thread each, which ignore signals and end with this process.
        workers: number of processes.
        stopped: is asked while a value is waited for.
        seconds: how long one value is waited for.
        prepare: is called once in each worker.

    Raises:
        BraidError: a worker died or met an error, or a value took too long. What `make` raises in a
            thread is raised as it is.
    """
    makers = _Makers(make, workers, prepare)
    try:
        while True:
            value = makers.take(stopped, seconds)
            if value is _NOTHING:
                return
            yield value
    finally:
        makers.close()


_NOTHING: Any = object()
"""Stands for a value that nobody waits for any more."""


@dataclass(frozen=True)
class _Raised:
    """An error instead of a value."""

    error: BaseException


@dataclass(frozen=True)
class _Failed:
    """What a worker met instead of a value."""

    worker: int
    what: str
    where: str


class _Makers(Generic[T]):
    """A thread that computes values, or collects them from processes.

    It forks them too: the library would otherwise make the main thread raise wherever it is when a
    worker dies, be it in the middle of a checkpoint.
    """

    def __init__(
        self, make: Callable[[int], T], workers: int, prepare: Callable[[], object]
    ) -> None:
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            raise BraidError(
                f"data.workers {workers}: this system cannot fork processes; set data.workers=0"
            )
        self._make, self._workers, self._prepare = make, workers, prepare
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._begun, self._closing = threading.Event(), threading.Event()
        self._processes: list[BaseProcess] = []
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, name="data", daemon=True)
        self._thread.start()
        self._begun.wait()  # nothing else runs here while processes are forked
        atexit.register(self._kill)

    def take(self, stopped: Callable[[], bool], seconds: float) -> T:
        """Return the next value, or _NOTHING."""
        self._check_workers()
        self._wanted.release()
        began = time.monotonic()
        while True:
            try:
                value = self._ready.get(timeout=min(GLANCE, seconds))
                break
            except queue.Empty:
                if stopped():
                    return _NOTHING
                self._check_workers()
            if time.monotonic() - began >= seconds:
                raise BraidError(
                    f"no data came for {seconds:g} s; look for a disk or network that hangs, or "
                    "allow more time"
                )
        if isinstance(value, _Failed):
            raise BraidError(f"data worker {value.worker}: {value.what}") from _WhereError(value)
        if isinstance(value, _Raised):
            for _ in self._processes:  # the death of one may show a moment later
                self._check_workers()
                time.sleep(GLANCE)
            raise value.error
        return value

    def close(self) -> None:
        """End the thread and the processes."""
        self._closing.set()
        self._wanted.release()
        self._thread.join(_PATIENCE)  # it ends idle processes
        self._kill()
        atexit.unregister(self._kill)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            with closing(self._values()) as values:
                while True:
                    self._wanted.acquire()
                    if self._closing.is_set():
                        return
                    self._ready.put(next(values))
        except BaseException as e:  # whoever takes the next value shall meet it
            if not self._closing.is_set():
                self._ready.put(_Raised(e))
        finally:
            self._begun.set()

    def _values(self) -> Generator[T | _Failed]:
        if self._workers:
            yield from self._collected()
        else:
            self._begun.set()
            yield from map(self._make, itertools.count())

    def _collected(self) -> Generator[T | _Failed]:
        """Yield the values that processes make, in order."""
        others = set(multiprocessing.active_children())
        with _quietly():
            loader = DataLoader(
                _Numbered(self._make),  # pyright: ignore[reportArgumentType]  # it has no end
                sampler=itertools.count(),  # pyright: ignore[reportArgumentType]
                batch_size=None,
                num_workers=self._workers,
                prefetch_factor=2,
                collate_fn=_unchanged,
                timeout=GLANCE,
                worker_init_fn=partial(_begin, os.getpid(), self._prepare),
                multiprocessing_context="fork",
                generator=torch.Generator(),  # the global one is part of a run's state
            )
            made = iter(loader)
        mine = set(multiprocessing.active_children()) - others
        self._processes = sorted(mine, key=lambda p: p.pid or 0)
        self._begun.set()
        broken = ""
        while not (broken or self._closing.is_set()):
            try:
                yield next(made)
            except Exception as e:  # a worker that dies breaks off whatever it was handing over
                broken = "" if "timed out" in str(e) else f"{type(e).__name__}: {e}"
        del made  # ends its threads; an error would hold it
        if broken and not self._closing.is_set():
            raise BraidError(f"data workers: {broken}; set data.workers=0")

    def _check_workers(self) -> None:
        for number, process in enumerate(self._processes):
            if process.is_alive() or not process.exitcode:  # those that end well follow another
                continue
            code = process.exitcode
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
            raise BraidError(
                f"data worker {number} (process {process.pid}) {how}; repeat the same command to "
                "go on; if memory or shared memory ran out, lower data.workers"
            )

    def _kill(self) -> None:
        processes = self._processes if os.getpid() == self._owner else []
        for process in processes:
            process.kill()  # workers own nothing, and ignore what is gentler
        for process in processes:
            process.join(_PATIENCE)
            for file in _SHARED.glob(f"torch_{process.pid}_*"):  # it was about to hand it over
                file.unlink(missing_ok=True)


class _Numbered(Generic[T]):
    """A function as a data set, whose errors are values."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T | _Failed:
        try:
            return self._make(number)
        except Exception as e:
            what = str(e) if isinstance(e, BraidError) else f"{type(e).__name__}: {e}"
            info = get_worker_info()
            return _Failed(info.id if info else 0, what, traceback.format_exc())


class _WhereError(Exception):
    """Where a worker met an error, in words."""

    def __init__(self, failed: _Failed) -> None:
        super().__init__(f"\n{failed.where}")


def _unchanged(value: T) -> T:
    return value


def _begin(parent: int, prepare: Callable[[], object], worker: int) -> None:
    """Prepare a worker."""
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    prepare()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextmanager
def _quietly() -> Iterator[None]:
    """Fork without warnings: of threads, of few cores, and of tokenizers that used threads."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[name]
