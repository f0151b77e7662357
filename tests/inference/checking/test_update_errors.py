"""Update errors by event, against slow loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    LSTMFilter,
    MeanFieldGuide,
    evidence_gap,
    steps_since_switch,
    update_errors,
)
from beliefzoo.inference.checking.update_errors import EventTable
from beliefzoo.models import Categorical, Gaussian, HiddenMarkovModel, Sequences


@pytest.fixture(scope="module")
def case():
    model = HiddenMarkovModel(2, Gaussian(2)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.8, 0.2], [0.3, 0.7]],
        mean=[[-1.0, 0.0], [1.0, 0.0]],
        scale=[[1.0, 1.0], [1.0, 1.0]],
    )
    drawn = model.sample(30, [7, 5, 1] * 10, seed=0)
    mask = torch.rand(drawn.data.values.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    data = Sequences.from_tensors(drawn.data.values, mask=mask, lengths=drawn.data.lengths)
    guide = BeliefGuide(model, LSTMFilter(4))
    return guide, data, drawn.states, evidence_gap(guide, data)


def pairs(data):
    return [(n, t) for n in range(len(data)) for t in range(int(data.lengths[n]))]


def mean_and_error(values, steps):
    """Mean of values over steps (n, t), and the standard error of a ratio over 30 sequences."""
    totals, counts = np.zeros(30), np.zeros(30)
    for n, t in steps:
        totals[n] += float(values[n, t])
        counts[n] += 1
    mean = totals.sum() / counts.sum()
    return mean, (totals - counts * mean).std(ddof=1) / math.sqrt(30) / counts.mean()


def test_tables_by_slow_loops(case):
    _, data, states, gap = case
    found = update_errors(gap, data, states=states, bins=5, lags=3)
    u = gap.update_error.detach()
    every = pairs(data)
    for t in range(7):
        steps = [(n, s) for n, s in every if s == t]
        row = found.over_time.mean[t], found.over_time.standard_error[t]
        assert [float(x) for x in row] == pytest.approx(mean_and_error(u, steps), rel=1e-6)
        assert int(found.over_time.steps[t]) == len(steps)
    ordered = sorted(every, key=lambda at: float(gap.surprise[at]))
    sizes = [len(part) for part in np.array_split(np.arange(len(every)), 5)]
    first = 0
    for place, size in enumerate(sizes):
        steps = ordered[first : first + size]
        first += size
        row = found.by_surprise.mean[place], found.by_surprise.standard_error[place]
        assert [float(x) for x in row] == pytest.approx(mean_and_error(u, steps), rel=1e-6)
    assert float(found.by_surprise.share.sum()) == pytest.approx(1)

    def lag(n, t):
        for back in range(t):
            if int(states[n, t - back]) != int(states[n, t - back - 1]):
                return min(back, 3)
        return 4

    for place in range(5):
        steps = [at for at in every if lag(*at) == place]
        assert float(found.since_switch.mean[place]) == pytest.approx(mean_and_error(u, steps)[0])
        assert int(found.since_switch.steps[place]) == len(steps)
    for place, seen in enumerate((2, 1, 0)):
        steps = [at for at in every if int(data.mask[at].sum()) == seen]
        assert float(found.by_missing.mean[place]) == pytest.approx(mean_and_error(u, steps)[0])
    recent = [at for at in every if lag(*at) < 2]
    assert found.since_switch.over([0, 1]) == pytest.approx(mean_and_error(u, recent)[0])
    printed = str(found)
    for word in ("surprise", "no switch yet", "seen in part", "rank correlation"):
        assert word in printed


def test_steps_since_a_switch_beyond_the_length_do_not_count(case):
    _, data, states, gap = case
    found = update_errors(gap, data, states=states)
    for table in (found.over_time, found.by_surprise, found.since_switch, found.by_missing):
        assert int(table.steps.sum()) == data.n_steps


def test_steps_since_switch_counts():
    states = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    expected = [[-1, -1, 0, 1, 2, 0, 1], [-1, 0, 0, 1, 2, 3, 4], [-1] * 7]
    assert steps_since_switch(states).tolist() == expected


def test_an_event_that_never_happens():
    table = EventTable.of(
        "event", ["a", "b"], torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2)
    )
    assert float(table.mean[0]) == 1
    assert math.isnan(float(table.mean[1]))
    assert math.isnan(table.over([1]))
    assert table.over([0, 1]) == 1


def test_the_exact_filter_never_errs_and_complete_data_have_no_missing(case):
    guide, _, _, _ = case
    data = guide.model.sample(10, 5, seed=1).data
    gap = evidence_gap(BeliefGuide(guide.model, ExactFilter()), data)
    found = update_errors(gap, data)
    assert float(found.over_time.mean.abs().max()) < 1e-12
    assert found.by_missing is None
    assert found.since_switch is None


def test_the_rank_correlation_is_spearmans_where_symbols_surprise_equally():
    model = HiddenMarkovModel(2, Categorical(2)).with_parameters(
        initial=[0.5, 0.5], transition=[[0.8, 0.2], [0.3, 0.7]], probs=[[0.9, 0.1], [0.2, 0.8]]
    )
    data = model.sample(40, 2, seed=0).data  # four different sequences, so most ranks are shared
    gap = evidence_gap(BeliefGuide(model, LSTMFilter(3)), data)
    wanted = spearmanr(gap.update_error.flatten(), gap.surprise.flatten()).statistic
    assert update_errors(gap, data).surprise_correlation == pytest.approx(wanted, abs=1e-9)


def test_events_that_did_not_happen_are_not_printed(case):
    _, data, states, gap = case
    table = update_errors(gap, data, states=torch.zeros_like(states), lags=2).since_switch
    assert table.names == ("0", "1", "2 or more", "no switch yet")
    assert len(str(table).splitlines()) == 2
    assert "no switch yet" in str(table)


def test_bad_arguments(case):
    guide, data, states, gap = case
    for wrong in (guide, None):
        with pytest.raises(ValueError, match="gap: must be what evidence_gap returns, got"):
            update_errors(wrong, data)
    with pytest.raises(ValueError, match="data: must be Sequences, got Tensor"):
        update_errors(gap, data.values)
    with pytest.raises(ValueError, match="states: must be a tensor, got ndarray"):
        update_errors(gap, data, states=states.numpy())
    with pytest.raises(ValueError, match="gap: needs the update errors of a BeliefGuide"):
        update_errors(evidence_gap(MeanFieldGuide(guide.model, LSTMFilter(2)), data), data)
    with pytest.raises(ValueError, match="data: must be those of the gap"):
        update_errors(gap, data[:3])
    with pytest.raises(ValueError, match="states: must be whole numbers of shape"):
        update_errors(gap, data, states=states[:3])
    with pytest.raises(ValueError, match="bins: must be a whole number >= 1, got 0"):
        update_errors(gap, data, bins=0)
