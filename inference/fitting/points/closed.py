"""Chains whose heights and climbs are machine code, from coordinates to gradient.

The transition and the first state are tables, the emissions say their coefficients in closed form,
and all parameters are reals, exponentials, logistic functions or sticks of the coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ....models.chains.laws import WORST_CONDITION
from ....models.emissions.emission import ClosedForm, Parameters, closed_forms
from ...guides.coordinates import Coordinates
from .climb import RULES, Climbers, Prior
from .densities import Density
from .families import Products
from .maps import Array, kind_of

if TYPE_CHECKING:
    from ..no_u_turn_machine import Chain

_MAPS = {"real": 0, "exp": 1, "logistic": 2, "sticks": 3}
_CHANNELS = {"normal": 0, "counts": 1, "symbols": 2, "bits": 3, "lines": 4}
_WIDTHS = {"normal": 3, "counts": 2, "symbols": 1, "bits": 2}
"""Statistics a feature; counts have one more together."""


class Closed(NamedTuple):
    """Numbers that say how a point becomes a height.

    θ are all parameters one after the other, the unknown ones first.

    Args:
        form: blocks (B, 7): kind of map, places in x and θ, rows, their size, whether the prior is
            normal in the logarithm, and whether the numbers are ordered; channels (C, 9): kind,
            features, place in the statistics, places of up to two parameters in θ, of weights of
            inputs and of lags, their numbers; tables: places of p(z_1), −1 where it is stationary,
            and T in θ, K, J; the worst condition, the constant of the log prior, and whether the
            volume of ordered numbers counts; θ where it is known; the prior of every unknown
            parameter (D, 5), without rows where none counts; units (J, 2); centre and unit of the
            coordinates (P, 2).
        frames: statistics of the data, see ``Frames``.
    """

    form: tuple[Any, ...]
    frames: tuple[Any, ...]

    @classmethod
    def of(
        cls, products: Products, space: Coordinates, prior: Prior, density: Density | None
    ) -> Self | None:
        """The numbers of a chain; None if it is another one.

        Args:
            products: the chain and its data.
            space: the coordinates.
            prior: whose density counts, see ``Landscape``.
            density: that density, if it has this form.
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
        if blocks is None or (prior != "none" and density is None):
            return None
        table, constant, volume = np.zeros((0, 5)), 0.0, False
        if density is not None:
            blocks[:, 5] = density.of_logarithm[blocks[:, 2]]
            table, constant, volume = density.table, density.constant, density.volume
        states, size = products.model.states, products.frames.statistics.shape[1]
        channels, units = _channels(forms, places, size)
        first = -1 if tables.stationary else places["initial"]
        form = (
            blocks,
            channels,
            np.array([first, places["transition"], states, size]),
            np.array([WORST_CONDITION, constant, volume]),
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
        together(tasks, (steps + 1) * len(found.rows) * self._products)
        return found, np.concatenate(traces, -1)[: needed.max()]

    def walk(self, chains: Sequence[Chain], until: int) -> None:
        """Moves chains of the no-U-turn sampler on, each until it has taken so many steps or waits
        at a point of which this code tells no height."""
        from ...exact.chains_cpu import together
        from ..no_u_turn_machine import advance  # numba is loaded when first needed
        from .closed_machine import room_for

        tasks = [partial(advance, chain, until, *self, room_for(*self)) for chain in chains]
        together(tasks, until * len(chains) * self._products)

    @property
    def _products(self) -> int:
        """Products of a height."""
        states, statistics = self.form[2][2:]
        return len(self.frames[0]) * int(states * (states + statistics))

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
        if kind.entry == "sticks":
            rows, size = math.prod(shape[:-1]), shape[-1]
        at = space.slices[name].start, places[name]
        found.append([_MAPS[kind.entry], *at, rows, size, 0, kind.ordered])
    return np.array(found, dtype=np.int64).reshape(-1, 7)


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
