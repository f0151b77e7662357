"""Leave-future-out against a conjugate model whose predictions are known in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    fit,
    leave_future_out,
)
from beliefzoo.models import Categorical, HiddenMarkovModel, Poisson, Regression, Sequences
from conjugate_cases import RATE, SHAPE, as_nuts, exact_draws

COUNTS = np.random.default_rng(0).poisson(4.0, 30)
DATA = Sequences.from_arrays([COUNTS])


def closed_form(t, horizon):
    """log p(y_{t+1} … y_{t+h} | y_1 … y_t) by the chain of negative binomial laws."""
    total = 0.0
    for step in range(t, t + horizon):
        shape, rate = SHAPE + COUNTS[:step].sum(), RATE + step
        total += stats.nbinom.logpmf(COUNTS[step], shape, rate / (rate + 1))
    return total


@pytest.mark.parametrize("horizon", [1, 3])
def test_weighted_draws_agree_with_the_closed_form(horizon):
    found = leave_future_out(exact_draws, DATA, first=10, horizon=horizon)
    by_hand = [closed_form(int(t), horizon) for t in found.steps]
    assert found.steps.tolist() == list(range(10, 31 - horizon))
    assert found.elpd_t == pytest.approx(by_hand, abs=0.05)
    assert found.elpd == pytest.approx(sum(by_hand), abs=0.15)
    assert len(found.refits) < len(found.steps)  # the weights carried some draws on


def test_a_threshold_below_all_fits_at_every_time():
    found = leave_future_out(exact_draws, DATA, first=26, threshold=-math.inf)
    assert found.refits == (26, 27, 28, 29)
    assert np.isnan(found.k_hat).all()


def test_point_estimates_are_fitted_at_every_time():
    def refit(past):
        model = HiddenMarkovModel(1, "poisson")
        guide = BeliefGuide(model, ExactFilter(), parameters="ml")
        return fit(model, guide, past, settings=FitSettings(restarts=1), progress=False)

    found = leave_future_out(refit, DATA, first=27)
    by_hand = [stats.poisson.logpmf(COUNTS[t], COUNTS[:t].mean()) for t in (27, 28, 29)]
    assert found.elpd_t == pytest.approx(by_hand, abs=1e-4)
    assert found.refits == (27, 28, 29)


def test_several_sequences_add_up_and_short_ones_count_nothing_beyond_their_end():
    data = Sequences.from_arrays([COUNTS, COUNTS[:20]])
    found = leave_future_out(exact_draws, data, first=19)
    both = SHAPE + 2 * COUNTS[:19].sum(), RATE + 38
    drawn = exact_draws(data.head(19)).draws["rate"].flatten().numpy()
    there = stats.poisson.logpmf(COUNTS[19], drawn)
    assert found.elpd_t[0] == pytest.approx(np.log(np.mean(np.exp(2 * there))), abs=1e-9)
    assert both[0] / both[1] == pytest.approx(drawn.mean(), rel=0.05)
    assert found.elpd_t.shape == (11,)


@pytest.mark.parametrize("horizon", [1, 3])
def test_a_backtest_scores_every_horizon_from_every_time(horizon):
    """Against the closed form of the step h ahead: a negative binomial law, whatever h."""
    found = leave_future_out(exact_draws, DATA, first=20, horizon=horizon, forecasts=400)
    scores = found.scores
    assert scores.log.shape == (11 - horizon, 1, horizon)
    for place, t in enumerate(found.steps):
        shape, rate = SHAPE + COUNTS[:t].sum(), RATE + t
        law = stats.nbinom(shape, rate / (rate + 1))
        for step in range(horizon):
            y = COUNTS[t + step]
            assert scores.log[place, 0, step] == pytest.approx(-law.logpmf(y), abs=0.1)
            at = np.arange(200)
            crps = ((law.cdf(at) - (at >= y)) ** 2).sum()  # Σ (F − 1)² of whole numbers
            assert scores.crps[place, 0, step, 0] == pytest.approx(crps, abs=0.35)
    if horizon == 1:
        assert -scores.log[:, 0, 0] == pytest.approx(found.elpd_t, abs=0.1)
    assert "ahead" in str(found)
    assert len(found.draw().axes) == 3


def test_a_backtest_forecasts_from_inputs_and_skips_sequences_that_end():
    x = np.linspace(-1, 1, 30)
    y = np.random.default_rng(0).poisson(np.exp(1 + x))
    data = Sequences.from_arrays([y, y[:26]], inputs=[x, x[:26]])

    def refit(past):
        model = HiddenMarkovModel(1, Regression(Poisson(), inputs=1))
        one = torch.ones(2, 20, 1, dtype=torch.float64)
        return as_nuts(model, rate=math.e * one, input_weight=one[..., None, None])

    found = leave_future_out(refit, data, first=24, horizon=2, forecasts=50)
    by_hand = -stats.poisson.logpmf(y, np.exp(1 + x))
    for place, t in enumerate(found.steps):
        assert found.scores.log[place, 0] == pytest.approx(by_hand[t : t + 2], abs=1e-6)
        assert np.isnan(found.scores.log[place, 1]).all() == (t + 2 > 26)


def test_what_no_draw_allows_is_impossible_and_the_next_time_is_fitted_anew():
    data = Sequences.from_array([[0, 1, 0, 1, 2, 0, 1, 2]], codes=True)

    def refit(past):
        shares = np.bincount(past.codes()[past.mask].numpy(), minlength=3) / past.n_observed
        model = HiddenMarkovModel(1, Categorical(3))
        return as_nuts(model, probs=torch.from_numpy(shares).expand(2, 20, 1, 3))

    found = leave_future_out(refit, data, first=3)
    assert found.elpd_t.tolist() == pytest.approx(
        [math.log(1 / 3), -math.inf, math.log(0.4), math.log(0.4), math.log(0.2)]
    )
    assert found.refits == (3, 5)


def test_refusals():
    with pytest.raises(ValueError, match="first"):
        leave_future_out(exact_draws, DATA, first=30)
    with pytest.raises(ValueError, match="refit"):
        leave_future_out(exact_draws(DATA), DATA, first=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="refit"):
        leave_future_out(lambda past: past, DATA, first=3)  # type: ignore[arg-type, return-value]
