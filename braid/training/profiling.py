"""Where the time of a training step goes: a few steps of a run, as a trace and as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from braid.tracing import PREFIX

if TYPE_CHECKING:
    from torch.profiler import profile

SKIPPED, WATCHED = 4, 4
"""Steps before the first that counts (those allocate and compile), and steps that count."""
_OPERATIONS, _LONGEST = 25, 80
"""Operations of the table, and letters of a name: those of kernels have their C++ types in them."""


class Profiler:
    """Watches steps of a run and writes `trace.json` and `table.txt`.

    The trace is for https://ui.perfetto.dev or chrome://tracing. The table has the parts of a step
    and the operations that take longest. On a GPU parts are the processor's time, which launches
    kernels and may wait for them, and operations are the GPU's.
    """

    def __init__(self, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        """Begin to watch.

        Args:
            folder: where both files go; it is made.
            device: where the steps run.
            say: is told where they are.
        """
        from torch.profiler import ProfilerActivity, profile, schedule

        self.folder, self.device, self.say = folder, device, say
        self.written = False
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED - 1, warmup=1, active=WATCHED, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def step(self) -> None:
        """Tell that a step is over."""
        if not self.written:
            self._profile.step()
            if self.written:  # later steps are not slowed down
                self._profile.stop()

    def close(self) -> None:
        """Stop; a run that was too short is told so."""
        if self.written:
            return
        self._profile.on_trace_ready = None
        self._profile.stop()
        self.say(
            f"no profile was written: it takes {SKIPPED + WATCHED} steps, and the run ended before"
        )

    def _write(self, found: profile) -> None:
        self.written = True
        self.folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(self.folder / "trace.json"))
        told = table(found.key_averages(), "cuda" if self.device.type == "cuda" else "cpu")
        (self.folder / "table.txt").write_text(told, encoding="utf-8")
        self.say(f"wrote where the time of {WATCHED} steps went to {self.folder / 'table.txt'}")


def table(events: Any, device: str) -> str:
    """Return the parts of a step and the longest operations, in milliseconds a step.

    Args:
        events: averages of `torch.profiler`.
        device: "cuda" or "cpu", whose time operations are sorted by.
    """
    whole = sum(e.cpu_time_total for e in events if e.key.startswith("ProfilerStep")) / 1e3
    parts = {
        e.key.removeprefix(PREFIX): (e.cpu_time_total / 1e3, e.count)
        for e in events
        if e.key.startswith(PREFIX) and e.cpu_time_total
    }
    operations: dict[str, tuple[float, int]] = {}
    for e in events:
        if e.key.startswith((PREFIX, "ProfilerStep")):
            continue
        if device == "cuda":
            # what launched a kernel, and what a range is named, have the kernel's time once more
            if e.device_type.name == "CPU" or e.is_user_annotation:
                continue
            spent = e.self_device_time_total
        else:
            spent = e.self_cpu_time_total
        name = e.key if len(e.key) <= _LONGEST else e.key[: _LONGEST - 3] + "..."
        ms, calls = operations.get(name, (0.0, 0))
        operations[name] = ms + spent / 1e3, calls + e.count
    lines = [f"{whole / WATCHED:.2f} ms a step, of {WATCHED} steps; profiling itself included", ""]
    lines += _rows("part of a step (those with a slash are within another)", parts, whole)
    total = sum(ms for ms, _ in operations.values())
    longest = sorted(operations.items(), key=lambda item: -item[1][0])[:_OPERATIONS]
    lines += ["", *_rows(f"operation on the {device}, by its own time", dict(longest), total)]
    return "\n".join(lines) + "\n"


def _rows(title: str, spent: dict[str, tuple[float, int]], whole: float) -> list[str]:
    """Return a table of names with milliseconds, shares and calls, the longest first."""
    width = max([len(title), *(len(name) for name in spent)])
    lines = [f"{title:{width}}  ms a step   share  calls a step"]
    for name, (ms, calls) in sorted(spent.items(), key=lambda item: -item[1][0]):
        lines.append(
            f"{name:{width}}  {ms / WATCHED:9.3f}  {ms / max(whole, 1e-9):6.1%}"
            f"  {calls / WATCHED:12.1f}"
        )
    return lines
