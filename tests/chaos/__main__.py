"""Run all of it, or some by name, and print one line each: python -m tests.chaos [NAME ...]."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

NAMES = (
    "kill",
    "faults",
    "corruption",
    "disk",
    "elastic",
    "signals",
    "dirty",
    "nan",
    "hang",
    "leaks",
    "sample",
)


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="the small form that make test runs")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(NAMES)):
        parser.error(f"unknown: {unknown}; use one of {NAMES}")
    bad = 0
    for name in chosen.names or NAMES:
        since = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"braid-{name}-") as folder:
            try:
                said = importlib.import_module(f"tests.chaos.{name}").main(
                    Path(folder), chosen.quick
                )
                holds = "holds "
            except AssertionError as e:
                said, holds, bad = str(e), "BROKEN", 1
        print(f"{holds} {name:10} {time.monotonic() - since:5.0f} s  {said}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
