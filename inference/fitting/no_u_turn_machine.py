"""The no-U-turn sampler as machine code that asks for one height after the other.

A chain waits at a point until it is told the height and the slope there, and goes on to the next
point of its trajectory. So the same code serves functions in machine code, which it calls without
return to Python, and any other, of which many chains ask at once. Points of a trajectory are drawn
by their weights (Betancourt 2017), trees are built without recursion (Phan et al. 2019), step size
and metric adapt in the windows of Stan. Compiled on first use and kept on disk by numba.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exact.compiled import compiled
from ..exact.families_machine import OPTIONS
from .points.climb_machine import _inner
from .points.closed_machine import height_of

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_fast: Any = compiled(**OPTIONS)

POINT, MOMENTUM, SLOPE, LEFT, RIGHT, KEPT, KEPT_SLOPE = 0, 1, 2, 3, 6, 9, 10
TRIED, TRIED_SLOPE, SUM, PART, SPEED, MARKS = 11, 12, 13, 14, 15, 16
"""Places of vectors in a chain: where it waits; both ends of the trajectory, each a point, its
momentum and slope; the point drawn of the whole and of the part that is being added; the sums of
their momenta; a velocity; then, twice a level of the tree, momenta and sums at marks."""

(
    HEIGHT, ENERGY, WEIGHT, DEPTH, ACCEPTED, LEAVES, SIDE, PART_WEIGHT, LEAF, TRIED_HEIGHT, STEP,
    ROUND, ERROR, ANCHOR, LOG_MEAN, COUNT, DONE, BEGUN, MEAN_ACCEPTED, USED, SINGLES,
) = range(21)  # fmt: skip
"""Places of numbers in a chain."""

DIVERGED = 1000.0
"""Nats by which the energy of a trajectory may be wrong."""

_SHRINKAGE, _DELAY, _FORGETTING = 0.05, 10.0, 0.75
"""Dual averaging of the logarithm of the step size, see Hoffman & Gelman (2014)."""

_PRIOR_DRAWS, _LEAST_SHARE = 5.0, 1e-3
"""A metric of few draws keeps as much of the one before, as if it were so many draws."""

CHOICES = 3
"""Uniform numbers that a chain needs at most, beside a momentum, before it asks again."""

STEP_ONLY, COLLECTED, RENEWED = 0, 1, 2
"""What a step of the warm-up does beside adapting the step size."""


class Chain(NamedTuple):
    """A chain on its way: all that it remembers.

    Args:
        vectors: see above, (V, P).
        singles: see above, (SINGLES,).
        covariance: of the posterior as far as it is known, whose inverse is the mass matrix; one
            row if only its diagonal counts, (R, P).
        root: its lower Cholesky factor, or the square roots of the diagonal, (R, P).
        mean, squares: of the draws of the present window, (P,) and (R, P).
        draws: what is kept, (D, P).
        told: height of every draw, and 1 where its trajectory diverged, (D, 2).
        plan: what each step of the warm-up does, (W,).
        depth, target: largest depth of a tree, and mean acceptance that is aimed at.
        noise: uniform and standard normal numbers, (2, N), for directions, choices and momenta.
    """

    vectors: Array
    singles: Array
    covariance: Array
    root: Array
    mean: Array
    squares: Array
    draws: Array
    told: Array
    plan: Whole
    depth: int
    target: float
    noise: Array


@_fast
def _copy(source: Array, target: Array) -> None:
    for i in range(len(source)):
        target[i] = source[i]


@_fast
def _uniform(chain: Any) -> float:
    chain.singles[USED] += 1.0
    return float(chain.noise[0, int(chain.singles[USED]) - 1])


@_fast
def _speed(chain: Any, momentum: Array, i: int) -> float:
    """One entry of the velocity that a momentum is."""
    if len(chain.covariance) == 1:
        return float(chain.covariance[0, i] * momentum[i])
    return float(_inner(chain.covariance[i], momentum))


@_fast
def _velocity(chain: Any, momentum: Array, found: Array) -> None:
    for i in range(len(momentum)):
        found[i] = _speed(chain, momentum, i)


@_fast
def _draw_momentum(chain: Any, found: Array) -> None:
    """Solves L' p = z for standard normal z."""
    rows, size = len(chain.root), len(found)
    begin = int(chain.singles[USED])
    chain.singles[USED] += float(size)
    for i in range(size):
        found[i] = chain.noise[1, begin + i]
    for i in range(size - 1, -1, -1):
        if rows == 1:
            found[i] /= chain.root[0, i]
            continue
        for k in range(i + 1, size):
            found[i] -= chain.root[k, i] * found[k]
        found[i] /= chain.root[i, i]


