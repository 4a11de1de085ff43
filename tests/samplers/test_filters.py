"""Filters against brute force: every symbol is kept or dropped by the definition."""

import pytest
import torch

from braid.randomness import Keys
from braid.samplers import Drawing

V = 12


def some_logits(rows=50):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, V, generator=rng) * 2


def kept(drawing, logits):
    return drawing.filtered(logits).isfinite()


def ranked(row):
    """Return the symbols of one row, the likeliest first, and their probabilities."""
    p = row.double().softmax(-1)
    order = sorted(range(len(row)), key=lambda i: -p[i])
    return order, p


@pytest.mark.parametrize("k", [1, 2, 5, V, V + 3])
def test_top_k_keeps_the_k_likeliest(k):
    logits = some_logits()
    for row, keep in zip(logits, kept(Drawing(top_k=k), logits), strict=True):
        assert keep.nonzero()[:, 0].tolist() == sorted(ranked(row)[0][:k])


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    logits = some_logits()
    for row, keep in zip(logits, kept(Drawing(top_p=p), logits), strict=True):
        order, share = ranked(row)
        enough = next(k for k in range(1, V + 1) if share[order[:k]].sum() >= p)
        assert keep.nonzero()[:, 0].tolist() == sorted(order[:enough])


@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_min_p_keeps_what_is_likely_beside_the_likeliest(p):
    logits = some_logits()
    for row, keep in zip(logits, kept(Drawing(min_p=p), logits), strict=True):
        _, share = ranked(row)
        assert keep.tolist() == [bool(q >= p * share.max() * (1 - 1e-6)) for q in share]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_is_an_exponent(temperature):
    logits = some_logits()
    power = logits.softmax(-1) ** (1 / temperature)
    p = Drawing(temperature=temperature).filtered(logits).softmax(-1)
    torch.testing.assert_close(p, power / power.sum(-1, keepdim=True))


def test_what_is_kept_keeps_its_proportions():
    logits = some_logits()
    drawing = Drawing(temperature=0.7, top_k=6, top_p=0.9, min_p=0.02)
    keep = kept(drawing, logits)
    p = (logits / 0.7).softmax(-1) * keep
    q = drawing.filtered(logits).softmax(-1)
    torch.testing.assert_close(q, p / p.sum(-1, keepdim=True))
    assert 1 < keep.sum(-1).float().mean() < 6


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing(temperature=0),
        Drawing(temperature=0, top_k=3),
        Drawing(temperature=1e-38),
        Drawing(top_k=1),
        Drawing(top_p=1e-6),
        Drawing(min_p=1.0),
    ],
    ids=str,
)
def test_the_strictest_settings_take_the_likeliest_symbol(drawing):
    logits = some_logits()
    assert torch.equal(drawing.draw(logits, Keys.of(0, len(logits))), logits.argmax(-1))


def test_no_filter_changes_nothing():
    logits = some_logits()
    assert torch.equal(Drawing().filtered(logits), logits)


@pytest.mark.parametrize(
    "drawing", [Drawing(top_k=3), Drawing(top_p=0.6), Drawing(min_p=0.3)], ids=str
)
def test_a_dropped_symbol_is_never_drawn(drawing):
    logits = some_logits(1).expand(20_000, V)
    drawn = drawing.draw(logits, Keys.of(0, 20_000)).unique()
    assert torch.equal(drawn, kept(drawing, logits[:1])[0].nonzero()[:, 0])


def test_filters_work_on_any_leading_axes_and_in_bfloat16():
    logits = some_logits(48).view(4, 6, 2, V).bfloat16()
    drawing = Drawing(temperature=0.8, top_k=4, top_p=0.9)
    assert drawing.filtered(logits).dtype == torch.float32
    together = drawing.filtered(logits).flatten(0, 2)
    torch.testing.assert_close(together, drawing.filtered(logits.flatten(0, 2)))
    assert drawing.draw(logits, Keys.of(0, 4)).shape == (4, 6, 2)
