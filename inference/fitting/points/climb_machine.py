"""Climbs by L-BFGS on heights in closed form, as machine code.

A climber is a row of numbers that holds all that a climb remembers: vectors first, then single
numbers. Compiled on first use and kept on disk by numba.
"""

import math
from typing import Any

import numpy as np

from ...exact.compiled import compiled
from ...exact.families_machine import OPTIONS
from .closed_machine import Array, Whole, height_of

_fast: Any = compiled(**OPTIONS, _nrt=False)

HEIGHT, STATE, LENGTH, TRIES, PROMISE, KNOWN, LOST, GAINS = range(8)
"""Places of numbers in a climber, after its vectors; gains of the last steps, and weights of those
that are remembered, come last."""

NEW, MOVING, ENDED, BLOCKED = 0.0, 1.0, 2.0, 3.0
"""States of a climber; a blocked one met points whose height this code cannot tell."""

POINT, GRADIENT, WAY, MOVES = range(4)
"""Places of vectors in a climber; moves and bends of the steps that are remembered, the latest
first, come last."""


@_fast
def _inner(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_fast
def _direct(singles: Array, vectors: Array, memory: int, way: Array, shares: Array) -> None:
    """Turns a slope into the direction of L-BFGS, by the two loops of Nocedal (1980)."""
    known, size = int(singles[KNOWN]), len(way)
    weights = singles[len(singles) - memory :]
    first = 1.0 / max(math.sqrt(_inner(way, way)), 1.0)
    for m in range(known):
        move, bend = vectors[MOVES + m], vectors[MOVES + memory + m]
        shares[m] = weights[m] * _inner(move, way)
        for i in range(size):
            way[i] -= shares[m] * bend[i]
    if known:
        bend = vectors[MOVES + memory]
        first = 1.0 / (weights[0] * max(_inner(bend, bend), 1e-300))
    for i in range(size):
        way[i] *= first
    for m in range(known - 1, -1, -1):
        move, bend = vectors[MOVES + m], vectors[MOVES + memory + m]
        share = shares[m] - weights[m] * _inner(bend, way)
        for i in range(size):
            way[i] += share * move[i]


@_fast
def _aim(singles: Array, vectors: Array, reach: Array, rules: Any, own: Any) -> None:
    """The way of the next step, and the gain that its gradient promises."""
    point, gradient, way = vectors[POINT], vectors[GRADIENT], vectors[WAY]
    slope = own[0][2]
    for i in range(len(point)):
        stuck = abs(point[i]) >= reach[i] and gradient[i] * point[i] > 0.0
        slope[i] = 0.0 if stuck else gradient[i]
        way[i] = slope[i]
    _direct(singles, vectors, rules[0], way, own[1])
    promise = 0.0
    for i in range(len(point)):
        way[i] = 0.0 if slope[i] == 0.0 else way[i]
        promise += way[i] * slope[i]
    steepest = 1.0 / max(math.sqrt(_inner(slope, slope)), 1.0)
    largest = 1e-300
    for i in range(len(point)):
        way[i] = way[i] if promise > 0.0 else slope[i] * steepest
        largest = max(largest, abs(way[i]))
    factor = min(rules[2] / largest, 1.0)
    for i in range(len(point)):
        way[i] *= factor
    singles[PROMISE] = _inner(way, slope)
    singles[LENGTH], singles[TRIES], singles[LOST] = 1.0, 0.0, 0.0


@_fast
def _remember(singles: Array, vectors: Array, memory: int, point: Array, gradient: Array) -> None:
    """Keeps a step, and by how much the gradient fell, unless the function bends upwards."""
    inner, moved, bent = 0.0, 0.0, 0.0
    for i in range(len(point)):
        move, bend = point[i] - vectors[POINT, i], vectors[GRADIENT, i] - gradient[i]
        inner += move * bend
        moved += move * move
        bent += bend * bend
    if not inner > 1e-10 * math.sqrt(moved) * math.sqrt(bent):
        return
    weights = singles[len(singles) - memory :]
    for m in range(memory - 1, 0, -1):
        weights[m] = weights[m - 1]
        for i in range(len(point)):
            vectors[MOVES + m, i] = vectors[MOVES + m - 1, i]
            vectors[MOVES + memory + m, i] = vectors[MOVES + memory + m - 1, i]
    weights[0] = 1.0 / inner
    for i in range(len(point)):
        vectors[MOVES, i] = point[i] - vectors[POINT, i]
        vectors[MOVES + memory, i] = vectors[GRADIENT, i] - gradient[i]
    singles[KNOWN] = min(singles[KNOWN] + 1.0, float(memory))


@_fast
def _shorten(singles: Array, height: float) -> None:
    """A shorter step, of a parabola; where there is no height, as short as can be."""
    length, promise, shorter = singles[LENGTH], singles[PROMISE], 0.0
    if height > -np.inf:
        rest = length * promise - (height - singles[HEIGHT])
        shorter = 0.5 * promise * length * length / rest
    else:
        singles[LOST] = 1.0
    singles[LENGTH] = min(max(shorter, 0.1 * length), 0.5 * length)
    singles[TRIES] += 1.0


@_fast
def _judge(singles: Array, rules: Any, tolerance: float) -> None:
    """Ends a climb that has arrived, or whose steps gain nothing."""
    recent = 0.0
    for i in range(rules[1]):
        recent += singles[GAINS + i]
    little = singles[PROMISE] < 0.1 * tolerance and singles[GAINS] < 0.1 * tolerance
    if recent < tolerance or little:
        singles[STATE] = ENDED
    elif singles[TRIES] > rules[4]:
        singles[STATE] = BLOCKED if singles[LOST] > 0.0 else ENDED


@_fast
def _accept(singles: Array, vectors: Array, rules: Any, tried: Array, height: float) -> bool:
    """Moves a climber to the point that was tried, or shortens its step; a new one begins there."""
    point, gradient = tried[0], tried[1]
    gain = height - singles[HEIGHT]
    if singles[STATE] == NEW:
        singles[STATE] = MOVING if height > -np.inf else BLOCKED
        gain = np.inf
        for i in range(rules[1]):
            singles[GAINS + i] = np.inf
    else:
        rounding = 1e-10 * (1.0 + abs(singles[HEIGHT]))
        if not gain >= rules[3] * singles[LENGTH] * singles[PROMISE] - rounding:
            _shorten(singles, height)
            return False
        _remember(singles, vectors, rules[0], point, gradient)
    for i in range(len(point)):
        vectors[POINT, i], vectors[GRADIENT, i] = point[i], gradient[i]
    for i in range(rules[1] - 1, 0, -1):
        singles[GAINS + i] = singles[GAINS + i - 1]
    singles[HEIGHT], singles[GAINS] = height, gain
    return True


@compiled(**OPTIONS)
def advance(
    climbers: Array,
    reach: Array,
    rules: Any,
    tolerance: float,
    form: Any,
    frames: Any,
    room: Any,
    trace: Array,
    needed: Whole,
) -> None:
    """Moves climbers by as many evaluations as ``trace`` has rows.

    Args:
        climbers: (m, W); of new ones only the points are read.
        reach: how far each coordinate may be from zero, (P,).
        rules: steps that are remembered, steps whose joint gain counts, most that a coordinate
            moves in a step, share of the promised gain that a step must have, shorter steps that
            are tried.
        tolerance: nats.
        form, frames: see ``Closed``.
        room: of a height, see ``room_for``, and of a step: (3, P), and a number a remembered step.
        trace: is filled with the heights after each evaluation, (S, m).
        needed: becomes the number of evaluations until all have ended, (1,).
    """
    size, first = len(reach), MOVES + 2 * rules[0]
    of_height, own = room
    point, gradient = own[0][0], own[0][1]
    for m in range(len(climbers)):
        vectors = climbers[m, : first * size].reshape(first, size)
        singles = climbers[m, first * size :]
        s = -1 if singles[STATE] == NEW else 0
        while s < len(trace):
            if s < 0 or singles[STATE] == MOVING:
                for i in range(size):
                    y = vectors[POINT, i] + singles[LENGTH] * vectors[WAY, i]
                    point[i] = min(max(y, -reach[i]), reach[i])
                height = height_of(point, form, frames, of_height, gradient)
                if _accept(singles, vectors, rules, own[0], height):
                    _aim(singles, vectors, reach, rules, own)
                if s >= 0:
                    needed[0] = max(needed[0], s + 1)
                    _judge(singles, rules, tolerance)
            if s >= 0:
                trace[s, m] = singles[HEIGHT]
            s += 1
