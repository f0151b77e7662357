"""States under other numbers: parameters reordered, and states that nothing tells apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from ..emissions.emission import Parameters, Priors
from ..randomness import seeded

Change = Callable[[Parameters], Mapping[str, Tensor]]
"""Other values of the parameters, which have a leading axis of draws, under which no data change
their likelihood."""


class Named(Protocol):
    """A model, as what follows sees it."""

    @property
    def states(self) -> int:
        """Number of hidden states K."""

    @property
    def priors(self) -> Priors:
        """Priors of the unknown parameters."""

    @property
    def own_known(self) -> Mapping[str, Tensor]:
        """Values of the known parameters."""

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""


def ordered(model: Named, values: Parameters, order: Tensor) -> dict[str, Tensor]:
    """The values with all their state axes in the new order; they have a leading axis of draws."""
    out = dict(values)
    for name, dims in model.parameter_dims().items():
        for axis, dim in enumerate(dims, 1):
            if name in out and dim in ("state", "state_to"):
                out[name] = out[name].index_select(axis, order)
    return out


def exchangeable(model: Named, values: Parameters, order: Tensor) -> bool:
    """Whether the prior leaves the order of the states open, at the first of the draws.

    Otherwise draws in another order would belong to another posterior.
    """
    one = {name: value[:1] for name, value in values.items()}
    return _equally_likely(model, one, ordered(model, one, order))


def _equally_likely(model: Named, here: Parameters, there: Parameters) -> bool:
    """Whether the prior has the same density at two draws of the unknown parameters."""
    before, after = torch.zeros(2, dtype=torch.float64)
    for name, prior in model.priors.items():
        before = before + prior.log_prob(here[name]).sum()
        after = after + prior.log_prob(there[name]).sum()
    return torch.allclose(before, after, rtol=1e-6, atol=1e-6)


def left_open(model: Named, given: Parameters, change: Change) -> bool:
    """Whether known parameters, the starting values that a user gives, and the prior of the others
    stay as they are under a change that no data show.
    """
    told = {name: value.unsqueeze(0) for name, value in {**given, **model.own_known}.items()}
    with seeded(0):
        drawn = {name: prior.sample(torch.Size([1])) for name, prior in model.priors.items()}
    turned = change(drawn | told)
    same = all(torch.allclose(turned[name], value) for name, value in told.items())
    return same and _equally_likely(model, drawn, change(drawn))


def states_alike(model: Named, given: Parameters) -> Iterator[tuple[int, int]]:
    """Pairs of states that neither known parameters nor given starts nor priors tell apart."""
    for one, other in combinations(range(model.states), 2):
        order = torch.arange(model.states)
        order[one], order[other] = other, one
        if left_open(model, given, partial(ordered, model, order=order)):
            yield one, other
