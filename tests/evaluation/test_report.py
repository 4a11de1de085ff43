"""Laws of the pages: they need nothing else, escape what they show, and repeat the numbers."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from braid import config, recipes
from braid.data.synthetic import CAPTIONS
from braid.errors import BraidError
from braid.evaluation import compare, html, report
from braid.evaluation.evaluation import Evaluation
from braid.modalities.sounds import Sound
from braid.paradigms import PARADIGMS
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

EVIL = "<script>alert('x')</script>&\"<b>"
NUMBERS = {
    "held_out": 40,
    "judge_accuracy": 0.99,
    "caption_accuracy": 0.925,
    "frechet_distance": 0.4321,
    "frechet_floor": 0.1234,
    "refined_accuracy": None,
    "refinement_gain": None,
    "refined_accuracy_note": "cannot revise <a> draft",
    "text_likelihood": "bound",
    "text_nats": 1.5,
    "parameters": 12345,
    "train_seconds": 61.0,
    "train_tokens": 5000,
    "train_steps": 20,
}
VOID = ("meta", "img", "input", "br")


class Page(HTMLParser):
    """A page, taken apart: every tag is closed, addresses and text are collected."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.addresses, self.texts, self.alts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[k] for k in ("src", "href", "data", "action") if k in values]
        self.alts.append(values.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def tiny(paradigm: str) -> tuple[Pipeline, dict]:
    torch.manual_seed(0)
    experiment = recipes.resolve("toy", [f"paradigm={paradigm}", "transformer.width=32"])
    states = {}
    for name, strand in experiment.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(CAPTIONS)
        states[name] = modality.state()
    return Pipeline(config.build(experiment, states), experiment), states


def picture(value: int = 255) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, dtype=np.uint8))


def evaluated(pipe: Pipeline, hole: str = "image") -> Evaluation:
    given = "row one" if hole == "image" else Part("vision", picture())
    panels = {"Reads": [[("row one", picture()), (EVIL, picture(0))]]}
    if hole == "image":
        panels["Drawn from names"] = [[("row two", picture(80))]]
    made = pipe([given, Hole(hole)], steps=3, trajectory=True)
    return Evaluation(dict(NUMBERS), panels, (made, 1))


def run(folder, paradigm: str = "fudoki"):
    """Fill a run directory as a trainer does, and write its report."""
    pipe, states = tiny(paradigm)
    (folder / "samples").mkdir(parents=True)
    (folder / "modalities.json").write_text(json.dumps(states))
    rows = [{"step": s, "train/text/loss": 5 / s, "train/image/loss": 0.5} for s in range(1, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for step in (10, 20, 100):
        picture(step).save(folder / "samples" / f"step-{step}.png")
    result = evaluated(pipe, "image" if "image" in pipe.braid.strands else "text")
    return pipe.experiment, result, report.write(folder, pipe.experiment, result)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_report_needs_nothing_but_itself(paradigm, tmp_path):
    text = run(tmp_path / "run", paradigm)[2].read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses and all(a.startswith("data:image/") for a in page.addresses)
    assert "://" not in text
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert {"svg", "table", "noscript"} <= set(page.tags)


def test_captions_are_escaped(tmp_path):
    text = run(tmp_path / "run")[2].read_text(encoding="utf-8")
    page = Page(text)
    assert EVIL in page.texts and EVIL in page.alts
    assert page.tags.count("script") == 1  # the player
    assert "alert" not in text.replace(html.join(EVIL), "")


def test_every_text_of_an_experiment_is_escaped(tmp_path):
    pipe, _ = tiny("fudoki")
    experiment = pipe.experiment.model_copy(update={"name": EVIL})
    result = Evaluation({f"{EVIL}_accuracy": EVIL, "x": None, "x_note": EVIL}, {EVIL: []})
    text = report.write(tmp_path, experiment, result).read_text(encoding="utf-8")
    assert "script" not in Page(text).tags


def test_a_report_of_nothing_is_a_page(tmp_path):
    pipe, _ = tiny("fudoki")
    page = Page(report.write(tmp_path / "new", pipe.experiment, Evaluation()).read_text())
    assert {"h1", "table"} <= set(page.tags)
    assert "svg" not in page.tags


def test_numbers_are_repeated_as_they_are(tmp_path):
    experiment, result, path = run(tmp_path / "run")
    facts = json.loads(path.with_suffix(".json").read_text())
    assert {k: facts[k] for k in NUMBERS} == NUMBERS
    assert facts["experiment"] == experiment.name and facts["seed"] == experiment.seed
    assert facts["strands"] == {"text": "discrete_flow", "image": "discrete_flow"}
    assert {"python", "torch", "braid"} == set(facts["versions"])
    assert {"processors", "platform"} == set(facts["machine"])


def test_numbers_that_are_not_finite_are_null(tmp_path):
    pipe, _ = tiny("fudoki")
    report.write(tmp_path, pipe.experiment, Evaluation({"a": math.nan, "b": math.inf, "c": 1}))
    facts = json.loads((tmp_path / "report.json").read_text())
    assert (facts["a"], facts["b"], facts["c"]) == (None, None, 1)


def test_what_cannot_be_measured_is_a_dash_with_its_reason(tmp_path):
    texts = Page(run(tmp_path / "run")[2].read_text(encoding="utf-8")).texts
    assert html.DASH in texts
    assert sum(NUMBERS["refined_accuracy_note"] in t for t in texts) == 3  # tile and two rows
    assert any("an upper bound, not the likelihood" in t for t in texts)


def test_a_run_that_went_on_shows_every_step_once(tmp_path):
    lines = [{"step": s, "train/text/loss": 1.0} for s in (10, 20, 25)]
    lines += [{"step": s, "train/text/loss": 2.0} for s in (20, 30)]
    broken = '\n{"step": 40, "train/te\n[1]\n{"step": 50, "train/text/loss": NaN}\n'
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + broken)
    assert report.losses(tmp_path / "m.jsonl") == {"text": [(10, 1.0), (20, 2.0), (30, 2.0)]}


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [-1.0, 2.0], [1e-6, 1.0, 1e3], [2.5] * 40, [1e17], [-1e18] * 2]
)
def test_any_curve_can_be_drawn(values):
    chart = html.line_chart("loss", [(20.0 * i, v) for i, v in enumerate(values)])
    assert "nan" not in chart and "inf" not in chart
    assert "circle" in Page(chart).tags


