"""Run the benchmarks that fit on two cores; print a line each and keep their figures.

    python benchmarks/run.py [NAME ...] [--quick] [--out benchmarks/results]

Figures go to OUT/NAME.json, from which `docs/speed.md` is written, and what a benchmark printed to
OUT/NAME.log. With --quick they go to a temporary folder, so that no quick figure is ever kept by
mistake. All run on one thread: two benchmarks at a time would disturb each other, and so would a
second thread on a machine whose other core is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure

HERE = Path(__file__).resolve().parent
NAMES = (
    "solver",
    "transfusion_sampling",
    "train_step",
    "decoding",
    "parallel_decoding",
    "mixed_batch",
    "serving",
    "cross_entropy",
    "packing",
    "scaling",
)


def run(name: str, out: Path, quick: bool) -> bool:
    """Run a benchmark, print its first figure or why there is none; return whether it ran."""
    file, log = out / f"{name}.json", out / f"{name}.log"
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    since = time.monotonic()
    with log.open("w") as said:
        done = subprocess.run(
            command + ["--quick"] * quick, env=env, stdout=said, stderr=subprocess.STDOUT
        )
    took = f"[{time.monotonic() - since:.0f} s]"
    if done.returncode:
        print(f"{name:21} failed with {done.returncode}, see {log} {took}", flush=True)
        return False
    first = Figure(**json.loads(file.read_text(encoding="utf-8"))["figures"][0])
    print(f"{name:21} {first.line()} {took}", flush=True)
    return True


def main() -> None:
    """Run what is asked for; exit with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--out", type=Path, help="folder; benchmarks/results, or a temporary one")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    aside = Path(tempfile.gettempdir()) / "braid-benchmarks" if chosen.quick else HERE / "results"
    out = (chosen.out or aside).resolve()
    out.mkdir(parents=True, exist_ok=True)
    worked = [run(name, out, chosen.quick) for name in chosen.names or NAMES]
    sys.exit(0 if all(worked) else 1)


if __name__ == "__main__":
    main()
