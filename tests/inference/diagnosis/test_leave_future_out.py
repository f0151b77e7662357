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
    NutsFit,
    NutsSettings,
    fit,
    leave_future_out,
)
from beliefzoo.models import HiddenMarkovModel, Sequences

COUNTS = np.random.default_rng(0).poisson(4.0, 30)
DATA = Sequences.from_arrays([COUNTS])
SHAPE, RATE = 2.0, 0.5
"""Of a gamma prior of the rate."""


def exact_draws(past):
    """Draws of the exact posterior of one Poisson rate, as if NUTS had made them."""
    y = past.values[past.mask].numpy()
    model = HiddenMarkovModel(1, "poisson", priors={"rate": gamma()})
    law = stats.gamma(SHAPE + y.sum(), scale=1 / (RATE + len(y)))
    drawn = law.rvs((4, 1000, 1), random_state=len(y))
    rate = torch.from_numpy(drawn)
    return NutsFit(
        model,
        {"rate": rate},
        torch.zeros(4, 1000),
        torch.zeros(4, 1000, dtype=torch.bool),
        torch.ones(4),
        NutsSettings(4, 1000, 500, "kmeans", 0.9, 8, True),
        0,
        0.0,
        {},
    )


def gamma():
    import pyro.distributions as dist

    return dist.Gamma(torch.tensor([SHAPE]), torch.tensor([RATE])).to_event(1)


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


def test_refusals():
    with pytest.raises(ValueError, match="first"):
        leave_future_out(exact_draws, DATA, first=30)
    with pytest.raises(ValueError, match="refit"):
        leave_future_out(exact_draws(DATA), DATA, first=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="refit"):
        leave_future_out(lambda past: past, DATA, first=3)  # type: ignore[arg-type, return-value]
