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
OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
_fast: Any = compiled(**OPTIONS, _nrt=False)
"""Of functions that allocate nothing, which spares the compiler the counting of references."""


LARGEST = 1e8
"""Products of coefficients and statistics up to which their sum keeps eight digits of a nat."""


# Infinite coefficients, and NaN, are to be told from others.
@compiled(nogil=True, error_model="numpy", _nrt=False)
def _reach(coefficients: Array, largest: Array) -> float:
    """The greatest Σ_j |c_kj| |s_j| of any state; NaN if there is any."""
    found = 0.0
    for k in range(len(coefficients)):
        total = 0.0
        for j in range(len(largest)):
            total += abs(coefficients[k, j]) * largest[j]
        if not total <= found:
            found = total
            if found != found:
                return found
    return found


@_fast
def _likelihoods(coefficients: Array, statistics: Array, table: Array) -> float:
    """table[t, k] = exp(Σ_j c_kj s_tj − top_t), the greatest of each step being 1; Σ top_t."""
    states, size = coefficients.shape
    tops = 0.0
    for t in range(len(statistics)):
        top = -np.inf
        for k in range(states):
            total = 0.0
            for j in range(size):
                total += coefficients[k, j] * statistics[t, j]
            table[t, k] = total
            top = total if total > top else top
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
    table: Array,
    statistics: Array,
    room: tuple[Array, Array, Array, Array],
    found: tuple[Array, Array, Array],
) -> None:
    """Adds the expected first states, moves and statistics of one sequence to ``found``."""
    first, moved, expected = found
    length, states = table.shape
    size = statistics.shape[1]
    _, alphas, inverses, coming = room
    beta, coming = coming[0], coming[1]
    for k in range(states):
        beta[k] = 1.0
    for t in range(length - 1, -1, -1):
        for k in range(states):
            chance = alphas[t, k] * beta[k]
            for j in range(size):
                expected[k, j] += chance * statistics[t, j]
            if t == 0:
                first[k] += chance
        if t == 0:
            return
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


@_fast
def counts_of(
    initial: Array,
    moves: Array,
    coefficients: Array,
    frames: tuple[Array, NDArray[np.int64], Array],
    room: tuple[Array, Array, Array, Array],
    found: tuple[Array, Array, Array],
) -> float:
    """Log evidence at one point of the parameters; −∞ as ``expect`` says.

    Args:
        initial, moves, coefficients: p(z_1) (K,), T (K, K), c (K, J).
        frames: statistics of all steps of all sequences, one after the other, (S, J), the lengths
            of the sequences (N,), and the greatest size of each statistic, (J,).
        room: two tables (T, K), numbers (T,) and (2, K) to write to.
        found: first states (K,), moves (K, K) and statistics (K, J) to which is added.
    """
    statistics, lengths, largest = frames
    if not _reach(coefficients, largest) < LARGEST:  # also NaN
        return -np.inf
    table, alphas, inverses, _ = room
    begin, total = 0, 0.0
    for length in lengths:
        own, part = statistics[begin : begin + length], table[:length]
        total += _likelihoods(coefficients, own, part)
        total += _forward(initial, moves, part, alphas, inverses)
        if total == -np.inf:
            break
        _backward(moves, part, own, room, found)
        begin += length
    return total


@compiled(**OPTIONS)
def expect(
    points: Array,
    chain: tuple[Array, Array, Array],
    statistics: Array,
    lengths: NDArray[np.int64],
    largest: Array,
    found: tuple[Array, Array, Array, Array],
) -> None:
    """Log evidence and expected counts of some points of the parameters.

    Args:
        points: which of them, (m,).
        chain: p(z_1) (M, K), moves (M, K, K), coefficients (M, K, J).
        statistics, lengths, largest: see ``counts_of``.
        found: is filled with log p(y) (M,), first states (M, K), moves (M, K, K), statistics
            (M, K, J); log p(y) is −∞ where a scaled probability vanishes, or where products of
            coefficients and statistics are so large that their sum would lose its digits.
    """
    initial, moves, coefficients = chain
    evidence, first, moved, expected = found
    states, steps = initial.shape[1], lengths.max()
    tables = np.empty((steps, states)), np.empty((steps, states))
    room = (*tables, np.empty(steps), np.empty((2, states)))
    frames = statistics, lengths, largest
    for m in points:
        counts = first[m], moved[m], expected[m]
        evidence[m] = counts_of(initial[m], moves[m], coefficients[m], frames, room, counts)
