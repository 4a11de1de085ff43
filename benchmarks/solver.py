"""What a step of a solver on symbols costs on top of its model, against flow_matching's solver.

    python benchmarks/solver.py [--quick] [--json FILE]

The model returns fixed logits (for the peer: their softmax, which is not counted). Both sides run
whole trajectories of the same number of steps in one process, by turns, on one thread; figures are
processor time a step, medians. Memory is by how much the largest resident size during a run exceeds
that before it, in a process for each side, after the imports and the logits (Linux only).

Beside the sampler stands a plain step that draws every clean symbol: the sampler of a mixture path
draws only those that jump. Of the metric path there are two models: one that is never decided, so
that most symbols move at each step to the end, and one that gives one symbol nearly all. The floor
is the time to read the logits that are needed once at the measured bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Figure, finish, parser

REQUIREMENTS = ["flow_matching==1.0.10"]
SHAPES = [(576, 16384), (500, 102400)]
WIDTH = 8  # of the metric path's table
METRIC = 16384  # symbols of the codebook that has such a table
REPORT = "report "


def sides(n: int, V: int, steps: int) -> dict[str, Callable[[], object]]:
    """Return one whole run of each side; what they need is made when they are asked for."""
    import torch

    from braid.processes import DiscreteFlow, Masked, MetricPath
    from braid.randomness import Keys
    from braid.samplers import Drawing, Jump

    rng = torch.Generator().manual_seed(0)
    logits = torch.empty(1, n, V).normal_(0, 3, generator=rng)

    def sampler(process: object, logits: torch.Tensor) -> Callable[[], object]:
        first = process.path.source((1, n), V, Keys.of(1, 1))  # type: ignore[attr-defined]
        return lambda: Jump(steps=steps)(lambda x, t: logits, first, process, Keys.of(0, 1))  # type: ignore[arg-type]

    def plain(process: object) -> Callable[[], object]:
        path = process.path  # type: ignore[attr-defined]
        first = path.source((1, n), V, Keys.of(1, 1))

        def run() -> object:
            x, keys = first, Keys.of(0, 1)
            for i in range(steps):
                clean = Drawing().draw(logits, keys)
                x = path.jump(x, clean, i / steps, (i + 1) / steps, keys, V)
            return x

        return run

    def peer() -> Callable[[], object]:
        from flow_matching.path import MixtureDiscreteProbPath  # pyright: ignore
        from flow_matching.path.scheduler import CondOTScheduler  # pyright: ignore
        from flow_matching.solver import MixtureDiscreteEulerSolver  # pyright: ignore
        from flow_matching.utils import ModelWrapper  # pyright: ignore

        p = logits.softmax(-1)

        class Fixed(ModelWrapper):
            def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                return p

        solver = MixtureDiscreteEulerSolver(
            Fixed(torch.nn.Identity()), MixtureDiscreteProbPath(CondOTScheduler()), V
        )
        first = torch.randint(V, (1, n), generator=rng)
        # slightly more than a step: rounding must not add one
        return lambda: solver.sample(first, step_size=1 / steps * (1 + 1e-6))

    made: dict[str, Callable[[], Callable[[], object]]] = {
        "peer": peer,
        "mixture": lambda: sampler(DiscreteFlow(path="uniform"), logits),
        "mask": lambda: sampler(Masked(), logits),
        "mixture, all drawn": lambda: plain(DiscreteFlow(path="uniform")),
    }
    if V == METRIC:
        path = MetricPath(torch.empty(V, WIDTH).normal_(generator=rng))
        metric = DiscreteFlow(path=path)
        made["metric, undecided"] = lambda: sampler(metric, logits)

        def decided() -> Callable[[], object]:
            best = torch.randint(V, (1, n, 1), generator=rng)
            return sampler(metric, logits.scatter(-1, best, 25.0))

        made["metric, decided"] = decided
    return {name: _later(make) for name, make in made.items()}


def _later(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    held: list[Callable[[], object]] = []

    def run() -> object:
        if not held:
            held.append(make())
            return None  # the first call prepares
        return held[0]()

    return run


def times(n: int, V: int, steps: int, repeats: int) -> dict[str, float]:
    """Return milliseconds a step of each side, by turns."""
    import torch

    torch.set_num_threads(1)
    runs = sides(n, V, steps)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            before = time.process_time()
            run()
            spent[name].append((time.process_time() - before) / steps * 1e3)
    read = torch.empty(n, V).normal_()
    passes = []
    for _ in range(9):
        before = time.process_time()
        read.amax()
        passes.append((time.process_time() - before) * 1e3)
    return {name: statistics.median(s) for name, s in spent.items()} | {
        "floor, all drawn": statistics.median(passes)
    }


def memory(n: int, V: int, side: str) -> float:
    """Return the MiB by which a run of a side exceeds what was resident before."""
    import torch

    torch.set_num_threads(1)
    run = sides(n, V, 4)[side]
    run()  # prepares
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    run()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def worker(python: Path, *arguments: object) -> object:
    """Run this file in the peer's environment, which finds braid as well."""
    here = Path(__file__).resolve()
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parent.parent)}
    command = [str(python), str(here), "--worker", *map(str, arguments)]
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    line = next(x for x in out.splitlines() if x.startswith(REPORT))
    return json.loads(line[len(REPORT) :])


