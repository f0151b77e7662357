"""Chains whose tables of probabilities are parameters, without a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ....models import HiddenMarkovModel, Model
from ....models.chains.laws import WORST_CONDITION, StationaryInitial, itself
from .maps import Array


@dataclass
class Tables:
    r"""p(z_1) and T, each a parameter or known, or the stationary law of T.

    The latter is 1' A⁻¹ with A = I − T + 1 1', and its derivative
    :math:`\mathrm d \pi = \pi \, \mathrm dT \, A^{-1}`.

    Args:
        known: tables ``initial`` (1, K) and ``transition`` (1, K, K), as far as they are known.
        stationary: whether the first state has the stationary law.
    """

    known: Mapping[str, Array]
    stationary: bool
    _inverse: Array = field(init=False, repr=False)

    @classmethod
    def of(cls, model: Model) -> Self | None:
        """Those of a model; None if its laws are others."""
        if not isinstance(model, HiddenMarkovModel):
            return None
        if model.states == 1:
            one = np.ones((1, 1))
            return cls({"initial": one, "transition": one[None]}, False)
        stationary = type(model.initial_law) is StationaryInitial
        if itself(model.transition) != "transition":
            return None
        if not stationary and itself(model.initial_law) != "initial":
            return None
        known = {
            name: model.known[name].double().numpy()[None]
            for name in ("initial", "transition")
            if name in model.known
        }
        return cls(known, stationary)

    def __call__(self, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """p(z_1) (M|1, K) and T (M|1, K, K); NaN where there is no single stationary law.

        Raises:
            ValueError: a matrix has none.
        """
        moves = values["transition"] if "transition" in values else self.known["transition"]
        if not self.stationary:
            return values["initial"] if "initial" in values else self.known["initial"], moves
        size = moves.shape[-1]
        inverse: Array = np.linalg.inv(np.eye(size) - moves + 1).astype(np.float64, copy=False)
        self._inverse = inverse
        first = inverse.sum(-2)
        sound = (np.abs(inverse).max((-1, -2)) < WORST_CONDITION) & (moves > 0).all((-1, -2))
        return np.where(sound[:, None] & (first > 0), first, np.nan), moves

    def back(self, tables: tuple[Array, Array], counts: tuple[Array, Array]) -> dict[str, Array]:
        """Derivatives by those that are parameters, from expected first states and moves."""
        first, moves = tables
        found = {}
        if "transition" not in self.known:
            found["transition"] = counts[1] / moves
            if self.stationary:
                along = self._inverse @ (counts[0] / first)[..., None]
                found["transition"] += first[..., None] * along.mT
        if not self.stationary and "initial" not in self.known:
            found["initial"] = counts[0] / first
        return found
