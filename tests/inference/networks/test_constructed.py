"""Networks written from parameters beside sums over paths, Kalman's loop and Bayes' rule."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    construct,
    evidence_gap,
    failing_conditions,
    gates,
    steady_state,
)
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    GatedAccumulator,
    Gaussian,
    HiddenMarkovModel,
    LinearDynamics,
    LinearEmission,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Poisson,
    ResetModel,
    Sequences,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
)
from oracles_memory import enumerate_memory

# Memory models


def accumulator(loading=((1.0, 0, 0, 0.5), (0, 1.2, 0, 0), (0, 0, 0.8, 0)), **changed):
    values = {"keep": 0.8, "write": 0.3, "positive": 0.6, "intercept": [0.1, -0.2, 0.3, 0.0]}
    values |= {"scale": [0.7, 0.9, 1.1, 1.3], "loading": loading} | changed
    return GatedAccumulator(5, features=4, leak=len(loading) > 3).with_parameters(**values)


def reset(loading=((1.0, 0.0), (0.0, 0.8)), **changed):
    values = {"keep": 0.7, "positive": 0.4, "intercept": [0.1, -0.2], "scale": [0.7, 0.9]}
    values |= {"loading": loading} | changed
    return ResetModel(leak=len(loading) > 2).with_parameters(**values)


@pytest.mark.parametrize("make", [accumulator, reset])
def test_the_cell_of_a_memory_model_is_its_mean(make) -> None:
    model = make()
    generator = np.random.default_rng(0)
    data = Sequences.from_arrays(
        [generator.normal(size=(steps, model.emission.features)) for steps in (4, 2)]
    )
    cell = construct(model)
    assert type(cell.network) is nn.LSTM
    assert cell.network.hidden_size == 1
    found = cell.mean(data)
    values = {name: value.numpy() for name, value in model.known.items()}
    for n, length in enumerate((4, 2)):
        y = data.values[n, :length].numpy()
        true = enumerate_memory(y, values, make is reset)
        np.testing.assert_allclose(found[n, :length], true.memory, atol=1e-12)
        opened = gates(cell.network, data).isel(sequence=n, time=slice(length), layer=0, unit=0)
        np.testing.assert_allclose(opened["f"], true.keep, atol=1e-12)
        np.testing.assert_allclose(opened["i"], true.write, atol=1e-12)
        np.testing.assert_allclose(opened["g"], true.value, atol=1e-12)
    assert not found[1, 2:].any()
    with pytest.raises(ValueError, match="model: a filter says the whole belief"):
        cell.filter()


MEMORY_FAILURES = {
    "keep and write share a feature": (
        accumulator([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
        [r"channels of keep and write are not separate: .* = 0\.617"],
    ),
    "write and value": (
        accumulator([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]),
        ["channels of write and value are not separate"],
    ),
    "leak": (
        accumulator([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0.5]]),
        [r"y tells of the memory before it: its channel has the precision 0\.148"],
    ),
    "leaking reset with shared channels": (
        reset([[1, 0.5], [0, 1], [0, 0.5]]),
        ["channels of keep and value", "y tells of the memory before"],
    ),
    "certain": (accumulator(keep=1.0), ["keep must lie between 0 and 1"]),
}


@pytest.mark.parametrize("case", MEMORY_FAILURES)
def test_conditions_of_memory_models_are_named(case: str) -> None:
    model, messages = MEMORY_FAILURES[case]
    assert len(failing_conditions(model)) == len(messages)
    for message in messages:
        with pytest.raises(ValueError, match=f"model: no recurrent network is exact.*{message}"):
            construct(model)


def test_a_leak_of_size_zero_is_none() -> None:
    model = accumulator([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert not failing_conditions(model)


# The Kalman filter


def linear(a, q, c, r, offset=0.0, intercept=0.0, mean=None, variance=None):
    """A scalar model that starts in its steady state, found by iterating the Riccati equation."""
    predicted = 1.0
    for _ in range(100_000):
        predicted = a * a * predicted * r / (c * c * predicted + r) + q
    dynamics = LinearDynamics(1, offset=True)
    emission = LinearEmission(intercept=True)
    return LinearGaussianSSM(dynamics, emission=emission).with_parameters(
        transition=[[a]],
        offset=[offset],
        process_variance=[q],
        initial_mean=[offset / (1 - a) if mean is None else mean],
        initial_variance=[predicted if variance is None else variance],
        loading=[[c]],
        intercept=intercept,
        observation_variance=r,
    )


def kalman(y, a, q, c, r, offset, intercept, mean, variance):
    """Filtered means of one series, the textbook loop."""
    means = []
    for value in y:
        gain = variance * c / (c * c * variance + r)
        mean = mean + gain * (value - intercept - c * mean)
        variance = (1 - gain * c) * variance
        means.append(mean)
        mean, variance = a * mean + offset, a * a * variance + q
    return np.array(means)


SCALARS = {
    "plain": {"a": 0.9, "q": 0.5, "c": 1.0, "r": 1.0},
    "negative loading": {"a": 0.7, "q": 2.0, "c": -1.7, "r": 0.3},
    "with offsets": {"a": 0.8, "q": 0.1, "c": 0.4, "r": 2.0, "offset": 1.5, "intercept": -3.0},
    "small": {"a": 0.99, "q": 1e-6, "c": 1.0, "r": 1e-4},
}


@pytest.mark.parametrize("case", SCALARS)
def test_the_cell_of_a_linear_model_is_the_kalman_filter(case: str) -> None:
    values = {"offset": 0.0, "intercept": 0.0} | SCALARS[case]
    model = linear(**values)
    data = model.sample(5, 200, seed=0).data
    cell = construct(model)
    found = cell.mean(data)
    start = float(model.known["initial_mean"]), float(model.known["initial_variance"])
    for n in range(5):
        true = kalman(
            data.values[n, :, 0].double().numpy(), **values, mean=start[0], variance=start[1]
        )
        np.testing.assert_allclose(found[n], true, atol=1e-6 * float(np.abs(true).max()))
    opened = gates(cell.network, data)
    gain = float(steady_state(model).gain) * values["c"]
    np.testing.assert_allclose(opened["i"], gain, rtol=1e-9)
    np.testing.assert_allclose(opened["f"], values["a"] * (1 - gain), rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.01, 0.1, 1.0, 10.0])
def test_the_local_level_has_its_closed_form(ratio: float) -> None:
    level = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=ratio, observation_variance=1.0
    )
    steady = steady_state(level)
    predicted = (ratio + math.sqrt(ratio**2 + 4 * ratio)) / 2
    assert float(steady.predicted_covariance) == pytest.approx(predicted, rel=1e-12)
    assert float(steady.gain) == pytest.approx(predicted / (1 + predicted), rel=1e-12)
    settled = LinearGaussianSSM(LocalLevel(initial_variance=predicted)).with_parameters(
        level_variance=ratio, observation_variance=1.0
    )
    data = settled.sample(4, 100, seed=0).data
    guide = BeliefGuide(settled, construct(settled).filter())
    gap = evidence_gap(guide, data)
    torch.testing.assert_close(gap.elbo, gap.log_evidence, rtol=1e-9, atol=0)
    opened = gates(construct(settled).network, data)
    np.testing.assert_allclose(opened["f"], 1 - opened["i"], rtol=1e-9)  # a = C = 1
    logit = np.log(opened["i"] / (1 - opened["i"]))
    np.testing.assert_allclose(logit, math.log(predicted), atol=1e-9)


def test_a_steady_state_of_several_components_is_where_riccati_settles() -> None:
    trend = LinearGaussianSSM(LocalLinearTrend()).with_parameters(
        level_variance=0.5, slope_variance=0.1, observation_variance=2.0
    )
    a, q, c = np.array([[1.0, 1], [0, 1]]), np.diag([0.5, 0.1]), np.array([[1.0, 0]])
    p = np.eye(2)
    for _ in range(10_000):
        gain = p @ c.T / (c @ p @ c.T + 2.0)
        p = a @ (p - gain @ c @ p) @ a.T + q
    steady = steady_state(trend)
    np.testing.assert_allclose(steady.predicted_covariance, p, rtol=1e-9)
    np.testing.assert_allclose(steady.gain, gain, rtol=1e-9)
    np.testing.assert_allclose(steady.covariance, p - gain @ c @ p, rtol=1e-9)


def test_a_constructed_filter_can_be_trained_and_keeps_to_its_kind() -> None:
    model = linear(0.9, 0.5, 1.0, 1.0)
    filter = construct(model).filter()
    data = model.sample(3, 10, seed=0).data
    guide = BeliefGuide(model, filter)
    guide.bound(model.laws({}, data)).sum().backward()
    # The bound is at its top, so its gradient is zero: to the share of numbers that it is made of.
    slope = filter.network.bias_ih_l0.grad
    assert slope is not None
    assert float(slope[:2].abs().max()) < 1e-4
    with pytest.raises(ValueError, match="filter: constructed for LinearGaussianSSM"):
        BeliefGuide(reset(), filter)


LINEAR_FAILURES = {
    "two components": (
        LinearGaussianSSM(LocalLinearTrend()).with_parameters(
            level_variance=0.5, slope_variance=0.1, observation_variance=2.0
        ),
        "one cell holds one number, and the state has 2 components",
    ),
    "continuous time": (
        LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
            rate=0.5, mean=0.0, stationary_variance=1.0, observation_variance=0.5
        ),
        "same at every step, and these depend on the time between observations",
    ),
    "changing": (
        linear(0.9, 0.5, 1.0, 1.0).with_parameters(process_variance=[[0.5], [0.6]]),
        "same at every step, and process_variance has an axis of steps",
    ),
    "flat start": (
        LinearGaussianSSM(LocalLevel()).with_parameters(
            level_variance=1.0, observation_variance=1.0
        ),
        r"steady from the first step on, and the first state is flat \(needs the variance 1.61803",
    ),
    "unsettled": (
        linear(0.9, 0.5, 1.0, 1.0, variance=2.0),
        "steady from the first step on, and the first state has variance 2 instead of 0.8",
    ),
    "drifting": (
        linear(0.9, 0.5, 1.0, 1.0, mean=1.0),
        "the first mean must be one that the moves leave as it is, and 1 moves by -0.1",
    ),
    "alternating": (
        linear(-0.9, 0.5, 1.0, 1.0),
        r"a gate lies between 0 and 1, and f = a \(1 - K C\) is -0",
    ),
    "still": (
        linear(0.5, 1e-30, 1.0, 1.0),
        "a gate lies between 0 and 1, and i = K C is",
    ),
}


@pytest.mark.parametrize("case", LINEAR_FAILURES)
def test_conditions_of_linear_models_are_named(case: str) -> None:
    model, message = LINEAR_FAILURES[case]
    with pytest.raises(ValueError, match=f"model: no recurrent network is exact.*{message}"):
        construct(model)


def test_two_outputs_are_one_too_many() -> None:
    model = LinearGaussianSSM(LinearDynamics(1), emission=LinearEmission(features=2))
    known = {"transition": [[0.9]], "process_variance": [1.0], "initial_mean": [0.0]}
    known |= {"initial_variance": [1.0], "loading": [[1.0], [1.0]]}
    model = model.with_parameters(**known, observation_variance=[1.0, 1.0])
    assert failing_conditions(model) == ("it must have one output, and there are 2",)
    steady = steady_state(model)  # which needs no single output
    assert steady.gain.shape == (1, 2)


# Binary nodes

W = [[1.5, -2.0, 0.5], [0.3, 1.0, -1.0], [2.0, 0.0, -0.7]]
NODES = {"node_weight": W, "node_bias": [-0.5, 0.2, 0.4]}
FIRST = {"node_initial": [0.3, -0.6, 1.0]}
ORTHOGONAL = [[1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.5]]
ONE_PARENT = [[1.0, 0.0, 0.0, 0.0], [0.0, -1.5, 0.7, 0.0], [0.0, 0.0, 0.0, 2.0]]
MIXED = [[1.0, 0.4, -0.3, 0.8], [0.2, -1.5, 0.7, 0.1], [-0.6, 0.9, 0.5, 2.0]]


def belief_network(family, loading, kind=TemporalSigmoidBeliefNetwork):
    values = NODES | FIRST | {"node_loading": loading, "node_intercept": [0.1, -0.3, 0.5, 0.2]}
    if isinstance(family, Gaussian):
        values["scale"] = [0.8] * 4
    return kind(3, family).with_parameters(**values)


GATES = {
    "normal": belief_network(Gaussian(4), ORTHOGONAL),
    "bits": belief_network(Bernoulli(4), ONE_PARENT),
    "counts": belief_network(Poisson(4), ONE_PARENT),
    "symbols": belief_network(Categorical(4), [[0.0] * 4, [1.0, -1.0, 0.5, 0.0], [0.0] * 4]),
    "harmonium of normals": belief_network(Gaussian(4), MIXED, TemporalRBM),
    "harmonium of bits": belief_network(Bernoulli(4), MIXED, TemporalRBM),
}


def log_density(model, y, bits):
    """log O(y | h) of one observation, written out."""
    known = {name: value.numpy() for name, value in model.known.items()}
    eta = known["node_intercept"] + bits @ known["node_loading"]
    family = model.emission.family
    if isinstance(family, Gaussian):
        return float(-0.5 * (((y - eta) / known["scale"]) ** 2).sum())
    if isinstance(family, Bernoulli):
        return float((y * eta - np.log1p(np.exp(eta))).sum())
    if isinstance(family, Poisson):
        return float((y * eta - np.exp(eta)).sum())
    return float(eta[int(y)] - np.log(np.exp(eta).sum()))


def log_partition(model, bits):
    """log Z(h) of O = r(y) exp(h'Wy) / Z(h), for reals and bits."""
    known = {name: value.numpy() for name, value in model.known.items()}
    eta = known["node_intercept"] + bits @ known["node_loading"]
    if isinstance(model.emission.family, Gaussian):
        return float((0.5 * (eta / known["scale"]) ** 2).sum())
    return float(np.log1p(np.exp(eta)).sum())


def bayes(model, y, before, harmonium):
    """P(h_j = 1 | h_{t-1}, y_t) by the sum over all h; ``before`` None at the first step."""
    known = {name: value.numpy() for name, value in model.known.items()}
    drive = known["node_initial"]
    if before is not None:
        drive = known["node_weight"] @ before + known["node_bias"]
    states = [np.array(bits) for bits in itertools.product((0, 1), repeat=3)]
    scores = []
    for bits in states:
        score = bits @ drive + log_density(model, y, bits)
        scores.append(score + (log_partition(model, bits) if harmonium else 0))
    weight = np.exp(np.array(scores) - max(scores))
    return weight @ np.array(states) / weight.sum()


@pytest.mark.parametrize("case", GATES)
def test_a_layer_of_units_is_the_posterior_of_the_nodes(case: str) -> None:
    model = GATES[case]
    simulated = model.sample(4, [5, 5, 3, 1], seed=0)
    layer = construct(model)
    assert type(layer.network) is nn.RNN
    assert layer.network.nonlinearity == "tanh"
    found = layer.probabilities(simulated.data, simulated.states)
    assert found.dtype == torch.float64
    assert found.shape == (4, 5, 3)
    codes = simulated.data.is_codes
    values = simulated.data.codes() if codes else simulated.data.values.double()
    for n, length in enumerate((5, 5, 3, 1)):
        for t in range(length):
            state = int(simulated.states[n, t - 1])
            before = np.array([state >> 2 & 1, state >> 1 & 1, state & 1]) if t else None
            true = bayes(model, values[n, t].numpy(), before, "harmonium" in case)
            np.testing.assert_allclose(found[n, t], true, atol=1e-12)
    assert not found[3, 1:].any()


def test_coupled_nodes_are_named() -> None:
    model = belief_network(Bernoulli(4), [*ONE_PARENT[:2], [1.0, 0.0, 0.0, 2.0]])
    (failing,) = failing_conditions(model)
    # Δ_0 Δ_2 log Z of the one output with two parents, whose logit is .1 + h_0 + h_2
    softplus = [math.log1p(math.exp(0.1 + on)) for on in range(3)]
    size = softplus[2] - 2 * softplus[1] + softplus[0]
    assert failing.startswith(f"the observation couples nodes 0 and 2 by {size:.3g} nats")
    with pytest.raises(ValueError, match=r"model: no recurrent network is exact.*nodes 0 and 2"):
        construct(model)


def test_rounding_of_single_precision_couples_nothing() -> None:
    loading = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0][:3]
    model = belief_network(Gaussian(4), loading)
    assert construct(model).network.hidden_size == 3


