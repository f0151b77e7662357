r"""Exact inference for chains whose emissions are exponential families, at many points at once.

.. math:: \log O_k(y_t) = \sum_j c_{kj} s_j(y_t)

The expected numbers of first states, of moves, and the expected statistics are what EM counts, and
the derivatives of log p(y) by log p(z_1), log T and c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor


class Frames(NamedTuple):
    """Statistics of all steps, (S, J), of N sequences one after the other, their lengths, and the
    greatest size of each statistic, (J,)."""

    statistics: Tensor
    lengths: Tensor
    largest: Tensor

    @classmethod
    def of(cls, statistics: Tensor, lengths: Tensor) -> Self:
        """Those of sequences with these statistics and lengths."""
        return cls(statistics, lengths, statistics.abs().amax(0))


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
    """Statistics in each state, (M, K, J)."""


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
        partial(expect, np.arange(*part), chain, *given, room) for part in cut(count)
    ]
    together(tasks, count * len(frames.statistics) * states * (states + size))
    return Expected(*found)
