"""The evidence gap: against the definitions, step by step in NumPy."""

import math

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    evidence_gap,
    filter,
    log_evidence,
    step_log_likelihood,
)
from beliefzoo.models import HiddenMarkovModel, Sequences


@pytest.fixture
def case():
    model = HiddenMarkovModel(2, "gaussian")
    drawn = model.sample(300, [4, 2, 3] * 100, seed=2)
    return model.with_parameters(**drawn.parameters), drawn.data


def test_the_exact_filter_leaves_no_gap(case):
    model, data = case
    gap = evidence_gap(BeliefGuide(model, ExactFilter()), data)
    assert gap.gap_per_step == pytest.approx(0, abs=1e-12)
    assert gap.kl_filter_per_step == pytest.approx(0, abs=1e-12)
    assert gap.update_error_per_step == pytest.approx(0, abs=1e-12)
    assert gap.steps == data.n_steps == 900
    assert gap.evidence_per_step == pytest.approx(float(log_evidence(model, data).sum()) / 900)
    torch.testing.assert_close(gap.surprise, -step_log_likelihood(model, data))


def test_fields_are_what_their_definitions_say(case):
    model, data = case
    # In float64, where the batch that a sequence is read in makes no difference that counts.
    guide = BeliefGuide(model, LSTMFilter(4)).double()
    gap = evidence_gap(guide, data)
    laws = model.laws({}, data[:3])
    belief = guide.filter(laws).detach().exp().numpy()
    truth = filter(model, data[:3]).numpy()
    onward = laws.log_transition[0, 0].exp().numpy()
    likelihood = laws.log_likelihood.exp().numpy()
    for n, length in enumerate(data.lengths[:3].tolist()):
        for t in range(length):
            kl = np.sum(truth[n, t] * np.log(truth[n, t] / belief[n, t]))
            assert float(gap.kl_filter[n, t]) == pytest.approx(kl, abs=1e-9)
            before = laws.log_initial[0].exp().numpy() if t == 0 else belief[n, t - 1] @ onward
            bayes = before * likelihood[n, t]
            bayes /= bayes.sum()
            error = np.sum(belief[n, t] * np.log(belief[n, t] / bayes))
            assert float(gap.update_error[n, t]) == pytest.approx(error, abs=1e-6)
        assert bool((gap.kl_filter[n, length:] == 0).all())
    assert gap.elbo.shape == (300,)
    assert bool((gap.elbo <= gap.log_evidence + 1e-9).all())
    assert gap.over_time(gap.kl_filter).shape == (4,)


def test_standard_error_is_that_of_a_ratio(case):
    """Against 2000 bootstrap resamples of the sequences, within 10 %."""
    model, data = case
    gap = evidence_gap(BeliefGuide(model, LSTMFilter(4)), data)
    total = (gap.log_evidence - gap.elbo).numpy()
    lengths = data.lengths.numpy()
    rng = np.random.default_rng(0)
    picks = rng.integers(0, 300, (2000, 300))
    spread = (total[picks].sum(1) / lengths[picks].sum(1)).std()
    assert gap.gap_standard_error == pytest.approx(spread, rel=0.1)


def test_guides_without_beliefs(case):
    model, data = case
    forward = evidence_gap(ForwardGuide(model, LSTMFilter(4)), data)
    assert forward.kl_filter is None
    assert math.isnan(forward.kl_filter_per_step)
    assert "KL" not in str(forward)
    mean_field = evidence_gap(MeanFieldGuide(model, LSTMFilter(4)), data)
    assert mean_field.kl_filter is not None
    assert mean_field.update_error is None
    assert "nats per step" in str(mean_field)


def test_one_sequence_and_bad_arguments(case):
    model, data = case
    one = evidence_gap(BeliefGuide(model, LSTMFilter(4)), data[0])
    assert math.isnan(one.gap_standard_error)
    with pytest.raises(ValueError, match="fitted: must be a Fit or a guide, got str"):
        evidence_gap("fit", data)


def test_judging_takes_fewer_steps_than_states():
    """A fit of as many states would be refused such data; there is nothing to fit."""
    model = HiddenMarkovModel(4, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    few = Sequences.from_arrays([[1.0, 3.0]])
    assert evidence_gap(guide, few).gap_per_step == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="4 states need at least as many observed steps, got 2"):
        model.check(few)
