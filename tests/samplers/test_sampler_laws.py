"""Laws of the contract `Sampler`, over every sampler and every process that it can run."""

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from braid.errors import BraidError
from braid.processes import DiscreteFlow, GaussianFlow, Masked, MetricPath, MixturePath
from braid.randomness import Keys, uniform
from braid.samplers import (
    DDPM,
    SAMPLERS,
    Ancestral,
    Confidence,
    Euler,
    Heun,
    Jump,
    NextToken,
    check,
    suitable,
)
from tests.instances import (
    INSTANCES,
    PATHS,
    SYMBOLS,
    V,
    clean_tokens,
    levels,
    perfect_logits,
    perfect_vectors,
    table,
)
from tests.toy import Joint, variation

VARIANTS = {
    "next_token": [NextToken()],
    "jump": [Jump(steps=5), Jump(steps=6, spacing="distance"), Jump(steps=5, churn=2.0)],
    "euler": [Euler(steps=5)],
    "heun": [Heun(steps=5)],
    "ddpm": [DDPM(steps=5), DDPM(steps=5, eta=0.0), DDPM(steps=4, start=0.2)],
    "confidence": [
        Confidence(steps=3),
        Confidence(steps=4, order="margin", choice_temperature=2.0),
        Confidence(steps=3, order="entropy", schedule="cosine"),
        Confidence(steps=5, order="random", size_of_block=2),
        Confidence(steps=2, threshold=0.9),
    ],
    "ancestral": [
        Ancestral(steps=5),
        Ancestral(steps=5, psi=0.5),
        Ancestral(steps=6, remask="cap", eta=0.3),
        Ancestral(steps=6, remask="rescale", eta=1.0),
    ],
}
for _name, _sampler in SAMPLERS.items():  # a sampler that was added is under the laws at once
    VARIANTS.setdefault(_name, [_sampler()])
CASES = {
    f"{kind} {i}; {name}": (sampler, *INSTANCES[name])
    for kind, variants in VARIANTS.items()
    for i, sampler in enumerate(variants)
    for name in INSTANCES
    if sampler.suits(INSTANCES[name][0])
}
over_cases = pytest.mark.parametrize(("sampler", "process", "space"), CASES.values(), ids=CASES)
B, n = 4, 6


def start(process, space, keys):
    """Draw B x n tokens of noise, each from its row's keys."""
    rows = len(keys.key)
    return process.source(space, rows * n, keys.spread(n)).unflatten(0, (rows, n))


def knows(process, space, clean):
    """Return the predictor of a model that knows the clean tokens."""

    def predict(x, t):
        if not process.continuous:
            return perfect_logits(clean, space.size)
        time = torch.full(x.shape[:-1], t, dtype=torch.float64)
        a, s = (v[..., None] for v in process.alpha_sigma(time))
        noise = (x.double() - a * clean.double()) / s
        return perfect_vectors(process, clean.double(), noise, time).float()

    return predict


def reacts(space):
    """Return a predictor whose answer depends on each token and the time, by exact arithmetic."""

    def predict(x, t):
        if not hasattr(space, "size"):
            return x * 0.5 + t
        weight = torch.arange((space.size + 1) * space.size).view(space.size + 1, -1)
        return (weight[x] * 37 % 11) / 4 + t

    return predict


def counting(predict):
    """Return a predictor and the list of the times at which it was called."""
    times = []

    def counted(x, t):
        times.append(t)
        return predict(x, t)

    return counted, times


@pytest.mark.parametrize("name", INSTANCES)
def test_every_process_has_a_sampler_and_every_sampler_a_process(name):
    assert suitable(INSTANCES[name][0])
    assert {type(case[0]) for case in CASES.values()} == set(SAMPLERS.values())


@over_cases
def test_a_model_that_knows_the_data_returns_it(sampler, process, space):
    clean = clean_tokens(space, B * n).unflatten(0, (B, n))
    keys = Keys.of(0, B)
    x = sampler(knows(process, space, clean), start(process, space, keys), process, keys)
    assert x.dtype == clean.dtype
    torch.testing.assert_close(x, clean, rtol=0, atol=1e-4 if process.continuous else 0)


