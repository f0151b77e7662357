"""The law of the observations of a forecast: how they are read, and their density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.checks import require
from .batches import require_data

Density = Callable[[Sequences], Tensor]


@dataclass(frozen=True)
class Outlook:
    """What a forecast of H steps of N sequences needs to meet what came."""

    model: Model
    shape: tuple[int, int]
    """(N, H)."""
    density: Density | None
    """log p(y_{T+h} | y_1 … y_T), (N, H), of data as ``read`` returns them; None if not known."""

    def read(self, observed: Sequences) -> Sequences:
        """The steps that came, with the model's own codes of symbols.

        Raises:
            ValueError: other data than the model observes, not N sequences, or more than H steps.
        """
        require_data(observed)
        count, steps = self.shape
        alike = f"must be of the {count} sequences of the forecast"
        require(len(observed) == count, "observed", alike, len(observed))
        longest = observed.max_length
        room = f"must have at most the {steps} steps of the forecast (data.after(…))"
        require(longest <= steps, "observed", room, longest)
        observed = self.model.names.read(observed)
        self.model.observations.check(observed, str(self.model))
        return observed


@dataclass(frozen=True)
class MixtureDensity:
    """log Σ_z p(z_{T+h} | y_1 … y_T) O(y_{T+h} | z_{T+h})."""

    model: Model
    driven: Sequences
    """The last step known and the H that follow it, with what drives them."""
    chance: Tensor
    """Of the states, (N, H, K)."""

    def __call__(self, observed: Sequences) -> Tensor:
        steps = observed.max_length
        driven = self.driven.head(steps + 1)
        values, mask = driven.values.clone(), driven.mask.clone()
        values[:, 1:], mask[:, 1:] = observed.values.to(values), observed.mask
        laws = self.model.laws({}, driven._derived(values=values, mask=mask)).discrete
        assert laws is not None  # as those of the forecast
        scored = laws.chain.log_likelihood[:, 1:]
        return (scored + self.chance[:, :steps].log()).logsumexp(-1)


@dataclass(frozen=True)
class NormalDensity:
    """log N(y_{T+h}; mean, covariance) of the features that were observed."""

    mean: Tensor
    """(N, H, F)."""
    covariance: Tensor
    """(N, H, F, F)."""

    def __call__(self, observed: Sequences) -> Tensor:
        steps, mask = observed.max_length, observed.mask
        both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
        # Missing features become independent ones of variance 1 at their mean, and then count 0.
        blank = torch.eye(mask.shape[-1], dtype=self.covariance.dtype)
        spread = torch.where(both, self.covariance[:, :steps], blank)
        mean = self.mean[:, :steps]
        error = torch.where(mask, observed.values.to(mean) - mean, 0)
        law = torch.distributions.MultivariateNormal(torch.zeros_like(error), spread)
        unseen: Tensor = 0.5 * math.log(2 * math.pi) * (~mask).sum(-1).double()
        out: Tensor = law.log_prob(error) + unseen
        return out
