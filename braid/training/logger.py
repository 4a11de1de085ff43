"""metrics.jsonl for programs, and a live line for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Logger:
    """Writes one JSON line per report.

    Shows a progress bar on a terminal, and plain lines elsewhere.

    Metrics are named split/strand/quantity, such as train/text/loss.
    """

    def __init__(self, path: Path, console: Console, every_seconds: float = 10.0) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.console, self.every_seconds = console, every_seconds
        self._bar: Progress | None = None
        self._task: Any = None
        self._last = -float("inf")

    def write(self, **metrics: float | int) -> None:
        """Add a line to metrics.jsonl."""
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()

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
        """End the bar and the file."""
        if self._bar is not None:
            self._bar.stop()
        self.file.close()

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
