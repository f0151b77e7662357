"""Calibration of beliefs, by hand and on filters that are too sharp."""

import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    LSTMFilter,
    MeanFieldGuide,
    belief_calibration,
)
from beliefzoo.inference.diagnosis.belief_calibration import _binned, _calibration
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Sequences, mess3


class Sharpened(ExactFilter):
    """The exact filter, its scores multiplied by a factor."""

    def forward(self, laws):
        return (2.0 * super().forward(laws)).log_softmax(-1)


def test_bins_by_hand():
    belief = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]])
    inside = torch.tensor([[True, True, False]])
    sums = _binned(belief, torch.tensor([[0, 1, 0]]), inside, 2)
    chance, there, count = sums[:, 0].tolist()
    assert chance == pytest.approx([0.5, 1.5])  # .1 + .4, .9 + .6
    assert there == [1.0, 1.0]
    assert count == [2.0, 2.0]
    found = _calibration(sums)
    assert found.error == pytest.approx((0.5 + 0.5) / 4)
    assert found.p_value != found.p_value  # one sequence tells nothing


def test_exact_beliefs_are_calibrated_and_sharpened_ones_are_not():
    model = mess3().model
    data = model.sample(50, 30, seed=0).data
    exact = belief_calibration(BeliefGuide(model, ExactFilter()), data)
    sharp = belief_calibration(BeliefGuide(model, Sharpened()), data)
    assert exact.p_value > 1e-3
    assert sharp.p_value < 1e-6
    assert sharp.error > 5 * exact.error
    assert int(exact.count.sum()) == 200 * 30 * model.states


def test_simulations_share_lengths_and_gaps():
    model = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 5.0]
    )
    data = Sequences.from_arrays([[1, 2, 3, float("nan")], [4, 5]])
    found = belief_calibration(MeanFieldGuide(model, ExactFilter()), data, sequences=100)
    assert int(found.count.sum()) == 50 * (4 + 2) * 2
    assert found.p_value > 1e-3 or found.error < 0.05


def test_refusals():
    level = LinearGaussianSSM(LocalLevel()).with_parameters(
        observation_variance=1.0, level_variance=1.0
    )
    data = Sequences.from_arrays([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="discrete states"):
        belief_calibration(BeliefGuide(level, ExactFilter()), data)
    model = mess3().model
    with pytest.raises(ValueError, match="bins"):
        belief_calibration(BeliefGuide(model, LSTMFilter(2)), model.sample(2, 3).data, bins=0)
