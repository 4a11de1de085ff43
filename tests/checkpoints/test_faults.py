"""A process may end at any point of saving: the newest committed checkpoint is there, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from braid.checkpoints import Checkpoints, faults
from braid.checkpoints.faults import PLACES, reach
from braid.errors import BraidError
from tests.checkpoints.made import apart, leftovers, resumed, saved, sound, tensors, zeros
from tests.parallel.ranks import finish, start

STEPS = 6


def series(folder: Path, background: bool) -> None:
    """Go on with saving steps 1 to 6; each that has returned is noted beside."""
    made = Checkpoints(folder, background=background)
    found = made.load(zeros(tensors()))
    for step in range(1 if found is None else found["step"] + 1, STEPS + 1):
        made.save(step, tensors(step), {"step": step})
        made.wait()
        (folder.parent / "done-0").write_text(str(step))


def check(folder: Path) -> int:
    """Claim that nothing that was told to be saved is lost; returns the step to go on from."""
    note = folder.parent / "done-0"
    done = int(note.read_text()) if note.exists() else 0
    if not Checkpoints(folder).steps():
        assert done == 0
        return 0
    there = sound(folder)
    assert there == Checkpoints(folder).steps()
    assert len(there) >= min(2, done)
    step, said = resumed(folder)
    assert step == there[-1]
    assert step in (done, done + 1)
    assert said == []
    note.write_text(str(step))
    return step


@pytest.mark.parametrize("k", [pytest.param(k, marks=pytest.mark.slow) for k in (1, 2)] + [3])
@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_ends_in_a_save_loses_at_most_that_save(place, k, tmp_path):
    folder, background = tmp_path / "checkpoints", place == "mid-background" or k == 2
    deaths, steps = 0, [0]
    for _ in range(STEPS + 1):
        ended = apart(lambda: series(folder, background), f"{place}:{k}")
        steps.append(check(folder))
        if ended == 0:
            break
        assert ended == 137
        deaths += 1
        if steps[-1] == steps[-2]:
            break  # it dies at the first save of every process
    assert deaths > 0
    assert apart(lambda: series(folder, background)) == 0
    assert check(folder) == STEPS
    saved(folder, STEPS + 1)  # clears what the dead left
    assert leftovers(folder) == []
    assert sound(folder) == [STEPS, STEPS + 1]


def test_all_places_are_documented_and_unknown_ones_refused(monkeypatch):
    assert all(f"    {place} " in (faults.__doc__ or "") for place in PLACES)
    monkeypatch.setenv(faults.VARIABLE, "before-dinner:1")
    with pytest.raises(BraidError, match="unknown place in BRAID_FAULT 'before-dinner'"):
        reach("before-data")
    monkeypatch.setenv(faults.VARIABLE, "before-data")
    with pytest.raises(BraidError, match="expected name:k"):
        reach("before-data")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_two_ranks_that_end_in_a_save_lose_at_most_that_save(place, tmp_path):
    folder, background = tmp_path / "checkpoints", place == "mid-background"
    code = (
        "from braid import parallel\n"
        "from tests.checkpoints.work import series\n"
        "world = parallel.join(seconds=20)\n"
        f"series(world, {str(folder)!r}, {background})\n"
        "parallel.leave(world)\n"
    )
    ranks = start(["-c", code], 2, BRAID_FAULT=f"{place}:3")
    said = [p.communicate(timeout=120)[0] for p in ranks]
    assert ranks[0].returncode == 137, said[0]
    assert ranks[1].returncode != 0, said[1]
    check(folder)
    finish(start(["-c", code], 2))
    assert check(folder) == STEPS
    saved(folder, STEPS + 1)
    assert leftovers(folder) == []
