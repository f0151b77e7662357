"""Pseudo-residuals against predictive distributions computed by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from beliefzoo.inference import predict, pseudo_residuals
from beliefzoo.models import (
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    LabelledHMM,
    LinearGaussianSSM,
    LocalLevel,
    Regression,
    Sequences,
)

DRAWS = 20_000
ERROR = 5 * 0.5 / math.sqrt(DRAWS)  # five standard deviations of a share


def counts():
    return HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.3, 0.7], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[2.0, 7.0]
    )


def test_counts_lie_between_both_sides_of_the_step_of_the_predictive_distribution():
    model = counts()
    data = Sequences.from_arrays([[0, 3, 9, 2, 5, 1], [4, np.nan, 8]])
    u = pseudo_residuals(model, data, draws=DRAWS).pit[..., 0]
    chance, y = predict(model, data).numpy(), data.values[..., 0].numpy()
    for n, t in [(0, t) for t in range(6)] + [(1, 0), (1, 2)]:
        low, high = (
            chance[n, t] @ stats.poisson.cdf(at, model.known["rate"].numpy())
            for at in (y[n, t] - 1, y[n, t])
        )
        assert low - ERROR < u[n, t] < high + ERROR
    assert u[1].isnan().tolist() == [False, True, False, True, True, True]


def test_lags_are_the_observations_and_not_the_draws():
    values = {
        "initial": [0.5, 0.5],
        "transition": [[0.9, 0.1], [0.1, 0.9]],
        "mean": [0.0, 3.0],
        "scale": [1.0, 0.5],
        "lag_weight": np.array([0.8, -0.5]).reshape(2, 1, 1, 1),
    }
    model = HiddenMarkovModel(2, Regression(Gaussian(), lags=1)).with_parameters(**values)
    data = Sequences.from_arrays([[0.3, 2.0, -1.0, 4.0, 3.5]])
    u = pseudo_residuals(model, data, draws=DRAWS).pit.flatten()
    y, chance = data.values.flatten().numpy(), predict(model, data)[0].numpy()
    level, scale, weight = np.array([0.0, 3.0]), np.array([1.0, 0.5]), np.array([0.8, -0.5])
    for t in range(1, 5):
        below = stats.norm.cdf(y[t], level + weight * (y[t - 1] - level), scale)
        assert u[t] == pytest.approx(chance[t] @ below, abs=ERROR)


def test_linear_models_give_the_standardised_innovations():
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        observation_variance=1.0, level_variance=1.0
    )
    found = pseudo_residuals(model, Sequences.from_arrays([[5.0, 6.0, 4.0]]))
    by_hand = [math.nan, 1 / math.sqrt(3), (4 - 17 / 3) / math.sqrt(1 + 5 / 3)]
    assert found.normal.flatten().tolist() == pytest.approx(by_hand, nan_ok=True)


@pytest.mark.parametrize(
    "model",
    [
        counts(),
        HiddenMarkovModel(3, "gaussian"),
        LabelledHMM(3, 4),
        LabelledHMM(2, 3, ends=True),
    ],
    ids=["counts", "reals", "labelled", "strings"],
)
def test_residuals_of_a_true_model_are_uniform_whatever_the_number_of_draws(model):
    drawn = model.sample(60, 40, seed=3)
    known = model if not model.priors else model.with_parameters(**drawn.parameters)
    found = pseudo_residuals(known, drawn.data, draws=3, seed=1)
    p = found.tests(lags=3)
    assert (p["uniform"] > 1e-3).all()
    assert (p["independent"] > 1e-3).all()


def test_continuous_time_and_several_features():
    model = ContinuousTimeHMM(2, emission="gaussian").with_parameters(
        initial=[0.5, 0.5], jump_rate=[0.3, 0.2], mean=[0.0, 4.0], scale=[1.0, 1.0]
    )
    times = np.cumsum(np.random.default_rng(0).exponential(1.0, 400))
    data = model.sample(3, 400, seed=0, times=times).data
    assert (pseudo_residuals(model, data).tests()["uniform"] > 1e-3).all()


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(ValueError, match="needs values"):
        pseudo_residuals(HiddenMarkovModel(2, "poisson"), Sequences.from_arrays([[1, 2, 3]]))
    with pytest.raises(ValueError, match="draws"):
        pseudo_residuals(counts(), Sequences.from_arrays([[1, 2, 3]]), draws=0)


def test_too_few_residuals_are_not_tested():
    found = pseudo_residuals(counts(), Sequences.from_arrays([[1, 2, 3]])).tests()
    assert found["uniform"].isnan().all()
    assert found["independent"].isnan().all()
