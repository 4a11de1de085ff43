"""Caches of codes: the same tokens as without, of one codec only, and whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console

from braid import codec_commands, storage
from braid.data import Stream, documents_for, open_source
from braid.data import cache as cache_module
from braid.data.cache import Cached, write
from braid.data.loader import Loader
from braid.data.sources import Examples
from braid.errors import BraidError
from braid.modalities import CodedImage, codecs
from braid.modalities.codecs import Codes, ImageCodec
from tests.laws import models

KINDS = ("vq:8x4", "levels:5x3", "kl:2", "lfq:17")


def made(folder: Path, quantiser: str, seed: int = 0) -> str:
    """Write an untrained codec with pixels of 2 in a cell."""
    torch.manual_seed(seed)
    codecs.save(ImageCodec(quantiser, stride=2, width=8, encoder=1, decoder=1, fine=8), folder)
    return str(folder)


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape or (8, 8, 3)).astype(np.uint8)


def rows(count: int = 5) -> Examples:
    columns = {
        "image": [picture(i) for i in range(count)],
        "text": [f"row {i}" for i in range(count)],
        "edited": [picture(100 + i, 16, 8) for i in range(count)],
        "label": list(range(count)),
        "messages": [[{"role": "user", "content": "x"}]] * count,
    }
    return Examples("rows", columns)


@pytest.fixture
def cached(tmp_path) -> tuple[str, Path]:
    """Return a codec's folder and a cache that it made."""
    codec = made(tmp_path / "codec", "vq:8x4")
    return codec, write(codecs.load(codec), rows(), tmp_path / "cache", size=8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_gives_the_same_tokens(kind, tmp_path):
    codec, source = made(tmp_path / "codec", kind), rows()
    out = write(codecs.load(codec), source, tmp_path / "cache", size=8)
    cache = open_source(out)
    assert isinstance(cache, Cached) and len(cache) == len(source)
    image = CodedImage(codec=codec, size=8, patch=2, resize=True)
    for i in range(len(source)):
        for field in ("image", "edited"):
            expected = image.encode(source[i][field])
            if kind.startswith("kl"):
                torch.testing.assert_close(image.encode(cache[i][field]), expected)
            else:
                assert torch.equal(image.encode(cache[i][field]), expected)


def test_texts_and_numbers_stay_beside_the_codes(cached):
    cache = open_source(cached[1])
    assert set(cache.fields) == {"image", "edited", "text", "label"}
    assert cache[3]["text"] == "row 3" and cache[3]["label"] == 3
    assert isinstance(cache[3]["image"], Codes)


def test_columns_and_splits_of_a_cache_are_refused(cached):
    with pytest.raises(BraidError, match="has no splits; leave out split 'train'"):
        open_source(cached[1], split="train")
    for columns in ({"text": "caption"}, {"sound": "sound"}):
        with pytest.raises(BraidError, match=r"fields text, label, image, edited.*; leave out col"):
            open_source(cached[1], columns)
    assert len(open_source(cached[1], {"image": "image", "text": "text"})) == 5


@pytest.mark.parametrize("kind", ["vq:8x4", "kl:2"])
def test_a_batch_of_a_cache_is_that_of_the_pictures(kind, tmp_path):
    codec, source = made(tmp_path / "codec", kind), rows()
    cache = open_source(write(codecs.load(codec), source, tmp_path / "cache", size=8))
    image = {"kind": "coded_image", "codec": codec, "size": 8, "patch": 2}
    experiment = models.experiment(
        "transfusion" if kind == "kl:2" else "fudoki", f"strands.image.modality={image}"
    )
    braid = models.build(experiment)
    a, b = (
        Loader([Stream(s, documents_for(experiment.data, braid, s.fields))], braid, 4, 0).at(0, 4)
        for s in (source, cache)
    )
    torch.testing.assert_close(a.tokens, b.tokens)
    assert torch.equal(a.layout.document, b.layout.document)


def test_codes_of_another_codec_are_refused_by_the_names_of_both(cached, tmp_path):
    codec, cache = cached
    other = CodedImage(codec=made(tmp_path / "other", "vq:8x4", seed=1), size=8)
    with pytest.raises(BraidError) as error:
        other.encode(open_source(cache)[0]["image"])
    for name in (codecs.card_of(codec)["fingerprint"], other.card["fingerprint"]):
        assert name in str(error.value)
    assert "encode the data again" in str(error.value)


def test_codes_of_another_size_are_refused(cached):
    codec, cache = cached
    with pytest.raises(BraidError, match="of a picture of 4x4 cells, the model reads 8x8"):
        CodedImage(codec=codec, size=16).encode(open_source(cache)[0]["image"])


@pytest.mark.parametrize("file", ["cache.json", "rows.json", "codes.safetensors"])
def test_a_cache_that_lost_a_file_is_refused(file, cached):
    (cached[1] / file).unlink()
    with pytest.raises(BraidError):
        open_source(cached[1])


@pytest.mark.parametrize("file", ["cache.json", "rows.json", "codes.safetensors"])
def test_a_truncated_cache_is_refused(file, cached):
    path = cached[1] / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BraidError, match=f"{file}' is damaged"):
        open_source(cached[1])


def test_rows_of_another_cache_are_refused(cached, tmp_path):
    codec, cache = cached
    shorter = write(codecs.load(codec), rows(4), tmp_path / "shorter", size=8)
    shutil.copy(shorter / "rows.json", cache)
    with pytest.raises(BraidError, match="is incomplete; encode the data again"):
        open_source(cache)


