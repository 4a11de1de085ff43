"""Enough sound checkpoints are there at every instant, and no more than asked for."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braid.checkpoints import Checkpoints, checkpoints
from tests.checkpoints.made import leftovers, resumed, saved, sound, tensors, zeros


class Watched(Checkpoints):
    """Checkpoints of which it is checked, whenever one is taken away, that enough are left."""

    def _retire(self, step: int) -> Path:
        old = super()._retire(step)
        assert len(sound(self.folder)) >= min(2, self.made)
        return old

    made = 0


def expected(steps: list[int], keep: int, keep_every: int) -> list[int]:
    """Return what is kept after saving these steps."""
    for_ever = [n for n in steps if keep_every and n % keep_every == 0]
    return sorted({*steps[-max(keep, 2) :], *for_ever})


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    keep=st.integers(1, 4),
    keep_every=st.integers(0, 4),
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    restarts=st.sets(st.integers(0, 5)),
    bad=st.sets(st.integers(0, 5), max_size=2),
)
def test_the_newest_sound_ones_are_kept(keep, keep_every, gaps, restarts, bad):
    with tempfile.TemporaryDirectory() as name:
        folder, step, good = Path(name), 0, []
        made = Watched(folder, keep=keep, keep_every=keep_every, say=lambda text: None)
        for number, gap in enumerate(gaps):
            step += gap
            Watched.made = len(good)
            made.save(step, tensors(step), {"step": step})
            good = expected([*good, step], keep, keep_every)
            assert sound(folder) == made.steps() == good
            if number in bad and len(good) > 1:
                (folder / f"step-{step}" / "state.json").unlink()
                good.remove(step)
            if number in restarts or number in bad:
                made = Watched(folder, keep=keep, keep_every=keep_every, say=lambda text: None)
                state = made.load(zeros(tensors()))
                assert state == {"step": good[-1]}
                step = good[-1]


def test_two_are_kept_even_if_one_is_asked_for(tmp_path):
    saved(tmp_path, 1, 2, 3, keep=1)
    assert sound(tmp_path) == [2, 3]


def test_nothing_is_deleted_where_the_new_one_is_not_committed(tmp_path, monkeypatch):
    made = saved(tmp_path, 1, 2)

    def rename(path: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints.Path, "rename", rename)
    with pytest.raises(ValueError, match="Input/output error"):
        made.save(3, tensors(3), {"step": 3})
    assert (sound(tmp_path), leftovers(tmp_path)) == ([1, 2], [])


def test_an_old_one_that_cannot_be_deleted_is_no_error(tmp_path, monkeypatch):
    said: list[str] = []
    made = saved(tmp_path, 1, 2, say=said.append)
    whole = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == "step-1":
            raise PermissionError(1, "Operation not permitted")
        return whole(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    made.save(3, tensors(3), {"step": 3})
    assert resumed(tmp_path) == (3, [])
    assert "cannot delete" in said[0]


def test_foreign_folders_stay(tmp_path):
    (tmp_path / "step-0").mkdir()  # no manifest: not ours to delete
    shutil.copytree(tmp_path / "step-0", tmp_path / "notes")
    saved(tmp_path, 1, 2, 3)
    assert leftovers(tmp_path) == ["notes", "step-0"]
