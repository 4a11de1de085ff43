"""Requests at the same time through a server, beside the same ones after another, and in process.

    python benchmarks/serving.py [--quick] [--json FILE]

The embedded model behind `braid serve` in a process of its own. Pictures in 8, 16 and 32 steps,
half of them guided, and texts of pictures; every client asks its next request when the last one is
answered. The other sides are one client alone, and the pipeline called in this process. Answers are
the same on all sides, which is checked. The overhead is that of one short request over HTTP, a new
connection each. Time on the wall, as two processes share the work; interleaved runs, medians.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from figures import Figure, finish, parser
from PIL import Image

import braid
from braid import Hole, Part
from braid.pipeline import Pipeline

CAPTIONS = ["a red circle", "a small blue square", "a green star", "two circles"]
CLIENTS = 8
Request = tuple[list[Any], dict[str, Any]]


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """Serve the embedded model, and yield the port."""
    command = [sys.executable, "-m", "braid", "serve", "mini", "--port", "0"]
    one = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert one.stdout is not None
        line = one.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield int(line.split(";")[0].rpartition(":")[2])
    finally:
        one.terminate()
        one.communicate()


def requests(count: int) -> list[Request]:
    """Return documents with options of their own, in no order of form."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    out: list[Request] = []
    for i in range(count):
        if i % 3 == 0:
            out.append(([Part("image", Image.fromarray(pixels[i])), Hole("text")], {"seed": i}))
        else:
            options = {"steps": (8, 16, 32)[i // 3 % 3], "guidance": float(i % 3), "seed": i}
            out.append(([CAPTIONS[i % 4], Hole("image")], options))
    return out


def body(request: Request) -> bytes:
    """Return what is posted."""
    parts: list[dict[str, Any]] = []
    for part in request[0]:
        if isinstance(part, Hole):
            parts.append({"type": "hole", "modality": part.modality})
        elif isinstance(part, Part):
            file = io.BytesIO()
            part.raw.save(file, "PNG")
            data = base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "image", "image": data})
        else:
            parts.append({"type": "text", "text": part})
    return json.dumps({"parts": parts, **request[1]}).encode()


def post(port: int, content: bytes) -> Any:
    """Return the hole's content of the answer."""
    one = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with contextlib.closing(one):
        one.request("POST", "/v1/generate", content)
        answer = one.getresponse()
        told = json.loads(answer.read())
    if answer.status != 200:
        raise SystemExit(f"the server answered {answer.status}: {told}")
    (part,) = told["results"][0]["parts"]
    if part["type"] == "text":
        return part["text"]
    data = base64.b64decode(part["image"].partition(",")[2])
    return Image.open(io.BytesIO(data)).convert("RGB")


def differ(ours: list[Any], theirs: list[Any]) -> int:
    """Return how many results differ by more than two grey levels."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, str):
            return a == b
        return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()) <= 2

    return sum(not same(a, b) for a, b in zip(ours, theirs, strict=True))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes, and what it gives."""
    since = time.perf_counter()
    done = run()
    return time.perf_counter() - since, done


def overhead(pipe: Pipeline, port: int, times: int) -> dict[str, float]:
    """Return the median seconds of one request of one step, over HTTP and in process."""
    request: Request = ([CAPTIONS[0], Hole("image")], {"steps": 1, "seed": 0})
    content = body(request)
    spent: dict[str, list[float]] = {"http": [], "pipe": []}
    for _ in range(times):
        spent["http"].append(timed(lambda: post(port, content))[0])
        spent["pipe"].append(timed(lambda: pipe(request[0], **request[1]))[0])
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    """Measure, print and write."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    count, times = (12, 1) if chosen.quick else (48, 5)
    asked = requests(count)
    contents = [body(request) for request in asked]
    pipe: Pipeline = braid.load("mini")
    with serving() as port, ThreadPoolExecutor(CLIENTS) as pool:
        sides: dict[str, Callable[[], list[Any]]] = {
            "together": lambda: list(pool.map(lambda c: post(port, c), contents)),
            "one by one": lambda: [post(port, c) for c in contents],
            "in process": lambda: [pipe(parts, **options)[-1] for parts, options in asked],
        }
        wanted = sides["in process"]()
        sides["together"]()  # not counted
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(times):
            for name, run in sides.items():
                seconds, done = timed(run)
                spent[name].append(seconds)
                if wrong := differ(done, wanted):
                    raise SystemExit(f"{wrong} of {count} answers differ from those in process")
        single = overhead(pipe, port, 20 if chosen.quick else 200)
    rates = {name: count / statistics.median(values) for name, values in spent.items()}
    what = f"{count} mixed requests of {CLIENTS} clients at once"
    others = {"one by one": "through the server one by one", "in process": "pipe(...) one by one"}
    figures = [
        Figure(what, rates["together"], "requests/s", rates[name], told, better="more")
        for name, told in others.items()
    ]
    figures.append(
        Figure(
            "one request of one step over HTTP",
            1e3 * single["http"],
            "ms",
            1e3 * single["pipe"],
            "pipe(...) in process",
        )
    )
    extra = 1e3 * (single["http"] - single["pipe"])
    figures.append(Figure("what HTTP and the engine add to a request", extra, "ms"))
    finish(chosen.json, "serving", figures, {"seconds": spent, "single": single})


if __name__ == "__main__":
    main()
