"""One job a run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from braid.checkpoints import Lock
from braid.errors import BraidError
from tests.checkpoints.made import apart


def test_a_second_job_is_refused_and_told_who_holds_the_folder(tmp_path):
    def second() -> None:
        with (
            pytest.raises(BraidError, match=rf"in use by process {holder} on .+ since 20\d\d-"),
            Lock(tmp_path),
        ):
            pass

    holder = os.getpid()
    with Lock(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == holder
        assert apart(second) == 0
        second()  # nor twice in one process
    with Lock(tmp_path):
        pass


def test_the_lock_of_a_killed_job_is_free(tmp_path):
    child = os.fork()
    if child == 0:
        with Lock(tmp_path):
            time.sleep(600)
        os._exit(0)
    limit = time.monotonic() + 60
    while not (tmp_path / ".lock.json").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    with pytest.raises(BraidError, match="in use by"), Lock(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock.json").exists()
    with Lock(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()


def test_a_holder_without_a_note_is_still_a_holder(tmp_path):
    with Lock(tmp_path):
        (tmp_path / ".lock.json").write_text("{")
        with pytest.raises(BraidError, match="in use by another process"), Lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BraidError, match="cannot lock"), Lock(Path(tmp_path / "file" / "run")):
        pass
