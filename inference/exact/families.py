r"""Exact inference for chains whose emissions are exponential families, at many points at once.

.. math:: \log O_k(y_t) = \sum_j c_{kj} s_j(y_t) - \tfrac12 \sum_q \Big(\sum_{j \in q} c_{kj}
    s_j(y_t)\Big)^2

where the first sum is over the columns before the first square q. The expected numbers of first
states, of moves, and the expected statistics (of columns in a square: times minus the residual
that is squared) are the derivatives of log p(y) by log p(z_1), log T and c; without squares they
are what EM counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor


class Frames(NamedTuple):
    """Statistics of all steps, (S, J), of N sequences one after the other, their lengths, the
    greatest size of each statistic, (J,), and first column and end of each square, (Q, 2), after
    all other columns."""

    statistics: Tensor
    lengths: Tensor
    largest: Tensor
    squares: Tensor

    @classmethod
    def of(
        cls, statistics: Tensor, lengths: Tensor, squares: tuple[tuple[int, int], ...] = ()
    ) -> Self:
        """Those of sequences with these statistics and lengths, and the columns of each square."""
        columns = torch.tensor(squares, dtype=torch.int64).reshape(-1, 2)
        return cls(statistics, lengths, statistics.abs().amax(0), columns)


class Expected(NamedTuple):
    """What is expected of the states given all observations, at M points of the parameters."""

    evidence: Tensor
    """log p(y), (M,); −∞ where a state's likelihood vanishes beside all others, or digits are lost.
    """
    first: Tensor
    """First states, (M, K)."""
    moves: Tensor
    """Moves, (M, K, K)."""
    statistics: Tensor
    """Statistics in each state, (M, K, J), of columns in a square times minus the residual."""


def expected(initial: Tensor, moves: Tensor, coefficients: Tensor, frames: Frames) -> Expected:
    """Return log p(y) and the expected counts of the states.

    Args:
        initial: p(z_1), (M, K).
        moves: T, (M, K, K).
        coefficients: c, (M, K, J).
        frames: the statistics of the data.
    """
    from .chains_cpu import cut, together  # numba is loaded when first needed
    from .families_machine import expect

    count, states, size = coefficients.shape
    shapes = (count,), (count, states), (count, states, states), (count, states, size)
    found = tuple(torch.zeros(shape, dtype=torch.float64) for shape in shapes)
    chain = tuple(x.contiguous().numpy() for x in (initial, moves, coefficients))
    given = tuple(x.numpy() for x in frames)
    room = tuple(x.numpy() for x in found)
    tasks: list[Callable[[], None]] = [
        partial(expect, np.arange(*part), chain, given, room) for part in cut(count)
    ]
    together(tasks, count * len(frames.statistics) * states * (states + size))
    return Expected(*found)
