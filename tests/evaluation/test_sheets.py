"""Panels as picture files: all are written, none is stale, nothing of a picture is lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from braid.errors import BraidError
from braid.evaluation import sheets


def picture(side, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("side", [1, 8, 33, 96, 200])
def test_pictures_are_repeated_in_whole_steps(side):
    shown = np.asarray(sheets.sheet([[("a caption", picture(side))]]))
    times = max(1, -(-sheets.SIDE // side))
    gap = 8
    block = shown[gap : gap + side * times, gap : gap + side * times]
    assert (block[::times, ::times] == np.asarray(picture(side))).all()
    assert (block == block[::times, ::times].repeat(times, 0).repeat(times, 1)).all()


def test_rows_of_any_length_and_mode_make_one_sheet():
    rows = [[("", picture(8))], [], [("x " * 200, picture(8).convert("L"))] * 3]
    assert sheets.sheet(rows).width > 3 * sheets.SIDE


def test_a_folder_holds_the_panels_of_one_evaluation(tmp_path):
    folder = tmp_path / "panels"
    first = sheets.save(folder, {"Drawn, 2 objects": [[("a", picture(8))]], "Empty": [[]]})
    assert first == [folder / "drawn-2-objects.png"] and first[0].is_file()
    second = sheets.save(folder, {"Captions": [[("a", picture(8))]]})
    assert list(folder.iterdir()) == second
    assert sheets.save(folder, {}) == [] and not folder.exists()


def test_what_somebody_put_beside_the_panels_stays(tmp_path):
    folder = tmp_path / "panels"
    sheets.save(folder, {"Captions": [[("a", picture(8))]]})
    (folder / "notes.txt").write_text("mine")
    sheets.save(folder, {})
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_titles_that_make_one_file_are_refused(tmp_path):
    rows = [[("a", picture(8))]]
    with pytest.raises(BraidError, match=r"edits-1\.png"):
        sheets.save(tmp_path / "panels", {"Edits 1": rows, "Edits (1)": rows})
    assert not (tmp_path / "panels").exists()
