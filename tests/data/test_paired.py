"""Rows beside rows of another source that agree with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from braid.data import Joined, open_source
from braid.data.open import Part
from braid.data.paired import Paired
from braid.data.sources import Examples, Source
from braid.errors import BraidError

LEFT = Examples("left", {"label": [1, 2, 3, 1], "text": ["a", "b", "c", "d"]})


def right(folder: Path) -> Source:
    """Return rows with files that are not there, and a line that is none."""
    lines = [json.dumps({"audio": f"{i}.wav", "digit": str(i % 3)}) for i in range(6)]
    (folder / "right.jsonl").write_text("\n".join([*lines, "oops"]))
    return open_source(folder / "right.jsonl", {"audio": "audio", "digit": "digit"})


def test_a_row_has_a_partner_that_agrees_and_keeps_it():
    other = Examples("right", {"digit": ["1", "2", "1", "3"], "n": [0, 1, 2, 3], "text": [""] * 4})
    paired = Paired(LEFT, other, {"label": "digit"})
    assert paired.fields == ("label", "text", "digit", "n")
    rows = [paired[i] for i in range(4)]
    assert [r["digit"] for r in rows] == ["1", "2", "3", "1"]
    assert [r["text"] for r in rows] == ["a", "b", "c", "d"]
    assert rows == [Paired(LEFT, other, {"label": "digit"})[i] for i in range(4)]


def test_partners_are_matched_without_reading_their_files(tmp_path):
    paired = Paired(LEFT, right(tmp_path), {"label": "digit"})
    assert len(paired) == 4
    for i, reason in ((0, "cannot be read: no such file"), (2, "no row of right has the label 3")):
        with pytest.raises(BraidError, match=reason):
            paired[i]


def test_a_value_of_a_part_and_of_joined_sources_is_that_of_its_row(tmp_path):
    whole = Joined({"left": LEFT, "right": right(tmp_path)})
    assert [whole.value(i, "digit") for i in (3, 4, 9)] == [None, "0", "2"]
    assert Part(whole, [9, 1]).value(0, "digit") == "2"
    assert Part(whole, [9, 1]).value(1, "text") == "b"


def test_fields_to_match_on_are_named():
    with pytest.raises(BraidError, match="left has no field 'digit' to match on; it has label, te"):
        Paired(LEFT, LEFT, {"digit": "label"})
    with pytest.raises(BraidError, match="name one field, as label: digit"):
        Paired(LEFT, LEFT, {})


def test_a_row_comes_with_as_many_partners_as_are_asked_for():
    left = Examples("left", {"image": ["a", "b"], "label": [0, 1]})
    right = Examples("right", {"audio": list(range(40)), "digit": [0, 1] * 20})
    once, often = (Paired(left, right, {"label": "digit"}, times=n) for n in (1, 8))
    assert (len(once), len(often)) == (2, 16)
    rows = [often[i] for i in range(16)]
    assert all(r["image"] == "ab"[i % 2] and r["audio"] % 2 == i % 2 for i, r in enumerate(rows))
    assert len({r["audio"] for r in rows}) > 8
    assert [once[i] for i in range(2)] == rows[:2]


def test_missing_values_agree_with_nothing():
    missing = [None, float("nan"), np.float32("nan"), "", " "]
    left = Examples("left", {"label": [*missing, 1], "text": ["a"] * 6})
    paired = Paired(left, Examples("right", {"digit": [*missing, 1]}), {"label": "digit"})
    assert paired[5]["digit"] == 1
    for i in range(5):
        with pytest.raises(BraidError, match="label: the value is missing; fill it in or remove"):
            paired[i]


@pytest.mark.parametrize("one", [2, 2.0, np.float32(2), np.int64(2), "2"])
@pytest.mark.parametrize("other", [2, 2.0, np.float32(2), np.int64(2), "2"])
def test_whole_numbers_agree_however_they_are_written(one, other):
    left, right = Examples("left", {"label": [one]}), Examples("right", {"digit": [2.5, other]})
    assert Paired(left, right, {"label": "digit"})[0]["digit"] == other


def test_values_of_a_row_are_read_alone(tmp_path):
    """Texts are read without the files beside them, and from the same partner."""
    names = {"digit": [0, 1] * 20, "caption": [f"clip {i}" for i in range(40)]}
    left = Examples("left", {"label": [0, 1, 7], "text": ["a", "b", "c"]})
    paired = Paired(left, Examples("right", names), {"label": "digit"}, times=4)
    for i in (0, 1, 3, 4, 10):
        assert {f: paired.value(i, f) for f in paired.fields} == paired[i]
    with pytest.raises(BraidError, match="no row of right has the label 7"):
        paired.value(2, "text")
    files = Paired(LEFT, right(tmp_path), {"label": "digit"})
    assert files.value(0, "text") == "a"  # its sound is not there
