"""A damaged checkpoint is never loaded: it is named, and the one before is used."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from braid import loading
from braid.checkpoints import Checkpoints, newest, read, verify
from braid.errors import BraidError
from braid.pipeline import Pipeline
from tests.checkpoints.made import resumed, saved, sound, tensors, zeros
from tests.laws import models

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def files(folder: Path) -> list[Path]:
    """Return all files of a checkpoint."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def test_200_flipped_bits_are_all_found_and_the_file_is_named(tmp_path):
    saved(tmp_path, 1, 2)
    rng = random.Random(0)
    seen = set()
    for _ in range(200):
        path = rng.choice(files(tmp_path / "step-2"))
        whole = path.read_bytes()
        flip(path, rng)
        assert path.read_bytes() != whole
        step, said = resumed(tmp_path)
        name = path.relative_to(tmp_path / "step-2").as_posix()
        assert (step, len(said)) == (1, 2)
        assert "step-2" in said[0]
        assert name in said[0]
        path.write_bytes(whole)
        seen.add(name)
    assert len(seen) == 5
    assert resumed(tmp_path) == (2, [])


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def zero_tail(path: Path, other: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def grow(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def remove(path: Path, other: Path) -> None:
    path.unlink()


def swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def directory(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [truncate, empty, zero_tail, grow, remove, swap, directory])
def test_every_harm_to_every_file_is_found(harm, tmp_path):
    saved(tmp_path / "ours", 1, 2)
    other = Checkpoints(tmp_path / "theirs")  # another run, the same shapes
    other.save(2, tensors(9), {"step": 9})
    for path in files(tmp_path / "ours" / "step-2"):
        name = path.relative_to(tmp_path / "ours" / "step-2")
        shutil.copytree(tmp_path / "ours", tmp_path / "copy")
        harm(tmp_path / "copy" / "step-2" / name, tmp_path / "theirs" / "step-2" / name)
        step, said = resumed(tmp_path / "copy")
        assert step == 1
        shutil.rmtree(tmp_path / "copy")
        if harm is not swap or name.name != "manifest.json":
            assert name.as_posix() in said[0]


def test_a_manifest_of_another_step_is_found(tmp_path):
    saved(tmp_path, 1, 2)
    shutil.copy(tmp_path / "step-1" / "manifest.json", tmp_path / "step-2" / "manifest.json")
    step, said = resumed(tmp_path)
    assert step == 1
    assert "manifest.json: belongs to step-1" in said[0]


def test_a_checkpoint_under_another_name_is_found(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "step-2").rename(tmp_path / "step-3")
    assert verify(tmp_path / "step-3") == ["manifest.json: belongs to step-2"]
    assert resumed(tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "has format 2, this version of braid reads 1"),
        ({"files": {"../../x.safetensors": {}}}, "names '../../x.safetensors'"),
        ({"files": {"model/../../x.safetensors": {}}}, "which no checkpoint has"),
    ],
)
def test_a_manifest_that_is_whole_but_strange_is_refused(change, said, tmp_path):
    from braid.checkpoints import manifest

    saved(tmp_path, 1)
    content = json.loads((tmp_path / "step-1" / "manifest.json").read_text()) | change
    del content["sha256"]
    manifest.write(tmp_path / "step-1", content)
    (line,) = verify(tmp_path / "step-1")
    assert said in line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"a": 1}', "\x00" * 50])
def test_a_manifest_of_anything_is_damaged(text, tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "step-1" / "manifest.json").write_text(text)
    (line,) = verify(tmp_path / "step-1")
    assert line.startswith("manifest.json: is damaged")


def test_each_bad_file_has_a_line(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "step-1" / "state.json").unlink()
    (tmp_path / "step-1" / "ema" / SHARD).write_bytes(b"x")
    assert [line.split(":")[0] for line in verify(tmp_path / "step-1")] == [
        f"ema/{SHARD}",
        "state.json",
    ]


def test_the_newest_sound_one_is_used_however_many_are_bad(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=4)
    for bad in (4, 3, 2):
        flip(tmp_path / f"step-{bad}" / "ema" / SHARD, random.Random(bad))
        step, said = resumed(tmp_path)
        assert step == bad - 1
        assert len(said) == 5 - bad + 1
        assert f"going on from {str(tmp_path / f'step-{bad - 1}')!r}" in said[-1]


