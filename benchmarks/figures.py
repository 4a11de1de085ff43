"""What all benchmarks share: options, the machine's limits, how figures are told and kept.

A benchmark's file is {"benchmark", "machine", "threads", "versions", "limits", "figures",
"results"}: figures are what `docs/speed.md` shows, results are all that was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """A figure beside its peer and beside what the machine allows, all in one unit.

    Attributes:
        what: what was measured, in a few words.
        ours: the figure.
        unit: its unit.
        peer: the same for the other side, or None.
        beside: what the other side is.
        limit: the best that the machine allows, as far as that is known.
        better: whether less or more is better.
        aim: ratio to the peer that is aimed at.
    """

    what: str
    ours: float
    unit: str
    peer: float | None = None
    beside: str = ""
    limit: float | None = None
    better: Literal["less", "more"] = "less"
    aim: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if self.peer is None:
            return None
        return self.peer / self.ours if self.better == "less" else self.ours / self.peer

    @property
    def share(self) -> float | None:
        """The share of what the machine allows."""
        if self.limit is None:
            return None
        return self.limit / self.ours if self.better == "less" else self.ours / self.limit

    def line(self) -> str:
        """Return the figure in a line."""
        told = f"{self.what}: {self.ours:.3g} {self.unit}"
        if self.ratio is not None:
            told += f", {self.ratio:.2f}x {self.beside}"
            told += f" (aim {self.aim:.3g}x)" if self.aim is not None else ""
        return told + (f", {self.share:.0%} of the limit" if self.share is not None else "")


def parser(doc: str | None, quick: str = "fewer and smaller runs") -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--json", type=Path, help="write the figures here too")
    return made


def matrix_peak(
    clock: Callable[[], float] = time.process_time, size: int = 1024, bf16: bool = False
) -> float:
    """Return operations a second of a large product in float32 or bfloat16, the best of nine.

    By processor time unless another clock is given: what the clock on the wall says on a busy
    machine is no limit of the machine.
    """
    import torch

    a = torch.randn(size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
    return 2 * size**3 / _fastest(lambda: a @ a, clock)


def multiplies_bf16() -> bool:
    """Whether bfloat16 pays here: products in it are clearly faster than in float32."""
    return matrix_peak(bf16=True, size=512) > 1.4 * matrix_peak(size=512)


def bandwidth(clock: Callable[[], float] = time.process_time, mebibytes: int = 256) -> float:
    """Return bytes a second of reading memory that no cache holds, the best of nine."""
    import torch

    x = torch.zeros(mebibytes << 18)
    return 4 * x.numel() / _fastest(x.amax, clock)


def _fastest(run: Callable[[], object], clock: Callable[[], float]) -> float:
    spent = []
    run()  # not counted
    for _ in range(9):
        since = clock()
        run()
        spent.append(clock() - since)
    return min(spent)


def machine() -> str:
    """Return the model of the processor, its cores, and the accelerator if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [x.split(":", 1)[1] for x in facts.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    told = f"{model}, {os.cpu_count()} cores"
    return f"{told}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else told


def finish(
    to: Path | None,
    benchmark: str,
    figures: Sequence[Figure],
    results: Any,
    *,
    threads: int = 1,
    limits: dict[str, float] | None = None,
    **versions: str,
) -> None:
    """Print the figures, a line each, and write them with all that was measured.

    Args:
        to: the file, or None.
        benchmark: name of the script.
        figures: the first of them stands for the benchmark in `make bench`.
        results: all that was measured, as JSON takes it.
        threads: of torch, at which the limits are measured.
        limits: operations and bytes a second where they are not the processor's.
        versions: of the packages on either side; those of Python and torch are known.
    """
    import torch

    for figure in figures:
        print(figure.line())
    if to is None:
        return
    torch.set_num_threads(threads)
    if limits is None:
        limits = {"flops_per_second": matrix_peak(), "bytes_per_second": bandwidth()}
    told = {
        "benchmark": benchmark,
        "machine": machine(),
        "threads": threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "limits": limits,
        "figures": [asdict(f) for f in figures],
        "results": results,
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(rounded(told), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any, digits: int = 5) -> Any:
    """Return JSON with so many significant digits: more were never measured."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return value
