"""The models whose evidence gaps are taken apart."""

from __future__ import annotations

from collections.abc import Mapping

from ....inference.exact import chains as exact
from ....models import (
    Bernoulli,
    Categorical,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    Sequences,
    TemporalSigmoidBeliefNetwork,
)

Known = HiddenMarkovModel | LinearGaussianSSM

CASES: Mapping[str, str] = {
    "three_states_symbols": "3 states, 3 symbols",
    "two_states_normal": "2 states, normal outputs",
    "two_states_normal_missing": "2 states, normal outputs, 10 % of steps missing",
    "three_binary_nodes": "3 binary nodes, 2 bits",
    "linear_gaussian": "scalar linear-Gaussian",
}


def known_model(case: str) -> Known:
    """The model of a case at its values."""
    if case == "three_states_symbols":
        return HiddenMarkovModel(3, Categorical(3)).with_parameters(
            initial=[1 / 3, 1 / 3, 1 / 3],
            transition=[[0.85, 0.10, 0.05], [0.05, 0.85, 0.10], [0.10, 0.05, 0.85]],
            probs=[[0.70, 0.20, 0.10], [0.15, 0.70, 0.15], [0.10, 0.30, 0.60]],
        )
    if case == "three_binary_nodes":
        # Nodes that persist and pass on what they are; each bit has two of them for parents, so
        # that to see it couples them.
        return TemporalSigmoidBeliefNetwork(3, Bernoulli(2)).with_parameters(
            node_initial=[0.0, 0.0, 0.0],
            node_weight=[[3.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 3.0]],
            node_bias=[-2.0, -2.0, -2.0],
            node_loading=[[2.5, 0.0], [2.5, 2.5], [0.0, 2.5]],
            node_intercept=[-2.5, -2.5],
        )
    if case == "linear_gaussian":
        dynamics = LinearDynamics(1)
        return LinearGaussianSSM(dynamics, 1, intercept=False).with_parameters(
            transition=[[0.9]],
            process_covariance=[[1.0]],
            initial_mean=[0.0],
            initial_covariance=[[1 / (1 - 0.9**2)]],
            loading=[[1.0]],
            observation_variance=2.0,
        )
    return HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.9, 0.1], [0.1, 0.9]],
        mean=[-1.0, 1.0],
        scale=[1.0, 1.0],
    )


def future_information(model: Known, data: Sequences) -> float:
    """Σ_t I(z_t; y_{t+1:T} | z_{t-1}, y_{1:t}) / steps, nats: what the best causal q leaves.

    That is in forward KL, KL(p(z|y) ‖ q) on average (SCIENCE I2): E log p(z_t | z_{t-1}, y)
    − E log p(z_t | z_{t-1}, y_{1:t}) under the posterior. The causality part is in reverse KL.
    """
    assert isinstance(model, HiddenMarkovModel)
    laws = model.laws({}, data)
    chain = laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
    smoothed = exact.smooth_chain(*chain).exp()
    pairs = exact.pair_marginals(*chain)
    known = (laws.log_transition + laws.log_likelihood[:, 1:, None, :]).log_softmax(-1)
    told = (pairs / pairs.sum(-1, keepdim=True).clamp_min(1e-300)).clamp_min(1e-300).log()
    later = (pairs * (told - known)).sum()
    start = (laws.log_initial + laws.log_likelihood[:, 0]).log_softmax(-1)
    first = (smoothed[:, 0] * (smoothed[:, 0].clamp_min(1e-300).log() - start)).sum()
    return float(later + first) / data.n_steps