def test_a_damaged_preview_is_named(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-1.png").write_bytes(b"no picture")
    with pytest.raises(BraidError, match="step-1.png"):
        report.write(tmp_path, tiny("fudoki")[0].experiment, Evaluation())


def compared(folder, **numbers: dict) -> tuple[str, dict]:
    """Write a comparison of paradigms by their numbers."""
    experiments = {p: tiny(p)[0].experiment for p in numbers}
    panels = {p: {"Drawn from names": [[(EVIL, picture())]], "Other": []} for p in numbers}
    text = compare.write(folder, experiments, numbers, panels).read_text(encoding="utf-8")
    return text, json.loads((folder / "compare.json").read_text())


BOUND = {"text_likelihood": "bound", "text_bits_per_symbol": 0.5, "caption_accuracy": 0.75}
EXACT = {"text_likelihood": "exact", "text_bits_per_symbol": 0.25, "caption_accuracy": 0.5}
NONE = {"text_likelihood": "none", "text_bits_per_symbol": None}


def test_a_comparison_needs_nothing_but_its_reports(tmp_path):
    run(tmp_path / "fudoki")
    text, _ = compared(tmp_path, fudoki=BOUND, chameleon=EXACT)
    page = Page(text)
    local = ("data:image/", "fudoki/report.html")
    assert page.addresses and all(a.startswith(local) for a in page.addresses)
    assert "://" not in text and "script" not in page.tags
    assert EVIL in page.texts


def test_a_comparison_repeats_the_numbers(tmp_path):
    _, facts = compared(tmp_path, fudoki=BOUND, chameleon=EXACT)
    runs = facts["paradigms"]
    assert {k: runs["fudoki"][k] for k in BOUND} == BOUND
    assert runs["chameleon"]["strands"] == {"text": "autoregressive", "image": "autoregressive"}
    assert (runs["fudoki"]["optimizer"], runs["fudoki"]["learning_rate"]) == ("adamw", 0.003)


def test_a_bound_is_never_called_a_likelihood(tmp_path):
    texts = Page(compared(tmp_path, fudoki=BOUND, chameleon=EXACT, mmada=NONE)[0]).texts
    assert "\u2264 0.5" in texts and "upper\u00a0bound" in texts
    assert "0.25" in texts and "exact" in texts
    assert "no bound is known" in texts


def test_the_best_is_marked_only_among_equals():
    bits = next(r for r in compare.ROWS if r.name == "text_bits_per_symbol")
    reads = next(r for r in compare.ROWS if r.name == "caption_accuracy")
    mixed = {"a": BOUND, "b": EXACT, "c": NONE}
    assert compare.winners(bits, mixed) == set()
    assert compare.winners(bits, {"a": EXACT, "b": EXACT | {"text_bits_per_symbol": 0.2}}) == {"b"}
    assert compare.winners(reads, mixed) == {"a"}
    assert compare.winners(reads, {"a": BOUND, "b": BOUND}) == set()


def test_numbers_of_every_suite_are_compared(tmp_path):
    own = {"seen_drawn_1": 0.625, "seen_drawn_1_low": 0.5, "seen_drawn_1_high": 0.75, "of": "100"}
    text, _ = compared(tmp_path, fudoki=BOUND | own, chameleon=EXACT | {"train_steps": 9})
    texts = Page(text).texts
    assert "seen_drawn_1" in texts and "0.625" in texts
    assert not {"seen_drawn_1_low", "of", "train_steps", "text_likelihood"} & set(texts)
    assert texts.count("Reads") == 2  # in the table, and in its chart


def test_budgets_have_no_winner():
    rows = [r for r in compare.ROWS if r.name.startswith(("train_", "parameters"))]
    results = {"a": {r.name: 1.0 for r in rows}, "b": {r.name: 2.0 for r in rows}}
    assert rows and not any(compare.winners(r, results) for r in rows)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BraidError, match="cannot write"):
        report.write(tmp_path / "file", tiny("fudoki")[0].experiment, Evaluation())


def test_the_policy_of_a_page_lets_its_sounds_and_pictures_through():
    made = str(
        html.page("t", html.sounds("Said", [("one", Sound(np.zeros(80, np.float32), 8000))]))
    )
    assert "<audio" in made and 'src="data:audio/wav' in made
    policy = made.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert {"img-src data:", "media-src data:"} <= {x.strip() for x in policy.split(";")}