@_fast
def _log_add(a: float, b: float) -> float:
    larger = max(a, b)
    if larger == -np.inf:
        return larger
    return larger + math.log1p(math.exp(-abs(a - b)))


@_fast
def _turns(chain: Any, first: Array, last: Array, total: Array, without: Array) -> bool:
    """Whether momenta at two ends point away from the way between them.

    That is the sum of the momenta, half of the ends left out, times metric and step size.
    ``without`` is left out of the total.
    """
    way, forth, back = chain.vectors[SPEED], 0.0, 0.0
    for i in range(len(way)):
        way[i] = total[i] - without[i] - 0.5 * (first[i] + last[i])
    for i in range(len(way)):
        speed = _speed(chain, way, i)
        forth += speed * first[i]
        back += speed * last[i]
    return not (forth > 0.0 and back > 0.0)


@_fast
def _leap(chain: Any) -> None:
    """Half a step of the momentum and a step of the point, to where a height is asked."""
    vectors, step = chain.vectors, chain.singles[STEP] * chain.singles[SIDE]
    point, momentum, slope = vectors[POINT], vectors[MOMENTUM], vectors[SLOPE]
    for i in range(len(point)):
        momentum[i] += 0.5 * step * slope[i]
    _velocity(chain, momentum, vectors[SPEED])
    for i in range(len(point)):
        point[i] += step * vectors[SPEED, i]


@_fast
def _double(chain: Any) -> None:
    """Begins to add a part as long as the whole, at one of its ends."""
    vectors, singles = chain.vectors, chain.singles
    singles[SIDE] = 1.0 if _uniform(chain) < 0.5 else -1.0
    end = RIGHT if singles[SIDE] > 0.0 else LEFT
    for i in range(3):
        _copy(vectors[end + i], vectors[POINT + i])
    singles[PART_WEIGHT], singles[LEAF] = -np.inf, 0.0
    for i in range(vectors.shape[1]):
        vectors[PART, i] = 0.0
    _leap(chain)


@_fast
def _begin(chain: Any) -> None:
    """Begins a trajectory at the present draw, with a momentum of its own."""
    vectors, singles = chain.vectors, chain.singles
    _draw_momentum(chain, vectors[MOMENTUM])
    for end in (LEFT, RIGHT):
        _copy(vectors[KEPT], vectors[end])
        _copy(vectors[MOMENTUM], vectors[end + 1])
        _copy(vectors[KEPT_SLOPE], vectors[end + 2])
    _copy(vectors[MOMENTUM], vectors[SUM])
    _velocity(chain, vectors[MOMENTUM], vectors[SPEED])
    singles[ENERGY] = 0.5 * _inner(vectors[MOMENTUM], vectors[SPEED]) - singles[HEIGHT]
    singles[WEIGHT] = singles[DEPTH] = singles[ACCEPTED] = singles[LEAVES] = 0.0
    _double(chain)


@_fast
def _mark(chain: Any) -> bool:
    """Remembers the momentum of an even leaf; whether a subtree that ends at an odd one turns.

    Marks are numbered by the ones in the binary number of the leaf before its last digit; the ones
    at its end say how many subtrees end there.
    """
    vectors, leaf = chain.vectors, int(chain.singles[LEAF])
    level, rest = 0, leaf >> 1
    while rest > 0:
        level, rest = level + (rest & 1), rest >> 1
    if leaf % 2 == 0:
        _copy(vectors[MOMENTUM], vectors[MARKS + 2 * level])
        for i in range(vectors.shape[1]):
            before = vectors[PART, i] - vectors[MOMENTUM, i]
            vectors[MARKS + 2 * level + 1, i] = before
        return False
    rest = leaf
    while rest & 1:
        mark = MARKS + 2 * level
        if _turns(chain, vectors[mark], vectors[MOMENTUM], vectors[PART], vectors[mark + 1]):
            return True
        level, rest = level - 1, rest >> 1
    return False


