"""Many climbs, the best of them finished by Newton steps, and the curvature where they end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .climb import LONGEST, RUNNING, Each, Ending, Heights, climb, held, reach_of

LOOSE = 0.01
"""Nats that five steps gain together where a climb is left, to be compared with the others."""

ALIKE = 0.2
"""Nats within which two starts have reached the same height."""

FINISHED = 4
"""Climbs that are finished to the tolerance."""

NEAR = 1.5
"""Nats below the best within which a climb may still turn out to be the best."""

CURVED = 120
"""Coordinates up to which the curvature is computed, by differences of gradients."""

STEEP = 1e-2
"""Nats per unit: a function that still rises so fast at the end of the range has no maximum."""

SPENT = 0.05
"""What runs away has no maximum if a Newton step still promises as much, in nats: what belongs at
zero goes far, too."""

LEAST = 1e-6
"""Curvature below which a coordinate is not determined by the data, nats per unit²."""

_DIFFERENCE = 1e-4
"""Half of the distance over which gradients are compared, in units of the coordinates."""

_LENGTHS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.06, 0.01)
"""Lengths of a Newton step that are tried at once."""

_ROUNDING = 1e-9
"""Relative error of a height."""

_FLAT = 0.05
"""Largest gradient where a climb without curvature has arrived, nats per unit."""


@dataclass(frozen=True)
class Ascent:
    """The best point that several climbs found.

    Attributes:
        point: coordinates (P,).
        value: the function there, nats.
        gradient: its gradient there, (P,); zero where the range holds a coordinate.
        why: why the climb ended there.
        outward: coordinates along which the function rises without end; where the steps are used
            up, those that are far out and still move.
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
        """Starts that reached the best height; those that rose above it have no maximum."""
        return sum(abs(height - self.value) < ALIKE for height in self.heights)

    @property
    def above(self) -> int:
        """Starts that rose above it, without end."""
        return sum(height >= self.value + ALIKE for height in self.heights)


def ascend(
    heights: Heights,
    starts: Tensor,
    *,
    bounded: Tensor,
    steps: int,
    tolerance: float,
    each: Each | None = None,
) -> Ascent | None:
    """Climbs from several starts and finishes the best climbs.

    Climbs that run to the end of their range, where the function has no maximum, count only if all
    do.

    Args:
        heights: the function and its gradients at many points.
        starts: coordinates (M, P).
        bounded: see ``climb``.
        steps: steps of every climb at most.
        tolerance: nats that the result may be below the maximum.
        each: called after every step.

    Returns:
        The best point; None if the function has no value at any start.
    """
    found = climb(heights, starts, bounded=bounded, steps=steps, tolerance=LOOSE, each=each)
    reach = reach_of(bounded)
    ended: dict[int, Ascent] = {}
    joined: dict[int, float] = {}  # on their way to one of these
    for row in found.heights.argsort(descending=True).tolist():
        if not bool(found.heights[row].isfinite()):
            break
        sound = [one.value for one in ended.values() if one.why != "unbounded"]
        height = float(found.heights[row])
        if sound and (len(sound) == FINISHED or height < max(sound) - NEAR):
            break
        same = [one for one in ended.values() if _same(found.points[row], height, one)]
        if same:
            joined[row] = max(height, *(one.value for one in same))
            continue
        before = tuple(found.trace[:, row].tolist())
        left = 0 if bool(found.moving[row]) else steps - len(before) + 1
        finisher = _Finisher(heights, reach, bounded, left, tolerance, each)
        ended[row] = finisher.finish(found.points[row], found.gradients[row], before)
    if not ended:
        return None
    best = min(ended.values(), key=lambda one: (one.why == "unbounded", -one.value))
    ends = joined | {row: one.value for row, one in ended.items()}
    every = [ends.get(row, height) for row, height in enumerate(found.heights.tolist())]
    return replace(best, heights=tuple(sorted(every, reverse=True)))


def _same(point: Tensor, height: float, ended: Ascent) -> bool:
    """Whether a climb was on its way to a point that another one has reached.

    It lies as far below as the curvature there says, or has the same height (states may have other
    numbers).
    """
    below = ended.value - height
    if abs(below) < ALIKE / 4 or ended.curvature is None:
        return abs(below) < ALIKE / 4
    apart = point - ended.point
    return float(0.5 * apart @ ended.curvature @ apart) < 3 * below + 1


