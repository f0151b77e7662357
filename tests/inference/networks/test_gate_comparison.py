"""Gates beside the posterior: its quantities by sums over all paths and textbook recursions."""

import math

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.inference import compare_gates, posterior_quantities
from beliefzoo.models import (
    Categorical,
    DeepMarkovModel,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
)


def test_quantities_of_states_are_sums_over_all_paths():
    model = HiddenMarkovModel(3, Categorical(4))
    drawn = model.sample(3, [5, 3, 1], seed=0)
    known = model.with_parameters(**drawn.parameters)
    laws = known.laws({}, drawn.data)
    found = {name: x.numpy() for name, x in posterior_quantities(known, drawn.data).items()}
    first, onward = laws.log_initial[0].numpy(), laws.log_transition[0, 0].numpy()
    for n, length in enumerate([5, 3, 1]):
        before = 0.0
        for t in range(length):
            likelihood = laws.log_likelihood[n, : t + 1].numpy()
            table = np.broadcast_to(onward, (t, 3, 3))
            now = oracles.posterior(first, table, likelihood)
            blind = likelihood.copy()
            blind[-1] = 0  # nothing seen at this step
            predicted = oracles.posterior(first, table, blind).marginals[-1]
            belief = now.marginals[-1]
            assert found["surprise"][n, t] == pytest.approx(before - now.log_evidence)
            gain = (belief * np.log(belief / predicted)).sum()
            assert found["information gain"][n, t] == pytest.approx(gain, abs=1e-12)
            stay = np.trace(now.pairs[-1]) if t else 0
            assert found["staying"][n, t] == pytest.approx(stay, abs=1e-12)
            before = now.log_evidence
        assert not any(x[n, length:].any() for x in found.values())


def test_retention_of_a_local_level_is_one_minus_the_gain():
    model = LinearGaussianSSM(LocalLevel(initial_variance=2.0)).with_parameters(
        level_variance=0.5,
        observation_variance=1.5,
    )
    data = model.sample(2, 6, seed=0).data
    found = posterior_quantities(model, data)
    for n in range(2):
        mean, variance = 0.0, 2.0
        for t in range(6):
            y = float(data.values[n, t, 0])
            gain = variance / (variance + 1.5)
            assert float(found["retention"][n, t]) == pytest.approx(1 - gain, abs=1e-10)
            whole = variance + 1.5
            surprise = (math.log(2 * math.pi * whole) + (y - mean) ** 2 / whole) / 2
            assert float(found["surprise"][n, t]) == pytest.approx(surprise, abs=1e-8)
            moved, left = gain * (y - mean), variance * (1 - gain)
            kl = (left / variance + moved**2 / variance - 1 - math.log(left / variance)) / 2
            assert float(found["information gain"][n, t]) == pytest.approx(kl, abs=1e-8)
            mean, variance = mean + moved, left + 0.5


def test_information_gain_in_two_dimensions_is_the_divergence_of_normal_laws():
    model = LinearGaussianSSM(LinearDynamics(2))
    drawn = model.sample(1, 4, seed=3)
    known = model.with_parameters(**drawn.parameters)
    from beliefzoo.inference import filter, predict

    before, after = predict(known, drawn.data), filter(known, drawn.data)
    found = posterior_quantities(known, drawn.data)["information gain"]
    for t in range(4):
        law = [
            torch.distributions.MultivariateNormal(x.mean[0, t], x.covariance[0, t])
            for x in (after, before)
        ]
        expected = float(torch.distributions.kl_divergence(*law))
        assert float(found[0, t]) == pytest.approx(expected, rel=1e-6)


def test_correlations_are_pearsons_from_the_second_step_on():
    gates = {"i": torch.rand(5, 7, 2, 3), "f": torch.rand(5, 7, 2, 3), "h": torch.rand(5, 7, 2, 3)}
    inside = torch.arange(7) < torch.tensor([7, 5, 4, 7, 2]).unsqueeze(-1)
    target = torch.rand(5, 7).double()
    target = torch.where(inside, 1 - 2 * gates["f"][:, :, 1, 2].double(), math.nan)
    target[:, 0] = 9  # the first step does not count
    target = torch.where(inside, target, 0)
    found = compare_gates(gates, {"staying": target}, inside)
    later = inside.clone()
    later[:, 0] = False
    for name in ("i", "f"):
        for layer in range(2):
            for unit in range(3):
                x = gates[name][:, :, layer, unit][later].numpy()
                expected = np.corrcoef(x, target[later].numpy())[0, 1]
                ours = float(found.correlations[name]["staying"][layer, unit])
                assert ours == pytest.approx(expected, abs=1e-6)
    best = found.best["f"]["staying"]
    assert (best.layer, best.unit) == (1, 2)
    assert best.correlation == pytest.approx(-1, abs=1e-6)
    assert best.all_units_r_squared == pytest.approx(1, abs=1e-6)
    assert set(found.best) == {"i", "f"}
    assert "staying" in str(found)


def test_what_does_not_vary_correlates_with_nothing():
    gates = {"f": torch.rand(4, 5, 1, 2)}
    inside = torch.ones(4, 5, dtype=torch.bool)
    found = compare_gates(gates, {"staying": torch.full((4, 5), 0.5)}, inside)
    assert found.correlations["f"]["staying"].tolist() == [[0, 0]]


def test_bad_input():
    gates, inside = {"f": torch.rand(4, 5, 1, 2)}, torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"gates: needs some of .*, got \['h'\]"):
        compare_gates({"h": gates["f"]}, {}, inside)
    with pytest.raises(ValueError, match=r"surprise: needs shape \(4, 5\), got \(4, 6\)"):
        compare_gates(gates, {"surprise": torch.rand(4, 6)}, inside)
    refused = [
        ({"f": gates["f"].numpy()}, {}, inside, "f: must be a tensor, got ndarray"),
        ({"f": gates["f"][..., 0]}, {}, inside, r"gates: need shape .* got \(4, 5, 1\)"),
        (gates, {"surprise": [0.5]}, inside, "surprise: must be a tensor, got list"),
        (gates, {}, None, "inside: must be a tensor, got NoneType"),
        (gates, {}, inside.float(), r"inside: needs bools of shape \(4, 5\), got torch.float32"),
    ]
    for one, quantities, steps, message in refused:
        with pytest.raises(ValueError, match=message):
            compare_gates(one, quantities, steps)
    data = Sequences.from_arrays([[0.5, 1.0]])
    with pytest.raises(ValueError, match="data: must be Sequences, got Tensor"):
        posterior_quantities(HiddenMarkovModel(2, "gaussian"), data.values)
    with pytest.raises(ValueError, match="model: needs a hidden Markov model or a linear-Gaussian"):
        posterior_quantities(DeepMarkovModel(2, "gaussian"), data)
    with pytest.raises(ValueError, match="parameters: needs values for"):
        posterior_quantities(HiddenMarkovModel(2, "gaussian"), data)
