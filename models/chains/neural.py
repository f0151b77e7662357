"""Neural parametrisations: laws of hundreds of states from state embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, transform_to

from ..checks import require, require_count
from ..data.sequences import Sequences
from ..emissions.emission import Emission, Parameters, Priors, require_still
from ..emissions.identified import dimension, redundant_by_rank, unconstrained_size
from ..emissions.observations import Observations
from ..emissions.perceptron import Perceptron
from ..emissions.regression import Regression
from ..priors import elementary
from ..randomness import seeded


@dataclass(frozen=True)
class NeuralTransition:
    r"""Transitions computed from state embeddings, for hundreds of states.

    .. math:: T(j \mid i) \propto \exp(f(e_i) \cdot u_j)

    The embeddings e_i = ``transition_from`` and u_j = ``transition_into``, (K, H) each, have N(0,
    1) priors; f is a tanh network of width W. 2 K H + O(H W) parameters instead of K².

    Args:
        embedding: dimension H of the embeddings.
        width: hidden units W of the network.

    Raises:
        ValueError: a size that is no whole number >= 1.

    Source: Chiu & Rush (2020), Scaling hidden Markov language models, EMNLP.

    >>> law = NeuralTransition(embedding=8, width=16)
    >>> sum(prior.event_shape.numel() for prior in law.priors(states=500).values())  # not 250 000
    8280
    """

    embedding: int = 32
    width: int = 64
    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.embedding, "embedding")
        require_count(self.width, "width")

    @property
    def _network(self) -> Perceptron:
        return Perceptron("transition", (self.embedding, self.width, self.embedding))

    def priors(self, states: int) -> Priors:
        rows = dist.Normal(torch.zeros(states, self.embedding), 1.0).to_event(2)
        return {"transition_from": rows, "transition_into": rows, **self._network.priors()}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "transition_from": ("state", "transition_unit0"),
            "transition_into": ("state_to", "transition_unit2"),
            **self._network.dims(),
        }

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, K, K)."""
        del data
        return self._scores(parameters).log_softmax(-1).unsqueeze(-3).unsqueeze(-3)

    def _scores(self, parameters: Parameters) -> Tensor:
        source = self._network(parameters, parameters["transition_from"])
        return source @ parameters["transition_into"].mT

    def redundant(self, priors: Priors, states: int) -> int:
        """Count what the matrix, in which each row has one sum, leaves open of the weights."""
        own = self.priors(states)
        unknown = {name: prior for name, prior in own.items() if name in priors}

        def matrix(values: Parameters) -> Tensor:
            scores = self._scores(rest | dict(values))
            return scores - scores.mean(-1, keepdim=True)

        with seeded(0):
            rest = {name: prior.sample().double() for name, prior in own.items()}
            return unconstrained_size(unknown) - dimension(matrix, unknown)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Start with rows that are nearly even, whatever the counts.

        Rows drawn from the prior differ by several nats from move to move: a fit would first have
        to learn that none of the moves is ruled out.
        """
        into = torch.randn(len(counts), self.embedding).to(counts)
        return {"transition_into": 0.5 / math.sqrt(self.embedding) * into}

    def check(self, data: Sequences) -> None:
        """Accept any data."""


class _Output(NamedTuple):
    """How the network's output becomes one parameter of the base family.

    θ = transform(centre + unit · x), x the network's free numbers: x = 0 is the centre of the base
    family's prior, and a real θ moves by the prior's standard deviation when x moves by one.
    """

    transform: Transform
    shape: torch.Size
    centre: Tensor
    unit: Tensor

    @classmethod
    def of(cls, prior: dist.TorchDistribution) -> _Output:
        """Take centre and unit from the base family's prior for one state."""
        transform = transform_to(prior.support)
        kind = elementary(prior.support)
        if isinstance(kind, type(dist.constraints.corr_cholesky)):
            centre = torch.zeros(transform.inverse_shape(prior.event_shape))  # no correlation
        else:
            centre = transform.inv(_middle(prior))
        real = isinstance(kind, type(dist.constraints.real))
        unit = prior.stddev if real else torch.ones_like(centre)
        return cls(transform, centre.shape[1:], centre[0], unit[0])

    def value(self, free: Tensor) -> Tensor:
        """Parameter from free numbers (…, K, size)."""
        free = free.reshape(*free.shape[:-1], *self.shape)
        constrained: Tensor = self.transform(self.centre.to(free) + self.unit.to(free) * free)
        return constrained

    def free(self, value: Tensor) -> Tensor:
        """Free numbers (size,) of the parameter of a single state."""
        unconstrained: Tensor = self.transform.inv(value)[0]
        return ((unconstrained - self.centre.to(value)) / self.unit.to(value)).reshape(-1)


