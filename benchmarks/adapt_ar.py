"""How many steps adaptation saves: a next-token model of text becomes a discrete flow.

    python benchmarks/adapt_ar.py TEXT --out docs/adaptation.json --picture docs/images/adapt-ar.png
    python benchmarks/adapt_ar.py page      # writes docs/adaptation.json into docs/adaptation.md

Trains a small model of characters to predict the next one; then the same model as a discrete flow
twice with the same data, learning rate and random numbers: once from random weights, once with
`braid train adapt-ar`. The loss is the flow's own (cross-entropy of clean symbols at random times),
measured on held-out passages with the same times and noise throughout.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import braid
from braid import checkpoints, recipes, storage
from braid.config import DataConfig, Experiment, StrandConfig, TrainConfig
from braid.data import Data
from braid.data.sources import Examples
from braid.layout import pack
from braid.pipeline import Pipeline
from braid.training import Trainer
from braid.transformer import TransformerConfig

ROOT = Path(__file__).parent.parent
PAGE, FOUND = ROOT / "docs" / "adaptation.md", ROOT / "docs" / "adaptation.json"
LENGTH = 63
"""Characters of a passage; with the symbol that ends it they fill a canvas."""


def passages(path: Path, held_out: int) -> Data:
    """Return a text in passages; the last ones are held out."""
    text = path.read_text(encoding="ascii", errors="ignore")
    cut = [text[i : i + LENGTH] for i in range(0, len(text) - LENGTH, LENGTH)]
    cut = [passage for passage in cut if passage.strip()]
    columns = ({"text": part} for part in (cut[:-held_out], cut[-held_out:]))
    train, rest = (Examples(path.stem, c) for c in columns)
    return Data(train, rest)


def next_token(steps: int, options: argparse.Namespace) -> Experiment:
    """Describe a small model of characters, each predicted from those before it."""
    modality = {"kind": "text", "vocabulary": 256, "length": LENGTH + 1}
    train = settings(steps, options) | {"warmup": 100}
    return Experiment(
        name="characters",
        seed=options.seed,
        strands={"text": StrandConfig(modality=modality, process={"kind": "autoregressive"})},
        rule="spans",
        transformer=TransformerConfig(width=options.width, depth=options.depth, heads=4),
        data=DataConfig(source="toy", tasks={"text": 1.0}, drop=0.0),
        train=TrainConfig(**train),
    )


def settings(steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return how each model is trained; the rate is constant, so that any step may be the last."""
    return {
        "steps": steps,
        "batch": options.batch,
        "learning_rate": options.rate,
        "final_rate": 1.0,
        "warmup": options.warmup,
        "ema": 0.0,
        "save_every": options.every,
        "keep_every": options.every,
        "preview_every": 0,
        "log_every": options.every,
    }


def run(made: Experiment, out: Path, data: Data) -> float:
    """Train; return the seconds that it took."""
    trainer = Trainer(made, out, Console(), "cpu", data)
    trainer.run()
    if trainer.stopped:
        raise SystemExit(trainer.code)
    return trainer.state.seconds


@torch.no_grad()
def curve(out: Path, texts: list[str]) -> list[tuple[int, float]]:
    """Return (step, loss of held-out passages) of each checkpoint of a run."""
    pipe: Pipeline = braid.load(out, "cpu")
    model, rows = pipe.braid, []
    documents = [pipe.spans([text]) for text in texts]
    groups = [documents[i : i + 32] for i in range(0, len(documents), 32)]
    for step, folder in storage.steps(out / "checkpoints"):
        storage.adopt(model, checkpoints.read(folder, "model"), str(folder))
        total = count = 0.0
        for i, group in enumerate(groups):
            batch = pack([[d] for d in group], model.placements, twins=model.rule.cacheable)
            found = model.loss(batch, 1000 + i)
            n = float(found.counts["text"])
            total, count = total + n * float(found.per_strand["text"]), count + n
        rows.append((step, round(total / count, 4)))
    return rows


def reached(curves: dict[str, list[tuple[int, float]]]) -> dict[str, dict[str, int | None]]:
    """Return loss -> the first step of each run at which it is reached.

    The losses are the lowest of the run from random weights, and multiples of 1/4 above it that
    that run reached later than its first measurement.
    """
    least = min(value for _, value in curves["scratch"])
    most = curves["scratch"][0][1]
    losses = [q / 4 for q in range(40, 0, -1) if least < q / 4 < most] + [least]
    return {
        f"{loss:g}": {name: first(rows, loss) for name, rows in curves.items()} for loss in losses
    }


