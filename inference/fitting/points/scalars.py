"""The scalars of a model's parameters: their names, the ends of their supports, natural scales."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from ....models import Model
from ....models.emissions.misclassification import Subsimplices
from ....models.priors import IncreasingVector, SortedRows, elementary
from ...guides.coordinates import Coordinates


class Scalars(NamedTuple):
    """All D scalars of the unknown parameters, in the order of the model.

    Attributes:
        values: at some coordinates, (D,).
        low, high: the ends of their supports, (D,), infinite where there is none.
        slopes: ∂θ/∂v, (D, P).
    """

    values: Tensor
    low: Tensor
    high: Tensor
    slopes: Tensor

    @property
    def natural(self) -> Tensor:
        """θ on the scale natural to its support, (D,): a logarithm, a logit, or θ itself."""
        below, above = self.values - self.low, self.high - self.values
        up, down = self.low.isfinite(), self.high.isfinite()
        found = torch.where(up & down, (below / above).log(), self.values)
        found = torch.where(up & ~down, below.log(), found)
        return torch.where(~up & down, -above.log(), found)

    @property
    def stretch(self) -> Tensor:
        """The derivative of ``natural`` by θ, (D,)."""
        below, above = self.values - self.low, self.high - self.values
        return torch.where(
            self.low.isfinite() | self.high.isfinite(), 1 / below + 1 / above, torch.ones(())
        )

    def back(self, natural: Tensor) -> Tensor:
        """Return θ from its natural scale, (D,)."""
        up, down = self.low.isfinite(), self.high.isfinite()
        share = natural.sigmoid()
        # From the nearer end, so that neither end is reached by rounding.
        inside = torch.where(
            natural < 0,
            self.low + (self.high - self.low) * share,
            self.high - (self.high - self.low) * (-natural).sigmoid(),
        )
        found = torch.where(up & down, inside, natural)
        found = torch.where(up & ~down, self.low + natural.exp(), found)
        return torch.where(~up & down, self.high - (-natural).exp(), found)


def scalars_at(model: Model, space: Coordinates, v: Tensor) -> Scalars:
    """Return the scalars of the unknown parameters at coordinates (P,), with their derivatives."""

    def flat(at: Tensor) -> Tensor:
        return torch.cat([at[:0], *(x.flatten() for x in space.values(at).values())])

    values = space.values(v)
    ends = [_ends(model.priors[name].support, x.shape) for name, x in values.items()]
    low, high = (
        torch.cat([torch.zeros(0, dtype=torch.float64), *(pair[side].flatten() for pair in ends)])
        for side in (0, 1)
    )
    slopes: Any = torch.autograd.functional.jacobian(flat, v.detach())
    return Scalars(flat(v).detach(), low, high, slopes)


def labels(model: Model, name: str, shape: torch.Size) -> list[str]:
    """Return a name for every scalar of a parameter, such as ``rate[0]``, by the model's axes."""
    if not shape:
        return [name]
    named = model.coords()
    axes = model.parameter_dims().get(name, ())
    known = [named.get(axis, ()) for axis in axes] if len(axes) == len(shape) else [()] * len(shape)
    places = [
        [str(label) for label in given] if len(given) == size else [str(i) for i in range(size)]
        for given, size in zip(known, shape, strict=True)
    ]
    return [f"{name}[{', '.join(place)}]" for place in itertools.product(*places)]


def _ends(support: Any, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The ends of the support of every element."""
    support = elementary(support)
    if isinstance(support, IncreasingVector | SortedRows):
        support = elementary(support.entry)
    low = torch.full(shape, -math.inf, dtype=torch.float64)
    high = -low
    if isinstance(support, type(constraints.simplex) | Subsimplices):
        return torch.zeros_like(low), torch.ones_like(low)
    if isinstance(support, type(constraints.corr_cholesky)):
        own = torch.eye(shape[-1], dtype=torch.float64).expand(shape)
        return own - 1, torch.ones_like(low)
    if isinstance(support, type(constraints.lower_cholesky) | type(constraints.positive_definite)):
        own = torch.eye(shape[-1], dtype=torch.bool).expand(shape)
        return torch.where(own, 0.0, low), high
    bottom, top = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    low = low if bottom is None else torch.as_tensor(bottom).double().expand(shape)
    high = high if top is None else torch.as_tensor(top).double().expand(shape)
    return low, high
