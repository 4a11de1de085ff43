"""Training a codec: what is written is loaded, measured and used, from Python and commands."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL
from rich.console import Console

import braid
from braid.cli import main
from braid.codec_config import CodecExperiment
from braid.data import open_source
from braid.data.cache import Cached
from braid.data.sources import Examples
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.evaluation.codecs import Pictures, Sounds, evaluate_codec
from braid.modalities import codecs
from braid.modalities.codecs import ImageCodec
from braid.recipes import resolve
from braid.recipes.codecs import CODEC_RECIPES, resolve_codec
from braid.settings import load_as
from braid.training import Trainer
from braid.training.codecs import train_codec
from tests.laws import models

TINY = {"kind": "image", "stride": 2, "width": 8, "encoder": 1, "decoder": 1, "fine": 8}


def experiment(quantiser: str = "vq:8x4", **train: Any) -> CodecExperiment:
    """Return a tiny codec of the toy's grey pictures, in 20 steps."""
    return load_as(
        CodecExperiment,
        {
            "name": "tiny",
            "codec": {**TINY, "channels": 1, "quantiser": quantiser},
            "size": 4,
            "data": {"source": "toy"},
            "train": {"steps": 20, "minutes": None, "batch": 8, "examples": 64, **train},
        },
    )


def train(made: CodecExperiment, out: Path) -> tuple[codecs.Codec, str]:
    """Return a trained codec and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    return train_codec(made, out, console), console.file.getvalue()


@pytest.mark.parametrize("quantiser", ["vq:8x4", "vq:4x4x2", "levels:5x2", "lfq:4", "kl:2"])
def test_what_was_trained_is_loaded_from_its_folder(quantiser, tmp_path):
    codec, _ = train(experiment(quantiser), tmp_path / "codec")
    again = codecs.load(tmp_path / "codec")
    assert again.fingerprint() == codec.fingerprint()
    assert again.card["steps"] == 20
    assert load_as(CodecExperiment, again.card["recipe"]) == experiment(quantiser)
    media = torch.rand(2, 1, 8, 4) * 2 - 1
    assert torch.equal(again.encode(media), codec.encode(media))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_distortion(optimizer, tmp_path):
    made = experiment("kl:2", steps=101, learning_rate=0.02, augment=False, optimizer=optimizer)
    codec, said = train(made, tmp_path / "codec")
    torch.manual_seed(made.seed)
    untrained = made.make().eval()
    numbers = [evaluate_codec(c, toy(16, 1), size=4)["psnr"] for c in (untrained, codec)]
    assert numbers[1] > numbers[0] + 1
    assert "parameters; reading toy" in said and "step 100" in said


def test_a_seed_fixes_the_codec(tmp_path):
    prints = {
        train(made, tmp_path / str(i))[0].fingerprint()
        for i, made in enumerate([experiment(steps=3)] * 2)
    }
    assert len(prints) == 1
    other = experiment(steps=3).model_copy(update={"seed": 1})
    assert train(other, tmp_path / "other")[0].fingerprint() not in prints


def test_latents_are_standard_after_training(tmp_path):
    made = experiment("kl:2", steps=3)
    codec, _ = train(made, tmp_path / "codec")
    reader = Pictures(codec, 4)
    media = reader.read(toy(256, made.seed), 64)
    codes = codec.encode(reader.batch(media, torch.arange(64), augment=False)).flatten(0, 2)
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(2), atol=0.02, rtol=0)


def test_an_adversary_changes_what_is_learned(tmp_path):
    plain, _ = train(experiment(), tmp_path / "plain")
    judged, _ = train(experiment(adversary=0.1), tmp_path / "judged")
    assert plain.fingerprint() != judged.fingerprint()
    assert all(p.isfinite().all() for p in judged.parameters())
    assert not any("adversary" in name for name in judged.state_dict())


def test_the_minutes_end_a_training(tmp_path):
    codec, _ = train(experiment(steps=10_000, minutes=1e-4), tmp_path / "codec")
    assert codec.card["steps"] < 10_000


def test_pictures_of_a_mixture_are_read_from_every_part(tmp_path):
    made = experiment().model_dump()
    made["data"] = {"mix": {"a": {"source": "toy"}, "b": {"source": "toy"}}}
    codec, _ = train(load_as(CodecExperiment, made), tmp_path / "codec")
    assert codec.card["steps"] == 20


def test_scenes_are_read_in_colour(tmp_path):
    made = load_as(
        CodecExperiment,
        {
            "name": "scenes",
            "codec": {**TINY, "stride": 4, "quantiser": "fsq:5,5"},
            "size": 16,
            "data": {"source": "scenes"},
            "train": {"steps": 2, "minutes": None, "batch": 2, "examples": 4},
        },
    )
    codec, _ = train(made, tmp_path / "codec")
    assert codec.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 4)


def test_data_without_pictures_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("one\n\ntwo\n\nthree\n")
    made = experiment().model_dump()
    made["data"] = {"source": "files", "path": str(tmp_path / "words.txt")}
    with pytest.raises(BraidError, match="the data has no 'image'; it has text: map a column"):
        train(load_as(CodecExperiment, made), tmp_path / "codec")


def test_pictures_that_cannot_be_read_are_left_out():
    reader = Pictures(ImageCodec("kl:2", **{k: v for k, v in TINY.items() if k != "kind"}), 4)
    good = np.zeros((4, 4, 3), dtype=np.uint8)
    source = Examples("some", {"image": [{"bytes": b"GIF"}, good, None, good]})
    assert reader.read(source, 10).shape == (2, 3, 4, 4)
    bad = Examples("bad", {"image": [{"bytes": b"GIF"}]})
    with pytest.raises(BraidError, match="no image of bad can be read; the last: image: not a rea"):
        reader.read(bad, 10)


REFUSED = {
    "quantiser": ({"codec": {**TINY, "quantiser": "vg:8x4"}}, "did you mean 'vq'"),
    "option": ({"codec": {**TINY, "widht": 8}}, "unknown option of codec 'image' 'widht'; did you"),
    "kind": ({"codec": {"kind": "imgae"}}, "unknown codec 'imgae'; did you mean 'image'"),
    "setting": ({"train": {"setps": 3}}, "unknown setting 'train.setps'; did you mean 'steps'"),
    "width": ({"codec": {**TINY, "width": 12}}, "must be multiples of 8"),
    "size 0": ({"size": 0}, "size"),
    "size nan": ({"size": float("nan")}, "size"),
    "rate": ({"train": {"learning_rate": float("inf")}}, "learning_rate"),
    "stride": ({"codec": {**TINY, "stride": 3}}, "stride 3 must be an even number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_found_before_the_training(name):
    change, message = REFUSED[name]
    with pytest.raises(BraidError) as error:
        load_as(CodecExperiment, experiment().model_dump() | change)
    assert message in str(error.value)


@pytest.mark.parametrize("name", CODEC_RECIPES)
def test_every_recipe_makes_a_codec_that_overrides_change(name):
    made = resolve_codec(name, ["codec.quantiser=kl:4", "codec.width=8", "codec.fine=8"])
    assert made.make().space.width == 4
    assert load_as(CodecExperiment, made.model_dump()) == made


def test_a_misspelt_recipe_is_refused():
    with pytest.raises(BraidError, match="unknown codec recipe 'scene'; did you mean 'scenes'"):
        resolve_codec("scene")


@pytest.mark.parametrize("quantiser", ["vq:8x4x2", "levels:5x3", "kl:2"])
def test_a_codec_is_measured(quantiser):
    torch.manual_seed(0)
    options = {k: v for k, v in TINY.items() if k != "kind"}
    codec = ImageCodec(quantiser, channels=1, **options).eval().requires_grad_(False)
    numbers = evaluate_codec(codec, toy(16, 0), size=12, limit=10)
    assert (numbers["held_out"], numbers["cells"]) == (10, 36)
    assert numbers["bits_per_cell"] == codec.bits
    for name in ("psnr", "ssim"):
        assert numbers[f"{name}_low"] <= numbers[name] <= numbers[f"{name}_high"]
    if quantiser == "kl:2":
        assert numbers["numbers"] == 72 and "codebook_used" not in numbers
        return
    size, groups = codec.space.size, codec.space.groups
    assert numbers["symbols"] == 36 * groups and numbers["codebook_size"] == size
    assert 0 < numbers["codebook_used"] <= 1
    assert 1 <= numbers["codebook_perplexity"] <= size * numbers["codebook_used"] + 1e-6


def test_a_perfect_codec_has_no_distortion():
    class Itself(codecs.Codec):
        """Shows what it is shown."""

        kind, medium, stride, channels, card = "itself", "image", 1, 1, {}
        space = codecs.ImageCodec("kl:1").space

        def encode(self, media):
            return media.movedim(1, -1)

        def decode(self, codes):
            return codes.movedim(-1, 1)

    numbers = evaluate_codec(Itself(), toy(16, 0), size=12)
    assert numbers["ssim"] == pytest.approx(1) and numbers["psnr"] == 100
    assert "ssim" not in evaluate_codec(Itself(), toy(16, 0), size=8)


def test_clips_have_a_sample_at_least():
    with pytest.raises(BraidError, match="a clip of 1e-05 s has no sample at 8000 Hz"):
        Sounds(codecs.load("mini/audio-codec"), 1e-5)


def test_clips_that_begin_with_silence_are_left_out():
    class Silent(codecs.Codec):
        """Makes silence of any sound."""

        kind, medium, rate, card = "silent", "audio", 8000, {}
        space = codecs.ImageCodec("kl:1").space

        def encode(self, media):
            return media[..., None]

        def decode(self, codes):
            return 0 * codes[..., 0]

    tone = np.sin(np.arange(4000, dtype=np.float32))
    late = np.concatenate([np.zeros(8000, np.float32), tone])
    source = Examples("some", {"audio": [tone, late, tone]})
    numbers = evaluate_codec(Silent(), source, size=1)
    assert (numbers["held_out"], numbers["si_sdr"]) == (2, -100)
    assert evaluate_codec(Silent(), source, size=2)["held_out"] == 3
    with pytest.raises(BraidError, match="no audio of late can be read; the last: .* s are silent"):
        evaluate_codec(Silent(), Examples("late", {"audio": [late]}), size=1)


def braid_(*arguments: object) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in arguments])
    return int(e.value.code or 0)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that works; return what it printed."""
    capsys.readouterr()
    assert braid_(*arguments) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with an experiment file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    made = experiment(steps=3).model_dump(mode="json")
    (tmp_path / "tiny.json").write_text(json.dumps(made))
    return tmp_path


