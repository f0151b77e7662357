"""A family of models of somebody who uses beliefzoo: counts whose rate changes for good."""

from collections.abc import Mapping
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import DiscreteBelief, Laws, Model, Parameters, Poisson, Priors, Sequences


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
