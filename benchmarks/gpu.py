"""What is to be known of a GPU: training, attention, sampling and kernels, beside floors.

    python benchmarks/gpu.py [--small] [--only PART ...] [--json FILE]

The limits of the device are measured first and the floor of every part is printed before the part
runs. A training step is that of 0.4 billion parameters on packed documents of text and pictures, in
bfloat16 with a fused AdamW, with the blocks compiled and without. Medians; the device is waited for
before and after each run. --small runs everything in seconds, on a CPU too, where figures say
nothing but that the script works.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from figures import Figure, finish, parser
from train_step import Size, make_braid, optimizer_of, parameters


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        model: the model, and the length of a document.
        rows: rows of a training step.
        documents: documents packed in a row.
        drawn: rows of symbols drawn at a time, and tokens of a cross-entropy.
        symbols: the vocabulary they are from.
        codebook: symbols of the metric path.
        pictures: drawn at a time, in `steps` evaluations.
        matrix: side of the product that is taken for the peak.
        memory: MiB that are read for the bandwidth.
        repeats: runs of each part that count.
    """

    model: Size
    rows: int = 16
    documents: int = 6
    drawn: int = 4096
    symbols: int = 131072
    codebook: int = 16384
    pictures: int = 64
    steps: int = 16
    matrix: int = 8192
    memory: int = 4096
    repeats: int = 10


LARGE = Scale(Size("0.4B", 1024, 32, 16, 2736, 0, 0, 0, 1, 64, 16))
SMALL = Scale(Size("small", 64, 2, 2, 176, 0, 0, 0, 1, 8, 4), 2, 2, 8, 1000, 300, 2, 2, 128, 4, 2)


@dataclass(frozen=True)
class Device:
    """Where everything runs, and what it can do at best.

    Attributes:
        type: "cuda" or "cpu".
        dtype: of matrix products.
        flops: operations a second of a large product, measured.
        bandwidth: bytes a second of reading its memory, measured.
        peak: operations a second of the data sheet; the measured ones where it is not known.
    """

    type: str
    dtype: torch.dtype
    flops: float
    bandwidth: float
    peak: float

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Return the median time of a run, after two that do not count."""
        spent = []
        for again in range(-2, repeats):
            wait(self.type)
            since = time.perf_counter()
            run()
            wait(self.type)
            if again >= 0:
                spent.append(time.perf_counter() - since)
        return statistics.median(spent)


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def measured(scale: Scale) -> Device:
    """Return the device at hand with its limits."""
    from braid.transformer.cost import peak_flops

    cuda = torch.cuda.is_available()
    kind, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    probe = Device(kind, dtype, 1, 1, 1)
    a = torch.randn(scale.matrix, scale.matrix, device=kind, dtype=dtype)
    flops = 2 * scale.matrix**3 / probe.seconds(lambda: a @ a, scale.repeats)
    x = torch.zeros(scale.memory << 18, device=kind)
    bandwidth = 4 * x.numel() / probe.seconds(x.amax, scale.repeats)
    peak = peak_flops(torch.device(kind)) or flops
    return Device(kind, dtype, flops, bandwidth, peak)


Found = Iterator[Figure]


def told(what: str, floor: float) -> float:
    """Print a floor before its part runs, and return it."""
    print(f"  floor of {what}: {1e3 * floor:.3g} ms", flush=True)
    return floor


def training(scale: Scale, device: Device) -> Found:
    """Measure a step on packed documents, in bfloat16, compiled and not."""
    from braid.layout import Span, pack
    from braid.transformer.cost import flops_per_token

    size = scale.model
    model = make_braid(size, mixed=True).to(device.type).train()
    optimizer = optimizer_of(model)

    def document() -> list[Span]:
        picture = torch.randn(size.side**2, 16)
        words = Span("text", torch.randint(256, (size.text,)))
        return [words, Span("image", picture, shape=(size.side, size.side))]

    rows = [[document() for _ in range(scale.documents)] for _ in range(scale.rows)]
    batch = pack(rows, model.placements, twins=True).to(device.type)
    tokens, length = batch.size, batch.layout.document.shape[1]
    work = tokens * flops_per_token(model.transformer.config, length)
    floor = told(f"a training step of {tokens} tokens", work / device.flops)

    def step() -> None:
        cuda = device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            loss = model.loss(batch, 0).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for compiled in (False, True) if device.type == "cuda" else (False,):
        if compiled:
            for block in model.transformer.blocks:
                block.compile()
        seconds = device.seconds(step, scale.repeats)
        how = "compiled blocks" if compiled else "not compiled"
        name = f"{parameters(model) / 1e6:.0f}M parameters, {how}"
        yield Figure(f"training step, {name}", 1e3 * seconds, "ms", limit=1e3 * floor)
        yield Figure(
            f"model FLOP utilisation, {name} (aim 0.45)",
            work / seconds / device.peak,
            "of the peak",
            limit=device.flops / device.peak,
            better="more",
        )


def attention(scale: Scale, device: Device) -> Found:
    """Measure masks of packed documents: a dense one, and FlexAttention's blocks on a GPU."""
    from braid import rules
    from braid.layout import Span, pack
    from braid.transformer.attend import attend

    size = scale.model
    model = make_braid(replace(size, depth=1), mixed=True)
    words = Span("text", torch.zeros(size.text, dtype=torch.int64))
    picture = Span("image", torch.zeros(size.side**2, 16), shape=(size.side, size.side))
    rows = [[[words, picture]] * scale.documents] * scale.rows
    layout = pack(rows, model.placements, twins=True).to(device.type).layout
    fields = rules.Fields.of(layout)
    dense = rules.dense(model.rule, fields, fields)
    B, L = layout.document.shape
    width = size.width // size.heads
    q, k, v = torch.randn(3, B, size.heads, L, width, device=device.type, dtype=device.dtype)
    work = 4 * size.heads * width * float(dense.sum())
    floor = told("attention between tokens that see each other", work / device.flops)
    masks: dict[str, Any] = {"a dense mask": dense}
    if device.type == "cuda":
        masks["FlexAttention"] = rules.block_mask(model.rule, layout)
    seconds = {n: device.seconds(lambda m=m: attend(q, k, v, m), 10) for n, m in masks.items()}
    plain = 1e3 * seconds["a dense mask"]
    for name, taken in seconds.items():
        peer = None if name == "a dense mask" else plain
        what = f"attention in {B} rows of {L}, {name}"
        yield Figure(what, 1e3 * taken, "ms", peer, "a dense mask", 1e3 * floor)


