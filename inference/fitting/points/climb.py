"""Maximisation of a smooth function of unit-free coordinates from many starts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

Heights = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function of points (M, P): its values (M,) in nats and its gradients (M, P); −inf and zeros
where there is no value."""

Ending = Literal["converged", "steps used up", "unbounded", "stalled"]

Each = Callable[[Tensor, float], None]
"""Called after a step with the highest point (P,) and its height."""

RANGE = 20.0
"""Logarithms and logits move by at most so much from where they start: a factor of 5e8. A
probability or a variance that belongs at zero costs less than the tolerance when it gets there."""

LONGEST = 4.0
"""Most that a coordinate moves in one step."""

RUNNING = 6.0
"""Logarithms that a climb moved by as much without arriving run away, a factor of 400."""

_MEMORY = 10
"""Steps that L-BFGS remembers."""

_RECENT = 5
"""Steps whose joint gain decides whether a climb has arrived."""

_TRIED = 12
"""Shorter and shorter steps that are tried before a climb is given up."""

_BEHIND = 20.0
"""Nats below a climb that has arrived from which on another one is given up…"""

_HOPELESS = 30.0
"""…if it would take as many times its last five steps to make them up."""

_RISE = 1e-4
"""Share of the gain that the gradient promises that a step must have (Armijo)."""


class Climbs(NamedTuple):
    """Where the climbs ended.

    Attributes:
        points: coordinates (M, P).
        heights: the function there, (M,) nats.
        gradients: its gradients there, (M, P).
        trace: the heights after every step, (steps + 1, M).
        moving: which climbs were still going when the steps were used up, (M,) bool.
    """

    points: Tensor
    heights: Tensor
    gradients: Tensor
    trace: Tensor
    moving: Tensor


class _Memory:
    """The last steps of every climb, and the direction that L-BFGS makes of them."""

    def __init__(self, starts: Array) -> None:
        self._moves = np.zeros((_MEMORY, *starts.shape))
        self._bends = np.zeros_like(self._moves)
        self._weights = np.zeros((_MEMORY, len(starts)))

    def push(self, rows: Array, moves: Array, bends: Array) -> None:
        """Remembers steps of some climbs, and by how much their gradients fell."""
        inner = _inner(moves, bends)
        curved = inner > 1e-10 * _norm(moves) * _norm(bends)
        rows = rows[curved]
        for kept, new in (
            (self._moves, moves[curved]),
            (self._bends, bends[curved]),
            (self._weights, 1 / inner[curved]),
        ):
            kept[1:, rows] = kept[:-1, rows]
            kept[0, rows] = new

    def direction(self, slope: Array, rows: Array) -> Array:
        """The direction (m, P) of some climbs for gradients (m, P), by the two loops of Nocedal
        (1980)."""
        moves, bends, weights = (x[:, rows] for x in (self._moves, self._bends, self._weights))
        known = int(weights.any(-1).sum())  # steps that any of them remembers
        turned, shares = slope, []
        for move, bend, weight in zip(moves[:known], bends, weights, strict=False):
            shares.append(weight * _inner(move, turned))
            turned = turned - shares[-1][:, None] * bend
        square = _inner(bends[0], bends[0])
        usual = _inner(moves[0], bends[0]) / np.maximum(square, 1e-300)
        first = 1 / np.maximum(_norm(slope), 1.0)
        turned = turned * np.where(square > 0, usual, first)[:, None]
        for place in reversed(range(known)):
            back = shares[place] - weights[place] * _inner(bends[place], turned)
            turned = turned + back[:, None] * moves[place]
        return turned


def _inner(a: Array, b: Array) -> Array:
    found: Array = np.einsum("mp,mp->m", a, b)
    return found


def _norm(a: Array) -> Array:
    return np.sqrt(_inner(a, a))


