"""Run a function of this folder's tests on several gloo ranks, as torchrun would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which a process finds braid and keeps to one thread."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}
    return {k: v for k, v in env.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(arguments: list[str], ranks: int, **more: str) -> list[subprocess.Popen]:
    """Start `python arguments` once a rank, with what torchrun tells each of them."""
    base = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port()), **more)
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**base, "RANK": str(r), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(ranks)
    ]


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> list[str]:
    """Wait for processes that have to end well; returns what each said."""
    said = []
    try:
        for p in processes:
            out, _ = p.communicate(timeout=seconds)
            said.append(out)
    finally:
        for p in processes:
            p.kill()
    for p, out in zip(processes, said, strict=True):
        assert p.returncode == 0, f"exit code {p.returncode}:\n{out}"
    return said


def call(module: str, function: str, ranks: int, arguments: dict[str, Any]) -> list[Any]:
    """Call `module.function(world, **arguments)` on every rank; returns the JSON of each."""
    code = (
        "import json, sys, importlib\n"
        "from braid import parallel\n"
        "world = parallel.join(seconds=120)\n"
        f"f = getattr(importlib.import_module({module!r}), {function!r})\n"
        "print('RESULT', json.dumps(f(world, **json.loads(sys.argv[1]))), flush=True)\n"
        "parallel.leave(world)\n"
    )
    said = finish(start(["-c", code, json.dumps(arguments)], ranks))
    found = [
        next(line for line in text.splitlines() if line.startswith("RESULT ")) for text in said
    ]
    return [json.loads(line.removeprefix("RESULT ")) for line in found]
