"""Paths: distributions, rates that carry them, distances, and steps that follow the rates."""

import itertools

import pytest
import torch
from scipy.integrate import quad

from braid.errors import BraidError
from braid.processes import MetricPath, MixturePath
from braid.randomness import Keys, uniform
from tests.instances import METRIC, MIXTURE, PATHS, V, levels, table
from tests.toy import (
    at,
    chi_square,
    counts,
    probabilities,
    propagate,
    rates,
    states,
    step_matrix,
    support,
    variation,
)

TIMES = [0.1, 0.5, 0.9]

ranges_over_paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
ranges_over_metrics = pytest.mark.parametrize("path", METRIC.values(), ids=METRIC)
ranges_over_mixtures = pytest.mark.parametrize("path", MIXTURE.values(), ids=MIXTURE)
ranges_over_times = pytest.mark.parametrize("t", TIMES)


def flux(path, t):
    """Return p(z) u(z, x), [x1, z, x], off the diagonal."""
    u = rates(path, t, V) * (1 - torch.eye(V + path.extra_symbols))
    return probabilities(path, t, V)[:, :, None] * u


def derivative(path, t):
    return path.derivative(torch.arange(V), at(t).expand(V), V)


# distributions


@pytest.mark.parametrize("t", [0.0, 1e-6, *TIMES, 1 - 1e-6])
@ranges_over_paths
def test_probabilities_sum_to_1(path, t):
    p = probabilities(path, t, V)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(V, dtype=p.dtype), rtol=0, atol=1e-12)


@ranges_over_paths
def test_a_path_starts_at_its_source(path):
    p = probabilities(path, 0.0, V)
    source = torch.zeros_like(p)
    if path.masked:
        source[:, V] = 1
    else:
        source[:] = 1 / V
    torch.testing.assert_close(p, source, rtol=0, atol=1e-15)


@ranges_over_paths
def test_a_path_ends_at_the_clean_symbol(path):
    p = probabilities(path, 1 - 1e-6, V).diagonal()
    assert (p > (1 - 1e-9 if isinstance(path, MetricPath) else 1 - 1e-5)).all()


@pytest.mark.parametrize("t", [1e-3, *TIMES])
@ranges_over_paths
def test_the_clean_symbol_is_the_likeliest_at_all_times(path, t):
    assert (probabilities(path, t, V)[:, :V].argmax(-1) == torch.arange(V)).all()


@ranges_over_times
@ranges_over_paths
def test_the_derivative_is_that_of_the_probabilities(path, t):
    h = 1e-3
    p = {k: probabilities(path, t + k * h, V) for k in (-3, -2, -1, 1, 2, 3)}
    slope = 45 * (p[1] - p[-1]) - 9 * (p[2] - p[-2]) + (p[3] - p[-3])
    torch.testing.assert_close(derivative(path, t), slope / (60 * h), rtol=1e-8, atol=1e-8)


@ranges_over_metrics
def test_beta_is_the_integral_of_its_rate(path):
    for a, b in [(0.1, 0.5), (0.5, 0.9), (0.9, 0.99)]:
        integral, _ = quad(lambda t: float(path.beta_rate(at(t))), a, b, epsabs=0, epsrel=1e-11)
        assert integral == pytest.approx(float(path.beta(at(b)) - path.beta(at(a))), rel=1e-9)


@ranges_over_paths
def test_a_scalar_time_is_the_same_time_for_all(path):
    clean, noisy = torch.arange(V), torch.arange(V).flip(0)
    many = at(0.3).expand(V)
    for f in (path.probabilities, path.derivative):
        torch.testing.assert_close(f(clean, at(0.3), V), f(clean, many, V), rtol=0, atol=0)
    one, all_ = (path.velocity(noisy, clean, t, V) for t in (at(0.3), many))
    torch.testing.assert_close(one, all_, rtol=0, atol=0)


# rates


@ranges_over_times
@ranges_over_paths
def test_rates_out_of_a_symbol_sum_to_0_and_none_is_negative(path, t):
    u = rates(path, t, V)
    assert u.sum(-1).abs().max() < 1e-12 * u.abs().max().clamp(min=1)
    assert (u * (1 - torch.eye(u.shape[-1])) >= 0).all()