def first(rows: list[tuple[int, float]], loss: float) -> int | None:
    """Return the first measured step at which a loss is reached."""
    return next((step for step, value in rows if value <= loss), None)


def told(found: dict[str, Any]) -> str:
    """Return what was found, as a paragraph and a table."""
    options, process = found["options"], found["process"]
    rows = [_row(loss, steps) for loss, steps in found["steps_to"].items()]
    return "\n".join(
        [
            f"{options['pretraining']} steps of next-token prediction on {found['text']}, a token "
            f"a character, {found['parameters']:,} parameters; then {options['steps']} steps as "
            f"`{process['kind']}`, path `{process.get('path', 'uniform')}`, rule "
            f"`{found['rule']}`. Batches of {options['batch']} x {LENGTH + 1} tokens, constant "
            f"learning rate {options['rate']:g}, seed {options['seed']}; "
            f"{found['held_out_passages']} held-out passages, measured every {options['every']} "
            f"steps; {found['machine']}.",
            "",
            "| held-out loss, nats a token | steps from random weights | from next-token weights "
            "| share |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _row(loss: str, steps: dict[str, int | None]) -> str:
    """Return a line of the table; a dash where a loss is not reached."""
    before, after = steps["scratch"], steps["adapted"]
    share = "-" if before is None or after is None else f"{after / before:.2f}"
    return f"| {loss} | {before or '-'} | {after or '-'} | {share} |"


def filled(page: str, found: dict[str, Any]) -> str:
    """Return the page with what was found between its marks."""
    head, mark, rest = page.partition("<!-- adapt-ar:begin -->\n")
    _, end, tail = rest.partition("<!-- adapt-ar:end -->")
    return f"{head}{mark}{told(found)}\n{end}{tail}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw both curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, label in (("scratch", "from random weights"), ("adapted", "from next-token weights")):
        steps, losses = zip(*found["curves"][name], strict=True)
        axes.plot(steps, losses, label=label)
    axes.set(xlabel="steps as a discrete flow", ylabel="held-out loss, nats a token")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train three models, and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="plain text; or page")
    parser.add_argument("--out", type=Path, default=Path("adapt-ar.json"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument(
        "--process", default="{kind: discrete_flow, path: mask}", help="as in strands.text.process="
    )
    parser.add_argument("--pretraining", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=20, help="of the flows")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if str(options.text) == "page":
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(filled(page, storage.read_json(FOUND)), encoding="utf-8")
        return
    torch.set_num_threads(1)
    began, data = time.monotonic(), passages(options.text, 256)
    texts = [data.held_out[i]["text"] for i in range(len(data.held_out))]
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        source = runs / "next-token"
        seconds = {"next-token": run(next_token(options.pretraining, options), source, data)}
        same = [f"train.{k}={v}" for k, v in settings(options.steps, options).items()]
        adapted = recipes.resolve(
            "adapt-ar",
            [f"model={source}", f"strands.text.process={options.process}", *same],
        )
        train = adapted.train.model_copy(update={"start": None})
        scratch = adapted.model_copy(update={"train": train, "name": "scratch"})
        model = braid.load(source, "cpu").braid
        parameters = sum(p.numel() for p in model.parameters())
        curves = {}
        for name, made in (("scratch", scratch), ("adapted", adapted)):
            seconds[name] = run(made, runs / name, data)
            curves[name] = curve(runs / name, texts)
    found = {
        "text": options.text.name,
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
        "seconds": {k: round(v) for k, v in seconds.items()},
        "options": {
            k: v for k, v in vars(options).items() if k not in ("text", "out", "picture", "runs")
        },
        "parameters": parameters,
        "process": adapted.strands["text"].process,
        "rule": adapted.rule,
        "held_out_passages": len(texts),
        "steps_to": reached(curves),
        "curves": curves,
    }
    storage.write_json(options.out, found)
    if options.picture is not None:
        draw(found, options.picture)
    print(json.dumps({k: found[k] for k in ("seconds", "steps_to")}))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