@dataclass
class _Finisher:
    """Newton steps, or further L-BFGS where there are many coordinates, and the verdict."""

    heights: Heights
    reach: Tensor
    bounded: Tensor
    left: int
    tolerance: float
    each: Each | None

    def finish(self, point: Tensor, gradient: Tensor, values: tuple[float, ...]) -> Ascent:
        """Goes on from a point to the tolerance."""
        curvature = promise = None
        value = values[-1]
        if len(point) > CURVED:
            if self.left > 0:
                more = climb(
                    self.heights,
                    point.unsqueeze(0),
                    bounded=self.bounded,
                    steps=self.left,
                    tolerance=self.tolerance / 10,
                    each=self.each,
                )
                point, gradient = more.points[0], more.gradients[0]
                values += tuple(more.trace[1:, 0].tolist())
                self.left = 0 if bool(more.moving[0]) else self.left
                value = values[-1]
        else:
            gain = torch.inf
            while True:
                curvature = curvature_at(self.heights, point)
                slope = torch.where(held(point, gradient, self.reach), 0, gradient)
                promise = None if curvature is None else _promise(curvature, slope)
                if curvature is None or promise is None or promise < self.tolerance / 10_000:
                    break
                # On the way to a boundary every step gains and promises a little less.
                slow = max(gain, promise) < self.tolerance / 20
                if self.left <= 0 or slow or gain < self.tolerance / 1000:
                    break
                tried = self._newton(point, value, slope, curvature)
                if tried is None:
                    break
                gain = tried[1] - value
                point, value, gradient = tried
                values += (value,)
                self.left -= 1
        return self._verdict(point, value, gradient, values, curvature, promise)

    def _newton(
        self, point: Tensor, value: float, slope: Tensor, curvature: Tensor
    ) -> tuple[Tensor, float, Tensor] | None:
        """The best of several lengths of a Newton step; None if no length gains."""
        sizes, vectors = torch.linalg.eigh(curvature)
        along = vectors.mT @ slope
        way = vectors @ (along / sizes.abs().clamp_min(1e-4))
        way = way * min(1.0, LONGEST / max(float(way.abs().max()), 1e-300))
        tried = [length * way for length in _LENGTHS]
        if float(sizes[0]) < -1e-2:  # a saddle: down its axis, on both sides
            tried += [0.5 * vectors[:, 0], -0.5 * vectors[:, 0]]
        points = (point + torch.stack(tried)).clamp(-self.reach, self.reach)
        heights, gradients = self.heights(points)
        best = int(heights.argmax())
        height = float(heights[best])
        if not height > value + 1e-12 * abs(value):
            return None
        if self.each is not None:
            self.each(points[best], height, 1)
        return points[best], height, gradients[best]

    def _verdict(
        self,
        point: Tensor,
        value: float,
        gradient: Tensor,
        values: tuple[float, ...],
        curvature: Tensor | None,
        promise: float | None,
    ) -> Ascent:
        end = held(point, gradient, self.reach)
        slope = torch.where(end, 0, gradient)
        outward = end & (gradient.abs() > STEEP)
        largest = float(slope.abs().max()) if len(slope) else 0.0
        finest = max(self.tolerance, _ROUNDING * (1 + abs(value)))
        arrived = promise < finest if promise is not None else largest < _FLAT
        running = self.bounded & (point.abs() > RUNNING) & (slope.abs() > STEEP)
        why: Ending = "converged" if arrived else "stalled"
        if not arrived and self.left <= 0:
            why, outward = "steps used up", outward | running
        elif not arrived and bool(running.any()) and not (promise or 0) < SPENT:
            why, outward = "unbounded", outward | running
        if bool((end & outward).any()):
            why = "unbounded"
        if why == "unbounded":  # there is no maximum to have a curvature
            curvature = promise = None
        named = tuple(outward.nonzero()[:, 0].tolist())
        return Ascent(point, value, slope, why, named, (), values, curvature, promise)


def curvature_at(heights: Heights, point: Tensor) -> Tensor | None:
    """−∂²/∂v² at a point by central differences of gradients; None if they are not finite."""
    moves = _DIFFERENCE * torch.eye(len(point), dtype=torch.float64)
    values, slopes = heights(torch.cat([point + moves, point - moves]))
    up, down = slopes.chunk(2)
    found = (down - up) / (2 * _DIFFERENCE)
    return 0.5 * (found + found.mT) if bool(values.isfinite().all()) else None


def _promise(curvature: Tensor, slope: Tensor) -> float:
    """What a Newton step gains, ½ g' H⁻¹ g; infinite at a saddle."""
    sizes, vectors = torch.linalg.eigh(curvature)
    if bool((sizes < -1e-2).any()):
        return torch.inf
    along = vectors.mT @ slope
    # Along flat directions the function can rise by its gradient for a unit or so.
    gain = torch.where(sizes < LEAST, along.abs(), 0.5 * along.square() / sizes.clamp_min(LEAST))
    return float(gain.sum())
