"""Moment-matched leave-one-out against closed forms, where plain weights fail."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from beliefzoo.inference import (
    BeliefGuide,
    ConvergenceWarning,
    ExactFilter,
    FitSettings,
    fit,
    loo,
    matched_loo,
    to_arviz,
)
from beliefzoo.inference.pareto import k_threshold
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Sequences
from conjugate_cases import RATE, SHAPE, exact_draws

COUNTS = np.array([3, 5, 4, 40, 6, 2, 5, 4, 4, 5])
"""Of which one is so far off that the posterior without it is another."""


def closed_form(counts, group):
    """log p(counts of a group | all others): negative binomial laws, one after the other."""
    others = np.delete(counts, group, 0)
    shape, rate, total = SHAPE + others.sum(), RATE + others.size, 0.0
    for y in np.atleast_1d(counts[group]):
        total += stats.nbinom.logpmf(y, shape, rate / (rate + 1))
        shape, rate = shape + y, rate + 1
    return total


def test_draws_of_the_posterior_are_moved_where_weights_fail():
    data = Sequences.from_arrays([COUNTS])
    draws = exact_draws(data)
    by_hand = np.array([closed_form(COUNTS, i) for i in range(10)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = loo(to_arviz(draws, data, predictive_draws=0, prior_draws=0), unit="time")
    found = matched_loo(draws, data)
    assert plain.pareto_k[3] > k_threshold(4000) > found.pareto_k.max()
    assert abs(plain.elpd_i[3] - by_hand[3]) > 0.2
    assert found.elpd_i == pytest.approx(by_hand, abs=0.05)
    assert found.elpd == pytest.approx(by_hand.sum(), abs=0.3)  # all units have the same draws
    rest = np.arange(10) != 3  # these were not moved
    assert found.elpd_i[rest] == pytest.approx(plain.elpd_i[rest], abs=0.01)
    in_sample = plain.p + plain.elpd
    assert found.p == pytest.approx(in_sample - found.elpd, abs=0.02)


def test_sequences_are_left_out_whole():
    counts = np.array([[3, 5, 4], [4, 6, 2], [14, 12, 15], [5, 4, 3], [4, 5, 4]])
    data = Sequences.from_array(counts)
    found = matched_loo(exact_draws(data), data)
    assert found.unit == "sequence"
    assert found.elpd_i == pytest.approx([closed_form(counts, i) for i in range(5)], abs=0.05)


def test_the_weights_correct_a_guide():
    """A guide whose law is too narrow by half: its plain draws give another density."""
    data = Sequences.from_arrays([COUNTS])
    model = exact_draws(data).model
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    settings = FitSettings(steps=600, parameter_learning_rate=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(model, guide, data, settings=settings, progress=False)
    found = matched_loo(result, data, draws=4000)
    by_hand = [closed_form(COUNTS, i) for i in range(10)]
    assert found.elpd_i == pytest.approx(by_hand, abs=0.05)


def test_several_parameters_and_constraints_agree_with_quadrature():
    """Of a local level with two variances, on a grid of their logarithms."""
    y = np.random.default_rng(0).normal(size=14).cumsum()
    y[7] += 3.0
    data = Sequences.from_arrays([y])
    model = LinearGaussianSSM(LocalLevel()).scaled_to(data)
    guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(model, guide, data, settings=FitSettings(steps=300), progress=False)
        found = matched_loo(result, data, draws=400)
    level, noise = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-7, 6, 60)] * 2))
    steps = step_by_step(y, np.exp(level), np.exp(noise))
    height = steps.sum(1) + level + noise
    for name, log in (("level_variance", level), ("observation_variance", noise)):
        height += model.priors[name].log_prob(torch.from_numpy(np.exp(log))).numpy()
    by_hand = logsumexp(height) - logsumexp(height[:, None] - steps, axis=0)
    assert found.elpd_i == pytest.approx(by_hand, abs=0.25)


def step_by_step(y, level_variance, observation_variance):
    """log p(y_t | y_1 … y_{t-1}) of a local level with a flat start, by its scalar recursion."""
    mean, spread = np.full_like(level_variance, y[0]), observation_variance
    out = [np.full_like(mean, -0.5 * np.log(2 * np.pi))]
    for value in y[1:]:
        spread = spread + level_variance
        total = spread + observation_variance
        out.append(stats.norm.logpdf(value, mean, np.sqrt(total)))
        mean = mean + spread / total * (value - mean)
        spread = spread * observation_variance / total
    return np.stack(out, 1)


def test_refusals():
    data = Sequences.from_arrays([COUNTS])
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    point = fit(model, guide, data, settings=FitSettings(restarts=1), progress=False)
    with pytest.raises(ValueError, match="result: needs a posterior with a spread"):
        matched_loo(point, data)
    with pytest.raises(ValueError, match="result: must be a fit"):
        matched_loo(model, data)  # type: ignore[arg-type]
