"""Laws of the contract `Process`, over every process and every option that matters."""

import dataclasses

import pytest
import torch
from scipy import stats

from braid.errors import BraidError
from braid.processes import (
    PROCESSES,
    Autoregressive,
    DiscreteFlow,
    GaussianFlow,
    Masked,
    Noised,
    Process,
    metric_table,
)
from braid.randomness import Keys
from tests.instances import (
    CONTINUOUS,
    DISCRETE,
    GROUPS,
    INSTANCES,
    SYMBOLS,
    V,
    clean_tokens,
    perfect,
    table,
)
from tests.toy import counts


def over(instances):
    return pytest.mark.parametrize(("process", "space"), instances.values(), ids=instances)


BOUNDED = {name: at for name, at in INSTANCES.items() if type(at[0]).bound is not Process.bound}
NOISY = {name: at for name, at in INSTANCES.items() if not at[0].causal}
N = 64


def noised_at(process, space, time, seed=0):
    time = torch.as_tensor(time).expand(N) if not torch.is_tensor(time) else time
    return process.corrupt(space, clean_tokens(space, N), time, Keys.of(seed, N))


def some_times(n=N):
    """Return times from early to late; some tokens are context, at time 1."""
    time = torch.linspace(0.001, 0.999, n)
    time[::7] = 1.0
    return time


def some_prediction(space, scale=1.0):
    """Return what an untrained model may predict, in the shape of predictions."""
    rng = torch.Generator().manual_seed(1)
    tail = (space.size,) if hasattr(space, "size") else ()
    return torch.randn(*space.shape(N), *tail, generator=rng) * scale


def test_every_process_has_an_instance():
    assert {type(process) for process, _ in INSTANCES.values()} == set(PROCESSES.values())


# corruption


@over(INSTANCES)
def test_at_time_1_tokens_stay_bit_identical(process, space):
    noised = noised_at(process, space, 1.0)
    assert torch.equal(noised.noisy, noised.clean)
    assert torch.equal(noised.clean, clean_tokens(space, N))


@over(NOISY)
def test_at_time_0_tokens_look_like_the_source(process, space):
    n = 6000
    clean = clean_tokens(space, n)
    noisy = process.corrupt(space, clean, torch.full((n,), 1e-7), Keys.of(0, n)).noisy
    source = process.source(space, n, Keys.of(1, n))
    assert noisy.shape == source.shape
    assert noisy.dtype == source.dtype
    if process.continuous:
        assert stats.ks_2samp(noisy.flatten(), source.flatten()).pvalue > 1e-4
        return
    seen = counts(
        torch.arange(2).repeat_interleave(noisy.numel()),
        torch.cat([noisy, source]).flatten(),
        (2, V + 1),
    )
    seen = seen[:, seen.sum(0) > 0]
    assert seen.shape[1] == 1 or stats.chi2_contingency(seen).pvalue > 1e-4


@over(NOISY)
def test_later_is_cleaner(process, space):
    n = 4000
    clean = clean_tokens(space, n)

    def damage(t):
        noisy = process.corrupt(space, clean, torch.full((n,), t), Keys.of(0, n)).noisy
        return float(
            (noisy != clean).double().mean()
            if not process.continuous
            else (noisy - clean).square().mean()
        )

    early, middle, late = damage(0.1), damage(0.5), damage(0.9)
    assert early > middle > late


@over(INSTANCES)
def test_a_token_is_corrupted_the_same_whatever_its_neighbours(process, space):
    clean, time, keys = clean_tokens(space, N), some_times(), Keys.of(0, N)
    together = process.corrupt(space, clean, time, Keys(keys.key))
    some = torch.tensor([3, 50, 7])
    alone = process.corrupt(space, clean[some], time[some], Keys(keys.key[some]))
    torch.testing.assert_close(together.noisy[some], alone.noisy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.source[some], alone.source, rtol=1e-6, atol=1e-6)


@over(INSTANCES)
def test_corruption_takes_a_generator_too(process, space):
    one, two = (
        process.corrupt(
            space, clean_tokens(space, N), some_times(), torch.Generator().manual_seed(0)
        )
        for _ in range(2)
    )
    assert torch.equal(one.noisy, two.noisy)
    assert one.noisy.shape == space.shape(N)