def pictures(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for i in range(count):
        PIL.fromarray(toy(8, 0)[i]["image"]).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"row {i}")
    return folder


def test_the_commands_train_list_measure_and_encode(here, capsys):
    out = said(capsys, "codec", "train", "tiny.json", "codec.quantiser=lfq:3", "train.steps=2")
    assert "wrote codecs/tiny" in out and "psnr" in out
    assert codecs.card_of("codecs/tiny")["card"]["metrics"]["held_out"] == 64
    listed = said(capsys, "codec", "list")
    assert "codecs/tiny" in listed and "lfq:3" in listed
    assert all(name in listed for name in CODEC_RECIPES)
    measured = json.loads(said(capsys, "codec", "evaluate", "codecs/tiny", "--json"))
    assert measured["psnr"] == codecs.card_of("codecs/tiny")["card"]["metrics"]["psnr"]
    folder = pictures(here / "pictures")
    options = ("--data", folder, "--limit", 3, "--json")
    other = json.loads(said(capsys, "codec", "evaluate", "codecs/tiny", *options))
    assert other["held_out"] == 3
    said(capsys, "codec", "encode", "codecs/tiny", folder, "cache", "--size", 4)
    cache = open_source("cache")
    assert isinstance(cache, Cached) and (len(cache), cache[1]["text"]) == (4, "row 1")


