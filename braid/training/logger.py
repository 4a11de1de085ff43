"""metrics.jsonl for programs, a line for people, and sinks that cannot stop a run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from braid.errors import BraidError, unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PATIENCE = 2.0
"""Seconds that closing waits for all sinks together."""


class Sink(Protocol):
    """Where metrics go beside metrics.jsonl.

    All methods are called on a thread of the sink's own; they may be slow, hang or raise.
    """

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Write out what is left."""


class Logger:
    """Writes one JSON line per report.

    Shows a progress bar on a terminal, and plain lines elsewhere.

    Metrics are named split/strand/quantity, such as train/text/loss.
    """

    def __init__(
        self,
        path: Path | None,
        console: Console,
        every_seconds: float = 10.0,
        *,
        loggers: Sequence[str] = (),
        name: str = "run",
        sinks: Mapping[str, Callable[[], Sink]] | None = None,
    ) -> None:
        """Open the log of a run.

        Args:
            path: metrics.jsonl; None writes nothing, as on all ranks but the first.
            console: where to show.
            every_seconds: time between plain lines.
            loggers: sinks by their names in `SINKS`.
            name: name of the run in those sinks.
            sinks: name -> function that opens a sink of one's own; called on the sink's thread.

        Raises:
            BraidError: a logger is unknown, or its package is not installed.
        """
        need(loggers)
        self.file = None if path is None else _appendable(path)
        self.console, self.every_seconds = console, every_seconds
        self._bar: Progress | None = None
        self._task: Any = None
        self._last = -float("inf")
        self._lost = 0
        opened: dict[str, Callable[[], Sink]] = dict(sinks or {})
        if path is not None:
            opened |= {n: SINKS[n].opener(path.parent, name) for n in loggers}
        self._beside = [_Beside(n, open_sink) for n, open_sink in opened.items()]

    def write(self, **metrics: Any) -> None:
        """Add a line to metrics.jsonl, and hand its numbers to the sinks."""
        if self.file is not None:
            try:
                self.file.write(json.dumps(metrics) + "\n")
                self.file.flush()
            except OSError as e:  # a full disk is for checkpoints to judge
                self._lost += 1
                if self._lost == 1:
                    self.say(f"cannot write {self.file.name} ({e.strerror}); the run goes on")
        numbers = {
            k: float(v)
            for k, v in metrics.items()
            if isinstance(v, int | float) and not isinstance(v, bool)
        }
        for beside in self._beside:
            beside.offer(int(metrics.get("step", 0)), numbers)
            self._complain(beside)

    def show(self, progress: float, text: str) -> None:
        """Show how far the run is, 0 to 1, and a line of numbers."""
        if self.console.is_terminal:
            self._live(progress, text)
        elif time.monotonic() - self._last >= self.every_seconds or progress >= 1:
            self._last = time.monotonic()
            self.console.print(f"{progress:4.0%} {text}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the bar, the file and the sinks; these are waited for at most two seconds."""
        if self._bar is not None:
            self._bar.stop()
        if self.file is not None:
            try:
                self.file.close()
            except OSError:  # what could not be written has been told
                self._lost += 1
        deadline = time.monotonic() + PATIENCE
        for beside in self._beside:
            beside.end()
        for beside in self._beside:
            beside.join(deadline)
            self._complain(beside)
            if beside.dropped:
                self.say(f"{beside.name} was too slow for {beside.dropped} lines of metrics")

    def _complain(self, beside: _Beside) -> None:
        """Say once why a sink is off."""
        if beside.error is not None and not beside.told:
            beside.told = True
            self.say(
                f"{beside.name} is switched off ({beside.error}); metrics.jsonl has all metrics"
            )

    def _live(self, progress: float, text: str) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(24),
                TextColumn("{task.percentage:3.0f}% {task.description}"),
                console=self.console,
            )
            self._task = self._bar.add_task(text, total=1.0)
            self._bar.start()
        self._bar.update(self._task, completed=progress, description=text)


def need(loggers: Sequence[str]) -> None:
    """Refuse unknown loggers and those whose package is missing, before any work is done."""
    for name in loggers:
        if name not in SINKS:
            raise unknown("logger", name, SINKS)
        if importlib.util.find_spec(SINKS[name].package) is None:
            raise BraidError(
                f"train.loggers names {name!r}, which needs the package {SINKS[name].package!r}; "
                f"install it with: pip install 'braid-models[{name}]'"
            )


class _Beside:
    """A sink on a daemon thread behind a bounded queue; nothing it does reaches the run.

    Attributes:
        dropped: lines that found the queue full.
        error: why the sink is off, or None.
        told: that was said.
    """

    def __init__(self, name: str, opener: Callable[[], Sink], room: int = 1000) -> None:
        self.name, self.dropped, self.told = name, 0, False
        self.error: str | None = None
        self._opener = opener
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(room)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"braid-{name}", daemon=True)
        self._thread.start()

    def offer(self, step: int, numbers: dict[str, float]) -> None:
        """Queue a line; drop it where the queue is full."""
        if self.error is not None:
            return
        try:
            self._queue.put_nowait((step, numbers))
        except queue.Full:
            self.dropped += 1

    def end(self) -> None:
        """Ask the thread to end after what is queued."""
        self._ending.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:  # a thread that gets so far sees the event
            return

    def join(self, deadline: float) -> None:
        """Wait for the thread until a time of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and self.error is None:
            self.error = "it did not answer while the run ended"

    def _work(self) -> None:
        try:
            sink = self._opener()
            while (line := self._next()) is not None:
                sink.write(*line)
            sink.close()
        except BaseException as e:  # even SystemExit of a library must not pass
            self.error = " ".join(f"{type(e).__name__}: {e}".split())

    def _next(self) -> tuple[int, dict[str, float]] | None:
        if self._ending.is_set() and self._queue.empty():
            return None
        return self._queue.get()


class TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir RUN` shows them."""

    package = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    @classmethod
    def opener(cls, run: Path, name: str) -> Callable[[], Sink]:
        """Return a function that opens the sink of a run."""
        return lambda: cls(run / "tensorboard")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add scalars; steps that a run repeats after an interruption replace the old ones."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step, flush_secs=10)
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is left."""
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """A run of a trackio project, in its local store; `trackio show` shows it."""

    package = "trackio"

    def __init__(self, project: str, name: str) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(project=project, name=name, resume="allow")

    @classmethod
    def opener(cls, run: Path, name: str) -> Callable[[], Sink]:
        """Return a function that opens the sink of a run."""
        return lambda: cls(name, run.resolve().name)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add scalars."""
        self._run.log({k: v for k, v in metrics.items() if k != "step"}, step=step)

    def close(self) -> None:
        """Write out what is left."""
        self._run.finish()


SINKS: dict[str, type[TensorBoard] | type[Trackio]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}
"""Sinks by the names that `train.loggers` takes."""


def _appendable(path: Path) -> Any:
    """Open a file of lines at its end; a line that a killed run left unfinished is closed."""
    file = path.open("a", encoding="utf-8")
    if path.stat().st_size:
        with path.open("rb") as f:
            f.seek(-1, os.SEEK_END)
            torn = f.read(1) != b"\n"
        if torn:
            file.write("\n")
            file.flush()
    return file
