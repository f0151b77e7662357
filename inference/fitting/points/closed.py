"""Chains whose heights and climbs are machine code, from coordinates to gradient.

The transition and the first state are tables, the emissions say their coefficients in closed form,
and all parameters are reals, exponentials, logistic functions or sticks of the coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....models.chains.laws import WORST_CONDITION
from ....models.emissions.emission import ClosedForm, Parameters, closed_forms
from ...guides.coordinates import Coordinates
from .climb import RULES, Climbers, Prior
from .families import Products
from .maps import Array, kind_of

_MAPS = {"real": 0, "exp": 1, "logistic": 2, "sticks": 3}
_CHANNELS = {"normal": 0, "counts": 1, "symbols": 2, "bits": 3, "lines": 4}
_WIDTHS = {"normal": 3, "counts": 2, "symbols": 1, "bits": 2}
"""Statistics a feature; counts have one more together."""


class Closed(NamedTuple):
    """Numbers that say how a point becomes a height.

    θ are all parameters one after the other, the unknown ones first.

    Args:
        form: blocks (B, 6): kind of map, places in x and θ, rows, their size, and whether the prior
            is normal in the logarithm; channels (C, 9): kind, features, place in the statistics,
            places of up to two parameters in θ, of weights of inputs and of lags, their numbers;
            tables: places of p(z_1), −1 where it is
            stationary, and T in θ, K, J; the worst condition and the constant of the log prior; θ
            where it is known; the prior of every unknown parameter (D, 5), without rows where none
            counts; units (J, 2); centre and unit of the coordinates (P, 2).
        frames: statistics of the data, see ``Frames``.
    """

    form: tuple[Any, ...]
    frames: tuple[Any, ...]

    @classmethod
    def of(cls, products: Products, space: Coordinates, prior: Prior) -> Self | None:
        """The numbers of a chain; None if it is another one.

        Args:
            products: the chain and its data.
            space: the coordinates.
            prior: whose density counts, see ``Landscape``.
        """
        forms, tables = closed_forms(products.family), products.tables
        if not forms or tables is None:
            return None
        values = space.values(torch.zeros(space.size, dtype=torch.float64))
        own = {name: torch.from_numpy(x[0]) for name, x in tables.known.items()}
        theta = {**values, **own, **products.known}
        ends = np.cumsum([0, *(x.numel() for x in theta.values())]).tolist()
        places = dict(zip(theta, ends, strict=False))
        blocks = _blocks(space, places, values)
        laws = [_law(products.model.priors[name], x) for name, x in values.items()]
        if blocks is None or (prior != "none" and None in laws):
            return None
        table, constant = np.zeros((0, 5)), 0.0
        if prior != "none":
            found = [law for law in laws if law is not None]
            blocks[:, 5] = [law.of_logarithm for law in found]
            table = np.concatenate([law.table for law in found])
            constant = sum(law.constant for law in found)
        if prior == "coordinates":  # |dθ/dx| is 1, θ, θ (1 − θ), and of sticks Π θ
            kinds = np.repeat(blocks[:, 0], blocks[:, 3] * blocks[:, 4])
            table[:, 0] += kinds > _MAPS["real"]
            table[:, 1] += kinds == _MAPS["logistic"]
            constant += float(space.unit.log().sum())
        states, size = products.model.states, products.frames.statistics.shape[1]
        channels, units = _channels(forms, places, size)
        first = -1 if tables.stationary else places["initial"]
        form = (
            blocks,
            channels,
            np.array([first, places["transition"], states, size]),
            np.array([WORST_CONDITION, constant]),
            torch.cat([x.double().flatten() for x in theta.values()]).numpy(),
            table,
            units,
            torch.stack([space.centre, space.unit], -1).numpy(),
        )
        return cls(form, tuple(x.numpy() for x in products.frames))

    def at(self, points: Array) -> tuple[Array, Array]:
        """Heights (M,) and gradients (M, P) at points (M, P); −∞ and 0 where it cannot tell."""
        new = Climbers.of(points, memory=0)
        found = self.advance(new, np.full(points.shape[1], np.inf), 0, 0.0)[0]
        return found.heights.copy(), found.gradients.copy()

    def advance(
        self, climbers: Climbers, reach: Array, steps: int, tolerance: float
    ) -> tuple[Climbers, Array]:
        """The climbers after so many evaluations each, at most, and their heights, (S, M)."""
        from ...exact.chains_cpu import cut, together
        from .climb_machine import advance  # numba is loaded when first needed

        found = climbers._replace(rows=climbers.rows.copy())
        parts = [slice(*part) for part in cut(len(found.rows))]
        traces = [np.empty((steps, part.stop - part.start)) for part in parts]
        needed = np.zeros(len(parts), dtype=np.int64)
        rules = reach, (climbers.memory, *RULES), tolerance
        tasks: list[Callable[[], None]] = []
        for number, (part, trace) in enumerate(zip(parts, traces, strict=True)):
            given = (*rules, *self, self._room(climbers), trace, needed[number:])
            tasks.append(partial(advance, found.rows[part], *given))
        states, statistics = self.form[2][2:]
        products = len(self.frames[0]) * int(states * (states + statistics))
        together(tasks, (steps + 1) * len(found.rows) * products)
        return found, np.concatenate(traces, -1)[: needed.max()]

    def visits(self, point: Array) -> Array | None:
        """Expected visits of the states (K,) at a point (P,); None where it cannot tell."""
        from .climb_machine import advance

        new = Climbers.of(point[None], memory=0)
        room = self._room(new)
        rules = np.full(len(point), np.inf), (0, *RULES), 0.0
        advance(new.rows, *rules, *self, room, np.empty((0, 1)), np.zeros(1, dtype=np.int64))
        first, moved = room[0][4]
        found: Array = first + moved.sum(0)
        return found if np.isfinite(new.heights[0]) else None

    def _room(self, climbers: Climbers) -> Any:
        from .closed_machine import room_for

        vectors = np.empty((3, climbers.size))
        return room_for(*self), (vectors, np.empty(climbers.memory))


def _blocks(
    space: Coordinates, places: Mapping[str, int], values: Parameters
) -> NDArray[np.int64] | None:
    """How each unknown parameter is made of coordinates; None if one is made otherwise."""
    found = []
    for name, transform in space.transforms.items():
        kind = kind_of(transform)
        if kind is None:
            return None
        shape = values[name].shape
        rows, size = values[name].numel(), 1
        if kind == "sticks":
            rows, size = math.prod(shape[:-1]), shape[-1]
        found.append([_MAPS[kind], space.slices[name].start, places[name], rows, size, 0])
    return np.array(found, dtype=np.int64).reshape(-1, 6)


def _channels(
    forms: tuple[ClosedForm, ...], places: Mapping[str, int], size: int
) -> tuple[NDArray[np.int64], Array]:
    """Channels, and location and unit of the statistics that have them."""
    channels, units, at = [], np.ones((size, 2)), 0
    for form in forms:
        features = len(form.unit)
        own = [places[name] for name in form.parameters]
        last = (own[2], own[-1]) if form.kind == "lines" else (0, 0)
        sizes = form.inputs, form.lags
        channels.append([_CHANNELS[form.kind], features, at, own[0], own[:2][-1], *last, *sizes])
        units[at : at + features] = torch.stack([form.location, form.unit], -1).numpy()
        at += _width(form)
    return np.array(channels), units


def _width(form: ClosedForm) -> int:
    """Number of statistics."""
    features = len(form.unit)
    if form.kind == "lines":
        return features * (3 + form.inputs + 2 * form.lags * features)
    return _WIDTHS[form.kind] * features + (form.kind == "counts")


class _Law(NamedTuple):
    """α log θ + β log(1 − θ) − γ θ − ½ (δ (u − ε))² + constant, u being θ or its logarithm."""

    table: Array
    """α, β, γ, δ and ε of every number, (D, 5)."""
    of_logarithm: bool
    constant: float


def _law(prior: Any, at: Tensor) -> _Law | None:
    """A prior in this form, its constant by its density at some values; None if it has none."""
    base = prior
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
    table = torch.stack([x.double().expand(at.shape).flatten() for x in columns], -1)
    y = at.flatten()
    alpha, beta, gamma, delta, centre = table.unbind(-1)
    of_logarithm = kind is dist.LogNormal
    inside = torch.where(beta == 0, 0, beta * torch.log1p(-y))
    own = torch.where(alpha == 0, 0, alpha * y.log()) + inside - gamma * y
    own = own - 0.5 * (delta * ((y.log() if of_logarithm else y) - centre)).square()
    constant = float(prior.log_prob(at)) - float(own.sum())
    return _Law(table.numpy(), of_logarithm, constant)