@_fast
def _joined(chain: Any) -> bool:
    """Adds the finished part to the whole; whether the trajectory goes on."""
    vectors, singles = chain.vectors, chain.singles
    if _uniform(chain) < math.exp(singles[PART_WEIGHT] - singles[WEIGHT]):
        _copy(vectors[TRIED], vectors[KEPT])
        _copy(vectors[TRIED_SLOPE], vectors[KEPT_SLOPE])
        singles[HEIGHT] = singles[TRIED_HEIGHT]
    singles[WEIGHT] = _log_add(singles[WEIGHT], singles[PART_WEIGHT])
    end = RIGHT if singles[SIDE] > 0.0 else LEFT
    for i in range(3):
        _copy(vectors[POINT + i], vectors[end + i])
    for i in range(vectors.shape[1]):
        vectors[SUM, i] += vectors[PART, i]
        vectors[PART, i] = 0.0
    singles[DEPTH] += 1.0
    if singles[DEPTH] >= chain.depth:
        return False
    first, last = vectors[LEFT + 1], vectors[RIGHT + 1]
    return not _turns(chain, first, last, vectors[SUM], vectors[PART])


@_fast
def _aim(singles: Array, step: float) -> None:
    """Begins to adapt the step size, from ten times the present one."""
    singles[STEP] = step
    singles[ANCHOR] = math.log(10.0 * step)
    singles[ROUND] = singles[ERROR] = 0.0
    singles[LOG_MEAN] = math.log(step)


@_fast
def _adapt_step(singles: Array, missed: float) -> None:
    singles[ROUND] += 1.0
    share = 1.0 / (singles[ROUND] + _DELAY)
    singles[ERROR] += share * (missed - singles[ERROR])
    log = singles[ANCHOR] - math.sqrt(singles[ROUND]) / _SHRINKAGE * singles[ERROR]
    weight = singles[ROUND] ** -_FORGETTING
    singles[LOG_MEAN] = weight * log + (1.0 - weight) * singles[LOG_MEAN]
    singles[STEP] = math.exp(log)


@_fast
def _collect(chain: Any) -> None:
    """Mean and squares of the draws so far, by Welford's sums."""
    draw, mean, squares = chain.vectors[KEPT], chain.mean, chain.squares
    chain.singles[COUNT] += 1.0
    count, size = chain.singles[COUNT], len(mean)
    for i in range(size):
        # (draw − new mean) = (draw − old mean) (count − 1) / count
        from_mean = (draw[i] - mean[i]) * (count - 1.0) / count
        if len(squares) == 1:
            squares[0, i] += from_mean * (draw[i] - mean[i])
            continue
        for k in range(size):
            squares[i, k] += from_mean * (draw[k] - mean[k])
    for i in range(size):
        mean[i] += (draw[i] - mean[i]) / count


@_fast
def factor(covariance: Array, root: Array) -> None:
    """The lower Cholesky factor; of a matrix that has none, the diagonal is kept alone."""
    size = covariance.shape[1]
    if len(covariance) == 1:
        for i in range(size):
            root[0, i] = math.sqrt(covariance[0, i])
        return
    sound = True
    for i in range(size):
        for k in range(i + 1):
            left = covariance[i, k]
            for m in range(k):
                left -= root[i, m] * root[k, m]
            if i == k:
                sound = sound and left > 0.0
                root[i, i] = math.sqrt(max(left, 0.0))
            else:
                root[i, k] = left / root[k, k]
    if sound:
        return
    for i in range(size):
        for k in range(size):
            covariance[i, k] = covariance[i, i] if i == k else 0.0
            root[i, k] = math.sqrt(covariance[i, i]) if i == k else 0.0


