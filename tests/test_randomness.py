"""Random numbers: right in distribution, independent of each other, and of the batch."""

import math

import pytest
import torch
from scipy import stats

from braid.randomness import (
    Keys,
    categorical,
    derive,
    integers,
    normal,
    seed_of,
    uniform,
    weighted,
)

R, SIZE = 200, 500
GENERATORS = {
    "keys": lambda: Keys.of(0, R),
    "generator": lambda: torch.Generator().manual_seed(0),
}
over_generators = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
DRAWS = {
    "uniform": uniform,
    "normal": normal,
    "integers": lambda rng, shape: integers(rng, 1000, shape).double(),
}
over_draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
LOGITS = torch.tensor([0.0, 1.0, -2.0, -torch.inf, 0.5, -torch.inf])


def chi_square(drawn, p):
    """Return the p-value of symbols under probabilities; 0 if an impossible one was drawn."""
    seen = torch.bincount(drawn.flatten(), minlength=len(p)).double()
    if seen[p == 0].any():
        return 0.0
    return stats.chisquare(seen[p > 0], p[p > 0] * seen.sum()).pvalue


def correlation(x, y):
    """Return the correlation in units of its standard error."""
    return float(torch.corrcoef(torch.stack([x, y]).double())[0, 1]) * len(x) ** 0.5


# distributions


@over_generators
def test_uniform_is_uniform(make):
    assert stats.kstest(uniform(make(), (R, SIZE)).flatten(), "uniform").pvalue > 1e-4


@over_generators
def test_normal_is_normal(make):
    x = normal(make(), (R, SIZE))
    assert x.dtype == torch.float32
    assert stats.kstest(x.flatten(), "norm").pvalue > 1e-4
    assert x.pow(4).mean() == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
@over_generators
def test_integers_are_even(make, high):
    x = integers(make(), high, (R, SIZE))
    assert x.dtype == torch.int64
    assert high == 1 or chi_square(x, torch.full((high,), 1 / high, dtype=torch.float64)) > 1e-4
    assert x.unique().tolist() == list(range(high))


@over_generators
def test_categorical_draws_by_the_softmax_of_logits(make):
    logits = LOGITS.expand(R, SIZE, -1)
    assert chi_square(categorical(make(), logits), LOGITS.double().softmax(-1)) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@over_generators
def test_weighted_draws_in_proportion(make, dtype):
    weight = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.5, 0.0, 0.0], dtype=dtype)
    drawn = weighted(make(), weight.expand(R, SIZE, -1).clone())
    assert chi_square(drawn, weight.double() / weight.sum()) > 1e-4


def test_an_index_of_weight_0_is_never_drawn_at_the_ends_of_the_interval(monkeypatch):
    weight = torch.tensor([[0.0, 1e-3, 0.0, 1.0, 0.0]])
    for u, index in ((2.0**-24, 1), (1 - 2.0**-24, 3), (1.0, 3)):
        monkeypatch.setattr("braid.randomness.uniform", lambda rng, shape, u=u: torch.tensor([u]))
        assert weighted(Keys.of(0, 1), weight.clone()).item() == index


def test_a_rare_index_is_drawn_as_often_as_its_weight_says():
    weight = torch.tensor([1e-3, 1.0, 1e-3]).expand(500_000, 3).clone()
    seen = torch.bincount(weighted(Keys.of(0, 500_000), weight), minlength=3)
    for i in (0, 2):
        assert float(seen[i]) == pytest.approx(499, abs=4.5 * 499**0.5)


def test_symbols_of_a_large_vocabulary_are_drawn_evenly():
    drawn = categorical(Keys.of(0, 200), torch.zeros(200, 500, 1).expand(-1, -1, 512))
    assert chi_square(drawn, torch.full((512,), 1 / 512, dtype=torch.float64)) > 1e-4


def test_uniform_is_never_0_and_never_1(monkeypatch):
    for bits in (0, -1):  # the least and the largest
        monkeypatch.setattr(Keys, "bits", lambda self, shape, bits=bits: torch.tensor([bits]))
        u = uniform(Keys.of(0, 1), (1,))
        assert 0 < u.item() < 1
        assert math.isfinite(normal(Keys.of(0, 1), (1,)).item())


# independence


@over_draws
def test_rows_draws_elements_and_neighbouring_seeds_are_independent(draw):
    n = 20_000

    def of(seed, rows=n, shape=(n,)):
        return draw(Keys.of(seed, rows), shape)

    keys = Keys.of(0, n)
    first, second = draw(keys, (n,)), draw(keys, (n,))
    pair = of(0, n, (n, 2))
    others = {
        "next draw": second,
        "next row": first.roll(1),
        "tenth row": first.roll(10),
        "next seed": of(1),
        "seed with one more bit": of(1 << 32),
        "next element": pair[:, 1],
    }
    for name, other in others.items():
        start = pair[:, 0] if name == "next element" else first
        assert abs(correlation(start, other)) < 4.5, name
        assert abs(correlation(start**2, other**2)) < 4.5, name


