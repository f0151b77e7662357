"""Families that tend to others at large parameters, against arithmetic of fifty digits."""

import math

import mpmath
import pytest
import torch

from beliefzoo.models import NegativeBinomial, StudentT
from beliefzoo.models.emissions.gamma_ratio import LARGE, log_gamma_ratio

SIZES = [1e-3, 0.3, 2.0, LARGE, math.nextafter(LARGE, 99), 47.0, 1e4, 1e8, 1e12]
mpmath.mp.dps = 50


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("more", [0.0, 0.5, 1.0, 7.0, 300.0])
def test_ratio_and_its_derivative_keep_their_digits(more):
    x = double(*SIZES).requires_grad_()
    found = log_gamma_ratio(x, more)
    (slope,) = torch.autograd.grad(found.sum(), x)
    for size, value, own in zip(SIZES, found.tolist(), (slope * x).tolist(), strict=True):
        at = mpmath.mpf(size)
        right = mpmath.loggamma(at + more) - mpmath.loggamma(at) - more * mpmath.log(at)
        assert value == pytest.approx(float(right), rel=1e-12, abs=1e-13 * (1 + more))
        turned = at * (mpmath.digamma(at + more) - mpmath.digamma(at)) - more
        assert own == pytest.approx(float(turned), rel=1e-11, abs=1e-13 * (1 + more))


@pytest.mark.parametrize("freedom", [0.4, 3.0, 100.0, 1e6, 1e12])
def test_student_t_is_exact_up_to_the_normal_law(freedom):
    values = {"mean": double(0.5), "scale": double(2.0), "freedom": double(freedom)}
    y = double(-3.0, 0.5, 40.0).reshape(1, 3, 1)
    found = StudentT().score(values, y, torch.ones_like(y, dtype=torch.bool)).flatten()
    nu = mpmath.mpf(freedom)
    for value, own in zip(y.flatten().tolist(), found.tolist(), strict=True):
        density = mpmath.gamma((nu + 1) / 2) / mpmath.gamma(nu / 2) / mpmath.sqrt(nu * mpmath.pi)
        density *= (1 + ((value - mpmath.mpf(0.5)) / 2) ** 2 / nu) ** (-(nu + 1) / 2) / 2
        assert own == pytest.approx(float(mpmath.log(density)), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("size", [0.4, 3.0, 100.0, 1e6, 1e12])
def test_negative_binomial_is_exact_up_to_the_poisson_law(size):
    values = {"mean": double(4.5), "size": double(size)}
    y = double(0.0, 5.0, 120.0).reshape(1, 3, 1)
    found = NegativeBinomial().score(values, y, torch.ones_like(y, dtype=torch.bool)).flatten()
    r, m = mpmath.mpf(size), mpmath.mpf(4.5)
    for value, own in zip(y.flatten().tolist(), found.tolist(), strict=True):
        chance = mpmath.binomial(value + r - 1, value) * (m / (m + r)) ** value * (r / (m + r)) ** r
        assert own == pytest.approx(float(mpmath.log(chance)), rel=1e-12)
