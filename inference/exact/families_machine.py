"""Expected statistics of chains whose emissions are exponential families, as machine code.

A row is one sequence under one point of the parameters. Probabilities are scaled step by step, so
that a row whose likelihood falls below the least number is reported as −∞ and left to kernels that
keep logs. Compiled on first use and kept on disk by numba.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chains_machine import _exp
from .compiled import compiled

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
_fast: Any = compiled(**OPTIONS, _nrt=False)
"""Of functions that allocate nothing, which spares the compiler the counting of references."""


LARGEST = 1e8
"""Products of coefficients and statistics up to which their sum keeps eight digits of a nat."""


SQUARED = 1e-2
"""Share of the same sum that counts where it is squared: its sum is a residual of order one."""


@_fast
def _linear(squares: Whole, size: int) -> int:
    """Number of columns before the first square."""
    return int(squares[0, 0]) if len(squares) else size


@_fast
def _residual(coefficients: Array, statistics: Array, square: Whole) -> float:
    total = 0.0
    for j in range(square[0], square[1]):
        total += coefficients[j] * statistics[j]
    return total


@_fast
def _subtract_squares(coefficients: Array, statistics: Array, squares: Whole, table: Array) -> None:
    for t in range(len(statistics)):
        for k in range(len(coefficients)):
            for q in range(len(squares)):
                residual = _residual(coefficients[k], statistics[t], squares[q])
                table[t, k] -= 0.5 * residual * residual


@_fast
def _add_squares(
    coefficients: Array, statistics: Array, squares: Whole, chances: Array, expected: Array
) -> None:
    """Adds the expected statistics of the columns of squares, given chances of states (T, K)."""
    for t in range(len(statistics)):
        for k in range(len(coefficients)):
            for q in range(len(squares)):
                residual = _residual(coefficients[k], statistics[t], squares[q])
                for j in range(squares[q, 0], squares[q, 1]):
                    expected[k, j] -= chances[t, k] * residual * statistics[t, j]


# Infinite coefficients, and NaN, are to be told from others.
@compiled(nogil=True, error_model="numpy", _nrt=False)
def _reach(coefficients: Array, largest: Array, squares: Whole) -> float:
    """The greatest Σ_j |c_kj| |s_j| of any state; NaN if there is any."""
    found, linear = 0.0, _linear(squares, len(largest))
    for k in range(len(coefficients)):
        total = 0.0
        for j in range(len(largest)):
            share = 1.0 if j < linear else SQUARED
            total += share * abs(coefficients[k, j]) * largest[j]
        if not total <= found:
            found = total
            if found != found:
                return found
    return found


@_fast
def _likelihoods(coefficients: Array, statistics: Array, squares: Whole, table: Array) -> float:
    """table[t, k] = exp(log O_k(y_t) − top_t), the greatest of each step being 1; Σ top_t."""
    states, size = coefficients.shape
    linear, tops = _linear(squares, size), 0.0
    for t in range(len(statistics)):
        for k in range(states):
            total = 0.0
            for j in range(linear):
                total += coefficients[k, j] * statistics[t, j]
            table[t, k] = total
    if len(squares):
        _subtract_squares(coefficients, statistics, squares, table)
    for t in range(len(statistics)):
        top = -np.inf
        for k in range(states):
            top = table[t, k] if table[t, k] > top else top
        tops += top
        for k in range(states):
            table[t, k] -= top
    flat = table.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _exp(flat[i])
    return tops


@_fast
def _forward(initial: Array, moves: Array, table: Array, alphas: Array, inverses: Array) -> float:
    """Filtered beliefs into ``alphas``, one over their norms into ``inverses``; returns the sum of
    the log norms, −∞ if one is zero."""
    states = len(initial)
    total, product = 0.0, 1.0
    for t in range(len(table)):
        norm = 0.0
        for k in range(states):
            p = initial[k]
            if t > 0:
                p = 0.0
                for i in range(states):
                    p += alphas[t - 1, i] * moves[i, k]
            p *= table[t, k]
            alphas[t, k] = p
            norm += p
        if not norm > 0.0:
            return -np.inf
        inverse = 1.0 / norm
        inverses[t] = inverse
        for k in range(states):
            alphas[t, k] *= inverse
        product *= norm
        if product < 1e-200:  # one logarithm for many steps
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@_fast
def _backward(
    moves: Array,
    coefficients: Array,
    table: Array,
    statistics: Array,
    squares: Whole,
    room: tuple[Array, Array, Array, Array],
    found: tuple[Array, Array, Array],
) -> None:
    """Adds the expected first states, moves and statistics of one sequence to ``found``; chances of
    the states take the place of filtered beliefs."""
    first, moved, expected = found
    length, states = table.shape
    linear = _linear(squares, statistics.shape[1])
    _, alphas, inverses, coming = room
    beta, coming = coming[0], coming[1]
    for k in range(states):
        beta[k] = 1.0
    for t in range(length - 1, -1, -1):
        for k in range(states):
            chance = alphas[t, k] * beta[k]
            for j in range(linear):
                expected[k, j] += chance * statistics[t, j]
            if t == 0:
                first[k] += chance
            alphas[t, k] = chance
        if t == 0:
            break
        for k in range(states):
            coming[k] = table[t, k] * beta[k] * inverses[t]
        for i in range(states):
            total = 0.0
            before = alphas[t - 1, i]
            for k in range(states):
                own = moves[i, k] * coming[k]
                total += own
                moved[i, k] += before * own
            beta[i] = total
    if len(squares):
        _add_squares(coefficients, statistics, squares, alphas, expected)


@_fast
def counts_of(
    initial: Array,
    moves: Array,
    coefficients: Array,
    frames: tuple[Array, Whole, Array, Whole],
    room: tuple[Array, Array, Array, Array],
    found: tuple[Array, Array, Array],
) -> float:
    """Log evidence at one point of the parameters; −∞ as ``expect`` says.

    Args:
        initial, moves, coefficients: p(z_1) (K,), T (K, K), c (K, J).
        frames: statistics of all steps of all sequences, one after the other, (S, J), the lengths
            of the sequences (N,), the greatest size of each statistic, (J,), and the columns of
            squares, (Q, 2), see ``Frames``.
        room: two tables (T, K), numbers (T,) and (2, K) to write to.
        found: first states (K,), moves (K, K) and statistics (K, J) to which is added.
    """
    statistics, lengths, largest, squares = frames
    if not _reach(coefficients, largest, squares) < LARGEST:  # also NaN
        return -np.inf
    table, alphas, inverses, _ = room
    begin, total = 0, 0.0
    for length in lengths:
        own, part = statistics[begin : begin + length], table[:length]
        total += _likelihoods(coefficients, own, squares, part)
        total += _forward(initial, moves, part, alphas, inverses)
        if total == -np.inf:
            break
        _backward(moves, coefficients, part, own, squares, room, found)
        begin += length
    return total


@compiled(**OPTIONS)
def expect(
    points: Array,
    chain: tuple[Array, Array, Array],
    frames: tuple[Array, Whole, Array, Whole],
    found: tuple[Array, Array, Array, Array],
) -> None:
    """Log evidence and expected counts of some points of the parameters.

    Args:
        points: which of them, (m,).
        chain: p(z_1) (M, K), moves (M, K, K), coefficients (M, K, J).
        frames: see ``counts_of``.
        found: is filled with log p(y) (M,), first states (M, K), moves (M, K, K), statistics
            (M, K, J); log p(y) is −∞ where a scaled probability vanishes, or where products of
            coefficients and statistics are so large that their sum would lose its digits.
    """
    initial, moves, coefficients = chain
    evidence, first, moved, expected = found
    states, steps = initial.shape[1], frames[1].max()
    tables = np.empty((steps, states)), np.empty((steps, states))
    room = (*tables, np.empty(steps), np.empty((2, states)))
    for m in points:
        counts = first[m], moved[m], expected[m]
        evidence[m] = counts_of(initial[m], moves[m], coefficients[m], frames, room, counts)
