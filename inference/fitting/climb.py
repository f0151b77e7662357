"""Maximisation of a smooth function of unit-free coordinates from many starts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

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

_MEMORY = 10
"""Steps that L-BFGS remembers."""

_RECENT = 5
"""Steps whose joint gain decides whether a climb has arrived."""

_TRIED = 12
"""Shorter and shorter steps that are tried before a climb is given up."""

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

    def __init__(self, starts: Tensor) -> None:
        self._moves = starts.new_zeros(_MEMORY, *starts.shape)
        self._bends = torch.zeros_like(self._moves)
        self._weights = starts.new_zeros(_MEMORY, len(starts))

    def push(self, rows: Tensor, moves: Tensor, bends: Tensor) -> None:
        """Remembers steps of some climbs, and by how much their gradients fell."""
        inner = (moves * bends).sum(-1)
        curved = inner > 1e-10 * moves.norm(dim=-1) * bends.norm(dim=-1)
        rows = rows[curved]
        for kept, new in (
            (self._moves, moves[curved]),
            (self._bends, bends[curved]),
            (self._weights, 1 / inner[curved]),
        ):
            kept[1:, rows] = kept[:-1, rows].clone()
            kept[0, rows] = new

    def direction(self, slope: Tensor) -> Tensor:
        """The direction (M, P) for gradients (M, P), by the two loops of Nocedal (1980)."""
        turned, shares = slope.clone(), []
        for move, bend, weight in zip(self._moves, self._bends, self._weights, strict=True):
            shares.append(weight * (move * turned).sum(-1))
            turned = turned - shares[-1].unsqueeze(-1) * bend
        square = self._bends[0].square().sum(-1)
        usual = (self._moves[0] * self._bends[0]).sum(-1) / square.clamp_min(1e-300)
        first = 1 / slope.norm(dim=-1).clamp_min(1.0)
        turned = turned * torch.where(square > 0, usual, first).unsqueeze(-1)
        for place in reversed(range(_MEMORY)):
            bend, weight = self._bends[place], self._weights[place]
            back = shares[place] - weight * (bend * turned).sum(-1)
            turned = turned + back.unsqueeze(-1) * self._moves[place]
        return turned


class _Party:
    """Climbs on their way, each with a step length of its own."""

    def __init__(self, heights: Heights, starts: Tensor, reach: Tensor) -> None:
        self._function, self._reach = heights, reach
        self.points = starts.clamp(-reach, reach)
        self.heights, self.gradients = heights(self.points)
        self.moving = self.heights.isfinite()
        self._memory = _Memory(starts)
        self._gains = starts.new_full((_RECENT, len(starts)), torch.inf)
        self._length, self._tried = torch.ones_like(self.heights), torch.zeros_like(self.heights)
        self._aim()

    def _aim(self) -> None:
        slope = torch.where(held(self.points, self.gradients, self._reach), 0, self.gradients)
        way = torch.where(slope == 0, 0, self._memory.direction(slope))
        promise = (way * slope).sum(-1)
        steepest = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1.0)
        way = torch.where((promise > 0).unsqueeze(-1), way, steepest)
        largest = way.abs().amax(-1, keepdim=True).clamp_min(1e-300)
        self._way = way * (LONGEST / largest).clamp_max(1)
        self._promise = (self._way * slope).sum(-1)

    def step(self, tolerance: float) -> None:
        """Moves every climb that is still going, or shortens its step."""
        rows = self.moving.nonzero()[:, 0]
        length, promise = self._length[rows], self._promise[rows]
        points = self.points[rows] + length.unsqueeze(-1) * self._way[rows]
        points = points.clamp(-self._reach, self._reach)
        heights, gradients = self._function(points)
        gain = heights - self.heights[rows]
        rounding = 1e-10 * (1 + self.heights[rows].abs())
        good = heights.isfinite() & (gain >= _RISE * length * promise - rounding)
        up, down = rows[good], rows[~good]
        bends = self.gradients[up] - gradients[good]
        self._memory.push(up, points[good] - self.points[up], bends)
        self.points[up], self.heights[up] = points[good], heights[good]
        self.gradients[up] = gradients[good]
        self._gains[1:, up] = self._gains[:-1, up].clone()
        self._gains[0, up] = gain[good]
        self._length[up], self._tried[up] = 1.0, 0
        fitted = 0.5 * promise * length.square() / (length * promise - gain)  # of a parabola
        shorter = torch.where(gain.isfinite(), fitted, 0)[~good]
        self._length[down] = shorter.clamp(0.1 * length[~good], 0.5 * length[~good])
        self._tried[down] += 1
        self._aim()
        arrived = self._gains.sum(0) < tolerance
        arrived |= (self._promise < 0.1 * tolerance) & (self._gains[0] < 0.1 * tolerance)
        self.moving &= ~(arrived | (self._tried > _TRIED))


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
    trace = [party.heights.clone()]
    while bool(party.moving.any()) and len(trace) <= steps:
        party.step(tolerance)
        trace.append(party.heights.clone())
        if each is not None:
            best = int(party.heights.argmax())
            each(party.points[best].clone(), float(party.heights[best]))
    return Climbs(party.points, party.heights, party.gradients, torch.stack(trace), party.moving)


def reach_of(bounded: Tensor) -> Tensor:
    """How far each coordinate may be from zero, (P,)."""
    return torch.where(bounded, RANGE, torch.inf).double()


def held(points: Tensor, gradients: Tensor, reach: Tensor) -> Tensor:
    """Coordinates at the end of their range where the function rises further, (…, P) bool."""
    return (points.abs() >= reach) & (gradients * points > 0)
