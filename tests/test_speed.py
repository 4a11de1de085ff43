"""The page of speed is what the committed figures say, and a ratio means what it should."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # where dataclasses look for their annotations
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    return module("docs/make_speed.py")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return module("benchmarks/figures.py")


def test_the_page_is_what_the_committed_figures_say(speed):
    speed.main(["--check"])


def test_a_page_that_is_out_of_date_is_told(speed, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "PAGE", tmp_path / "speed.md")
    with pytest.raises(SystemExit, match="make_speed"):
        speed.main(["--check"])
    speed.main([])
    speed.main(["--check"])


def test_every_committed_figure_is_on_the_page_with_machine_and_versions(speed, figures):
    page = speed.page()
    for path in speed.RESULTS.glob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        assert told["benchmark"] == path.stem
        assert "cores" in told["machine"]
        assert told["machine"] in page
        assert told["versions"]["torch"] in page
        for entry in told["figures"]:
            assert f"| {figures.Figure(**entry).what} |" in page


@pytest.mark.parametrize(("better", "ratio", "share"), [("less", 2.0, 0.25), ("more", 0.5, 4.0)])
def test_a_ratio_above_1_is_better(figures, better, ratio, share):
    figure = figures.Figure("what", 4.0, "s", 8.0, "other", 1.0, better)
    assert figure.ratio == ratio
    assert figure.share == share


def test_figures_are_written_with_the_machine_and_its_limits(figures, tmp_path):
    figure = figures.Figure("what", 1.23456789, "s")
    figures.finish(tmp_path / "a" / "b.json", "b", [figure], {"x": [1.23456789]}, peer="p==1")
    told = json.loads((tmp_path / "a" / "b.json").read_text())
    assert told["figures"] == [dataclasses.asdict(figure) | {"ours": 1.2346}]
    assert told["results"] == {"x": [1.2346]}
    assert told["versions"]["peer"] == "p==1"
    assert told["limits"]["bytes_per_second"] > 0


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_small(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--small", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tmp_path / "gpu.json"], env=environment, check=True)
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert any("utilisation" in f["what"] for f in figures)
    assert all(f["limit"] > 0 for f in figures)


def test_make_bench_runs_scripts_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in module("benchmarks/run.py").NAMES:
        assert (ROOT / "benchmarks" / f"{name}.py").exists()
