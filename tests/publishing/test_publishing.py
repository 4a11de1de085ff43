"""Folders with a card, and the Hub: what goes up comes back, and nobody's card is lost."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
import yaml

import braid
from braid import Braid, Hole, Pipeline, loading, publishing
from braid.cli import main
from braid.config import DataConfig
from braid.errors import BraidError
from braid.publishing.card import facts_of
from tests.laws import models
from tests.publishing.server import TOKEN, Hub


@functools.cache
def pipe(paradigm: str = "showo") -> Pipeline:
    """Return a pipeline of random weights."""
    return models.pipeline(paradigm)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a Hub on this machine, and let huggingface_hub ask it."""
    from huggingface_hub import constants

    served = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    url = served.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield served
    served.close()


def equal(a: Braid, b: Braid) -> bool:
    """Return whether two models have the same weights, bit for bit."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[n].cpu(), y[n].cpu()) for n in x)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_what_is_saved_comes_back(paradigm, tmp_path):
    pipe(paradigm).save_pretrained(tmp_path / "model")
    back = Pipeline.from_pretrained(tmp_path / "model", device="cpu")
    assert equal(back.braid, pipe(paradigm).braid)
    assert back.experiment == pipe(paradigm).experiment
    kinds = {p.suffix for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert kinds == {".json", ".safetensors", ".md"}
    name = models.drawn(paradigm)[-1]
    one, two = (p([Hole(name)], steps=2, seed=5)[0] for p in (back, pipe(paradigm)))
    assert np.array_equal(np.asarray(one), np.asarray(two))


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_the_card_has_a_header_and_names_every_strand(paradigm):
    from huggingface_hub import ModelCard

    made = pipe(paradigm)
    text = publishing.write_card(made.braid, made.experiment, name="me/toy", license="apache-2.0")
    header = ModelCard(text).data.to_dict()
    assert header["library_name"] == "braid"
    assert header["license"] == "apache-2.0"
    assert "braid" in header["tags"]
    for name, strand in made.braid.strands.items():
        process = type(strand.process).__name__ if strand.process else "read only"
        assert f"| {name} | {process} |" in text
    assert f"{sum(p.numel() for p in made.braid.parameters()):,} parameters" in text
    assert 'braid.load("me/toy")' in text
    assert publishing.ours(text)


@pytest.mark.parametrize(
    ("paradigm", "tag"),
    [("showo", "any-to-any"), ("llava", "image-text-to-text"), ("fudoki", "any-to-any")],
)
def test_the_header_says_what_the_model_does(paradigm, tag):
    text = publishing.write_card(pipe(paradigm).braid, pipe(paradigm).experiment, name="x")
    header = yaml.safe_load(text.split("---")[1])
    assert header["pipeline_tag"] == tag
    assert "license" not in header


def test_the_example_on_the_card_runs(tmp_path):
    pipe().save_pretrained(tmp_path / "model")
    code = (tmp_path / "model" / "README.md").read_text().split("```")[1].removeprefix("python\n")
    names: dict = {}
    exec(code, names)
    assert names["made"].size == (4, 4)


def test_a_run_tells_the_card_of_its_training(tmp_path):
    from braid.commands import train

    settings = [*models.SMALL, "train.steps=2", "train.batch=4", "train.warmup=1"]
    assert train("toy", settings, out=tmp_path / "run", device="cpu") == 0
    (tmp_path / "run" / "report.json").write_text(json.dumps({"accuracy": 0.5, "note": "x"}))
    braid.load(tmp_path / "run", "cpu").save_pretrained(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "- 2 steps, " in text
    assert "| accuracy | 0.5 |" in text
    assert "Nothing is known" not in text


def test_a_card_of_ours_is_renewed_and_a_changed_one_is_kept(tmp_path):
    folder = tmp_path / "model"
    pipe().save_pretrained(folder)
    card = folder / "README.md"
    pipe("llava").save_pretrained(folder, license="mit")
    assert "license: mit" in card.read_text()
    changed = card.read_text().replace("Nothing is known", "Everything is known")
    card.write_text(changed)
    pipe().save_pretrained(folder)
    assert card.read_text() == changed
    assert equal(braid.load(folder, "cpu").braid, pipe().braid)


@pytest.mark.parametrize("text", ["", "# mine\n", "---\nlicense: mit\n---\n"])
def test_a_card_of_another_hand_is_kept(text, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text(text)
    pipe().save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == text


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BraidError, match=r"it holds other files, such as 'thesis.tex'"):
        pipe().save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert not list(tmp_path.parent.glob("*.tmp-*"))


def test_a_quantised_model_is_not_saved(tmp_path):
    pipe().save_pretrained(tmp_path / "model")
    less = braid.load(tmp_path / "model", "cpu", quantise="int8")
    with pytest.raises(BraidError, match="a quantised model is not saved"):
        less.save_pretrained(tmp_path / "less")
    assert not (tmp_path / "less").exists()


def test_load_lays_a_model_out_in_less_memory(tmp_path):
    pipe().save_pretrained(tmp_path / "model")
    less = braid.load(tmp_path / "model", "cpu", dtype="bfloat16", quantise="int8", offload=True)
    assert {p.dtype for p in less.braid.parameters()} == {torch.bfloat16}
    assert less(["row", Hole("image")], steps=2)[1].size == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_what_goes_up_comes_back(paradigm, hub, tmp_path):
    hub.large = 10_000  # the weights take the way of large files
    where = pipe(paradigm).push_to_hub("me/toy", commit_message="A toy")
    repository = hub.repositories["me/toy"]
    assert where == f"{hub.address}/me/toy/commit/{repository.branches['main']}"
    assert repository.messages[-1] == "A toy"
    assert hub.stored
    assert equal(braid.load("me/toy", "cpu").braid, pipe(paradigm).braid)


@pytest.mark.slow
def test_a_branch_and_a_commit_are_found_by_name(hub):
    pipe().push_to_hub("me/toy")
    first = hub.repositories["me/toy"].branches["main"]
    pipe("llava").push_to_hub("me/toy", revision="other")
    pipe("fudoki").push_to_hub("me/toy")
    found = {
        revision: Pipeline.from_pretrained("me/toy", revision=revision, device="cpu")
        for revision in (None, "other", first)
    }
    assert equal(found["other"].braid, pipe("llava").braid)
    assert equal(found[first].braid, pipe().braid)
    assert equal(found[None].braid, pipe("fudoki").braid)


def test_a_private_repository_needs_the_token(hub, monkeypatch):
    pipe().push_to_hub("me/toy", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BraidError, match=r"'me/toy' is neither a folder here nor cached"):
        braid.load("me/toy", "cpu")
    assert equal(Braid.from_pretrained("me/toy", token=TOKEN, device="cpu"), pipe().braid)


def test_nobody_else_can_write(hub):
    pipe().push_to_hub("me/toy")
    before = dict(hub.repositories["me/toy"].branches)
    with pytest.raises(BraidError, match="the Hub did not take 'me/toy'"):
        pipe().push_to_hub("me/toy", token="hf_of_somebody_else")
    assert hub.repositories["me/toy"].branches == before


def test_a_card_that_was_changed_on_the_hub_is_kept(hub):
    pipe().push_to_hub("me/toy")
    repository = hub.repositories["me/toy"]
    assert publishing.ours(repository.files("main")["README.md"].decode())
    mine = {**repository.files("main"), "README.md": b"# by hand\n"}
    repository.commit("main", mine, "by hand")
    pipe("llava").push_to_hub("me/toy")
    assert repository.files("main")["README.md"] == b"# by hand\n"
    assert equal(braid.load("me/toy", "cpu").braid, pipe("llava").braid)


def test_what_is_cached_needs_no_network(hub, monkeypatch):
    from huggingface_hub import constants

    pipe().push_to_hub("me/toy")
    with pytest.raises(BraidError, match="nor cached"):
        braid.load("me/toy", "cpu", local_files_only=True)
    braid.load("me/toy", "cpu")
    asked = len(hub.asked)
    assert equal(braid.load("me/toy", "cpu", local_files_only=True).braid, pipe().braid)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert equal(braid.load("me/toy", "cpu").braid, pipe().braid)
    with pytest.raises(BraidError, match=r"HF_HUB_OFFLINE is not set"):
        braid.load("me/other", "cpu")
    assert len(hub.asked) == asked


def test_a_cache_may_lie_elsewhere(hub, tmp_path):
    pipe().push_to_hub("me/toy")
    there = braid.load("me/toy", "cpu", cache_dir=tmp_path / "there")
    assert there.source.is_relative_to(tmp_path / "there")


def test_a_pickle_is_not_fetched(hub):
    pipe().push_to_hub("me/toy")
    repository = hub.repositories["me/toy"]
    more = {**repository.files("main"), "pytorch_model.bin": b"x", "modeling.py": b"x"}
    repository.commit("main", more, "evil")
    folder = braid.load("me/toy", "cpu").source
    names = {p.name for p in folder.iterdir()}
    assert not names & {"pytorch_model.bin", "modeling.py"}
    assert "model.safetensors" in names


@pytest.mark.slow
def test_a_model_saves_itself(hub, tmp_path):
    model = models.build("showo").train()
    model.save_pretrained(tmp_path / "model")
    model.push_to_hub("me/toy")
    assert model.training
    assert equal(Braid.from_pretrained(tmp_path / "model", device="cpu"), model)
    assert equal(Braid.from_pretrained("me/toy", device="cpu"), model)
    by_hand = Braid(dict(model.strands.items()), model.transformer, model.rule)
    with pytest.raises(BraidError, match="this model was made by hand"):
        by_hand.save_pretrained(tmp_path / "other")


def test_saving_uploads_where_it_is_asked_to(hub, tmp_path):
    pipe().save_pretrained(tmp_path / "toy", push_to_hub=True)
    assert equal(braid.load("me/toy", "cpu").braid, pipe().braid)
    assert 'braid.load("me/toy")' in hub.repositories["me/toy"].files("main")["README.md"].decode()


def test_a_pull_request_has_no_branch(hub):
    with pytest.raises(BraidError, match="create_pr"):
        pipe().push_to_hub("me/toy", create_pr=True, revision="x")
    assert not hub.repositories


def test_the_command_line_uploads_and_samples(hub, tmp_path, capsys):
    pipe().save_pretrained(tmp_path / "model")
    run("push", tmp_path / "model", "me/toy", "--revision", "second", "--license", "mit")
    assert f"{hub.address}/me/toy/commit/" in capsys.readouterr().out
    assert b"license: mit" in hub.repositories["me/toy"].files("second")["README.md"]
    drawn = tmp_path / "a.png"
    less = ("--dtype", "bfloat16", "--quantise", "int8", "--offload", "--revision", "second")
    run("sample", "me/toy", "row", "--steps", 2, "--out", drawn, *less)
    assert drawn.is_file()


def run(*arguments: object) -> None:
    """Run a command that works."""
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in arguments])
    assert not e.value.code


def test_a_card_tells_of_the_checkpoint_that_was_loaded(tmp_path):
    from braid.commands import train

    settings = [*models.SMALL, "train.steps=4", "train.save_every=2", "train.batch=4"]
    run = tmp_path / "run"
    assert train("toy", settings, run) == 0
    (run / "checkpoints" / "step-4" / "state.json").write_bytes(b"x")
    with pytest.warns(UserWarning, match="step-4"):
        pipe = loading.load(run, "cpu")
    assert facts_of(run, pipe.checkpoint)["step"] == 2
    pipe.save_pretrained(tmp_path / "saved")
    assert "- 2 steps" in (tmp_path / "saved" / "README.md").read_text()


def test_a_card_names_all_that_a_mixture_is_of():
    data = DataConfig(
        mix={
            "a": DataConfig(source="scenes", tasks={"text_to_image": 1.0}),
            "b": DataConfig(source="files", path=["x/one.csv", "two.csv"], tasks={"text": 1.0}),
        }
    )
    assert data.named == {"scenes": ["text_to_image"], "one.csv, two.csv": ["text"]}
    again = DataConfig(source="scenes", tasks={"image_to_text": 1.0, "text_to_image": 2.0})
    data = DataConfig(mix={**data.mix, "c": again})
    assert data.named["scenes"] == ["text_to_image", "image_to_text"]
