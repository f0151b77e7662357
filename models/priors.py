"""Priors that Pyro does not ship: order statistics, which break the symmetry of the states."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Ordered(dist.TorchDistribution):
    r"""The law of K independent draws of ``base``, sorted in increasing order.

    .. math:: p(x) = K! \prod_k p_{base}(x_k) \quad\text{on}\quad x_1 < x_2 < \dots < x_K

    As a prior it names the states by their size, so that chains of a sampler and draws of a
    guide cannot switch labels. ``base`` has event shape (K,) with independent, identical entries
    (for instance ``Gamma(2, .1).expand([K]).to_event(1)``); its support is the real line or the
    positive half-line.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: dist.TorchDistribution) -> None:
        if len(base.event_shape) != 1:
            raise ValueError(
                "Ordered: base must have event shape (states,), one number per state; "
                f"got event shape {tuple(base.event_shape)}"
            )
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        one = getattr(self.base.support, "base_constraint", self.base.support)
        positive = getattr(one, "lower_bound", -math.inf) >= 0
        return constraints_ordered(positive)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Ordered:
        return Ordered(self.base.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape)).sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value[..., 1:] > value[..., :-1]).all(-1)
        log_p = self.base.log_prob(value) + math.lgamma(value.shape[-1] + 1)
        return torch.where(inside, log_p, torch.full_like(log_p, -math.inf))


def constraints_ordered(positive: bool) -> constraints.Constraint:
    """The constraint of increasing vectors, over the reals or over the positive numbers."""
    kinds = dist.constraints
    chosen: constraints.Constraint = (
        kinds.positive_ordered_vector if positive else kinds.ordered_vector
    )
    return chosen
