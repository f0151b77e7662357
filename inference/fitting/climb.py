"""Maximisation of a smooth function of unit-free coordinates, with a verdict on how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Vector = npt.NDArray[np.float64]
Height = Callable[[Tensor], tuple[float, Tensor]]
"""A function of coordinates (P,): its value in nats and its gradient (P,). Not finite, or an error,
where there is no value."""

Ending = Literal["converged", "steps used up", "unbounded", "stalled"]

RANGE = 20.0
"""Logarithms and logits move by at most so much from where they start: a factor of 5e8. A
probability or a variance that belongs at zero costs less than the tolerance when it gets there."""

STEEP = 1e-2
"""Nats per unit: a function that still rises so fast at the end of the range has no maximum."""

_RECENT = 5
"""Steps whose joint gain decides whether the climb has arrived."""

_FLAT = 0.05
"""Largest gradient where a climb has arrived, nats per unit, unless the curvature is known."""

_MEMORY = 20
"""Steps that L-BFGS remembers."""


class Climb(NamedTuple):
    """Where a climb ended, and why.

    Attributes:
        point: coordinates (P,).
        value: the function there, nats.
        gradient: its gradient there, (P,) nats per unit; zero where the point is held by the range.
        why: the reason.
        outward: coordinates at the end of their range beyond which the function still rises.
        values: the function after every step, nats, the start first.
    """

    point: Tensor
    value: float
    gradient: Tensor
    why: Ending
    outward: tuple[int, ...]
    values: tuple[float, ...]


def climb(
    height: Height,
    start: Tensor,
    *,
    bounded: Tensor,
    steps: int,
    tolerance: float,
    factor: Tensor | None = None,
    each: Callable[[Tensor, float], None] | None = None,
) -> Climb | None:
    """Maximises a function by L-BFGS (Liu & Nocedal 1989; SciPy's).

    It ends when the last steps gained less than ``tolerance`` together.

    Args:
        height: the function.
        start: coordinates (P,) to start from.
        bounded: coordinates that stay within ``RANGE`` of zero, (P,) bool.
        steps: number of steps at most.
        tolerance: nats.
        factor: (P, P), the coordinates are ``factor`` times those in which steps are taken; where
            it is the inverse root of the curvature, few steps are needed.
        each: called after every step with the coordinates and the function.

    Returns:
        Where it ended; None if the function has no value at the start.
    """
    from scipy.optimize import minimize  # loaded when first needed

    reach = np.where(bounded.numpy(), RANGE, np.inf)
    turn = np.eye(len(start)) if factor is None else factor.numpy()
    base = start.numpy().clip(-reach, reach)
    first, _ = _evaluated(height, base)
    if first is None:
        return None
    values = [first]

    def place(u: Vector) -> Vector:
        at: Vector = u if factor is None else base + turn @ u
        return at.clip(-reach, reach)

    def loss(u: Vector) -> tuple[float, Vector]:
        at = place(u)
        value, gradient = _evaluated(height, at)
        if value is None:  # a step that went too far: the search goes back
            return 1e6 + abs(first), np.zeros_like(u)
        outside = (np.abs(at) >= reach) & (gradient * at > 0)
        return first - value, -(turn.T @ np.where(outside, 0, gradient))

    def after(intermediate_result: Any) -> None:
        values.append(first - float(intermediate_result.fun))
        if each is not None:
            each(torch.from_numpy(place(intermediate_result.x).copy()), values[-1])
        if len(values) > _RECENT and values[-1] - values[-1 - _RECENT] < tolerance:
            raise StopIteration

    found = minimize(
        loss,
        base if factor is None else np.zeros_like(base),
        jac=True,
        method="L-BFGS-B",
        bounds=None if factor is not None else np.stack([-reach, reach], -1),
        callback=after,
        options={
            "maxiter": steps,
            "maxfun": 20 * steps,
            "maxcor": _MEMORY,
            "ftol": 0,
            "gtol": 1e-7,
        },
    )
    return _verdict(height, place(found.x), reach, values, steps)


def _verdict(height: Height, at: Vector, reach: Vector, values: list[float], steps: int) -> Climb:
    value, gradient = _evaluated(height, at)
    assert value is not None  # it had one when this point was accepted
    held = (np.abs(at) >= reach) & (gradient * at > 0)
    outward = tuple(np.flatnonzero(held & (np.abs(gradient) > STEEP)).tolist())
    inner = np.where(held, 0, gradient)
    why: Ending = "converged"
    if outward:
        why = "unbounded"
    elif len(values) - 1 >= steps:
        why = "steps used up"
    elif np.abs(inner).max(initial=0) > _FLAT * (1 + 1e-6 * abs(value)):
        # Close to a spike rounding stops the climb before the end of the range does.
        running = np.isfinite(reach) & (np.abs(at) > reach / 2) & (gradient * at > 0)
        outward = tuple(np.flatnonzero(running & (np.abs(gradient) > STEEP)).tolist())
        why = "unbounded" if outward else "stalled"
    point, rest = torch.from_numpy(at.copy()), torch.from_numpy(inner)
    return Climb(point, value, rest, why, outward, tuple(values))


def _evaluated(height: Height, at: Vector) -> tuple[float | None, Vector]:
    """The function and its gradient; None where it has no finite value."""
    try:
        value, gradient = height(torch.from_numpy(at.copy()))
    except (ValueError, RuntimeError, ArithmeticError):  # singular matrices at the edge
        return None, np.zeros_like(at)
    if not np.isfinite(value) or not bool(gradient.isfinite().all()):
        return None, np.zeros_like(at)
    return value, gradient.numpy()
