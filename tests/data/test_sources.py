"""Every form of data opens with the same rows, and bad rows are skipped, counted and limited."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from braid.config import DataConfig
from braid.data import Data, open_data, records, rows, tables
from braid.data.sources import NUMERALS, Checked, Examples, Source, digits, open_source
from braid.data.synthetic import CAPTIONS, toy
from braid.errors import BraidError
from braid.modalities import Image, Text
from tests.data.dirty import header_bomb

datasets = pytest.importorskip("datasets", reason="needs the extra [data]")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

WORDS = ["a dark square", "a grey square", "a bright square"]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def png(level: int = 0, size: int = 8, mode: str = "L", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    colour = level if mode == "L" else (level,) * len(mode)
    PIL.Image.new(mode, (size, size), colour).save(file, form)
    return file.getvalue()


PICTURES = [png(0), png(128), png(255)]
CELLS = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES)]


def table(**columns: list) -> arrow.Table:
    return arrow.table(columns)


def features() -> datasets.Dataset:
    kinds = {
        "img": datasets.Image(),
        "label": datasets.ClassLabel(names=["dark", "grey", "bright"]),
    }
    columns = {"img": [{"bytes": data, "path": None} for data in PICTURES], "label": [0, 1, 2]}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(PICTURES):
        (folder / f"{i}.png").write_bytes(data)


def one_parquet(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table(image=CELLS, caption=WORDS, emoji=WORDS), folder / "d.parquet")
    return folder / "d.parquet"


def list_of_parquet(folder: Path) -> list[str]:
    for i in range(3):
        parquet.write_table(
            table(image=CELLS[i : i + 1], text=WORDS[i : i + 1]), folder / f"{i}.parquet"
        )
    return [str(folder / f"{i}.parquet") for i in range(3)]


def glob_of_parquet(folder: Path) -> str:
    list_of_parquet(folder)
    return f"{folder}/?.parquet"


def folder_of_parquet(folder: Path) -> Path:
    list_of_parquet(folder)
    return folder


def parquet_with_paths(folder: Path) -> Path:
    pictures(folder / "pictures")
    cells = [{"bytes": None, "path": f"pictures/{i}.png"} for i in range(3)]
    parquet.write_table(table(image=cells, text=WORDS), folder / "d.parquet")
    return folder / "d.parquet"


def binary_parquet(folder: Path) -> Path:
    parquet.write_table(table(jpg=PICTURES, prompt=WORDS, id=[1, 2, 3]), folder / "d.parquet")
    return folder / "d.parquet"


def arrow_stream(folder: Path) -> Path:
    rows = table(image=CELLS, caption=WORDS)
    with (
        arrow.OSFile(str(folder / "d.arrow"), "wb") as f,
        arrow.ipc.new_stream(f, rows.schema) as w,
    ):
        w.write_table(rows)
    return folder / "d.arrow"


def arrow_file(folder: Path) -> Path:
    rows = table(image=CELLS, caption=WORDS)
    with arrow.OSFile(str(folder / "d.arrow"), "wb") as f, arrow.ipc.new_file(f, rows.schema) as w:
        w.write_table(rows)
    return folder / "d.arrow"


def csv_file(folder: Path) -> Path:
    pictures(folder / "sub")
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("photo", "caption"), *((f"sub/{i}.png", WORDS[i]) for i in range(3))]
        )
    return folder / "d.csv"


def tsv_file(folder: Path) -> Path:
    pictures(folder)
    lines = ["file_name\tcaption", *(f"{folder}/{i}.png\t{WORDS[i]}" for i in range(3))]
    (folder / "d.tsv").write_text("\n".join(lines))
    return folder / "d.tsv"


def jsonl_file(folder: Path) -> Path:
    pictures(folder)
    rows = [{"file": f"{i}.png", "text": WORDS[i], "more": {"id": i}} for i in range(3)]
    (folder / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return folder / "d.jsonl"


def same_stem(folder: Path) -> Path:
    pictures(folder)
    for i, words in enumerate(WORDS):
        (folder / f"{i}.txt").write_text(words + "\n")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def metadata_csv(folder: Path) -> Path:
    pictures(folder)
    lines = ["file_name,text", *(f"{i}.png,{WORDS[i]}" for i in range(3))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def metadata_jsonl(folder: Path) -> Path:
    pictures(folder)
    rows = [{"file_name": f"{i}.png", "text": WORDS[i]} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def captions_txt(folder: Path) -> Path:
    pictures(folder)
    (folder / "captions.txt").write_text(
        "\n".join(["file_name,caption", *(f"{i}.png,{WORDS[i]}" for i in range(3))])
    )
    return folder


def captions_txt_without_header(folder: Path) -> Path:
    pictures(folder)
    (folder / "captions.txt").write_text("".join(f"{i}.png\t{WORDS[i]}\n" for i in range(3)))
    return folder


def tar_of_pairs(folder: Path) -> Path:
    with tarfile.open(folder / "d.tar", "w") as tar:
        for i, words in enumerate(WORDS):
            for name, data in ((f"x/{i}.png", PICTURES[i]), (f"x/{i}.txt", words.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "d.tar"


def saved_to_disk(folder: Path) -> Path:
    columns = {"image": datasets.Image(), "caption": datasets.Value("string")}
    rows = {"image": [{"bytes": data, "path": None} for data in PICTURES], "caption": WORDS}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    made.with_format("numpy").save_to_disk(str(folder / "d"))
    return folder / "d"


FORMS = [
    one_parquet,
    list_of_parquet,
    glob_of_parquet,
    folder_of_parquet,
    parquet_with_paths,
    binary_parquet,
    arrow_stream,
    arrow_file,
    csv_file,
    tsv_file,
    jsonl_file,
    same_stem,
    metadata_csv,
    metadata_jsonl,
    captions_txt,
    captions_txt_without_header,
    tar_of_pairs,
    saved_to_disk,
]


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_opens_with_the_same_rows_and_writes_nothing(form, tmp_path, capfd):
    path = form(tmp_path)
    before = listing(tmp_path)
    capfd.readouterr()
    source = open_source(path)
    assert source.fields == ("image", "text")
    rows = [source[i] for i in range(len(source))]
    assert rows == [{"image": {"bytes": PICTURES[i]}, "text": WORDS[i]} for i in range(3)]
    assert [{f: source.value(i, f) for f in source.fields} for i in range(3)] == rows
    assert source.describe(1).startswith(f"{source.name} row 1")
    assert listing(tmp_path) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_rows_beyond_the_end_raise_index_error(form, tmp_path):
    source = open_source(form(tmp_path))
    with pytest.raises(IndexError):
        source[3]


def test_large_parquet_is_mapped_from_the_cache_with_the_same_rows(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tables, "MEMORY_BYTES", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = open_source(list_of_parquet(tmp_path))
    assert [source[i]["image"]["bytes"] for i in range(3)] == PICTURES
    assert [source[i]["text"] for i in range(3)] == WORDS
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_class_numbers_become_names_except_as_labels(tmp_path, capfd):
    features().to_parquet(str(tmp_path / "d.parquet"))
    columns = {"image": "img", "vision": "img", "text": "label", "label": "label"}
    assert open_source(tmp_path / "d.parquet")[1] == {
        "image": {"bytes": PICTURES[1]},
        "text": "grey",
    }
    row = open_source(tmp_path / "d.parquet", columns)[2]
    assert row == {
        "image": {"bytes": PICTURES[2]},
        "vision": {"bytes": PICTURES[2]},
        "text": "bright",
        "label": 2,
    }


def test_columns_choose_and_rename(tmp_path):
    source = open_source(one_parquet(tmp_path), {"text": "emoji"})
    assert source.fields == ("text",)
    assert source[0] == {"text": WORDS[0]}


def test_numbers_of_a_csv_are_labels(tmp_path):
    (tmp_path / "d.csv").write_text("text,class\nseven,7\nnone,\n")
    source = open_source(tmp_path / "d.csv", {"text": "text", "label": "class"})
    assert [source[i]["label"] for i in range(2)] == [7, None]


def test_texts_for_a_vocabulary_are_read_without_the_media(tmp_path):
    (tmp_path / "d.csv").write_text("image,text\ngone.png,a\ngone.png,b\n")
    source = open_source(tmp_path / "d.csv", {"image": "image", "text": "text"})
    assert list(Data(source, source).column("text")) == ["a", "b"]


def test_a_line_of_a_csv_with_too_many_cells_is_a_bad_row(tmp_path):
    (tmp_path / "d.csv").write_text("text,id\na,1\nb, and c,2\nd,3\n")
    source = open_source(tmp_path / "d.csv")
    assert source[0]["text"] == "a"
    with pytest.raises(BraidError, match="more cells than the first line names; quote cells"):
        source[1]
    assert source[2]["text"] == "d"


def test_a_held_out_share_of_everything_is_refused(tmp_path):
    (tmp_path / "d.csv").write_text("text,id\na,1\nb,2\nc,3\n")
    made = DataConfig(source="files", path=str(tmp_path / "d.csv"), hold_out=0.9)
    with pytest.raises(BraidError, match="data.hold_out 0.9 of 3 rows leaves none to train on"):
        open_data(made, 0)


@pytest.mark.parametrize("word", ["None", "NA", "null", "007", "", ' "quoted", too '])
def test_csv_texts_are_taken_literally(word, tmp_path):
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "id"), (word, 1), ("other", 2)])
    assert open_source(tmp_path / "d.csv")[0] == {"text": word}


def test_a_json_zero_is_a_label(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}')
    source = open_source(tmp_path / "d.jsonl", {"text": "text", "label": "label"})
    assert [source[i]["label"] for i in range(2)] == [0, 1]


def test_sounds_are_not_pictures(tmp_path):
    parquet.write_table(table(audio=CELLS, caption=WORDS), tmp_path / "d.parquet")
    assert open_source(tmp_path / "d.parquet").fields == ("audio", "text")


def test_folders_that_part_pictures_are_labels(tmp_path):
    pictures(tmp_path / "cat")
    pictures(tmp_path / "dog")
    source = open_source(tmp_path)
    assert [source[i]["text"] for i in range(6)] == ["cat"] * 3 + ["dog"] * 3


def test_pictures_need_no_captions(tmp_path):
    pictures(tmp_path)
    assert open_source(tmp_path).fields == ("image",)


def test_blank_lines_part_documents(tmp_path):
    (tmp_path / "d.txt").write_bytes("\ufeffOne\r\nline.\r\n \r\nTwo.\n\n\n\nThree.\n".encode())
    source = open_source(tmp_path / "d.txt")
    assert [source[i]["text"] for i in range(len(source))] == ["One\nline.", "Two.", "Three."]


@pytest.mark.parametrize("mark", ["\n", " ", ""])
def test_long_documents_are_cut_without_loss(mark, tmp_path):
    text = mark.join(f"word{i:05d}" for i in range(1000))
    (tmp_path / "d.txt").write_text(text)
    source = open_source(tmp_path / "d.txt")
    pieces = [source[i]["text"] for i in range(len(source))]
    assert mark.join(pieces) == text
    assert max(map(len, pieces)) <= records.PARAGRAPH


def test_splits_are_named(tmp_path):
    for part in ("train", "test"):
        same_stem(tmp_path / "pictures" / part)
        (tmp_path / "tables").mkdir(exist_ok=True)
        one_parquet(tmp_path / "tables").rename(tmp_path / "tables" / f"{part}-0.parquet")
    both = datasets.DatasetDict({"train": features(), "test": features().select([0])})
    both.save_to_disk(str(tmp_path / "saved"))
    for folder in ("pictures", "tables", "saved"):
        assert len(open_source(tmp_path / folder, split="train")) == 3
        with pytest.raises(BraidError, match="train.*split"):
            open_source(tmp_path / folder)
        with pytest.raises(BraidError, match="did you mean 'test'.*train"):
            open_source(tmp_path / folder, split="tests")
    assert len(open_source(tmp_path / "saved", split="test")) == 1
    with pytest.raises(BraidError, match="no splits"):
        open_source(tmp_path / "tables" / "train-0.parquet", split="train")


def test_a_long_cell_of_a_csv_is_read_and_the_limit_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    long = "word " * 40_000
    (tmp_path / "d.csv").write_text(f"text,id\n{long},1\nshort,2\n")
    assert open_source(tmp_path / "d.csv")[0]["text"] == long
    assert csv.field_size_limit() == before
    (tmp_path / "d.csv").write_text('text,id\n"open,1\n')
    with pytest.raises(BraidError, match="quote cells as in a CSV file"):
        open_source(tmp_path / "d.csv")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.txt"])
def test_a_file_in_utf_16_is_refused_by_name(name, order, tmp_path):
    lines = '{"text": "a"}\n' if name == "d.jsonl" else "text\na\n"
    (tmp_path / name).write_bytes(f"\ufeff{lines}".encode(order))
    with pytest.raises(BraidError, match=f"{name}' is in UTF-16; save it as UTF-8"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("form", [metadata_csv, same_stem, one_parquet], ids=lambda f: f.__name__)
def test_the_only_split_needs_no_name(form, tmp_path):
    form(tmp_path / "train")
    (tmp_path / "README.md").write_text("about the data")
    source = open_source(tmp_path)
    assert source.fields == ("image", "text")
    assert source[1] == {"image": {"bytes": PICTURES[1]}, "text": WORDS[1]}


def test_a_folder_of_a_split_beside_other_media_is_a_label(tmp_path):
    pictures(tmp_path / "dev")
    pictures(tmp_path / "cat")
    source = open_source(tmp_path)
    assert [source[i]["text"] for i in range(6)] == ["cat"] * 3 + ["dev"] * 3


def test_a_hub_id_is_loaded_with_its_split(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.DatasetDict({"train": features()}) if split is None else features()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert open_source("owner/name")[0]["text"] == "dark"
    assert len(open_source("owner/name:large", split="train")) == 3
    assert asked == [("owner/name", None, None), ("owner/name", "large", "train")]


def test_a_hub_id_says_that_it_is_offline(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(BraidError, match="'owner/no-such-data' does not exist.*HF_HUB_OFFLINE"):
        open_source("owner/no-such-data")


@pytest.mark.parametrize("path", ["no-such", "no/such.parquet", "/no/such/folder", "no/*.csv"])
def test_a_missing_path_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BraidError) as error:
        open_source(path)
    assert repr(path) in str(error.value)


EMPTY = {
    "d.txt": b" \n\n",
    "d.csv": b"image,text\n",
    "d.jsonl": b"\n",
    "metadata.csv": b"file_name,text\n",
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_data_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(EMPTY[name])
    with pytest.raises(BraidError, match="no rows"):
        open_source(tmp_path if name == "metadata.csv" else tmp_path / name)


def test_empty_tables_folders_and_lists_are_refused(tmp_path):
    parquet.write_table(table(image=CELLS, text=WORDS).slice(0, 0), tmp_path / "d.parquet")
    with pytest.raises(BraidError, match="no rows"):
        open_source(tmp_path / "d.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BraidError, match="neither pictures"):
        open_source(tmp_path / "folder")
    with pytest.raises(BraidError, match="no file"):
        open_source([])


@pytest.mark.parametrize("name", ["d.parquet", "d.arrow", "d.tar"])
def test_damaged_files_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PAR1 this is no such file " * 40)
    with pytest.raises(BraidError, match=name):
        open_source(tmp_path / name)


def test_an_unbalanced_quote_names_the_line(tmp_path):
    (tmp_path / "d.csv").write_text('text\nfine\n"never closed\n')
    with pytest.raises(BraidError, match="d.csv' after line 2"):
        open_source(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": CELLS, "photo": CELLS, "text": WORDS}, "2 columns of image"),
        ({"image": CELLS, "title": WORDS}, r"columns found: image \(image\), title \(text\)"),
        ({"number": [1, 2, 3]}, r"columns found: number \(other\)"),
    ],
)
def test_what_is_not_plain_is_asked_for(columns, message, tmp_path):
    parquet.write_table(table(**columns), tmp_path / "d.parquet")
    with pytest.raises(BraidError, match=message):
        open_source(tmp_path / "d.parquet")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_an_unknown_column_is_named(form, tmp_path):
    with pytest.raises(BraidError, match="unknown column 'captoin'"):
        open_source(form(tmp_path), {"text": "captoin"})


def test_files_of_several_kinds_are_refused(tmp_path):
    with pytest.raises(BraidError, match="several kinds, .csv, .parquet"):
        open_source([one_parquet(tmp_path), csv_file(tmp_path)])
    (tmp_path / "d.parq").touch()
    with pytest.raises(BraidError, match="did you mean '.parquet'"):
        open_source(tmp_path / "d.parq")


def test_tables_that_differ_are_refused(tmp_path):
    parquet.write_table(table(text=WORDS), tmp_path / "a.parquet")
    parquet.write_table(table(other=WORDS), tmp_path / "b.parquet")
    with pytest.raises(BraidError, match="b.parquet' has no column 'text'"):
        open_source(str(tmp_path / "*.parquet"))
    parquet.write_table(table(text=[1, 2, 3]), tmp_path / "b.parquet")
    with pytest.raises(BraidError, match="differ"):
        open_source(str(tmp_path / "*.parquet"))


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    path = one_parquet(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(BraidError, match=r'pip install "braid-models\[data\]"'):
        open_source(path)


def test_digits_are_split_in_proportion():
    pytest.importorskip("sklearn")
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1500, 297)
    counts = np.bincount([test[i]["label"] for i in range(297)])
    known = counts + np.bincount([train[i]["label"] for i in range(1500)])
    assert (np.abs(counts - known * 297 / 1797) < 1).all()
    pixels = [
        {source[i]["image"].tobytes() for i in range(len(source))} for source in (train, test)
    ]
    assert not pixels[0] & pixels[1]
    with pytest.raises(BraidError, match="unknown split"):
        digits("validation")


def test_digits_survive_their_modality():
    sklearn = pytest.importorskip("sklearn.datasets")
    row, image = digits("test")[11], Image(size=8, levels=17)
    assert row["text"] == NUMERALS[row["label"]]
    assert row["image"].dtype == np.uint8 and row["image"].max() == 255
    assert (np.asarray(image.decode(image.encode(row["image"]))) == row["image"]).all()
    original = np.rint(row["image"].astype(int) * 16 / 255)
    assert (sklearn.load_digits().images == original).all((1, 2)).sum() == 1


def test_toy_has_eight_pairs_equally_often():
    source = toy(24, seed=3)
    pairs = {(row["image"].tobytes(), row["text"]) for row in map(source.__getitem__, range(24))}
    assert len(pairs) == 8
    assert sorted(source[i]["text"] for i in range(24)) == sorted(CAPTIONS * 3)
    assert all(CAPTIONS[source[i]["label"]] == source[i]["text"] for i in range(24))
    assert [toy(24, 3)[i]["label"] for i in range(24)] == [source[i]["label"] for i in range(24)]
    assert [toy(24, 4)[i]["label"] for i in range(24)] != [source[i]["label"] for i in range(24)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the emoji data beside the repository")
def test_all_emoji_are_good():
    source = open_source(str(SHARED / "emoji-train.parquet"))
    assert (len(source), source.fields) == (2825, ("image", "text"))
    image = Image(size=64, channels=3, patch=4, levels=16)
    checked = Checked(source, lambda row: image.encode(row["image"]), lambda x: x.nbytes)
    assert checked.get(0).shape == (256, 48)
    assert [checked.get(i).shape for i in range(0, 2825, 50)] and checked.skipped == {}


def encoder():
    image, text = Image(size=8), Text(vocabulary=256)
    text.fit(WORDS)
    return lambda row: (image.encode(row["image"]), text.encode(row["text"]))


def size_of(encoded) -> int:
    return sum(tokens.nbytes for tokens in encoded)


def broken_bytes() -> bytes:
    data = bytearray(png(7))
    data[data.index(b"IDAT") + 6] ^= 255
    return bytes(data)


BAD = {
    "0 bytes": (b"", "x", "image: the picture is empty"),
    "text for a picture": (b"<html>not found</html>", "x", "image: not a readable picture"),
    "truncated": (png(7)[:-30], "x", "image: the picture is truncated or damaged"),
    "NaN": (png(float("nan"), mode="F", form="TIFF"), "x", "image: grey values from nan to nan"),
    "size": (png(7, size=9), "x", "image: the picture is NxN, the model reads NxN"),
    "no picture": (None, "x", "image: the value is missing"),
    "no caption": (png(7), None, "text: the value is missing"),
    "empty caption": (png(7), "", "text: the text is empty"),
    "blank caption": (png(7), " \n", "text: the text is empty"),
}


def mixed(folder: Path) -> tuple[Source, list[int]]:
    """Return rows good, bad, good, bad, bad, ... and the numbers of the bad."""
    rows: list[tuple] = []
    bad: list[int] = []
    for i, (data, words, _) in enumerate(BAD.values()):
        rows.append((PICTURES[i % 3], f"good {i}"))
        for _ in range(1 + i % 2):
            bad.append(len(rows))
            rows.append((data, words))
    cells = [None if data is None else {"bytes": data, "path": "p.png"} for data, _ in rows]
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    images = arrow.array(cells, kind)
    parquet.write_table(
        table(image=images, caption=[words for _, words in rows]), folder / "d.parquet"
    )
    return open_source(folder / "d.parquet"), bad


def test_bad_rows_are_counted_exactly_and_once(tmp_path):
    source, bad = mixed(tmp_path)
    calls: list[tuple[int, str]] = []
    checked = Checked(source, encoder(), size_of, on_skip=lambda *call: calls.append(call))
    for _ in range(3):
        for i in range(len(source)):
            checked.get(i)
    assert sorted(i for i, _ in calls) == bad
    assert checked.bad == calls
    expected: dict[str, int] = {}
    for i, (_, _, reason) in enumerate(BAD.values()):
        expected[reason] = expected.get(reason, 0) + 1 + i % 2
    assert checked.skipped == expected
    assert all(message.startswith(f"d row {i}: ") for i, message in calls)


def test_the_row_that_replaces_a_bad_one_does_not_depend_on_the_order(tmp_path):
    source, bad = mixed(tmp_path)
    encode = encoder()
    n = len(source)
    good = [next(j % n for j in range(i, i + n) if j % n not in bad) for i in range(n)]
    assert n - 1 in bad and good[n - 1] == 0  # the search goes round
    for order in (range(n), range(n - 1, -1, -1), torch.randperm(n).tolist()):
        checked = Checked(source, encode, size_of)
        for i in order:
            got, want = checked.get(i), encode(source[good[i]])
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_files_that_vanish_and_broken_lines_are_bad_rows(tmp_path):
    pictures(tmp_path)
    lines = [
        '{"image": "0.png", "text": "a"}',
        '{"image": "gone.png", "text": "b"}',
        "{oops",
        "[1]",
    ]
    lines += ['{"image": "2.png", "text": 5}', '{"text": "c"}', '{"image": ".", "text": "d"}']
    (tmp_path / "d.jsonl").write_bytes(
        "\n".join(lines).encode() + b'\n{"image": "1.png", "text": "\xff"}'
    )
    checked = Checked(open_source(tmp_path / "d.jsonl"), encoder(), size_of)
    assert [torch.equal(checked.get(i)[0], checked.get(0)[0]) for i in range(8)] == [True] * 8
    assert checked.skipped == {
        "file ... cannot be read: no such file": 2,
        "a line is not a JSON object": 2,
        "text: expected a string, got int N": 1,
        "image: the value is missing": 1,
        "a text is not valid Unicode": 1,
    }


def refused(source: Source) -> dict[int, str]:
    """Return why rows of a source cannot be read."""
    reasons = {}
    for i in range(len(source)):
        try:
            source[i]
        except BraidError as e:
            reasons[i] = str(e)
    return reasons


def test_what_data_names_outside_its_folder_is_not_read(tmp_path):
    for folder in ("data/sub", "other"):
        pictures(tmp_path / folder)
    named = ["sub/0.png", "sub/../sub/0.png", str(tmp_path / "data" / "sub" / "0.png")]
    outside = ["../other/0.png", "sub/../../other/0.png", str(tmp_path / "other" / "0.png")]
    lines = [json.dumps({"image": name, "text": "a"}) for name in named + outside]
    (tmp_path / "data" / "d.jsonl").write_text("\n".join(lines))
    parquet.write_table(
        table(image=named + outside, text=["a"] * 6), tmp_path / "data" / "d.parquet"
    )
    for file in ("d.jsonl", "d.parquet"):
        reasons = refused(open_source(tmp_path / "data" / file))
        assert list(reasons) == [3, 4, 5]
        assert all("lies outside the folder of its data; move it" in r for r in reasons.values())


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet"])
def test_a_column_named_as_pictures_holds_paths_whatever_its_first_value_ends_in(name, tmp_path):
    pictures(tmp_path / "data")
    (tmp_path / "data" / "0.png").rename(tmp_path / "data" / "first.jfif")
    (tmp_path / "secret").write_bytes(PICTURES[0])
    names = ["first.jfif", "1.png", "2.png", str(tmp_path / "secret")]
    file = tmp_path / "data" / name
    if name == "d.csv":
        file.write_text("\n".join(["pic,text", *(f"{n},a" for n in names)]))
    elif name == "d.jsonl":
        file.write_text("\n".join(json.dumps({"pic": n, "text": "a"}) for n in names))
    else:
        parquet.write_table(table(pic=names, text=["a"] * 4), file)
    source = open_source(file, {"image": "pic", "text": "text"})
    assert [source[i]["image"] for i in range(3)] == [{"bytes": data} for data in PICTURES]
    assert "lies outside the folder of its data" in refused(source)[3]


def test_json_cells_that_hold_a_path_are_read_from_the_folder(tmp_path):
    pictures(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    secret = str(tmp_path / "secret.png")
    cells = [{"path": "1.png"}, {"path": secret}, {"bytes": secret, "path": None}, {"path": ""}]
    lines = [json.dumps({"photo": cell, "text": "a"}) for cell in cells]
    (tmp_path / "data" / "d.jsonl").write_text("\n".join(lines))
    for field in ("image", "edited"):
        source = open_source(tmp_path / "data" / "d.jsonl", {field: "photo", "text": "text"})
        assert source[0][field] == {"bytes": PICTURES[1]}
        assert "lies outside the folder of its data" in refused(source)[1]
        assert source[2][field] is None and source[3][field] is None


def test_json_cells_that_hold_samples_are_kept(tmp_path):
    cell = {"path": "gone.wav", "array": [0.5, -0.5], "sampling_rate": 8000}
    (tmp_path / "d.jsonl").write_text(json.dumps({"clip": cell, "text": "a"}))
    source = open_source(tmp_path / "d.jsonl", {"audio": "clip", "text": "text"})
    assert source[0]["audio"] == cell


def test_links_to_files_outside_are_not_read(tmp_path):
    pictures(tmp_path / "other")
    data = tmp_path / "data"
    pictures(data)
    (data / "3.png").symlink_to(data / "1.png")
    (data / "4.png").symlink_to(tmp_path / "other" / "1.png")
    (data / "5.png").symlink_to("/etc/passwd")
    (data / "6.png").symlink_to("nowhere")
    reasons = refused(open_source(data))
    assert list(reasons) == [4, 5, 6]
    assert "'4.png' lies outside" in reasons[4] and "no such file" in reasons[6]


def test_linked_folders_are_followed(tmp_path):
    pictures(tmp_path / "disk" / "pictures")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pictures").symlink_to(tmp_path / "disk" / "pictures")
    lines = [json.dumps({"image": f"pictures/{i}.png", "text": "a"}) for i in range(3)]
    (tmp_path / "data" / "d.jsonl").write_text("\n".join(lines))
    assert refused(open_source(tmp_path / "data" / "d.jsonl")) == {}
    (tmp_path / "short").symlink_to(tmp_path / "disk")
    assert refused(open_source(tmp_path / "short" / "pictures")) == {}


def test_the_links_of_the_hub_cache_are_followed(tmp_path):
    snapshot = tmp_path / "datasets--me--mine" / "snapshots" / "abc"
    pictures(tmp_path / "datasets--me--mine" / "blobs")
    (snapshot / "train").mkdir(parents=True)
    for i in range(3):
        (snapshot / "train" / f"{i}.png").symlink_to(f"../../../blobs/{i}.png")
    (snapshot / "train" / "3.png").symlink_to("/etc/passwd")
    assert list(refused(open_source(snapshot / "train"))) == [3]
    assert list(refused(open_source(snapshot, split="train"))) == [3]


def tar_of(path: Path, names: list[str], size: int = 1000) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    return path


PAIRS = ["a.png", "a.txt", "b.png", "b.txt", "c.png", "c.txt"]


@pytest.mark.parametrize(
    ("keep", "rows", "reasons"),
    [
        (5 * 1536 + 512 + 10, 3, {2: "'c.txt' is cut off: 10 of 1000"}),  # within the last member
        (4 * 1536 + 512 + 10, 3, {2: "'c.png' is cut off: 10 of 1000"}),
        (4 * 1536 + 100, 3, {2: "is cut off or damaged"}),  # within a header
        (4 * 1536, 2, {}),  # a tar without an end, as some write it
        (6 * 1536 + 512, 3, {}),
    ],
)
def test_a_tar_that_is_cut_keeps_its_other_rows(keep, rows, reasons, tmp_path):
    path = tar_of(tmp_path / "d.tar", PAIRS)
    path.write_bytes(path.read_bytes()[:keep])
    source = open_source(path)
    found = refused(source)
    assert len(source) == rows and list(found) == list(reasons)
    assert all(words in found[i] for i, words in reasons.items())


def test_a_damaged_header_in_a_tar_is_a_bad_row(tmp_path):
    path = tar_of(tmp_path / "d.tar", PAIRS)
    data = bytearray(path.read_bytes())
    data[2 * 1536 + 148] ^= 255  # the checksum of the third header
    path.write_bytes(data)
    assert [words.split(" is ")[1] for words in refused(open_source(path)).values()] == [
        "cut off or damaged; restore it"
    ]


def test_names_that_come_twice_in_a_tar_are_bad_rows_and_the_first_is_kept(tmp_path):
    path = tar_of(tmp_path / "d.tar", [*PAIRS, "a.png", "a.txt", "a.txt", "b.txt", "../d.png"])
    source = open_source(path)
    assert source.fields == ("image", "text")
    found = refused(source)
    assert list(found) == [4, 5, 6]
    assert [words.split(" is in ")[0] for words in found.values()] == ["'a'", "'a'", "'b'"]


def test_two_tars_may_have_the_same_names(tmp_path):
    tars = [tar_of(tmp_path / f"{i}.tar", PAIRS) for i in range(2)]
    assert refused(open_source(tars)) == {}


def test_folders_of_several_tars_part_one_source(tmp_path):
    tars = [tar_of(tmp_path / f"{i}.tar", [f"{i}/a.png"]) for i in ("cats", "dogs")]
    source = open_source(tars)
    assert [source[i]["text"] for i in range(2)] == ["cats", "dogs"]


def test_links_in_a_tar_are_bad_rows(tmp_path):
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.REGTYPE), ("b.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    (reason,) = refused(open_source(tmp_path / "d.tar")).values()
    assert reason.startswith("'b.png' is a link in ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "text,text\na,b\n", "has 2 columns 'text'; rename all but one"),
        ("d.csv", "\ntext\na\n", "names no columns in its first line; write them there"),
        ("d.jsonl", '[{"text": "a"}\n]\n', "no row that can be read: a line is not a JSON object"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(BraidError, match=message):
        open_source(tmp_path / name)


def test_columns_without_a_name_are_ignored(tmp_path):
    (tmp_path / "d.csv").write_text("text,,\na,,\n")
    assert open_source(tmp_path / "d.csv")[0] == {"text": "a"}


def test_labels_of_many_digits_are_no_numbers(tmp_path):
    (tmp_path / "d.csv").write_text(f"text,label\na,{'9' * 5000}\nb,1\n")
    source = open_source(tmp_path / "d.csv", {"text": "text", "label": "label"})
    assert [source[0]["label"], source[1]["label"]] == ["9" * 5000, "1"]


def test_a_page_of_spaces_is_no_document(tmp_path):
    (tmp_path / "d.txt").write_text("a" + 3000 * " " + "b")
    source = open_source(tmp_path / "d.txt")
    assert [source[i]["text"] for i in range(len(source))] == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"a, ""big"" cat"', 'a, "big" cat'),
        ('"""dog"" x"', '"dog" x'),
        ('he said "hi"', 'he said "hi"'),
        ('"hi" is "hi"', '"hi" is "hi"'),
    ],
)
def test_quotes_of_a_caption_are_its_own_unless_they_are_of_the_file(written, read, tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "captions.txt").write_text(f"0.png,{written}\n")
    assert open_source(tmp_path)[0]["text"] == read