@ranges_over_times
@ranges_over_paths
def test_the_clean_symbol_is_never_left(path, t):
    u = rates(path, t, V)
    assert (u[torch.arange(V), torch.arange(V)] == 0).all()


@ranges_over_times
@ranges_over_metrics
def test_a_symbol_moves_only_closer_to_the_clean_one(path, t):
    d = path.distances(torch.arange(V), at(t))
    moves = rates(path, t, V) * (1 - torch.eye(V)) > 0
    assert (moves == (d[:, None] < d[:, :, None])).all()


@ranges_over_times
@ranges_over_paths
def test_rates_carry_the_probabilities(path, t):
    p, u = probabilities(path, t, V), rates(path, t, V)
    torch.testing.assert_close((p[:, None] @ u)[:, 0], derivative(path, t), rtol=0, atol=1e-9)


@ranges_over_times
@ranges_over_paths
def test_rates_are_those_of_the_general_flux_formula(path, t):
    p, dp = probabilities(path, t, V), derivative(path, t)
    j = (p[:, :, None] * dp[:, None] - dp[:, :, None] * p[:, None]).clamp(min=0)
    torch.testing.assert_close(flux(path, t), j, rtol=1e-9, atol=1e-12)


@ranges_over_times
@ranges_over_paths
def test_flux_is_one_way(path, t):
    j = flux(path, t)
    assert (j * j.transpose(1, 2) == 0).all()


@ranges_over_times
@pytest.mark.parametrize("name", [n for n, p in PATHS.items() if not p.masked])
def test_no_circulation_lowers_the_kinetic_energy(name, t):
    path = PATHS[name]
    p, j = probabilities(path, t, V), flux(path, t)
    net = j - j.transpose(1, 2)

    def energy(net):
        return (net.clamp(min=0) ** 2 / (p[:, :, None] * p[:, None])).sum((1, 2))

    rng = torch.Generator().manual_seed(0)
    for a, b, c in itertools.combinations(range(V), 3):
        size = torch.randn((), generator=rng, dtype=torch.float64) * 0.1 * net.abs().max()
        other = net.clone()
        for x, y in ((a, b), (b, c), (c, a)):
            other[:, x, y] += size
            other[:, y, x] -= size
        torch.testing.assert_close(other.sum(-1), net.sum(-1))
        assert (energy(other) >= energy(net) * (1 - 1e-12)).all()


# distances


@ranges_over_metrics
def test_a_metric_is_symmetric_with_a_zero_diagonal(path):
    d = path.distances(torch.arange(V), at(0.0))
    torch.testing.assert_close(d, d.T, rtol=1e-10, atol=1e-12)
    assert (d.diagonal() == 0).all()
    assert (d + torch.eye(V) > 0).all()


def test_the_cosine_distance_is_the_squared_square():
    points = table(16, 2)
    unit = points / points.norm(dim=1, keepdim=True)
    d = MetricPath(points).distances(torch.arange(16), at(0.0))
    torch.testing.assert_close(d, (2 - 2 * unit @ unit.T) ** 2, rtol=1e-9, atol=1e-12)
    assert d.min() >= 0
    assert 15 < d.max() <= 16


def test_the_ordinal_distance_is_the_share_of_the_range():
    d = MetricPath(levels(5), distance="ordinal", power=1).distances(torch.arange(5), at(0.0))
    assert d[0].tolist() == [0, 0.25, 0.5, 0.75, 1]


@ranges_over_metrics
def test_distances_are_the_same_in_float32(path):
    clean = torch.arange(V)
    exact, rough = path.distances(clean, at(0.0)), path.distances(clean, torch.zeros(()))
    torch.testing.assert_close(rough, exact.float(), rtol=1e-3, atol=1e-6)


def test_a_repeated_row_warns():
    with pytest.warns(UserWarning, match="coincide"):
        MetricPath(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))


