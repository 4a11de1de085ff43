"""A training step beside a plain Llama of the same shape and beside transfusion-pytorch.

    python benchmarks/train_step.py [--quick] [--large] [--plain] [--bf16] [--threads N]
        [--json FILE]

Four sides, in interleaved runs: a braid of one text strand; a braid that writes text token by token
and pictures by diffusion, in the same sequence; `transformers`' Llama with the same width, depth,
heads, feed-forward layer, symbols and tokens; and transfusion-pytorch with as many parameters, in
an environment of its own. A step is the loss, the gradient and a fused AdamW, all in float32; the
mixed braid and transfusion-pytorch start from lists of documents, which are laid out in the step.
Both braids are also measured with their blocks compiled (`train.compile=true`; half a minute and a
C++ compiler), unless --plain or --quick is given. Where the processor multiplies bfloat16, or with
--bf16, there is the mixed braid under autocast too, beside transfusion-pytorch in float32 and under
autocast.

The floor is the time that the step's operations need at the speed of one large matrix product,
measured in the same run. Seconds of CPU are given too: they matter where a machine is shared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from figures import Figure, finish, matrix_peak, multiplies_bf16, parser
from peers import Remote, peer

PEER = "transfusion-pytorch==0.20.0"


@dataclass(frozen=True)
class Size:
    """A model and its batch; `peer_width` and `peer_depth` give a peer of as many parameters."""

    name: str
    width: int
    depth: int
    heads: int
    hidden: int
    peer_width: int
    peer_depth: int
    peer_heads: int
    rows: int
    text: int
    side: int

    @property
    def tokens(self) -> int:
        """Tokens of a row."""
        return self.text + self.side**2


SIZES = [
    Size("2.8M", 192, 6, 6, 528, 128, 4, 4, 16, 32, 8),
    Size("15.8M", 384, 9, 6, 992, 256, 6, 8, 8, 32, 16),
    Size("82M", 768, 11, 12, 2176, 512, 8, 8, 8, 64, 16),
]

Step = Callable[[], float]


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of every side."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def stepper(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    """Return a function that does a step and returns the loss."""
    optimizer = optimizer_of(model)

    def step() -> float:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(value.detach())

    return step


def parameters(model: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def make_braid(size: Size, mixed: bool) -> Any:
    """Return a braid with random weights, with or without pictures."""
    from braid import config, settings

    text = {
        "kind": "text",
        "vocabulary": 256,
        "length": size.text if mixed else size.tokens,
        "frames": ["image"] if mixed else [],
    }
    strands: dict[str, Any] = {"text": {"modality": text, "process": "autoregressive"}}
    if mixed:
        image = {"kind": "image", "size": 4 * size.side, "patch": 4, "continuous": True}
        flow = {"kind": "gaussian_flow", "schedule": "cosine", "prediction": "noise"}
        strands["image"] = {"modality": image, "process": flow}
    made = settings.load(
        {
            "name": "train_step",
            "strands": strands,
            "rule": "spans",
            "transformer": {
                "width": size.width,
                "depth": size.depth,
                "heads": size.heads,
                "hidden": size.hidden,
                "qk_norm": "rms" if mixed else "none",  # as the peer at hand has it
            },
            "data": {"source": "files", "tasks": {"joint" if mixed else "text": 1.0}},
        }
    )
    states = {}
    for name, strand in made.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(["a benchmark without data"])
        states[name] = modality.state()
    torch.manual_seed(0)
    return config.build(made, states)


def braid_side(
    size: Size, mixed: bool, bf16: bool = False, compiled: bool = False
) -> tuple[Step, Any]:
    """Return the step of a braid, with or without pictures, and the braid."""
    from braid.compiling import compile_blocks
    from braid.layout import Span, pack

    model = make_braid(size, mixed).train()
    if compiled:
        compile_blocks(model)
    documents = []
    for _ in range(size.rows):
        spans = [Span("text", torch.randint(256, (size.text if mixed else size.tokens,)))]
        if mixed:
            spans.append(Span("image", torch.randn(size.side**2, 16), shape=(size.side, size.side)))
        documents.append(spans)

    def batch():  # noqa: ANN202
        return pack([[d] for d in documents], model.placements, twins=True)

    prepared, seeds = batch(), iter(range(1 << 30))

    def loss() -> torch.Tensor:
        context = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
        with context:
            return model.loss(batch() if mixed else prepared, next(seeds)).total

    return stepper(model, loss), model


def llama_side(size: Size) -> tuple[Step, Any]:
    """Return the step of transformers' Llama, and the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257,
            hidden_size=size.width,
            intermediate_size=size.hidden,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=size.tokens,
            tie_word_embeddings=False,
            use_cache=False,
        )
    ).train()
    symbols = torch.randint(256, (size.rows, size.tokens))
    return stepper(model, lambda: model(input_ids=symbols, labels=symbols).loss), model


