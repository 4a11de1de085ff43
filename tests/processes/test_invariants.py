"""What must hold of a whole model, where a joint distribution is small enough to enumerate."""

import math

import numpy as np
import pytest
import torch

from braid.generation.guidance import combine
from braid.processes import (
    DiscreteFlow,
    GaussianFlow,
    Masked,
    MetricPath,
    MixturePath,
    Noised,
)
from braid.processes.process import cross_entropy
from braid.randomness import Keys
from tests.instances import METRIC, MIXTURE, PATHS, V, levels, perfect_vectors, table
from tests.toy import Joint, at, propagate, rates, states, variation

SMALL = 3
SMALL_PATHS = {
    "mask": MixturePath("mask"),
    "mask, cosine": MixturePath("mask", "cosine"),
    "uniform": MixturePath("uniform"),
    "metric, cosine": MetricPath(table(SMALL, 2, seed=1)),
    "metric, ordinal": MetricPath(levels(SMALL), distance="ordinal", c=5.0),
}
ranges_over_small_paths = pytest.mark.parametrize("path", SMALL_PATHS.values(), ids=SMALL_PATHS)


# the marginalisation theorem


@pytest.mark.parametrize(
    "path",
    [MixturePath("mask", "cosine"), MixturePath("uniform"), MetricPath(table(4))],
    ids=["mask", "uniform", "metric"],
)
def test_averaged_rates_carry_the_marginals_of_the_data(path):
    toy = Joint(path, 4)
    end = propagate(toy.marginal(0.05), toy.generator, 0.05, 0.8, 150)
    assert variation(end, toy.marginal(0.8)) < 1e-6


@ranges_over_small_paths
def test_halving_the_steps_halves_the_error_of_the_marginals(path):
    toy = Joint(path, SMALL)

    def error(n):
        p = toy.marginal(0.0)
        for i in range(n):
            p = p @ toy.transition(i * 0.8 / n, (i + 1) * 0.8 / n)
        return variation(p, toy.marginal(0.8))

    assert error(32) / error(64) == pytest.approx(2, abs=0.2)
    assert error(64) < 0.02


# bounds on the likelihood


def every_pair(toy, t, logits):
    """Return the logits and the tokens of every pair of clean and noisy state, clean first."""
    C, N = len(toy.pairs), len(toy.noisy)
    clean, noisy = toy.pairs.repeat_interleave(N, 0), toy.noisy.repeat(C, 1)
    time = at(t).expand(C * N)
    return logits.repeat(C, 1, 1), Noised(clean, noisy, noisy, time)


def average(toy, t, nats):
    """Return E over x_t ~ p_t(. | x1) of nats [C * N], one value per x1."""
    return (nats.view(len(toy.pairs), -1) * toy.forward(t)).sum(-1)


def integrate(f, end, nodes=60):
    """Return the integral of f over [0, end]; t = end u^3 tames the start."""
    u, w = np.polynomial.legendre.leggauss(nodes)
    u, w = (u + 1) / 2, w / 2
    return sum(float(b) * 3 * end * a**2 * f(end * a**3) for a, b in zip(u, w, strict=True))


def nll(toy, end):
    """Return the model's exact nats of each x1: marginals at `end`, then one factorised draw."""
    p = toy.posterior(end)  # [noisy, D, V]
    draw = torch.stack([p[:, i].T[toy.pairs[:, i]] for i in range(toy.length)]).prod(0)
    return -(draw @ toy.marginal(end)).log()


def bounds(toy, process, integrand):
    """Return an upper bound on the nats of each x1."""

    def at_time(t):
        logits, noised = every_pair(toy, t, toy.posterior(t).clamp(min=1e-30).log())
        return average(toy, t, integrand(logits, noised).nan_to_num())

    end = process.horizon
    logits, noised = every_pair(toy, end, toy.posterior(end).clamp(min=1e-30).log())
    return integrate(at_time, end) + average(toy, end, process.terminal(logits, noised))


def expected_cheap_bound(process, logits, noised):
    """Return the mean of `cheap_bound` over its draw, by enumeration."""
    size = logits.shape[-1]

    def leaving(clean):
        time = noised.time[:, None].expand(clean.shape)
        u = process.path.velocity(noised.noisy, clean, time, size)
        return -u.gather(-1, noised.noisy[..., None])[..., 0]

    others = torch.stack([leaving(torch.full_like(noised.clean, x)) for x in range(size)], -1)
    rate = leaving(noised.clean)
    mean = (others * logits.softmax(-1)).sum(-1)
    return (mean - rate + rate * cross_entropy(logits, noised.clean)).sum(-1)