# Bad input

LEVEL = LinearGaussianSSM(LocalLevel(initial_variance=1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: construct(HiddenMarkovModel(2, "gaussian")), "model: networks are constructed"),
        (lambda: construct(LEVEL), "parameters: needs values for"),
        (lambda: construct(GatedAccumulator(3)), "parameters: needs values for"),
        (lambda: steady_state(reset()), "model: must be a LinearGaussianSSM, got"),
        (
            lambda: steady_state(linear(1.1, 0.5, 0.0, 1.0, mean=0.0, variance=1.0)),
            "model: needs a steady state",
        ),
        (
            lambda: construct(reset()).mean(Sequences.from_arrays([[[1.0, np.nan]]])),
            "data: the weights are written for steps that are observed whole, got 1 missing",
        ),
        (
            lambda: construct(reset()).mean(Sequences.from_arrays([[1.0, 2.0]])),
            r"data: MemoryEmission needs 2 feature\(s\), got 1",
        ),
        (
            lambda: construct(GATES["bits"]).probabilities(
                Sequences.from_arrays([[[1.0, 0, 0, 1]]]), torch.zeros(1, 2, dtype=torch.int64)
            ),
            r"paths: needs whole numbers of shape \(1, 1\), got torch.int64 \(1, 2\)",
        ),
        (
            lambda: construct(GATES["bits"]).probabilities(
                Sequences.from_arrays([[[1.0, 0, 0, 1]]]), torch.zeros(1, 1)
            ),
            r"paths: needs whole numbers of shape \(1, 1\), got torch.float32 \(1, 1\)",
        ),
        (
            lambda: construct(GATES["bits"]).probabilities(
                Sequences.from_arrays([[[1.0, 0, 0, 1]]]), torch.tensor([[99]])
            ),
            r"paths: needs states 0 … \d+, got 99 … 99",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