def test_a_file_that_does_not_fit_into_memory_is_a_bad_row(tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.setattr(rows, "MOST_BYTES", len(PICTURES[0]) - 1)
    reasons = refused(open_source(tmp_path))
    assert all("more than" in reason for reason in reasons.values()) and len(reasons) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_arrow_file_is_mapped_and_not_read(tmp_path):
    count, cell = 300, bytes(1 << 20)
    with arrow.OSFile(str(tmp_path / "d.arrow"), "wb") as file:
        one = table(image=[cell], text=["a"])
        with arrow.ipc.new_stream(file, one.schema) as writer:
            for _ in range(count):
                writer.write_table(one)
    script = (
        "import sys; from braid.data.sources import open_source\n"
        "def own(): return next(int(x.split()[1]) >> 10 for x in open('/proc/self/status')"
        " if x.startswith('RssAnon'))\n"
        "import datasets, pyarrow; before = own(); s = open_source(sys.argv[1])\n"
        "assert len(s[7]['image']['bytes']) == 1 << 20; print(own() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "d.arrow")], capture_output=True, text=True
    )
    assert int(done.stdout) < count / 2, done.stderr


def test_invalid_unicode_in_a_table_is_a_bad_row(tmp_path):
    offsets = arrow.array([0, 1, 3], arrow.int32()).buffers()[1]
    words = arrow.Array.from_buffers(
        arrow.string(), 2, [None, offsets, arrow.py_buffer(b"a\xff\xfe")]
    )
    parquet.write_table(table(text=words), tmp_path / "d.parquet")
    checked = Checked(open_source(tmp_path / "d.parquet"), lambda row: row["text"], len)
    assert [checked.get(0), checked.get(1)] == ["a", "a"]
    assert checked.skipped == {"a text is not valid Unicode": 1}


def test_a_class_without_a_name_is_a_bad_row(tmp_path):
    features = datasets.Features(label=datasets.ClassLabel(names=["cat", "dog"]))
    datasets.Dataset.from_dict({"label": [1, 0]}, features).to_parquet(tmp_path / "d.parquet")
    noted = parquet.read_schema(tmp_path / "d.parquet").metadata
    numbers = arrow.table({"label": arrow.array([1, 2])})
    parquet.write_table(numbers.replace_schema_metadata(noted), tmp_path / "d.parquet")
    source = open_source(tmp_path / "d.parquet", {"text": "label"})
    assert source[0] == {"text": "dog"}
    with pytest.raises(BraidError, match="class 2 has no name, as there are 2"):
        _ = source[1]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_that_are_not_read_may_be_of_any_kind(form, tmp_path):
    maps = arrow.array([[("a", 1)]], arrow.map_(arrow.string(), arrow.int64()))
    words = arrow.array(["a"]).cast(arrow.string_view())
    rows, file = arrow.table({"text": words, "extra": maps}), tmp_path / f"d.{form}"
    if form == "parquet":
        parquet.write_table(rows, file)
    else:
        with arrow.OSFile(str(file), "wb") as f, arrow.ipc.new_file(f, rows.schema) as writer:
            writer.write_table(rows)
    assert open_source(file)[0] == {"text": "a"}


def test_media_within_conversations_are_left_to_our_own_decoders(tmp_path):
    kinds = {"type": datasets.Value("string"), "image": datasets.Image()}
    messages = datasets.List({"role": datasets.Value("string"), "content": datasets.List(kinds)})
    pictures = [png(), header_bomb(), b"%!PS-Adobe-3.0 EPSF-3.0"]  # datasets decodes them all
    talks = [
        [{"role": "assistant", "content": [{"type": "image", "image": {"bytes": data}}]}]
        for data in pictures
    ]
    features = datasets.Features(messages=messages)
    datasets.Dataset.from_dict({"messages": talks}, features).save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d", {"messages": "messages"})
    found = [source[i]["messages"][0]["content"][0]["image"]["bytes"] for i in range(3)]
    assert found == pictures
    assert source.value(1, "messages") == source[1]["messages"]


def test_columns_of_json_are_read(tmp_path):
    talk = [{"role": "user", "content": "hi"}]
    features = datasets.Features(messages=datasets.Json())
    datasets.Dataset.from_dict({"messages": [talk]}, features).save_to_disk(tmp_path / "d")
    assert open_source(tmp_path / "d", {"messages": "messages"})[0] == {"messages": talk}


def refuse_below(limit: int):
    def encode(row):
        if row["n"] < limit:
            raise BraidError(f"number {row['n']} is below {limit}; raise it")
        return row["n"]

    return encode


def numbers(n: int) -> Source:
    return Examples("numbers", {"n": list(range(n))})


@pytest.mark.parametrize(
    ("bad", "limit", "stops"), [(0, 0.0, False), (1, 0.0, True), (2, 0.02, False), (3, 0.02, True)]
)
def test_the_limit_stops(bad, limit, stops):
    checked = Checked(numbers(100), refuse_below(bad), lambda _: 1)
    for i in range(100):
        checked.get(i)
    if not stops:
        checked.check_limit(limit)
        return
    with pytest.raises(BraidError) as error:
        checked.check_limit(limit)
    for part in (f"{bad} of 100", f"data.bad_limit {limit:g}", f"{bad} x number N is below N"):
        assert part in str(error.value)


def test_a_limit_given_at_first_stops_within_one_call():
    asked = []

    def encode(row):
        asked.append(row["n"])
        raise BraidError("bad")

    checked = Checked(numbers(1000), encode, lambda _: 1, limit=0.01)
    with pytest.raises(BraidError, match=r"11 of 1000 rows of 'numbers' are bad \(11 x bad"):
        checked.get(5)
    assert asked == list(range(5, 16))


def test_a_source_of_bad_rows_only_raises():
    checked = Checked(numbers(10), refuse_below(10), lambda _: 1)
    with pytest.raises(BraidError, match="10 of 10 rows"):
        checked.get(3)


def test_at_most_a_hundred_bad_rows_are_remembered():
    checked = Checked(numbers(300), refuse_below(250), lambda _: 1)
    assert checked.get(0) == 250
    assert [i for i, _ in checked.bad] == list(range(100))
    assert checked.skipped == {"number N is below N": 250}


def test_a_mistake_in_the_program_is_not_a_bad_row():
    checked = Checked(numbers(3), lambda row: row["missing"], lambda _: 1)
    with pytest.raises(KeyError) as error:
        checked.get(1)
    assert error.value.__notes__ == ["while encoding numbers row 1"]


def test_only_the_named_fields_must_be_there():
    source = Examples("some", {"image": [None, None], "text": ["a", "b"]})
    checked = Checked(source, lambda row: row["text"], len, fields=("text",))
    assert [checked.get(0), checked.get(1)] == ["a", "b"]
    with pytest.raises(BraidError, match="unknown field of some 'txet'"):
        Checked(source, lambda row: row["text"], len, fields=("txet",))


@pytest.mark.parametrize(("cache_bytes", "encoded"), [(0, 200), (40, 160), (1000, 100)])
def test_rows_are_encoded_once_while_they_fit_into_the_cache(cache_bytes, encoded):
    calls = []
    checked = Checked(
        numbers(100),
        lambda row: calls.append(row["n"]) or row["n"],
        lambda _: 1,
        cache_bytes=cache_bytes,
    )
    for _ in range(2):
        assert [checked.get(i) for i in range(100)] == list(range(100))
    assert len(calls) == encoded


def test_threads_see_the_same_rows_and_count_once(tmp_path):
    source, bad = mixed(tmp_path)
    calls, start, n = [], threading.Barrier(8), len(source)
    checked = Checked(
        source, encoder(), size_of, on_skip=lambda i, _: calls.append(i), cache_bytes=2000
    )

    def work(seed: int) -> list[int]:
        start.wait()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        got = {i: checked.get(i) for i in order * 3}
        return [int(tokens.sum()) for i in range(n) for tokens in got[i]]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)
    assert sorted(calls) == bad and sum(checked.skipped.values()) == len(bad)