def header(folder: Path) -> dict:
    return json.loads((folder / "cache.json").read_text())


def test_rows_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    pictures = [picture(0), b"", None, picture(1), {"bytes": b"GIF8"}, picture(2)]
    cells = [p if isinstance(p, np.ndarray | dict) else {"bytes": p} for p in pictures]
    cells[2] = None
    source = Examples("some", {"image": cells, "text": [f"row {i}" for i in range(6)]})
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    cache = open_source(write(codec, source, tmp_path / "cache", size=8))
    assert [cache[i]["text"] for i in range(len(cache))] == ["row 0", "row 3", "row 5"]
    assert header(tmp_path / "cache")["skipped"] == 3
    image = CodedImage(codec=str(tmp_path / "codec"), size=8)
    assert torch.equal(image.encode(cache[2]["image"]), image.encode(pictures[5]))


def test_conversions_are_told(tmp_path, capsys):
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    write(codec, rows(3), tmp_path / "cache", size=8, console=Console())  # "edited" is grey
    said = "left out, as they are no pictures, texts or numbers: messages"
    assert capsys.readouterr().out == f"edited: 3 x grey converted to RGB\n{said}\n"


def test_rows_that_begin_without_a_picture_are_left_out(tmp_path):
    source = Examples("some", {"image": [None, picture(0)], "text": ["a", "b"]})
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    cache = open_source(write(codec, source, tmp_path / "cache", size=8))
    assert (len(cache), cache[0]["text"], header(tmp_path / "cache")["skipped"]) == (1, "b", 1)


def test_more_rows_than_a_batch_stay_in_order(tmp_path):
    source = Examples("many", {"image": [picture(i, 4, 4) for i in range(70)]})  # grey ones
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    cache = open_source(write(codec, source, tmp_path / "cache", size=4))
    image = CodedImage(codec=str(tmp_path / "codec"), size=4)
    for i in (0, 63, 64, 69):
        assert torch.equal(image.encode(cache[i]["image"]), image.encode(source[i]["image"]))


def test_a_limit_encodes_the_first_rows(tmp_path):
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    assert len(open_source(write(codec, rows(), tmp_path / "cache", size=8, limit=2))) == 2


def test_codes_take_the_smallest_numbers_that_hold_them(tmp_path):
    kinds = {"vq:8x4": torch.int16, "lfq:17": torch.int32, "kl:2": torch.float32}
    for number, (kind, expected) in enumerate(kinds.items()):
        codec = codecs.load(made(tmp_path / f"codec-{number}", kind))
        out = write(codec, rows(2), tmp_path / f"cache-{number}", size=8)
        assert storage.read_tensors(out / "codes.safetensors")["image"].dtype == expected


def test_data_without_pictures_is_refused(tmp_path):
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    source = Examples("words", {"text": ["a", "b"], "sound": [np.zeros(9)] * 2})
    with pytest.raises(BraidError, match="words holds no pictures"):
        write(codec, source, tmp_path / "cache", size=8)


def test_a_column_of_pictures_may_begin_after_the_first_row(tmp_path):
    columns = {"image": [picture(i) for i in range(4)], "text": list("abcd")}
    columns["edited"] = [None, None, picture(5), picture(6)]
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    cache = open_source(write(codec, Examples("late", columns), tmp_path / "cache", size=8))
    assert [cache[i]["text"] for i in range(len(cache))] == ["c", "d"]
    assert isinstance(cache[0]["edited"], Codes)
    assert header(tmp_path / "cache")["skipped"] == 2


def test_a_column_of_pictures_that_begins_too_late_is_refused_and_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "LOOKED_AT", 2)
    columns = {"image": [picture(i) for i in range(4)], "edited": [None, None, None, picture(6)]}
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    with pytest.raises(BraidError, match="late row 3 holds a picture in 'edited', and none of the"):
        write(codec, Examples("late", columns), tmp_path / "cache", size=8)
    assert not (tmp_path / "cache").exists()


def test_pictures_may_begin_after_the_rows_that_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "LOOKED_AT", 2)
    source = Examples("late", {"image": [None, None, None, picture(6)]})
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    assert len(open_source(write(codec, source, tmp_path / "cache", size=8))) == 1


def test_a_size_that_the_codec_cannot_read_is_refused(tmp_path):
    codec = codecs.load(made(tmp_path / "codec", "vq:8x4"))
    with pytest.raises(BraidError, match="7x7 is no multiple"):
        write(codec, rows(), tmp_path / "cache", size=7)
    assert not (tmp_path / "cache").exists()


def test_columns_and_a_split_are_chosen_when_data_is_encoded(tmp_path):
    folder = tmp_path / "edits" / "test"
    folder.mkdir(parents=True)
    (tmp_path / "edits" / "train").mkdir()
    for name in ("before.png", "after.png"):
        PIL.Image.fromarray(picture(0)).save(folder / name)
    line = {"old": "before.png", "new": "after.png", "what": "turn it"}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    codec = made(tmp_path / "codec", "vq:8x4")
    settings = ["columns={image: old, edited: new, instruction: what}", "split=test"]
    edits = str(tmp_path / "edits")
    out = codec_commands.encode(codec, edits, tmp_path / "cache", 8, settings=settings)
    assert set(open_source(out).fields) == {"image", "edited", "instruction"}
    with pytest.raises(BraidError, match="'scenes' has neither columns nor splits to choose"):
        codec_commands.encode(codec, "scenes", tmp_path / "other", 8, settings=settings)