@pytest.mark.parametrize(
    ("name", "margin"),
    [("uniform", -1e-9), ("metric, cosine", 0.005), ("metric, ordinal", 0.005)],
)
def test_the_bounds_lie_above_the_likelihood(name, margin):
    toy, process = Joint(SMALL_PATHS[name], SMALL), DiscreteFlow(path=SMALL_PATHS[name])
    exact = nll(toy, process.horizon)
    general = bounds(toy, process, process.bound)
    cheap = bounds(toy, process, lambda p, x: expected_cheap_bound(process, p, x))
    assert (-exact).exp().sum() == pytest.approx(1, abs=1e-9)
    assert (general > exact).all()
    assert (cheap > general - 1e-9).all()
    assert toy.q @ (general - exact) > 0.05
    assert toy.q @ (cheap - general) > margin


@pytest.mark.parametrize(
    "process",
    [
        Masked(),
        Masked(schedule="cosine"),
        DiscreteFlow(path="mask"),
        DiscreteFlow(path=MixturePath("mask", "kinetic")),
    ],
    ids=["masked", "masked, cosine", "flow", "flow, kinetic"],
)
def test_the_bound_of_a_mask_path_is_the_entropy_where_the_model_is_exact(process):
    toy = Joint(process.path, SMALL)
    entropy = -(toy.q * toy.q.log()).sum()
    assert toy.q @ bounds(toy, process, process.bound) == pytest.approx(float(entropy), abs=1e-3)


def random_case(path, n=200):
    """Return logits float64 and noised tokens whose noise is possible."""
    rng = torch.Generator().manual_seed(0)
    clean = torch.randint(V, (n,), generator=rng)
    time = torch.rand(n, generator=rng, dtype=torch.float64) * 0.98 + 0.01
    noisy = path.corrupt(clean, time, rng, V)
    logits = torch.randn(n, V, generator=rng, dtype=torch.float64)
    return logits, Noised(clean, noisy, noisy, time)


def dense_integrand(path, logits, noised):
    """Return sum_{x != x_t} [u_model - u + u log(u / u_model)], written out token by token."""
    out = []
    for p, x1, z, t in zip(
        logits.softmax(-1), noised.clean, noised.noisy, noised.time, strict=True
    ):
        u = rates(path, float(t), V)[:, z]  # [x1, to]
        model, true = p @ u, u[x1]
        total = 0.0
        for x in states(path, V):
            if x != z:
                total += float(model[x] - true[x])
                total += float(true[x] * (true[x] / model[x]).log()) if true[x] > 0 else 0.0
        out.append(total)
    return torch.tensor(out, dtype=torch.float64)


