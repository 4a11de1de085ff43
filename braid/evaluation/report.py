"""The report of a run: plain numbers in report.json, and report.html, which needs nothing else."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from braid import config, rules, storage
from braid.config import Experiment, StrandConfig
from braid.errors import BraidError
from braid.evaluation import animate, html, sheets
from braid.evaluation.evaluation import Evaluation, Number
from braid.evaluation.html import Html, element
from braid.samplers import suitable

Numbers = Mapping[str, Number]

MEANING = {
    "held_out": "held-out examples that were used",
    "left_out": "held-out rows that the model cannot read",
    "judge_accuracy": "held-out pictures that the judge names right",
    "caption_accuracy": "held-out pictures that the model names right",
    "drawn_accuracy": "drawings that the judge takes for what was asked",
    "calls_per_drawing": "network calls that a drawing takes",
    "seconds_per_drawing": "seconds that a drawing takes, in a batch",
    "frechet_distance": "Frechet distance of drawings to held-out pictures, on pixels",
    "frechet_distance_to_training": "Frechet distance of drawings to training pictures",
    "frechet_floor": "the same distance between two sets of real pictures",
    "infilled_accuracy": "completed pictures that the judge takes for what they were",
    "damaged_accuracy": "damaged pictures that the judge still names right",
    "refined_accuracy": "the same pictures after refinement",
    "refinement_gain": "refined minus damaged accuracy",
    "parameters": "weights of the model",
    "train_steps": "optimiser steps",
    "train_seconds": "seconds of training",
    "train_tokens": "tokens seen in training, with repetition",
    "train_flops": "training operations, as 6 x parameters x tokens",
}

_KINDS = {
    "exact": "exact likelihood",
    "bound": "an upper bound, not the likelihood itself",
    "none": "this process has neither a likelihood nor a bound",
}
_LEGEND = (
    ("reads:", "what the network was given at this call"),
    ("believes:", "the result that it then held most likely"),
    ("outlined:", "this belief changed since the step before"),
    ("hatched:", "masked, or not there yet"),
)
_PREVIEW = re.compile(r"step-(\d+)\.png")
_MOST_FRAMES = 48


def write(out: Path, experiment: Experiment, result: Evaluation) -> Path:
    """Write report.json, report.html and the panels as panels/*.png into a run directory.

    Args:
        out: run directory; metrics.jsonl and samples/ in it are shown where they exist.
        experiment: what was trained.
        result: what was measured.

    Returns:
        the path of report.html.
    """
    storage.writable(out)
    facts = {**result.numbers, **about(experiment), "evaluation": result.settings}
    write_json(out / "report.json", facts)
    sheets.save(out / "panels", result.panels)
    numbers = result.numbers
    body = [
        _head(experiment, result),
        element("div", headline(numbers), class_="tiles"),
        element("section", _strands(experiment)),
        loss_section(out / "metrics.jsonl"),
        _panels(result),
        _generation(out, experiment, result),
        _previews(out / "samples"),
        html.section("All numbers", element("div", _table(numbers), class_="card")),
        footer(),
    ]
    return html.save(out / "report.html", html.page(f"{experiment.name}: report", body))


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a mapping as JSON; numbers that are not finite become null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    return html.save(path, f"{text}\n")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def about(experiment: Experiment) -> dict[str, Any]:
    """Return what identifies an experiment and where it was measured."""
    kinds = {n: s.process["kind"] if s.process else None for n, s in experiment.strands.items()}
    return {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "rule": experiment.rule,
        "strands": kinds,
        "optimizer": experiment.train.optimizer,
        "learning_rate": experiment.train.learning_rate,
        "versions": versions(),
        "machine": {"processors": os.cpu_count(), "platform": machine()},
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {
        # by name: the package itself stands above this layer, and names all of its modules
        "braid": importlib.import_module("braid").__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def machine() -> str:
    """Return the kind of machine."""
    return f"{platform.system()} {platform.machine()}"


def footer() -> Html:
    """Return with what and where a page was made."""
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    return element("footer", f"{made}; {os.cpu_count()} processors, {machine()}")


def _head(experiment: Experiment, result: Evaluation) -> Html:
    eyebrow = element("p", "Report of a training run", class_="eyebrow")
    return element(
        "header",
        eyebrow,
        element("h1", experiment.name),
        element("p", processes(experiment), class_="lead"),
        element("p", summary(experiment, result.numbers)),
        element("p", measured(result.settings)) if result.settings else None,
    )


def measured(settings: Numbers) -> str:
    """Return in one sentence how the numbers were measured."""
    limit = settings.get("limit")
    most = f", at most {_number(int(limit), 'example')}" if limit else ""
    return (
        f"It was measured by the suite {settings.get('suite')} on the data "
        f"{settings.get('data')!r}{most}, with seed {settings.get('seed')}."
    )


def processes(experiment: Experiment) -> str:
    """Return which process generates which modality, in words."""
    return ", ".join(_kind(n, s) for n, s in experiment.strands.items())


def _kind(name: str, strand: StrandConfig) -> str:
    if strand.process is None:
        return f"{name}: read only"
    return f"{name}: {_spoken(strand.process['kind'])}"


def summary(experiment: Experiment, numbers: Numbers) -> str:
    """Return in one paragraph what was trained."""
    c, strands = experiment.transformer, list(experiment.strands.items())
    size = numbers.get("parameters")
    weights = f" ({html.plain(size)} parameters)" if size else ""
    looks = (
        "each part sees itself and what came before it"
        if rules.get(experiment.rule).cacheable
        else "every token of a document sees every other"
    )
    words = [
        f"One transformer of {c.depth} layers and width {c.width}{weights} carries",
        f"{_number(len(strands), 'strand')}: {_list([_strand(n, s) for n, s in strands])}.",
        f"Under the attention rule {experiment.rule}, {looks}.",
    ]
    if numbers.get("train_seconds"):
        words.append(f"It was trained for {html.duration(float(numbers['train_seconds'] or 0))}")
        seen = (
            f" and {html.plain(numbers['train_tokens'])} tokens"
            if "train_tokens" in numbers
            else ""
        )
        words.append(f"({html.plain(numbers.get('train_steps'))} steps{seen})")
    else:
        words.append("It was trained")
    words.append(f"on {_data(experiment)}, with seed {experiment.seed}.")
    return " ".join(words)


def _strand(name: str, strand: StrandConfig) -> str:
    if strand.process is None:
        return f"{name} (read only)"
    sampler = _sampler(strand).partition(" (")[0]
    return f"{name} ({_spoken(strand.process['kind'])}, sampled by {sampler})"


def _data(experiment: Experiment) -> str:
    names = list(experiment.data.named)
    return f"the data {_list(names)}" if len(names) > 1 else f"the data {names[0]!r}"


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def described(options: Mapping[str, Any] | None) -> str:
    """Return a process, sampler or modality with its options, in words."""
    if options is None:
        return html.DASH
    said = [
        f"{_spoken(k)} {described(v) if isinstance(v, Mapping) else _option(v)}"
        for k, v in options.items()
        if k != "kind"
    ]
    return _spoken(str(options.get("kind", ""))) + (f" ({', '.join(said)})" if said else "")


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return html.plain(value)


def _strands(experiment: Experiment) -> Html:
    head, rows = ("strand", "tokens", "process", "sampler"), []
    for name, strand in experiment.strands.items():
        process = (
            described(strand.process) if strand.process else "context only: read, never written"
        )
        said = (described(strand.modality), process, _sampler(strand))
        cells = [element("td", s, data_label=n) for n, s in zip(head[1:], said, strict=True)]
        rows.append([html.row_head(name), *cells])
    table = html.table(head, rows, "stack")
    return element("div", table, class_="card")


def _sampler(strand: StrandConfig) -> str:
    if strand.process is None:
        return html.DASH
    if strand.sampler is not None:
        return described(strand.sampler)
    process = config.make_process(strand)
    names = suitable(process) if process is not None else []
    return _spoken(names[0]) if names else html.DASH


def headline(numbers: Numbers) -> list[Html]:
    """Return the numbers that matter most, of those that are there."""
    shares = {
        "caption_accuracy": ("Reads", _of(numbers, "held-out pictures named right")),
        "drawn_accuracy": ("Draws", _judged(numbers, "drawings recognised")),
        "infilled_accuracy": ("Completes", "completed pictures recognised"),
        "seen_caption_accuracy": ("Reads", "captions right to the letter"),
        "unseen_caption_accuracy": ("Reads the unseen", "captions of combinations never shown"),
        "seen_answer_accuracy": ("Answers", "answers right"),
        "unseen_drawn_1": ("Draws one", "unseen things with every attribute right"),
        "unseen_drawn_2": ("Draws two", "pairs of unseen things with every attribute right"),
        "seen_edit_accuracy": ("Edits", "edited pictures exactly right"),
        "digit_understood": ("Understands", "spoken digits understood"),
        "spoken_digit_accuracy": ("Speaks", "digits it says that a listener understands"),
    }
    tiles = [
        html.tile(label, html.percent(float(numbers[name] or 0)), note)
        for name, (label, note) in shares.items()
        if isinstance(numbers.get(name), int | float)
    ]
    if "refinement_gain" in numbers:
        tiles.append(_gain(numbers))
    distance, floor = numbers.get("frechet_distance"), numbers.get("frechet_floor")
    if isinstance(distance, int | float):
        note = "lower is better"
        if isinstance(floor, int | float):
            note += f"; two sets of real pictures: {html.short(floor)}"
        tiles.append(html.tile("Frechet distance", html.short(distance), note))
    return tiles


def _of(numbers: Numbers, what: str) -> str:
    n = numbers.get("held_out")
    return f"of {html.plain(n)} {what}" if n else what


def _judged(numbers: Numbers, what: str) -> str:
    judge = numbers.get("judge_accuracy")
    if not isinstance(judge, float):
        return what
    return f"{what} by a judge who knows {html.percent(judge)} of the real ones"


def _gain(numbers: Numbers) -> Html:
    gain = numbers["refinement_gain"]
    if not isinstance(gain, int | float):
        return html.tile("Repairs", html.DASH, reason(numbers, "refinement_gain"))
    before, after = numbers.get("damaged_accuracy"), numbers.get("refined_accuracy")
    note = "points more pictures recognised"
    if isinstance(before, float) and isinstance(after, float):
        shares = html.percent(before), html.percent(after)
        note = f"points: {shares[0]} of damaged pictures recognised, {shares[1]} once repaired"
    return html.tile("Repairs", f"{100 * gain:+.1f}".replace("-", "\u2212"), note)


def reason(numbers: Numbers, name: str) -> str:
    """Return the remark on a number: its own note, or one on the same subject."""
    own = numbers.get(f"{name}_note")
    if own is not None or numbers.get(name) is not None:
        return str(own or "")
    stem = name.partition("_")[0][:6]  # refinement_gain is missing where refined_accuracy is
    alike = (k for k in numbers if k.endswith("_note") and k.startswith(stem))
    return str(numbers[key]) if (key := next(alike, None)) else ""


def losses(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return strand -> (step, training loss) of a metrics.jsonl.

    A run that went on from a checkpoint repeats steps: what it wrote last counts. A line that was
    cut off when the run was killed is left out.
    """
    curves: dict[str, dict[int, float]] = {}
    if not path.is_file():
        return {}
    last = -1
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _row(line)
        if row is None:
            continue
        step = row["step"]
        if step <= last:
            curves = {n: {s: v for s, v in c.items() if s < step} for n, c in curves.items()}
        last = step
        for key, value in row.items():
            split, _, rest = key.partition("/")
            if split == "train" and rest.endswith("/loss") and _is_finite(value):
                curves.setdefault(rest.removesuffix("/loss"), {})[step] = float(value)
    return {n: sorted((float(s), v) for s, v in c.items()) for n, c in curves.items() if c}


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def loss_section(path: Path) -> Html | None:
    """Return the loss curves of a run, one chart a strand, or None where there are none."""
    charts = [html.line_chart(f"{name} loss", points) for name, points in losses(path).items()]
    if not charts:
        return None
    note = "Training loss over optimiser steps; the bold line is a running mean."
    return html.section("Training", element("div", charts, class_="charts"), note=note)


def _panels(result: Evaluation) -> Html | None:
    panels = [html.panel(title, rows) for title, rows in result.panels.items() if any(rows)]
    panels += [html.sounds(title, clips) for title, clips in result.sounds.items() if clips]
    return html.section("What it does", panels) if panels else None


def _generation(out: Path, experiment: Experiment, result: Evaluation) -> Html | None:
    """Return the player of the generation that was kept."""
    if result.trajectory is None or not result.trajectory[0].trajectory:
        return None
    parts, part = result.trajectory
    pictures = animate.draw(_writers(out, experiment), parts, part, most=_MOST_FRAMES)
    asked = [p for p in parts[:part] if isinstance(p, str)]
    title = f"How it made \u201c{asked[-1]}\u201d" if asked else "How it was made"
    calls = sum(f.part == part for f in parts.trajectory)
    few = len(pictures) - 1 < calls
    note = f"{len(pictures) - 1} of {calls} network calls are shown." if few else None
    legend = element(
        "ul", [element("li", element("b", k), f" {v}") for k, v in _LEGEND], class_="legend"
    )
    film = element("div", element("div", player(pictures)), legend, class_="card film")
    return html.section(title, film, note=note)


def _writers(out: Path, experiment: Experiment) -> dict[str, animate.Writer]:
    """Return the strands that fill holes, with what their modalities learned in this run."""
    path = out / "modalities.json"
    states = storage.read_json(path) if path.is_file() else {}
    writers = {}
    for name, strand in experiment.strands.items():
        process = config.make_process(strand)
        modality = config.make_modality(name, strand)
        if name in states:
            modality.load_state(states[name])
        if process is not None and hasattr(modality, "space"):  # a text without tokenizer has none
            writers[name] = animate.Writer(modality, process.causal)
    return writers


def player(pictures: Sequence[Image.Image]) -> Html:
    """Return frames with a slider and a button; without scripts, the same as a GIF."""
    uris = [html.data_uri(p.quantize(128, dither=Image.Dither.NONE)) for p in pictures]
    last = len(uris) - 1
    w, h = pictures[0].size
    bar = element(
        "input",
        type="range",
        min=0,
        max=last,
        value=last,
        step=1,
        aria_label="step of the generation",
    )
    controls = element("div", element("button", "Play", type="button"), bar, class_="controls")
    shown = element("img", src=uris[last], alt="one step of the generation", width=w, height=h)
    data = {"frames": uris, "times": animate.durations(len(uris))}
    script = element("script", Html(_PLAYER.replace("DATA", json.dumps(data))))
    gif = html.data_uri_of(animate.gif(pictures), "GIF")
    still = element("img", src=gif, alt="the generation, step by step", width=w, height=h)
    return html.join(
        element("div", shown, controls, class_="player", hidden=True),
        script,
        element("noscript", still),
    )


# It plays once, when it comes into view; nothing moves where a reader asked for less motion.
_PLAYER = """
(() => {
  const data = DATA;
  const box = document.currentScript.previousElementSibling;
  const [shown, button, bar] = ["img", "button", "input"].map((tag) => box.querySelector(tag));
  const last = data.frames.length - 1;
  let timer = 0;
  const show = (step) => { bar.value = step; shown.src = data.frames[step]; };
  const stop = () => { clearTimeout(timer); timer = 0; button.textContent = "Play"; };
  const advance = () => {
    const step = +bar.value + 1;
    show(step);
    if (step < last) timer = setTimeout(advance, data.times[step]); else stop();
  };
  const play = () => {
    if (+bar.value >= last) show(0);
    button.textContent = "Pause";
    timer = setTimeout(advance, data.times[0]);
  };
  button.onclick = () => (timer ? stop() : play());
  bar.oninput = () => { stop(); show(+bar.value); };
  box.hidden = false;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still || !window.IntersectionObserver || last < 1) return;
  const watch = new IntersectionObserver((seen) => {
    if (seen.some((s) => s.isIntersecting)) { watch.disconnect(); if (!timer) play(); }
  }, { threshold: 0.6 });
  watch.observe(box);
})();
"""


def _previews(folder: Path) -> Html | None:
    """Return pictures drawn while training: the first ones, and a few up to the last."""
    found = sorted(
        (int(m[1]), p) for p in folder.glob("*.png") if (m := _PREVIEW.fullmatch(p.name))
    )
    if not found:
        return None
    most = 6
    chosen = sorted({round(i * (len(found) - 1) / (most - 1)) for i in range(most)})
    cells: list[Html] = []
    for i in chosen:
        step, path = found[i]
        cells.append(element("div", f"step {step:,}"))
        cells.append(html.image(_open(path), f"pictures drawn at step {step}"))
    strip = element("div", element("div", cells, class_="strip"), class_="card")
    note = "The same held-out captions, drawn while training with the averaged weights."
    return html.section("While it learned", strip, note=note)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as e:
        raise BraidError(f"{str(path)!r} is not a readable picture ({e}); delete it") from e


def _table(numbers: Numbers) -> Html:
    """Return every number, with what it is; None is a dash with the reason."""
    rows = []
    for name, value in numbers.items():
        if name.endswith("_note"):
            continue
        words = [MEANING.get(name) or _likelihood(numbers, name), reason(numbers, name)]
        note = "; ".join(w for w in words if w)
        cells = [
            element("td", html.plain(value), class_="number"),
            element("td", note, class_="note"),
        ]
        rows.append([html.row_head(element("code", name)), *cells])
    return html.table(["name", "value", ""], rows, "numbers")


def _likelihood(numbers: Numbers, name: str) -> str:
    """Return what a number of nats or bits is: a likelihood, or only a bound of it."""
    for stem, unit in (("_nats", "nats of a whole part"), ("_bits_per_symbol", "bits per symbol")):
        if name.endswith(stem):
            kind = numbers.get(f"{name.removesuffix(stem)}_likelihood")
            return "; ".join(w for w in (unit, _KINDS.get(str(kind), "")) if w)
    return "what the nats and bits are" if name.endswith("_likelihood") else ""
