"""What the pages docs/add-a-*.md tell is done to a copy of the library; the laws are run on it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def follow(page: str, registry: str, copy: Path) -> str:
    """Do what a page tells in a copy of the project; return the new name."""
    text = (ROOT / "docs" / page).read_text()
    code, line = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    file = re.search(r"Write `(.*?)`", text)[1]
    for folder in ("braid", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / file).write_text(code)
    home = (copy / file).parent / "__init__.py"
    name, cls = re.search(r'"(\w+)": (\w+),', line).groups()
    module = file.removesuffix(".py").replace("/", ".")
    source = home.read_text()
    source = source.replace("from braid.", f"from {module} import {cls}\nfrom braid.", 1)
    source = re.sub(rf"({registry}: [^\n]*{{\n)", rf"\g<1>{line}", source)
    home.write_text(source)
    return name


def run(copy: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_process_is_one_file_and_one_line(tmp_path):
    name = follow("add-a-process.md", "PROCESSES", tmp_path)
    out = run(
        tmp_path,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/processes/test_process_laws.py",
        "tests/samplers/test_sampler_laws.py",
        "tests/laws/test_registries.py",
        "-k",
        name,
    )
    assert re.search(r"\b([5-9]|\d\d+) passed", out), out
    assert "failed" not in out


@pytest.mark.slow
def test_the_new_process_trains_from_the_command_line(tmp_path):
    name = follow("add-a-process.md", "PROCESSES", tmp_path)
    run(
        tmp_path,
        "-m",
        "braid",
        "train",
        "toy",
        f"strands.image.process={name}",
        "strands.image.sampler=null",
        "train.steps=60",
        "--out",
        str(tmp_path / "run"),
    )
    run(
        tmp_path,
        "-m",
        "braid",
        "sample",
        str(tmp_path / "run"),
        "row two",
        "--out",
        str(tmp_path / "x.png"),
    )
    assert (tmp_path / "x.png").is_file()


@pytest.mark.slow
def test_a_modality_is_one_file_and_one_line(tmp_path):
    name = follow("add-a-modality.md", "MODALITIES", tmp_path)
    out = run(
        tmp_path,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/laws/test_registries.py",
        "-k",
        name,
    )
    assert re.search(r"\b([2-9]|\d\d+) passed", out), out
    assert "failed" not in out
    assert name in run(tmp_path, "-m", "braid", "recipes")


def test_the_page_on_adaptation_says_what_was_measured():
    spec = importlib.util.spec_from_file_location("adapt_ar", ROOT / "benchmarks" / "adapt_ar.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    found = json.loads((ROOT / "docs" / "adaptation.json").read_text())
    page = (ROOT / "docs" / "adaptation.md").read_text()
    assert bench.filled(page, found) == page
    assert found["steps_to"] == bench.reached(found["curves"])