def main() -> None:
    """Measure, print a table, and write it where it is asked for."""
    asked = parser(__doc__, "fewer steps and turns")
    asked.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = asked.parse_args()
    if args.worker:
        what, n, V, *rest = args.worker
        result = (
            times(int(n), int(V), int(rest[0]), int(rest[1]))
            if what == "times"
            else memory(int(n), int(V), rest[0])
        )
        print(REPORT + json.dumps(result))
        return
    from peers import peer  # pyright: ignore[reportMissingImports]

    python = peer("flow-matching", REQUIREMENTS)
    steps, repeats = (8, 1) if args.quick else (16, 3)
    results: list[dict[str, Any]] = []
    share = sum(1 / i for i in range(1, steps + 1)) / steps
    for n, V in SHAPES:
        spent: dict[str, float] = worker(python, "times", n, V, steps, repeats)  # type: ignore[assignment]
        floor = spent.pop("floor, all drawn")
        used = {name: float(worker(python, "memory", n, V, name)) for name in spent}  # type: ignore[arg-type]
        print(f"\nB1 N{n} V{V}, {steps} steps; a step and its share of the peer's")
        print(f"{'':22}{'ms':>9}{'less time':>11}{'extra MiB':>11}{'less memory':>13}")
        for name, ms in spent.items():
            ratio, less = spent["peer"] / ms, used["peer"] / max(used[name], 0.1)
            print(f"{name:22}{ms:9.1f}{ratio:10.1f}x{used[name]:11.1f}{less:12.1f}x")
        print(f"{'floor, all drawn':22}{floor:9.1f}  logits read once")
        print(f"{'floor, mixture':22}{floor * share:9.1f}  {share:.0%} of them, which jump")
        plain = spent["mixture, all drawn"]
        for name in spent:
            if name.startswith("metric"):
                print(f"{name}: {spent[name] / plain:.2f}x the mixture step, all drawn")
        results.append(
            {"N": n, "V": V, "steps": steps, "ms": spent, "MiB": used, "floor_ms": floor}
        )
    figures = [f for found in results for f in figures_of(found, share)]
    finish(args.json, "solver", figures, results, peer=REQUIREMENTS[0])


def figures_of(found: dict[str, Any], share: float) -> list[Figure]:
    """Return what is told of a shape; `share` of the symbols jump in a mean step."""
    ms, used, shape = found["ms"], found["MiB"], f"N {found['N']}, V {found['V']}"
    floor, plain, beside = found["floor_ms"], ms["mixture, all drawn"], "flow_matching"
    figures = [
        Figure(
            f"mixture step, {shape}", ms["mixture"], "ms", ms["peer"], beside, floor * share, aim=10
        ),
        Figure(f"memory of it, {shape}", used["mixture"], "MiB", used["peer"], beside, aim=5),
        Figure(f"mask step, {shape}", ms["mask"], "ms", ms["peer"], beside, floor * share),
    ]
    return figures + [
        Figure(f"{name} step, {shape}", ms[name], "ms", plain, "a mixture step", floor, aim=0.5)
        for name in ms
        if name.startswith("metric")
    ]


if __name__ == "__main__":
    main()