def symbols(scale: Scale, device: Device) -> Found:
    """Measure draws from a large vocabulary, and a solver's step on both paths."""
    from braid.processes import MetricPath, MixturePath
    from braid.randomness import Keys
    from braid.samplers import Drawing

    n, V, C = scale.drawn, scale.symbols, scale.codebook
    where = torch.device(device.type)
    logits = torch.randn(1, n, V, device=where)
    floor = told(f"drawing {n} of {V} symbols", logits.nbytes / device.bandwidth)
    seconds = device.seconds(lambda: Drawing().draw(logits, Keys.of(0, 1, where)), scale.repeats)
    del logits
    what = f"drawing {n} of {V} symbols"
    yield Figure(what, 1e3 * seconds, "ms", limit=1e3 * floor)
    noisy, clean = torch.randint(C, (2, 1, n), device=where)
    paths = {"mixture": MixturePath("uniform"), "metric": MetricPath(torch.randn(C, 8))}
    for name, path in paths.items():
        # the metric path has to read its table, and compute with every symbol for each token
        work = 24 * n * C / device.flops if name == "metric" else 24 * n / device.bandwidth
        floor = told(f"a jump along the {name} path", work)
        seconds = device.seconds(
            lambda p=path: p.jump(noisy, clean, 0.5, 0.55, Keys.of(1, 1, where), C), scale.repeats
        )
        what = f"jump of {n} tokens along the {name} path, {C} symbols"
        yield Figure(what, 1e3 * seconds, "ms", limit=1e3 * floor)


