"""Pareto smoothing: against the published algorithm by loops, ArviZ, and weights of known tails."""

import subprocess
import sys
from typing import Any

import arviz as az
import numpy as np
import pytest
from scipy import stats

from beliefzoo.inference.pareto import k_threshold, pareto_k, psis_log_mean, smooth


def textbook_psis(log_weights: Any) -> tuple[Any, float]:
    """Vehtari et al. (2024), algorithm 1, with the fit of Zhang and Stephens (2009), by loops."""
    weights = np.exp(np.asarray(log_weights) - np.max(log_weights))
    order = np.argsort(weights)
    length = round(min(0.2 * weights.size, 3 * np.sqrt(weights.size)))
    cut = weights[order[-length - 1]]
    excess = weights[order[-length:]] - cut
    trials = 30 + int(np.sqrt(length))
    quartile = excess[int(length / 4 + 0.5) - 1]
    theta = [
        1 / excess[-1] + (1 - np.sqrt(trials / (j - 0.5))) / (3 * quartile)
        for j in range(1, trials + 1)
    ]
    profile = []
    for b in theta:
        k = np.mean(np.log1p(-b * excess))
        profile.append(length * (np.log(-b / k) - k - 1))
    posterior = np.exp(np.array(profile) - max(profile))
    b = float(np.dot(posterior / posterior.sum(), theta))
    k = float(np.mean(np.log1p(-b * excess)))
    sigma = -k / b
    k = (length * k + 10 * 0.5) / (length + 10)
    for j in range(length):
        quantile = cut + stats.genpareto.ppf((j + 0.5) / length, k, scale=sigma)
        weights[order[-length + j]] = min(quantile, 1.0)
    return np.log(weights) + np.max(log_weights), k


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
def test_psis_is_the_published_algorithm(scale: float) -> None:
    log_weights = scale * np.random.default_rng(1).normal(size=10_000)
    smoothed, k = textbook_psis(log_weights)
    assert pareto_k(log_weights) == pytest.approx(k, abs=1e-6)
    largest = smoothed.max()
    expected = largest + np.log(np.mean(np.exp(smoothed - largest)))
    assert psis_log_mean(log_weights) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.3])
def test_the_shape_of_pareto_weights_is_found(k: float) -> None:
    # w^(1/k) of exponential log w. The fit's sd is about (1 + k)/√948 < 0.075: 4 sd, false
    # failures below 1e-4 a case; seeded.
    log_weights = k * np.random.default_rng(2).exponential(size=100_000)
    assert pareto_k(log_weights) == pytest.approx(k, abs=0.3)
    assert pareto_k(-log_weights) < 0.1  # bounded weights: the sign cannot be the wrong one


def test_k_ignores_scale_shape_and_order() -> None:
    log_weights = np.random.default_rng(3).normal(size=(4, 250))
    k = pareto_k(log_weights)
    assert pareto_k(log_weights + 1e3) == pytest.approx(k, abs=1e-9)
    assert pareto_k(log_weights.ravel()[::-1]) == pytest.approx(k, abs=1e-12)


def test_the_corrected_mean_is_the_evidence() -> None:
    # θ ~ N(0, 1), y | θ ~ N(θ, 1), y = 1.3: p(y) = N(y; 0, 2), posterior N(y/2, 1/2).
    # The proposal is twice as wide as the posterior: var(w)/mean(w)² = 2/√1.75 - 1 = 0.51, so
    # the standard error is 0.0023 and 0.015 six of them: false failures below 1e-8; seeded.
    rng, y = np.random.default_rng(4), 1.3
    proposal = stats.norm(y / 2, 2 * np.sqrt(0.5))
    theta = proposal.rvs(100_000, random_state=rng)
    joint = stats.norm.logpdf(theta) + stats.norm.logpdf(y, theta)
    log_weights = joint - proposal.logpdf(theta)
    expected = stats.norm.logpdf(y, 0, np.sqrt(2))
    assert pareto_k(log_weights) < 0.5
    assert psis_log_mean(log_weights) == pytest.approx(expected, abs=0.015)
    # The exact posterior as proposal: every weight is the evidence.
    posterior = stats.norm(y / 2, np.sqrt(0.5))
    log_weights = joint - posterior.logpdf(theta)
    assert psis_log_mean(log_weights) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_have_no_tail() -> None:
    assert pareto_k(np.full(100, -3.0)) == 0.0
    assert psis_log_mean(np.full(100, -3.0)) == pytest.approx(-3.0, abs=1e-12)
    # So is what rounding leaves of equal weights, float32 ties among them.
    noise = np.random.default_rng(7).normal(size=1000)
    for nearly in (-3.0 + 1e-13 * noise, (-340.0 + 1e-4 * noise).astype(np.float32)):
        assert pareto_k(nearly) == 0.0
        assert psis_log_mean(nearly) == pytest.approx(nearly.mean(dtype=np.float64), abs=1e-5)
    # Most draws impossible: the mean shrinks with their number.
    for possible in (50, 20):
        some = np.concatenate([np.full(100 - possible, -np.inf), np.full(possible, -3.0)])
        assert pareto_k(some) == 0.0
        assert psis_log_mean(some) == pytest.approx(-3.0 + np.log(possible / 100), abs=1e-12)