@over_cases
def test_the_same_seed_gives_the_same_result_and_another_another(sampler, process, space):
    def run(rng, begin):
        return sampler(reacts(space), start(process, space, begin), process, rng)

    results = [run(Keys.of(seed, B), Keys.of(seed, B)) for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    one, two = (run(torch.Generator().manual_seed(0), Keys.of(0, B)) for _ in range(2))
    assert torch.equal(one, two)


@over_cases
def test_a_row_does_not_depend_on_the_other_rows(sampler, process, space):
    key = Keys.of(0, B).key

    def run(key):
        keys = Keys(key)
        x = start(process, space, keys)
        return sampler(reacts(space), x, process, keys)

    together, alone = run(key), torch.cat([run(key[b : b + 1]) for b in (0, B - 1)])
    torch.testing.assert_close(together[[0, B - 1]], alone, rtol=1e-5, atol=1e-5)


@over_cases
def test_no_mask_is_left(sampler, process, space):
    keys = Keys.of(0, B)
    x = sampler(reacts(space), start(process, space, keys), process, keys)
    if process.continuous:
        assert x.isfinite().all()
    else:
        space.check(x.flatten(0, 1), "sample")


@over_cases
def test_each_step_costs_one_call_and_each_of_heun_two_but_the_last(sampler, process, space):
    predict, times = counting(reacts(space))
    keys = Keys.of(0, B)
    sampler(predict, start(process, space, keys), process, keys)
    assert all(0 <= t <= 1 for t in times)
    if isinstance(sampler, NextToken):
        assert times == [1.0]
    elif isinstance(sampler, Heun):
        assert len(times) == 2 * sampler.steps - 1
    elif getattr(sampler, "threshold", None) is None:
        assert len(times) == sampler.steps


# jumps


def check_grid(times, steps):
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (0, 1)
    assert (torch.tensor(times, dtype=torch.float64).diff() > 0).all()


def test_every_number_of_steps_has_that_many_steps():
    for steps in range(1, 513):
        check_grid(PATHS["mask, linear"].grid(steps, 0.0, "time", V), steps)
        check_grid(Euler(steps=steps).times(), steps)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_grid_in_distance_has_that_many_steps(path):
    for steps in (1, 2, 49, 103, 512):
        check_grid(path.grid(steps, 0.0, "distance", V), steps)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_grid_in_distance_covers_equal_distances(path):
    times = torch.tensor(path.grid(8, 0.1, "distance", V), dtype=torch.float64)
    covered = path.progress(times, V)
    assert times[0] == 0.1
    torch.testing.assert_close(covered.diff(), covered.diff().mean().expand(8), rtol=0.02, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49, 98, 103, 107, 196, 512])
def test_n_jumps_cost_n_network_calls(steps):
    predict, times = counting(reacts(SYMBOLS))
    process = DiscreteFlow(path="uniform")
    Jump(steps=steps)(predict, torch.zeros(1, 2, dtype=torch.int64), process, Keys.of(0, 1))
    assert len(times) == steps


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
@pytest.mark.parametrize("errors", [0.0, 0.1])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_last_jump_takes_what_was_drawn_last(path, errors, steps):
    process, keys, drawn = DiscreteFlow(path=path, errors=errors), Keys.of(0, B), []
    assert process.keeps == (path.masked and not errors)

    def predict(x, t):
        fresh = (uniform(Keys.of(len(drawn), B), (B, n)) * V).long()
        drawn.append(torch.where(x < V, x, fresh) if process.keeps else fresh)
        return perfect_logits(fresh, V)

    x = Jump(steps=steps)(predict, start(process, SYMBOLS, keys), process, keys)
    assert torch.equal(x, drawn[-1])


