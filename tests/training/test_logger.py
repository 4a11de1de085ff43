"""Metrics: metrics.jsonl always holds them, and no sink beside it can block or crash a run."""

from __future__ import annotations

import importlib.util
import io
import json
import sqlite3
import threading
import time

import pytest
from rich.console import Console

from braid.errors import BraidError
from braid.training.logger import PATIENCE, SINKS, Logger


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.lines, self.closed = [], False

    def write(self, step, metrics):
        self.lines.append((step, dict(metrics)))

    def close(self):
        self.closed = True


class Stuck(Kept):
    """A sink that never comes back."""

    def write(self, step, metrics):
        threading.Event().wait()


class Broken(Kept):
    """A sink that raises."""

    def write(self, step, metrics):
        raise OSError("the server is gone")


def leaves():
    """Open a sink whose library ends the program."""
    raise SystemExit(3)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_reach_the_file_and_numbers_the_sinks(tmp_path, console):
    sink = Kept()
    logger = Logger(tmp_path / "m.jsonl", console, sinks={"kept": lambda: sink})
    logger.write(step=3, note="text", skipped=True, **{"train/text/loss": 0.5})
    logger.close()
    assert lines(tmp_path / "m.jsonl") == [
        {"step": 3, "note": "text", "skipped": True, "train/text/loss": 0.5}
    ]
    assert sink.lines == [(3, {"step": 3.0, "train/text/loss": 0.5})]
    assert sink.closed


@pytest.mark.slow
def test_a_sink_that_never_answers_delays_nothing(tmp_path, console):
    logger = Logger(tmp_path / "m.jsonl", console, sinks={"stuck": Stuck})
    began = time.monotonic()
    for step in range(3000):
        logger.write(step=step)
    wrote = time.monotonic()
    logger.close()
    assert wrote - began < PATIENCE  # a sink that is waited for would take for ever
    assert time.monotonic() - wrote < PATIENCE + 1
    assert len(lines(tmp_path / "m.jsonl")) == 3000
    said = console.file.getvalue()
    assert "stuck is switched off (it did not answer while the run ended)" in said
    assert "too slow for" in said


@pytest.mark.slow
def test_sinks_that_never_open_share_one_patience(tmp_path, console):
    def never():
        threading.Event().wait()

    logger = Logger(tmp_path / "m.jsonl", console, sinks={f"never{i}": never for i in range(4)})
    logger.write(step=0)
    began = time.monotonic()
    logger.close()
    assert time.monotonic() - began < PATIENCE + 1


@pytest.mark.parametrize("opener", [Broken, leaves])
def test_a_sink_that_fails_is_said_once_and_switched_off(tmp_path, console, opener):
    logger = Logger(tmp_path / "m.jsonl", console, sinks={"broken": opener})
    for step in range(50):
        logger.write(step=step)
        time.sleep(0.001)
    logger.close()
    assert console.file.getvalue().count("switched off") == 1
    assert len(lines(tmp_path / "m.jsonl")) == 50


def test_other_ranks_write_nothing(tmp_path, console):
    before = threading.active_count()
    logger = Logger(None, console, loggers=("tensorboard",) if _has("tensorboard") else ())
    logger.write(step=1)
    assert threading.active_count() == before
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_killed_run_left_unfinished_is_closed(tmp_path, console):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"st')
    logger = Logger(path, console)
    logger.write(step=2)
    logger.close()
    assert path.read_text().splitlines() == ['{"step": 1}', '{"st', '{"step": 2}']


def test_an_unknown_logger_is_refused_with_the_nearest(tmp_path, console):
    with pytest.raises(BraidError, match="did you mean 'tensorboard'"):
        Logger(tmp_path / "m.jsonl", console, loggers=("tensorbord",))


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, console, name):
    if _has(SINKS[name].package):
        pytest.skip(f"{SINKS[name].package} is installed here")
    with pytest.raises(BraidError, match=rf"pip install 'braid-models\[{name}\]'"):
        Logger(tmp_path / "m.jsonl", console, loggers=(name,))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_a_run_wrote(tmp_path, console):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (range(1, 5), range(3, 7)):  # killed after step 4, went on from step 2
        logger = Logger(tmp_path / "m.jsonl", console, loggers=("tensorboard",), name="toy")
        for step in steps:
            logger.write(step=step, **{"train/text/loss": step / 10})
        patient_close(logger)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [e.step for e in read.Scalars("train/text/loss")] == [1, 2, 3, 4, 5, 6]
    assert console.file.getvalue() == ""


def test_trackio_keeps_what_a_run_wrote(tmp_path, console, monkeypatch):
    if not _has("trackio"):
        pytest.skip("the extra 'trackio' is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))  # read when it is imported
    logger = Logger(tmp_path / "m.jsonl", console, loggers=("trackio",), name="toy")
    logger.write(step=1, loss=0.5)
    patient_close(logger)
    assert console.file.getvalue() == ""
    rows = sqlite3.connect(tmp_path / "store" / "toy.db").execute(
        "select step, metrics from metrics"
    )
    assert [(step, json.loads(text)["loss"]) for step, text in rows] == [(1, 0.5)]


def patient_close(logger):
    """Close, but wait as long as importing a heavy package takes on a busy machine."""
    for beside in logger._beside:
        beside.end()
        beside.join(time.monotonic() + 120)
    logger.close()


def _has(package):
    return importlib.util.find_spec(package) is not None