@over(INSTANCES)
def test_corruption_never_shows_a_symbol_without_an_embedding(process, space):
    if process.continuous:
        assert noised_at(process, space, some_times()).noisy.isfinite().all()
        return
    space.check(noised_at(process, space, some_times()).noisy, "noisy", process.extra_symbols)
    space.check(process.source(space, N, Keys.of(0, N)), "source", process.extra_symbols)


@over(INSTANCES)
def test_disturbance_spares_context_and_knows_no_neighbours(process, space):
    noised, keys = noised_at(process, space, some_times()), Keys.of(9, N)
    whole = process.disturb(space, noised, Keys(keys.key))
    held = noised.time == 1
    assert torch.equal(whole.noisy[held], noised.noisy[held])
    assert torch.equal(whole.clean, noised.clean)
    part = Noised(noised.clean[5:9], noised.noisy[5:9], noised.source[5:9], noised.time[5:9])
    assert torch.equal(process.disturb(space, part, Keys(keys.key[5:9])).noisy, whole.noisy[5:9])


@pytest.mark.parametrize("errors", [0.0, 0.3])
def test_errors_are_as_many_as_the_option_says_and_show_real_symbols(errors):
    process, n = DiscreteFlow(path="mask", errors=errors), 20_000
    clean, time = clean_tokens(SYMBOLS, n), torch.full((n,), 1e-6)
    noised = process.corrupt(SYMBOLS, clean, time, Keys.of(0, n))
    noisy = process.disturb(SYMBOLS, noised, Keys.of(1, n)).noisy
    assert (noisy < V).double().mean() == pytest.approx(errors, abs=0.02)
    assert noisy[noisy < V].unique().tolist() == (list(range(V)) if errors else [])


def test_autoregression_destroys_nothing():
    noised = noised_at(Autoregressive(), SYMBOLS, 0.3)
    assert torch.equal(noised.noisy, noised.clean)
    assert (noised.time == 1).all()


# times, blocks, sources


@over(INSTANCES)
def test_training_times_lie_inside_0_and_1(process, space):
    time = process.sample_time(10_000, Keys.of(0, 10_000))
    assert time.dtype == torch.float32
    assert 0 < time.min() < 0.1
    assert 0.85 < time.max() < 1


@pytest.mark.parametrize("early", [1.0, 3.0])
def test_early_raises_times_to_a_power(early):
    process = DiscreteFlow(early=early, latest=0.9)
    time = process.sample_time(20_000, Keys.of(0, 20_000))
    assert stats.kstest((time / 0.9) ** (1 / early), "uniform").pvalue > 1e-4


@over(INSTANCES)
def test_a_block_has_at_least_one_token_and_no_more_than_are_left(process, space):
    assert all(1 <= process.block(n) <= n for n in range(1, 10))


@over(INSTANCES)
def test_a_source_depends_on_its_own_key(process, space):
    key = Keys.of(0, N).key
    source = process.source(space, N, Keys(key))
    assert source.shape == space.shape(N)
    torch.testing.assert_close(source[5:7], process.source(space, 2, Keys(key[5:7])))


# losses and bounds


@over(INSTANCES)
def test_the_loss_is_finite_with_a_finite_gradient(process, space):
    prediction = some_prediction(space, scale=5.0).requires_grad_()
    loss = process.loss(prediction, noised_at(process, space, some_times()))
    assert loss.shape == (N,)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert (loss > -1e-5).all()
    loss.sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().sum() > 0


@over(INSTANCES)
def test_the_loss_of_predictions_in_bfloat16_is_float32(process, space):
    prediction, noised = some_prediction(space).bfloat16(), noised_at(process, space, 0.5)
    loss = process.loss(prediction, noised)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, process.loss(prediction.float(), noised))


@over(INSTANCES)
def test_the_loss_of_a_perfect_prediction_is_0(process, space):
    noised = noised_at(process, space, some_times())
    assert process.loss(perfect(process, space, noised), noised).abs().max() < 1e-5


@over(INSTANCES)
def test_a_worse_prediction_costs_more(process, space):
    noised = noised_at(process, space, 0.5)
    best, worse = perfect(process, space, noised), some_prediction(space)
    costs = [process.loss(worse + (best - worse) * w, noised).sum() for w in (0.0, 0.05, 0.15)]
    assert costs[0] > costs[1] > costs[2]


@over(INSTANCES)
def test_the_loss_of_a_token_does_not_depend_on_the_others(process, space):
    prediction, noised = some_prediction(space), noised_at(process, space, some_times())
    part = Noised(noised.clean[5:9], noised.noisy[5:9], noised.source[5:9], noised.time[5:9])
    whole = process.loss(prediction, noised)
    torch.testing.assert_close(whole[5:9], process.loss(prediction[5:9], part))


