"""Law: a strand's loss is that of its process on all predictions, and so are its gradients."""

from __future__ import annotations

import pytest
import torch

from tests.laws import models


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_loss_without_logits_is_the_loss_of_the_process(paradigm, name):
    braid = models.stirred(paradigm)
    strand = braid.strand(name)
    documents = [[models.pair(braid, name, i, learned=bool(i))] for i in range(3)]
    batch = models.packed(braid, documents)
    noised, target = braid.corrupt(batch, 0)[name], batch.target[name]
    width = braid.transformer.config.width
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(target), width, generator=rng, dtype=torch.float64).requires_grad_()
    assert strand.process is not None
    assert strand.head is not None
    parts = [hidden, *strand.head.parameters()]
    each = strand.process.loss(strand.read(hidden), noised)
    expected = torch.where(target, each, 0.0).sum()
    wanted = torch.autograd.grad(expected, parts)
    found = strand.loss(hidden, noised, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    got = torch.autograd.grad(found, parts)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
