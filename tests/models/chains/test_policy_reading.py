"""The cell as transition and policy beside sums over all paths, and beside the cell that emits."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from beliefzoo.experiments.decisions import policy_reading as experiment
from beliefzoo.experiments.decisions.parts import two_worlds
from beliefzoo.experiments.parts import gates
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    filter,
    fit,
    log_evidence,
)
from beliefzoo.inference.queries.structures import structure
from beliefzoo.models import (
    Bernoulli,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    NodeEmission,
    NodeInitial,
    PolicyReading,
    Sequences,
    SigmoidTransition,
    TemporalSigmoidBeliefNetwork,
    as_policy,
    emission_of,
    load_model,
    node_gate,
    policy_gate,
    read_as_inputs,
    save_model,
)

W_H, W_Y, B = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([[1.0], [-2.0]]), np.array([-1.0, 0.3])
START, LOADING, SCALE = (
    np.array([0.2, -0.4]),
    np.array([[1.0, 0.5], [-1.0, 2.0]]),
    np.array([0.7, 1]),
)
BITS = list(itertools.product((0, 1), repeat=2))


def driven() -> HiddenMarkovModel:
    return PolicyReading(2, Gaussian(2), inputs=1).with_parameters(
        node_initial=START,
        node_weight=W_H,
        node_input=W_Y,
        node_bias=B,
        node_loading=LOADING,
        node_intercept=[0.1, 0.0],
        scale=SCALE,
    )


def chance(bits: tuple[int, ...], logits: np.ndarray) -> float:
    return float(np.prod([p if h else 1 - p for h, p in zip(bits, expit(logits), strict=True)]))


def normal(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> float:
    each = np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    return float(np.prod(each))


def test_the_evidence_given_what_acts_is_the_sum_over_all_paths() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(2, 4, 1)), rng.normal(size=(2, 4, 2))
    both = np.concatenate([y, x], -1)
    both[:, 0] = np.nan
    data = read_as_inputs(Sequences.from_arrays(list(both)), 1)
    model = driven()
    for n in range(2):
        total, last = 0.0, np.zeros(4)
        for path in itertools.product(range(4), repeat=4):
            h = [BITS[state] for state in path]
            weight = chance(h[0], START)
            for t in range(1, 4):
                weight *= chance(h[t], W_H @ h[t - 1] + W_Y @ y[n, t] + B)
                weight *= normal(x[n, t], np.array([0.1, 0]) + LOADING.T @ h[t], SCALE)
            total += weight
            last[path[-1]] += weight
        # inputs are float32, as the data are
        assert float(log_evidence(model, data)[n]) == pytest.approx(math.log(total), abs=1e-5)
        np.testing.assert_allclose(filter(model, data)[n, -1], last / total, atol=1e-6)


def matched(weight: float = 2.0) -> HiddenMarkovModel:
    """Two nodes; three features y, in which they are orthogonal, and one x."""
    return TemporalSigmoidBeliefNetwork(2, Gaussian(4)).with_parameters(
        node_initial=[0.5, -0.5],
        node_weight=[[weight, -weight / 2], [weight / 3, weight]],
        node_bias=[-0.2, 0.4],
        node_loading=[[1.0, 2.0, 0.0, 1.0], [2.0, -1.0, 1.0, -2.0]],
        node_intercept=[0.3, -0.2, 0.1, 0.0],
        scale=[1.0, 1.0, 0.5, 0.8],
    )


def test_the_gate_is_that_of_the_nodes_that_emit() -> None:
    """p(h | h', y) by Bayes' rule over all states, and by the policy."""
    model, rng = matched(), np.random.default_rng(1)
    gate = policy_gate(as_policy(model, 3))
    values = {name: value.numpy() for name, value in model.known.items()}
    for before in BITS:
        y = rng.normal(size=3)
        joint = []
        for h in BITS:
            moved = chance(h, values["node_weight"] @ before + values["node_bias"])
            mean = values["node_intercept"][:3] + values["node_loading"][:, :3].T @ h
            joint.append(moved * normal(y, mean, values["scale"][:3]))
        logits = gate.logits(torch.tensor(y), torch.tensor(before)).numpy()
        for h, weight in zip(BITS, joint, strict=True):
            assert chance(h, logits) == pytest.approx(weight / sum(joint), abs=1e-12)


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (2.0, False)])
def test_without_memory_both_readings_are_the_same_law(weight: float, same: bool) -> None:
    model = matched(weight)
    drawn = model.sample(5, 8, seed=2).data
    values = drawn.values.double().clone()
    values[:, 0] = torch.nan
    data = Sequences.from_tensors(values)
    acting = log_evidence(as_policy(model, 3), read_as_inputs(data, 3))
    world = log_evidence(emission_of(model, slice(0, 3)), two_worlds.read_alone(data, 3))
    off = (acting + world - log_evidence(model, data)).abs()
    assert bool((off < 1e-9).all()) == same


def test_a_diagonal_coupling_with_inputs_has_no_structure() -> None:
    law = SigmoidTransition(7, "diagonal", inputs=1)
    model = HiddenMarkovModel(
        2**7, NodeEmission(7, Gaussian()), transition=law, initial=NodeInitial(7)
    )
    values = {name: prior.mean.double() for name, prior in model.priors.items()}
    values["node_loading"] = torch.ones(7, 1).double()
    model = model.with_parameters(**values)
    data = Sequences.from_arrays([[0.0, 1.0]], inputs=[[[1.0], [0.0]]])
    assert structure(model.laws({}, data)) is None
    assert torch.isfinite(log_evidence(model, data)).all()
    with pytest.raises(ValueError, match="inputs: must be 0 for chains of single nodes"):
        law.chains(values)


def test_inputs_act_on_the_step_after_them() -> None:
    data = Sequences.from_arrays(
        [[[np.nan, np.nan], [1, 5], [2, np.nan]], [[np.nan, np.nan], [3, 6]]]
    )
    read = read_as_inputs(data, 1)
    assert read.inputs is not None
    assert read.inputs[..., 0].tolist() == [[1, 2, 0], [3, 0, 0]]
    assert read.values[..., 0].tolist() == [[0, 5, 0], [0, 6, 0]]
    assert read.mask[..., 0].tolist() == [[False, True, False], [False, True, False]]
    assert read.features == data.features[1:]


def test_it_is_fitted_and_filtered_by_a_network() -> None:
    data = read_as_inputs(two_worlds.make(two_worlds._gaussian(1, 0.1), "acting", 6, 10, 3).data, 1)
    model = PolicyReading(1, Gaussian(1), inputs=1)
    settings = FitSettings(steps=3, sleep_steps=2)
    for kind in (ExactFilter(), LSTMFilter(4)):
        guide = BeliefGuide(model, kind, parameters="map")
        found = fit(model, guide, data, settings=settings, progress=False)
        assert set(found.fitted.known) >= {"node_input", "node_weight"}


def test_saved_and_loaded(tmp_path) -> None:
    again = load_model(save_model(driven(), tmp_path / "model.pt"))
    assert again.configuration == driven().configuration


def test_bad_input_is_refused() -> None:
    data = Sequences.from_arrays([[[np.nan, np.nan], [1.0, 2.0], [np.nan, 1.0]]])
    with pytest.raises(ValueError, match=r"data: needs all 1 features of y at .* '0', step 2"):
        read_as_inputs(data, 1)
    with pytest.raises(ValueError, match="reads: must leave a feature to observe, got 2 of 2"):
        read_as_inputs(data, 2)
    with pytest.raises(ValueError, match="nothing can be observed at the first step"):
        read_as_inputs(Sequences.from_arrays([[[1.0, 2.0], [1.0, 2.0]]]), 1)
    with pytest.raises(ValueError, match="inputs: must be a whole number >= 1"):
        PolicyReading(1, Gaussian(), inputs=0)
    with pytest.raises(ValueError, match="inputs: must be a whole number >= 0"):
        SigmoidTransition(1, inputs=-1)
    with pytest.raises(ValueError, match=r"data.inputs: SigmoidTransition\(inputs=1\) needs 1"):
        log_evidence(driven(), Sequences.from_arrays([[[1.0, 2.0]]]))
    with pytest.raises(ValueError, match=r"couple no nodes.*got \[\(0, 1\)\]"):
        as_policy(matched(), 1)
    with pytest.raises(ValueError, match="features independent given the nodes"):
        as_policy(TemporalSigmoidBeliefNetwork(1, FullGaussian(2)), 1)
    with pytest.raises(ValueError, match="must be a PolicyReading"):
        policy_gate(matched())
    with pytest.raises(ValueError, match="must be a TemporalSigmoidBeliefNetwork or"):
        node_gate(driven())


# The measures of the experiment


def test_the_two_worlds_have_the_same_law_of_what_is_read() -> None:
    """Frequencies of neighbouring bits y within five standard errors: fails once in 10^5."""
    case = two_worlds._bits(0.1)
    shares = []
    for seed, reading in enumerate(experiment.READINGS):
        y = two_worlds.make(case, reading, 4000, 6, seed).data.values[:, 1:, 0]
        shares.append(torch.stack([y.mean(0), *(y[:, :1] * y).mean(0).unsqueeze(0)]))
    assert float((shares[0] - shares[1]).abs().max()) < 5 * math.sqrt(2 * 0.25 / 4000)


def test_two_gates_gain_what_scipy_says() -> None:
    rng = np.random.default_rng(4)

    def drawn(weights: np.ndarray) -> gates.Pairs:
        before, y = rng.integers(0, 2, (300, 1)), rng.normal(size=(300, 2))
        x = np.concatenate([before, y, np.ones((300, 1))], -1)
        after = rng.random((300, 1)) < expit(x @ weights)[:, None]
        return gates.Pairs(*(torch.tensor(part).double() for part in (before, y, after)))

    def best(*parts: gates.Pairs) -> float:
        x = np.concatenate([part.inputs for part in parts])
        h = np.concatenate([part.after for part in parts])[:, 0]

        def loss(w: np.ndarray) -> float:
            return float(np.sum(np.logaddexp(0, x @ w) - h * (x @ w)))

        return -float(minimize(loss, np.zeros(4), tol=1e-10).fun)

    one, two = drawn(np.array([2, 1, -1, 0.5])), drawn(np.array([1, 1, -1, 0.5]))
    expected = best(one) + best(two) - best(one, two) - 2
    assert gates.two_gates_for_one(one, two) == pytest.approx(expected, abs=1e-4)


def test_names_of_nodes_do_not_matter_to_the_score_of_gates() -> None:
    case = two_worlds._gaussian(2, 0.1)
    pairs = two_worlds.make(case, "emitted", 10, 20, 5).pairs(2)
    true = experiment.Readings(case.emitted, as_policy(case.emitted, 2), case.emitted)
    score = experiment.gate_scores(true, pairs, 2)
    assert score[0] == pytest.approx(score[1], abs=1e-9)  # the same gate, read both ways
    swapped = gates.Pairs(pairs.before[:, [1, 0]], pairs.y, 1 - pairs.after[:, [1, 0]])
    other = gates.Pairs(1 - swapped.before, swapped.y, swapped.after)
    assert experiment.gate_scores(true, other, 2)[0] == pytest.approx(score[0], abs=1e-12)
    assert len(gates.renamed(pairs)) == 8


def test_bad_settings() -> None:
    for changes, message in (
        ({"datasets": 1}, "datasets: must be >= 2"),
        ({"switch_rate": 0.6}, r"must be in \(0, .5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            experiment.Settings(**changes)
    assert two_worlds.case_of("one_node_of_bits", 0.1).family is Bernoulli
