"""A Poisson rate with a gamma prior, whose posterior is known, as if NUTS had drawn from it."""

import torch
from pyro import distributions as dist
from scipy import stats

from beliefzoo.inference import NutsFit, NutsSettings
from beliefzoo.models import HiddenMarkovModel

SHAPE, RATE = 2.0, 0.5
"""Of a gamma prior of the rate."""


def exact_draws(past):
    """Draws of the exact posterior of one Poisson rate, as if NUTS had made them."""
    y = past.values[past.mask].numpy()
    model = HiddenMarkovModel(1, "poisson", priors={"rate": gamma()})
    law = stats.gamma(SHAPE + y.sum(), scale=1 / (RATE + len(y)))
    drawn = law.rvs((4, 1000, 1), random_state=len(y))
    return as_nuts(model, rate=torch.from_numpy(drawn))


def as_nuts(model, **draws):
    """Draws of the parameters, (chains, draws, …), as the result of NUTS."""
    size = next(iter(draws.values())).shape[:2]
    return NutsFit(
        model,
        draws,
        torch.zeros(size),
        torch.zeros(size, dtype=torch.bool),
        torch.ones(size[0]),
        NutsSettings(*size, 500, "kmeans", 0.9, 8, True),
        0,
        0.0,
        {},
    )


def gamma():
    return dist.Gamma(torch.tensor([SHAPE]), torch.tensor([RATE])).to_event(1)
