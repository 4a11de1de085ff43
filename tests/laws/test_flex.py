"""Law: FlexAttention's block mask is the dense mask of the rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention

from braid import rules
from braid.layout import Layout
from braid.rules import Fields
from braid.transformer import attend
from tests.laws import models
from tests.laws.test_visibility import mixed, mixed_batch


def heads(layout: Layout, device: str = "cpu") -> list[Tensor]:
    """Return random queries, keys and values for a layout, [B, heads, L, width]."""
    B, L = layout.document.shape
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(B, 2, L, 16, generator=rng).to(device) for _ in range(3)]


@pytest.mark.parametrize("rule", models.RULES)
def test_the_block_mask_is_the_dense_mask(rule):
    layout, found = mixed(), rules.get(rule)
    B, L = layout.document.shape
    block = rules.block_mask(found, layout)
    flat = create_mask(block.mask_mod, B, 1, L, L, device="cpu")[:, 0]
    fields = Fields.of(layout)
    assert torch.equal(flat, rules.dense(found, fields, fields))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rule", models.RULES)
def test_flex_attention_equals_attention_under_the_dense_mask(rule):
    layout, found = mixed(), rules.get(rule)
    q, k, v = heads(layout)
    fields = Fields.of(layout)
    dense = attend(q, k, v, rules.dense(found, fields, fields))
    flex = flex_attention(q, k, v, block_mask=rules.block_mask(found, layout))
    torch.testing.assert_close(flex, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("rule", models.RULES)
def test_compiled_flex_attention_equals_the_dense_mask_on_a_gpu(rule):
    layout, found = mixed_batch().to("cuda").layout, rules.get(rule)
    q, k, v = heads(layout, "cuda")
    fields = Fields.of(layout)
    dense, cheap = rules.dense(found, fields, fields), rules.visible(found, layout)
    assert not isinstance(cheap, Tensor), "a GPU takes the block mask"
    torch.testing.assert_close(attend(q, k, v, cheap), attend(q, k, v, dense), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_training_step_on_a_gpu_equals_one_on_a_cpu(paradigm):
    braid = models.stirred(paradigm, torch.float32)
    batch = models.packed(braid, [[models.all_learned(braid)], [models.all_learned(braid, 1)]])
    here = braid.loss(batch, 0)
    there = braid.cuda().loss(batch.to("cuda"), 0)
    torch.testing.assert_close(there.total.cpu(), here.total, rtol=1e-3, atol=1e-3)