class _Party:
    """Climbs on their way, each with a step length of its own."""

    def __init__(self, heights: Heights, starts: Tensor, reach: Tensor) -> None:
        self._function, self._reach = heights, reach.numpy()
        self.points = starts.clamp(-reach, reach).numpy()
        self.heights, self.gradients = self._ask(self.points)
        self.moving = np.isfinite(self.heights)
        count = len(self.points)
        self._memory = _Memory(self.points)
        self._gains = np.full((_RECENT, count), np.inf)
        self._length, self._tried = np.ones(count), np.zeros(count)
        self._way, self._promise = np.zeros_like(self.points), np.zeros(count)
        self._aim(np.flatnonzero(self.moving))

    def _ask(self, points: Array) -> tuple[Array, Array]:
        heights, gradients = self._function(torch.from_numpy(points))
        return heights.numpy(), gradients.numpy()

    def _aim(self, rows: Array) -> None:
        points, gradients = self.points[rows], self.gradients[rows]
        stuck = (np.abs(points) >= self._reach) & (gradients * points > 0)
        slope = np.where(stuck, 0, gradients)
        way = np.where(slope == 0, 0, self._memory.direction(slope, rows))
        promise = _inner(way, slope)
        steepest = slope / np.maximum(_norm(slope), 1.0)[:, None]
        way = np.where((promise > 0)[:, None], way, steepest)
        largest = np.maximum(np.abs(way).max(-1, initial=0.0), 1e-300)[:, None]
        self._way[rows] = way = way * np.minimum(LONGEST / largest, 1)
        self._promise[rows] = _inner(way, slope)

    def step(self, tolerance: float) -> None:
        """Moves every climb that is still going, or shortens its step."""
        rows = np.flatnonzero(self.moving)
        length, promise = self._length[rows], self._promise[rows]
        points = self.points[rows] + length[:, None] * self._way[rows]
        points = points.clip(-self._reach, self._reach)
        heights, gradients = self._ask(points)
        gain = heights - self.heights[rows]
        rounding = 1e-10 * (1 + np.abs(self.heights[rows]))
        good = np.isfinite(heights) & (gain >= _RISE * length * promise - rounding)
        up, down = rows[good], rows[~good]
        bends = self.gradients[up] - gradients[good]
        self._memory.push(up, points[good] - self.points[up], bends)
        self.points[up], self.heights[up] = points[good], heights[good]
        self.gradients[up] = gradients[good]
        self._gains[1:, up] = self._gains[:-1, up]
        self._gains[0, up] = gain[good]
        self._length[up], self._tried[up] = 1.0, 0
        # Of a parabola; where there is no height, as short as can be.
        reduced, lost = length[~good], ~np.isfinite(gain[~good])
        rest = reduced * promise[~good] - np.where(lost, 0, gain[~good])
        shorter = np.where(lost, 0, 0.5 * promise[~good] * reduced**2 / rest)
        self._length[down] = shorter.clip(0.1 * reduced, 0.5 * reduced)
        self._tried[down] += 1
        self._aim(up)
        self._stop(tolerance)

    def _stop(self, tolerance: float) -> None:
        recent = self._gains.sum(0)
        arrived = recent < tolerance
        arrived |= (self._promise < 0.1 * tolerance) & (self._gains[0] < 0.1 * tolerance)
        # The measure are climbs that have arrived, and not at the end of their range.
        inside = np.abs(self.points) < np.where(np.isfinite(self._reach), RUNNING, np.inf)
        best = self.heights.max(where=arrived & inside.all(-1), initial=-np.inf)
        behind = best - self.heights > np.maximum(_BEHIND, _HOPELESS * recent)
        self.moving &= ~(arrived | behind | (self._tried > _TRIED))


def climb(
    heights: Heights,
    starts: Tensor,
    *,
    bounded: Tensor,
    steps: int,
    tolerance: float,
    each: Each | None = None,
) -> Climbs:
    """Maximises a function from many starts by L-BFGS (Liu & Nocedal 1989), all in one batch.

    A climb ends when its last steps gained less than ``tolerance`` together, or no step gains.

    Args:
        heights: the function.
        starts: points (M, P) to start from.
        bounded: coordinates that stay within ``RANGE`` of zero, (P,) bool.
        steps: number of evaluations at most.
        tolerance: nats.
        each: called after every step.
    """
    party = _Party(heights, starts, reach_of(bounded))
    trace = [party.heights.copy()]
    while party.moving.any() and len(trace) <= steps:
        party.step(tolerance)
        trace.append(party.heights.copy())
        if each is not None:
            best = int(party.heights.argmax())
            each(torch.from_numpy(party.points[best].copy()), float(party.heights[best]))
    ends = party.points, party.heights, party.gradients, np.stack(trace), party.moving
    return Climbs(*(torch.from_numpy(x) for x in ends))


def reach_of(bounded: Tensor) -> Tensor:
    """How far each coordinate may be from zero, (P,)."""
    return torch.where(bounded, RANGE, torch.inf).double()


def held(points: Tensor, gradients: Tensor, reach: Tensor) -> Tensor:
    """Coordinates at the end of their range where the function rises further, (…, P) bool."""
    return (points.abs() >= reach) & (gradients * points > 0)
