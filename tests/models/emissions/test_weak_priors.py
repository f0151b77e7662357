"""Default priors do not contradict what data say clearly, not even of a state that is rare."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.distributions import biject_to

from beliefzoo.models import (
    Emission,
    FromDistribution,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    LowRankGaussian,
    Multinomial,
    Poisson,
    Regression,
    Sequences,
    StudentT,
)

STEPS, RARE = 300, 10


def noise(features: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(STEPS, features, generator=draw).double()


def far(distance: float, width: float = 1.0, features: int = 1) -> Tensor:
    """Normal steps, the last ones far from the others."""
    y = noise(features)
    y[-RARE:] = distance + width * y[-RARE:]
    return y


def counts(common: float, rare: float) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    rates = torch.full((STEPS, 1), common)
    rates[-RARE:] = rare
    return torch.poisson(rates, generator=draw).double()


CASES: dict[str, tuple[Emission, Tensor]] = {
    "gaussian": (Gaussian(), far(8.0)),
    "gaussian far": (Gaussian(), far(1e4)),
    "gaussian narrow": (Gaussian(), far(30.0, 0.01)),
    "gaussian wide": (Gaussian(), far(0.0, 100.0)),
    "full": (FullGaussian(2), far(20.0, features=2)),
    "low rank": (LowRankGaussian(3), far(20.0, features=3)),
    "inputs": (Regression(Gaussian(), inputs=1), far(20.0)),
    "poisson": (Poisson(), counts(0.01, 3.1)),
    "poisson of many": (Poisson(), counts(0.1, 500.0)),
    "poisson of few": (Poisson(), counts(500.0, 0.5)),
    "gumbel": (FromDistribution(dist.Gumbel), far(50.0)),
    "gamma": (FromDistribution(dist.Gamma), (far(5.0) / 2).exp()),
    "weibull": (FromDistribution(dist.Weibull), (far(8.0) / 2).exp()),
    "log normal": (FromDistribution(dist.LogNormal), far(8.0).exp()),
    "exponential": (FromDistribution(dist.Exponential), (far(8.0) / 2).exp()),
    "multinomial": (Multinomial(3), torch.tensor([[9, 1, 0]] * 290 + [[2, 3, 5]] * 10).double()),
}

FIXED = {"freedom": 10.0}
"""Parameters of which ten numbers say nothing."""


def mode(height: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The place of a maximum, by Newton's method with steps that are halved until they help."""
    at = start
    for _ in range(100):
        slope = jacobian(height, at)
        curvature = -hessian(height, at)
        ridge = torch.eye(len(at)).to(at) * curvature.diagonal().abs().amax() * 1e-9
        values, vectors = torch.linalg.eigh(curvature + ridge)
        step = vectors @ ((vectors.mT @ slope) / values.abs().clamp_min(1e-9))
        size = 1.0
        while size > 1e-9 and not bool(height(at + size * step) >= height(at)):
            size /= 2
        at = at + size * step
        if float((slope @ step).abs()) < 1e-12:
            break
    return at


@pytest.mark.parametrize("case", [*CASES, "student"])
def test_the_mode_of_a_rare_state_is_within_a_standard_error_of_the_likeliest(case):
    emission, y = CASES.get(case, (StudentT(), far(30.0)))
    inputs = noise().flip(0)[None] if emission.inputs else None
    data = Sequences.from_tensors(y[None], inputs=inputs)
    emission = HiddenMarkovModel(2, emission).adapted_to(data).emission
    rare = Sequences.from_tensors(
        y[None, -RARE:], inputs=None if inputs is None else inputs[:, -RARE:]
    )
    priors = emission.priors(1)
    began = emission.start(y[-RARE:], y[-RARE:].isfinite(), torch.ones(RARE, 1).double())
    known = {name: torch.full_like(began[name], x) for name, x in FIXED.items() if name in began}
    names = [name for name in priors if name not in known]
    maps = {name: biject_to(priors[name].support) for name in names}
    sizes = [maps[name].inv(began[name].double()).numel() for name in names]
    start = torch.cat([maps[name].inv(began[name].double()).flatten() for name in names])

    def values(free: Tensor) -> dict[str, Tensor]:
        parts = zip(names, free.split(sizes), strict=True)
        return known | {
            name: maps[name](part.reshape(maps[name].inv(began[name]).shape))
            for name, part in parts
        }

    def likelihood(free: Tensor) -> Tensor:
        found = values(free)
        shift = emission.from_inputs(found, rare.inputs)
        return emission.score(found, *emission.observed(rare), shift).sum()

    def posterior(free: Tensor) -> Tensor:
        found = values(free)
        return likelihood(free) + sum(priors[name].log_prob(found[name]).sum() for name in names)

    likeliest = mode(likelihood, start)
    information = -hessian(likelihood, likeliest)
    error = torch.linalg.pinv(information, hermitian=True, rtol=1e-9).diagonal().sqrt()
    off = (mode(posterior, likeliest) - likeliest).abs()
    seen = error > 0  # directions of which the data say nothing have no error
    assert bool((off <= error)[seen].all()), (off / error, names)
