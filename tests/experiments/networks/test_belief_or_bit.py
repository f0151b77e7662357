"""The measures of `belief-or-bit`: the affine recursion computed twice, slopes of known curves."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from beliefzoo.experiments.networks.belief_or_bit import (
    SMOKE,
    Settings,
    affine_gap,
    best_affine,
    case_name,
    heldout,
    measured,
    readings,
    slopes,
)
from beliefzoo.experiments.networks.parts.reference_filters import AffineFilter
from beliefzoo.experiments.networks.parts.two_states import chain
from beliefzoo.inference import BeliefGuide, SampledBitGuide, SigmoidFilter, evidence_gap
from beliefzoo.models import HiddenMarkovModel, NodeGate

CASE = (0.05, 0.5)


def settings(**changes):
    base = {**SMOKE, "cases": (CASE,), "heldout_sequences": 300, "length": 30}
    return Settings(**{**base, **changes})


@pytest.mark.parametrize("slope", [0.4, 1.1, 1.5])
def test_the_gap_of_an_affine_recursion_is_that_of_its_belief_guide(slope):
    data = heldout(settings(), 0)
    y = data.values[..., 0].double().numpy()
    expected = evidence_gap(BeliefGuide(chain(*CASE), AffineFilter(slope)), data).gap_per_step
    assert affine_gap(slope, 1.0, y, *CASE) == pytest.approx(expected, abs=1e-10)


def test_the_gap_of_both_weights_is_that_of_a_logistic_unit():
    """W_h = 4 a and W_y = 2 μ gain; b = −2 a keeps m = 0 at 0, and there is no step before 1."""
    epsilon, mu = CASE
    model, data = chain(*CASE), heldout(settings(), 0)
    network, slope, gain = SigmoidFilter(), 1.2, 0.8
    network.build(model)
    one = torch.ones(1, 1).double()
    gate = NodeGate(4 * slope * one, 2 * mu * gain * one, -2 * slope * one[0], 0 * one[0])
    guide = BeliefGuide(model, network.double().write(model, gate))
    y = data.values[..., 0].double().numpy()
    expected = evidence_gap(guide, data).gap_per_step
    assert affine_gap(slope, gain, y, epsilon, mu) == pytest.approx(expected, abs=1e-10)
    found = measured(settings(), 0, guide).figures
    assert found["slope"] == pytest.approx(slope)
    assert found["gain"] == pytest.approx(gain)


def test_the_best_recursion_is_a_minimum():
    s = settings()
    best = best_affine(s, 0)
    y = heldout(s, 0).values[..., 0].double().numpy()
    least = affine_gap(best["slope_by_bound"], best["gain_by_bound"], y, *CASE)
    assert least == pytest.approx(best["evidence_gap_per_step"])
    for slope, gain in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        other = best["slope_by_bound"] + slope, best["gain_by_bound"] + gain
        assert affine_gap(*other, y, *CASE) > least


def test_a_gate_with_the_slope_of_the_bit_is_the_exact_law_of_the_next_state():
    """σ(4 artanh(1 − 2ε) h + 2 μ y + b) = p(z_t | z_{t-1}, y_t), from the table of T and O."""
    epsilon, mu = CASE
    model, data = chain(*CASE), heldout(settings(), 0)
    weight = 4 * readings(epsilon)["bit"]
    assert weight == pytest.approx(2 * math.log((1 - epsilon) / epsilon))
    network = SigmoidFilter()
    network.build(model)
    one = torch.ones(1, 1).double()
    gate = NodeGate(weight * one, 2 * mu * one, -weight / 2 * one[0], 0 * one[0])
    guide = SampledBitGuide(model, network.double().write(model, gate))
    paths = torch.randint(2, (len(data), 30))
    found = guide.posterior(model.laws({}, data)).path_log_prob(paths).detach()
    z, y = 2 * paths.numpy() - 1, data.values[..., 0].double().numpy()
    total = np.log(1 / (1 + np.exp(-2 * mu * z[:, 0] * y[:, 0])))
    for t in range(1, 30):
        weights = []
        for to in (1, -1):
            moved = np.where(z[:, t - 1] == to, 1 - epsilon, epsilon)
            weights.append(moved * np.exp(to * mu * y[:, t]))
        chosen = np.where(z[:, t] == 1, weights[0], weights[1])
        total += np.log(chosen / (weights[0] + weights[1]))
    np.testing.assert_allclose(found.numpy(), total, atol=1e-9)


def test_slopes_of_the_exact_curve_are_the_two_readings():
    m = np.linspace(-0.999, 0.999, 20_001)
    found = slopes(m, np.arctanh(0.9 * m), 0.02, 0.995)
    assert found["slope"] == pytest.approx(0.9, rel=1e-3)
    assert found["slope_between_certainties"] == pytest.approx(math.atanh(0.9), rel=0.02)
    assert slopes(np.array([0.5]), np.array([0.5]), 0.1, 0.9) == {
        "slope": 0.0,
        "slope_between_certainties": 0.0,
    }


def test_names_and_bad_settings():
    assert case_name(0.05, 0.5) == "switch_rate_0p05_signal_0p5"
    assert isinstance(chain(*CASE), HiddenMarkovModel)
    for changes, message in (
        ({"seeds": 0}, "seeds: must be >= 1"),
        ({"near_zero": 1.0}, r"near_zero: must be in \(0, 1\)"),
        ({"cases": ()}, "cases: needs pairs"),
        ({"cases": ((0.5, 1.0),)}, "cases: needs pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(settings(), **changes)
