"""The log prior of parameters, and of their coordinates, in one form for all families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ....models.emissions.emission import Priors
from ....models.priors import Ordered
from ...guides.coordinates import Coordinates
from .climb import Prior
from .maps import Array, kind_of


class Density(NamedTuple):
    """Σ α log θ + β log(1 − θ) − γ θ − ½ (δ (u − ε))² + a constant, u being θ or its logarithm.

    Args:
        names: of the parameters, in the order of their numbers.
        table: α, β, γ, δ and ε of every number θ of the parameters, one after the other, (D, 5).
        of_logarithm: whether u is the logarithm, (D,).
        constant: nats.
        volume: whether the volume of ordered numbers is to be added, as that of coordinates.
    """

    names: tuple[str, ...]
    table: Array
    of_logarithm: np.ndarray[tuple[int], np.dtype[np.bool_]]
    constant: float
    volume: bool

    @classmethod
    def of(cls, priors: Priors, space: Coordinates, prior: Prior) -> Self | None:
        """The density that counts; None if it has no such form.

        Args:
            priors: of the unknown parameters.
            space: their coordinates.
            prior: which density counts, see ``Landscape``.
        """
        values = space.values(torch.zeros(space.size, dtype=torch.float64))
        if prior == "none" or not values:
            return None
        rows, constant, volume = [], 0.0, False
        for name, value in values.items():
            found, kind = _row(priors[name], value), kind_of(space.transforms[name])
            if found is None or kind is None:
                return None
            row, own = found
            constant += own
            if prior == "coordinates":  # |dθ/dx| is 1, θ, θ (1 − θ), and of sticks Π θ
                row[:, 0] += kind.entry != "real"
                row[:, 1] += kind.entry == "logistic"
                volume |= kind.ordered
            rows.append(row)
        if prior == "coordinates":
            constant += float(space.unit.log().sum())
        table = np.concatenate(rows)
        rest = np.ascontiguousarray(table[:, :5])  # one layout for machine code
        return cls(tuple(values), rest, table[:, 5] > 0, constant, volume)

    def at(self, values: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the log density at values (M, …), (M,), and its derivatives by the values."""
        shapes = {name: values[name].shape for name in self.names}
        flat = [values[name].reshape(len(values[name]), -1) for name in self.names]
        theta = np.concatenate(flat, -1)
        alpha, beta, gamma, delta, centre = self.table.T
        above = np.where((alpha != 0) | self.of_logarithm, theta, 1.0)  # whose logarithm counts
        below = np.where(beta != 0, 1 - theta, 1.0)
        z = delta * (np.where(self.of_logarithm, np.log(above), theta) - centre)
        terms = alpha * np.log(above) + beta * np.log(below) - gamma * theta - 0.5 * z * z
        by_u = np.where(self.of_logarithm, 1 / above, 1.0)
        slopes = alpha / above - beta / below - gamma - delta * z * by_u
        found, begin = {}, 0
        for name, shape in shapes.items():
            end = begin + int(np.prod(shape[1:], dtype=int))
            found[name], begin = slopes[:, begin:end].reshape(shape), end
        return terms.sum(-1) + self.constant, found


def _row(prior: Any, at: Tensor) -> tuple[Array, float] | None:
    """A prior in this form: (D, 6), the last column for logarithms, and its constant by its density
    at some values; None if it has none."""
    base = prior
    if isinstance(prior, Ordered) and prior.column is None:
        base = prior.base  # the constant counts the orders
    while isinstance(base, dist.Independent):
        base = base.base_dist
    zero = torch.zeros_like(at)
    kind = type(base)
    if kind is dist.Dirichlet:
        columns = [base.concentration - 1, zero, zero, zero, zero]
    elif kind is dist.Gamma:
        columns = [base.concentration - 1, zero, base.rate, zero, zero]
    elif kind is dist.Beta:
        columns = [base.concentration1 - 1, base.concentration0 - 1, zero, zero, zero]
    elif kind is dist.Normal:
        columns = [zero, zero, zero, 1 / base.scale, base.loc]
    elif kind is dist.LogNormal:
        columns = [zero - 1, zero, zero, 1 / base.scale, base.loc]
    else:
        return None
    columns.append(torch.full_like(at, float(kind is dist.LogNormal)))
    table = torch.stack([x.double().expand(at.shape).flatten() for x in columns], -1).numpy()
    bare = Density(("at",), table[:, :5], table[:, 5] > 0, 0.0, False)
    own, _ = bare.at({"at": at.detach()[None].numpy()})
    return table, float(prior.log_prob(at)) - float(own[0])
