"""Coordinates are a bijection without units, with the right volume."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.inference.guides.parameters import ParameterPosterior
from beliefzoo.models import FullGaussian, HiddenMarkovModel

MODELS = [
    HiddenMarkovModel(3, "gaussian", ordered=True),
    HiddenMarkovModel(2, FullGaussian(3)),
    HiddenMarkovModel(2, "poisson"),
]


def space(model: HiddenMarkovModel) -> Coordinates:
    return Coordinates(model.priors, model.units, {})


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_values_and_coordinates_are_inverse(model):
    own = space(model)
    v = torch.randn(own.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own.at(own.values(v)), v)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_many_points_are_as_one_after_another(model):
    own = space(model)
    v = torch.randn(4, own.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = own.values(v)
    volumes = own.log_jacobians(v, together)
    for row in range(4):
        alone = own.values(v[row])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][row], value)
        for name, value in own.log_jacobians(v[row], alone).items():
            torch.testing.assert_close(volumes[name][row], value)


def test_volumes_are_those_of_the_map():
    """By automatic differentiation, for parameters with as many numbers as coordinates."""
    model = HiddenMarkovModel(3, "gaussian", ordered=True)
    own = space(model)
    v = torch.randn(own.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    volumes = own.log_jacobians(v, own.values(v))
    for name in ("mean", "scale"):

        def one(x: torch.Tensor, name: str = name) -> torch.Tensor:
            return own.values(x)[name]

        matrix = torch.autograd.functional.jacobian(one, v)[:, own.slices[name]]
        torch.testing.assert_close(volumes[name], torch.linalg.slogdet(matrix).logabsdet)


@pytest.mark.parametrize("uncertainty", ["normal", "multivariate"])
def test_densities_are_those_of_the_normal_law(uncertainty):
    """Of a real parameter in a large unit: N(m, s²), by the closed form."""
    priors = {"level": dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)}
    units = {"level": torch.tensor([1e6, 1e-3]).double()}
    posterior = ParameterPosterior(priors, units, {"level": torch.zeros(2)}, uncertainty)
    with torch.no_grad():
        posterior.mean.copy_(torch.tensor([1.0, 2.0]))
        values, densities = posterior.draw(5)
    law = torch.distributions.Normal(units["level"] * posterior.mean, 0.05 * units["level"])
    torch.testing.assert_close(densities["level"], law.log_prob(values["level"]).sum(-1))


def test_a_covariance_is_kept():
    priors = {"level": dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)}
    wanted = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double()
    posterior = ParameterPosterior(priors, {}, {"level": torch.zeros(2)}, "multivariate")
    posterior.set_covariance(torch.tensor([2.0, 0.5]).double(), wanted)
    torch.testing.assert_close(posterior.factor @ posterior.factor.mT, wanted)
    torch.testing.assert_close(posterior.coordinates.unit, torch.tensor([2.0, 0.5]).double())
