"""Processes at known values, and the architectures that are compared on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ....inference import (
    BayesianRecurrentFilter,
    CRFFilter,
    ElmanFilter,
    ExactFilter,
    GRUFilter,
    LSTMFilter,
    MEMMFilter,
    SigmoidFilter,
    SpectralFilter,
)
from ....inference.filters.slot import Filter
from ....models import (
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearDynamics,
    LinearGaussianSSM,
    Model,
    TemporalRBM,
    node_gate,
)
from .reference_filters import BestProduct, BlindFilter, SampledMarginals, SteadyGain

ENTROPY_MODEL = "maximum_entropy_markov_model"


CASES = ("symbols", "harmonium", "linear_gaussian", "input_output")


def model_of(case: str) -> Model:
    """The process of a case at its values."""
    if case == "symbols":
        row = np.array([0.45, 0.3, 0.1, 0.05, 0.05, 0.05])
        return HiddenMarkovModel(3, Categorical(6), initial="stationary").with_parameters(
            transition=[[0.8, 0.15, 0.05], [0.05, 0.8, 0.15], [0.15, 0.05, 0.8]],
            probs=[np.roll(row, 2 * state) for state in range(3)],
        )
    if case == "harmonium":
        weight = np.array([[3.5, 1.5, -1.5], [-1.5, 3.5, 1.5], [1.5, -1.5, 3.5]])
        loading = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0]])
        bias = -weight.sum(1) / 2 - (loading @ loading.T).sum(1) / 2
        return TemporalRBM(3, Gaussian(3)).with_parameters(
            node_initial=bias + weight.sum(1) / 2,
            node_weight=weight,
            node_bias=bias,
            node_loading=loading,
            node_intercept=[0.0, 0.0, 0.0],
            scale=[1.0, 1.0, 1.0],
        )
    if case == "linear_gaussian":
        return LinearGaussianSSM(LinearDynamics(1), intercept=False).with_parameters(
            transition=[[0.95]],
            process_variance=[0.1],
            initial_mean=[0.0],
            initial_variance=[0.1 / (1 - 0.95**2)],
            loading=[[1.0]],
            observation_variance=1.0,
        )
    return HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        transition_weight=[[[1.5], [-1.5]], [[-1.5], [1.5]]],  # hold at +1, change at −1
        mean=[-0.7, 0.7],
        scale=[1.0, 1.0],
    )


TRAINED: Mapping[str, Mapping[str, Callable[[int], Filter]]] = {
    "symbols": {
        "lstm": LSTMFilter,
        "gru": GRUFilter,
        "elman": ElmanFilter,
        "bayesian_recurrent_unit": lambda _: BayesianRecurrentFilter(),
        "conditional_random_field": lambda _: CRFFilter(),
        ENTROPY_MODEL: lambda _: MEMMFilter(),
        "spectral": lambda _: SpectralFilter(),
    },
    "harmonium": {
        "lstm": LSTMFilter,
        "lstm_with_a_logit_per_state": lambda size: LSTMFilter(size, factorised=False),
        "gru": GRUFilter,
        "elman": ElmanFilter,
        "bayesian_recurrent_units": lambda _: BayesianRecurrentFilter(),
        "mean_field_trained": lambda _: SigmoidFilter(),
    },
    "linear_gaussian": {"lstm": LSTMFilter, "gru": GRUFilter, "elman": ElmanFilter},
    "input_output": {"lstm": LSTMFilter, "gru": GRUFilter, "elman": ElmanFilter},
}


def written(case: str) -> dict[str, Filter]:
    """What is written from the parameters, and has nothing to learn."""
    model = model_of(case)
    out: dict[str, Filter] = {"exact_filter": ExactFilter()}
    if case == "symbols":
        for own in (CRFFilter(reads="likelihoods"), MEMMFilter(reads="likelihoods")):
            own.build(model)
            full = "conditional_random_field" if isinstance(own, CRFFilter) else ENTROPY_MODEL
            out[f"{full}_written"] = own.double().write(model)
    if case == "harmonium":
        assert isinstance(model, HiddenMarkovModel)
        units = SigmoidFilter()
        units.build(model)
        out["mean_field_written"] = units.double().write(model, node_gate(model))
        out["sampled_bit_written"] = SampledMarginals(model, units)
        out["best_product_of_nodes"] = BestProduct()
    if case == "linear_gaussian":
        out["steady_gain"] = SteadyGain(*scalars(model))
    if case == "input_output":
        out["exact_filter_blind_to_inputs"] = BlindFilter()
    return out


def scalars(model: Model) -> tuple[float, float, float]:
    """a, Q, R of the scalar process."""
    a, q, r = (
        float(model.known[name].reshape(-1)[0])
        for name in ("transition", "process_variance", "observation_variance")
    )
    return a, q, r
