"""Draws by blocks and groups against their dense twin in float64, with the same uniform numbers."""

import pytest
import torch

from braid.processes import MetricPath, draws, metric_path
from braid.randomness import Keys, uniform
from tests.instances import table

SIZES = [1, 2, 127, 128, 129, 300, 1000]


def dense(weight, mark):
    """Return the index at which the running sum passes mark times the total."""
    total = weight.double().cumsum(-1)
    return (total <= (mark.double() * total[:, -1])[:, None]).sum(-1)


@pytest.mark.parametrize("size", SIZES)
def test_an_inverted_sum_is_that_of_the_dense_formula(size):
    keys = Keys.of(0, 400)
    weight = uniform(keys, (400, size)).double() ** 4
    weight = weight * (uniform(keys, (400, size)) < 0.5)  # and zeros
    weight[:, -1] += weight.sum(-1) == 0
    mark = uniform(keys, (400,))
    index, total = draws.invert(weight, mark)
    assert torch.equal(index, dense(weight, mark))
    torch.testing.assert_close(total, weight.sum(-1))


@pytest.mark.parametrize("size", SIZES)
def test_an_index_of_weight_0_is_never_drawn_at_the_ends(size):
    for at in {0, size // 2, size - 1}:
        weight = torch.zeros(4, size)
        weight[:, at] = torch.tensor([1e-30, 1e-3, 1.0, 1e30])
        for mark in (0.0, 2.0**-24, 1 - 2.0**-24, 1.0):
            index, _ = draws.invert(weight, torch.full((4,), mark))
            assert index.tolist() == [at] * 4


@pytest.mark.parametrize(("rows", "width", "least"), [(0, 5, 1), (7, 5, 1), (7, 1 << 30, 3)])
def test_blocks_hold_each_row_once(rows, width, least):
    parts = list(draws.blocks(rows, width, torch.device("cpu"), least))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
    assert all(part.stop - part.start >= least for part in parts[:-1])


def jumped(path, noisy, clean, t, s, keys):
    """Return a jump by the dense formula in float64."""
    u, mark = (uniform(keys, tuple(noisy.shape)).double() for _ in range(2))
    d = path.distances(clean, torch.zeros((), dtype=torch.float64))
    before, beta, after = path.beta(torch.tensor([t, (t + s) / 2, s], dtype=torch.float64))
    p = torch.softmax(-beta * d, -1)
    weight = p * (d.gather(1, noisy[:, None]) - d).clamp(min=0)
    moves = u < 1 - torch.exp(-(after - before) * weight.sum(-1))
    return torch.where(moves & (noisy != clean), dense(weight, mark), noisy)


METRICS = {
    "a narrow table": MetricPath(table(300, 8).float()),
    "a wide table": MetricPath(table(150, 200).float(), power=2),
    "levels": MetricPath(torch.arange(200.0)[:, None], distance="ordinal", c=5.0, power=2),
}


@pytest.mark.parametrize("shared", [False, True], ids=["all clean symbols", "few clean symbols"])
@pytest.mark.parametrize("kept", [False, True], ids=["distances anew", "distances kept"])
@pytest.mark.parametrize("block", [1, 1000, 1 << 19])
@pytest.mark.parametrize("name", METRICS)
def test_a_jump_in_blocks_is_that_of_the_dense_formula(name, block, kept, shared, monkeypatch):
    monkeypatch.setitem(draws._BLOCK, "cpu", block)
    monkeypatch.setattr(metric_path, "_SMALL", 1 << 20 if kept else 0)
    monkeypatch.setattr(metric_path, "_limit", lambda path: 0.0)  # without proposals
    path, n = METRICS[name], 300
    size = len(path.table)
    keys = Keys.of(1, n)
    clean = torch.arange(n) % (3 if shared else size)
    for t, s in ((0.0, 0.1), (0.4, 0.45), (0.9, 0.95)):
        noisy = path.corrupt(clean, torch.full((n,), t), keys, size)
        rng = Keys.of(2, n)
        after = path.jump(noisy, clean, t, s, Keys(rng.key), size)
        expected = jumped(path, noisy, clean, t, s, Keys(rng.key))
        # float32 may put a mark on the other side of a boundary
        assert int((after != expected).sum()) <= 1
        assert t == 0.9 or int((after != noisy).sum()) > 3


@pytest.mark.parametrize("name", METRICS)
def test_corrupting_in_blocks_is_the_dense_draw(name, monkeypatch):
    monkeypatch.setitem(draws._BLOCK, "cpu", 1000)
    path, n = METRICS[name], 500
    size = len(path.table)
    clean, time = torch.arange(n) % size, torch.linspace(0, 1, n)
    keys = Keys.of(3, n)
    noisy = path.corrupt(clean, time, Keys(keys.key), size)
    d = path.distances(clean, torch.zeros((), dtype=torch.float64))
    weight = (-path.beta(time.clamp(max=1 - 1e-6))[:, None] * d).exp()
    expected = torch.where(time >= 1, clean, dense(weight, uniform(keys, (n,))))
    assert int((noisy != expected).sum()) <= 1