def entropy(scale: Scale, device: Device) -> Found:
    """Measure the cross-entropy in chunks beside the plain one, time and memory."""
    from torch.nn import functional as F

    from braid.cross_entropy import linear_cross_entropy

    n, V, D = scale.drawn, scale.symbols, scale.model.width
    hidden = torch.randn(n, D, device=device.type, dtype=device.dtype).requires_grad_()
    weight = torch.randn(V, D, device=device.type, dtype=device.dtype).mul_(0.05).requires_grad_()
    wanted = torch.randint(V, (n,), device=device.type)
    factor = torch.full((n,), 1 / n, device=device.type)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: F.cross_entropy(F.linear(hidden, weight), wanted),
        "chunked": lambda: linear_cross_entropy(hidden, weight, wanted, factor),
    }
    floor = told(f"a cross-entropy of {n} tokens, {V} symbols", 6 * n * V * D / device.flops)
    seconds, used = {}, {}
    for name, loss in sides.items():

        def run(loss: Callable[[], torch.Tensor] = loss) -> None:
            hidden.grad = weight.grad = None
            loss().backward()

        seconds[name] = 1e3 * device.seconds(run, scale.repeats)
        used[name] = peak_memory(device, run)
    what = f"cross-entropy of {n} tokens, {V} symbols"
    yield Figure(what, seconds["chunked"], "ms", seconds["plain"], "the plain form", 1e3 * floor)
    if device.type == "cuda":
        least = (hidden.nbytes + weight.nbytes) / 2**20
        yield Figure(
            f"memory of it, {what}",
            used["chunked"],
            "MiB",
            used["plain"],
            "the plain form",
            least,
            aim=4,
        )


def peak_memory(device: Device, run: Callable[[], object]) -> float:
    """Return the MiB by which a run exceeds what was held before; 0 where it is not counted."""
    if device.type != "cuda":
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def sampling(scale: Scale, device: Device) -> Found:
    """Measure drawing pictures and decoding text, each for many rows at once."""
    from braid.generation import Known, Opening, generate
    from braid.randomness import Keys
    from braid.samplers import Euler, NextToken
    from braid.transformer.cost import flops_per_token

    size, n = scale.model, scale.pictures
    model = make_braid(size, mixed=True).to(device.type, device.dtype).eval()
    known = Known("text", list(torch.randint(256, (n, size.text))))
    keys = Keys.of(0, n, torch.device(device.type)).key
    ways = {
        "image": ((size.side, size.side), Euler(steps=scale.steps), scale.steps * size.side**2),
        "text": ((size.text,), NextToken(temperature=1.0), size.text),
    }
    one = flops_per_token(model.transformer.config, size.tokens) / 3
    weights = sum(p.nbytes for p in model.parameters())
    for kind, (shape, sampler, tokens) in ways.items():
        calls = tokens // (size.side**2 if kind == "image" else 1)
        least = max(n * tokens * one / device.flops, calls * weights / device.bandwidth)
        floor = told(f"{n} openings of {kind}, {calls} evaluations", least)
        parts = [known, Opening(kind, shape)]
        seconds = device.seconds(
            lambda p=parts, s=sampler: generate(model, p, keys, {1: s}), max(2, scale.repeats // 3)
        )
        what = f"{n} openings of {kind}, {calls} evaluations"
        yield Figure(what, 1e3 * seconds, "ms", limit=1e3 * floor)


PARTS: dict[str, Callable[[Scale, Device], Found]] = {
    "training": training,
    "attention": attention,
    "symbols": symbols,
    "entropy": entropy,
    "sampling": sampling,
}


def main() -> None:
    """Measure, print and write."""
    asked = parser(__doc__, "as --small")
    asked.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    asked.add_argument("--only", nargs="+", choices=list(PARTS), help="parts; all if not given")
    options = asked.parse_args()
    small = options.small or options.quick
    if not small and not torch.cuda.is_available():
        asked.error("no GPU is at hand; --small tries the script without one")
    scale = SMALL if small else LARGE
    device = measured(scale)
    print(
        f"{device.type}: {device.flops / 1e12:.3g} TFLOP/s in {device.dtype}, "
        f"{device.bandwidth / 1e9:.0f} GB/s; utilisation is of {device.peak / 1e12:.3g} TFLOP/s"
    )
    figures: list[Figure] = []
    for name in options.only or PARTS:
        print(name, flush=True)
        figures += PARTS[name](scale, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    limits = {"flops_per_second": device.flops, "bytes_per_second": device.bandwidth}
    results = {"device": device.type, "dtype": str(device.dtype), "peak": device.peak}
    threads = torch.get_num_threads()
    finish(options.json, "gpu", figures, results, threads=threads, limits=limits)


if __name__ == "__main__":
    main()
