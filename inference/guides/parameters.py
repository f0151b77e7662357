"""The posterior of a model's parameters: normal on the unconstrained scale, or a single point."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import register_kl

from ...models.emissions.emission import Parameters, Priors
from ...models.emissions.identified import unconstrained_size
from .coordinates import Coordinates

Uncertainty = Literal["normal", "multivariate", "map", "ml"]
UNCERTAINTIES: tuple[Uncertainty, ...] = ("normal", "multivariate", "map", "ml")

POINTS: tuple[Uncertainty, ...] = ("map", "ml")
"""Posteriors that are a single point."""

_WIDTH = 0.05
"""Standard deviation of a normal posterior at first, in units of the coordinates."""


FEW = 30
"""Unconstrained numbers up to which one joint normal is the usual posterior."""


def usual(priors: Priors) -> Uncertainty:
    """The kind of posterior that a guide has unless it is told."""
    return "multivariate" if unconstrained_size(priors) <= FEW else "normal"


class Drawn(NamedTuple):
    """Parameter values (…draws, …) and the log density of each under the posterior, (…draws)."""

    values: dict[str, Tensor]
    densities: dict[str, Tensor]


class ParameterPosterior(nn.Module):
    r"""q(θ) of the unknown parameters, in float64.

    .. math:: v \sim N(m, L L'), \qquad \theta = g(c + s \circ v)

    v are the coordinates of ``Coordinates``, in which everything is of order one. L is diagonal
    (``"normal"``) or lower triangular (``"multivariate"``); for ``"map"`` and ``"ml"`` v = m.

    Args:
        priors: priors of the unknown parameters.
        units: their units, see ``Model.units``.
        start: values at the mean of the posterior, to begin with.
        uncertainty: the kind of posterior.
        redundant: see ``Coordinates``; for points alone.
    """

    log_width: nn.Parameter
    """Logarithms of the diagonal of L, (P,)."""
    below: nn.Parameter
    """L without its diagonal, divided by the diagonal, (P, P)."""

    def __init__(
        self,
        priors: Priors,
        units: Parameters,
        start: Parameters,
        uncertainty: Uncertainty,
        *,
        redundant: bool = False,
    ) -> None:
        super().__init__()
        self.uncertainty: Uncertainty = uncertainty
        self.coordinates = Coordinates(priors, units, start, redundant=redundant)
        zeros = torch.zeros(self.coordinates.size, dtype=torch.float64)
        self.mean = nn.Parameter(zeros.clone())
        if uncertainty not in POINTS:
            self.log_width = nn.Parameter(zeros + math.log(_WIDTH))
        if uncertainty == "multivariate":
            self.below = nn.Parameter(zeros.new_zeros(len(zeros), len(zeros)))
        self._event_dims = {name: prior.event_dim for name, prior in priors.items()}

    @property
    def factor(self) -> Tensor:
        """The lower triangular L, (P, P), of a normal posterior."""
        width = self.log_width.exp()
        if self.uncertainty == "normal":
            return width.diag()
        return width.unsqueeze(-1) * self.below.tril(-1) + width.diag()

    def set_covariance(self, widths: Tensor, covariance: Tensor) -> None:
        """Give a normal posterior another unit and a covariance, in place; its mean must be 0.

        ``widths`` (P,) are the new units in terms of the old, and ``covariance`` (P, P) is in the
        new ones.

        Independent normals get the widths of the conditional laws, at which the bound of a normal
        posterior is best.
        """
        with torch.no_grad():
            self.coordinates.unit *= widths
            if self.uncertainty == "normal":
                self.log_width.copy_(-0.5 * torch.linalg.inv(covariance).diagonal().log())
            else:
                factor = torch.linalg.cholesky(covariance)
                self.log_width.copy_(factor.diagonal().log())
                self.below.copy_((factor / factor.diagonal().unsqueeze(-1)).tril(-1))

    def median(self) -> dict[str, Tensor]:
        """Return the medians of the parameters, or the point."""
        return self.coordinates.values(self.mean)

    def draw(self, *size: int) -> Drawn:
        """Return reparametrised draws (…size, …) with their log densities.

        The densities of the parameters add up to log q(θ); those of a point are 0. Uses torch's
        global generator.
        """
        if self.uncertainty in POINTS:
            v = self.mean.expand(*size, -1)
            zero = v.new_zeros(size)
            values = self.coordinates.values(v)
            return Drawn(values, dict.fromkeys(values, zero))
        noise = torch.randn(*size, len(self.mean), dtype=torch.float64, device=self.mean.device)
        if self.uncertainty == "normal":
            v = self.mean + self.log_width.exp() * noise
        else:
            v = self.mean + noise @ self.factor.mT
        values = self.coordinates.values(v)
        stretched = self.coordinates.log_jacobians(v, values)
        each = -0.5 * (noise.square() + math.log(2 * math.pi)) - self.log_width
        own = self.coordinates.slices
        densities = {name: each[..., own[name]].sum(-1) - stretched[name] for name in values}
        return Drawn(values, densities)

    def forward(self) -> dict[str, Tensor]:
        """The part of a Pyro program that samples one site per parameter."""
        drawn = self.draw()
        # With parameters="ml" there is no prior; the guide's sites have no density either.
        flat = poutine.mask(mask=False) if self.uncertainty == "ml" else contextlib.nullcontext()
        with flat:
            for name, value in drawn.values.items():
                placed: Any = _Placed
                law = placed(value, drawn.densities[name], self._event_dims[name])
                pyro.sample(name, law)
        return drawn.values


class _Placed(dist.Delta):
    """A value drawn elsewhere, with its log density.

    Pyro's KL of a ``Delta`` drops the density; ours keeps it.
    """


@register_kl(_Placed, dist.Distribution)
def _kl_placed(q: _Placed, p: Any) -> Tensor:
    kl: Tensor = q.log_density - p.log_prob(q.v)
    return kl
