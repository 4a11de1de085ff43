"""What is saved comes back to the bit, in the same process, another, or a number of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from braid.checkpoints import Checkpoints, newest, read, verify
from braid.checkpoints.pieces import stage
from braid.checkpoints.writing import write
from braid.errors import BraidError
from braid.parallel import World
from tests.checkpoints.made import (
    apart,
    differing,
    leftovers,
    resumed,
    saved,
    sound,
    tensors,
    zeros,
)
from tests.parallel.ranks import call

WORK = "tests.checkpoints.work"


@pytest.mark.parametrize("background", [False, True])
def test_tensors_and_state_come_back(background, tmp_path):
    state = {"step": 7, "norms": [0.1, 1e-300], "rows": {"é": 3}, "none": None}
    made = Checkpoints(tmp_path / "c", background=background)
    made.save(7, tensors(7), state)
    made.wait()
    into = zeros(tensors())
    assert Checkpoints(tmp_path / "c").load(into) == state
    assert differing(into, tensors(7)) == []
    assert made.steps() == [7]
    assert leftovers(tmp_path / "c") == []


def test_what_changes_after_a_background_save_is_not_in_it(tmp_path):
    made, values = Checkpoints(tmp_path, background=True), tensors(1)
    made.save(1, values, {"step": 1})
    for named in values.values():
        for t in named.values():
            t.zero_()
    made.save(2, values, {"step": 2})  # waits for the first
    made.wait()
    assert (
        differing({"model": read(tmp_path / "step-1", "model")}, {"model": tensors(1)["model"]})
        == []
    )
    assert made.poll() is None


def test_a_group_is_read_whole_and_in_its_own_types(tmp_path):
    saved(tmp_path, 3)
    for group, named in tensors(3).items():
        got = read(tmp_path / "step-3", group)
        assert differing({group: got}, {group: named}) == []
        assert {n: (t.shape, t.dtype) for n, t in got.items()} == {
            n: (t.shape, t.dtype) for n, t in named.items()
        }
    with pytest.raises(BraidError, match="holds no 'codec'; it holds model, ema, optimizer"):
        read(tmp_path / "step-3", "codec")


def test_a_folder_holds_safetensors_and_json_only(tmp_path):
    saved(tmp_path, 3, run="r")
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    shard = "shard-00001-model-00001-of-00001.safetensors"
    assert names == [
        f"step-3/{n}"
        for n in (
            "ema/" + shard,
            "manifest.json",
            "model/" + shard,
            "optimizer/" + shard,
            "state.json",
        )
    ]
    manifest = json.loads((tmp_path / "step-3" / "manifest.json").read_text())
    assert {k: manifest[k] for k in ("format", "run", "step", "world")} == {
        "format": 1,
        "run": "r",
        "step": 3,
        "world": 1,
    }
    assert len(manifest["files"]) == 4
    with safe_open(tmp_path / "step-3" / "model" / shard, "pt") as f:
        offsets = json.loads(f.metadata()["DCP_SHARDING_INFO"])
    assert offsets["table"] == {"saved_offsets": [0, 0]}


def test_large_groups_are_split_into_files(tmp_path):
    named = {str(i): torch.full((100,), float(i)) for i in range(6)}
    write(tmp_path / "step-1" / "model", stage(named, copy=False), World(), file_bytes=1000)
    assert len(list((tmp_path / "step-1" / "model").iterdir())) == 3


def test_a_step_is_written_once(tmp_path):
    made = saved(tmp_path, 3)
    before = (tmp_path / "step-3" / "manifest.json").read_bytes()
    made.save(3, tensors(4), {"step": 4})
    saved(tmp_path, 3)
    assert (tmp_path / "step-3" / "manifest.json").read_bytes() == before


def test_no_checkpoint_is_none_and_other_names_are_no_checkpoints(tmp_path):
    assert Checkpoints(tmp_path / "none").load(zeros(tensors())) is None
    for name in ("step-x", "step-5.tmp-abc", "step-", "xstep-5", "step-5x", "step-٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-7").write_text("a file")
    made = Checkpoints(tmp_path)
    assert made.load(zeros(tensors())) is None
    assert (made.steps(), newest(tmp_path)) == ([], None)


def renamed(name: str) -> dict:
    """Return tensors in which one differs in name."""
    out = zeros(tensors())
    out["model"][name] = out["model"].pop("table")
    return out


def changed(value: torch.Tensor) -> dict:
    """Return tensors in which one differs in shape or type."""
    out = zeros(tensors())
    out["model"]["table"] = value
    return out


@pytest.mark.parametrize(
    ("into", "said"),
    [
        (renamed("other"), r"1 tensors of 'model' are missing \(first: \['other'\]\), 1 unknown"),
        (changed(torch.zeros(5, 7)), r"'table' of 'model' has shape \(5, 6\).*expected \(5, 7\)"),
        (changed(torch.zeros(6, 6)), r"'table' of 'model' has shape \(5, 6\).*expected \(6, 6\)"),
        (changed(torch.zeros(5, 6).double()), "torch.float32, expected .*torch.float64"),
        ({"model": zeros(tensors())["model"]}, "holds .*'ema'.*, expected"),
    ],
)
def test_tensors_of_another_experiment_are_refused_at_once(into, said, tmp_path):
    saved(tmp_path, 1, 2)
    with pytest.raises(BraidError, match=f"{said}.*belongs to another experiment"):
        Checkpoints(tmp_path).load(into)
    assert all(not t.any() for named in into.values() for t in named.values())


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path):
    saved(tmp_path, 1, run="ours")
    saved(tmp_path, 2, run="theirs", say=lambda text: None)
    step, said = resumed(tmp_path, run="ours")
    assert step == 1
    assert "manifest.json: was written by run 'theirs', and this is 'ours'" in said[0]


def test_an_error_of_writing_that_is_no_users_mistake_keeps_its_name(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Checkpoints(tmp_path).save(1, tensors(), {"x": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_ranks_and_one_read_each_others_checkpoints(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    saved(alone, 5)
    said = call(WORK, "everything", 2, {"alone": str(alone), "both": str(both)})
    for rank, told in enumerate(said):
        assert told["one"] == {"step": 5, "wrong": []}
        assert told["two"] == {"step": 3, "wrong": []}
        assert all("rank 1 cannot write" in text for text in told["limited"]), rank
        assert told["sound"] == [2, 3]
    assert said[0]["left"] == []
    assert resumed(both) == (3, [])
    assert sorted(p.name[:11] for p in (both / "step-3" / "model").iterdir()) == [
        "shard-00001",
        "shard-00002",
    ]
    for group, named in tensors(3).items():
        got = read(both / "step-3", group)
        assert [n for n in named if not torch.equal(got[n], named[n])] == []


@pytest.mark.slow
def test_four_ranks_with_replicas_read_what_two_and_one_wrote(tmp_path):
    both = tmp_path / "both"
    saved(both, 3)
    told = call(WORK, "hybrid", 4, {"both": str(both)})
    assert told == [{"step": 3, "wrong": [], "again": {"step": 4, "wrong": []}}] * 4
    assert resumed(both) == (4, [])
    assert sound(both) == [3, 4]


@pytest.mark.slow
def test_one_process_under_torchrun_needs_no_other(tmp_path):
    assert call(WORK, "series", 1, {"folder": str(tmp_path / "c")}) == [6]
    assert resumed(tmp_path / "c") == (6, [])


def test_a_job_apart_sees_the_same(tmp_path):
    saved(tmp_path, 1)
    assert apart(lambda: saved(tmp_path, 2)) == 0
    assert resumed(tmp_path) == (2, [])
    assert verify(tmp_path / "step-2") == []
    assert os.listdir(tmp_path / "step-2") != []  # noqa: PTH208


def test_the_folder_may_be_a_string(tmp_path):
    Checkpoints(str(tmp_path)).save(1, tensors(1), {"step": 1})  # type: ignore[arg-type]
    assert newest(str(tmp_path)) == Path(tmp_path) / "step-1"  # type: ignore[arg-type]
