"""The mathematics of the experiments on memory cells: filters, networks, what they keep."""

import math

import numpy as np
import pytest
import torch

from beliefzoo.experiments.networks import gated_accumulator, kalman_gain
from beliefzoo.experiments.networks.gated_accumulator import heldout as memories
from beliefzoo.experiments.networks.kalman_gain import heldout, inputs, unit
from beliefzoo.experiments.networks.parts.memory_cells import LinearCell, StandardCell
from beliefzoo.experiments.networks.parts.walks import (
    Case,
    elbo,
    fixed_gain,
    level_model,
    settled,
)
from beliefzoo.inference import filter, log_evidence
from beliefzoo.models import Sequences

SETTINGS = kalman_gain.Settings(length=12, heldout_sequences=30, counting_units=2)


@pytest.mark.parametrize("kind", ["steady", "missing", "noisy"])
def test_the_filter_is_the_conditional_normal_law(kind) -> None:
    """Moments of z_t given y_1 … y_t by the joint covariance of levels and observations."""
    case = heldout(SETTINGS, kind, 0.3)
    start = settled(0.3)
    steps = torch.arange(12).double()
    walk = start + 0.3 * torch.minimum(steps[:, None], steps)  # covariance of the levels
    for n in (0, 7):
        for t in (0, 4, 11):
            kept = case.seen[n, : t + 1].nonzero()[:, 0]
            if not len(kept):
                continue
            joint = walk[kept][:, kept] + case.noise[n, kept].diag()
            weight = torch.linalg.solve(joint, walk[kept, t])
            assert float(weight @ case.y[n, kept]) == pytest.approx(float(case.mean[n, t]))
            variance = float(walk[t, t] - weight @ walk[kept, t])
            own = (1 - case.gain) * case.predicted
            assert variance == pytest.approx(float(own[n, t]))


def test_the_filter_is_the_librarys() -> None:
    case = heldout(SETTINGS, "missing", 0.1)
    values = torch.where(case.seen, case.y, torch.nan).unsqueeze(-1)
    found = filter(level_model(0.1), Sequences.from_array(values.numpy()))
    torch.testing.assert_close(found.mean[..., 0], case.mean)


@pytest.mark.parametrize("ratio", [0.01, 1.0, 10.0])
def test_a_steady_gain_is_the_logistic_of_the_signal_to_noise_ratio(ratio: float) -> None:
    case = heldout(SETTINGS, "steady", ratio)
    gain = 1 / (1 + math.exp(-math.log(settled(ratio))))
    torch.testing.assert_close(case.gain, torch.full_like(case.gain, gain))


def _joint(mean: list[float], variance: float, y: list[float], ratio: float) -> float:
    """E_q[log p(z, y) − log q(z)] by the joint normal law of q, built up from the last step."""
    steps = len(mean)
    gain = variance / (variance + ratio)
    # z_t = m_t + gain (z_{t+1} − m_t) + noise of variance (1 − gain) v: rows by independent noises.
    rows, offset = np.zeros((steps, steps)), np.zeros(steps)
    offset[-1], rows[-1, -1] = mean[-1], math.sqrt(variance)
    for t in range(steps - 2, -1, -1):
        rows[t] = gain * rows[t + 1]
        rows[t, t] = math.sqrt((1 - gain) * variance)
        offset[t] = mean[t] + gain * (offset[t + 1] - mean[t])
    entropy = steps / 2 * math.log(2 * math.pi * math.e) + np.log(np.abs(np.diag(rows))).sum()
    moved = np.diff(offset, prepend=0), np.diff(rows, axis=0, prepend=np.zeros((1, steps)))
    spreads = np.r_[settled(ratio), np.full(steps - 1, ratio)]
    expected = 0.0
    for change, factor, spread in zip(*moved, spreads, strict=True):
        expected -= 0.5 * (math.log(2 * math.pi * spread) + (change**2 + factor @ factor) / spread)
    for seen, at, factor in zip(y, offset, rows, strict=True):
        expected -= 0.5 * (math.log(2 * math.pi) + (seen - at) ** 2 + factor @ factor)
    return expected + entropy


def test_the_bound_is_the_expectation_under_the_joint_normal_law() -> None:
    case = heldout(SETTINGS, "steady", 0.3)
    mean, variance = 0.8 * case.y + 0.3, 0.7
    found = elbo(mean, torch.tensor(variance, dtype=torch.float64), case.y, 0.3)
    for n in range(3):
        expected = _joint(mean[n].tolist(), variance, case.y[n].tolist(), 0.3)
        assert float(found[n]) == pytest.approx(expected, rel=1e-10)


def test_the_bound_of_the_filter_is_the_evidence() -> None:
    case = heldout(SETTINGS, "steady", 0.3)
    variance = (1 - case.gain[0, 0]) * case.predicted[0, 0]
    data = Sequences.from_array(case.y.unsqueeze(-1).numpy())
    expected = log_evidence(level_model(0.3), data)
    torch.testing.assert_close(elbo(case.mean, variance, case.y, 0.3), expected)