def may_move(process, noised):
    """Return which symbols the sampler may still change: all, or those under a mask."""
    return noised.noisy == V if process.keeps else torch.ones_like(noised.noisy, dtype=torch.bool)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_bound_is_the_divergence_of_the_rates(path):
    logits, noised = random_case(path)
    process = DiscreteFlow(path=path)
    expected = dense_integrand(path, logits, noised) * may_move(process, noised)
    torch.testing.assert_close(process.bound(logits, noised), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", MIXTURE.values(), ids=MIXTURE)
def test_the_short_formula_of_a_mixture_is_the_general_one(path):
    logits, noised = random_case(path, 2000)
    process = DiscreteFlow(path=path)
    short, general = process.bound(logits, noised), process.general_bound(logits, noised)
    expected = general * may_move(process, noised)
    torch.testing.assert_close(short, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial:3"])
def test_the_bound_of_a_mask_flow_is_that_of_masked_diffusion_for_any_model(schedule):
    path = MixturePath("mask", schedule)
    logits, noised = random_case(path)
    flow, masked = DiscreteFlow(path=path), Masked(schedule=schedule)
    torch.testing.assert_close(flow.bound(logits, noised), masked.bound(logits, noised))


@pytest.mark.parametrize("path", METRIC.values(), ids=METRIC)
def test_the_cheap_bound_has_the_mean_it_says(path):
    logits, noised = random_case(path, 1)
    n, process = 100_000, DiscreteFlow(path=path)
    many = Noised(*(x.expand(n) for x in (noised.clean, noised.noisy, noised.source, noised.time)))
    drawn = process.cheap_bound(logits.expand(n, V), many, Keys.of(0, n))
    pair = Noised(*(x[:, None] for x in (noised.clean, noised.noisy, noised.source)), noised.time)
    mean = expected_cheap_bound(process, logits[:, None], pair)
    assert drawn.mean() == pytest.approx(float(mean), abs=5 * float(drawn.std()) / n**0.5)


def test_the_cheap_bound_draws_anew_at_every_time():
    size, n = 300, 400  # so many symbols that `bound` takes the cheap one
    process = DiscreteFlow(path=MetricPath(levels(size), distance="ordinal", c=5.0))
    time = torch.linspace(0.4, 0.6, n)
    logits, clean, noisy = torch.zeros(1, size), torch.tensor([0]), torch.tensor([150])
    alone = [process.bound(logits, Noised(clean, noisy, noisy, t[None])) for t in time]
    pair = Noised(*(x.expand(n)[:, None] for x in (clean, noisy, noisy)), time)
    gap = torch.cat(alone) - expected_cheap_bound(process, logits.expand(n, 1, size), pair)
    assert gap.mean().abs() < 4 * gap.std() / n**0.5


@pytest.mark.parametrize("prediction", ["data", "velocity", "noise"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_of_a_gaussian_flow_is_just_above_the_entropy(schedule, prediction):
    variance = 0.25
    process = GaussianFlow(schedule=schedule, prediction=prediction)
    # three nodes integrate squares of normal variables exactly
    node = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
    weight = torch.tensor([1, 4, 1], dtype=torch.float64) / 6
    clean, noise = (x.reshape(-1, 1) for x in torch.meshgrid(node, node, indexing="ij"))
    clean, weight = clean * variance**0.5, torch.outer(weight, weight).flatten()

    def nats(t, score):
        time = at(t).expand(9)
        a, s = process.alpha_sigma(at(t))
        noisy = a * clean + s * noise
        mean = a * variance * noisy / (a**2 * variance + s**2)
        prediction = perfect_vectors(process, mean, (noisy - a * mean) / s, time)
        return float(score(prediction, Noised(clean, noisy, noise, time)).double() @ weight)

    def left(u):  # time runs out exponentially
        r = process.horizon
        return 1 - (1 - r) ** u, -math.log(1 - r) * (1 - r) ** u

    nodes, weights = np.polynomial.legendre.leggauss(60)
    bound = nats(process.horizon, process.terminal)
    for u, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        t, dt = left(u)
        bound += w * dt * nats(t, process.bound)
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert entropy < bound < entropy + 0.01


# what training finds


@pytest.mark.parametrize("early", [1.0, 2.0])
@ranges_over_small_paths
def test_cross_entropy_is_least_at_the_posterior(path, early):
    process, toy = DiscreteFlow(path=path, early=early), Joint(path, SMALL)
    times = ((torch.arange(30, dtype=torch.float64) + 0.5) / 30) ** early * process.latest
    joint = toy.q[:, None] * sum(toy.forward(float(t)) for t in times) / len(times)
    logits = torch.zeros(len(toy.noisy), 2, SMALL, requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, history_size=30)

    def closure():
        optimizer.zero_grad()
        loss = process.loss(*every_pair(toy, 0.5, logits)) @ joint.flatten()
        loss.backward()
        return loss

    optimizer.step(closure)
    exact, learned = toy.factorise(joint), logits.detach().log_softmax(-1)
    gap = (torch.special.xlogy(exact, exact) - exact * learned).sum((1, 2))
    assert gap @ joint.sum(0) < 1e-4


def test_guidance_is_linear_and_neutral_at_weight_1():
    c, u = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(combine(c, u, 1.0), c)
    torch.testing.assert_close(combine(c, u, 0.0), u)
    torch.testing.assert_close(combine(c, c, 3.0), c)
    torch.testing.assert_close(combine(c, u, 6.0), (1 + 5.0) * c - 5.0 * u)
    mean = (combine(c, u, 2.0) + combine(c, u, 4.0)) / 2
    torch.testing.assert_close(mean, combine(c, u, 3.0))
