"""A model whose beliefs are gamma laws, which its own laws know how to compute."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import GaussianBelief, Model, Parameters, Priors, Sequences, Vectors


class Gamma(NamedTuple):
    """Beliefs of gamma laws, zero beyond the length of a sequence."""

    shape: Tensor
    """(N, T)."""
    rate: Tensor
    """(N, T)."""


class OneRate(Model):
    """Counts of a rate that no one knows: λ_n ~ Gamma(shape, rate), y_t ~ Poisson(λ_n)."""

    states = 1

    def __init__(self) -> None:
        self.set_priors(None)

    def own_priors(self) -> Priors:
        return {"shape": dist.Gamma(2.0, 1.0), "rate": dist.Gamma(2.0, 1.0)}

    @property
    def configuration(self) -> dict[str, Any]:
        return {}

    @property
    def observations(self) -> Vectors:
        return Vectors(1, dist.constraints.nonnegative_integer)

    @property
    def belief(self) -> GaussianBelief:
        return GaussianBelief(1)

    @property
    def inputs(self) -> int:
        return 0

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        return {"shape": (), "rate": ()}

    def scaled_to(self, data: Any) -> Self:
        return self

    def check_values(self, data: Sequences) -> None:
        self.observations.check(data, "OneRate")

    def laws(self, parameters: Parameters, data: Sequences) -> "OneRateLaws":
        return OneRateLaws(self.complete(parameters), data)


@dataclass(frozen=True)
class OneRateLaws:
    """The laws of ``OneRate``, and the exact answers that go with them."""

    discrete = linear = None

    parameters: Parameters
    data: Sequences

    @property
    def lengths(self) -> Tensor:
        return self.data.lengths

    def states(self) -> dist.TorchDistribution:
        first = dist.Gamma(self.parameters["shape"], self.parameters["rate"])
        return first.expand([len(self.data), 1]).to_event(1)

    def observations(self, states: Tensor, /) -> dist.TorchDistribution:
        return dist.Poisson(self._along(states)).to_event(2)

    def sample_states(self) -> Tensor:
        return self._along(self.states().sample())

    def draw(self, states: Tensor, /) -> Tensor:
        return torch.poisson(states)

    def _along(self, rate: Tensor) -> Tensor:
        return rate.reshape(-1, 1, 1).expand(-1, self.data.max_length, 1)

    def answers(self) -> "OneRateAnswers":
        return OneRateAnswers(self)


@dataclass(frozen=True)
class OneRateAnswers:
    """Exact inference for ``OneRate``: counts and steps add up."""

    laws: OneRateLaws

    def filter(self) -> Gamma:
        data, given = self.laws.data, self.laws.parameters
        seen = data.mask[..., 0]
        shape = given["shape"] + (data.values[..., 0] * seen).cumsum(-1)
        return Gamma(shape * data.step_mask, (given["rate"] + seen.cumsum(-1)) * data.step_mask)

    def predict(self) -> Gamma:
        given, inside = self.laws.parameters, self.laws.data.step_mask
        found = []
        for part, first in zip(self.filter(), (given["shape"], given["rate"]), strict=True):
            before = torch.cat([first.expand(len(part), 1), part[:, :-1]], -1)
            found.append(before * inside)
        return Gamma(*found)

    def smooth(self) -> Gamma:
        rows, last = torch.arange(len(self.laws.data)), self.laws.lengths - 1
        ends = (part[rows, last].unsqueeze(-1) for part in self.filter())
        return Gamma(*(end * self.laws.data.step_mask for end in ends))

    def step_log_likelihood(self) -> Tensor:
        shape, rate = (torch.where(part > 0, part, 1) for part in self.predict())
        law = dist.NegativeBinomial(shape, probs=1 / (1 + rate), validate_args=False)
        each = law.log_prob(self.laws.data.values[..., 0].to(shape))
        return torch.where(self.laws.data.mask[..., 0], each, 0)

    def log_evidence(self) -> Tensor:
        return self.step_log_likelihood().sum(-1)

    def sample_states(self, draws: int, generator: torch.Generator) -> Tensor:
        del generator
        paths = self._drawn(draws).unsqueeze(-1).expand(-1, -1, self.laws.data.max_length)
        return (paths * self.laws.data.step_mask).unsqueeze(-1)

    def forecast(self, model: Model, data: Sequences, future: Any) -> Tensor:
        """Draws of the counts to come, (S, N, H)."""
        whole = OneRateAnswers(model.laws({}, data))  # type: ignore[arg-type]
        rate = whole._drawn(future.draws).unsqueeze(-1)
        return torch.poisson(rate.expand(-1, -1, future.steps))

    def _drawn(self, draws: int) -> Tensor:
        shape, rate = (part[:, 0] for part in self.smooth())
        return dist.Gamma(shape, rate).sample((draws,))
