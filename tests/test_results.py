"""The page of results is what the committed files say, and a run's numbers get into a file."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from braid import commands
from braid.paradigms import PARADIGMS
from braid.recipes import resolve
from braid.recipes.codecs import resolve_codec
from braid.training import Trainer
from tests.laws import models

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """Return docs/make_results.py."""
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return a toy run of two steps, evaluated."""
    out = tmp_path_factory.mktemp("run")
    settings = [*models.SMALL, "train.steps=2", "train.batch=4", "evaluate.steps=2"]
    experiment = resolve("toy", ["paradigm=chameleon", *settings])
    Trainer(experiment, out, Console(file=io.StringIO()), "cpu").run()
    commands.evaluate(str(out), limit=8, device="cpu", quiet=True)
    return out


def test_the_page_is_what_the_committed_results_say(results):
    assert results.page() == results.PAGE.read_text(encoding="utf-8")


def test_every_committed_number_is_on_the_page(results):
    page = results.page()
    for path in results.RESULTS.glob("*.json"):
        for entry in results.entries(path):
            assert f"## {entry['recipe']}\n" in page
            for name, value in entry["numbers"].items():
                if results.is_shown(name) and value is not None:
                    assert f"| `{name}` |" in page
                    assert results.cell(entry["numbers"], name) in page


def test_the_numbers_of_a_run_get_into_a_file(results, run, tmp_path):
    path = results.add(run, "toy-chameleon", "one core", folder=tmp_path)
    report = json.loads((run / "report.json").read_text())
    (entry,) = results.entries(path)
    assert (entry["recipe"], entry["paradigm"], entry["seed"]) == ("toy", "chameleon", 0)
    assert (entry["machine"], entry["train_steps"]) == ("one core", 2)
    assert entry["parameters"] == report["parameters"] > 0
    assert entry["train_tokens"] == report["train_tokens"] > 0
    assert entry["date"].startswith("20")
    assert entry["numbers"]["held_out"] == 8
    for name, value in entry["numbers"].items():
        assert report[name] == value
    page = results.page(tmp_path)
    assert "## toy\n" in page
    assert "machine: one core" in page
    assert f"| `text_nats` | {results.plain(report['text_nats'])} |" in page
    assert str(ROOT) not in path.read_text()


def test_runs_of_one_paradigm_are_told_apart_by_their_files(results, run, tmp_path):
    for name in ("toy-a", "toy-b"):
        results.add(run, name, folder=tmp_path)
    assert "|  | `chameleon` (toy-a) | `chameleon` (toy-b) |" in results.page(tmp_path)


def test_the_card_of_a_codec_gets_into_a_file(results, tmp_path):
    from braid.codec_commands import evaluate
    from braid.modalities import codecs

    experiment = resolve_codec("cifar10", ["codec.width=32", "codec.fine=8", "data.source=toy"])
    codec = experiment.make().eval()
    codec.card = {"recipe": experiment.model_dump(mode="json"), "steps": 0, "seconds": 0.0}
    codecs.save(codec, tmp_path / "codec")
    codec.card["metrics"] = evaluate(str(tmp_path / "codec"), limit=4)
    codecs.save(codec, tmp_path / "codec")
    results.add(tmp_path / "codec", "codec-toy", "one core", folder=tmp_path)
    (entry,) = results.entries(tmp_path / "codec-toy.json")
    assert (entry["recipe"], entry["codec"]) == ("codecs", "cifar10 vq:1024x8")
    assert entry["parameters"] == sum(p.numel() for p in codec.parameters())
    assert entry["numbers"] == codec.card["metrics"]
    low, high = (results.plain(entry["numbers"][f"psnr_{end}"]) for end in ("low", "high"))
    assert f"[{low}, {high}] |" in results.page(tmp_path)


@pytest.mark.parametrize("recipe", ["toy", "digits"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_paradigm_is_known_by_its_processes(results, recipe, paradigm):
    experiment = resolve(recipe, [f"paradigm={paradigm}"])
    assert results.paradigm_of(json.loads(experiment.model_dump_json())) == paradigm


def test_another_assignment_has_to_be_named(results):
    experiment = json.loads(resolve("toy", ["paradigm=mmada"]).model_dump_json())
    with pytest.raises(ValueError, match="of no paradigm; name its paradigm with --paradigm"):
        results.paradigm_of({**experiment, "rule": "spans"})


def test_what_is_no_result_is_refused(results, run, tmp_path):
    with pytest.raises(ValueError, match="braid evaluate"):
        results.add(tmp_path, "x", folder=tmp_path)
    with pytest.raises(ValueError, match="lower case"):
        results.add(run, "../x", folder=tmp_path)
    (tmp_path / "bad.json").write_text('{"recipe": "toy", "numbers": {}}')
    with pytest.raises(ValueError, match="bad.json lacks seed, machine"):
        results.page(tmp_path)


def test_bounds_intervals_and_missing_numbers_are_told(results):
    numbers = {
        "a_nats": 12.5,
        "a_nats_low": 12.0,
        "a_nats_high": 13.0,
        "a_likelihood": "bound",
        "b_bits_per_symbol": 2.0,
        "b_likelihood": "exact",
        "count": 12345,
        "none": None,
        "words": "4 of 100",
    }
    shown = {name: results.cell(numbers, name) for name in numbers}
    assert shown["a_nats"] == "<= 12.5 [12.0, 13.0]"
    assert shown["b_bits_per_symbol"] == "2.000"
    assert (shown["count"], shown["none"], shown["words"]) == ("12,345", "-", "4 of 100")


def test_a_panel_that_the_report_lacks_is_refused_with_those_it_has(results, run, tmp_path):
    (run / "panels").mkdir(exist_ok=True)
    (run / "panels" / "drawn.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no panel 'Captions'; it has .*drawn"):
        results.add(run, "toy", folder=tmp_path, panels=["Captions"])
    assert not list(tmp_path.iterdir())


def test_as_many_panels_are_shown_as_were_last_added(results, run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "IMAGES", tmp_path)
    (run / "panels").mkdir(exist_ok=True)
    for name in ("drawn", "captions"):
        (run / "panels" / f"{name}.png").write_bytes(name.encode())
    results.add(run, "toy", folder=tmp_path, panels=["Drawn", "Captions"])
    assert [p.read_bytes() for p in sorted(tmp_path.glob("*.png"))] == [b"captions", b"drawn"]
    assert "![toy+2](images/toy+2.png)" in results.page(tmp_path)
    results.add(run, "toy", folder=tmp_path, panels=["Captions"])
    assert [p.read_bytes() for p in tmp_path.glob("*.png")] == [b"captions"]
