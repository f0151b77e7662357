"""Heights of chains in closed form, and their gradients, as machine code.

A form says how coordinates v become p(z_1), T and the coefficients of the statistics of the data,
see ``closed.py``. The derivatives are expected counts, carried back through the same few maps.
Compiled on first use and kept on disk by numba.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...exact.compiled import compiled
from ...exact.families_machine import OPTIONS, counts_of

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Form = tuple[Whole, Whole, Whole, Array, Array, Array, Array, Array]
"""See ``Closed``."""
Frames = tuple[Array, Whole, Array, Whole]

_fast: Any = compiled(**OPTIONS, _nrt=False)

REAL, EXP, LOGISTIC, STICKS = range(4)
"""Maps of a block: its numbers as they are, exp, 1 / (1 + exp −x), shares of what is left."""

NORMAL, COUNTS, SYMBOLS, BITS, LINES = range(5)
"""Emissions of a channel."""

_LEAST = float(np.finfo(np.float64).tiny)
_MOST = 1 - float(np.finfo(np.float64).eps)
_WIDE = math.log(2 * math.pi)


@_fast
def _values(x: Array, blocks: Whole, theta: Array) -> float:
    """Parameters from unconstrained numbers; the logarithm of the volume that ordering takes."""
    stretched = 0.0
    for b in range(len(blocks)):
        kind, at, to, rows = blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3]
        size = blocks[b, 4]
        if kind == STICKS:
            for _ in range(rows):
                left = 1.0
                for i in range(size - 1):
                    share = 1.0 / (1.0 + math.exp(math.log(size - 1.0 - i) - x[at]))
                    share = min(max(share, _LEAST), _MOST)
                    theta[to] = share * left
                    left *= 1.0 - share
                    at, to = at + 1, to + 1
                theta[to] = left
                to += 1
            continue
        last = 0.0
        for i in range(rows * size):
            y = x[at + i]
            if blocks[b, 6]:
                stretched += y if i else 0.0
                last += math.exp(y) if i else y
                y = last
            if kind == EXP:
                y = math.exp(y)
            elif kind == LOGISTIC:
                y = min(max(1.0 / (1.0 + math.exp(-y)), _LEAST), _MOST)
            theta[to + i] = y
    return stretched


@_fast
def _line_coefficients(theta: Array, channel: Whole, units: Array, k: int, found: Array) -> None:
    """Coefficients of the residuals of a state, see ``Regression.statistics``."""
    size, j, one, two = channel[1], channel[2], channel[3], channel[4]
    inputs, lags = channel[7], channel[8]
    for f in range(size):
        scale, at = theta[two + k * size + f], j + size + f * (2 + inputs + 2 * lags * size)
        found[k, j + f] = -0.5 * _WIDE - math.log(scale)
        found[k, at] = units[j + f, 1] / scale
        found[k, at + 1] = (units[j + f, 0] - theta[one + k * size + f]) / scale
        at += 2
        for u in range(inputs):
            found[k, at + u] = -theta[channel[5] + (k * size + f) * inputs + u] / scale
        at += inputs
        for lag in range(lags):
            row = channel[6] + ((k * lags + lag) * size + f) * size
            for e in range(size):
                weight = theta[row + e] / scale
                found[k, at] = -weight * units[j + e, 1]
                found[k, at + 1] = weight * (theta[one + k * size + e] - units[j + e, 0])
                at += 2


@_fast
def _line_slopes(
    theta: Array,
    channel: Whole,
    units: Array,
    k: int,
    coefficients: Array,
    expected: Array,
    slopes: Array,
) -> None:
    """Derivatives by the parameters of a state, from those by its coefficients."""
    size, j, one, two = channel[1], channel[2], channel[3], channel[4]
    inputs, lags = channel[7], channel[8]
    for f in range(size):
        scale, at = theta[two + k * size + f], j + size + f * (2 + inputs + 2 * lags * size)
        along = expected[k, j + f]
        for i in range(at, at + 2 + inputs + 2 * lags * size):
            along += expected[k, i] * coefficients[k, i]
        slopes[two + k * size + f] -= along / scale
        slopes[one + k * size + f] -= expected[k, at + 1] / scale
        at += 2
        for u in range(inputs):
            slopes[channel[5] + (k * size + f) * inputs + u] -= expected[k, at + u] / scale
        at += inputs
        for lag in range(lags):
            row = channel[6] + ((k * lags + lag) * size + f) * size
            for e in range(size):
                mean, seen = one + k * size + e, expected[k, at + 1]
                own = (theta[mean] - units[j + e, 0]) * seen - units[j + e, 1] * expected[k, at]
                slopes[row + e] += own / scale
                slopes[mean] += theta[row + e] / scale * seen
                at += 2


@_fast
def _coefficients(theta: Array, channels: Whole, units: Array, found: Array) -> None:
    """Coefficients of the statistics, (K, J)."""
    for c in range(len(channels)):
        kind, size, j = channels[c, 0], channels[c, 1], channels[c, 2]
        one, two = channels[c, 3], channels[c, 4]
        if kind == LINES:
            for k in range(len(found)):
                _line_coefficients(theta, channels[c], units, k, found)
            continue
        if kind == COUNTS:
            found[:, j + 2 * size] = 1.0
        for k in range(len(found)):
            for f in range(size):
                y = theta[one + k * size + f]
                if kind == NORMAL:
                    scale = theta[two + k * size + f]
                    unit = units[j + f, 1]
                    mean, precision = (y - units[j + f, 0]) / unit, (unit / scale) ** 2
                    found[k, j + f] = -0.5 * precision
                    found[k, j + size + f] = precision * mean
                    constant = 0.5 * (precision * mean * mean + _WIDE) + math.log(scale)
                    found[k, j + 2 * size + f] = -constant
                elif kind == COUNTS:
                    typical = units[j + f, 1]
                    found[k, j + f] = math.log(y / typical)
                    found[k, j + size + f] = typical - y
                else:
                    found[k, j + f] = math.log(y)
                    if kind == BITS:
                        found[k, j + size + f] = math.log1p(-y)


@_fast
def _emission_slopes(
    theta: Array,
    channels: Whole,
    units: Array,
    coefficients: Array,
    expected: Array,
    slopes: Array,
) -> None:
    """Derivatives by the parameters, of probabilities of symbols by their logarithms."""
    for c in range(len(channels)):
        kind, size, j = channels[c, 0], channels[c, 1], channels[c, 2]
        one, two = channels[c, 3], channels[c, 4]
        if kind == LINES:
            for k in range(len(expected)):
                _line_slopes(theta, channels[c], units, k, coefficients, expected, slopes)
            continue
        for k in range(len(expected)):
            for f in range(size):
                place = one + k * size + f
                y, first = theta[place], expected[k, j + f]
                if kind == SYMBOLS:
                    slopes[place] += first
                    continue
                second = expected[k, j + size + f]
                if kind == NORMAL:
                    scale = theta[two + k * size + f]
                    unit = units[j + f, 1]
                    mean, precision = (y - units[j + f, 0]) / unit, (unit / scale) ** 2
                    seen = expected[k, j + 2 * size + f]
                    slopes[place] += precision * (second - mean * seen) / unit
                    square = first - 2.0 * mean * second + mean * mean * seen
                    slopes[two + k * size + f] += (precision * square - seen) / scale
                elif kind == COUNTS:
                    slopes[place] += first / y - second
                else:
                    slopes[place] += first / y - second / (1.0 - y)


@_fast
def _invert(left: Array, inverse: Array) -> bool:
    """The inverse of a matrix (K, K), which is spoilt, with the largest pivots; False without."""
    size = len(left)
    for i in range(size):
        for k in range(size):
            inverse[i, k] = 1.0 if i == k else 0.0
    for c in range(size):
        best = c
        for i in range(c + 1, size):
            if abs(left[i, c]) > abs(left[best, c]):
                best = i
        if left[best, c] == 0.0:
            return False
        for k in range(size):
            left[c, k], left[best, k] = left[best, k], left[c, k]
            inverse[c, k], inverse[best, k] = inverse[best, k], inverse[c, k]
        factor = 1.0 / left[c, c]
        for k in range(size):
            left[c, k] *= factor
            inverse[c, k] *= factor
        for i in range(size):
            factor = 0.0 if i == c else left[i, c]
            for k in range(size):
                left[i, k] -= factor * left[c, k]
                inverse[i, k] -= factor * inverse[c, k]
    return True


@_fast
def _stationary(moves: Array, worst: float, room: Array, inverse: Array, first: Array) -> bool:
    """A⁻¹ with A = I − T + 1 1', and 1' A⁻¹; False where there is no single stationary law."""
    size, least = len(moves), np.inf
    for i in range(size):
        for k in range(size):
            room[i, k] = 1.0 - moves[i, k] + (1.0 if i == k else 0.0)
            least = min(least, moves[i, k])
    if not least > 0.0 or not _invert(room, inverse):
        return False
    largest, least = 0.0, np.inf
    for k in range(size):
        first[k] = 0.0
        for i in range(size):
            first[k] += inverse[i, k]
            largest = max(largest, abs(inverse[i, k]))
        least = min(least, first[k])
    return bool(largest < worst and least > 0.0)


@_fast
def _tables(theta: Array, form: Any, room: Any, initial: Array, moves: Array) -> bool:
    """p(z_1) and T; False where there is no stationary law."""
    places, states = form[2], len(initial)
    for i in range(states):
        for k in range(states):
            moves[i, k] = theta[places[1] + i * states + k]
    if places[0] < 0:
        return bool(_stationary(moves, form[3][0], room[0], room[1], initial))
    for k in range(states):
        initial[k] = theta[places[0] + k]
    return True


@_fast
def _table_slopes(
    places: Whole,
    inverse: Array,
    tables: tuple[Array, Array],
    counts: tuple[Array, Array],
    slopes: Array,
) -> None:
    """Derivatives by the logarithms of p(z_1) and T, from expected first states and moves."""
    initial, moves = tables
    first, moved = counts
    states = len(initial)
    for k in range(states):
        along = 0.0
        if places[0] < 0:
            for j in range(states):
                along += inverse[k, j] * first[j] / initial[j]
        else:
            slopes[places[0] + k] += first[k]
        for i in range(states):
            own = moved[i, k] + moves[i, k] * initial[i] * along
            slopes[places[1] + i * states + k] += own


@_fast
def _back(
    x: Array, theta: Array, slopes: Array, blocks: Whole, stretch: float, found: Array
) -> None:
    """Derivatives by unconstrained numbers; ``stretch`` is that by the volume of ordering."""
    for b in range(len(blocks)):
        kind, at, to, rows = blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3]
        size = blocks[b, 4]
        if kind == STICKS:
            for _ in range(rows):
                after = slopes[to + size - 1]
                for i in range(size - 2, -1, -1):
                    share = 1.0 / (1.0 + math.exp(math.log(size - 1.0 - i) - x[at + i]))
                    share = min(max(share, _LEAST), _MOST)
                    after += slopes[to + i]
                    found[at + i] = slopes[to + i] - share * after
                at, to = at + size - 1, to + size
            continue
        above = 0.0
        for i in range(rows * size - 1, -1, -1):
            y, slope = theta[to + i], slopes[to + i]
            if kind == EXP:
                slope *= y
            elif kind == LOGISTIC:
                slope *= y * (1.0 - y)
            if blocks[b, 6]:
                above += slope
                slope = stretch + math.exp(x[at + i]) * above if i else above
            found[at + i] = slope


@_fast
def _log_prior(theta: Array, blocks: Whole, prior: Array, slopes: Array) -> float:
    """Log prior up to a constant; adds its derivatives by θ, of a row of probabilities by their
    logarithms.

    It is α log θ + β log(1 − θ) − γ θ − ½ (δ (u − ε))², where u is θ or its logarithm.
    """
    total = 0.0
    for b in range(len(blocks)):
        kind, to, size = blocks[b, 0], blocks[b, 2], blocks[b, 3] * blocks[b, 4]
        of_logarithm = blocks[b, 5] > 0
        for i in range(to, to + size):
            y = theta[i]
            alpha, beta, gamma, delta = prior[i, 0], prior[i, 1], prior[i, 2], prior[i, 3]
            log = 0.0 if kind == REAL else math.log(y)
            total += alpha * log
            if kind == STICKS:
                slopes[i] += alpha
                continue
            z = delta * ((log if of_logarithm else y) - prior[i, 4])
            total -= gamma * y + 0.5 * z * z
            slope = alpha - delta * z if of_logarithm else alpha
            slopes[i] -= gamma + (0.0 if of_logarithm else delta * z)
            if kind != REAL:
                slopes[i] += slope / y
            if kind == LOGISTIC:
                total += beta * math.log1p(-y)
                slopes[i] -= beta / (1.0 - y)
    return total


@_fast
def _clear(counts: tuple[Array, Array], expected: Array, slopes: Array) -> None:
    for k in range(len(expected)):
        counts[0][k] = 0.0
        for i in range(len(expected)):
            counts[1][k, i] = 0.0
        for j in range(expected.shape[1]):
            expected[k, j] = 0.0
    for i in range(len(slopes)):
        slopes[i] = 0.0


@_fast
def height_of(point: Array, form: Any, frames: Any, room: Any, gradient: Array) -> float:
    """The height of a point, and its gradient; −∞ and zeros where this code cannot tell."""
    blocks, channels, places, numbers, _known, prior, units, space = form
    x, theta, slopes, tables, counts, coefficients, expected, square, steps = room
    for i in range(len(point)):
        x[i] = space[i, 0] + space[i, 1] * point[i]
        gradient[i] = 0.0
    stretched = _values(x, blocks, theta)
    if not _tables(theta, form, square, *tables):
        return -np.inf
    _coefficients(theta, channels, units, coefficients)
    _clear(counts, expected, slopes)
    found = (counts[0], counts[1], expected)
    total = counts_of(tables[0], tables[1], coefficients, frames, steps, found)
    if not total > -np.inf:
        return -np.inf
    _emission_slopes(theta, channels, units, coefficients, expected, slopes)
    _table_slopes(places, square[1], tables, counts, slopes)
    if len(prior):
        total += numbers[1] + _log_prior(theta, blocks, prior, slopes)
    total += numbers[2] * stretched
    _back(x, theta, slopes, blocks, numbers[2], gradient)
    sound = abs(total) < np.inf
    for i in range(len(point)):
        gradient[i] *= space[i, 1]
        sound = sound and abs(gradient[i]) < np.inf
    if sound:
        return float(total)
    for i in range(len(point)):
        gradient[i] = 0.0
    return -np.inf


def room_for(form: Form, frames: Frames) -> Any:
    """Space for the intermediates of a height."""
    places, known, size = form[2], form[4], len(form[7])
    states, statistics = places[2], places[3]
    steps = frames[1].max()

    def tables() -> tuple[Array, Array]:
        return np.empty(states), np.empty((states, states))

    return (
        np.empty(size),
        known.copy(),
        np.empty(len(known)),
        tables(),
        tables(),
        np.zeros((states, statistics)),
        np.empty((states, statistics)),
        np.empty((2, states, states)),
        (*np.empty((2, steps, states)), np.empty(steps), np.empty((2, states))),
    )
