"""Exact densities of the experiment against a conjugate model in closed form."""

import numpy as np
import pytest
import torch
from scipy import stats

from beliefzoo.experiments.series.held_out import exact_terms
from beliefzoo.models import HiddenMarkovModel, Sequences
from beliefzoo.models.randomness import seeded
from conjugate_cases import RATE, SHAPE, exact_draws

COUNTS = np.random.default_rng(3).poisson(4.0, 20)
DATA = Sequences.from_arrays([COUNTS])


def predictive(known, y):
    """log p(y | other counts): a negative binomial law."""
    shape, rate = SHAPE + known.sum(), RATE + len(known)
    return stats.nbinom.logpmf(y, shape, rate / (rate + 1))


def test_weighted_draws_give_the_exact_densities():
    posterior = exact_draws(DATA.head(12))
    proposal = {"rate": posterior.draws["rate"].flatten(0, 1)}
    assert isinstance(posterior.model, HiddenMarkovModel)
    with seeded(0), torch.no_grad():
        found = exact_terms(posterior.model, DATA, 12, proposal, 3000)
    ahead, without = found["leave_future_out"], found["leave_one_out"]
    by_hand = [predictive(COUNTS[:t], COUNTS[t]) for t in range(12, 20)]
    assert ahead.terms == pytest.approx(by_hand, abs=0.01)
    assert abs(ahead.terms.sum() - sum(by_hand)) < 5 * ahead.error < 0.1
    by_hand = [predictive(np.delete(COUNTS, t), COUNTS[t]) for t in range(20)]
    assert without.terms == pytest.approx(by_hand, abs=0.01)
    assert 1000 < found["effective"] <= 3000