@pytest.mark.parametrize("process", [Masked(), DiscreteFlow(path="mask")], ids=["masked", "flow"])
@pytest.mark.parametrize("sampler", [Jump(steps=8), Ancestral(steps=8), Confidence(steps=8)])
def test_what_is_uncovered_stays(sampler, process):
    keys, seen = Keys.of(0, B), []

    def predict(x, t):
        seen.append(x)
        return torch.randn(B, n, V, generator=torch.Generator().manual_seed(len(seen)))

    x = sampler(predict, start(process, SYMBOLS, keys), process, keys)
    for before, after in zip(seen, [*seen[1:], x], strict=True):
        assert (after[before < V] == before[before < V]).all()


# confidence


def uncovered(sampler, logits, process=None):
    """Return which symbols [B, n] are uncovered before each call, and after the last."""
    states = []

    def predict(x, t):
        states.append(x)
        return logits

    masks = torch.full(logits.shape[:-1], V)
    x = sampler(predict, masks, process or Masked(), Keys.of(0, len(logits)))
    return torch.stack([s < V for s in [*states, x]])


def of_confidence(*p):
    """Return logits [1, n, V] in which a symbol has probability p and the others share the rest."""
    p = torch.tensor(p)[:, None]
    return torch.cat([p, ((1 - p) / (V - 1)).expand(-1, V - 1)], 1).log()[None]


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
def test_the_surest_symbols_come_first(order):
    logits = of_confidence(0.5, 0.9, 0.6, 0.99)
    shown = uncovered(Confidence(steps=4, order=order, temperature=0), logits)[:, 0]
    assert shown.sum(1).tolist() == [0, 1, 2, 3, 4]
    assert shown.int().sum(0).argsort(descending=True).tolist() == [3, 1, 2, 0]


def test_blocks_are_uncovered_one_after_the_other():
    logits = of_confidence(0.5, 0.6, 0.8, 0.9)
    shown = uncovered(Confidence(steps=4, size_of_block=2, temperature=0), logits)[:, 0]
    assert shown.int().sum(0).argsort(descending=True).tolist() == [1, 0, 3, 2]


def test_a_threshold_uncovers_all_that_are_sure_and_at_least_one():
    logits = of_confidence(0.95, 0.5, 0.99, 0.6)
    shown = uncovered(Confidence(threshold=0.9, temperature=0), logits)[:, 0]
    assert shown.sum(1).tolist() == [0, 2, 3, 4]


def test_a_row_does_not_see_how_many_steps_another_takes():
    logits = torch.randn(2, 12, V, generator=torch.Generator().manual_seed(0)) * 3
    logits[1] *= 20  # sure of everything: done at once
    sampler = Confidence(threshold=0.9, size_of_block=4)

    def run(rows):
        masks = torch.full((len(rows), 12), V)
        return sampler(lambda x, t: logits[rows], masks, Masked(), Keys(Keys.of(0, 2).key[rows]))

    assert torch.equal(run([0, 1])[:1], run([0]))


@pytest.mark.parametrize("size", [None, 4])
def test_a_model_is_never_told_that_masked_symbols_are_clean(size):
    logits = torch.zeros(1, 12, V)
    predict, times = counting(lambda x, t: logits)
    sampler = Confidence(steps=6, threshold=0.9, size_of_block=size)
    sampler(predict, torch.full((1, 12), V), Masked(), Keys.of(0, 1))
    assert len(times) == 12
    assert times == sorted(times)
    assert max(times) == pytest.approx(5 / 6)


@pytest.mark.parametrize("symbols", [3, 10, 97])
def test_as_many_steps_as_symbols_uncover_one_at_a_time(symbols):
    shown = uncovered(Confidence(steps=symbols), torch.zeros(1, symbols, V))
    assert shown.sum((1, 2)).tolist() == list(range(symbols + 1))


def test_the_schedule_of_the_process_sets_how_many_are_uncovered():
    logits = torch.zeros(1, 100, V)
    for name in ("linear", "cosine", "polynomial:2"):
        process = Masked(schedule=name)
        shown = uncovered(Confidence(steps=10), logits, process).float().mean((1, 2))
        kappa = process.path.kappa(torch.arange(11) / 10, V)
        torch.testing.assert_close(shown, kappa, rtol=0, atol=0.011)


