"""Next-token decoding with a cache, beside transformers' generate on a model of the same shape.

    python benchmarks/decoding.py [--quick] [--json FILE]

Greedy, random weights, interleaved runs in one process, medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from figures import Figure, bandwidth, finish, matrix_peak, parser

from braid import config
from braid.generation import Known, Opening, generate
from braid.randomness import Keys
from braid.recipes import resolve
from braid.samplers import NextToken

PROMPT, VOCABULARY = 16, 8192


def sides(width: int, depth: int, rows: int, new: int) -> dict[str, Callable[[], int]]:
    """Return what decodes `new` tokens for each row, on both sides."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads, hidden = width // 32, -(-width * 8 // 3 // 16) * 16
    made = resolve(
        "toy",
        [
            "paradigm=chameleon",
            f"transformer.width={width}",
            f"transformer.depth={depth}",
            f"transformer.heads={heads}",
            "transformer.qk_norm=none",
            f"strands.text.modality.vocabulary={VOCABULARY}",
            f"strands.text.modality.length={PROMPT + new}",
        ],
    )
    modality = config.make_modality("text", made.strands["text"])
    modality.fit([f"word{i} {i * 7919}" for i in range(3 * VOCABULARY)])
    image = config.make_modality("image", made.strands["image"])
    states = {"text": modality.state(), "image": image.state()}
    torch.manual_seed(0)
    braid = config.build(made, states).eval()
    symbols = braid.strand("text").modality.space.size  # type: ignore[union-attr]
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=symbols,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=PROMPT + new,
            tie_word_embeddings=False,
        )
    ).eval()
    prompt = torch.randint(0, 1000, (rows, PROMPT), generator=torch.Generator().manual_seed(0))

    def ours() -> int:
        known = Known("text", list(prompt), None)
        done = generate(
            braid,
            [known, Opening("text", (new,))],
            Keys.of(0, rows).key,
            {1: NextToken(temperature=0.0)},
        )
        return int(done.used[1].sum())

    def theirs() -> int:
        with torch.no_grad():
            out = llama.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
        return int(out[:, PROMPT:].numel())

    return {"braid": ours, "transformers": theirs}


def measure(runs: dict[str, Callable[[], int]], times: int) -> dict[str, float]:
    """Return tokens a second of each side, the median of interleaved runs."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(times):
        for name, run in runs.items():
            since = time.process_time()
            tokens = run()
            found[name].append(tokens / (time.process_time() - since))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print and write."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    new, times = (16, 2) if chosen.quick else (64, 5)
    results: list[dict[str, Any]] = []
    for width, depth in ((128, 4),) if chosen.quick else ((128, 4), (384, 8)):
        for rows in (1, 16):
            speed = measure(sides(width, depth, rows, new), times)
            ratio = speed["braid"] / speed["transformers"]
            limit = rows / least_seconds(width, depth, rows)
            results.append(
                {"width": width, "depth": depth, "rows": rows, **speed, "ratio": ratio}
                | {"limit": limit}
            )
    figures = [
        Figure(
            f"{r['rows']} rows, width {r['width']}, depth {r['depth']}",
            r["braid"],
            "tokens/s",
            r["transformers"],
            "transformers.generate",
            r["limit"],
            "more",
            1 / 1.1 if r["rows"] == 1 else 1.0,
        )
        for r in results
    ]
    finish(chosen.json, "decoding", figures, results, transformers=version("transformers"))


def least_seconds(width: int, depth: int, rows: int) -> float:
    """Return what a token of all rows takes: its weights are read once, or its products done."""
    hidden = -(-width * 8 // 3 // 16) * 16
    weights = depth * (4 * width**2 + 3 * width * hidden) + VOCABULARY * width
    return max(4 * weights / bandwidth(), 2 * weights * rows / matrix_peak())


if __name__ == "__main__":
    main()
