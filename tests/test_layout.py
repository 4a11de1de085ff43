"""Assigning documents to rows: nothing is lost, nothing overflows, little is left empty."""

from __future__ import annotations

import random

import pytest

from braid.errors import BraidError
from braid.layout import fit


def mixed(number: int, seed: int) -> list[int]:
    """Return lengths of short texts, captioned pictures and long texts."""
    rng = random.Random(seed)
    kinds = [lambda: rng.randint(8, 120), lambda: 256 + rng.randint(8, 64), lambda: 700]
    return [rng.choices(kinds, [6, 3, 1])[0]() for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_every_document_stands_in_one_row_that_has_room_for_it(seed):
    lengths = mixed(200, seed)
    rows = fit(lengths, 1024)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 1024
    assert rows == sorted(sorted(row) for row in rows)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_mixed_documents_are_filled(seed):
    lengths = mixed(256, seed)
    rows = fit(lengths, 1024)
    assert sum(lengths) / (1024 * len(rows)) >= 0.97


def test_an_item_takes_the_row_that_it_leaves_with_the_least_room():
    assert fit([5, 7, 3, 5], 10) == [[0, 3], [1, 2]]
    assert fit([2, 6, 8, 4], 10) == [[0, 2], [1, 3]]
    assert fit([4, 4, 4], 8) == [[0, 1], [2]]
    assert fit([], 8) == []


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(BraidError, match="a document of 9 tokens does not fit a row of 8"):
        fit([3, 9], 8)
