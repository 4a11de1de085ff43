"""Pictures drawn from text by a braid and by transfusion-pytorch, at equal calls and parameters.

    python benchmarks/transfusion_sampling.py [--quick] [--plain] [--bf16] [--threads N]
        [--json FILE]

Both sides read 32 words, and draw a picture in 16 network evaluations, with guidance (each
evaluation is then two passes) and without. Random weights; whole calls of each side's public
sampler, by turns, in a process each; medians of processor time. The braid is measured with its
blocks compiled too (`braid.load(..., compile=True)`), and frozen (`compile="frozen"`), unless
--plain or --quick is given; that needs a C++ compiler, and some twenty minutes. Where the processor
multiplies bfloat16, or with --bf16, there is the braid in it too (`--dtype bfloat16`), beside
transfusion-pytorch in float32 and under autocast. That one is installed into an environment of its
own, and uses its key-value cache.

Evaluations are counted on both sides, and must agree. Where they do, the floor is the same: the
operations of all passes at the speed of a large matrix product.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from figures import Figure, finish, matrix_peak, multiplies_bf16, parser
from peers import Remote, peer
from train_step import PEER, SIZES, Size, make_braid, make_transfusion, parameters, timed

CALLS = 16


def passes(model: torch.nn.Module, run: Any) -> int:
    """Return how often a run passes through a module."""
    seen: list[int] = []
    hook = model.register_forward_hook(lambda *_: seen.append(1))
    run()
    hook.remove()
    return len(seen)


def braid_side(
    size: Size, rows: int, guidance: float, bf16: bool = False, compiled: str | None = None
) -> tuple[Any, int, Any]:
    """Return what draws `rows` pictures, its network evaluations, and the braid."""
    from braid import compiling
    from braid.generation import Known, Opening, generate
    from braid.randomness import Keys
    from braid.samplers import Euler

    model = make_braid(size, mixed=True).eval()
    if bf16:
        model = model.bfloat16()
    if compiled:
        compiling.KINDS[compiled](model)
    prompt = torch.randint(256, (rows, size.text))
    hole = Opening("image", (size.side, size.side))

    def run() -> int:
        known = Known("text", list(prompt))
        samplers = {1: Euler(steps=CALLS)}
        return generate(model, [known, hole], Keys.of(0, rows).key, samplers, guidance).calls

    return run, run(), model


def transfusion_side(size: Size, rows: int, guidance: float) -> tuple[Any, int, Any]:
    """Return the same of transfusion-pytorch, in its environment; what draws is told how."""
    model = make_transfusion(size).eval()
    prompts = [[torch.randint(256, (size.text,))] for _ in range(rows)]

    def run(how: str = "run") -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
            model.sample_many(
                prompts,
                force_modality_at_start=(0, (size.side, size.side)),
                max_length=size.side**2 - 1,  # it ends with the picture
                modality_steps=CALLS // 2 + 1,  # of the midpoint method: two evaluations each
                cfg_scale=guidance,
            )

    reads = 1 + (rows if guidance != 1 else 0)  # of the prompts, and of each row without its own
    evaluations = passes(model.transformer, run) - reads
    return run, evaluations // (1 if guidance == 1 else 2), model


def serve(size: Size, rows: int, guidance: float) -> None:
    """Answer each line of standard input, "run" or "bf16", with the times of a run."""
    from loguru import logger  # type: ignore[import-not-found]

    logger.remove()
    run, calls, model = transfusion_side(size, rows, guidance)
    print(f"@{parameters(model)} {calls}", flush=True)
    for line in sys.stdin:
        print("@{} {}".format(*timed(partial(run, line.strip()))), flush=True)


def measure(
    size: Size,
    rows: int,
    guidance: float,
    repeats: int,
    compiled: bool,
    bf16: bool,
    threads: int,
) -> dict[str, Any]:
    """Return the figures of all sides."""
    from braid.transformer.cost import flops_per_token

    torch.compiler.reset()  # what was compiled for other shapes would count against this one
    run, calls, model = braid_side(size, rows, guidance)
    ours = {"braid": run}
    ways = {"": None, " compiled": "blocks", " frozen": "frozen"}
    for half in (False, True)[: 1 + bf16]:
        for said, way in list(ways.items())[not half : len(ways) if compiled else 1]:
            name = "braid" + " bf16" * half + said
            ours[name] = braid_side(size, rows, guidance, half, way)[0]
    runs: dict[str, Callable[[], tuple[float, ...]]]
    runs = {name: (lambda run=run: timed(run)) for name, run in ours.items()}
    serving = ["--serve", size.name, str(rows), str(guidance), "--threads", str(threads)]
    remote = Remote(peer("transfusion-pytorch", [PEER]), __file__, serving)
    found, theirs = (int(x) for x in remote.greeting)
    if calls != theirs:
        raise RuntimeError(f"{calls} evaluations against {theirs}: nothing to compare")
    runs["transfusion"] = lambda: remote.ask("run")
    if bf16:
        runs["transfusion bf16"] = lambda: remote.ask("bf16")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for again in range(-1, repeats):  # the first is not counted
        for name, one in runs.items():
            cpu = one()[1]
            if again >= 0:
                times[name].append(cpu)
    remote.close()
    # a forward pass is a third of a step; pictures also see the text before them
    one = flops_per_token(model.transformer.config, size.tokens) / 3
    work = rows * calls * (1 if guidance == 1 else 2) * size.side**2 * one
    return {
        "size": size.name,
        "rows": rows,
        "guidance": guidance,
        "evaluations": calls,
        "parameters": {"braid": parameters(model), "transfusion": found},
        "cpu_seconds": {n: statistics.median(x) for n, x in times.items()},
        "ratios": {
            f"{peers} / {name}": statistics.median(
                b / a for a, b in zip(times[name], times[peers], strict=True)
            )
            for name in ours
            for peers in ("transfusion", "transfusion bf16")
            if peers in times and ("bf16" in peers) <= ("bf16" in name)
        },
        "floor_seconds": work / matrix_peak(),
        **({"floor_bf16_seconds": work / matrix_peak(bf16=True)} if bf16 else {}),
    }


def figures_of(found: dict[str, Any]) -> list[Figure]:
    """Return what is told of a measurement."""
    guided = "" if found["guidance"] == 1 else ", guided"
    figures = []
    for both, ratio in found["ratios"].items():
        peers, name = both.split(" / ")
        half = "bf16" in peers
        figures.append(
            Figure(
                f"{found['rows']} pictures of {found['size']}{guided}{name.removeprefix('braid')}",
                found["cpu_seconds"][name],
                "s",
                found["cpu_seconds"][name] * ratio,
                "transfusion-pytorch" + ", bf16" * half,
                found["floor_bf16_seconds" if "bf16" in name else "floor_seconds"],
                aim=None if half else 3.0,
            )
        )
    return figures


def main() -> None:
    """Measure, print and write."""
    asked = parser(__doc__, "the smallest size, few runs")
    asked.add_argument("--plain", action="store_true", help="nothing compiled")
    asked.add_argument("--bf16", action="store_true", help="bfloat16 in any case")
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        os.environ["TQDM_DISABLE"] = "1"
        name, rows, guidance = options.serve
        serve(next(s for s in SIZES if s.name == name), int(rows), float(guidance))
        return
    compiled = not (options.plain or options.quick)
    bf16 = options.bf16 or not options.quick and multiplies_bf16()
    results = []
    for size in SIZES[:1] if options.quick else SIZES[:2]:
        for rows in (1, 8) if size is SIZES[0] else (1,):
            for guidance in (1.0, 3.0):
                repeats = 3 if options.quick else 5
                results.append(
                    measure(size, rows, guidance, repeats, compiled, bf16, options.threads)
                )
    figures = [figure for found in results for figure in figures_of(found)]
    finish(
        options.json, "transfusion_sampling", figures, results, threads=options.threads, peer=PEER
    )


if __name__ == "__main__":
    main()