def test_elements_of_a_row_are_independent_of_each_other():
    x = uniform(Keys.of(0, 1), (1, 200_000))[0]
    for lag in (1, 2, 3, 64):
        assert abs(correlation(x[:-lag], x[lag:])) < 4.5
    assert stats.kstest(x, "uniform").pvalue > 1e-4


def test_pairs_fill_the_square_evenly():
    x = uniform(Keys.of(7, 100_000), (100_000, 2))
    cell = (x * 16).long()
    p = torch.full((256,), 1 / 256, dtype=torch.float64)
    assert chi_square(cell[:, 0] * 16 + cell[:, 1], p) > 1e-4


# results do not depend on the batch


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: uniform(rng, (n, 3)),
        lambda rng, n: normal(rng, (n, 2, 2)),
        lambda rng, n: integers(rng, 9, (n,)),
        lambda rng, n: categorical(rng, LOGITS.expand(n, 4, -1)),
        lambda rng, n: rng.spread(5).key.view(n, 5),
    ],
    ids=["uniform", "normal", "integers", "categorical", "spread"],
)
def test_a_row_draws_the_same_in_any_batch(draw):
    def both(keys):
        n = len(keys.key)
        return torch.stack([draw(keys, n) for _ in range(2)], 1)

    key = Keys.of(0, 12).key
    whole = both(Keys(key))
    for split in ([5, 7], [1] * 12, [0, 12]):
        parts = torch.cat([both(Keys(k)) for k in key.split(split)])
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(both(Keys(key[order])), whole[order], rtol=1e-6, atol=1e-6)


def test_the_first_elements_of_a_row_do_not_depend_on_how_many_there_are():
    few, many = uniform(Keys.of(0, 3), (3, 4)), uniform(Keys.of(0, 3), (3, 9))
    assert torch.equal(few, many[:, :4])


def test_rows_are_numbered_as_they_are_asked_for():
    assert torch.equal(Keys.of(3, torch.tensor([5, 2])).key, Keys.of(3, 6).key[[5, 2]])


def test_a_draw_of_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="first axis must be 4"):
        uniform(Keys.of(0, 4), (5, 2))


# keys


@pytest.mark.slow
def test_a_million_derived_keys_are_all_different():
    n = 1_000_000
    row = torch.arange(n)
    root = torch.zeros(1, dtype=torch.int64)
    kinds = {
        "rows": Keys.of(0, n).key,
        "salts": derive(root, row),
        "seeds": derive(row, 0),
        "pairs": derive(root, row // 1000, row % 1000),
        "negative": derive(root, -1 - row),
        "streams": torch.cat([derive(root, name, row[: n // 2]) for name in ("noise", "time")]),
    }
    for name, keys in kinds.items():
        assert len(keys.unique()) == n, name


def test_keys_use_all_their_bits_evenly():
    key = derive(torch.zeros(1, dtype=torch.int64), torch.arange(100_000))
    for bit in range(64):
        ones = float(((key >> bit) & 1).double().sum())
        assert abs(ones - 50_000) < 5 * 25_000**0.5


def test_salts_are_told_apart_by_value_order_and_number():
    key = torch.zeros(1, dtype=torch.int64)
    salts = [(), (0,), (0, 0), (1,), (1, 2), (2, 1), ("noise",), ("time",), ("noise", 1), (-1,)]
    salts += [(1 << 40,), (1 << 63,)]
    assert len({derive(key, *s).item() for s in salts}) == len(salts)


def test_an_integer_salt_is_the_same_as_a_tensor():
    key = Keys.of(0, 3).key
    for salt in (0, 5, -7, 1 << 62):
        assert torch.equal(derive(key, salt), derive(key, torch.tensor([salt])))


def test_spread_keys_are_new_at_every_call_and_unlike_draws():
    keys = Keys.of(0, 3)
    one, two = keys.spread(4).key, keys.spread(4).key
    assert len(torch.cat([one, two, keys.key]).unique()) == 27


@over_generators
def test_a_seed_is_drawn_anew_each_time_and_is_reproducible(make):
    rng, again = make(), make()
    seeds = [seed_of(rng) for _ in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 1 << 62 for seed in seeds)
    assert seeds == [seed_of(again) for _ in range(100)]


def test_an_integer_is_its_own_seed():
    assert seed_of(17) == 17
