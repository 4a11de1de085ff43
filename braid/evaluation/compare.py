"""Several paradigms side by side: compare.json, and compare.html, which needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from braid import storage
from braid.config import Experiment
from braid.errors import BraidError
from braid.evaluation import html, report
from braid.evaluation.evaluation import Number
from braid.evaluation.html import Html, element
from braid.evaluation.report import Numbers

Panels = Mapping[str, Any]
"""Title -> rows of (caption, picture)."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the number.
        label: what is written in front.
        note: small print below.
        best: which direction is better, or None where the number is no merit.
        form: writes the number.
    """

    name: str
    label: str
    note: str = ""
    best: Literal["high", "low"] | None = None
    form: Callable[[float], str] = html.plain


ROWS = (
    Row("parameters", "Parameters"),
    Row("train_seconds", "Training time", form=html.duration),
    Row("train_tokens", "Tokens seen", "with repetition"),
    Row("train_flops", "Training FLOPs", "6 × parameters × tokens", form=html.short),
    Row("text_bits_per_symbol", "Text, bits per symbol", "lower is better", "low"),
    Row("image_bits_per_symbol", "Image, bits per number", "lower is better", "low"),
    Row("caption_accuracy", "Reads", "held-out pictures named right", "high", html.percent),
    Row("judge_accuracy", "The judge", "real pictures named right", form=html.percent),
    Row("drawn_accuracy", "Draws", "drawings that the judge recognises", "high", html.percent),
    Row("infilled_accuracy", "Completes", "pictures the judge recognises", "high", html.percent),
    Row("damaged_accuracy", "Damaged", "pictures the judge still recognises", form=html.percent),
    Row("refined_accuracy", "Repairs", "the same, once repaired", "high", html.percent),
    Row("frechet_distance", "Frechet distance", "to held-out pictures; lower is better", "low"),
    Row("frechet_floor", "Frechet floor", "of two sets of real pictures"),
    Row("calls_per_drawing", "Network calls a drawing", "", "low"),
    Row("seconds_per_drawing", "Time a drawing", "within a batch", "low", html.duration),
)

_BARS = (
    ("caption_accuracy", "Reads", None),
    ("drawn_accuracy", "Draws", ("judge_accuracy", "real")),
    ("infilled_accuracy", "Completes", ("judge_accuracy", "real")),
    ("refined_accuracy", "Repairs", ("damaged_accuracy", "damaged")),
)
"""Shares, and what they are compared with."""


def write(
    out: Path,
    experiments: dict[str, Experiment],
    results: dict[str, dict[str, Number]],
    panels: dict[str, dict[str, Any]],
) -> Path:
    """Write compare.json and compare.html.

    Args:
        out: folder; each run may lie in it under its paradigm's name, with its metrics.jsonl.
        experiments: paradigm -> what was trained.
        results: paradigm -> numbers.
        panels: paradigm -> title -> rows of (caption, picture).

    Returns:
        the path of compare.html.
    """
    if not results:
        raise BraidError("there is nothing to compare; give at least one paradigm")
    storage.writable(out)
    runs = {p: {**numbers, **report.about(experiments[p])} for p, numbers in results.items()}
    report.write_json(out / "compare.json", {"paradigms": runs})
    title = f"{next(iter(experiments.values())).name}: {len(results)} paradigms"
    body = [
        _head(title, experiments, results),
        html.section("Numbers", element("div", _table(results), class_="card"), note=_FAIR),
        _charts(results),
        _details(out, experiments, results, panels),
        report.footer(),
    ]
    return html.save(out / "compare.html", html.page(title, body))


_FAIR = (
    "The best of a row is shaded where the numbers can be compared. An upper bound lies above the "
    "likelihood by an unknown amount, so exact values and bounds are not ranked against each other."
)


def _head(
    title: str, experiments: Mapping[str, Experiment], results: Mapping[str, Numbers]
) -> Html:
    first = next(iter(experiments.values()))
    same = len({e.transformer for e in experiments.values()}) == 1
    c = first.transformer
    net = (
        f"a transformer of {c.depth} layers and width {c.width}" if same else "its own transformer"
    )
    times = [float(n["train_seconds"] or 0) for n in results.values() if n.get("train_seconds")]
    spent = f" for about {html.duration(sum(times) / len(times))} each" if times else ""
    words = (
        f"The same data ({', '.join(first.data.named)}), {net} and the same budget under different "
        f"generative processes: {', '.join(results)} were trained{spent}. It is one run with one "
        f"seed ({first.seed}) each, so small differences mean nothing."
    )
    eyebrow = element("p", "Comparison of paradigms", class_="eyebrow")
    return element("header", eyebrow, element("h1", title), element("p", words))


def _table(results: Mapping[str, Numbers]) -> Html:
    rows = [_row(r, results) for r in rows_of(results)]
    return html.table(["", *results], rows, "sheet")


def rows_of(results: Mapping[str, Numbers]) -> list[Row]:
    """Return the rows that the results fill: the known ones, then the others under their names."""
    known = [row for row in ROWS if any(row.name in n for n in results.values())]
    named = {row.name for row in known}
    found = dict.fromkeys(name for n in results.values() for name in n)
    others = [name for name in found if name not in named and _measured(name, results)]
    return [*known, *(Row(name, name, report.MEANING.get(name, "")) for name in others)]


def _measured(name: str, results: Mapping[str, Numbers]) -> bool:
    """Whether a name is of a measurement of its own, and not of an interval's end."""
    if name.startswith("train_") or name.endswith(("_low", "_high")):
        return False
    return any(isinstance(n.get(name), int | float) for n in results.values())


