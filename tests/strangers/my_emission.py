"""Waiting times: an emission of somebody who uses beliefzoo, and imports its faces alone."""

from dataclasses import dataclass, replace
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import Emission, Parameters, Priors, Sequences, Vectors


@dataclass(frozen=True)
class Waiting(Emission):
    """Times until something happens: O_k(y) = Π_f pace[k, f] exp(−pace[k, f] y_f), y_f > 0."""

    features: int = 1
    typical: float = 1.0
    """Mean waiting time a priori."""

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features, dist.constraints.positive)

    def priors(self, states: int) -> Priors:
        shape = torch.full((states, self.features), 2.0)
        return {"pace": dist.Gamma(shape, 2 * self.typical).to_event(2)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"pace": ("state", "feature")}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        pace = parameters["pace"].unsqueeze(-3).unsqueeze(-3)  # (…draws, 1, 1, K, F)
        if shift is not None:  # of the log of the mean time
            pace = pace * (-shift.clamp(-9, 9)).exp()
        each = pace.log() - pace * y.unsqueeze(-2)
        return torch.where(mask.unsqueeze(-2), each, 0).sum(-1)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        pace = parameters["pace"][paths]
        if shift is not None:
            index = paths[..., None, None].expand(*paths.shape, 1, self.features)
            own = shift.squeeze(-2) if shift.shape[-2] == 1 else shift.gather(-2, index).squeeze(-2)
            pace = pace * (-own.clamp(-9, 9)).exp()
        return torch.distributions.Exponential(pace).sample()

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        total = weight.mT @ (y * mask) + 1e-3
        return {"pace": (weight.mT @ mask.to(y.dtype) + 1e-3) / total}

    def mean(self, parameters: Parameters) -> Tensor:
        return 1 / parameters["pace"]

    def scaled_to(self, data: Sequences) -> Self:
        return replace(self, typical=float(data.values[data.mask].mean()))

    @property
    def scored_at_once(self) -> int:
        return self.features
