"""Several climbs, the best of them finished to the tolerance, and the curvature where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .climb import Climb, Ending, Height, climb

LOOSE = 0.01
"""Nats that five steps gain together where a start is left, to be compared with the others."""

ALIKE = 0.2
"""Nats within which two starts have reached the same height."""

REACHED = 3
"""Starts that must have reached the best height before the search ends early."""

FINISHED = 3
"""Climbs with an end that are finished to the tolerance."""

NEAR = 5.0
"""Nats below the best at which a climb may still turn out to be the best."""

RUNNING = 6.0
"""Logarithms that a climb moved by as much without arriving run away: a factor of 400."""

CURVED = 60
"""Coordinates up to which the curvature is computed, by differences of gradients."""

_STEP = 1e-4
"""Half of the distance of those differences, in units of the coordinates."""

Gradients = Callable[[Tensor], Tensor]
"""Gradients (M, P) of the function at many points (M, P)."""


@dataclass(frozen=True)
class Ascent:
    """The best point that several climbs found.

    Attributes:
        point: coordinates (P,).
        value: the function there, nats.
        gradient: its gradient there, (P,).
        why: why the climb ended there.
        outward: coordinates along which the function rises without end.
        heights: where every start ended, nats.
        values: the function after every step of the best climb, nats.
        curvature: −∂²/∂v², (P, P); None if it was not computed.
        promise: nats that a Newton step from here would gain; None without curvature.
    """

    point: Tensor
    value: float
    gradient: Tensor
    why: Ending
    outward: tuple[int, ...]
    heights: tuple[float, ...]
    values: tuple[float, ...]
    curvature: Tensor | None
    promise: float | None

    @property
    def agreeing(self) -> int:
        """Starts that reached the best height."""
        return sum(height > self.value - ALIKE for height in self.heights)


def ascend(
    height: Height,
    gradients: Gradients,
    starts: Iterable[Tensor],
    *,
    bounded: Tensor,
    steps: int,
    tolerance: float,
    each: Callable[[Tensor, float], None] | None = None,
) -> Ascent | None:
    """Climbs from several starts and finishes the best climbs.

    Climbs that run to the end of their range, where the function has no maximum, count only if all
    do.

    Args:
        height: the function and its gradient.
        gradients: its gradients at many points at once.
        starts: coordinates (P,) each; the search ends when the best height was reached
            ``REACHED`` times.
        bounded: see ``climb``.
        steps: steps of every climb at most.
        tolerance: nats that the result may be below the maximum.
        each: called after every step.

    Returns:
        The best point; None if the function has no value at any start.
    """
    loose: list[Climb] = []
    for start in starts:
        found = climb(height, start, bounded=bounded, steps=steps, tolerance=LOOSE, each=each)
        if found is not None:
            loose.append(found)
        heights = [one.value for one in loose if one.why != "unbounded"]
        if heights and sum(value > max(heights) - ALIKE for value in heights) >= REACHED:
            break
    if not loose:
        return None
    order = sorted(loose, key=lambda one: (one.why == "unbounded", -one.value))
    ended: list[Ascent] = []
    others: list[Climb] = []
    for one in order:
        sound = [final for final in ended if final.why != "unbounded"]
        if sound and (len(sound) == FINISHED or not _promising(one, sound)):
            others.append(one)
            continue
        ended.append(_finished(height, gradients, one, bounded, steps, tolerance, each))
    best = min(ended, key=lambda one: (one.why == "unbounded", -one.value))
    reached = [final.value for final in ended] + [one.value for one in others]
    return replace(best, heights=tuple(reached))


def _promising(one: Climb, sound: list[Ascent]) -> bool:
    """Whether a climb may still turn out to be the best, beside those that were finished."""
    best = max(final.value for final in sound)
    near = one.why != "unbounded" and one.value > best - NEAR
    return near and all(abs(one.value - final.value) > ALIKE for final in sound)


def _finished(
    height: Height,
    gradients: Gradients,
    found: Climb,
    bounded: Tensor,
    steps: int,
    tolerance: float,
    each: Callable[[Tensor, float], None] | None,
) -> Ascent:
    values = found.values
    curvature = promise = None
    for _ in range(3):
        left = steps - (len(values) - 1)
        small = 0 < len(found.point) <= CURVED and found.why != "unbounded"
        curvature = curvature_at(gradients, found.point) if small else None
        promise = None if curvature is None else _promise(curvature, found.gradient)
        if (promise is not None and promise < tolerance) or left < 1 or found.why == "unbounded":
            break
        factor = None if curvature is None else _inverse_root(curvature)
        again = climb(
            height,
            found.point,
            bounded=bounded,
            steps=left,
            tolerance=tolerance / 10,
            factor=factor,
            each=each,
        )
        assert again is not None  # the point has a value
        values = (*values, *again.values[1:])
        found = again
        if curvature is None:
            break
    why = found.why
    if why in ("stalled", "converged") and promise is not None:
        why = "converged" if promise < tolerance else "stalled"
    running = (bounded & (found.point.abs() > RUNNING)).nonzero()[:, 0].tolist()
    outward = found.outward
    if why == "stalled" and running:
        why, outward = "unbounded", tuple(running)
    return Ascent(
        found.point, found.value, found.gradient, why, outward, (), values, curvature, promise
    )


def curvature_at(gradients: Gradients, point: Tensor) -> Tensor | None:
    """−∂²/∂v² at a point by central differences of gradients; None if they are not finite."""
    moves = _STEP * torch.eye(len(point), dtype=torch.float64)
    try:
        up, down = gradients(torch.cat([point + moves, point - moves])).chunk(2)
    except (ValueError, RuntimeError, ArithmeticError):  # singular matrices at the edge
        return None
    found = (down - up) / (2 * _STEP)
    return 0.5 * (found + found.mT) if bool(found.isfinite().all()) else None


LEAST = 1e-6
"""Curvature below which a coordinate is not determined by the data, nats per unit²."""


def _promise(curvature: Tensor, gradient: Tensor) -> float:
    """What a Newton step gains, ½ g' H⁻¹ g; infinite at a saddle."""
    values, vectors = torch.linalg.eigh(curvature)
    along = vectors.mT @ gradient
    flat = values < LEAST
    if bool((values < -1e-2).any()):
        return torch.inf
    # Along flat directions the function can rise by its gradient for a unit or so.
    gain = torch.where(flat, along.abs(), 0.5 * along.square() / values.clamp_min(LEAST))
    return float(gain.sum())


def _inverse_root(curvature: Tensor) -> Tensor:
    """H^{-1/2} with flat and negative directions at unit length."""
    values, vectors = torch.linalg.eigh(curvature)
    root: Tensor = vectors @ (values.abs().clamp_min(1.0).rsqrt().unsqueeze(-1) * vectors.mT)
    return root
