"""Draws by proposals have the law of the dense formulas, whatever number of them is allowed."""

import math

import pytest
import torch

from braid.processes import MetricPath, metric_path, proposals
from braid.randomness import Keys
from tests.instances import METRIC, V, table
from tests.toy import chi_square, counts, probabilities, step_matrix, support

DRAWS = 100_000
ranges_over_metrics = pytest.mark.parametrize("path", METRIC.values(), ids=METRIC)
ranges_over_budgets = pytest.mark.parametrize("most", [1, 5, 400])


@pytest.fixture
def try_always(monkeypatch):
    """Return what makes metric paths try so many proposals, and keep no table of distances."""

    def allow(most, limit=math.inf):
        monkeypatch.setattr(metric_path, "_SMALL", 0)
        monkeypatch.setattr(metric_path, "_limit", lambda path: limit)
        monkeypatch.setattr(MetricPath, "_most", most)

    return allow


@ranges_over_budgets
@ranges_over_metrics
def test_corrupted_symbols_are_distributed_as_the_path_says(path, most, try_always):
    try_always(most)
    clean = torch.arange(DRAWS) % V
    noisy = path.corrupt(clean, torch.full((DRAWS,), 0.4), Keys.of(0, DRAWS), V)
    assert chi_square(counts(clean, noisy, (V, V)), probabilities(path, 0.4, V)) > 1e-4


@pytest.mark.parametrize(("t", "s"), [(0.0, 0.3), (0.3, 0.45), (0.8, 0.9)])
@ranges_over_budgets
@ranges_over_metrics
def test_jumps_are_distributed_as_the_step_matrix_says(path, t, s, most, try_always):
    try_always(most)
    x1 = 2
    possible = support(path, V)[x1].nonzero()[:, 0]
    noisy = possible[torch.arange(DRAWS) % len(possible)]
    after = path.jump(noisy, torch.full_like(noisy, x1), t, s, Keys.of(1, DRAWS), V)
    assert chi_square(counts(noisy, after, (V, V)), step_matrix(path, t, s, V)[x1]) > 1e-4


def test_a_generator_serves_as_keys_do(try_always):
    try_always(20)
    path, rng = next(iter(METRIC.values())), torch.Generator().manual_seed(0)
    clean = torch.arange(DRAWS) % V
    noisy = path.corrupt(clean, torch.full((DRAWS,), 0.4), rng, V)
    assert chi_square(counts(clean, noisy, (V, V)), probabilities(path, 0.4, V)) > 1e-4


@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_a_time_of_its_own_decides_for_each_symbol(limit, try_always):
    try_always(50, limit)
    path = next(iter(METRIC.values()))
    clean = torch.arange(DRAWS) % V
    time = torch.tensor([0.0, 0.3, 0.7, 1.0])[torch.arange(DRAWS) // V % 4]
    noisy = path.corrupt(clean, time, Keys.of(4, DRAWS), V)
    assert torch.equal(noisy[time == 1], clean[time == 1])
    for t in (0.0, 0.3, 0.7):
        seen = counts(clean[time == t], noisy[time == t], (V, V))
        assert chi_square(seen, probabilities(path, t, V)) > 1e-4


def test_a_symbol_moves_the_same_wherever_it_stands_and_however_rounds_are_cut(
    try_always, monkeypatch
):
    try_always(40)
    n, path = 600, MetricPath(table(300, 8).float())
    clean, noisy = torch.arange(n) % 300, torch.arange(n) * 7 % 300
    order, keys = torch.randperm(n), Keys.of(3, n)
    jumped = path.jump(noisy, clean, 0.2, 0.5, Keys(keys.key), 300)
    drawn = path.corrupt(clean, torch.full((n,), 0.3), Keys(keys.key), 300)
    monkeypatch.setattr(proposals, "_FIRST", 3)
    moved = path.jump(noisy[order], clean[order], 0.2, 0.5, Keys(keys.key[order]), 300)
    redrawn = path.corrupt(clean[order], torch.full((n,), 0.3), Keys(keys.key[order]), 300)
    assert torch.equal(jumped[order], moved)
    assert torch.equal(drawn[order], redrawn)
    assert int((jumped != noisy).sum()) > 50


def test_proposals_are_tried_while_they_are_accepted():
    wide = MetricPath(torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)))
    limit = metric_path._limit(wide)
    d = wide.distances(torch.arange(64), torch.zeros(()))
    assert 1 < limit < 100
    # so that the proposals allowed hold a few that are accepted, on average
    assert 2 < float(torch.exp(-limit * d).mean()) * wide._most < 6


def test_proposals_are_uniform_and_so_are_their_numbers():
    n, k, size = 2000, 50, 12
    flat = torch.full((1, size), 1 / size).double()
    x, mark, wait = proposals._propose(Keys.of(0, n).key, 0, k, size)
    assert chi_square(counts(torch.zeros(n * k).long(), x.flatten(), (1, size)), flat) > 1e-4
    for u in (mark, wait):
        assert float(u.min()) > 0
        assert float(u.max()) < 1
        cells = (u.flatten() * 10).long()
        joint = counts(x.flatten(), cells, (size, 10))
        assert chi_square(joint, torch.full((size, 10), 0.1).double()) > 1e-4


def test_at_time_1_a_symbol_is_clean_whatever_beta_is():
    flat = MetricPath(torch.arange(2000.0)[:, None], a=0.4, distance="ordinal", power=4)
    clean = torch.arange(2000)
    assert float(flat.beta(torch.tensor(1 - 1e-6))) < metric_path._limit(flat)
    assert torch.equal(flat.corrupt(clean, torch.ones(2000), Keys.of(0, 2000), 2000), clean)


@pytest.mark.filterwarnings("ignore:two rows")
def test_many_symbols_are_drawn_as_few_are_where_their_table_repeats():
    """The path as it is used: 5 different points, 400 symbols at each of them."""
    few = MetricPath(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), c=1.0)
    many = MetricPath(few.table.repeat(400, 1), c=1.0)
    assert many._tries
    assert metric_path._limit(many) > float(many.beta(torch.tensor(0.45)))
    clean = torch.arange(DRAWS) % 2000
    noisy = many.corrupt(clean, torch.full((DRAWS,), 0.3), Keys.of(0, DRAWS), 2000)
    expected = probabilities(few, 0.3, 5)
    assert chi_square(counts(clean % 5, noisy % 5, (5, 5)), expected) > 1e-4
    after = many.jump(noisy, torch.full_like(clean, 2), 0.3, 0.6, Keys.of(1, DRAWS), 2000)
    step = step_matrix(few, 0.3, 0.6, 5)[2]
    assert chi_square(counts(noisy % 5, after % 5, (5, 5)), step) > 1e-4


def test_a_wide_table_is_not_tried():
    assert not MetricPath(torch.randn(2000, 65))._tries
    assert MetricPath(torch.randn(2000, 64))._tries
