"""The sampler itself: laws that it must keep, its metric, and machine code beside Python."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from beliefzoo.inference.fitting.no_u_turn import Walker, Widths, plan_of, run, walker_at
from beliefzoo.inference.fitting.no_u_turn_machine import RENEWED, STEP, factor
from beliefzoo.inference.fitting.parallel import Processes
from beliefzoo.inference.fitting.points.landscape import Landscape
from beliefzoo.inference.fitting.start import starting_values
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models import HiddenMarkovModel, Sequences

COVARIANCE = np.array([[4.0, 1.9, 0.0], [1.9, 1.0, 0.0], [0.0, 0.0, 1e-4]])
"""Correlated by .95, with widths of 2, 1 and .01."""


class Asked:
    """A landscape that is asked from Python alone."""

    climbs = False

    def __init__(self, density) -> None:
        self._density = density

    def __call__(self, points):
        return self._density(points)


class Known(Asked):
    """Log densities of points (M, P), with their slopes."""

    def __call__(self, points):
        v = points.clone().requires_grad_()
        heights = self._density(v)
        (slopes,) = torch.autograd.grad(heights.sum(), v)
        return heights.detach(), slopes


def normal(v):
    precision = torch.from_numpy(np.linalg.inv(COVARIANCE))
    return -0.5 * ((v @ precision) * v).sum(-1)


def log_gammas(v):
    """Logarithms of independent gamma variables of shapes 0.7 and 3: skewed, with a long tail."""
    return (torch.tensor([0.7, 3.0]) * v - v.exp()).sum(-1)


def quiet(*_) -> None:
    """Shows nothing."""


def walkers_at(starts, widths: Widths, **settings) -> list[Walker]:
    usual = {"warmup": 1, "draws": 1, "depth": 6, "target": 0.8} | settings
    generators = [np.random.default_rng([7, number]) for number in range(len(starts))]
    return [
        walker_at(start, widths, own, **usual)
        for start, own in zip(starts, generators, strict=True)
    ]


@pytest.mark.parametrize("dense", [True, False])
def test_draws_have_the_law_of_the_target(dense):
    """Four chains of 1000 draws, counted as 1000 (dense) or 500 independent ones: means within 4.5
    standard errors, variances within 4.5 of theirs, √(2/n) (false failures: 1 in 10 000)."""
    landscape = Known(normal)
    widths = Widths.at(landscape, torch.zeros(3, dtype=torch.float64), dense)  # type: ignore[arg-type]
    starts = torch.zeros(4, 3, dtype=torch.float64)
    walkers = walkers_at(starts, widths, warmup=300, draws=1000)
    run(landscape, walkers, quiet)  # type: ignore[arg-type]
    draws = np.concatenate([one.chain.draws for one in walkers])
    count, sd = (1000 if dense else 500), np.sqrt(np.diag(COVARIANCE))
    assert np.abs(draws.mean(0) / sd).max() < 4.5 / math.sqrt(count)
    assert np.abs(draws.var(0) / sd**2 - 1).max() < 4.5 * math.sqrt(2 / count)
    assert abs(np.corrcoef(draws.T)[0, 1] - 0.95) < 4.5 * (1 - 0.95**2) / math.sqrt(count)
    assert not any(one.chain.told[:, 1].any() for one in walkers)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_step_keeps_the_law_of_exact_draws(wrong):
    """3000 exact draws, each moved by six trajectories of one fixed step size, cut at depth 4, are
    exact draws again; those moved by a density that is wider are not."""
    shapes = np.array([0.7, 3.0])
    exact = np.log(np.random.default_rng(5).gamma(shapes, size=(3000, 2)))
    identity = torch.eye(2, dtype=torch.float64)
    factor_of_density = 0.8 if wrong else 1.0
    landscape = Known(lambda v: factor_of_density * log_gammas(v))
    exactly = torch.from_numpy(exact)
    # Without a warm-up the step size is 2^(−1/4), of two coordinates.
    walkers = walkers_at(exactly, Widths(identity, identity), warmup=0, draws=6, depth=4)
    run(landscape, walkers, quiet)  # type: ignore[arg-type]
    moved = np.stack([one.chain.draws[-1] for one in walkers])
    assert np.abs(moved - exact).max() > 0.5  # they did move
    chances = [
        stats.kstest(np.exp(moved[:, i]), stats.gamma(shape).cdf).pvalue
        for i, shape in enumerate(shapes)
    ]
    assert (min(chances) < 1e-6) if wrong else (min(chances) > 1e-4)


def test_machine_code_and_python_make_the_same_draws():
    """Of a chain in closed form, told from Python one height after the other."""
    data = Sequences.from_arrays([[3.0, 0.0, 7.0, 8.0], [1.0, 2.0]])
    model = HiddenMarkovModel(2, "poisson", ordered=True).adapted_to(data)
    space = Coordinates(model.priors, model.units, starting_values(model, data))
    landscape = Landscape(model, data, space, prior="coordinates", processes=Processes(None))
    origin = torch.zeros(space.size, dtype=torch.float64)
    widths, drawn = Widths.at(landscape, origin, dense=True), []
    for asked in (landscape, Asked(landscape)):
        drawn.append(walkers_at(origin[None], widths, warmup=30, draws=20))
        run(asked, drawn[-1], quiet)  # type: ignore[arg-type]
    found, other = (one[0].chain.draws for one in drawn)
    np.testing.assert_allclose(found, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_widths_are_read_off_the_curvature(dense):
    """Of a normal law they are its covariance, but no wider than one; of the diagonal, those given
    all other coordinates. Also where there are more coordinates than are asked for together."""
    variances = np.linspace(0.1, 0.9, 300)
    variances[-1] = 50.0
    scales = torch.from_numpy(variances)
    wide = Known(lambda v: -0.5 * (v.square() / scales).sum(-1))
    found = Widths.at(wide, torch.zeros(300, dtype=torch.float64), dense)  # type: ignore[arg-type]
    diagonal = found.covariance.diagonal() if dense else found.covariance[0]
    np.testing.assert_allclose(diagonal.numpy(), np.minimum(variances, 1.0), rtol=1e-6)
    correlated = Widths.at(Known(normal), torch.zeros(3, dtype=torch.float64), dense)  # type: ignore[arg-type]
    narrow = 1 / np.diag(np.linalg.inv(COVARIANCE))
    if not dense:
        np.testing.assert_allclose(correlated.covariance[0].numpy(), narrow, rtol=1e-6)
    torch.testing.assert_close(
        correlated.times(torch.ones(3).double()),
        correlated.root.sum(-1) if dense else correlated.root[0],
    )


def test_windows_of_the_warm_up():
    """Those of Stan for 1000 steps: 75 | 25, 50, 100, 200, 500 | 50."""
    assert np.flatnonzero(plan_of(1000) == RENEWED).tolist() == [99, 149, 249, 449, 949]
    for steps in (1, 19, 20, 80, 151):
        plan = plan_of(steps)
        assert len(plan) == steps
        assert (plan == RENEWED).sum() == (0 if steps < 20 else 1)
        assert plan[-1] == 0


def test_factors_and_matrices_without_one():
    covariance, root = COVARIANCE.copy(), np.zeros((3, 3))
    factor(covariance, root)
    np.testing.assert_allclose(root, np.linalg.cholesky(COVARIANCE), rtol=1e-12)
    covariance[0, 1] = covariance[1, 0] = 3.0  # no covariance: its determinant is negative
    factor(covariance, root)
    assert covariance.tolist() == np.diag(np.diag(COVARIANCE)).tolist()
    assert root.tolist() == np.diag(np.sqrt(np.diag(COVARIANCE))).tolist()


def test_long_trajectories_and_many_coordinates_have_noise_enough():
    """One trajectory of 2^12 steps takes more choices than are drawn at once."""
    wide = Known(lambda v: -0.5 * (v / 1e4).square().sum(-1))
    identity = torch.ones(1, 300, dtype=torch.float64)
    start = torch.zeros(1, 300, dtype=torch.float64)
    (walker,) = walkers_at(start, Widths(identity, identity), warmup=0, draws=2, depth=12)
    run(wide, [walker], quiet)  # type: ignore[arg-type]
    chain = walker.chain
    assert chain.draws.std() > 1 > 0.1 > chain.singles[STEP] / 10
    assert not chain.told[:, 1].any()
