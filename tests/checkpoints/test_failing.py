"""A save that fails is reported, leaves no trace, and takes nothing with it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from braid.checkpoints import Checkpoints
from braid.errors import BraidError
from tests.checkpoints.made import leftovers, resumed, saved, sound, tensors


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let files grow no larger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_is_an_error_and_nothing_is_lost(tmp_path):
    made = saved(tmp_path, 1, 2)
    with small_files(10_000), pytest.raises(BraidError, match="cannot write .* free some space"):
        made.save(3, tensors(3, 4000), {"step": 3})
    assert (leftovers(tmp_path), sound(tmp_path)) == ([], [1, 2])
    made.save(3, tensors(3), {"step": 3})
    assert resumed(tmp_path) == (3, [])


def test_an_error_of_a_background_save_is_told_once_by_poll(tmp_path):
    made = saved(tmp_path, 1, 2, background=True)
    made.wait()
    with small_files(10_000):
        made.save(3, tensors(3, 4000), {"step": 3})  # returns
        error, limit = None, time.monotonic() + 60
        while error is None and time.monotonic() < limit:
            error = made.poll()
    assert isinstance(error, BraidError)
    assert "cannot write" in str(error)
    assert made.poll() is None
    made.wait()
    assert (leftovers(tmp_path), sound(tmp_path)) == ([], [1, 2])
    made.save(4, tensors(4), {"step": 4})
    made.wait()
    assert resumed(tmp_path) == (4, [])


def test_an_error_of_a_background_save_is_raised_by_wait(tmp_path):
    made = Checkpoints(tmp_path, background=True)
    with small_files(10_000):
        made.save(3, tensors(3, 4000), {"step": 3})
        with pytest.raises(BraidError, match="cannot write"):
            made.wait()
    made.wait()


def test_a_later_save_is_made_though_the_one_before_failed(tmp_path):
    made = Checkpoints(tmp_path, background=True)
    with small_files(10_000):
        made.save(3, tensors(3, 4000), {"step": 3})
        made.save(4, tensors(4), {"step": 4})
        with pytest.raises(BraidError, match="cannot write"):
            made.wait()
    assert sound(tmp_path) == [4]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("folder", ["file", "/proc/none"])
def test_a_folder_that_cannot_be_written_is_an_error(folder, background, tmp_path):
    (tmp_path / "file").write_text("")
    made = Checkpoints(tmp_path / folder / "checkpoints", background=background)
    with pytest.raises(BraidError, match="cannot write .*step-1'.*choose another folder"):
        made.save(1, tensors(), {})
        made.wait()


def test_a_disk_that_fails_at_any_file_loses_nothing(tmp_path, monkeypatch):
    whole, failed = os.fsync, 0
    for fail_at in range(1, 40, 3):
        folder = tmp_path / str(fail_at)
        made, calls = saved(folder, 1, 2), 0

        def fsync(number: int) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:  # noqa: B023 - called within the loop
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(number)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            made.save(3, tensors(3), {"step": 3})
        except BraidError as e:
            failed += 1
            assert "No space left on device" in str(e)
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", whole)
        assert leftovers(folder) == []
        assert len(sound(folder)) >= 2
        made.save(4, tensors(4), {"step": 4})
        assert resumed(folder) == (4, [])
    assert failed >= 4  # at data, the state, the manifest and folders


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    made = saved(tmp_path, 1, 2)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 100, 100))
    said = r"asks for [\d.e-]+ GB of free space, but '.*' has 1e-07 GB; free some, lower train.keep"
    with pytest.raises(BraidError, match=said):
        made.save(3, tensors(3), {"step": 3})
    assert (leftovers(tmp_path), sound(tmp_path)) == ([], [1, 2])


def test_what_dead_saves_left_is_cleared_and_nothing_else(tmp_path):
    made = saved(tmp_path, 1)
    (tmp_path / "step-9.tmp-abc" / "model").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    Path(tmp_path / "step-3.txt").write_text("mine")
    made.save(2, tensors(2), {"step": 2})
    assert leftovers(tmp_path) == ["notes", "step-3.txt"]