@over(BOUNDED)
def test_bounds_are_finite_up_to_the_horizon(process, space):
    prediction = some_prediction(space)
    for t in (1e-3, 0.5, process.horizon if not process.exact else 1.0):
        noised = noised_at(process, space, t)
        nats = process.bound(prediction, noised)
        assert nats.shape == (N,)
        assert nats.dtype == torch.float32
        assert nats.isfinite().all()
        assert (nats > -1e-4).all()


@over({name: at for name, at in BOUNDED.items() if not at[0].exact})
def test_the_terminal_nats_are_finite(process, space):
    noised = noised_at(process, space, process.horizon)
    nats = process.terminal(some_prediction(space), noised)
    assert nats.shape == (N,)
    assert nats.isfinite().all()


@over({name: at for name, at in BOUNDED.items() if name in DISCRETE})
def test_a_perfect_prediction_costs_no_nats(process, space):
    noised = noised_at(process, space, 0.5)
    assert process.bound(perfect(process, space, noised), noised).abs().max() < 1e-5


def test_nats_add_over_the_symbols_of_a_token_and_losses_average():
    process, prediction = Autoregressive(), some_prediction(GROUPS)
    noised = noised_at(process, GROUPS, 1.0)
    torch.testing.assert_close(
        process.bound(prediction, noised), 3 * process.loss(prediction, noised)
    )


