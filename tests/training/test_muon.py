"""Muon turns matrices; all else is AdamW's."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from braid.config import TrainConfig
from braid.errors import BraidError
from braid.training import Trainer, muon
from braid.training.muon import Muon
from braid.training.optimizer import make_optimizer
from tests.laws import models


@pytest.mark.parametrize("shape", [(8, 8), (8, 50), (50, 8), (1, 5), (96, 864)])
def test_directions_are_kept_and_singular_values_become_alike(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(given, full_matrices=False)
    found = u.T @ muon.orthogonal(given) @ v.T
    reached = found.diagonal()
    strong = values > values.max() / 50
    assert float(reached[strong].min()) > 0.6
    assert float(reached.max()) < 1.3
    torch.testing.assert_close(found, torch.diag(reached), atol=1e-4, rtol=0)


def test_singular_values_become_alike_in_half_precision():
    given = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    reached = torch.linalg.svdvals(muon.orthogonal(given.bfloat16()).float())
    assert 0.6 < float(reached.min()) <= float(reached.max()) < 1.3


@pytest.mark.parametrize("shape", [(8, 50), (50, 8), (6, 3, 3, 3)])
def test_operations_are_those_that_torch_counts(shape):
    with FlopCounterMode(display=False) as counter:
        muon.update(torch.ones(shape))
    assert counter.get_total_flops() == muon.operations(shape)


@pytest.mark.parametrize("shape", [(32, 32), (32, 200), (200, 32)])
def test_an_update_has_the_size_of_one_of_adamw(shape):
    given = 1e3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    size = float(muon.update(given).square().mean().sqrt())
    assert size == pytest.approx(0.2, rel=0.3)


def test_no_gradient_is_no_update():
    assert torch.equal(muon.update(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_a_convolution_moves_as_its_matrix():
    rng = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(6, 4, 3, 3, generator=rng) for _ in range(2))
    ends = []
    for shape in [(6, 4, 3, 3), (6, 36)]:
        p = nn.Parameter(weight.clone().view(shape))
        p.grad = gradient.view(shape)
        group = {"params": [p], "orthogonal": True, "weight_decay": 0.1}
        Muon([group], lr=0.01).step()
        ends.append(p.detach().view(6, 36))
    assert torch.equal(*ends)


def test_vectors_move_as_adamw_moves_them():
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(10, generator=rng)
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    turned = nn.Parameter(torch.randn(4, 4, generator=rng))
    ours = Muon(
        [
            {"params": [turned], "orthogonal": True, "weight_decay": 0.0},
            {"params": [one], "orthogonal": False, "weight_decay": 0.1},
        ],
        lr=0.01,
        betas=(0.9, 0.98),
    )
    plain = torch.optim.AdamW([other], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for _ in range(5):
        gradient = torch.randn(10, generator=rng)
        one.grad, other.grad = gradient.clone(), gradient.clone()
        turned.grad = torch.randn(4, 4, generator=rng)
        ours.step()
        plain.step()
    assert torch.equal(one, other)


@pytest.mark.parametrize("qk_norm", ["rms", "heads"])
def test_only_matrices_of_the_blocks_are_turned(qk_norm):
    made = models.build(models.experiment("fudoki", f"transformer.qk_norm={qk_norm}"))
    optimizer = make_optimizer(made, TrainConfig(optimizer="muon"))
    turned = {id(p) for g in optimizer.param_groups if g["orthogonal"] for p in g["params"]}
    names = {n for n, p in made.named_parameters() if id(p) in turned}
    assert any("attention" in n for n in names)
    assert any("feed" in n for n in names)
    assert all(n.startswith("transformer.blocks.") for n in names)
    assert not any("norm" in n for n in names)
    every = [p for g in optimizer.param_groups for p in g["params"]]
    assert len(every) == len({id(p) for p in every}) == len(list(made.parameters()))


@pytest.mark.parametrize("qk_norm", ["rms", "heads"])
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_only_weights_of_layers_decay(paradigm, qk_norm):
    made = models.build(models.experiment(paradigm, f"transformer.qk_norm={qk_norm}"))
    optimizer = make_optimizer(made, TrainConfig())
    assert all(g["params"] for g in optimizer.param_groups)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {n for n, p in made.named_parameters() if id(p) in decayed}
    assert "transformer.blocks.0.feed.up.weight" in names
    last = {n.rpartition(".")[2] for n in names}
    assert last == {"weight"}
    assert not any(word in n for n in names for word in ("norm", "row", "column", "embedder.table"))


def test_what_has_no_gradient_stays():
    still, moving = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([{"params": [still, moving], "orthogonal": True, "weight_decay": 0.1}], lr=0.1)
    moving.grad = torch.eye(3)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moving, torch.ones(3, 3))


def test_a_closure_sees_all_parameters():
    turned, plain = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    kinds = ((turned, True), (plain, False))
    groups = [{"params": [p], "orthogonal": o, "weight_decay": 0.0} for p, o in kinds]
    optimizer = Muon(groups, lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (turned**2).sum() + (plain**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == 6


def test_offloading_is_refused_on_a_cpu(tmp_path):
    made = models.experiment("fudoki", "train.optimizer=adamw", "parallel.offload=true")
    with pytest.raises(BraidError, match=r"parallel\.offload.*on a CPU; leave it out"):
        Trainer(made, tmp_path, device="cpu")


def test_offloading_is_refused(tmp_path):
    made = models.experiment("fudoki", "train.optimizer=muon", "parallel.offload=true")
    with pytest.raises(BraidError, match=r"parallel\.offload.*train\.optimizer=adamw"):
        Trainer(made, tmp_path, device="cpu")


def test_a_badly_scaled_problem_is_solved_sooner():
    """Directions with small gradients are followed as fast as those with large ones."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(256, 16, generator=rng) * torch.logspace(0, -2, 16)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=rng))[0]
    y = x @ turn

    def left(optimizer_of) -> float:
        weight = nn.Parameter(torch.zeros(16, 16))
        optimizer = optimizer_of(weight)
        for step in range(200):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 - step / 200)
            optimizer.zero_grad()
            ((x @ weight - y) ** 2).mean().backward()
            optimizer.step()
        return float((weight - turn).detach().norm())

    plain = left(lambda w: torch.optim.SGD([w], lr=0.05, momentum=0.95, nesterov=True))
    group = {"orthogonal": True, "weight_decay": 0.0}
    assert left(lambda w: Muon([{"params": [w], **group}], lr=0.05)) < plain / 5
