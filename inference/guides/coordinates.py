"""Unconstrained coordinates of a model's parameters, in which all quantities are of order one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints, transform_to

from ...models.emissions.emission import Parameters, Priors
from ...models.priors import elementary, has_unit, in_double, support_of
from ...models.randomness import seeded

_MEDIAN_OF = 15
"""Draws of a prior whose median stands for its own."""


class Coordinates(nn.Module):
    r"""All unknown parameters as one vector v, unconstrained and without units.

    .. math:: \theta = g(c + s \circ v)

    g maps the reals to the supports of the parameters, c is a centre, and s the unit of each
    coordinate. So v = 0 is the centre, and a step of one is neither large nor small, whatever the
    unit of the data. All numbers are float64.

    Args:
        priors: priors of the unknown parameters.
        units: units of their unconstrained forms, see ``Model.units``; 1 where a name is left out.
        centre: values of parameters at v = 0; medians of the priors where a name is left out.
        redundant: probabilities p ∝ exp(x) have as many coordinates as there are, one too many, in
            which a gradient moves all alike; otherwise one less. Such coordinates have no volume.

    Raises:
        ValueError: a centre at the edge of the support.

    >>> import pyro.distributions as dist
    >>> priors = {"rate": dist.Gamma(2.0, 1.0), "level": dist.Normal(0.0, 1e6)}
    >>> at = {"rate": torch.tensor(2.0), "level": torch.tensor(5e6)}
    >>> space = Coordinates(priors, {"level": torch.tensor(1e6)}, at)
    >>> {name: value.item() for name, value in space.values(torch.tensor([0.0, 1.0])).items()}
    {'rate': 2.0, 'level': 6000000.0}
    """

    centre: Tensor
    unit: Tensor
    scale_free: Tensor
    """Coordinates that are logarithms or logits, (P,) bool."""
    transforms: dict[str, Transform]
    """g, by parameter."""

    def __init__(
        self, priors: Priors, units: Parameters, centre: Parameters, *, redundant: bool = False
    ) -> None:
        super().__init__()
        self.transforms = {}
        self._shapes: dict[str, torch.Size] = {}
        middles, widths = [torch.zeros(0)], [torch.zeros(0)]
        free = [torch.zeros(0, dtype=torch.bool)]
        for name, prior in priors.items():
            simplex = isinstance(elementary(prior.support), type(constraints.simplex))
            find = transform_to if redundant and simplex else biject_to
            transform = find(support_of(prior))
            value = centre[name] if name in centre else _median(prior)
            middle: Tensor = transform.inv(value.double())
            if not bool(middle.isfinite().all()):
                raise ValueError(
                    f"start[{name!r}]: needs values inside the support {prior.support}, "
                    f"got {value.tolist()}"
                )
            self.transforms[name], self._shapes[name] = transform, middle.shape
            middles.append(middle.flatten())
            own = torch.zeros(()).bool() if find is transform_to else has_unit(prior)
            free.append(~own.expand(middle.shape).flatten())
            unit = torch.ones(()) if find is transform_to else units.get(name, torch.ones(()))
            widths.append(unit.expand(middle.shape).flatten())
        self.register_buffer("centre", torch.cat(middles).double())
        self.register_buffer("unit", torch.cat(widths).double())
        self.register_buffer("scale_free", torch.cat(free))

    @property
    def size(self) -> int:
        """Number of coordinates P."""
        return len(self.centre)

    @property
    def slices(self) -> dict[str, slice]:
        """Which coordinates belong to each parameter."""
        found, first = {}, 0
        for name, shape in self._shapes.items():
            found[name] = slice(first, first + math.prod(shape))
            first = found[name].stop
        return found

    def free(self, v: Tensor) -> dict[str, Tensor]:
        """Return the unconstrained parameters at coordinates (…, P), by name."""
        x = self.centre + self.unit * v
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = x.split(sizes, -1) if sizes else ()
        return {
            name: part.reshape((*v.shape[:-1], *shape))
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def values(self, v: Tensor) -> dict[str, Tensor]:
        """Return the parameters at coordinates (…, P), by name."""
        return {name: self.transforms[name](x) for name, x in self.free(v).items()}

    def log_jacobians(self, v: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return log |dθ/dv| of every parameter, (…), at coordinates (…, P) and their values."""
        found = {}
        for name, x in self.free(v).items():
            own: Tensor = self.transforms[name].log_abs_det_jacobian(x, values[name])
            leading = v.ndim - 1
            stretch = self.unit[self.slices[name]].log().sum()
            found[name] = (
                own.flatten(leading).sum(-1) + stretch if own.ndim > leading else own + stretch
            )
        return found

    def at(self, values: Parameters) -> Tensor:
        """Return the coordinates (…, P) of parameter values, which may have leading axes."""
        parts = []
        for name, shape in self._shapes.items():
            free: Tensor = self.transforms[name].inv(values[name].double())
            parts.append(free.reshape(*free.shape[: free.ndim - len(shape)], math.prod(shape)))
        x = torch.cat(parts, -1) if parts else self.centre
        return (x - self.centre) / self.unit


def _median(prior: dist.TorchDistribution) -> Tensor:
    """The median of each unconstrained number, from a few draws that are always the same."""
    law = in_double(prior)
    transform = biject_to(support_of(law))
    with seeded(0), torch.no_grad():
        free: Tensor = transform.inv(law.sample((_MEDIAN_OF,)))
        value: Tensor = transform(free.median(0).values)
    return value
