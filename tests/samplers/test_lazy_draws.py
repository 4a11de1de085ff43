"""Draws that look only where they are asked, against their dense twins."""

import pytest
import torch

from braid.processes import DiscreteFlow, Masked, MixturePath, draws
from braid.randomness import Keys, uniform
from braid.samplers import Ancestral, Confidence, Drawing, Jump
from braid.samplers.filters import PENDING

DRAWINGS = [
    Drawing(),
    Drawing(temperature=0),
    Drawing(temperature=0.6),
    Drawing(temperature=1e-38),
    Drawing(temperature=1e-46),
    Drawing(top_k=1),
    Drawing(top_k=7),
    Drawing(top_p=0.3),
    Drawing(top_p=0.97),
    Drawing(min_p=0.1),
    Drawing(temperature=1.3, top_k=40, top_p=0.9, min_p=0.01),
]
over_drawings = pytest.mark.parametrize("drawing", DRAWINGS, ids=str)


def some_logits(rows, size, dtype=torch.float32):
    rng = torch.Generator().manual_seed(size)
    return (torch.randn(rows, 3, size, generator=rng) * 3).to(dtype)


def dense(drawing, logits, keys):
    """Draw from the whole softmax of the filtered logits, in float64."""
    if drawing.temperature == 0:
        return logits.argmax(-1)
    total = drawing.filtered(logits).double().softmax(-1).cumsum(-1)
    mark = uniform(keys, tuple(logits.shape[:-1])).double() * total[..., -1]
    return (total <= mark[..., None]).sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [12, 300, 1025])
@over_drawings
def test_a_draw_by_blocks_is_the_dense_draw(drawing, size, dtype, monkeypatch):
    logits = some_logits(200, size, dtype)
    expected = dense(drawing, logits, Keys.of(0, 200))
    for block in (1, 5000, 1 << 19):
        monkeypatch.setitem(draws._BLOCK, "cpu", block)
        drawn = drawing.draw(logits, Keys.of(0, 200))
        # float32 may put a mark on the other side of a boundary
        assert int((drawn != expected).sum()) <= 1


@over_drawings
def test_only_what_is_pending_is_drawn(drawing):
    logits = some_logits(50, 300)
    everything = drawing.begin(logits, Keys.of(0, 50)).all()
    x = torch.arange(150).view(50, 3)
    for pending in (x % 2 == 0, x < 0, x >= 0):
        filled = drawing.begin(logits, Keys.of(0, 50)).fill(x.masked_fill(pending, PENDING))
        assert torch.equal(filled, torch.where(pending, everything, x))


@over_drawings
def test_what_is_judged_is_what_is_drawn(drawing):
    logits = some_logits(50, 300)
    draw = drawing.begin(logits, Keys.of(0, 50))
    rows = torch.arange(0, 150, 4)
    symbols, seen = draw.judged(rows, lambda p, symbol: p.gather(-1, symbol[:, None])[:, 0])
    assert int((symbols != draw.all().flatten()[rows]).sum()) <= 1
    p = logits.flatten(0, 1).softmax(-1)[rows]
    torch.testing.assert_close(seen, p.gather(-1, symbols[:, None])[:, 0])


def test_a_symbol_without_probability_is_never_drawn():
    logits = torch.zeros(1, 1, 200).expand(500, 40, 200).clone()
    logits[..., ::2] = -torch.inf
    assert bool((Drawing().draw(logits, Keys.of(0, 500)) % 2 == 1).all())
    only = torch.full((1000, 1, 300), -torch.inf)
    only[..., 170] = 0
    assert bool((Drawing().draw(only, Keys.of(0, 1000)) == 170).all())


def test_logits_that_know_their_gradient_are_drawn_from():
    logits = some_logits(20, 300)
    draw = Drawing(top_k=9).begin(logits.clone().requires_grad_(), Keys.of(0, 20))
    drawn = Drawing(top_k=9).draw(logits, Keys.of(0, 20))
    assert torch.equal(draw.all(), drawn)
    assert torch.equal(draw.fill(torch.full_like(drawn, PENDING)), drawn)