def test_weights_carried_by_few_draws_are_given_up() -> None:
    log_weights = np.full(100, -np.inf)
    log_weights[:3] = [0.0, 1.0, 2.0]
    assert pareto_k(log_weights) == np.inf
    expected = np.log(np.sum(np.exp([0.0, 1.0, 2.0])) / 100)
    assert psis_log_mean(log_weights) == pytest.approx(expected, abs=1e-12)
    assert pareto_k(np.linspace(-1e6, 0.0, 1000)) == np.inf


@pytest.mark.parametrize("function", [pareto_k, psis_log_mean])
@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (np.zeros(24), "log_weights must be at least 25; got 24"),
        (np.array([np.nan] + [0.0] * 30), "log_weights must be finite or -inf; got NaN"),
        (np.array([np.inf] + [0.0] * 30), "log_weights must be finite or -inf; got NaN or .inf"),
        (np.full(30, -np.inf), "log_weights must hold a positive weight"),
    ],
)
def test_bad_weights_are_refused(function: Any, log_weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(log_weights)


def test_threshold() -> None:
    assert k_threshold(100) == pytest.approx(0.5)
    assert k_threshold(1000) == pytest.approx(2 / 3)
    assert k_threshold(2200) == k_threshold(10**6) == 0.7
    with pytest.raises(ValueError, match="draws must be at least 2; got 1"):
        k_threshold(1)


ROUNDED = [] if int(az.__version__.split(".")[0]) >= 1 else [26, 1000, 10_001]
"""Where 3 √S or S / 5 is no whole number: ours is rounded up, as by ArviZ 0.x, not down."""


@pytest.mark.parametrize("samples", [100, 900, 10_000, *ROUNDED])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_arviz_smooths_the_same(samples: int, scale: float) -> None:
    log_weights = scale * np.random.default_rng(samples).normal(size=samples)
    if int(az.__version__.split(".")[0]) >= 1:
        from arviz_stats.base import array_stats

        theirs, k = array_stats.psislw(-log_weights, r_eff=1.0)  # of log likelihoods
    else:
        theirs, k = az.psislw(log_weights, reff=1.0)
    ours, own = smooth(log_weights[None], 1.0)
    assert own[0] == pytest.approx(float(k), abs=1e-9)
    np.testing.assert_allclose(ours[0], theirs, atol=1e-9)


FIT = """
import sys, warnings
from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit
from beliefzoo.models import HiddenMarkovModel, Sequences
model = HiddenMarkovModel(1, "poisson")
guide = BeliefGuide(model, ExactFilter(), parameters="normal")
data = Sequences.from_arrays([[1, 0, 2, 3, 1, 2]])
settings = FitSettings(steps=2)
warnings.simplefilter("ignore")
found = fit(model, guide, data, settings=settings, progress=False)
assert found.k_hat == found.k_hat
print(*{"arviz", "arviz_stats", "xarray", "matplotlib"} & set(sys.modules))
"""


def test_a_fit_that_asks_for_k_loads_no_arviz() -> None:
    run = subprocess.run([sys.executable, "-c", FIT], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
