"""Imports of a command: the collector is away while they run. Its end: nothing is lost by haste."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from braid.cli import main
from braid.startup import importing


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    (tmp_path / "a_fresh_module.py").write_text("import gc\nduring = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    gc.unfreeze()
    yield
    sys.modules.pop("a_fresh_module", None)
    gc.unfreeze()


def test_nothing_is_collected_while_a_module_is_imported(fresh):
    with importing():
        import a_fresh_module  # pyright: ignore[reportMissingImports]
    assert not a_fresh_module.during
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_what_is_already_imported_freezes_nothing(fresh):
    with importing():
        import sys as again
    assert again is sys
    assert gc.get_freeze_count() == 0


def test_the_collector_comes_back_where_an_import_fails(fresh):
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module_at_all  # noqa: F401  # pyright: ignore[reportMissingImports]
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(fresh):
    gc.disable()
    try:
        with importing():
            import a_fresh_module  # noqa: F401  # pyright: ignore[reportMissingImports]
        assert not gc.isenabled()
    finally:
        gc.enable()


def _left(body, **kwargs):
    code = f"import atexit, sys\nfrom braid.startup import leave\n{body}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", code], text=True, env=env, **kwargs)


def test_leaving_writes_what_was_printed_and_calls_what_waits_for_the_end():
    body = """
atexit.register(print, "at the end")
print("printed", end=" ")
print("told", file=sys.stderr, end="")
leave(3)
"""
    done = _left(body, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "printed at the end\n", "told")


def test_leaving_takes_nothing_down():
    body = """
class Kept:
    def __del__(self):
        print("taken down", flush=True)
kept = Kept()
leave()
"""
    done = _left(body, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_leaving_says_that_an_answer_could_not_be_written():
    with Path("/dev/full").open("w") as full:
        done = _left("print('lost')\nleave()", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "could not be written" in done.stderr


@pytest.mark.slow
def test_an_answer_is_the_same_whenever_torch_is_complete(capfd):
    ask = ["sample", "mini", "how many objects are there?", "--to", "text", "--seed", "3"]
    told = subprocess.run(
        [sys.executable, "-m", "braid", *ask], capture_output=True, text=True, check=True
    )
    with pytest.raises(SystemExit) as stop:
        main(ask)
    assert stop.value.code == 0
    assert capfd.readouterr().out == told.stdout != ""
