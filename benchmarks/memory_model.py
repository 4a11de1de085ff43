"""Compare the memory and time model of `braid doctor --plan` with small models on this CPU.

    python benchmarks/memory_model.py

Each size is trained for a few steps in a process of its own. Printed are the predicted bytes of
weights, gradients, optimiser and average over those of the tensors that were held; the predicted
activations over those that autograd kept, and the predicted peak of a step over the growth of the
process's resident memory; the predicted operations over those that torch counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CASES = {
    "small": ("autoregressive", {"width": 256, "depth": 4, "heads": 4}, 2048, False),
    "grouped": (
        "autoregressive",
        {"width": 384, "depth": 6, "heads": 6, "key_heads": 2, "hidden": 1024},
        4096,
        False,
    ),
    "large": ("masked", {"width": 512, "depth": 8, "heads": 8}, 8192, False),
    "again": ("masked", {"width": 512, "depth": 8, "heads": 8}, 2048, True),
}
"""Name -> process, sizes of the transformer, symbols, whether activations are computed again."""
ROW, BATCH = 256, 8


def experiment(name: str):  # noqa: ANN201
    """Return the experiment of a case."""
    from braid import settings

    process, sizes, symbols, again = CASES[name]
    text = {"kind": "text", "vocabulary": symbols, "length": ROW, "frames": []}
    return settings.load(
        {
            "name": name,
            "strands": {"text": {"modality": text, "process": process}},
            "rule": "spans" if process == "autoregressive" else "full",
            "transformer": sizes,
            "data": {"source": "files", "tasks": {"text": 1.0}},
            "train": {"batch": BATCH},
            "parallel": {"recompute": again},
        }
    )


def measure(name: str) -> dict[str, float]:
    """Train a case for three steps; return measured over predicted."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from braid.data.dummy import dummy_batch
    from braid.doctor.estimating import Layout, Machine, estimate, state_bytes
    from braid.doctor.sizes import Sizes, skeleton
    from braid.parallel import recompute
    from braid.training.ema import EMA
    from braid.training.optimizer import make_optimizer

    tried = experiment(name)
    braid, again = skeleton(tried, device="cpu"), tried.parallel.recompute
    if again:
        recompute(braid)
    batch = dummy_batch(braid, tried, BATCH)
    optimizer, ema = make_optimizer(braid, tried.train), EMA(braid, 0.99)

    def step() -> None:
        braid.loss(batch, 0).total.backward()

    for done in range(2):
        step()
        optimizer.step()
        ema.update(braid, done + 1)
        gradients = held([p.grad for p in braid.parameters() if p.grad is not None])
        optimizer.zero_grad()
    state = [x for s in optimizer.state.values() for x in s.values() if x.ndim]
    measured = {
        "parameters": held(braid.parameters()),
        "gradients": gradients,
        "optimizer": held(state),
        "average": held(ema.average.values()),
    }
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in braid.parameters()}

    def keep(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = braid.loss(batch, 0).total
    measured["kept"] = sum(kept.values())
    loss.backward()
    optimizer.zero_grad()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    step()
    measured["peak"] = memory("VmHWM") - before
    # the kernel for attention on a CPU is not counted, the plain products are
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    measured["operations"] = counter.get_total_flops()

    sizes = Sizes.of(tried)
    made = estimate(sizes, Machine(gpus=1), Layout(recompute=again), fused=False)
    predicted: dict[str, float] = dict(state_bytes(sizes))
    predicted["kept"] = made.memory["activations"] + sizes.tokens * sizes.logits * 4
    predicted["peak"] = made.memory["activations"] + made.memory["logits"]
    predicted["operations"] = made.flops
    if again:  # what is kept for a block is known only while it is computed again
        del measured["kept"]
    return {n: predicted[n] / measured[n] for n in measured} | {"bytes": measured["peak"]}


def held(tensors) -> int:  # noqa: ANN001
    """Return the bytes of tensors."""
    return sum(t.nbytes for t in tensors)


def memory(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def main() -> None:
    """Run each case in a process of its own and print its ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    # freed memory goes back to the system at once, so that what is resident is what is held
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for name in CASES:
        done = subprocess.run(
            [sys.executable, __file__, name], env=env, check=True, capture_output=True, text=True
        )
        ratios = json.loads(done.stdout)
        size = ratios.pop("bytes")
        text = "  ".join(f"{n} {r:.3f}" for n, r in ratios.items())
        print(f"{name:8} predicted / measured: {text}  (a peak of {size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
