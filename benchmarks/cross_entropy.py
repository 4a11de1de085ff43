"""Memory and time of the cross-entropy of a large vocabulary: chunked, plain, and torch's own.

    python benchmarks/cross_entropy.py [--quick] [--threads N] [--json FILE]

Loss and gradients of hidden vectors [N, D] and of a head [V, D] in float32. Each side has a process
of its own; given is the growth of its peak of resident memory over what it held before, of which
the gradients themselves are the floor, and the median seconds of CPU and of the clock. Where torch
has a `linear_cross_entropy` in chunks (2.13), it is the third side. Gradients are compared with
those in float64 for a part of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from figures import Figure, finish, matrix_peak, parser
from torch import Tensor
from torch.nn import functional as F

from braid.cross_entropy import linear_cross_entropy

SIDES = ("plain", "chunked", "torch")
WIDTH = 512


def loss_of(side: str, hidden: Tensor, weight: Tensor, symbols: Tensor) -> Tensor:
    """Return the mean loss."""
    if side == "plain":
        return F.cross_entropy(F.linear(hidden, weight), symbols)
    if side == "torch":
        options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined]
        return F.linear_cross_entropy(hidden, weight, symbols, options=options)  # type: ignore[attr-defined]
    factor = torch.full((len(hidden),), 1 / len(hidden))
    return linear_cross_entropy(hidden, weight, symbols, factor)


def inputs(tokens: int, symbols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden vectors, a head and what is to be predicted."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH).requires_grad_()
    weight = (torch.randn(symbols, WIDTH) * 0.05).requires_grad_()
    return hidden, weight, torch.randint(symbols, (tokens,))


def resident(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def measure(side: str, tokens: int, symbols: int, repeats: int) -> dict[str, Any]:
    """Return the figures of a side, in this process."""
    hidden, weight, wanted = inputs(tokens, symbols)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    loss_of(side, hidden, weight, wanted).backward()
    peak = resident("VmHWM") - before
    spent = []
    for _ in range(repeats):
        hidden.grad = weight.grad = None
        clock, cpu = time.perf_counter(), time.process_time()
        loss_of(side, hidden, weight, wanted).backward()
        spent.append((time.perf_counter() - clock, time.process_time() - cpu))
    seconds, cpu = (statistics.median(x) for x in zip(*spent, strict=True))
    return {"peak_bytes": peak, "seconds": seconds, "cpu_seconds": cpu}


def error(side: str, symbols: int) -> float:
    """Return the larger relative error of both gradients against float64, for 64 rows."""
    hidden, weight, wanted = inputs(64, symbols)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    truth = torch.autograd.grad(loss_of("plain", *exact, wanted), exact)
    found = torch.autograd.grad(loss_of(side, hidden, weight, wanted), (hidden, weight))
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))


def main() -> None:
    """Measure, print and write."""
    asked = parser(__doc__, "one vocabulary, one run")
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    repeats = 1 if options.quick else 3
    if options.side:
        side, tokens, symbols = options.side
        print(json.dumps(measure(side, int(tokens), int(symbols), repeats)))
        return
    sides = [s for s in SIDES if s != "torch" or hasattr(F, "linear_cross_entropy")]
    results = []
    peak = matrix_peak()
    # freed memory goes back to the system at once, so that what is resident is what is held
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for tokens, symbols in ((2048, 102400),) if options.quick else ((2048, 16384), (2048, 102400)):
        floor_bytes = 4 * WIDTH * (tokens + symbols)
        floor_seconds = 6 * tokens * symbols * WIDTH / peak
        found: dict[str, dict[str, Any]] = {}
        for side in sides:
            command = [sys.executable, __file__, "--side", side, str(tokens), str(symbols)]
            command += ["--threads", str(options.threads)] + ["--quick"] * options.quick
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            found[side] = json.loads(done.stdout) | {"gradient_error": error(side, symbols)}
        print(
            f"N {tokens}, D {WIDTH}, V {symbols}: floor {floor_bytes / 2**20:.0f} MiB of gradients,"
            f" {floor_seconds:.2f} s at {peak / 1e9:.0f} GFLOP/s"
        )
        for side, x in found.items():
            memory = x["peak_bytes"] / found["plain"]["peak_bytes"]
            taken = x["cpu_seconds"] / found["plain"]["cpu_seconds"]
            print(
                f"  {side:8} peak {x['peak_bytes'] / 2**20:7.0f} MiB ({memory:.3f} of plain)   "
                f"{x['seconds']:6.2f} s, CPU {x['cpu_seconds']:6.2f} s ({taken:.2f})   "
                f"gradient error {x['gradient_error']:.1e}",
                flush=True,
            )
        results.append(
            {
                "tokens": tokens,
                "symbols": symbols,
                "width": WIDTH,
                "floor_bytes": floor_bytes,
                "floor_seconds": floor_seconds,
                "sides": found,
            }
        )
    figures = [f for found in results for f in figures_of(found)]
    finish(options.json, "cross_entropy", figures, results, threads=options.threads)


def figures_of(found: dict[str, Any]) -> list[Figure]:
    """Return memory and time beside the plain form."""
    what, sides = f"N {found['tokens']}, V {found['symbols']}", found["sides"]
    ours, plain = sides["chunked"], sides["plain"]
    return [
        Figure(
            f"memory, {what}",
            ours["peak_bytes"] / 2**20,
            "MiB",
            plain["peak_bytes"] / 2**20,
            "the plain form",
            found["floor_bytes"] / 2**20,
            aim=4.0,
        ),
        Figure(
            f"time, {what}",
            ours["cpu_seconds"],
            "s",
            plain["cpu_seconds"],
            "the plain form",
            found["floor_seconds"],
        ),
    ]


if __name__ == "__main__":
    main()
