"""Linear-Gaussian models of single features whose noises alone depend on the parameters.

Those of structural components do: variances enter the noises as they are, and the rest is constant.
Which numbers they are is found by asking the model for its laws at a few points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ....models import Model, Sequences
from ...exact.gaussian import LinearChain
from ...exact.series import Noises, Series
from ...queries.linear import arguments
from .maps import Array, Maps

NUMBERS = 2**20
"""Numbers of the noises times parameters that are kept, 8 MiB."""

SERIES = 50
"""Series up to which they are asked one after the other."""

_TRIED = 3
"""Points, drawn about the centre, at which what was found must hold."""

_ROUNDING = 1e-13
"""Error of matrices relative to the sizes of what they are the sum of."""

_NOISES = "initial_covariance", "noise", "observation_noise"


class Affine(NamedTuple):
    """All noises of a chain, one after the other, as base + Σ θ_i slope_i.

    Args:
        base: (S,).
        slopes: (D, S).
        shapes: of the three noises.
        series: all series.
    """

    base: Array
    slopes: Array
    shapes: tuple[torch.Size, ...]
    series: tuple[Series, ...]

    @classmethod
    def of(cls, model: Model, data: Sequences, maps: Maps) -> Self | None:
        """Those of a model; None if it is another one, or large."""
        if model.has_paths or not model.exact or data.values.device.type != "cpu":
            return None
        if len(data) > SERIES or data.n_features > 1 or not maps.size:
            return None
        tried = np.random.default_rng(0).normal(size=(_TRIED, maps.size))
        values = maps.values(np.concatenate([np.zeros((1, maps.size)), np.eye(maps.size), tried]))
        theta = _flat(values)
        moved = theta[1 : 1 + maps.size] - theta[:1]
        if theta.shape[1] != maps.size or (moved != np.diag(np.diag(moved))).any():
            return None  # a coordinate moves several parameters
        chain, flat = _asked(model, data, values)
        if chain is None:
            return None
        slopes = (flat[1 : 1 + maps.size] - flat[0]) / np.diag(moved)[:, None]
        base = flat[0] - theta[0] @ slopes
        base[np.abs(base) < _ROUNDING * np.abs(theta[0]) @ np.abs(slopes)] = 0
        sizes = np.abs(base) + np.abs(theta) @ np.abs(slopes)
        if (np.abs(base + theta @ slopes - flat) > 10 * _ROUNDING * sizes).any():
            return None
        shapes = tuple(x.shape for x in _noises(chain))
        seen = (Series.of(chain, data.values, data.mask, row) for row in range(len(data)))
        return cls(base, slopes, shapes, tuple(seen))

    def at(self, values: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """log p(y) at values of M points, (M,), −∞ where digits would be lost; its derivatives."""
        theta = _flat(values)
        flat = self.base + theta @ self.slopes
        ends = np.cumsum([shape.numel() for shape in self.shapes])[:-1]
        noises = [
            part.reshape(len(theta), *shape)
            for part, shape in zip(np.split(flat, ends, -1), self.shapes, strict=True)
        ]
        evidence = np.zeros(len(theta))
        upstream = [np.zeros_like(x) for x in noises]
        for number, one in enumerate(self.series):
            rows = [min(number, x.shape[1] - 1) for x in noises]
            own = (np.ascontiguousarray(x[:, row]) for x, row in zip(noises, rows, strict=True))
            found, back = one.slopes(Noises(*own))
            evidence += found
            for total, part, row in zip(upstream, back, rows, strict=True):
                total[:, row] += part.reshape(total[:, row].shape)
        slopes = np.concatenate([x.reshape(len(x), -1) for x in upstream], -1) @ self.slopes.T
        ends = np.cumsum([x[0].size for x in values.values()])[:-1]
        parts = zip(values.items(), np.split(slopes, ends, -1), strict=True)
        return evidence, {name: own.reshape(x.shape) for (name, x), own in parts}


def _flat(values: Mapping[str, Array]) -> Array:
    """The parameters of every point in a row, (M, D)."""
    return np.concatenate([x.reshape(len(x), -1) for x in values.values()], -1)


def _asked(
    model: Model, data: Sequences, values: Mapping[str, Array]
) -> tuple[LinearChain | None, Array]:
    """A chain, and the noises at every point, (M, S); no chain where it is not the same else."""
    rows: list[Array] = []
    chain = None
    for row in range(len(next(iter(values.values())))):
        own = {name: torch.as_tensor(x[row]) for name, x in values.items()}
        try:
            laws = model.laws(own, data).linear
        except ValueError:  # there are none at one of the points, as where states drift away
            return None, np.empty(0)
        if laws is None:
            return None, np.empty(0)
        before, chain = chain, arguments(laws)[0]
        noises = torch.cat([x.detach().double().flatten() for x in _noises(chain)])
        if before is not None and not _alike(before, chain):
            return None, np.empty(0)
        if len(noises) * len(rows) > NUMBERS:
            return None, np.empty(0)
        rows.append(noises.numpy())
    return chain, np.stack(rows)


def _noises(chain: LinearChain) -> tuple[Tensor, ...]:
    """The three, (N|1, …); that of the observations is a number."""
    return chain.initial_covariance, chain.noise, chain.observation_noise[..., 0, 0]


def _alike(one: LinearChain, other: LinearChain) -> bool:
    """Whether all matrices but the noises are the same."""
    pairs = zip(one._asdict().items(), other, strict=True)
    return all(name in _NOISES or torch.equal(x, y) for (name, x), y in pairs)