@_fast
def _renew(chain: Any) -> None:
    """Makes the covariance of the window's draws the metric, and begins a new window."""
    covariance, squares, count = chain.covariance, chain.squares, chain.singles[COUNT]
    for i in range(len(covariance)):
        for k in range(covariance.shape[1]):
            before = _LEAST_SHARE * _PRIOR_DRAWS * covariance[i, k]
            own = squares[i, k] * count / max(count - 1.0, 1.0)
            covariance[i, k] = (own + before) / (count + _PRIOR_DRAWS)
            squares[i, k] = 0.0
    for i in range(len(chain.mean)):
        chain.mean[i] = 0.0
    chain.singles[COUNT] = 0.0
    factor(covariance, chain.root)
    _aim(chain.singles, math.exp(chain.singles[LOG_MEAN]))


@_fast
def _end(chain: Any, diverged: bool) -> None:
    """Keeps the draw of a finished trajectory, or adapts to it; begins the next one."""
    singles, warmup = chain.singles, len(chain.plan)
    accepted = singles[ACCEPTED] / singles[LEAVES]
    step = int(singles[DONE])
    singles[DONE] += 1.0
    if step < warmup:
        _adapt_step(singles, chain.target - accepted)
        if chain.plan[step] != STEP_ONLY:
            _collect(chain)
        if chain.plan[step] == RENEWED:
            _renew(chain)
        if step == warmup - 1:
            singles[STEP] = math.exp(singles[LOG_MEAN])
    else:
        row = step - warmup
        _copy(chain.vectors[KEPT], chain.draws[row])
        chain.told[row, 0] = singles[HEIGHT]
        chain.told[row, 1] = 1.0 if diverged else 0.0
        singles[MEAN_ACCEPTED] += (accepted - singles[MEAN_ACCEPTED]) / (row + 1.0)
    if singles[DONE] < warmup + len(chain.draws):
        _begin(chain)


@_fast
def _told(chain: Any, height: float) -> None:
    """See ``tell``."""
    vectors, singles = chain.vectors, chain.singles
    momentum, slope = vectors[MOMENTUM], vectors[SLOPE]
    if singles[BEGUN] == 0.0:
        singles[BEGUN], singles[HEIGHT] = 1.0, height
        _copy(vectors[POINT], vectors[KEPT])
        _copy(slope, vectors[KEPT_SLOPE])
        _aim(singles, len(momentum) ** -0.25)
        _begin(chain)
        return
    for i in range(len(momentum)):
        momentum[i] += 0.5 * singles[STEP] * singles[SIDE] * slope[i]
        vectors[PART, i] += momentum[i]
    _velocity(chain, momentum, vectors[SPEED])
    weight = singles[ENERGY] - 0.5 * _inner(momentum, vectors[SPEED]) + height
    singles[LEAVES] += 1.0
    if not weight > -DIVERGED:
        _end(chain, True)
        return
    singles[ACCEPTED] += math.exp(min(weight, 0.0))
    singles[PART_WEIGHT] = _log_add(singles[PART_WEIGHT], weight)
    if _uniform(chain) < math.exp(weight - singles[PART_WEIGHT]):
        _copy(vectors[POINT], vectors[TRIED])
        _copy(slope, vectors[TRIED_SLOPE])
        singles[TRIED_HEIGHT] = height
    turned = _mark(chain)
    singles[LEAF] += 1.0
    if turned:
        _end(chain, False)
    elif singles[LEAF] < 2.0 ** singles[DEPTH]:
        _leap(chain)
    elif _joined(chain):
        _double(chain)
    else:
        _end(chain, False)


@compiled(**OPTIONS)
def tell(chain: Any, height: float) -> None:
    """Tells a chain the height of the point where it waits, −∞ outside; it moves on to the next.

    Args:
        chain: see ``Chain``; the slope there has been written to its vectors.
        height: nats.
    """
    _told(chain, height)


@compiled(**OPTIONS)
def advance(chain: Any, until: int, form: Any, frames: Any, room: Any) -> None:
    """Moves a chain on until it has taken so many steps, its noise is used up, or it waits at a
    point of no height.

    Args:
        chain: see ``Chain``.
        until: steps of warm-up and draws together.
        form, frames, room: see ``Closed`` and ``room_for``.
    """
    point, slope = chain.vectors[POINT], chain.vectors[SLOPE]
    last = chain.noise.shape[1] - len(point) - CHOICES
    while chain.singles[DONE] < until and chain.singles[USED] <= last:
        height = height_of(point, form, frames, room, slope)
        if not height > -np.inf:
            return
        _told(chain, height)
