"""The command line: it works when pasted, and a mistake is one line and exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

import braid
from braid import checkpoints, commands, storage
from braid.cli import main
from braid.evaluation import open_held_out
from tests.laws import models

TRAIN = ["train", "toy", *models.SMALL, "train.steps=2", "train.batch=4", "train.warmup=1"]


def braid_(*arguments: object) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in arguments])
    return int(e.value.code or 0)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that works; return what it printed."""
    assert braid_(*arguments) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is refused; return its one line."""
    capsys.readouterr()
    assert braid_(*arguments) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    return err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the toy for two steps."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    assert braid_(*TRAIN, "--out", out) == 0
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: Path, size: int = 4) -> Path:
    """Write a picture."""
    PIL.fromarray(np.eye(size, dtype=np.uint8) * 255).save(path)
    return path


def test_train_writes_a_run_directory(run):
    assert {"experiment.json", "metrics.jsonl", "checkpoints"} <= {p.name for p in run.iterdir()}
    assert [n for n, _ in storage.steps(run / "checkpoints")] == [2]


def test_train_goes_on_by_itself_and_from_a_run_directory(run, capsys):
    assert "going on at step 2" in said(capsys, *TRAIN, "--out", run)
    assert "going on at step 2" in said(capsys, "train", run)


def test_train_repeats_an_experiment_file(run, here, capsys):
    said(capsys, "train", run / "experiment.json", "--out", "again")
    a, b = (checkpoints.read(r / "checkpoints" / "step-2", "model") for r in (run, here / "again"))
    assert all((a[k] == b[k]).all() for k in a)


def test_train_has_a_folder_of_its_own_where_none_is_given(here, capsys):
    said(capsys, *TRAIN)
    assert (here / "runs" / "toy" / "experiment.json").is_file()


def test_sample_draws(run, here, capsys):
    out = said(capsys, "sample", run, "row two", "--to", "image", "--steps", 2, "--out", "a.png")
    assert out.strip() == "a.png"
    assert PIL.open("a.png").size == (4, 4)


def test_sample_draws_several_and_numbers_them(run, here, capsys):
    out = said(capsys, "sample", run, "row two", "--n", 2, "--steps", 1, "--out", "new/a.png")
    assert out.split() == ["new/a-0.png", "new/a-1.png"]
    assert all(Path(p).is_file() for p in out.split())


@pytest.mark.parametrize(("to", "name"), [("image", "sample.png"), ("text", "sample.txt")])
def test_sample_writes_into_a_folder(to, name, run, here, capsys):
    (here / "some.folder").mkdir()
    given = ["sample", run, "row two", "--to", to, "--steps", 1]
    said(capsys, *given, "--out", "some.folder")
    said(capsys, *given, "--out", ".")
    assert Path("some.folder", name).read_bytes() == Path(name).read_bytes()


def test_a_wrong_name_is_refused_before_anything_is_made(run, here, capsys):
    refused(capsys, "sample", run, "--steps", 1, "--out", "a.png", "--trajectory", "a.mp4")
    refused(capsys, "sample", run, "--steps", 1, "--out", "a.doc", "--trajectory", "a.gif")
    assert not list(here.iterdir())


@pytest.mark.parametrize("prompt", ["row two " * 40, "row and/or two", "row/two " * 60])
def test_a_long_prompt_or_one_with_a_stroke_is_no_model(prompt, here, capsys):
    assert said(capsys, "sample", prompt, "--steps", 1).strip() == "sample.png"


def test_sample_tells_what_it_changed_in_a_picture(run, here, capsys):
    picture(here / "a.png")
    PIL.open(here / "a.png").convert("RGBA").save(here / "b.png")
    for name, expected in (("a.png", ""), ("b.png", "image: 1 x ")):
        capsys.readouterr()
        assert braid_("sample", run, "--image", name, "--to", "text") == 0
        err = capsys.readouterr().err
        assert err.startswith(expected)
        assert bool(err) == bool(expected)


def test_sample_needs_neither_prompt_nor_name(run, here, capsys):
    assert said(capsys, "sample", run, "--steps", 1).strip() == "sample.png"
    assert Path("sample.png").is_file()


def test_sample_reads(run, here, capsys):
    line = said(capsys, "sample", run, "--image", picture(here / "a.png"), "--to", "text")
    again = said(capsys, "sample", run, "--image", here / "a.png", "--to", "text", "--out", "a.txt")
    assert line == again == Path("a.txt").read_text()


def test_sample_equals_the_library(run, here, capsys):
    options = ["--steps", 3, "--guidance", 2, "--seed", 7, "--temperature", 0.5]
    said(capsys, "sample", run, "row two", *options, "--out", "a.png")
    drawn = braid.load(run)(
        ["row two", braid.Hole("image")], steps=3, guidance=2, seed=7, temperature=0.5
    )
    assert np.array_equal(np.asarray(PIL.open("a.png")), np.asarray(drawn[1]))


def test_a_mistyped_run_is_no_prompt(run, here, capsys):
    shutil.copytree(run, here / "animals")
    line = refused(capsys, "sample", "animal", "--steps", 1)
    assert "did you mean the run 'animals'? If it is a prompt, name the model first" in line
    (here / "circles").mkdir()  # holds no run
    said(capsys, "sample", "circle", "--steps", 1)
    said(capsys, "sample", "two animals", "--steps", 1)


def test_recipes_lists_every_name(capsys):
    out = said(capsys, "recipes")
    words = set(out.replace(",", " ").split())
    assert {
        *models.NAMES,
        "digits",
        "toy",
        "image-text",
        "masked",
        "jump",
        "text",
        "spans",
    } <= words


def test_doctor_says_what_this_machine_can_do(capsys):
    out = said(capsys, "doctor")
    assert all(word in out for word in ("python", "torch", "processor", "accelerator"))
    told = re.search(r"bfloat16 +a product takes (\S+) of its time in float32: (try|keep)", out)
    if torch.accelerator.is_available():
        assert told is None
    else:
        assert told is not None
        assert (float(told[1]) < 0.7) == (told[2] == "try")


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_doctor_tries_an_experiment_without_data(paradigm, capsys):
    out = said(capsys, "doctor", "toy", f"paradigm={paradigm}", "train.batch=2", *models.SMALL)
    assert "dry run" in out
    assert "loss" in out


def test_doctor_tries_a_run(run, capsys):
    assert "dry run" in said(capsys, "doctor", run)


def test_version_is_the_packages(capsys):
    assert said(capsys, "--version").strip() == braid.__version__


def test_no_command_shows_the_help(capsys):
    assert braid_() == 2
    out, err = capsys.readouterr()
    assert "Usage: " in out + err
    assert "train" in out + err
    assert "error" not in out + err


TRAINED = {
    "unknown recipe": (["train", "toi"], "unknown recipe 'toi'; did you mean 'toy'?"),
    "unknown setting": (["train", "toy", "train.stepz=3"], "did you mean 'train.steps'?"),
    "no space in YAML": (
        ["train", "toy", "data.tasks={text_to_image:1}"],
        "write a space after each colon",
    ),
    "nothing to learn": (
        ["train", "toy", "strands.text.weight=0", "strands.image.weight=0"],
        "every strand has the weight 0",
    ),
    "an endless rate": (["train", "toy", "train.learning_rate=.inf"], "train.learning_rate"),
    "no value": (["train", "toy", "train.steps"], "expected key.path=value"),
    "no file": (["train", "none.yaml"], "does not exist; give a recipe"),
    "unknown option": (["train", "toy", "--stepz", "3"], "No such option: --stepz"),
    "unknown command": (["trian", "toy"], "No such command 'trian'"),
    "no recipe": (["train"], "Missing argument"),
    "unknown paradigm": (["train", "toy", "paradigm=fudok"], "did you mean 'fudoki'?"),
    "unknown suite": (["train", "toy", "evaluate.suite=digit"], "did you mean 'digits'?"),
    "unknown device": (["train", "toy", "--device", "gpu"], "device 'gpu' is not there"),
    "absent device": (["train", "toy", "--device", "cuda:99"], "device 'cuda:99' is not there"),
    "next tokens under full": (
        ["train", "toy", "paradigm=chameleon", "rule=full"],
        "use rule 'spans'",
    ),
    "rows too short": (["train", "toy", "data.row=4"], "does not fit a row of 4"),
    "demo of nothing": (["demo", "--paradigm", "fudok"], "did you mean 'fudoki'?"),
    "demo in no time": (["demo", "--minutes", "0"], "--minutes 0.0 must be more than 0"),
    "a word for a number": (["demo", "--minutes", "few"], "Invalid value for '--minutes'"),
    "compare of nothing": (["compare", "toy", "--paradigms", ","], "at least one paradigm"),
    "compare of unknown": (["compare", "toy", "--paradigms", "fudok"], "did you mean 'fudoki'?"),
    "compare of no recipe": (["compare", "toi"], "did you mean 'toy'?"),
    "doctor of nothing": (["doctor", "toi"], "did you mean 'toy'?"),
    "plan of nothing": (["doctor", "--plan", "9b"], "did you mean '7b'?"),
    "no run": (["sample", "runs/none"], "'runs/none' does not exist; give a run directory"),
    "no run to evaluate": (["evaluate", "none"], "'none' does not exist"),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_mistake_is_one_line_and_exit_code_2(case, here, capsys):
    arguments, message = TRAINED[case]
    assert message in refused(capsys, *arguments)


SAMPLED = {
    "steps 0": (["--steps", "0"], "steps 0 must be at least 1"),
    "guidance below 0": (["--guidance", "-1"], "guidance -1.0 is out of range"),
    "guidance nan": (["--guidance", "nan"], "guidance nan is out of range"),
    "temperature": (["--temperature", "-1"], "temperature -1.0 must be 0"),
    "n 0": (["--n", "0"], "--n 0 must be at least 1"),
    "unknown modality": (["--to", "imag"], "did you mean 'image'?"),
    "a word for a number": (["--steps", "many"], "Invalid value for '--steps'"),
    "no picture": (["--image", "none.png"], "'none.png' does not exist"),
    "a folder as picture": (["--image", "folder"], "give the path of a picture"),
    "a text as picture": (["--image", "text.png"], "not a readable picture"),
    "half a picture": (["--image", "half.png"], "truncated or damaged"),
    "a large picture": (["--image", "large.png"], "the picture is 8x8, the model reads 4x4"),
    "an unknown format": (["--out", "a.xyz"], "cannot write 'a.xyz'"),
    "a file as folder": (["--out", "text.png/a.png"], "cannot write"),
    "sound in a picture's file": (["--out", "a.wav"], "image is not written as .wav"),
    "a film of another form": (["--trajectory", "a.mp4"], "let its name end in .gif"),
    "a text in a file": (["--to", "text", "--out", "text.png/a"], "cannot write"),
    "a film in a file": (["--trajectory", "text.png/a.gif"], "cannot write"),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_a_wrong_sample_is_one_line_and_exit_code_2(case, run, here, capsys):
    (here / "folder").mkdir()
    (here / "folder.png").mkdir()
    (here / "text.png").write_text("no picture")
    (here / "half.png").write_bytes(picture(here / "a.png").read_bytes()[:45])
    picture(here / "large.png", 8)
    arguments, message = SAMPLED[case]
    assert message in refused(capsys, "sample", run, "--steps", "1", *arguments)


def test_an_empty_prompt_is_refused(run, here, capsys):
    assert "the text is empty" in refused(capsys, "sample", run, "")
    assert "the text is empty" in refused(capsys, "sample", "")


def test_a_limit_below_one_is_refused(run, capsys):
    assert "--limit 0 must be at least 1" in refused(capsys, "evaluate", run, "--limit", 0)


def test_data_that_a_suite_never_reads_is_refused(run, here, capsys):
    (here / "text.csv").write_text("text,id\nrow one,1\n")
    line = refused(capsys, "evaluate", run, "--suite", "scenes", "--data", "text.csv")
    assert "the suite scenes makes its own scenes and would never read 'text.csv'" in line


def test_a_suite_that_makes_its_own_data_needs_no_other(here):
    experiment = braid.load("mini", "cpu").experiment
    scenes = experiment.evaluate.model_copy(update={"suite": "scenes"})
    assert len(open_held_out(experiment.model_copy(update={"evaluate": scenes})))


def test_a_misspelt_suite_is_named_before_data_is_looked_for(here, capsys):
    line = refused(capsys, "evaluate", "mini", "--suite", "scene")
    assert "unknown evaluation suite 'scene'; did you mean 'scenes'?" in line


def test_a_finished_run_says_that_its_budget_is_spent(run, capsys):
    assert "raise train.steps or train.minutes" in said(capsys, *TRAIN, "--out", run)


def test_a_run_of_another_experiment_is_refused(run, capsys):
    line = refused(capsys, *TRAIN, "seed=9", "--out", run)
    assert "holds a run of another experiment (they differ in seed)" in line


def test_a_folder_that_cannot_be_written_is_refused(here, capsys):
    (here / "file").write_text("")
    assert "cannot write to" in refused(capsys, *TRAIN, "--out", here / "file" / "run")


def process(*arguments: object, cwd: Path) -> subprocess.Popen:
    """Start braid in a process of its own."""
    command = [sys.executable, "-m", "braid", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(braid.__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_mistake_in_a_process_is_one_line_too(here):
    done = process("train", "toy", "train.stepz=3", cwd=here)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: unknown setting 'train.stepz'")
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(here):
    command = ["train", "toy", *models.SMALL, "train.steps=100000", "train.log_every=1"]
    first = process(*command, "--out", "run", cwd=here)
    metrics = here / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130
    assert err == ""
    (step,) = [n for n, _ in storage.steps(here / "run" / "checkpoints")]
    assert f"interrupted and saved at step {step}" in out
    more = [*command, f"train.steps={step + 2}", "--out", "run"]
    assert braid_(*more) == 0
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == step + 2


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_every_paradigm_trains_samples_and_is_evaluated(paradigm, here, capsys):
    said(capsys, *TRAIN, f"paradigm={paradigm}", "--out", "run")
    name = models.drawn(paradigm)[-1]
    given = ["row two"] if name == "image" else ["--image", picture(here / "a.png")]
    film = ["--trajectory", "a.gif"]
    said(capsys, "sample", "run", *given, "--to", name, "--steps", 2, *film, "--out", "a.png")
    assert Path("a.gif").stat().st_size > 0
    numbers = json.loads(said(capsys, "evaluate", "run", "--json", "--limit", 4))
    assert numbers["held_out"] == 4
    assert {"report.html", "report.json"} <= {p.name for p in Path("run").iterdir()}


def test_doctor_explains_a_run_and_says_whether_it_is_sound(run, capsys):
    text = said(capsys, "doctor", "--run", run)
    assert "step-2" in text
    assert "sound" in text
    assert json.loads(said(capsys, "doctor", "--run", run, "--json"))["code"] == 0
    assert "holds no run" in refused(capsys, "doctor", "--run", run / "none")


@pytest.mark.slow
def test_doctor_plans_a_size_and_a_recipe(capsys):
    plan = said(capsys, "doctor", "--plan", "7b", "--gpus", "64", "--json")
    assert json.loads(plan)
    assert "7b" in said(capsys, "doctor", "--plan", "7b")
    assert said(capsys, "doctor", "--plan", "toy", "transformer.width=64", "--gpus", "1")
    assert "gpus 0 must be more than 0" in refused(capsys, "doctor", "--plan", "7b", "--gpus", "0")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--limit", "0"], "limit 0 must be at least 1"),
        (["--limit", "-1"], "limit -1 must be at least 1"),
        (["--size", "0"], "size 0.* is out of range"),
    ],
)
@pytest.mark.parametrize("verb", ["encode", "evaluate"])
def test_codecs_measure_and_encode_something(verb, asked, said, tmp_path, capsys):
    data = ["scenes", str(tmp_path / "c")] if verb == "encode" else ["--data", "scenes"]
    assert braid_("codec", verb, "mini/image-codec", *data, *asked) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "c").exists()


def test_numbers_are_printed_with_their_intervals_and_nothing_is_left_out(capsys):
    numbers = {"a": 0.5, "a_low": 0.25, "a_high": 1.0, "b": None, "b_low": None, "b_high": None}
    numbers |= {"c": "4 of [red]x[/red]", "high": 3, "alone_low": 2, "d": 1.0, "d_low": 0.5}
    commands.print_numbers(numbers)
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {name: text.strip() for name, text in told} == {
        "a": "0.5 [0.25, 1]",
        "b": "-",
        "c": "4 of [red]x[/red]",
        "high": "3",
        "alone_low": "2",
        "d": "1 [0.5]",
    }
    commands.print_comparison({"fudoki": numbers, "mmada": {"a": 1, "e_note": "odd"}})
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert told[:2] == [["fudoki", "mmada"], ["a", "0.5", "[0.25,", "1]", "1"]]
    assert ["c", "4", "of", "[red]x[/red]", "-"] in told
    assert "e_note" not in str(told)
