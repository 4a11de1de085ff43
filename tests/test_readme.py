"""The README's first program, its commands and its table are what they say."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from braid.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    braid (.*?)(?:\s{2,}#.*| # .*)?$", README, re.M)


@pytest.mark.slow
def test_the_program_runs_when_pasted(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    assert "minutes=1" in code
    code = code.replace("minutes=1", "minutes=0.1")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/readme/seven.png").is_file()


@pytest.mark.parametrize("line", [c for c in COMMANDS if not c.startswith("/")])
def test_every_command_takes_the_options_shown(line):
    verb, *words = shlex.split(line)
    command = get_command(app).commands[verb]
    if verb == "codec":
        command = command.commands[words[0]]
    known = {name for option in command.params for name in option.opts + option.secondary_opts}
    assert {w for w in words if w.startswith("--")} <= known


def test_the_table_is_what_the_committed_results_say():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.filled(README) == README


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_and_pictures_exist(path):
    assert (ROOT / path).exists()


def test_the_tree_names_files_that_exist():
    tree = README.split("## The tree")[1]
    for name in re.findall(r"^      (\w+[\w./]*)", tree, re.M):
        assert (ROOT / "braid" / name).exists(), name
