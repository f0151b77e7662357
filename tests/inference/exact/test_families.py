"""Expected statistics of chains of exponential families, against sums over all paths."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.inference.exact.families import Expected, Frames, expected
from beliefzoo.models.randomness import one_thread

POINTS, STATES, SIZE = 3, 2, 4
LENGTHS = (4, 1, 3)


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Frames]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    frames = Frames.of(draw(sum(LENGTHS), SIZE), torch.tensor(LENGTHS))
    first, moves = draw(POINTS, STATES).softmax(-1), draw(POINTS, STATES, STATES).softmax(-1)
    return first, moves, draw(POINTS, STATES, SIZE), frames


def by_paths(first: np.ndarray, moves: np.ndarray, table: np.ndarray, s: np.ndarray) -> Expected:
    """One sequence at one point: every path with its probability."""
    paths = list(itertools.product(range(STATES), repeat=len(table)))
    joint = []
    for path in paths:
        log_p = np.log(first[path[0]]) + sum(table[t, k] for t, k in enumerate(path))
        joint.append(log_p + sum(np.log(moves[a, b]) for a, b in itertools.pairwise(path)))
    total = np.logaddexp.reduce(joint)
    one, two, three = np.zeros(STATES), np.zeros((STATES, STATES)), np.zeros((STATES, SIZE))
    for path, log_p in zip(paths, joint, strict=True):
        chance = np.exp(log_p - total)
        one[path[0]] += chance
        for pair in itertools.pairwise(path):
            two[pair] += chance
        for t, k in enumerate(path):
            three[k] += chance * s[t]
    return Expected(total, one, two, three)


def test_counts_are_those_of_all_paths():
    first, moves, coefficients, frames = problem()
    got = expected(first, moves, coefficients, frames)
    for m in range(POINTS):
        totals = None
        for s in frames.statistics.split(LENGTHS):
            table = (s @ coefficients[m].T).numpy()
            found = by_paths(first[m].numpy(), moves[m].numpy(), table, s.numpy())
            totals = (
                found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
            )
        for name, want, have in zip(Expected._fields, totals, got, strict=True):
            np.testing.assert_allclose(have[m], want, rtol=1e-11, atol=1e-11, err_msg=name)


def test_squares_are_those_of_all_paths():
    """Derivatives of columns in a square are by finite differences of the sums over paths."""
    first, moves, coefficients, frames = problem()
    squares = ((1, 3), (3, 4))
    frames = Frames.of(frames.statistics, frames.lengths, squares)
    got = expected(first, moves, coefficients, frames)

    def evidence(m: int, c: torch.Tensor) -> float:
        total = 0.0
        for s in frames.statistics.split(LENGTHS):
            parts = [s[:, a:b] @ c[:, a:b].T for a, b in ((0, 1), *squares)]
            table = (parts[0] - 0.5 * parts[1] ** 2 - 0.5 * parts[2] ** 2).numpy()
            total += by_paths(first[m].numpy(), moves[m].numpy(), table, s.numpy())[0]
        return total

    for m in range(POINTS):
        own = coefficients[m]
        assert float(got.evidence[m]) == pytest.approx(evidence(m, own), rel=1e-11)
        for place in np.ndindex(*own.shape):
            step = torch.zeros_like(own)
            step[place] = 1e-5
            slope = (evidence(m, own + step) - evidence(m, own - step)) / 2e-5
            assert float(got.statistics[m][place]) == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_a_likelihood_that_vanishes_is_minus_infinity():
    """State 1 alone can follow, where it is a billion nats less likely than state 0."""
    first = torch.tensor([[0.0, 1.0]]).double()
    moves = torch.eye(2).double()[None]
    coefficients = torch.tensor([[[0.0], [-1e9]]]).double()
    frames = Frames.of(torch.ones(3, 1).double(), torch.tensor([3]))
    assert expected(first, moves, coefficients, frames).evidence.tolist() == [-torch.inf]


@pytest.mark.parametrize("count", [1, 40])
def test_threads_change_nothing(count):
    first, moves, coefficients, frames = problem()
    many = [x.repeat(count, *[1] * (x.ndim - 1)) for x in (first, moves, coefficients)]
    long = Frames.of(frames.statistics.repeat(400, 1), torch.tensor(LENGTHS * 400))
    found = expected(*many, long)
    with one_thread():
        alone = expected(*many, long)
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one, other)
