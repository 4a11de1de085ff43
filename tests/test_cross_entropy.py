"""Law: the chunked cross-entropy of a linear layer is the plain one, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from braid.cross_entropy import linear_cross_entropy
from braid.errors import BraidError
from braid.spaces import SymbolHead


def plain(hidden: Tensor, weight: Tensor, symbols: Tensor, factor: Tensor, z_loss: float) -> Tensor:
    """Return the same by way of all logits."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.unflatten(-1, (-1, len(weight) // symbols[0].numel()))
    nats = F.cross_entropy(logits.flatten(0, 1), symbols.flatten(), reduction="none")
    squared = logits.logsumexp(-1).square().flatten()
    return (factor.flatten() * (nats + z_loss * squared)).sum()


def case(n: int, groups: int, size: int, dtype: torch.dtype, width: int = 16) -> tuple[Tensor, ...]:
    """Return hidden vectors, weights, symbols and factors, a third of which are 0."""
    rng = torch.Generator().manual_seed(n + size)
    hidden = torch.randn(n, width, generator=rng, dtype=dtype).requires_grad_()
    weight = torch.randn(groups * size, width, generator=rng, dtype=dtype).requires_grad_()
    shape = (n,) if groups == 1 else (n, groups)
    symbols = torch.randint(size, shape, generator=rng)
    factor = torch.rand(shape, generator=rng, dtype=dtype)
    factor[torch.arange(n) % 3 == 1] = 0
    return hidden, weight, symbols, factor


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("rows", [1, 4, None])
@pytest.mark.parametrize(("n", "groups", "size"), [(13, 1, 50), (9, 4, 17), (1, 1, 2)])
def test_loss_and_gradients_are_those_of_the_plain_form(n, groups, size, rows, z_loss):
    hidden, weight, symbols, factor = case(n, groups, size, torch.float64)
    expected = 3 * plain(hidden, weight, symbols, factor, z_loss)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    found = 3 * linear_cross_entropy(hidden, weight, symbols, factor, z_loss, rows)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    got = torch.autograd.grad(found, (hidden, weight))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_gradients_in_float32_at_many_symbols():
    hidden, weight, symbols, factor = case(64, 1, 102400, torch.float32)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    wanted = torch.autograd.grad(plain(*exact, symbols, factor.double(), 0.0), exact)
    found = linear_cross_entropy(hidden, weight, symbols, factor, rows=16)
    for got, want in zip(torch.autograd.grad(found, (hidden, weight)), wanted, strict=True):
        assert (got - want).norm() <= 1e-6 * want.norm()  # the plain form in float32: 1e-5


def test_autocast_gives_the_plain_form_in_its_type():
    hidden, weight, symbols, factor = case(12, 1, 300, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(hidden, weight, symbols, factor, 0.0)
        found = linear_cross_entropy(hidden, weight, symbols, factor, rows=5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    got = torch.autograd.grad(found, (hidden, weight))
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 1e-2 * b.norm()


def test_only_the_gradients_that_are_asked_for_are_made():
    hidden, weight, symbols, factor = case(6, 1, 20, torch.float64)
    only = linear_cross_entropy(hidden.detach(), weight, symbols, factor)
    (got,) = torch.autograd.grad(only, (weight,))
    expected = torch.autograd.grad(plain(hidden, weight, symbols, factor, 0.0), (weight,))[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, symbols, factor).requires_grad


def test_rows_without_a_factor_have_no_gradient_and_no_rows_give_zero():
    hidden, weight, symbols, factor = case(6, 1, 20, torch.float64)
    found = linear_cross_entropy(hidden, weight, symbols, factor)
    (got,) = torch.autograd.grad(found, (hidden,))
    assert (got[factor == 0] == 0).all()
    empty = linear_cross_entropy(hidden, weight, symbols, torch.zeros_like(factor))
    empty.backward()
    assert float(empty.detach()) == 0
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def test_a_second_gradient_and_shapes_that_do_not_fit_are_refused():
    hidden, weight, symbols, factor = case(6, 1, 20, torch.float64)
    found = linear_cross_entropy(hidden, weight, symbols, factor)
    found.backward(retain_graph=True)
    with pytest.raises(BraidError, match="already taken"):
        found.backward()
    with pytest.raises(BraidError, match="must have one shape"):
        linear_cross_entropy(hidden, weight, symbols, factor[:3])


@pytest.mark.parametrize("groups", [1, 3])
def test_a_head_gives_the_entropy_of_its_logits(groups):
    head = SymbolHead(11, groups, 16).double()
    hidden, _, symbols, factor = case(7, groups, 11, torch.float64)
    nats = F.cross_entropy(head(hidden).reshape(-1, 11), symbols.flatten(), reduction="none")
    expected = (factor.flatten() * nats).sum()
    torch.testing.assert_close(head.entropy(hidden, symbols, factor), expected)