def test_the_z_loss_pulls_the_normaliser_to_1():
    noised = noised_at(Autoregressive(), SYMBOLS, 1.0)
    logits = some_prediction(SYMBOLS) + 3
    extra = Autoregressive(z_loss=0.1).loss(logits, noised) - Autoregressive().loss(logits, noised)
    torch.testing.assert_close(extra, 0.1 * logits.logsumexp(-1).square(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighting", ["mdlm", "llada"])
def test_a_masked_symbol_weighs_the_inverse_of_the_masked_share(weighting):
    process, prediction = Masked(weighting=weighting), some_prediction(SYMBOLS)
    noised = noised_at(process, SYMBOLS, 0.75)
    plain = Masked(weighting="maskgit").loss(prediction, noised)
    torch.testing.assert_close(process.loss(prediction, noised), 4 * plain)
    assert (plain[noised.noisy != V] == 0).all()
    assert (plain[noised.noisy == V] > 0).all()


def test_the_kl_objective_is_the_bound():
    process = DiscreteFlow(path={"kind": "metric", "table": table()}, objective="kl")
    prediction, noised = some_prediction(SYMBOLS), noised_at(process, SYMBOLS, 0.5)
    torch.testing.assert_close(process.loss(prediction, noised), process.bound(prediction, noised))


def test_levels_give_a_likelihood_of_levels():
    process = GaussianFlow(levels=3, horizon=0.5)
    clean = torch.tensor([[-1.0, 0.0, 1.0]])
    noised = Noised(clean, 0.5 * clean, clean * 0, torch.tensor([0.5]))
    odds = torch.tensor([0.0, -0.5, -2.0]).exp()  # squared distances 0, 1, 4 at deviation 1
    ends, middle = odds[0] / odds.sum(), odds[0] / (odds[0] + 2 * odds[1])
    nats = process.terminal(clean, noised)
    torch.testing.assert_close(nats, -(2 * ends.log() + middle.log())[None])


# beliefs and estimates


@over(INSTANCES)
def test_a_belief_has_the_shape_of_the_tokens(process, space):
    noised = noised_at(process, space, 0.5)
    belief = process.belief(some_prediction(space), noised.noisy, 0.5)
    assert belief.shape == noised.clean.shape
    assert belief.dtype == noised.clean.dtype


@over(INSTANCES)
def test_the_belief_in_a_perfect_prediction_is_the_clean_token(process, space):
    noised = noised_at(process, space, 0.5)
    belief = process.belief(perfect(process, space, noised), noised.noisy, 0.5)
    torch.testing.assert_close(belief, noised.clean, rtol=1e-4, atol=1e-4)


def test_a_masked_belief_keeps_what_is_seen():
    noised = noised_at(Masked(), SYMBOLS, 0.5)
    belief = Masked().belief(some_prediction(SYMBOLS), noised.noisy, 0.5)
    seen = noised.noisy != V
    assert (belief[seen] == noised.noisy[seen]).all()
    assert (belief < V).all()


@over(CONTINUOUS)
def test_predictions_split_into_data_and_noise(process, space):
    time = torch.linspace(0.06, 0.98, N)  # before, an estimate from predicted noise is damped
    noised = noised_at(process, space, time)
    data, noise = process.split(perfect(process, space, noised), noised.noisy, time)
    torch.testing.assert_close(data, noised.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(noise, noised.source, rtol=1e-4, atol=1e-4)


@over(CONTINUOUS)
def test_the_velocity_is_the_derivative_of_the_mixture(process, space):
    time = torch.linspace(0.06, 0.98, N)
    noised = noised_at(process, space, time)
    (a, s), (da, ds) = torch.autograd.functional.jvp(process.alpha_sigma, time, torch.ones(N))
    torch.testing.assert_close(process.rates(time), (da, ds))
    velocity = process.velocity(perfect(process, space, noised), noised.noisy, time)
    goal = da[:, None] * noised.clean + ds[:, None] * noised.source
    torch.testing.assert_close(velocity, goal, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(a[:, None] * noised.clean + s[:, None] * noised.source, noised.noisy)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_an_error_of_the_noise_does_not_drown_the_data_where_there_is_none(schedule):
    process = GaussianFlow(prediction="noise", schedule=schedule)
    noise, time = torch.randn(8, 3), torch.zeros(8)
    data, _ = process.split(noise + 0.1, noise, time)
    assert data.abs().max() <= 0.1 / 0.05 + 1e-4


def test_the_data_estimate_is_clipped_and_the_noise_follows():
    process = GaussianFlow(prediction="data", clip=1.0)
    data, noise = process.split(torch.tensor([[3.0]]), torch.tensor([[2.0]]), torch.tensor([0.5]))
    assert data.item() == 1
    assert noise.item() == pytest.approx(3)


# options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscreteFlow(objective="cross_entrpy"), "did you mean 'cross_entropy'"),
        (lambda: DiscreteFlow(path="metrik"), "did you mean 'metric'"),
        (lambda: DiscreteFlow(path={"kind": "metric", "powr": 2}), "did you mean 'power'"),
        (lambda: DiscreteFlow(path={"kind": "mixture", "shedule": "x"}), "did you mean 'schedule'"),
        (lambda: DiscreteFlow(path={"kind": "mask", "source": "uniform"}), "'uniform'"),
        (lambda: DiscreteFlow(latest=1.0), "latest 1.0"),
        (lambda: DiscreteFlow(early=0.0), "early 0.0"),
        (lambda: DiscreteFlow(errors=1.0), "errors 1.0"),
        (lambda: Masked(weighting="mdml"), "did you mean 'mdlm'"),
        (lambda: Masked(schedule="cosin"), "did you mean 'cosine'"),
        (lambda: Masked(size_of_block=0), "size_of_block 0"),
        (lambda: GaussianFlow(schedule="cosin"), "did you mean 'cosine'"),
        (lambda: GaussianFlow(prediction="velocty"), "did you mean 'velocity'"),
        (lambda: GaussianFlow(times="logit-normal"), "did you mean 'logit_normal'"),
        (lambda: GaussianFlow(noise_limit=1.0), "noise_limit 1.0"),
        (lambda: GaussianFlow(clip=0.0), "clip 0.0"),
        (lambda: GaussianFlow(levels=1), "levels 1"),
        (lambda: Autoregressive(z_loss=-1.0), "z_loss -1.0"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value_or_the_nearest_name(make, message):
    with pytest.raises(BraidError, match=message):
        make()


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_misspelt_option_is_a_type_error(process):
    with pytest.raises(TypeError):
        process(shedule="linear")


def test_symbols_of_which_nothing_is_known_are_about_equally_far_apart():
    for size in (8, 300):
        rows = torch.nn.functional.normalize(metric_table(size), dim=1)
        square = 2 - 2 * rows @ rows.T + 2 * torch.eye(size)
        assert (square > 0.8).all()


def test_a_metric_path_that_waits_for_its_table_stays_one_when_an_option_changes():
    flow = dataclasses.replace(DiscreteFlow(path={"kind": "metric", "c": 5.0}), early=3.0)
    assert flow.path == {"kind": "metric", "c": 5.0}
    assert DiscreteFlow(path=flow.path).path == flow.path
