"""Attention in bfloat16 on a CPU: narrow heads that learn are computed in float32."""

import pytest
import torch

from braid.transformer import attend


def _heads(width: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    torch.manual_seed(width)
    return [torch.randn(2, 3, 7, width).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("width", [8, 32, 64])
@pytest.mark.parametrize("cast", [False, True], ids=["model in bfloat16", "autocast"])
def test_values_and_gradients_are_those_of_float64_as_far_as_bfloat16_tells(width, cast):
    visible = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    given = _heads(width)
    exact = [x.detach().double().requires_grad_() for x in given]
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y = attend(*given, visible)
    assert y.dtype == torch.bfloat16
    y.double().square().sum().backward()
    wanted = attend(*exact, visible)
    wanted.square().sum().backward()
    torch.testing.assert_close(y.double(), wanted, rtol=0.02, atol=0.02)
    for x, z in zip(given, exact, strict=True):
        assert x.grad is not None and x.grad.dtype == torch.bfloat16
        torch.testing.assert_close(x.grad.double(), z.grad, rtol=0.1, atol=0.1)


def test_narrow_heads_that_learn_are_rounded_once():
    """float32 within, so that only the result is rounded; wide heads are torch's own business."""
    given = _heads(16)
    y = attend(*given, "causal")
    wide = torch.nn.functional.scaled_dot_product_attention(
        *(x.float() for x in given), is_causal=True
    )
    assert torch.equal(y, wide.bfloat16())
    with torch.no_grad():
        kept = attend(*given, "causal")
    own = torch.nn.functional.scaled_dot_product_attention(*given, is_causal=True)
    assert torch.equal(kept, own)
