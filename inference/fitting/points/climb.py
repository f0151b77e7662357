"""Maximisation of a smooth function of unit-free coordinates from many starts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

Heights = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function of points (M, P): its values (M,) in nats and its gradients (M, P); −inf and zeros
where there is no value."""

Prior = Literal["none", "parameters", "coordinates"]
"""Which density counts beside the likelihood, see ``Landscape``."""

Ending = Literal["converged", "steps used up", "unbounded", "stalled"]

Each = Callable[[Tensor, float, int], None]
"""Called after steps with the highest point (P,), its height, and the number of steps."""

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


RULES = _RECENT, LONGEST, _RISE, float(_TRIED)
"""The same for machine code."""

SLICE = 16
"""Steps that climbers of machine code take before they are compared."""


class Climbers(NamedTuple):
    """Climbs in machine code on their way, each a row of numbers.

    Args:
        rows: all that they remember, (M, W).
        size: number of coordinates P.
        memory: number of steps that L-BFGS remembers.
    """

    rows: Array
    size: int
    memory: int

    @classmethod
    def of(cls, starts: Array, memory: int = _MEMORY) -> Self:
        """New ones at starts (M, P)."""
        from .climb_machine import GAINS, MOVES

        count, size = starts.shape
        rows = np.zeros((count, (MOVES + 2 * memory) * size + GAINS + _RECENT + memory))
        rows[:, :size] = starts
        return cls(rows, size, memory)

    @property
    def points(self) -> Array:
        """(M, P)"""
        return self.rows[:, : self.size]

    @property
    def gradients(self) -> Array:
        """(M, P)"""
        return self.rows[:, self.size : 2 * self.size]

    @property
    def heights(self) -> Array:
        """(M,) nats."""
        from .climb_machine import HEIGHT

        return self._singles[:, HEIGHT]

    @property
    def gained(self) -> Array:
        """What the last steps gained, (M,) nats."""
        from .climb_machine import GAINS

        found: Array = self._singles[:, GAINS : GAINS + _RECENT].sum(-1)
        return found

    @property
    def states(self) -> Array:
        """Whether they move, (M,), see ``climb_machine``."""
        from .climb_machine import STATE

        return self._singles[:, STATE]

    @property
    def _singles(self) -> Array:
        from .climb_machine import MOVES

        return self.rows[:, (MOVES + 2 * self.memory) * self.size :]


@runtime_checkable
class Machine(Protocol):
    """Heights on which climbs are machine code, if they can be."""

    @property
    def climbs(self) -> bool:
        """Whether they can."""

    def advance(
        self, climbers: Climbers, reach: Tensor, steps: int, tolerance: float
    ) -> tuple[Climbers, Array]:
        """The climbers after so many more evaluations, at most, and their heights (S, M)."""


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
        behind = _behind(self.points, self.heights, recent, arrived, self._reach)
        self.moving &= ~(arrived | behind | (self._tried > _TRIED))


def _behind(points: Array, heights: Array, recent: Array, arrived: Array, reach: Array) -> Array:
    """Which climbs, (M,) bool, will not reach the best of those that have arrived.

    The measure are climbs that have arrived, and not at the end of their range.
    """
    inside = np.abs(points) < np.where(np.isfinite(reach), RUNNING, np.inf)
    best = heights.max(where=arrived & inside.all(-1), initial=-np.inf)
    found: Array = heights < best - np.maximum(_BEHIND, _HOPELESS * recent)
    return found


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
    reach = reach_of(bounded)
    if not isinstance(heights, Machine) or not heights.climbs:
        return _by_turns(heights, starts, reach, steps, tolerance, each)
    found, left = _by_machine(heights, starts, reach, steps, tolerance, each)
    if not left.any():
        return found
    rows = torch.from_numpy(left)
    others = _by_turns(heights, starts[rows], reach, steps, tolerance, each)
    return _joined(found, others, rows)


def _by_turns(
    heights: Heights,
    starts: Tensor,
    reach: Tensor,
    steps: int,
    tolerance: float,
    each: Each | None,
) -> Climbs:
    """All climbs take a step, and then the next one."""
    party = _Party(heights, starts, reach)
    trace = [party.heights.copy()]
    while party.moving.any() and len(trace) <= steps:
        party.step(tolerance)
        trace.append(party.heights.copy())
        if each is not None:
            best = int(party.heights.argmax())
            each(torch.from_numpy(party.points[best].copy()), float(party.heights[best]), 1)
    ends = party.points, party.heights, party.gradients, np.stack(trace), party.moving
    return Climbs(*(torch.from_numpy(x) for x in ends))


def _by_machine(
    machine: Machine,
    starts: Tensor,
    reach: Tensor,
    steps: int,
    tolerance: float,
    each: Each | None,
) -> tuple[Climbs, Array]:
    """Climbs in machine code, and which of them it had to leave, (M,) bool."""
    from .climb_machine import BLOCKED, ENDED, MOVING

    climbers, _ = machine.advance(Climbers.of(starts.numpy()), reach, 0, tolerance)
    traces, done = [climbers.heights[None].copy()], 0
    while (climbers.states == MOVING).any() and done < steps:
        size = min(SLICE, steps - done)
        climbers, trace = machine.advance(climbers, reach, size, tolerance)
        traces.append(trace)
        done += len(trace)
        arrived = climbers.states == ENDED
        found = climbers.points, climbers.heights, climbers.gained
        behind = _behind(*found, arrived, reach.numpy())
        climbers.states[behind & (climbers.states == MOVING)] = ENDED
        if each is not None:
            best = int(climbers.heights.argmax())
            point = torch.from_numpy(climbers.points[best].copy())
            each(point, float(climbers.heights[best]), len(trace))
    moving = climbers.states == MOVING
    ends = climbers.points, climbers.heights, climbers.gradients, np.concatenate(traces), moving
    return Climbs(*(torch.from_numpy(x.copy()) for x in ends)), climbers.states == BLOCKED


def _joined(some: Climbs, others: Climbs, rows: Tensor) -> Climbs:
    """Climbs of which those in some rows are others."""
    length = max(len(some.trace), len(others.trace))
    long, short = (
        torch.cat([one.trace, one.trace[-1:].expand(length - len(one.trace), -1)])
        for one in (some, others)
    )
    long[:, rows] = short
    ends = some._replace(trace=long)
    for name in ("points", "heights", "gradients", "moving"):
        getattr(ends, name)[rows] = getattr(others, name)
    return ends


def reach_of(bounded: Tensor) -> Tensor:
    """How far each coordinate may be from zero, (P,)."""
    return torch.where(bounded, RANGE, torch.inf).double()


def held(points: Tensor, gradients: Tensor, reach: Tensor) -> Tensor:
    """Coordinates at the end of their range where the function rises further, (…, P) bool."""
    return (points.abs() >= reach) & (gradients * points > 0)
