"""How the parameters of a distribution move with the unit of its observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..data.moments import overall_moments

LogDensity = Callable[[Tensor, Tensor], Tensor]
"""log p(y | u) (M, 2, F) of observations (M, 1, F) and unconstrained parameters (P, 2, F)."""

Kind = tuple[int, bool, bool]
"""Of one parameter u: u' = power · log(unit) + unit^linear · u + origin^located."""

_FIXED: Kind = (0, False, False)

_REAL: tuple[Kind, ...] = ((0, True, True), (0, True, False), (1, False, False), _FIXED)
"""A location, a difference of locations, a mean logarithm, a shape."""

_POSITIVE: tuple[Kind, ...] = tuple((power, False, False) for power in (1, -1, 0, 2, -2))
"""A scale, a rate, a shape, a variance, a precision; u is the logarithm."""

_TRIED = 625
"""Most combinations of kinds that are tried."""


@dataclass(frozen=True)
class Moves:
    """What becomes of unconstrained parameters if y becomes origin + unit · y.

    Args:
        kinds: of the parameters.
        shifted: whether the origin can move.
    """

    kinds: tuple[Kind, ...]
    shifted: bool

    def __call__(self, free: Tensor, origin: Tensor, unit: Tensor) -> Tensor:
        """Return parameters (P, K, F) for data in another unit, (F,), from another origin, (F,)."""
        moved = [
            power * unit.log() + (unit * u if linear else u) + (origin if located else 0)
            for u, (power, linear, located) in zip(free, self.kinds, strict=True)
        ]
        return torch.stack(moved)

    def locates(self, place: int) -> bool:
        """Return whether the parameter at this place is a location of the data."""
        _, _, located = self.kinds[place]
        return located


def moves_of(
    log_density: LogDensity, real: Sequence[bool], positive: Sequence[bool], low: float
) -> Moves | None:
    """Find out how parameters move, by asking the density; None if it has no other units.

    Args:
        log_density: of the distribution.
        real, positive: of every parameter, whether it is any number, or any positive one.
        low: least observation, 0 or -inf.
    """
    kinds = [
        _REAL if any_number else _POSITIVE if size else (_FIXED,)
        for any_number, size in zip(real, positive, strict=True)
    ]
    combinations = list(product(*kinds)) if 5 ** len(kinds) <= _TRIED else []
    for shifted in (True, False) if low < 0 else (False,):
        for combination in combinations:
            moves = Moves(combination, shifted)
            if moves.shifted == any(located for *_, located in combination) and _holds(
                moves, log_density
            ):
                return moves
    return None


def _holds(moves: Moves, log_density: LogDensity) -> bool:
    """Whether p(origin + unit · y | moved u) · unit = p(y | u)."""
    place = torch.arange(float(len(moves.kinds)), dtype=torch.float64)[:, None, None]
    free = torch.cat([0.9 + 0.17 * place, 1.6 - 0.23 * place], 1)
    y = torch.tensor([0.3, 0.8, 2.4], dtype=torch.float64)[:, None, None]
    before = log_density(y, free)
    for origin, unit in ((0.6, 1.7), (-3.0, 0.2)):
        there, wide = (torch.tensor([x], dtype=torch.float64) for x in (origin, unit))
        there = there if moves.shifted else 0 * there
        after = log_density(there + wide * y, moves(free, there, wide)) + wide.log()
        if not torch.allclose(after, before, rtol=1e-8, atol=1e-8):  # NaN is not close either
            return False
    return True


def measured(y: Tensor, seen: Tensor, moves: Moves | None) -> tuple[Tensor, Tensor]:
    """Origin and unit (F,) in which frames y (M, F) are of order one; 0 and 1 without moves."""
    zero, one = torch.zeros_like(y[0]), torch.ones_like(y[0])
    if moves is None:
        return zero, one
    shown = torch.where(seen, y, torch.nan)
    mean, spread = overall_moments(y, seen)
    if not moves.shifted:
        size = shown.abs().nanmedian(0).values.nan_to_num(0)
        size = torch.where(size > 0, size, torch.where(seen, y.abs(), 0).amax(0))
        return zero, torch.where(size > 0, size, one)
    low, middle, high = shown.nanquantile(torch.tensor([0.1, 0.5, 0.9]).to(y), 0)
    origin = torch.where(middle.isnan(), mean, middle)
    return origin, torch.where(high > low, high - low, spread)
