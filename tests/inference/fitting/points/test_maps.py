"""Maps without a graph are those of torch, with the derivatives that autograd finds."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from beliefzoo.inference.fitting.points.maps import Maps
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models.priors import AtLeast, Ordered

POSITIVE = dist.Gamma(2.0, 1.0)
PRIORS = {
    "real": dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
    "positive": POSITIVE,
    "share": dist.Beta(torch.ones(3), 2.0).to_event(1),
    "between": dist.Uniform(torch.tensor([-2.0, 1.0]), torch.tensor([5.0, 1.5])).to_event(1),
    "at least": AtLeast(dist.LogNormal(torch.zeros(2), 1.0), 0.5).to_event(1),
    "rows": dist.Dirichlet(torch.ones(3, 4)).to_event(1),
    "two": dist.Dirichlet(torch.ones(2)),
    "ordered": Ordered(POSITIVE.expand([3]).to_event(1)),
    "sorted rows": Ordered(dist.Dirichlet(torch.ones(2, 3)).to_event(1), column=0),
    "factor": dist.LKJCholesky(3, 1.0),
}


@pytest.mark.parametrize("far", [1.0, 15.0])
def test_maps_and_their_derivatives_are_those_of_torch(far):
    space = Coordinates(PRIORS, {"real": torch.tensor(1e5)}, {})
    generator = torch.Generator().manual_seed(0)
    v = far * torch.rand(5, space.size, generator=generator, dtype=torch.float64) - far / 2
    v.requires_grad_()
    expected = space.values(v)
    weight = {
        name: torch.rand(x.shape, generator=generator, dtype=torch.float64)
        for name, x in expected.items()
    }
    total = torch.stack([(weight[name] * x).sum() for name, x in expected.items()]).sum()
    (slopes,) = torch.autograd.grad(total, v)
    maps = Maps(space)
    found = maps.values(v.detach().numpy())
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x.detach().numpy(), rtol=1e-13, err_msg=name)
    back = maps.back({name: x.numpy() for name, x in weight.items()})
    np.testing.assert_allclose(back, slopes.numpy(), rtol=1e-9, atol=1e-14)


def test_parameters_that_do_not_count_have_no_derivative():
    space = Coordinates({"one": POSITIVE, "other": POSITIVE}, {}, {})
    maps = Maps(space)
    maps.values(np.zeros((2, 2)))
    assert maps.back({"one": np.ones(2)})[:, 1].tolist() == [0.0, 0.0]
