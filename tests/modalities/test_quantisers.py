"""Laws of quantisers: codes are what the decoder reads, and gradients reach the encoder."""

from __future__ import annotations

import pytest
import torch

from braid.errors import BraidError
from braid.modalities.codecs.quantisers import (
    QUANTISERS,
    Gaussian,
    VectorQuantiser,
    quantiser,
)

DISCRETE = (
    "fsq:8,5",
    "fsq:3",
    "fsq:2,2",
    "levels:9x3",
    "levels:4x1",
    "lfq:5",
    "vq:8x3",
    "vq:8x3x2",
)
ALL = (*DISCRETE, "kl:3", "kl:2,1e-4")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vectors(made, n: int = 40) -> torch.Tensor:
    return 2 * torch.randn(n, made.inputs)


def test_every_kind_is_under_the_laws():
    assert {text.partition(":")[0] for text in ALL} == set(QUANTISERS)


@pytest.mark.parametrize("text", DISCRETE)
def test_codes_say_all_that_the_decoder_reads(text):
    made = quantiser(text).eval()
    done = made(vectors(made))
    torch.testing.assert_close(made.vectors(done.codes), done.vectors)


@pytest.mark.parametrize("text", DISCRETE)
def test_codes_lie_in_their_range(text):
    made = quantiser(text).eval()
    codes = made(vectors(made, 400)).codes
    assert codes.dtype == torch.int64
    assert codes.shape == ((400,) if made.groups == 1 else (400, made.groups))
    assert codes.min() >= 0 and codes.max() < made.size


@pytest.mark.parametrize("text", [t for t in DISCRETE if not t.startswith("vq")])
def test_every_symbol_stands_for_itself(text):
    made = quantiser(text).eval()
    codes = torch.arange(made.size)
    codes = codes if made.groups == 1 else codes[:, None].expand(-1, made.groups)
    assert torch.equal(made(unbounded(made, made.vectors(codes))).codes, codes)


def unbounded(made, x: torch.Tensor) -> torch.Tensor:
    """Return the numbers that are bounded to x; an even number of levels has no middle one."""
    levels = getattr(made, "levels", None)
    if levels is None:
        return x
    return (0.999 * x).atanh() - ((levels % 2 == 0) / (levels - 1) / 1.001).atanh()


@pytest.mark.parametrize("text", ALL)
def test_gradients_reach_the_encoder(text):
    made = quantiser(text).train()
    x = (vectors(made) / 4).requires_grad_()
    done = made(x)
    (done.vectors.square().sum() + done.penalty).backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("text", ("vq:8x3", "vq:8x3x2", "lfq:5"))
def test_the_gradient_goes_straight_through(text):
    made = quantiser(text).eval()
    x = (vectors(made) / 8).clamp(-0.9, 0.9).requires_grad_()
    weight = torch.randn(40, made.width)
    (made(x).vectors * weight).sum().backward()
    assert torch.equal(x.grad, weight)


@pytest.mark.parametrize("text", DISCRETE)
def test_a_table_has_a_row_for_each_symbol(text):
    made = quantiser(text)
    table = made.table()
    assert table.shape[0] == made.size
    assert len(table.unique(dim=0)) == made.size


def test_levels_are_the_digits_of_the_joint_symbol():
    x = 2 * torch.randn(40, 3)
    single, joint = quantiser("levels:5x3")(x), quantiser("fsq:5,5,5")(x)
    assert torch.equal((single.codes * torch.tensor([1, 5, 25])).sum(-1), joint.codes)
    assert torch.equal(single.vectors, joint.vectors)


def follow(made: VectorQuantiser, x: torch.Tensor, steps: int) -> VectorQuantiser:
    made.train()
    for _ in range(steps):
        made(x)
    return made.eval()


def error(made: VectorQuantiser, x: torch.Tensor) -> float:
    return float((made(x).vectors - x).square().mean())


def test_a_table_moves_to_what_it_is_shown():
    x = torch.randn(512, 2)
    made = quantiser("vq:16x2")
    made(x)
    first = error(made.eval(), x)
    assert error(follow(made, x, 60), x) < first


def test_rows_that_nothing_chooses_restart_at_vectors_of_the_batch():
    x = torch.randn(256, 2)
    made = quantiser("vq:16x2")
    made.ready.fill_(True)  # so that it keeps the rows that are given here
    made.codebook[0] = 100 + torch.arange(32).view(16, 2)
    made.codebook[0, 0] = 0
    made.sums.copy_(made.codebook)
    assert len(made.eval()(x).codes.unique()) == 1
    used = follow(made, x, 150)(x).codes
    assert len(used.unique()) > 12


def test_a_table_rests_outside_training():
    made = quantiser("vq:8x3").eval()
    before = made.codebook.clone()
    made(vectors(made))
    assert torch.equal(made.codebook, before)


def test_residual_groups_reduce_the_error():
    x = torch.randn(512, 4)
    errors = [error(follow(quantiser(f"vq:16x4x{groups}"), x, 40), x) for groups in (1, 2, 4)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.8 * errors[1]


def test_bits_that_are_sure_and_evenly_used_cost_least():
    made = quantiser("lfq:2").train()
    even = torch.tensor([[3.0, 3.0], [3.0, -3.0], [-3.0, 3.0], [-3.0, -3.0]])
    one, unsure = even.abs(), even / 100
    assert made(even).penalty < made(unsure).penalty
    assert made(even).penalty < made(one).penalty


def test_a_gaussian_is_drawn_in_training_and_is_its_mean_afterwards():
    made = quantiser("kl:2")
    x = torch.cat([torch.ones(4000, 2), torch.zeros(4000, 2)], 1)  # mean 1, variance 1
    drawn = made.train()(x).vectors
    assert abs(float(drawn.mean()) - 1) < 0.1 and abs(float(drawn.std()) - 1) < 0.1
    assert torch.equal(made.eval()(x).vectors, x[:, :2])


def test_the_divergence_of_a_standard_gaussian_is_none():
    assert float(quantiser("kl:2")(torch.zeros(3, 4)).penalty) == 0
    weights = [quantiser(t) for t in ("kl:2", "kl:2,1e-4")]
    assert all(isinstance(w, Gaussian) for w in weights)
    few, many = (float(w.eval()(torch.ones(3, 4)).penalty) for w in weights)
    assert many == pytest.approx(10 * few)


REFUSED = {
    "vg:8x4": "unknown quantiser 'vg'; did you mean 'vq'",
    "fsq": "expected whole numbers, as in fsq:8,5,5,5",
    "fsq:": "expected whole numbers",
    "fsq:8,five": "expected whole numbers",
    "fsq:8,1": "give at least one number, each 2 or more",
    "fsq:8,5.5": "expected whole numbers",
    "levels:9": "expected whole numbers",
    "levels:9.5x2": "expected whole numbers",
    "levels:9x0": "give at least one number a cell",
    "lfq:19": "lfq bits 19 is out of range; use 1 to 18",
    "lfq:2.5": "expected whole numbers",
    "vq:1x8": "give at least 2 rows",
    "vq:8x2x0": "give at least 2 rows, 1 number and 1 group",
    "vq:10.5x8": "expected whole numbers",
    "vq:8x2x1x0.9x0.2x3": "expected whole numbers",
    "kl:0": "kl width 0 must be at least 1",
    "kl:4.5": "expected whole numbers",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_bad_short_form_is_refused_with_the_reason(text):
    with pytest.raises(BraidError) as refused:
        quantiser(text)
    assert REFUSED[text] in str(refused.value)
