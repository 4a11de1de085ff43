"""The order of a source is a permutation of its rows in every epoch, at any position."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from braid.data.order import permuted, rows_at

SIZES = [*range(1, 130), 255, 256, 257, 1000, 1023, 1024, 1025, 4097, 60_000]


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 1, 1_000_000])
def test_every_epoch_meets_every_row_once(epoch):
    for n in SIZES:
        rows = rows_at(5, torch.arange(epoch * n, (epoch + 1) * n), n)
        assert sorted(rows.tolist()) == list(range(n)), n


def test_a_row_depends_on_its_position_alone():
    whole = rows_at(5, torch.arange(3000), 700)
    positions = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows_at(5, positions, 700), whole[positions])
    assert [int(rows_at(5, torch.tensor([p]), 700)) for p in range(20)] == whole[:20].tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [rows_at(s, torch.arange(e * 50, e * 50 + 50), 50) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_are_equally_likely(n):
    keys = torch.arange(24_000) * 1_000_003
    moved = torch.stack([permuted(keys, torch.full_like(keys, i), n) for i in range(n)], 1)
    _, counts = moved.unique(dim=0, return_counts=True)
    assert len(counts) == [6, 24, 120][n - 3]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("n", [10, 97, 1000])
def test_neighbours_land_independently(n):
    keys = torch.arange(100_000) * 1_000_003
    a, b = (permuted(keys, torch.full_like(keys, i), n) for i in (3, 4))
    gap = ((b - a) % n).bincount(minlength=n)
    assert int(gap[0]) == 0
    assert stats.chisquare(gap[1:].numpy()).pvalue > 1e-4
    assert stats.chisquare(a.bincount(minlength=n).numpy()).pvalue > 1e-4


def test_a_billion_rows_need_no_table():
    n = 10**12 + 39
    rows = rows_at(0, torch.arange(n - 2, n + 2), n)
    assert len(set(rows.tolist())) == 4
    assert bool(((rows >= 0) & (rows < n)).all())
