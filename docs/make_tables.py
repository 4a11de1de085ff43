"""Write the measured results of docs/results/*.json into README.md, between its markers.

python docs/make_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ROWS = {
    "caption_accuracy": "reads: held-out pictures named right",
    "drawn_accuracy": "draws: drawings judged right, guidance 2",
    "infilled_accuracy": "completes: lower half drawn, judged right",
    "refined_accuracy": "refines: damaged pictures judged right after, given the name",
    "damaged_accuracy": "the same pictures before",
    "frechet_distance": "Frechet distance on pixels, no guidance",
    "frechet_floor": "the same between two sets of real pictures",
    "text_nats": "nats of a name",
    "image_nats": "nats of a picture",
    "calls_per_drawing": "network calls a drawing",
    "train_tokens": "tokens seen",
    "parameters": "parameters",
}


def cell(numbers: dict[str, Any], name: str) -> str:
    """Return a number as it is shown; a bound is marked as one."""
    value = numbers.get(name)
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    shown = f"{value:.3g}" if abs(value) < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"
    bound = name.endswith("_nats") and numbers.get(name.replace("_nats", "_likelihood")) == "bound"
    return f"<= {shown}" if bound else shown


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with a column a paradigm."""
    lines = [
        "| | " + " | ".join(f"`{p}`" for p in results) + " |",
        "|---" * (len(results) + 1) + "|",
    ]
    for name, title in ROWS.items():
        lines.append(f"| {title} | " + " | ".join(cell(n, name) for n in results.values()) + " |")
    return "\n".join(lines)


def section() -> str:
    """Return the text between the markers."""
    text = (ROOT / "docs" / "results" / "digits.json").read_text(encoding="utf-8")
    results = json.loads(text)["paradigms"]
    first = next(iter(results.values()))
    minutes = round(max(n["train_seconds"] for n in results.values()) / 60)
    trained = f"train.optimizer={first['optimizer']} train.learning_rate={first['learning_rate']}"
    command = f"braid compare digits {trained} --paradigms {','.join(results)} --minutes {minutes}"
    about = (
        f"`{command}`, seed {first['seed']}, {first['machine']['processors']} processors, torch "
        f"{first['versions']['torch']}; {first['held_out']} held-out digits; drawings are judged "
        f"by a classifier that names {first['judge_accuracy']:.1%} of real held-out digits right."
    )
    alone = ", ".join(
        f"{n['refined_alone_accuracy']:.2f} ({p})"
        for p, n in results.items()
        if n.get("refined_alone_accuracy") is not None
    )
    reading = (
        "One run each, so differences of a percent or two mean nothing. `<=` is an upper bound, "
        "not to be compared with an exact likelihood. Refinement is told the name; without it, the "
        f"share judged right is {alone}."
    )
    return f"{about}\n\n{table(results)}\n\n{reading}"


def filled(readme: str) -> str:
    """Return the README with the section written into it."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{section()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
