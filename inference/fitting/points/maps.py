"""The map from coordinates to parameters and its transposed derivative, without a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor
from torch.distributions import Transform, transforms

from ...guides.coordinates import Coordinates

Array = NDArray[np.float64]

_LEAST = float(np.finfo(np.float64).tiny)
_MOST = 1 - float(np.finfo(np.float64).eps)
"""Ends of shares, as torch has them."""


class _Step(Protocol):
    """A smooth map of numbers (M, …), and the transposed derivative where it was last asked."""

    def __call__(self, x: Array) -> Array: ...

    def back(self, upstream: Array) -> Array: ...


class _Exp:
    def __call__(self, x: Array) -> Array:
        self._y: Array = np.exp(x)
        return self._y

    def back(self, upstream: Array) -> Array:
        return upstream * self._y


class _Affine:
    def __init__(self, shift: Array, factor: Array) -> None:
        self._shift, self._factor = shift, factor

    def __call__(self, x: Array) -> Array:
        return self._shift + self._factor * x

    def back(self, upstream: Array) -> Array:
        return upstream * self._factor


class _Logistic:
    def __call__(self, x: Array) -> Array:
        self._y = _share(x)
        return self._y

    def back(self, upstream: Array) -> Array:
        return upstream * self._y * (1 - self._y)


class _Sticks:
    """Reals (…, K − 1) -> probabilities (…, K): shares of what those before have left."""

    def __call__(self, x: Array) -> Array:
        more = np.log(np.arange(x.shape[-1], 0, -1))
        self._share = _share(x - more)
        left = np.cumprod(1 - self._share, -1)
        self._y = np.empty((*x.shape[:-1], x.shape[-1] + 1))
        self._y[..., :-1], self._y[..., -1] = self._share, 1
        self._y[..., 1:] *= left
        return self._y

    def back(self, upstream: Array) -> Array:
        """∂ log p_i/∂x_i = 1 − share_i, and −share_i for all p that come after p_i."""
        weight = upstream * self._y
        after = np.cumsum(weight[..., :0:-1], -1)[..., ::-1]
        return weight[..., :-1] - self._share * (weight[..., :-1] + after)


class _Ordered:
    """Reals (…, K) -> the first one, and increasing numbers after it, whose distances are exp."""

    def __call__(self, x: Array) -> Array:
        self._distances = np.exp(x)
        self._distances[..., 0] = 1
        y = self._distances.copy()
        y[..., 0] = x[..., 0]
        found: Array = y.cumsum(-1)
        return found

    def back(self, upstream: Array) -> Array:
        after = np.cumsum(upstream[..., ::-1], -1)[..., ::-1]
        found: Array = after * self._distances
        return found


class _Graph:
    """Any other map of torch."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, x: Array) -> Array:
        self._x = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            self._y: Tensor = self._transform(self._x)
        found: Array = self._y.detach().numpy()
        return found

    def back(self, upstream: Array) -> Array:
        (found,) = torch.autograd.grad(self._y, self._x, torch.from_numpy(upstream))
        slopes: Array = found.numpy()
        return slopes


def _share(x: Array) -> Array:
    found: Array = (1 / (1 + np.exp(-x))).clip(_LEAST, _MOST)
    return found


def _steps(transform: Transform) -> list[_Step]:
    """The map in steps; those that are one map have the same class as torch's."""
    if isinstance(transform, transforms.IndependentTransform):
        return _steps(transform.base_transform)
    if isinstance(transform, transforms.ComposeTransform):
        return [step for part in transform.parts for step in _steps(part)]
    kind = type(transform)
    if kind is transforms.AffineTransform:
        ends = (transform.loc, transform.scale)  # type: ignore[attr-defined]
        shift, factor = (torch.as_tensor(end).double().numpy() for end in ends)
        same = bool((shift == 0).all() and (factor == 1).all())  # numbers above zero have it
        return [] if same else [_Affine(shift, factor)]
    known: dict[type[Transform], type[_Step]] = {
        transforms.ExpTransform: _Exp,
        transforms.SigmoidTransform: _Logistic,
        transforms.StickBreakingTransform: _Sticks,
        OrderedTransform: _Ordered,
    }
    return [known[kind]()] if kind in known else [_Graph(transform)]


class Kind(NamedTuple):
    """A map that machine code knows.

    Args:
        entry: ``real``, ``exp``, ``logistic`` or ``sticks``.
        ordered: whether the numbers are ordered before.
    """

    entry: str
    ordered: bool


def kind_of(transform: Transform) -> Kind | None:
    """The kind of a map; None for one that is of no such kind."""
    kinds = [type(step) for step in _steps(transform)]
    ordered = kinds[:1] == [_Ordered]
    names: dict[type, str] = {_Exp: "exp", _Logistic: "logistic", _Sticks: "sticks"}
    rest = kinds[ordered:]
    if not rest:
        return Kind("real", ordered)
    entry = names.get(rest[0]) if len(rest) == 1 else None
    return None if entry is None else Kind(entry, ordered)


class Maps:
    """Parameters at many points, and the transposed derivative there.

    Args:
        space: the coordinates.

    >>> import pyro.distributions as dist
    >>> space = Coordinates({"rate": dist.Gamma(2.0, 1.0)}, {}, {"rate": torch.tensor(2.0)})
    >>> maps = Maps(space)
    >>> maps.values(np.array([[0.0], [1.0]]))["rate"].round(2)
    array([2.  , 5.44])
    >>> maps.back({"rate": np.ones(2)}).round(2).tolist()
    [[2.0], [5.44]]
    """

    def __init__(self, space: Coordinates) -> None:
        self._centre, self._unit = space.centre.numpy(), space.unit.numpy()
        slices, free = space.slices, space.free(torch.zeros_like(space.centre))
        self._parts = [
            (name, slices[name], tuple(free[name].shape), _steps(transform))
            for name, transform in space.transforms.items()
        ]

    @property
    def size(self) -> int:
        """Number of coordinates P."""
        return len(self._centre)

    def values(self, points: Array) -> dict[str, Array]:
        """Return the parameters at points (M, P), each (M, …)."""
        x = self._centre + self._unit * points
        found = {}
        for name, place, shape, steps in self._parts:
            own = x[:, place].reshape(len(x), *shape)
            for step in steps:
                own = step(own)
            found[name] = own
        return found

    def back(self, upstream: Mapping[str, Array]) -> Array:
        """Return the derivatives (M, P) by the points last asked, from those by the parameters."""
        count = len(next(iter(upstream.values())))
        found = np.zeros((count, len(self._centre)))
        for name, place, shape, steps in self._parts:
            if name in upstream:
                own = upstream[name]
                for step in reversed(steps):
                    own = step.back(own)
                found[:, place] = own.reshape(count, math.prod(shape))
        found *= self._unit
        return found
