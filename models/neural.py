"""Neural parametrisations: laws of hundreds of states from state embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from .emissions import Emission, Parameters, Priors
from .laws import MatrixTransition
from .sequences import Sequences


@dataclass(frozen=True)
class _Perceptron:
    """A small tanh network whose weights are parameters like all others, with Normal priors."""

    name: str
    sizes: tuple[int, ...]

    def priors(self) -> Priors:
        out: Priors = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            weight = dist.Normal(torch.zeros(fan_in, fan_out), 1 / math.sqrt(fan_in)).to_event(2)
            out[f"{self.name}_weight{layer}"] = weight
            out[f"{self.name}_bias{layer}"] = dist.Normal(torch.zeros(fan_out), 1.0).to_event(1)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {}
        for layer in range(len(self.sizes) - 1):
            ends = f"{self.name}_unit{layer}", f"{self.name}_unit{layer + 1}"
            out[f"{self.name}_weight{layer}"] = ends
            out[f"{self.name}_bias{layer}"] = ends[1:]
        return out

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            bias = parameters[f"{self.name}_bias{layer}"].unsqueeze(-2)
            x = x @ parameters[f"{self.name}_weight{layer}"] + bias
            x = x if layer == last else x.tanh()
        return x


@dataclass(frozen=True)
class NeuralTransition:
    r"""Transitions between state embeddings, for hundreds of states.

    .. math:: T(j \mid i) \propto \exp(f(e_i) \cdot u_j)

    e_i, u_j are embeddings with N(0, 1) priors, f a tanh network. 2 K H + O(H W) parameters
    instead of K² (Chiu & Rush 2020).
    """

    embedding: int = 32
    width: int = 64

    def __post_init__(self) -> None:
        if min(self.embedding, self.width) < 1:
            raise ValueError(f"embedding, width: NeuralTransition needs at least 1, got {self}")

    @property
    def _network(self) -> _Perceptron:
        return _Perceptron("transition", (self.embedding, self.width, self.embedding))

    def priors(self, states: int) -> Priors:
        if states == 1:
            return {}
        rows = dist.Normal(torch.zeros(states, self.embedding), 1.0).to_event(2)
        return {"transition_from": rows, "transition_into": rows, **self._network.priors()}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "transition_from": ("state", "transition_unit0"),
            "transition_into": ("state_to", "transition_unit2"),
            **self._network.dims(),
        }

    def __call__(self, parameters: Parameters, states: int, data: Sequences) -> Tensor:
        """log T, shape (…draws, 1, 1, K, K)."""
        if states == 1:
            return MatrixTransition()(parameters, states, data)
        source = self._network(parameters, parameters["transition_from"])
        scores = source @ parameters["transition_into"].mT
        return scores.log_softmax(-1).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Nothing to read off counts: the prior's draws start the embeddings."""
        del counts
        return {}

    def check(self, data: Sequences) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class NeuralEmission(Emission):
    """Any plain family whose per-state parameters come from state embeddings.

    Every parameter θ_k of ``base`` is g(e_k), g a tanh network followed by the bijection onto the
    support of θ: K H + O(W) parameters instead of K × (size of θ).
    """

    base: Emission
    embedding: int = 32
    width: int = 64

    def __post_init__(self) -> None:
        if min(self.embedding, self.width) < 1:
            raise ValueError(f"embedding, width: NeuralEmission needs at least 1, got {self}")

    @property
    def features(self) -> int:  # type: ignore[override]
        return self.base.features

    @property
    def codes(self) -> bool:  # type: ignore[override]
        return self.base.codes

    def _sizes(self) -> dict[str, tuple[int, torch.distributions.Transform, torch.Size]]:
        """For each base parameter: free numbers per state, bijection, their trailing shape."""
        out = {}
        for name, prior in self.base.priors(1).items():
            bijection = biject_to(prior.support)
            free = bijection.inverse_shape(prior.event_shape)[1:]
            out[name] = (free.numel(), bijection, free)
        return out

    @property
    def _network(self) -> _Perceptron:
        total = sum(size for size, _, _ in self._sizes().values())
        return _Perceptron("emission", (self.embedding, self.width, total))

    def priors(self, states: int) -> Priors:
        rows = dist.Normal(torch.zeros(states, self.embedding), 1.0).to_event(2)
        return {"emission_from": rows, **self._network.priors()}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"emission_from": ("state", "emission_unit0"), **self._network.dims()}

    def expanded(self, parameters: Parameters) -> dict[str, Tensor]:
        """The base family's own parameters, one row a state."""
        free = self._network(parameters, parameters["emission_from"])
        out, at = {}, 0
        for name, (size, bijection, shape) in self._sizes().items():
            part = free[..., at : at + size].reshape(*free.shape[:-1], *shape)
            out[name], at = bijection(part), at + size
        return out

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        return self.base.score(self.expanded(parameters), y, mask, shift)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.base.draw(self.expanded(parameters), paths, shift)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The output bias at the global fit of the data; embeddings start from their prior."""
        one = self.base.start(y, mask, weight.sum(-1, keepdim=True))
        parts = [
            bijection.inv(one[name]).reshape(-1)
            for name, (_, bijection, _) in self._sizes().items()
        ]
        return {"emission_bias1": torch.cat(parts)}

    def mean(self, parameters: Parameters) -> Tensor:
        return self.base.mean(self.expanded(parameters))

    def check(self, data: Sequences) -> None:
        self.base.check(data)

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return self.base.observed(data)

    @property
    def encoding_size(self) -> int:
        return self.base.encoding_size

    def encode(self, y: Tensor) -> Tensor:
        return self.base.encode(y)

    @property
    def shift_size(self) -> int:
        return self.base.shift_size

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        return self.base.lagged(self.expanded(parameters), y, mask)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(values)

    def scaled_to(self, data: Sequences) -> Emission:
        return NeuralEmission(self.base.scaled_to(data), self.embedding, self.width)
