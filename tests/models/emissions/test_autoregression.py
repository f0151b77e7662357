"""Regressions on earlier observations, ours and Hamilton's, and the values that others publish."""

from __future__ import annotations

import ast
import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from beliefzoo.inference import log_evidence, step_log_likelihood
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Emission,
    FromDistribution,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    LowRankGaussian,
    Multinomial,
    NeuralEmission,
    Parameters,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
    UnreadWarning,
)

MOVES = np.array([[0.9, 0.1], [0.25, 0.75]])
FIRST = np.array([0.25, 0.1]) / 0.35  # stationary
MEAN, LAG, SCALE = np.array([1.2, -0.4]), 0.3, 0.6**0.5


def hamilton(y):
    """A chain over pairs (j, i) = (z_{t-1}, z_t), with y_{t-1} as the input of step t."""
    pairs = list(itertools.product((0, 1), repeat=2))
    law = SparseTransition([(2 * i, 2 * i + 1) for _, i in pairs])
    model = HiddenMarkovModel(
        4, Regression(Gaussian(), inputs=1), transition=law, initial="stationary"
    ).with_parameters(
        transition_move=[MOVES[i] for _, i in pairs],
        mean=[MEAN[i] - LAG * MEAN[j] for j, i in pairs],
        scale=[SCALE] * 4,
        input_weight=[[[LAG]]] * 4,
    )
    return model, Sequences.from_arrays([y[1:]], inputs=[y[:-1, None]])


def ours(y):
    model = HiddenMarkovModel(2, Regression(Gaussian(), lags=1), initial="stationary")
    known = model.with_parameters(
        transition=MOVES, mean=MEAN, scale=[SCALE] * 2, lag_weight=[[[[LAG]]]] * 2
    )
    return known, Sequences.from_arrays([y])


def over_paths(y, centre, given_first):
    """Log of the sum over all paths; ``centre`` says whose mean the lag has, of (j, i)."""
    total = 0.0
    for path in itertools.product((0, 1), repeat=len(y)):
        weight = FIRST[path[0]]
        if not given_first:
            weight *= stats.norm.pdf(y[0], MEAN[path[0]], SCALE)
        for (j, i), (before, now) in zip(
            itertools.pairwise(path), itertools.pairwise(y), strict=True
        ):
            located = MEAN[i] + LAG * (before - MEAN[(j, i)[centre]])
            weight *= MOVES[j, i] * stats.norm.pdf(now, located, SCALE)
        total += weight
    return np.log(total)


def test_which_mean_a_lag_is_centred_by():
    """Sums over 2^7 paths: of the present state with lags=1, of its own step over pairs."""
    y = np.random.default_rng(0).normal(0.5, 1.5, 7)
    present, own = 1, 0
    assert float(log_evidence(*ours(y))) == pytest.approx(over_paths(y, present, False), abs=1e-10)
    assert float(log_evidence(*hamilton(y))) == pytest.approx(over_paths(y, own, True), abs=1e-10)


# The series lie among the tests of statsmodels; values in them and here are Stata's and Hamilton's.


def series(module, name):
    """A list of numbers in a file of tests, which is read and not run."""
    package = importlib.util.find_spec("statsmodels")
    if package is None:
        pytest.skip("needs the series among the tests of statsmodels")
    folder = Path(package.origin).parent / "tsa" / "regime_switching" / "tests"
    tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )
    return np.array(ast.literal_eval(found))


def test_growth_of_us_gnp():
    """1951 to 1984, quarterly: Hamilton's form given the first quarter, and ours."""
    growth = series("test_markov_autoregression", "rgnp")
    assert float(log_evidence(*hamilton(growth))) == pytest.approx(-189.1902, abs=5e-5)
    assert float(step_log_likelihood(*ours(growth))[0, 1:].sum()) == pytest.approx(
        -190.5870, abs=5e-5
    )


def test_federal_funds_rate_in_two_regimes_of_one_variance():
    rate = series("test_markov_regression", "fedfunds")
    model = HiddenMarkovModel(2, "gaussian", initial="stationary").with_parameters(
        transition=[[0.9820939, 0.0179061], [0.0503587, 0.9496413]],
        mean=[3.70877, 9.556793],
        scale=[2.107562] * 2,
    )
    found = float(log_evidence(model, Sequences.from_arrays([rate])))
    assert found == pytest.approx(-508.63592, abs=5e-6)


def test_returns_in_two_regimes_with_a_lag_and_variances():
    returns = series("test_markov_regression", "areturns")
    model = HiddenMarkovModel(2, Regression(Gaussian(), inputs=1), initial="stationary")
    known = model.with_parameters(
        transition=[[0.7530865, 0.2469135], [0.6825357, 0.3174643]],
        mean=[0.7641424, 1.972771],
        scale=[0.5895792, 1.605333],
        input_weight=[[[0.0790744]], [[0.527953]]],
    )
    data = Sequences.from_arrays([returns[1:]], inputs=[returns[:-1, None]])
    assert float(log_evidence(known, data)) == pytest.approx(-745.7977, abs=5e-6)


def test_returns_in_two_regimes_with_variances():
    """At the maximum that an independent optimiser (BFGS, SciPy) finds from two starts."""
    returns = series("test_markov_regression", "areturns")
    model = HiddenMarkovModel(2, "gaussian", initial="stationary").with_parameters(
        transition=[[0.98189001376, 0.01810998624], [0.08755271107, 0.91244728893]],
        mean=[1.05162121850, 2.97461346379],
        scale=[0.78917746015, 2.24727355655],
    )
    found = float(log_evidence(model, Sequences.from_arrays([returns])))
    assert found == pytest.approx(-749.42688, abs=5e-6)


@dataclass(frozen=True)
class Deaf(Gaussian):
    """A family of somebody whose score forgot the shift."""

    def score(
        self,
        parameters: Parameters,
        y: torch.Tensor,
        mask: torch.Tensor,
        shift: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return super().score(parameters, y, mask)


def test_a_family_that_forgets_the_shift_is_told() -> None:
    with pytest.warns(UnreadWarning, match="`score` of Deaf .* inputs change nothing"):
        HiddenMarkovModel(2, Regression(Deaf(), inputs=1))
    with pytest.warns(UnreadWarning, match="inputs and lags change nothing"):
        HiddenMarkovModel(1, Regression(Deaf(2), inputs=1, lags=2))


@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize(
    "base",
    [
        *(Gaussian(), FullGaussian(2), StudentT(), Poisson(), Bernoulli(2), Categorical(3)),
        *(Multinomial(3), GaussianMixture(2), LowRankGaussian(4, 2), FromDistribution(dist.Gumbel)),
        NeuralEmission(Poisson(), 3, 4),
    ],
    ids=lambda base: type(base).__name__,
)
def test_families_of_the_library_read_the_shift(base: Emission, states: int) -> None:
    HiddenMarkovModel(states, Regression(base, inputs=1))  # warnings are errors