def make_transfusion(size: Size) -> Any:
    """Return transfusion-pytorch's model; runs in the peer's environment."""
    from transfusion_pytorch import Transfusion  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return Transfusion(
        num_text_tokens=256,
        dim_latent=16,
        modality_default_shape=(size.side, size.side),
        add_pos_emb=True,
        transformer={
            "dim": size.peer_width,
            "depth": size.peer_depth,
            "dim_head": size.peer_width // size.peer_heads,
            "heads": size.peer_heads,
        },
    )


def transfusion_side(size: Size) -> tuple[dict[str, Step], Any]:
    """Return steps of transfusion-pytorch by their name, and the model, in its environment."""
    model, shape = make_transfusion(size).train(), (size.side, size.side)
    documents = [
        [torch.randint(256, (size.text,)), torch.randn(*shape, 16)] for _ in range(size.rows)
    ]

    def half() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(documents)

    return {"step": stepper(model, lambda: model(documents)), "bf16": stepper(model, half)}, model


def timed(step: Step) -> tuple[float, float]:
    """Do a step; return its seconds and its seconds of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def serve(size: Size) -> None:
    """Answer each line of standard input, the name of a step, with its times."""
    steps, model = transfusion_side(size)
    print(f"@{parameters(model)}", flush=True)
    for line in sys.stdin:
        wall, cpu = timed(steps[line.strip()])
        print(f"@{wall} {cpu}", flush=True)


def measure(size: Size, repeats: int, compiled: bool, bf16: bool, threads: int) -> dict[str, Any]:
    """Return the figures of all sides at a size."""
    from braid.transformer.cost import flops_per_token

    steps, models = {}, {}
    steps["text"], models["text"] = braid_side(size, mixed=False)
    steps["mixed"], models["mixed"] = braid_side(size, mixed=True)
    steps["llama"], models["llama"] = llama_side(size)
    if compiled:
        for name in ("text", "mixed"):
            step, model = braid_side(size, name == "mixed", compiled=True)
            steps[f"{name} compiled"], models[f"{name} compiled"] = step, model
    for blocks in (False, True) if bf16 else ():
        if blocks <= compiled:
            name = "mixed bf16" + " compiled" * blocks
            steps[name], models[name] = braid_side(size, True, bf16=True, compiled=blocks)
    python = peer("transfusion-pytorch", [PEER])
    remote = Remote(python, __file__, ["--serve", size.name, "--threads", str(threads)])
    runs: dict[str, Callable[[], tuple[float, ...]]]
    runs = {n: (lambda s=s: timed(s)) for n, s in steps.items()}
    runs["transfusion"] = lambda: remote.ask("step")
    if bf16:
        runs["transfusion bf16"] = lambda: remote.ask("bf16")
    times: dict[str, list[tuple[float, ...]]] = {n: [] for n in runs}
    for again in range(-2, repeats):  # the first two of each side are not counted
        for name, run in runs.items():
            found = run()
            if again >= 0:
                times[name].append(found)
    remote.close()
    peak = matrix_peak(time.perf_counter), matrix_peak()
    work = size.rows * size.tokens
    config = models["text"].transformer.config
    floor = work * flops_per_token(config, size.tokens, 257 * size.width)
    half = {"floor_bf16_cpu_seconds": floor / matrix_peak(bf16=True)} if bf16 else {}
    sizes = {n: parameters(m) for n, m in models.items()}
    sizes |= dict.fromkeys(("transfusion", "transfusion bf16"), int(remote.greeting[0]))
    sides = {}
    for name, pairs in times.items():
        wall, cpu = (statistics.median(x) for x in zip(*pairs, strict=True))
        sides[name] = {
            "parameters": sizes[name],
            "seconds": wall,
            "cpu_seconds": cpu,
            "tokens_per_second": work / wall,
        }

    def ratio(a: str, b: str, what: str) -> float:
        """Return the median of the ratios of neighbouring runs: time of a over time of b."""
        column = 0 if what == "seconds" else 1
        pairs = zip(times[a], times[b], strict=True)
        return statistics.median(x[column] / y[column] for x, y in pairs)

    asked = {
        "text / llama": ("text", "llama"),
        "mixed / llama": ("mixed", "llama"),
        "transfusion / mixed": ("transfusion", "mixed"),
    }
    if compiled:
        asked["text compiled / llama"] = ("text compiled", "llama")
        asked["mixed compiled / llama"] = ("mixed compiled", "llama")
        asked["transfusion / mixed compiled"] = ("transfusion", "mixed compiled")
    for name in steps:
        if "bf16" in name:
            asked[f"transfusion / {name}"] = ("transfusion", name)
            asked[f"transfusion bf16 / {name}"] = ("transfusion bf16", name)
    return {
        "size": asdict(size),
        "tokens": work,
        "floor_seconds": floor / peak[0],
        "floor_cpu_seconds": floor / peak[1],
        **half,
        "matrix_peak": peak[0],
        "sides": sides,
        "ratios": {n: ratio(*pair, "seconds") for n, pair in asked.items()},
        "cpu_ratios": {n: ratio(*pair, "cpu") for n, pair in asked.items()},
    }


def report(found: dict[str, Any]) -> None:
    """Print the figures of a size."""
    size = found["size"]
    pictures = size["side"] ** 2
    print(
        f"{size['name']}: {size['rows']} x ({size['text']} text + {pictures} patches); floor "
        f"{1e3 * found['floor_seconds']:.0f} ms at {found['matrix_peak'] / 1e9:.0f} GFLOP/s"
    )
    for name, side in found["sides"].items():
        print(
            f"  {name:12} {side['parameters'] / 1e6:7.2f}M  {1e3 * side['seconds']:8.1f} ms  "
            f"{side['tokens_per_second']:8.0f} tokens/s  CPU {1e3 * side['cpu_seconds']:8.1f} ms"
        )
    for name, value in found["ratios"].items():
        print(f"  {name:24} {value:6.3f} of time, {found['cpu_ratios'][name]:6.3f} of CPU time")
    sys.stdout.flush()


def main() -> None:
    """Measure, print and write."""
    asked = parser(__doc__, "the smallest size, few steps")
    asked.add_argument("--large", action="store_true", help="82M parameters too")
    asked.add_argument("--plain", action="store_true", help="no compiled blocks")
    asked.add_argument("--bf16", action="store_true", help="bfloat16 in any case")
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--serve", help=argparse.SUPPRESS)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(next(s for s in SIZES if s.name == options.serve))
        return
    compiled = not (options.plain or options.quick)
    bf16 = options.bf16 or not options.quick and multiplies_bf16()
    chosen = SIZES[:1] if options.quick else SIZES if options.large else SIZES[:2]
    results = []
    for size in chosen:
        repeats = 3 if options.quick or size is SIZES[2] else 11 if size is SIZES[0] else 5
        results.append(measure(size, repeats, compiled, bf16, options.threads))
        report(results[-1])
    figures = [figure for found in results for figure in figures_of(found)]
    finish(options.json, "train_step", figures, results, threads=options.threads, peer=PEER)


def figures_of(found: dict[str, Any]) -> list[Figure]:
    """Return what is told of a size; the peer's time is ours times the median of the ratios."""
    size = found["size"]["name"]
    figures = []
    plain, half, llama = "transfusion-pytorch", "transfusion-pytorch, bf16", "a plain Llama"
    for ours, peer_side, beside, aim in (
        ("mixed", "transfusion / mixed", plain, 2.0),
        ("mixed compiled", "transfusion / mixed compiled", plain, 2.0),
        ("mixed bf16", "transfusion / mixed bf16", plain, 3.0),
        ("mixed bf16", "transfusion bf16 / mixed bf16", half, None),
        ("mixed bf16 compiled", "transfusion / mixed bf16 compiled", plain, 3.0),
        ("mixed bf16 compiled", "transfusion bf16 / mixed bf16 compiled", half, None),
        ("text", "text / llama", llama, 1 / 1.1),
        ("text compiled", "text compiled / llama", llama, 1 / 1.1),
        ("mixed", "mixed / llama", llama, 1 / 1.1),
        ("mixed compiled", "mixed compiled / llama", llama, 1 / 1.1),
    ):
        if ours not in found["sides"]:
            continue
        seconds, ratio = found["sides"][ours]["cpu_seconds"], found["cpu_ratios"][peer_side]
        peer_seconds = seconds / ratio if peer_side.startswith(ours) else seconds * ratio
        what = f"step of {size}, {ours}"
        floor = found["floor_bf16_cpu_seconds" if "bf16" in ours else "floor_cpu_seconds"]
        figures.append(Figure(what, seconds, "s", peer_seconds, beside, floor, aim=aim))
    return figures


if __name__ == "__main__":
    main()