def test_a_linear_cell_with_the_gain_for_gates_is_the_filter() -> None:
    case = heldout(SETTINGS, "noisy", 0.3)
    network = LinearCell(1, 0).double()
    y, told = (part.double() for part in inputs(SETTINGS, "noisy", case))
    # With P⁻ held fixed the gate is the logistic of log P⁻ − log R: the first step of the filter.
    with torch.no_grad():
        network.gates.weight.copy_(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
        level = math.log(settled(0.3))
        network.gates.bias.copy_(torch.tensor([level, -level]))
        parts = network(y, told)
    torch.testing.assert_close(parts.i[:, 0], case.gain[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.f, 1 - parts.i)
    first = parts.mean[:, 0] * unit(SETTINGS, 0.3)
    torch.testing.assert_close(first, case.mean[:, 0], rtol=1e-4, atol=1e-5)


def test_counting_units_know_the_past_alone() -> None:
    network = LinearCell(1, 3)
    told = torch.randn(2, 6, 1)
    y = torch.zeros(2, 6)
    changed = told.clone()
    changed[:, 3] += 1
    with torch.no_grad():
        before, after = network(y, told), network(y, changed)
    assert torch.equal(before.i[:, :3], after.i[:, :3])
    assert not torch.equal(before.i[:, 4:], after.i[:, 4:])
    network.gates.weight.data[:, 1] = 0  # what the gates read of the step itself
    with torch.no_grad():
        before, after = network(y, told), network(y, changed)
    assert torch.equal(before.i[:, :4], after.i[:, :4])


def test_retention_is_the_derivative_of_one_step() -> None:
    torch.manual_seed(0)
    network = StandardCell(0).double()
    with torch.no_grad():
        for weight in network.network.parameters():
            weight.normal_()
    y = torch.randn(3, 5).double()
    kept = network.retention(y, torch.zeros(3, 5, 0).double())
    weights = {name: value.detach() for name, value in network.network.named_parameters()}

    def step(c: torch.Tensor, o: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = weights["weight_ih_l0"][:, 0] * value + weights["bias_ih_l0"]
        total = total + weights["bias_hh_l0"] + weights["weight_hh_l0"][:, 0] * o * c.tanh()
        return total[1].sigmoid() * c + total[0].sigmoid() * total[2].tanh(), total[3].sigmoid()

    jacobian = torch.autograd.functional.jacobian
    for n in range(3):
        c = o = torch.zeros(()).double()
        for t, value in enumerate(y[n]):
            slope = jacobian(lambda x, o=o, value=value: step(x, o, value)[0], c)
            if t:
                torch.testing.assert_close(kept[n, t - 1], slope)
            c, o = step(c, o, value)


def test_the_best_fixed_gain_of_a_settled_filter_is_its_own() -> None:
    settings = kalman_gain.Settings(length=40, heldout_sequences=500)
    case = heldout(settings, "steady", 0.1)
    gain, means = fixed_gain(case)
    own = float(case.gain[0, 0])
    assert gain == pytest.approx(own, abs=0.02)  # five standard errors, of 20 000 steps
    best = float((means - case.level).square().mean())
    assert best <= float((case.mean - case.level).square().mean()) + 1e-12


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: must be in \[0, 1\), got 1"):
        kalman_gain.Settings(missing=1.0)
    with pytest.raises(ValueError, match="steps: must be >= 1, got 0"):
        gated_accumulator.Settings(steps=0)


def test_a_sequence_without_observations_does_not_occur() -> None:
    settings = kalman_gain.Settings(length=2, heldout_sequences=200, missing=0.9)
    assert bool(heldout(settings, "missing", 1.0).seen.any(1).all())


@pytest.mark.parametrize("name", ["accumulator", "reset"])
def test_exact_quantities_are_posteriors_of_single_observations(name: str) -> None:
    """P(u|y), P(v|y), E[x|y] of separate channels, by Bayes' rule for one bit."""
    settings = gated_accumulator.Settings(length=5, heldout_sequences=20)
    case = memories(settings, name)
    y = case.data.values.double().numpy()
    odds = math.log(gated_accumulator.KEEP / (1 - gated_accumulator.KEEP))
    np.testing.assert_allclose(case.exact.keep, 1 / (1 + np.exp(-2 * y[..., 0] - odds)))
    odds = math.log(gated_accumulator.POSITIVE / (1 - gated_accumulator.POSITIVE))
    np.testing.assert_allclose(case.exact.value, np.tanh(y[..., -1] + odds / 2), atol=1e-12)
    if name == "reset":
        np.testing.assert_allclose(case.exact.write, 1 - case.exact.keep, atol=1e-12)


def test_cases_are_simulations_of_what_they_say() -> None:
    case = heldout(kalman_gain.Settings(length=3, heldout_sequences=20_000), "steady", 10.0)
    assert isinstance(case, Case)
    moves = case.level.diff(dim=1)
    # Five standard errors: a chance of 10^-6 each.
    assert float(moves.var()) == pytest.approx(10.0, abs=5 * 10 * math.sqrt(2 / 40_000))
    start = float(case.level[:, 0].var())
    variance = settled(10.0)
    assert start == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / 20_000))
    noise = float((case.y - case.level).var())
    assert noise == pytest.approx(1.0, abs=5 * math.sqrt(2 / 60_000))
