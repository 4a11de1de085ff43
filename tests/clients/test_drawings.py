"""Pictures lie where GenEval and DPG-Bench look for them, and are those of the pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braid import Hole, Pipeline
from braid.cli import main
from braid.clients.drawings import _seed, draw
from braid.errors import BraidError
from tests.laws import models

LINES = [
    {"tag": "single_object", "include": [{"class": "row", "count": 1}], "prompt": "row one"},
    {"tag": "counting", "include": [{"class": "column", "count": 2}], "prompt": "column two"},
    {"tag": "position", "include": [], "prompt": "a row of a column"},
]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return models.pipeline("showo")


@pytest.fixture
def geneval(tmp_path) -> Path:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.fixture
def dpg(tmp_path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for i, line in enumerate(LINES):
        (folder / f"partiprompts{i}.txt").write_text(line["prompt"] + "\n")
    return folder


def expected(pipe: Pipeline, prompt: str, name: str, number: int) -> np.ndarray:
    """Return the picture that the pipeline draws."""
    made = pipe([prompt, Hole("image")], steps=2, seed=_seed(5, name, number))[1]
    return np.asarray(made.convert("RGB"))


def files(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_geneval_finds_metadata_and_samples(pipe, geneval, tmp_path):
    out = tmp_path / "out"
    assert len(list(draw(pipe, "geneval", geneval, out, n=2, steps=2, seed=5))) == len(LINES)
    # the walk of GenEval's own evaluation
    found = 0
    for folder in sorted(out.iterdir()):
        assert folder.is_dir() and folder.name.isdigit()
        with (folder / "metadata.jsonl").open() as file:
            metadata = json.load(file)
        assert metadata == LINES[int(folder.name)]
        for sample in sorted((folder / "samples").iterdir()):
            assert re.match(r"\d+\.png", sample.name)
            drawn = np.asarray(Image.open(sample))
            own = expected(pipe, metadata["prompt"], folder.name, int(sample.stem))
            assert np.array_equal(drawn, own)
            found += 1
    assert found == 2 * len(LINES)


def test_dpg_finds_squares_of_four(pipe, dpg, tmp_path):
    out = tmp_path / "out"
    list(draw(pipe, "dpg", dpg, out, n=4, steps=2, seed=5))
    assert sorted(p.name for p in out.iterdir()) == [f"partiprompts{i}.png" for i in range(3)]
    for i, line in enumerate(LINES):
        name = f"partiprompts{i}"
        drawn, side = Image.open(out / f"{name}.png"), 4
        # the crops of DPG-Bench's own evaluation
        boxes = [(0, 0), (side, 0), (0, side), (side, side)]
        for j, (x, y) in enumerate(boxes):
            crop = np.asarray(drawn.crop((x, y, x + side, y + side)))
            assert np.array_equal(crop, expected(pipe, line["prompt"], name, j))


@pytest.mark.parametrize("kind", ["geneval", "dpg"])
def test_it_goes_on_to_the_same_files(pipe, kind, geneval, dpg, tmp_path):
    prompts = geneval if kind == "geneval" else dpg
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(draw(pipe, kind, prompts, whole, n=1, steps=2))
    begun = draw(pipe, kind, prompts, parts, n=1, steps=2, rows=1)
    next(begun)
    begun.close()
    assert 0 < len(files(parts)) < len(files(whole))
    said = list(draw(pipe, kind, prompts, parts, n=1, steps=2, rows=2))
    assert said[0] == "1 of 3 prompts are drawn already"
    assert files(parts) == files(whole)


def test_a_folder_of_other_settings_is_refused(pipe, geneval, tmp_path):
    list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2))
    before = files(tmp_path)
    with pytest.raises(BraidError, match="begun with guidance 1.0, not 2.0; choose another"):
        list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2, guidance=2.0))
    assert files(tmp_path) == before


def test_settings_that_drew_nothing_hold_a_folder_to_nothing(pipe, geneval, tmp_path):
    with pytest.raises(BraidError, match="guidance -1"):
        list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2, guidance=-1.0))
    assert len(list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2))) == len(LINES)


def test_a_folder_of_other_prompts_is_refused(pipe, geneval, tmp_path):
    list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2))
    geneval.write_text(geneval.read_text().replace("row one", "row two"))
    with pytest.raises(BraidError, match="begun with prompts '3 of .*', not '3 of .*'; choose"):
        list(draw(pipe, "geneval", geneval, tmp_path / "out", n=1, steps=2))


def test_any_seed_and_any_character_is_taken(pipe, tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('\ufeff{"prompt": "row\u2028two"}\n', encoding="utf-8")
    said = list(draw(pipe, "geneval", path, tmp_path / "out", n=1, steps=2, seed=2**63))
    assert said == ["00000 row\u2028two"]
    path.write_bytes('{"prompt": "rôw"}'.encode("latin-1"))
    with pytest.raises(BraidError, match="cannot be read as UTF-8"):
        list(draw(pipe, "geneval", path, tmp_path / "other"))


WRONG = [
    ('{"prompt": "row"}\n{"tag": 1}\n', "line 2 has no 'prompt'"),
    ('{"prompt": "row"}\nrow\n', "line 2: this is no JSON"),
    ('{"prompt": "row"}\n\n{"prompt": 5}\n', "line 3 has no 'prompt' of text"),
    ("\n", "holds no prompts"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_prompts_that_cannot_be_read_are_refused_first(pipe, text, message, tmp_path):
    (path := tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(BraidError, match=message):
        list(draw(pipe, "geneval", path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_drawn_is_refused(pipe, geneval, dpg, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BraidError, match="unknown benchmark 'geneva'; did you mean 'geneval'"):
        list(draw(pipe, "geneva", geneval, out))
    with pytest.raises(BraidError, match="n 3 is out of range; dpg takes 1 or 4 pictures"):
        list(draw(pipe, "dpg", dpg, out, n=3))
    with pytest.raises(BraidError, match="draws no pictures"):
        list(draw(models.pipeline("llava"), "geneval", geneval, out))
    assert not out.exists()


@pytest.mark.parametrize("option", ["--compile", "--freeze"])
def test_the_command_compiles_where_it_is_asked_to(
    option, pipe, geneval, tmp_path, capsys, monkeypatch
):
    pipe.save(tmp_path / "model")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as e:
        main(["draw", str(tmp_path / "model"), str(geneval), option, "--device", "cpu"])
    assert e.value.code == 2
    assert "'no-such-compiler'" in capsys.readouterr().err


def test_the_command_draws(pipe, geneval, tmp_path, capsys):
    pipe.save(tmp_path / "model")
    arguments = [str(tmp_path / "model"), str(geneval), "--for", "geneval", "--n", "1"]
    with pytest.raises(SystemExit) as e:
        main(["draw", *arguments, "--steps", "2", "--out", str(tmp_path / "o"), "--device", "cpu"])
    assert not e.value.code
    assert capsys.readouterr().out.splitlines()[0] == "00000 row one"
    assert (tmp_path / "o" / "00002" / "samples" / "00000.png").is_file()
    record = json.loads((tmp_path / "o.json").read_text())
    assert record.pop("dtype") == "float32"
    (tmp_path / "o.json").write_text(json.dumps(record))  # as it was before precisions were kept
    again = ["draw", *arguments, "--steps", "2", "--out", str(tmp_path / "o"), "--device", "cpu"]
    with pytest.raises(SystemExit) as e:
        main(again)
    assert not e.value.code
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        main([*again, "--dtype", "bfloat16"])
    assert e.value.code == 2
    assert "begun with dtype 'float32', not 'bfloat16'" in " ".join(capsys.readouterr().err.split())