# options


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_misspelt_option_is_a_type_error(sampler):
    with pytest.raises(TypeError):
        sampler(stepz=8)


DRAWING = {"temperature": [-0.1, float("nan"), float("inf")], "top_k": [-1]}
DRAWING |= {"top_p": [0.0, 1.5], "min_p": [-0.1, 1.5]}
STEPPED = {"steps": [0, -3], "start": [-0.5, 1.0]}
WRONG = {
    "next_token": DRAWING,
    "jump": DRAWING | STEPPED | {"spacing": ["tiem"], "churn": [-1.0]},
    "ancestral": DRAWING | STEPPED | {"psi": [-0.5, 1.5], "eta": [2.0], "remask": ["resscale"]},
    "confidence": DRAWING
    | STEPPED
    | {"order": ["entropi"], "threshold": [0.0, 1.5], "size_of_block": [0], "schedule": ["cosin"]},
    "euler": STEPPED,
    "heun": STEPPED,
    "ddpm": STEPPED | {"eta": [-0.5, 1.5]},
}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, v) for name in WRONG for option, vs in WRONG[name].items() for v in vs],
)
def test_an_option_out_of_range_is_refused_by_its_value(name, option, value):
    with pytest.raises(BraidError, match=str(value)):
        SAMPLERS[name](**{option: value})


def test_a_sampler_that_cannot_run_a_process_is_refused_with_those_that_can():
    with pytest.raises(BraidError, match="Euler cannot run Masked; valid: .*confidence"):
        check(Euler(), Masked())
    check(Euler(), GaussianFlow())


# distributions: the exact posterior as the model

ROWS = 10_000


def tallied(sampler, process, toy, rows=ROWS):
    """Return the distribution of what a sampler draws with the exact posterior of a joint."""

    def predict(x, t):
        return toy.posterior(t).clamp(min=1e-30).log().float()[toy.index(x)]

    keys = Keys.of(0, rows)
    space = type(SYMBOLS)(toy.size)
    x = process.source(space, rows * toy.length, keys.spread(toy.length)).unflatten(0, (rows, -1))
    x = sampler(predict, x, process, keys)
    base = toy.size ** torch.arange(toy.length - 1, -1, -1)
    return torch.bincount((x * base).sum(-1), minlength=len(toy.q)).double() / rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "path"),
    [
        (Ancestral(steps=128), MixturePath("mask")),
        (Ancestral(steps=128), MixturePath("uniform")),
        (Ancestral(steps=128, remask="cap", eta=0.02), MixturePath("mask")),
        (Ancestral(steps=128, remask="rescale", eta=0.02), MixturePath("mask", "cosine")),
        (Ancestral(steps=128, psi=0.98), MixturePath("uniform")),
        (Jump(steps=128), MixturePath("mask", "cosine")),
        (Jump(steps=128), MixturePath("uniform")),
        (Jump(steps=128, churn=2.0), MixturePath("mask")),
        (Jump(steps=128), MetricPath(table(3, 2, seed=1))),
        (Jump(steps=128, spacing="distance"), MetricPath(levels(3), distance="ordinal", c=5.0)),
        (Jump(steps=128, churn=1.0), MetricPath(levels(3), distance="ordinal", c=5.0)),
        (Confidence(steps=2, order="random"), MixturePath("mask")),
    ],
    ids=lambda x: type(x).__name__,
)
def test_many_steps_with_the_exact_posterior_draw_the_data(sampler, path):
    toy = Joint(path, 3)
    assert variation(tallied(sampler, DiscreteFlow(path=path), toy), toy.q) < 0.02


def test_one_step_with_the_exact_posterior_draws_independent_symbols():
    toy = Joint(MixturePath("mask"), 3)
    drawn = tallied(Ancestral(steps=1), Masked(), toy)
    single = toy.posterior(0.0)[-1]  # all masked
    torch.testing.assert_close(drawn, torch.outer(*single).flatten(), rtol=0, atol=0.01)
    assert variation(drawn, toy.q) > 0.1