def test_an_empty_batch_draws_nothing():
    assert Drawing().draw(torch.zeros(0, 4, 9), Keys.of(0, 0)).shape == (0, 4)


# samplers against their plain form, which draws everything at every step

N, V = 40, 300


def moody(x, t):
    """Return logits that depend on each symbol and the time, by exact arithmetic."""
    weight = torch.arange(V)
    return ((x[..., None] * 31 + weight * 17) % 23) / 4 + t


def plain_jump(sampler, x, process, rng):
    path, again = process.path, 1 - float(torch.tensor(-sampler.churn / sampler.steps).exp())
    times = path.grid(sampler.steps, 0.0, sampler.spacing, V)
    for t, s in zip(times[:-1], times[1:], strict=True):
        clean = sampler.draw(moody(x, t), rng)
        if process.keeps:
            clean = torch.where(x == V, clean, x)
        x = path.jump(x, clean, t, s, rng, V)
        if sampler.churn and s < 1:
            fresh = path.corrupt(clean, torch.full(x.shape, s), rng, V)
            x = torch.where(uniform(rng, tuple(x.shape)) < again, fresh, x)
    return x


def plain_ancestral(sampler, x, process, rng):
    path, times = process.path, sampler.times()
    for t, s in zip(times[:-1], times[1:], strict=True):
        clean = torch.where(x == V, sampler.draw(moody(x, t), rng), x)
        after = path.posterior(x, clean, t, s, rng, V)
        fresh = path.corrupt(clean, torch.full(x.shape, s), rng, V)
        psi = sampler._psi(path, t, s, V)
        x = torch.where(uniform(rng, tuple(x.shape)) < psi, after, fresh)
    return x


@pytest.mark.parametrize(
    "process",
    [
        DiscreteFlow(path="uniform"),
        DiscreteFlow(path=MixturePath("uniform", "polynomial:3")),
        DiscreteFlow(path="mask"),
        DiscreteFlow(path="mask", errors=0.1),
        Masked(),
    ],
    ids=["uniform", "polynomial", "mask", "mask, errors", "masked"],
)
@pytest.mark.parametrize("options", [{}, {"churn": 3.0}, {"temperature": 0.0}, {"top_p": 0.8}])
def test_jumps_that_draw_what_they_need_are_the_plain_jumps(process, options):
    sampler = Jump(steps=7, **options)
    x = process.path.source((N, 5), V, Keys.of(1, N))
    plain = plain_jump(sampler, x, process, Keys.of(0, N))
    assert torch.equal(sampler(moody, x, process, Keys.of(0, N)), plain)


@pytest.mark.parametrize("options", [{}, {"psi": 0.5}, {"remask": "cap", "eta": 0.3}])
def test_ancestral_steps_of_a_mask_are_the_plain_ones(options):
    sampler, process = Ancestral(steps=7, **options), Masked()
    x = process.path.source((N, 5), V, Keys.of(1, N))
    plain = plain_ancestral(sampler, x, process, Keys.of(0, N))
    assert torch.equal(sampler(moody, x, process, Keys.of(0, N)), plain)


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
def test_the_model_is_as_sure_of_a_guess_as_its_whole_softmax_says(order):
    sampler = Confidence(order=order, temperature=0.7)
    logits = some_logits(20, V)
    masked = (torch.arange(60) % 3 != 1).view(20, 3)
    guess, sure = sampler._guess(logits, masked, Keys.of(0, 20))
    p = logits.softmax(-1)
    drawn = sampler.draw(logits, Keys.of(0, 20))
    best = p.topk(2, -1).values
    expected = {
        "confidence": p.gather(-1, drawn[..., None])[..., 0],
        "margin": best[..., 0] - best[..., 1],
        "entropy": 1 + (p * p.log()).sum(-1) / torch.tensor(float(V)).log(),
    }[order]
    assert torch.equal(guess[masked], drawn[masked])
    torch.testing.assert_close(sure[masked], expected[masked], rtol=1e-4, atol=1e-6)
