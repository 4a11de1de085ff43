"""Folders of tensors and JSON: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from braid import Hole, loading, storage
from braid.errors import BraidError
from braid.pipeline import Pipeline
from tests.laws import models


def saved(folder: Path, paradigm: str = "showo") -> Pipeline:
    """Save a pipeline of random weights, and return it."""
    made = models.pipeline(paradigm)
    made.save(folder)
    return made


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_saved_model_is_equal_to_the_bit_and_samples_the_same(paradigm, tmp_path):
    made = saved(tmp_path / "model", paradigm)
    read = loading.load(tmp_path / "model")
    assert read.experiment == made.experiment
    ours, theirs = made.braid.state_dict(), read.braid.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    name = models.drawn(paradigm)[-1]
    holes = [Hole(name)]
    a, b = (p(holes, seed=4, steps=3, trajectory=True) for p in (made, read))
    assert torch.equal(a.trajectory[-1].belief, b.trajectory[-1].belief)


def test_tied_weights_are_still_tied_after_loading(tmp_path):
    made = models.experiment("chameleon", "strands.text.tied=true")
    Pipeline(models.stirred(made, torch.float32), made).save(tmp_path / "model")
    strand = loading.load(tmp_path / "model").braid.strand("text")
    assert strand.head.linear.weight is strand.embedder.table.weight


def test_a_saved_model_holds_only_safetensors_and_json(tmp_path):
    saved(tmp_path / "model")
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"experiment.json", "modalities.json", "model.safetensors"}


def test_saving_again_replaces_the_model(tmp_path):
    saved(tmp_path / "model", "showo")
    saved(tmp_path / "model", "mmada")
    assert loading.load(tmp_path / "model").experiment.rule == "full"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BraidError, match="holds other files, such as 'thesis.tex'; choose another"):
        saved(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_filled(tmp_path):
    saved(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    storage.save(tmp_path / "a", {"x": {"w": torch.ones(2)}}, {})
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(BraidError, match="Device or resource busy"):
        storage.save(tmp_path / "a", {"x": {"w": torch.zeros(2)}}, {})
    assert storage.read_tensors(tmp_path / "a" / "x.safetensors")["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(BraidError, match="cannot write"):
            saved(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_folder_as_it_was(tmp_path):
    storage.save(tmp_path / "a", {"x": {"w": torch.ones(2)}}, {"t": {"n": 1}})
    with pytest.raises(TypeError):
        storage.save(tmp_path / "a", {"x": {"w": torch.zeros(2)}}, {"t": {"n": object()}})
    assert storage.read_tensors(tmp_path / "a" / "x.safetensors")["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_truncated_file_is_refused(tmp_path):
    saved(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    for size in (0, 5, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(BraidError, match="model.safetensors' is damaged .* use an earlier"):
            loading.load(tmp_path / "model")
        saved(tmp_path / "model")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x80\x04K\x01." * 100)
    with pytest.raises(BraidError, match="is damaged"):
        loading.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("modalities.json", "{", "is damaged"),
        ("modalities.json", "[]", "holds no mapping; it was not written by braid"),
        ("modalities.json", "{}", "modality 'text' lacks its tokenizer; the folder is incomplete"),
        ("modalities.json", '{"text": {"tokenizer": "{}"}}', "this is no tokenizer.json"),
        ("experiment.json", "{", "is not readable YAML or JSON"),
        ("experiment.json", "{}", "name: Field required"),
    ],
)
def test_damaged_json_is_refused(name, text, message, tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / name).write_text(text)
    with pytest.raises(BraidError, match=message):
        loading.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["modalities.json", "model.safetensors", "experiment.json"])
def test_a_missing_file_is_refused(name, tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(BraidError, match="does not exist|holds no"):
        loading.load(tmp_path / "model")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    saved(tmp_path / "model")
    path = tmp_path / "model" / "experiment.json"
    text = json.loads(path.read_text())
    text["transformer"]["width"] = 16
    path.write_text(json.dumps(text))
    with pytest.raises(
        BraidError, match="has shape .*; the checkpoint belongs to another experiment"
    ):
        loading.load(tmp_path / "model")


def test_a_checkpoint_with_other_tensors_is_refused(tmp_path):
    saved(tmp_path / "model")
    path = tmp_path / "model" / "experiment.json"
    text = json.loads(path.read_text())
    text["transformer"]["depth"] = 3
    path.write_text(json.dumps(text))
    with pytest.raises(BraidError, match="tensors are missing .* belongs to another experiment"):
        loading.load(tmp_path / "model")


def test_a_path_that_is_no_model_is_refused(tmp_path):
    for path, message in (
        (tmp_path / "none", "does not exist; give a run directory or a saved model"),
        (tmp_path, "holds no experiment.json; it is no run directory"),
    ):
        with pytest.raises(BraidError, match=message):
            loading.load(path)


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "checkpoints").mkdir()
    with pytest.raises(BraidError, match="holds no checkpoint yet; train it first"):
        loading.load(tmp_path / "model")


def test_checkpoints_are_numbered_not_sorted_by_name(tmp_path):
    for name in ("step-2", "step-10", "step-9.tmp-abc", "other"):
        (tmp_path / name).mkdir()
    assert [n for n, _ in storage.steps(tmp_path)] == [2, 10]
    assert storage.steps(tmp_path / "none") == []


def test_a_json_file_is_written_whole_or_not_at_all(tmp_path):
    storage.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "a.json", {"a": object()})
    assert storage.read_json(tmp_path / "a.json") == {"a": 1}
    with pytest.raises(BraidError, match="cannot write .* free some space"):
        storage.write_json(tmp_path / "a.json" / "b.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_copied_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    storage.copy_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").read_text() == "x"
    with pytest.raises(OSError, match="none"):
        storage.copy_folder(tmp_path / "none", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
