"""Write docs/speed.md from benchmarks/results/*.json.

python docs/make_speed.py [--check]

With --check nothing is written, and it fails if the page is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"

TITLES = {
    "solver": "A solver's step, on top of its model",
    "transfusion_sampling": "Drawing pictures with text and flow in one model",
    "train_step": "A training step",
    "decoding": "Decoding token by token",
    "parallel_decoding": "Decoding masked symbols in parallel",
    "mixed_batch": "Unlike documents in one batch",
    "serving": "A server",
    "cross_entropy": "Cross-entropy of a large vocabulary",
    "packing": "How full rows are",
    "scaling": "How cost grows",
    "gpu": "On a GPU",
}
"""Benchmarks in the order of the page; others follow by name."""

HEAD = """# Speed

Written by `python docs/make_speed.py` from [benchmarks/results](../benchmarks/results); not by
hand. `make bench` measures all of it again on a CPU but for the step of 82M parameters (`--large`),
and `benchmarks/gpu.sh` on a GPU; each section is one script in [benchmarks](../benchmarks), whose
first lines say what is timed and how. Figures in bfloat16 are from a processor that multiplies it.

**x** is how many times better a figure is than the other side of the same, interleaved run; above
1 is better, and **aim** is what was aimed at. **Limit** is what the machine would allow: the
operations that cannot be avoided at the speed of one large matrix product, or the bytes that have
to be read at the measured bandwidth; **of it** is the share that is reached. A dash is a number
that is not defined there. Times and limits are processor time unless a script says otherwise: they
hold on a machine whose other cores are busy, but for what is lost to a shared cache.
"""


def page(folder: Path = RESULTS) -> str:
    """Return the page of all files of a folder."""
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.json")}
    known = [n for n in TITLES if n in found]
    names = known + sorted(found.keys() - set(known))
    return "\n".join([HEAD, *(section(found[name]) for name in names)])


def section(told: dict[str, Any]) -> str:
    """Return what is said of a benchmark."""
    name, limits = told["benchmark"], told["limits"]
    versions = ", ".join(f"{k} {v}" for k, v in told["versions"].items() if k != "peer")
    if "peer" in told["versions"]:
        versions += f", {told['versions']['peer'].replace('==', ' ')}"
    about = (
        f"`benchmarks/{name}.py` on {told['machine']}, {threads(told['threads'])}; {versions}. "
        f"Measured limits: {limits['flops_per_second'] / 1e9:.0f} GFLOP/s, "
        f"{limits['bytes_per_second'] / 1e9:.1f} GB/s."
    )
    parts = [f"## {TITLES.get(name, name)}", "", about, "", table(told["figures"])]
    if name == "scaling":
        parts += ["", growth(told["results"])]
    return "\n".join(parts) + "\n"


def threads(n: int) -> str:
    """Return a number of threads in words."""
    return "one thread" if n == 1 else f"{n} threads"


def table(figures: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each figure."""
    lines = ["| | measured | other side | | x | aim | limit | of it |", "|---" * 8 + "|"]
    for f in figures:
        less = f["better"] == "less"
        x = None if f["peer"] is None else f["peer"] / f["ours"] if less else f["ours"] / f["peer"]
        limit = f["limit"]
        share = None if limit is None else limit / f["ours"] if less else f["ours"] / limit
        lines.append(
            f"| {f['what']} | {number(f['ours'])} {f['unit']} | {number(f['peer'])} "
            f"| {f['beside'] or '-'} | {number(x)} | {number(f['aim'])} | {number(limit)} "
            f"| {'-' if share is None else f'{share:.0%}'} |"
        )
    return "\n".join(lines)


def growth(axes: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each point of each axis."""
    lines = ["| axis | at | ms | limit | of it | grows as |", "|---" * 6 + "|"]
    for axis in axes:
        for i, point in enumerate(axis["points"]):
            last = i == len(axis["points"]) - 1
            lines.append(
                f"| {axis['axis'] if i == 0 else ''} | {point['at']:,} "
                f"| {number(1e3 * point['seconds'])} | {number(1e3 * point['floor_seconds'])} "
                f"| {point['floor_seconds'] / point['seconds']:.0%} "
                f"| {'power ' + number(axis['exponent']) if last else ''} |"
            )
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    given = parser.parse_args(arguments)
    if not given.check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/speed.md is out of date; run python docs/make_speed.py")


if __name__ == "__main__":
    main()