def test_a_zero_row_warns_and_is_at_distance_1_from_all_others():
    with pytest.warns(UserWarning, match="zero"):
        path = MetricPath(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    assert path.distances(torch.tensor([1, 0]), at(0.0)).tolist() == [[1, 0, 1], [0, 1, 4]]


def test_the_cosine_metric_ignores_the_lengths_of_rows():
    scale = torch.linspace(0.1, 9, V, dtype=torch.float64)[:, None]
    one, other = MetricPath(table()), MetricPath(table() * scale)
    torch.testing.assert_close(probabilities(one, 0.5, V), probabilities(other, 0.5, V))
    torch.testing.assert_close(rates(one, 0.5, V), rates(other, 0.5, V))


def test_a_table_that_is_a_parameter_serves():
    path = MetricPath(torch.nn.Parameter(table()))
    assert not probabilities(path, 0.5, V).requires_grad
    assert path.grid(4, 0.0, "distance", V)[-1] == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricPath(torch.arange(4)[:, None]), "float table"),
        (lambda: MetricPath(table()[0]), "float table"),
        (lambda: MetricPath(table(), c=-1.0), "c -1.0"),
        (lambda: MetricPath(table(), distance="cosin"), "did you mean 'cosine'"),
        (lambda: MixturePath("unifrom"), "did you mean 'uniform'"),
        (lambda: MixturePath("mask", "linaer"), "did you mean 'linear'"),
        (lambda: MetricPath(table()).probabilities(torch.tensor([0]), at(0.5), 9), "9 rows"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(make, message):
    with pytest.raises(BraidError, match=message):
        make()


def test_one_symbol_needs_no_path_but_has_one():
    p = MixturePath("uniform", "kinetic").probabilities(torch.tensor([0]), at(0.5), 1)
    assert p.tolist() == [[1.0]]


# symbols have no order of their own


@pytest.mark.parametrize("distance", ["cosine", "ordinal"])
def test_renaming_symbols_changes_nothing(distance):
    new = torch.randperm(V, generator=torch.Generator().manual_seed(1))  # old name -> new name
    rows = torch.empty_like(table())
    rows[new] = table()
    one, other = MetricPath(table(), distance=distance), MetricPath(rows, distance=distance)
    p, q = probabilities(one, 0.4, V), probabilities(other, 0.4, V)
    torch.testing.assert_close(p, q[new][:, new])
    u, v = rates(one, 0.4, V), rates(other, 0.4, V)
    torch.testing.assert_close(u, v[new][:, new][:, :, new])


@ranges_over_paths
def test_a_token_jumps_the_same_wherever_it_stands(path):
    n = 400
    clean, noisy = torch.arange(n) % V, torch.arange(n) // V % len(states(path, V))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    keys = Keys.of(3, n)
    straight = path.jump(noisy, clean, 0.3, 0.6, Keys(keys.key), V)
    moved = path.jump(noisy[order], clean[order], 0.3, 0.6, Keys(keys.key[order]), V)
    assert (straight[order] == moved).all()


# exact marginals for a known clean symbol


@ranges_over_paths
def test_following_the_rates_keeps_the_marginals(path):
    p = probabilities(path, 0.02, V)
    end = propagate(p, lambda t: rates(path, t, V), 0.02, 0.9, 250)
    assert variation(end, probabilities(path, 0.9, V)) < 1e-6


def stepped(path, n, plain=False, end=0.5):
    """Return p at `end` after n solver steps from the source, by enumeration."""
    p = probabilities(path, 1e-9 if plain else 0.0, V)
    for i in range(n):
        t = max(i * end / n, 1e-9)
        p = (p[:, None] @ step_matrix(path, t, (i + 1) * end / n, V, plain))[:, 0]
    return p


@ranges_over_mixtures
def test_steps_of_a_mixture_are_exact(path):
    assert variation(stepped(path, 3), probabilities(path, 0.5, V)) < 1e-8


@ranges_over_metrics
def test_halving_the_steps_of_a_metric_path_halves_the_error(path):
    exact = probabilities(path, 0.5, V)
    error = [variation(stepped(path, n), exact) for n in (64, 128, 256)]
    assert error[0] / error[1] == pytest.approx(2, abs=0.1)
    assert error[1] / error[2] == pytest.approx(2, abs=0.1)
    assert error[1] < 1e-3


@ranges_over_metrics
def test_the_middle_of_a_step_is_better_than_its_beginning(path):
    exact = probabilities(path, 0.5, V)
    for n in (8, 32):
        assert variation(stepped(path, n), exact) < variation(stepped(path, n, True), exact) / 4


# draws agree with what was enumerated

DRAWS = 200_000


@ranges_over_paths
def test_corrupted_symbols_are_distributed_as_the_path_says(path):
    clean = torch.arange(DRAWS) % V
    noisy = path.corrupt(clean, torch.full((DRAWS,), 0.4), Keys.of(0, DRAWS), V)
    seen = counts(clean, noisy, (V, V + path.extra_symbols))
    assert chi_square(seen, probabilities(path, 0.4, V)) > 1e-4


@pytest.mark.parametrize(("t", "s"), [(0.0, 0.3), (0.3, 0.45), (0.8, 0.9)])
@ranges_over_paths
def test_jumps_are_distributed_as_the_step_matrix_says(path, t, s):
    x1 = 2
    possible = support(path, V)[x1].nonzero()[:, 0]
    noisy = possible[torch.arange(DRAWS) % len(possible)]
    after = path.jump(noisy, torch.full_like(noisy, x1), t, s, Keys.of(1, DRAWS), V)
    n = V + path.extra_symbols
    assert chi_square(counts(noisy, after, (n, n)), step_matrix(path, t, s, V)[x1]) > 1e-4


@ranges_over_mixtures
def test_the_posterior_is_that_of_bayes(path):
    t, s, x1 = 0.3, 0.6, 2
    n = V + path.extra_symbols
    source, p_s = (probabilities(path, u, V)[x1] for u in (0.0, s))
    k_t, k_s = (path.kappa(at(u), V) for u in (t, s))
    noising = k_t / k_s * torch.eye(n) + (1 - k_t / k_s) * source  # from x_s to x_t
    joint = p_s[:, None] * noising
    possible = (joint.sum(0) > 0).nonzero()[:, 0]
    noisy = possible[torch.arange(DRAWS) % len(possible)]
    rng = Keys.of(2, DRAWS)
    after = path.posterior(noisy, torch.full_like(noisy, x1), t, s, rng, V)
    bayes = (joint / joint.sum(0).clamp(min=1e-300)).T
    assert chi_square(counts(noisy, after, (n, n)), bayes) > 1e-4


@ranges_over_metrics
def test_a_jump_is_that_of_the_dense_formula_with_the_same_uniforms(path):
    n, t, s = 5000, 0.35, 0.5
    rng = torch.Generator().manual_seed(0)
    noisy, clean = (torch.randint(V, (n,), generator=rng) for _ in range(2))
    keys = Keys.of(5, n)
    u, alike = (uniform(keys, (n,)).double() for _ in range(2))
    d = path.distances(clean, at(0.0))
    p = torch.softmax(-path.beta(at((t + s) / 2)) * d, -1)
    weight = p * (d.gather(1, noisy[:, None]) - d).clamp(min=0)
    rate = (path.beta(at(s)) - path.beta(at(t))) * weight.sum(-1)
    goal = (weight.cumsum(-1) <= (alike * weight.sum(-1))[:, None]).sum(-1)
    expected = torch.where(u < 1 - torch.exp(-rate), goal, noisy)
    assert (path.jump(noisy, clean, t, s, Keys(keys.key), V) == expected).all()


# the end


def test_a_metric_path_ends_at_its_symbol_and_stays():
    path, clean = MetricPath(torch.randn(5, 3, dtype=torch.float64)), torch.arange(5)
    one = torch.ones(5, dtype=torch.float64)
    assert torch.equal(path.probabilities(clean, one, 5), torch.eye(5, dtype=torch.float64))
    assert torch.equal(path.velocity(clean, clean, one, 5), torch.zeros(5, 5, dtype=torch.float64))
    assert torch.equal(path.derivative(clean, one, 5).abs().sum(), torch.tensor(0.0).double())


@pytest.mark.parametrize(
    ("table", "start"), [(torch.eye(64), 0.8), (torch.eye(64), 0.5), (torch.randn(1, 3), 0.0)]
)
def test_times_increase_even_where_no_distance_is_left(table, start):
    """Times that fall together would leave all steps but one to a time that is never trained."""
    times = MetricPath(table).grid(5, start, "distance", len(table))
    assert times[0] == start
    assert times[-1] == 1
    assert all(t < s for t, s in itertools.pairwise(times))