def test_it_never_starts_afresh_where_all_are_bad(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"step-{step}" / "ema" / SHARD, random.Random(step))
    said = f"no checkpoint in .* is sound: step-2 .ema/{SHARD}: is damaged.*, step-1 .*afresh in"
    with pytest.raises(BraidError, match=said):
        Checkpoints(tmp_path, say=lambda text: None).load(zeros(tensors()))


def test_a_folder_without_a_manifest_is_incomplete_and_not_committed(tmp_path):
    made = saved(tmp_path, 1, 2)
    (tmp_path / "step-2" / "manifest.json").unlink()
    assert made.steps() == [1]
    step, said = resumed(tmp_path)
    assert step == 1
    assert "manifest.json: is missing; the checkpoint is incomplete" in said[0]
    (tmp_path / "step-1" / "manifest.json").unlink()
    with pytest.raises(BraidError, match="incomplete"):
        Checkpoints(tmp_path, say=lambda text: None).load(zeros(tensors()))


def test_a_bad_checkpoint_is_written_again_and_never_counts_as_kept(tmp_path):
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-2" / "ema" / SHARD, random.Random(0))
    again = Checkpoints(tmp_path, say=lambda text: None)
    assert again.load(zeros(tensors())) == {"step": 1}
    again.save(2, tensors(2), {"step": 2})
    assert sound(tmp_path) == [1, 2]
    assert resumed(tmp_path) == (2, [])


def test_a_bad_checkpoint_goes_only_when_enough_sound_ones_are_there(tmp_path):
    saved(tmp_path, 1, 8)
    flip(tmp_path / "step-8" / "ema" / SHARD, random.Random(0))
    again = Checkpoints(tmp_path, say=lambda text: None)
    again.load(zeros(tensors()))
    again.save(3, tensors(3), {"step": 3})
    assert (sound(tmp_path), again.steps()) == ([1, 3], [1, 3])
    flip(tmp_path / "step-3" / "ema" / SHARD, random.Random(0))
    later = Checkpoints(tmp_path, say=lambda text: None)  # has not looked at any
    later.save(4, tensors(4), {"step": 4})
    assert sound(tmp_path) == [1, 4]


def test_a_group_of_a_damaged_checkpoint_is_refused_and_a_whole_one_is_read(tmp_path):
    saved(tmp_path, 1)
    flip(tmp_path / "step-1" / "ema" / SHARD, random.Random(0))
    with pytest.raises(BraidError, match=f"ema/{SHARD}: is damaged"):
        read(tmp_path / "step-1", "ema")
    assert torch.equal(read(tmp_path / "step-1", "model")["table"], tensors(1)["model"]["table"])
    assert newest(tmp_path, ["model"]) == tmp_path / "step-1"
    with pytest.warns(UserWarning, match="is passed over: ema/"):
        assert newest(tmp_path) is None


def run_folder(folder: Path) -> Pipeline:
    """Make a run's folder with two checkpoints; returns the model with the newest average."""
    made = models.pipeline("showo")
    made.save(folder)
    (folder / "model.safetensors").unlink()
    whole = dict(made.braid.state_dict())
    average = {n: p.detach() * 2 for n, p in made.braid.named_parameters()}
    for step in (1, 2):
        Checkpoints(folder / "checkpoints").save(
            step,
            {
                "model": whole,
                "ema": {n: t / step for n, t in average.items()},
                "optimizer": {"step": torch.tensor(step)},
            },
            {"step": step},
        )
    return made


def test_a_run_is_used_from_its_newest_sound_average(tmp_path):
    made = run_folder(tmp_path)
    loaded = loading.load(tmp_path, "cpu").braid.state_dict()
    assert all(torch.equal(t, loaded[n]) for n, t in made.braid.state_dict().items())
    checkpoints = tmp_path / "checkpoints"
    flip(checkpoints / "step-2" / "optimizer" / SHARD, random.Random(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loading.load(tmp_path, "cpu")  # nothing of the optimiser is needed
    flip(checkpoints / "step-2" / "ema" / SHARD, random.Random(0))
    with pytest.warns(UserWarning, match=r"step-2' is passed over: ema/"):
        older = loading.load(tmp_path, "cpu").braid
    for name, p in older.named_parameters():
        assert torch.equal(p, 2 * made.braid.get_parameter(name))
    (checkpoints / "step-1" / "model" / SHARD).unlink()
    with pytest.raises(BraidError, match="has no sound checkpoint; put back a copy.*is missing"):
        loading.load(tmp_path, "cpu")