@pytest.mark.parametrize("command", [("train", "tiny.json"), ("encode", "c", "digits", "out")])
def test_several_ranks_are_refused(command, here, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert braid_("codec", *command) == 2
    assert "done by one process, and a launcher started 2" in capsys.readouterr().err


def test_a_codec_that_does_not_say_its_data_asks_for_some(here, capsys):
    codecs.save(ImageCodec("lfq:3", **{k: v for k, v in TINY.items() if k != "kind"}), here / "c")
    capsys.readouterr()
    assert braid_("codec", "evaluate", "c") == 2
    assert "give --data and --size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "scene"), "unknown codec recipe 'scene'; did you mean 'scenes'"),
        (("train", "tiny.json", "codec.widht=8"), "did you mean 'width'"),
        (("train", "tiny.json", "--out", "."), "it holds other files"),
        (("train", "tiny.json", "size=0.5"), "size 0.5 is no side of a picture"),
        (("train", "speech", "train.adversary=0.1"), "train.adversary judges pictures"),
        (("encode", "mini/image-codec", "digits", "."), "it holds other files"),
        (("evaluate", "mini/image-codec", "--size", "0.5"), "size 0.5 is no side of a picture"),
        (("evaluate", "codecs/none/x/y/z"), "does not exist"),
        (("encode", "mini/image-codec", "no-such.csv", "cache"), "'no-such.csv'"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, here, capsys):
    capsys.readouterr()
    assert braid_("codec", *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_run_uses_its_codec_after_both_were_moved(tmp_path):
    train(experiment(steps=2), tmp_path / "codec")
    image = {"kind": "coded_image", "codec": str(tmp_path / "codec"), "size": 4}
    settings = ("train.steps=2", "train.batch=4", "train.warmup=1", "train.preview_every=2")
    made = resolve("toy", [*models.SMALL, f"strands.image.modality={image}", *settings])
    trainer = Trainer(made, tmp_path / "run", Console(file=io.StringIO()), "cpu")
    trainer.run()
    assert (tmp_path / "run" / "samples" / "step-2.png").is_file()
    shutil.rmtree(tmp_path / "codec")
    (tmp_path / "run").rename(tmp_path / "moved")
    pipe = braid.load(tmp_path / "moved", device="cpu")
    assert pipe(["row one", braid.Hole("image")], steps=2)[-1].size == (4, 4)
    pipe.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "moved")
    again = braid.load(tmp_path / "model", device="cpu")
    drawn = [p(["row one", braid.Hole("image")], steps=2)[-1] for p in (again, pipe)]
    assert np.array_equal(*map(np.asarray, drawn))


def test_a_run_with_another_codec_is_refused(tmp_path):
    for number in (1, 2):
        made = experiment(steps=1).model_copy(update={"seed": number})
        train(made, tmp_path / str(number))
    image = {"kind": "coded_image", "codec": str(tmp_path / "1"), "size": 4}
    settings = ("train.steps=1", "train.batch=4", "train.warmup=1")
    made = resolve("toy", [*models.SMALL, f"strands.image.modality={image}", *settings])
    Trainer(made, tmp_path / "run", Console(file=io.StringIO()), "cpu").run()
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "1")
    with pytest.raises(BraidError, match="the model was trained with codec"):
        Trainer(made, tmp_path / "run", Console(file=io.StringIO()), "cpu")


def test_a_codec_is_one_file_and_one_line_as_in_the_docs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "add-a-codec.md").read_text(encoding="utf-8")
    code, line = re.findall(r"```python\n(.*?)```", page, re.S)[:2]
    space: dict[str, Any] = {"__name__": "blocks"}
    exec(code, space)  # noqa: S102
    name, cls = re.search(r'"(\w+)": (\w+),', line).groups()
    monkeypatch.setitem(codecs.CODECS, name, space[cls])
    for number, quantiser in enumerate(("vq:8x4x2", "kl:3")):
        made = experiment(steps=3).model_dump()
        made["codec"] = {"kind": name, "quantiser": quantiser, "stride": 2, "channels": 1}
        codec, _ = train(load_as(CodecExperiment, made), tmp_path / str(number))
        again = codecs.load(tmp_path / str(number))
        media = torch.rand(2, 1, 4, 6) * 2 - 1
        codes = again.encode(media)
        codec.space.check(codes.flatten(0, 2), name)
        assert torch.equal(codes, codec.encode(media))
        assert again.decode(codes).shape == media.shape
        assert torch.equal(again.encode(media[1:]), codes[1:])