def _middle(prior: Any) -> Tensor:
    """The mean of a prior; of one of logarithms the mean that it has if their deviation is 1."""
    law = prior
    while isinstance(law, dist.Independent):
        law = law.base_dist
    if not isinstance(law, dist.LogNormal):
        mean: Tensor = prior.mean
        return mean
    # The mean of a wide one is far out, where no parameter is.
    return torch.exp(law.loc + 0.5)


@dataclass(frozen=True)
class NeuralEmission(Emission):
    """Any plain family whose parameters for each state are computed from state embeddings.

    Every parameter θ_k of ``base`` is g(e_k), g a tanh network followed by a transform onto the
    support of θ (exp, sigmoid, softmax): K H + O(W) parameters instead of K × (size of θ). Of the
    base family's priors only centre and scale are used, as origin and unit of the network's output.

    Args:
        base: the family.
        embedding: dimension H of the embeddings e_k, parameter ``emission_from`` (K, H).
        width: hidden units W of the network.

    Raises:
        ValueError: a size that is no whole number >= 1, or a base that is not plain.

    >>> from beliefzoo.models import Categorical
    >>> words, states = Categorical(symbols=5000), 128
    >>> law = NeuralEmission(words, embedding=32, width=32)
    >>> sizes = [prior.event_shape.numel() for prior in law.priors(states).values()]
    >>> sum(sizes), states * 5000
    (170152, 640000)
    """

    base: Emission
    embedding: int = 32
    width: int = 64

    def __post_init__(self) -> None:
        require_count(self.embedding, "embedding")
        require_count(self.width, "width")
        plain = not isinstance(self.base, NeuralEmission | Regression)
        require(
            plain and isinstance(self.base, Emission),
            "base",
            "must be a plain Emission (put a NeuralEmission into a Regression, not a Regression "
            "into a NeuralEmission)",
            repr(self.base),
        )
        require_still(self.base, "base")

    @property
    def observations(self) -> Observations:
        return self.base.observations

    @property
    def features(self) -> int:
        return self.base.features

    @property
    def scored_at_once(self) -> int:
        return self.base.scored_at_once

    @property
    def predictor_scale(self) -> Tensor:
        return self.base.predictor_scale

    networks = True

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        return self.base.coordinates(y, mask)

    def labels(self, data: Sequences) -> Tensor | None:
        return self.base.labels(data)

    @property
    def reorderable(self) -> bool:
        return self.base.reorderable

    def redundant(self, priors: Priors, states: int) -> int:
        return redundant_by_rank(self, priors, states)

    def idle(self, states: int) -> int:
        return self.base.idle(states)

    def competing(self, states: int) -> Tensor | None:
        return self.base.competing(states)

    @property
    def _outputs(self) -> dict[str, _Output]:
        return {name: _Output.of(prior) for name, prior in self.base.priors(1).items()}

    @property
    def _network(self) -> Perceptron:
        total = sum(output.shape.numel() for output in self._outputs.values())
        return Perceptron("emission", (self.embedding, self.width, total))

    def priors(self, states: int) -> Priors:
        rows = dist.Normal(torch.zeros(states, self.embedding), 1.0).to_event(2)
        return {"emission_from": rows, **self._network.priors()}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"emission_from": ("state", "emission_unit0"), **self._network.dims()}

    def expanded(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the base family's own parameters, one row per state."""
        free = self._network(parameters, parameters["emission_from"])
        outputs = self._outputs
        parts = free.split([output.shape.numel() for output in outputs.values()], -1)
        return {
            name: output.value(part)
            for (name, output), part in zip(outputs.items(), parts, strict=True)
        }

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        return self.base.score(self.expanded(parameters), y, mask, shift)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.base.draw(self.expanded(parameters), paths, shift)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Start the output bias at the global fit of the data, the embeddings at their prior."""
        one = self.base.start(y, mask, weight.sum(-1, keepdim=True))
        parts = [output.free(one[name]) for name, output in self._outputs.items()]
        return {"emission_bias1": torch.cat(parts)}

    def mean(self, parameters: Parameters) -> Tensor:
        return self.base.mean(self.expanded(parameters))

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        return self.base.lagged(self.expanded(parameters), y, mask)

    def scaled_to(self, data: Sequences) -> NeuralEmission:
        return replace(self, base=self.base.scaled_to(data))