MEANS, DEVIATION, SHARES = torch.tensor([-1.0, 1.5]), 0.3, torch.tensor([0.3, 0.7])


def posterior_mean(process, x, t, means=MEANS, deviation=DEVIATION, shares=SHARES):
    """Return E[x1 | x_t] of a mixture of Gaussians, and the noise that follows, float64."""
    x, means, shares = x.double(), means.double(), shares.double()
    a, s = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    variance = a**2 * deviation**2 + s**2
    weight = (shares.log() - (x - a * means) ** 2 / (2 * variance)).softmax(-1)
    each = means + a * deviation**2 / variance * (x - a * means)
    data = (weight * each).sum(-1, keepdim=True)
    return data, (x - a * data) / s


def knows_the_mixture(process, **mixture):
    def predict(x, t):
        data, noise = posterior_mean(process, x, t, **mixture)
        time = torch.full(x.shape[:-1], t, dtype=torch.float64)
        return perfect_vectors(process, data, noise, time).float()

    return predict


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("sampler", "prediction"),
    [
        (DDPM(steps=150), "data"),
        (DDPM(steps=150, eta=0.0), "velocity"),
        (Euler(steps=150), "velocity"),
        (Euler(steps=150), "data"),
        (Heun(steps=50), "velocity"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_vectors_are_drawn_from_the_mixture_of_which_the_model_knows_the_mean(
    sampler, prediction, schedule
):
    process = GaussianFlow(schedule=schedule, prediction=prediction)
    keys = Keys.of(0, ROWS)
    x = process.source(type(INSTANCES["gaussian, data"][1])(1), ROWS, keys)[:, None]
    x = sampler(knows_the_mixture(process), x, process, keys).flatten().double()
    mean = (SHARES * MEANS).sum()
    variance = DEVIATION**2 + (SHARES * MEANS**2).sum() - mean**2
    assert x.mean() == pytest.approx(float(mean), abs=0.04)
    assert x.var() == pytest.approx(float(variance), rel=0.04)
    one = [stats.norm(m, DEVIATION) for m in MEANS]
    both = stats.kstest(x, lambda v: 0.3 * one[0].cdf(v) + 0.7 * one[1].cdf(v))
    assert both.statistic < 0.02


def errors(sampler, process):
    """Return the error of the probability flow of one Gaussian, whose flow is linear."""
    x = torch.linspace(-2, 2, 9)[None, :, None]
    predict = knows_the_mixture(
        process, means=torch.tensor([0.7]), deviation=0.4, shares=torch.ones(1)
    )
    return (sampler(predict, x, process, Keys.of(0, 1)) - (0.7 + 0.4 * x)).abs().max()


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_heun_is_more_accurate_than_euler(schedule, prediction):
    process = GaussianFlow(schedule=schedule, prediction=prediction)
    for steps in (8, 32):
        assert errors(Heun(steps=steps), process) < errors(Euler(steps=steps), process)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_euler_is_of_first_order_and_heun_of_second(schedule):
    process = GaussianFlow(schedule=schedule)
    for sampler, order in ((Euler, 1), (Heun, 2)):
        ratio = errors(sampler(steps=16), process) / errors(sampler(steps=32), process)
        assert ratio == pytest.approx(2**order, rel=0.25)


def test_a_hot_draw_is_more_even_than_a_cold_one():
    logits = torch.tensor([2.0, 1.0, 0.0]).expand(ROWS, 1, 3)
    x = torch.zeros(ROWS, 1, dtype=torch.int64)

    def share(temperature):
        drawn = NextToken(temperature=temperature)(lambda x, t: logits, x, None, Keys.of(0, ROWS))
        return F.one_hot(drawn[:, 0], 3).double().mean(0)

    for temperature in (0.5, 1.0, 2.0):
        p = (logits[0, 0] / temperature).softmax(-1).double()
        torch.testing.assert_close(share(temperature), p, rtol=0, atol=0.02)
    assert share(0.0).tolist() == [1, 0, 0]
