"""A level that forgets: dynamics of a continuous state of somebody who uses beliefzoo."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import Dynamics, Moves, Parameters, Priors, Sequences


@dataclass(frozen=True)
class Forgetful(Dynamics):
    """z_{t+1} = keep · z_t + N(0, shock), from its stationary law; keep ~ Beta, in (0, 1)."""

    strength: float = 5.0
    states = 1
    inputs = 0

    @property
    def components(self) -> tuple[str, ...]:
        return ("memory",)

    def priors(self) -> Priors:
        return {
            "keep": dist.Beta(self.strength, 1.0),
            "shock": dist.LogNormal(torch.tensor(-1.0), 1.0),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"keep": (), "shock": ()}

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        keep, shock = (parameters[name].reshape(1, 1, 1, 1) for name in ("keep", "shock"))
        return Moves(
            initial_mean=keep.new_zeros(1, 1),
            initial_covariance=(shock / (1 - keep.square()))[0],
            diffuse=keep.new_zeros(1, 0),
            transition=keep,
            offset=keep.new_zeros(1, 1, 1),
            noise=shock,
        )

    def start(self, series: Tensor) -> dict[str, Tensor]:
        return {"keep": series.new_tensor(0.8), "shock": series.var().clamp_min(0.1) / 4}
