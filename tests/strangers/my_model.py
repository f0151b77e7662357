"""Families of models of somebody who uses beliefzoo: change points, and a walk in fog."""

from collections.abc import Mapping
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import (
    DiscreteBelief,
    GaussianBelief,
    Laws,
    LinearLaws,
    Model,
    Parameters,
    Poisson,
    Priors,
    Sequences,
    Vectors,
)


class ChangePoints(Model):
    """A Poisson rate that changes ``changes`` times, each time with the same hazard."""

    def __init__(
        self, changes: int = 1, *, priors: Mapping[str, dist.TorchDistribution] | None = None
    ) -> None:
        self.changes = changes
        self.states = changes + 1
        self.emission = Poisson(shape=2.0)
        self.set_priors(priors)

    def own_priors(self) -> Priors:
        return {"hazard": dist.Beta(1.0, 9.0), **self.emission.priors(self.states)}

    @property
    def configuration(self) -> dict[str, Any]:
        return {"changes": self.changes}

    @property
    def observations(self) -> Any:
        return self.emission.observations

    @property
    def belief(self) -> DiscreteBelief:
        return DiscreteBelief(self.states)

    @property
    def inputs(self) -> int:
        return 0

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        return {"hazard": (), "rate": ("state",)}

    def scaled_to(self, data: Any) -> Self:
        return self

    def check_values(self, data: Sequences) -> None:
        self.emission.check(data)

    def laws(self, parameters: Parameters, data: Sequences) -> Laws:
        values = self.complete(parameters)
        hazard = values["hazard"][..., None, None]
        eye = torch.eye(self.states).to(hazard)
        later = eye.roll(1, 1).triu()
        stays = eye * (1 - hazard) + later * hazard
        stays = torch.cat([stays[..., :-1, :], eye[-1:].expand_as(stays[..., -1:, :])], -2)
        first = eye[0].expand(*hazard.shape[:-2], 1, self.states)
        return Laws(_log(first), _log(stays)[..., None, None, :, :], data, self.emission, values)


def _log(probabilities: Tensor) -> Tensor:
    safe = torch.where(probabilities > 0, probabilities, 1).log()
    return torch.where(probabilities > 0, safe, -torch.inf)


class Fog(Model):
    """A walk from the origin, seen through noise that grows with ``thickness``."""

    def __init__(self, thickness: float = 1.0) -> None:
        self.states = 1
        self.thickness = thickness
        self.set_priors(None)

    def own_priors(self) -> Priors:
        return {"stride": dist.LogNormal(0.0, 1.0), "fog": dist.LogNormal(0.0, 1.0)}

    @property
    def configuration(self) -> dict[str, Any]:
        return {"thickness": self.thickness}

    @property
    def observations(self) -> Vectors:
        return Vectors(1)

    @property
    def belief(self) -> GaussianBelief:
        return GaussianBelief(1)

    @property
    def inputs(self) -> int:
        return 0

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        return {"stride": (), "fog": ()}

    def scaled_to(self, data: Any) -> Self:
        return self

    def check_values(self, data: Sequences) -> None:
        self.observations.check(data, "Fog")

    def laws(self, parameters: Parameters, data: Sequences) -> LinearLaws:
        values = self.complete(parameters)
        stride, fog = (values[name].reshape(1, 1, 1, 1) for name in ("stride", "fog"))
        one, none = torch.ones_like(stride), stride.new_zeros(1, 1, 1)
        return LinearLaws(
            initial_mean=none[0],
            initial_covariance=stride[0],
            diffuse=stride.new_zeros(1, 0),
            transition=one,
            offset=none,
            noise=stride,
            loading=one,
            intercept=none,
            observation_noise=self.thickness * fog,
            parameters=values,
            data=data,
        )
