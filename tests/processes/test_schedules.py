"""Schedules run from 0 to 1, and their rates are their derivatives."""

import math

import pytest
import torch

from braid.errors import BraidError
from braid.processes import SCHEDULES
from braid.processes.schedules import Polynomial, get

NAMES = [*SCHEDULES, "polynomial:1.5"]
OVERLAPS = [0.0, 1 / 7, 0.5, 1.0]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("name", NAMES)
def test_kappa_runs_from_0_to_1_and_never_falls(name, overlap):
    kappa = get(name).kappa(torch.linspace(0, 1, 101, dtype=torch.float64), overlap)
    assert kappa[0].abs() < 1e-12
    assert (kappa[-1] - 1).abs() < 1e-12
    assert (kappa.diff() > 0).all()


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_the_derivative_of_kappa(name, overlap):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(get(name).kappa(t, overlap).sum(), t)
    torch.testing.assert_close(get(name).rate(t.detach(), overlap), slope, rtol=1e-9, atol=1e-10)


def test_the_kinetic_schedule_is_a_sine_squared_where_the_source_is_a_mask():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(get("kinetic").kappa(t), (math.pi * t / 2).sin() ** 2)


def test_a_schedule_is_found_by_name_with_its_option():
    assert get("polynomial:4") == Polynomial(4.0)
    assert get(Polynomial(2.0)) == Polynomial(2.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("linear:2", "only polynomial takes an option"),
        ("polynomial:x", "expected a positive number"),
        ("polynomial:-1", "expected a positive number"),
    ],
)
def test_a_wrong_schedule_is_refused_with_a_remedy(name, hint):
    with pytest.raises(BraidError, match=hint):
        get(name)