def _row(row: Row, results: Mapping[str, Numbers]) -> list[Html]:
    best = winners(row, results)
    cells = [_cell(row, numbers, p in best) for p, numbers in results.items()]
    return [html.row_head(row.label, row.note or None), *cells]


def _cell(row: Row, numbers: Numbers, best: bool) -> Html:
    value = numbers.get(row.name)
    if not isinstance(value, int | float):
        why = report.reason(numbers, row.name) or _unknown(row, numbers)
        return element("td", html.DASH, element("small", why) if why else None)
    kind = likelihood_kind(row, numbers)
    below = {"exact": "exact", "bound": "upper\u00a0bound"}.get(kind or "")
    sign = "\u2264 " if kind == "bound" else ""
    small = element("small", below) if below else None
    return element("td", f"{sign}{row.form(value)}", small, class_="best" if best else None)


def _unknown(row: Row, numbers: Numbers) -> str:
    return "no bound is known" if likelihood_kind(row, numbers) == "none" else ""


def likelihood_kind(row: Row, numbers: Numbers) -> str | None:
    """Return "exact", "bound" or "none" for bits or nats that were looked for, else None."""
    if not row.name.endswith(("_bits_per_symbol", "_nats")):
        return None
    kind = numbers.get(f"{row.name.partition('_')[0]}_likelihood")
    return None if kind is None else str(kind)


def winners(row: Row, results: Mapping[str, Numbers]) -> set[str]:
    """Return the paradigms with the best number of a row; none where they cannot be compared."""
    values = {
        p: float(v) for p, n in results.items() if isinstance(v := n.get(row.name), int | float)
    }
    kinds = {likelihood_kind(row, results[p]) for p in values}
    if row.best is None or len(kinds) != 1 or len(set(values.values())) < 2:
        return set()
    top = max(values.values()) if row.best == "high" else min(values.values())
    return {p for p, v in values.items() if v == top}


def _charts(results: Mapping[str, Numbers]) -> Html | None:
    charts = []
    for name, label, against in _BARS:
        bars = _values(results, name)
        if any(v is not None for _, v in bars):
            line = _reference(results, *against) if against else None
            charts.append(html.bar_chart(label, bars, "higher is better", share=True, line=line))
    distances = _values(results, "frechet_distance")
    if any(v is not None for _, v in distances):
        line = _reference(results, "frechet_floor", "real")
        charts.append(html.bar_chart("Frechet distance", distances, "lower is better", line=line))
    if not charts:
        return None
    return html.section("At a glance", element("div", charts, class_="charts"))


def _reference(results: Mapping[str, Numbers], name: str, label: str) -> tuple[str, float] | None:
    """Return a number that all paradigms share, as a line of a chart."""
    found = {v for _, v in _values(results, name) if v is not None}
    return (label, found.pop()) if len(found) == 1 else None


def _values(results: Mapping[str, Numbers], name: str) -> list[tuple[str, float | None]]:
    found = ((p, n.get(name)) for p, n in results.items())
    return [(p, float(v) if isinstance(v, int | float) else None) for p, v in found]


def _details(
    out: Path,
    experiments: Mapping[str, Experiment],
    results: Mapping[str, Numbers],
    panels: Mapping[str, Panels],
) -> Html:
    """Return what each paradigm drew, and how it learned."""
    note = (
        "The losses of different processes measure different things: compare the shapes of their "
        "curves, not their heights."
    )
    parts = [_paradigm(out, p, experiments[p], panels.get(p, {})) for p in results]
    return html.section("One by one", parts, note=note)


def _paradigm(out: Path, name: str, experiment: Experiment, panels: Panels) -> Html:
    about = element("p", report.processes(experiment), class_="note")
    drawn = [html.panel(title, rows) for title, rows in _drawn(panels)]
    curves = report.losses(out / name / "metrics.jsonl")
    charts = [html.line_chart(f"{strand} loss", points) for strand, points in curves.items()]
    link = None
    if (out / name / "report.html").is_file():
        link = element(
            "p", element("a", f"The report of {name}", href=f"{quote(name)}/report.html")
        )
    none = None if drawn else element("p", "It draws no pictures.", class_="note")
    block = element("div", charts, class_="charts") if charts else None
    return element("div", element("h3", name), about, drawn, none, block, link, class_="paradigm")


def _drawn(panels: Panels) -> Sequence[tuple[str, Any]]:
    """Return the panels of pictures that were drawn from nothing but text."""
    return [(t, rows) for t, rows in panels.items() if t.lower().startswith("drawn") and any(rows)]
