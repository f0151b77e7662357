"""Arguments that fit for every public call, and values that hardly ever do."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro import distributions as dist

from beliefzoo import inference
from beliefzoo.inference import arviz_groups
from beliefzoo.models import (
    Categorical,
    DeepMarkovModel,
    Gaussian,
    HiddenMarkovModel,
    LabelledHMM,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    NodeEmission,
    PolicyReading,
    ResetModel,
    ResetTransition,
    Sequences,
    SwitchingLinearSSM,
    TemporalSigmoidBeliefNetwork,
    Uniform,
    golden_mean,
    save_model,
    tiger,
    write_folder,
    write_pomdp,
)

NAN = float("nan")
WRONG: list[Any] = [
    *(None, True, -1, 1.5, NAN, 2**40, 2**64, "nosuch", [], object(), int, {"nosuch": 1.0}),
    torch.zeros(2, device="meta"),
    torch.tensor([True, False]),
    *(torch.ones(2, dtype=getattr(torch, t)) for t in ("complex64", "float16", "int8", "uint64")),
]
if "BELIEFZOO_FUZZ" in os.environ:
    WRONG += [1j, 0, float("inf"), b"x", {}, (), [NAN], [[1], [2, 3]], np.array([1, 2])]
    WRONG += [torch.tensor(1.5), torch.zeros(0)]

HMM = HiddenMarkovModel(2, "poisson").with_parameters(
    initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 6.0]
)
LEVEL = LinearGaussianSSM(LocalLevel()).with_parameters(
    level_variance=1.0, observation_variance=1.0
)
DATA = Sequences.from_arrays([[1, 0, 7], [6, 5]])
TABLE = [[[0.9, 0.1], [0.2, 0.8]]]
CODES = Sequences.from_arrays([[0, 1, 1], [1, 0]] * 3, codes=True)
ASKED = {"model": HMM, "data": DATA}
LEVELS = {"model": LEVEL, "data": DATA}
NODES = {"emission": NodeEmission(1, Gaussian())}
SYMBOLS = golden_mean().model
NODE = TemporalSigmoidBeliefNetwork(1, "gaussian").with_parameters(
    node_initial=[0],
    node_weight=[[4]],
    node_bias=[-2],
    node_loading=[[3]],
    node_intercept=[0],
    scale=[1],
)
READING = PolicyReading(1, "poisson", inputs=1).with_parameters(
    node_initial=[0],
    node_weight=[[2]],
    node_bias=[-1],
    node_input=[[3]],
    node_loading=[[1]],
    node_intercept=[0],
)
RESET = ResetModel().with_parameters(
    keep=0.7,
    positive=0.5,
    loading=[[1.0, 0.0], [0.0, 2.0]],
    intercept=[0.0, 0.0],
    scale=[1.0, 1.0],
)
REGIMES = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(
    initial=[0.5, 0.5],
    transition=[[0.9, 0.1], [0.1, 0.9]],
    initial_mean=[0.0],
    initial_scale=[1.0],
    dynamics=[[[1.0]], [[1.0]]],
    drift=[[0.0], [0.0]],
    noise_scale=[[0.1], [3.0]],
    loading=[[1.0]],
    intercept=[0.0],
    observation_scale=[0.1],
)
LINEAR = LinearGaussianSSM(LinearDynamics(1))
LINEAR = LINEAR.with_parameters(
    transition=[[0.9]],
    process_variance=[1.0],
    loading=[[1.0]],
    intercept=0.0,
    observation_variance=1.0,
    initial_mean=[0.0],
    initial_variance=[1.0],
)
LINEAR = LINEAR.with_parameters(
    initial_variance=inference.steady_state(LINEAR).predicted_covariance.diagonal()
)
SWITCHES = {"model": REGIMES, "data": DATA}
LSTM = torch.nn.LSTM(2, 3, batch_first=True)
HEAD = torch.nn.Linear(3, 2)
NET = torch.nn.LSTM(2, 3, batch_first=True).eval()
BELIEFS = torch.full((6, 3, 2), 0.5)
PROCESS = {"model": tiger(), "data": tiger().rollout(Uniform(), 2, 3, seed=0).data}
QUICK = {"settings": inference.FitSettings(steps=2), "progress": False}
GUIDED = {"guide": inference.BeliefGuide(HMM, inference.LSTMFilter(2)), "data": DATA}


@cache
def fitted() -> dict[str, Any]:
    """A fit of two steps, and its data."""
    model = HiddenMarkovModel(2, "poisson")
    guide = inference.BeliefGuide(model, inference.LSTMFilter(2))
    return {"result": inference.fit(model, guide, DATA, **QUICK), "data": DATA}  # type: ignore[arg-type]


@cache
def normal() -> dict[str, Any]:
    """A fit of two steps with a posterior of one parameter, and its data."""
    model = HiddenMarkovModel(1, "poisson")
    guide = inference.BeliefGuide(model, inference.ExactFilter(), parameters="normal")
    return {"result": inference.fit(model, guide, DATA, **QUICK), "data": DATA}  # type: ignore[arg-type]


@cache
def exported() -> Any:
    """An export with all that checks of exports read."""
    groups = {
        "posterior": {"rate": np.random.default_rng(0).normal(size=(4, 40))},
        "log_likelihood": {"obs": np.random.default_rng(0).normal(size=(4, 40, 3))},
        "log_prior": {"joint": np.random.default_rng(0).normal(size=(4, 40))},
        "posterior_predictive": {"obs": np.random.default_rng(0).normal(size=(4, 40, 3, 5))},
        "observed_data": {"obs": np.zeros((3, 5))},
    }
    dims = {"obs": ["sequence", "time"], "log_likelihood/obs": ["sequence"]}
    return arviz_groups.build(groups, dims=dims)  # type: ignore[arg-type]


@cache
def ahead() -> inference.Forecast:
    """A forecast of the first steps of `DATA`."""
    return inference.forecast(HMM, DATA.head(1), 2, draws=5, seed=0)


def scored() -> inference.Scores:
    """Scores of two sequences."""
    return inference.scores(ahead(), DATA.head(2))


def job(asked: Any) -> dict[str, float]:
    """A job of a sweep."""
    return {"square": asked["x"] ** 2}


def agent() -> dict[str, Any]:
    """The parts of a recurrent policy."""
    nothing = torch.nn.Identity()
    policy = SimpleNamespace(
        observation_space=SimpleNamespace(n=3),
        pi_features_extractor=nothing,
        lstm_actor=torch.nn.LSTM(3, 8),
        action_net=torch.nn.Linear(8, 3),
        mlp_extractor=SimpleNamespace(policy_net=nothing),
    )
    return {"policy": policy, "model": tiger()}


def wrapped() -> dict[str, Any]:
    """Arguments of the quickest wrap."""
    model = HiddenMarkovModel(2, Categorical(2))
    return {"lstm": LSTM, "model": model, "data": CODES, **QUICK, "windows": 0, "samples": 4}


def compared() -> dict[str, Any]:
    """Gates and quantities of two sequences."""
    gates = inference.recurrent_gates(LSTM, torch.ones(6, 3, 2))
    quantities = inference.posterior_quantities(SYMBOLS, CODES)
    return {"gates": gates, "quantities": quantities, "inside": CODES.step_mask}


def written() -> dict[str, Any]:
    """A file of an export."""
    inference.write(exported(), "written.nc")
    return {"path": "written.nc"}


def told(text: str) -> str:
    """A file of text."""
    Path("told.txt").write_text(text)
    return "told.txt"


def gap() -> dict[str, Any]:
    """A gap, and its data."""
    guide = inference.BeliefGuide(HMM, inference.ExactFilter())
    return {"gap": inference.evidence_gap(guide, DATA), "data": DATA}


Arguments = dict[str, Any] | Callable[[], dict[str, Any]]

ALONG = {
    "times": [[0.5, 1.0, 4.0], [0.0, 2.0]],
    "actions": [[0, 1, 0], [1, 1]],
    "rewards": [[0.5, 1.0, 4.0], [0.0, 2.0]],
    "inputs": [[1.0, 2.0, 4.0], [0.0, 2.0]],
}
FRAME = pd.DataFrame({"id": list("aab"), "t": [0, 1, 0], "y": [1.0, 2.0, 3.0], "u": [1, 0, 1]})
PAIR = torch.ones(2, 3)

CONSTRUCTORS: dict[str, Arguments] = {
    "Sequences.from_arrays": {"arrays": [[1.0, 0.0, 7.0], [6.0, 5.0]], **ALONG},
    "Sequences.from_array": {"array": [[1.0, 0.0, 7.0], [6.0, 5.0, NAN]], "times": [0, 1, 2]},
    "Sequences.from_tensors": {"values": PAIR, "mask": PAIR > 0, "lengths": torch.tensor([3, 2])},
    "Sequences.from_frame": {
        "frame": FRAME,
        "sequence": "id",
        "time": "t",
        "columns": ["y"],
        "action": "u",
        "units": {"y": "mm"},
    },
    "Sequences.from_xarray": {"array": xr.DataArray([[1.0, 2.0]], dims=("sequence", "time"))},
    "Sequences.from_text": {"strings": ["ab", "ca"], "alphabet": "abc"},
    "POMDP.from_tables": {"transition": TABLE, "observation": TABLE, "initial": [0.5, 0.5]},
    "LabelledHMM.from_tables": {"initial": [1.0], "tables": [[[0.5]], [[0.25]]], "end": [0.25]},
    "LabelledHMM.from_hmm": {"hmm": SYMBOLS},
    "LabelledHMM.unifilar": {"next_states": [[0, 1], [-1, 0]]},
    "LawDivergence.of": {"steps": PAIR, "codes": torch.zeros(2, 3, dtype=torch.int64)},
    "Rewards.of_table": {"table": [[[[1.0]]]]},
    "SparseMoves.listed": {
        "log_moves": torch.zeros(2, 1),
        "target": torch.zeros(2, 1, dtype=torch.int64),
        "inside": torch.ones(2, 1, dtype=torch.bool),
    },
    "Agreement.of": {"network": PAIR, "bayes": PAIR, "inside": PAIR > 0},
    "EventTable.of": {
        "event": "reset",
        "names": ("no", "yes"),
        "groups": torch.zeros(2, 3, dtype=torch.int64),
        "values": PAIR.double(),
    },
    "GaussianBeliefs.of_moments": {"mean": torch.zeros(1), "covariance": torch.ones(1, 1)},
    "NoMemory.under": {"model": tiger(), "policy": Uniform(), "episodes": 2, "length": 2},
    "ObservableOperators.of_triples": lambda: {
        "triples": inference.symbol_triples(CODES),
        "rank": 1,
    },
}
"""Other ways to make objects of public classes."""

MODELS: dict[str, Arguments] = {
    "ActionSequence": {"actions": (0, 1)},
    "BeliefPolicy": {"act": lambda belief: torch.ones(len(belief), 2)},
    "PolicyReading": {"nodes": 1, "emission": "gaussian", "inputs": 1},
    "Sequences": {"values": DATA.values, "mask": DATA.mask, "lengths": DATA.lengths},
    "as_policy": {
        "model": TemporalSigmoidBeliefNetwork(1, Gaussian(2)).with_parameters(
            node_initial=[0],
            node_weight=[[4]],
            node_bias=[-2],
            node_loading=[[3, 1]],
            node_intercept=[0, 0],
            scale=[1, 1],
        ),
        "reads": 1,
    },
    "emission_of": {"model": NODE, "part": slice(0, 1)},
    "gate_conditions": {"model": NODE},
    "memory_process": {"model": RESET},
    "memory_states": {"model": RESET},
    "node_gate": {"model": NODE},
    "policy_gate": {"model": READING},
    "read_as_inputs": {"data": Sequences.from_arrays([[[NAN, NAN], [1.0, 2.0]]]), "reads": 1},
    "save_model": {"model": HMM, "path": "saved.pt"},
    "write_folder": {"sequences": DATA, "path": "folder"},
    "write_pomdp": {"model": tiger(), "path": "tiger.POMDP"},
    **{
        name: {"model": RESET, "beliefs": torch.full((12,), 1 / 12)}
        for name in ("keep_probability", "memory_mean", "value_mean", "write_probability")
    },
    "POMDP": {"states": 2, "emission": 2, "actions": 2},
    "AccumulatorTransition": {"capacity": 2},
    "ActionEmission": {"family": Gaussian(), "actions": 2},
    "ActionTransition": {"actions": 2},
    "Categorical": {"symbols": 2},
    "ContinuousTimeHMM": {"states": 2},
    "DeepMarkovModel": {"states": 1, "emission": "gaussian"},
    "DiscreteBelief": {"states": 2},
    "EmptyMemory": {"transition": ResetTransition()},
    "FixedChances": {"probabilities": [0.5, 0.5]},
    "FromDistribution": {"family": torch.distributions.Gamma},
    "GatedAccumulator": {"capacity": 2},
    "GaussianBelief": {"size": 2},
    "HarmoniumInitial": NODES,
    "HarmoniumTransition": NODES,
    "HiddenMarkovModel": {"states": 2, "emission": "poisson"},
    "Independent": {"channel": Gaussian()},
    "InputTransition": {"inputs": 1},
    "LabelledHMM": {"states": 2, "symbols": 2},
    "LinearDynamics": {"states": 1},
    "LinearGaussianSSM": {"dynamics": LocalLevel()},
    "LinearSDE": {"states": 1},
    "LowRankTransition": {"rank": 1},
    "MemoryEmission": {"transition": ResetTransition(), "features": 2},
    "Misclassification": {"states": 2},
    "Mixture": {"policies": [Uniform()]},
    "Multinomial": {"features": 2},
    "NeuralEmission": {"base": Gaussian()},
    "NodeEmission": {"nodes": 1, "family": Gaussian()},
    "NodeInitial": {"nodes": 1},
    "ObservationPolicy": {"table": torch.full((2, 2), 0.5)},
    "Ordered": {"base": dist.Normal(torch.zeros(2), 1.0).to_event(1)},
    "Regression": {"base": Gaussian(), "lags": 1},
    "Rewards": {"shape": (1, 1, 1, 1), "values": (1.0,)},
    "SequenceFolder": lambda: {"path": write_folder(DATA, "folder")},
    "SigmoidTransition": {"nodes": 1},
    "SparseTransition": {"targets": [(0,)]},
    "SwitchingLinearSSM": {"regimes": 2, "dimensions": 1},
    "Symbols": {"size": 2},
    "TemporalRBM": {"nodes": 1, "emission": "gaussian"},
    "TemporalSigmoidBeliefNetwork": {"nodes": 1, "emission": "gaussian"},
    "Vectors": {"features": 1},
    "World": {"model": tiger()},
    "as_strings": {"words": [[0, 1], []], "symbols": 2},
    "labelled_chain": {"matrices": golden_mean().matrices},
    "load_model": lambda: {"path": save_model(HMM, "saved.pt")},
    "node_states": {"nodes": 1},
    "read_automaton": lambda: {"path": told("I:\n(0) 1\nF:\n(0) 1\n")},
    "read_strings": lambda: {"path": told("1 2\n1 0\n")},
    "read_pomdp": lambda: {"path": write_pomdp(tiger(), "tiger.POMDP")},
    **{
        name: {}
        for name in (
            *("Autoregressive", "BandedTransition", "Bernoulli", "Cycle", "ExactTracker"),
            *("FullGaussian", "GatedTransition", "Gaussian", "GaussianMixture"),
            *("GeneratorTransition", "LinearEmission", "LocalLevel", "LocalLinearTrend"),
            *("LowRankGaussian", "MatrixTransition", "MountainHike", "NeuralTransition"),
            *("OrnsteinUhlenbeck", "Poisson", "ResetModel", "Seasonal", "StudentT"),
            *("Beta", "Exponential", "Gamma", "LogNormal", "NegativeBinomial", "VonMises"),
            "Weibull",
            *("golden_mean", "light_dark", "light_maze", "machine_repair", "mess3"),
            *("rock_sample", "t_maze", "tiger"),
        )
    },
}
INFERENCE: dict[str, Arguments] = {
    "ConstructedFilter": lambda: {"cell": inference.construct(LINEAR)},
    "DeepGuide": lambda: {
        "model": DeepMarkovModel(1, "gaussian"),
        "filter": inference.TrajectoryNetwork(2),
    },
    "NaturalLSTMFilter": {},
    "NetworkFilter": {"network": torch.nn.Linear(1, 2)},
    "NetworkPolicy": {"network": torch.nn.LSTM(5, 3), "head": torch.nn.Linear(3, 3)},
    "NutsSettings": {
        "chains": 1,
        "draws": 1,
        "warmup": 1,
        "start": "kmeans",
        "target_accept": 0.9,
        "max_tree_depth": 2,
        "full_mass": True,
    },
    "RecurrentAgent": agent,
    "RegimeGuide": lambda: {"model": REGIMES, "filter": inference.LSTMFilter(2)},
    "SampledBitGuide": lambda: {"model": NODE, "filter": inference.SigmoidFilter()},
    "StochasticCell": {"lstm": LSTM},
    "baum_welch": {"model": LabelledHMM(2, 2), "data": CODES, "steps": 2},
    "belief_events": {"model": SYMBOLS, "data": CODES},
    "belief_readout": {"features": torch.ones(6, 3, 2), "beliefs": BELIEFS},
    "by_step": lambda: {"idata": exported()},
    "compare": lambda: {"models": {"a": exported(), "b": exported()}},
    "compare_forecasts": lambda: {"first": scored(), "second": scored()},
    "compare_gates": compared,
    "compare_samples": {"a": CODES, "b": CODES, "lags": 1, "longest": 2},
    "NetworkLaw": {"network": NET, "head": HEAD},
    "PrefixLaw": {"scores": lambda codes: torch.zeros(len(codes), 2), "symbols": 2},
    "law_divergence": {"law": SYMBOLS, "other": SYMBOLS, "sequences": 2, "length": 2},
    "load_machine": lambda: {
        "path": inference.machine_of(SYMBOLS, samples=2, refine=False).save("machine.pt")
    },
    "machine_of": {
        "network": NET,
        "head": HEAD,
        **dict.fromkeys(("samples", "restarts", "states"), 2),
        **dict.fromkeys(("prefixes", "suffixes"), 7),
        "length": 3,
    },
    "merge_states": {
        "hmm": LabelledHMM.from_tables([0.5, 0.5], torch.full((2, 2, 2), 0.25)),
        "tolerance": 0.1,
    },
    "next_log_probabilities": lambda: {
        "law": inference.NetworkLaw(NET, HEAD),
        "prefixes": [[0], []],
    },
    "compare_wrapped": lambda: {"wrapped": {"a": (one := inference.wrap(**wrapped())), "b": one}},
    "belief_calibration": lambda: {"result": GUIDED["guide"], "like": DATA, "sequences": 2},
    "calibrate": lambda: {
        "method": lambda *_: fitted()["result"],
        "model": fitted()["result"].model,
        "like": DATA,
        "replications": 2,
        "draws": 2,
        "progress": False,
    },
    "construct": {"model": RESET},
    "convergence": lambda: {"idata": exported()},
    "cross_validate": lambda: {
        "refits": {"fitted": lambda past: fitted()["result"]},
        "data": DATA,
        "folds": 2,
        "draws": 2,
        "progress": False,
    },
    "diagnose": lambda: {**fitted(), "draws": 25, "replications": 20},
    "evidence_gap": lambda: {"fitted": GUIDED["guide"], "data": DATA},
    "export_gates": {"network": LSTM, "data": torch.ones(2, 3, 2)},
    "failing_conditions": {"model": LEVEL},
    "filter_beliefs": {
        "log_initial": torch.zeros(1, 2),
        "log_potential": torch.zeros(1, 1, 2, 2),
        "log_likelihood": torch.zeros(1, 2, 2),
    },
    "fit": {**ASKED, "guide": inference.BeliefGuide(HMM, inference.LSTMFilter(2)), **QUICK},
    "fold_embedding": {"lstm": LSTM, "embedding": torch.nn.Embedding(4, 2)},
    "gaps": lambda: {
        "fitted": inference.ForwardGuide(SYMBOLS, inference.LSTMFilter(2)),
        "data": CODES,
    },
    "gate_floor": {"model": HMM, "sequences": 2, "length": 3, "nodes": 3},
    "gate_identity": lambda: {
        "guide": inference.BeliefGuide(HMM, inference.NaturalLSTMFilter(1)),
        "data": DATA,
    },
    "gates": {"network": LSTM, "data": torch.ones(2, 3, 2)},
    "gates_and_beliefs": {"network": LSTM, "data": CODES, "model": SYMBOLS},
    "importance": lambda: {**fitted(), "draws": 25},
    "prior_sensitivity": lambda: {"idata": exported()},
    "information_criteria": {"result": HMM, "data": DATA},
    "innovation_tests": {"model": LEVEL, "data": Sequences.from_arrays([range(12)]), "lags": 2},
    "loo": lambda: {"idata": exported()},
    "lstm_log_likelihood": {"lstm": LSTM, "output": HEAD, "data": CODES},
    "lstm_readouts": {"lstm": LSTM, "data": CODES, "beliefs": BELIEFS},
    "mean_readout": {"features": torch.ones(6, 3, 2), "means": torch.ones(6, 3, 2)},
    "mixture_kalman": {**SWITCHES, "particles": 4, "draws": 2},
    "most_likely_regimes": {**SWITCHES, "sweeps": 2, "particles": 4},
    "nuts": {
        "model": HiddenMarkovModel(1, "poisson"),
        "data": DATA,
        "chains": 1,
        "draws": 1,
        "warmup": 1,
        "max_tree_depth": 1,
        "progress": False,
    },
    "particle_filter": {**ASKED, "particles": 4},
    "predictive_check": lambda: {"idata": exported()},
    "read": written,
    "recurrent_gates": {"network": LSTM, "x": torch.ones(2, 3, 2)},
    "sample_lstm": {"lstm": LSTM, "output": HEAD, "n": 2, "length": 3},
    "save_fit": lambda: {"fit": fitted()["result"], "path": "fit.pt"},
    "smooth_regimes": {**SWITCHES, "sweeps": 2, "particles": 4},
    "steps_since_switch": {"states": torch.tensor([[5, 5, 2]])},
    "sweep": {
        "function": job,
        "jobs": [{"x": 2}],
        "folder": "jobs",
        "name": "square",
        "workers": 1,
        "progress": False,
    },
    "symbol_triples": {"data": CODES},
    "to_arviz": lambda: {**fitted(), "draws": 4, "state_draws": 2, "predictive_draws": 2},
    "track": {"tracker": inference.NoMemory(), **PROCESS},
    "triple_probabilities": {"model": SYMBOLS},
    "update_agreement": GUIDED,
    "update_errors": gap,
    "value_iteration": {"problem": tiger(), "gap": 5.0},
    "weighted_evidence": {"result": GUIDED["guide"], "data": DATA, "draws": 25},
    "wrap": wrapped,
    "write": lambda: {"idata": exported(), "path": "saved.nc"},
    "BeliefGuide": {"model": HMM, "filter": inference.ExactFilter()},
    "ForwardGuide": {"model": HMM, "filter": inference.LSTMFilter(2)},
    "MeanFieldGuide": {"model": HMM, "filter": inference.LSTMFilter(2)},
    "FilterTracker": lambda: {
        "filter": inference.BeliefGuide(tiger(), inference.LSTMFilter(2)).filter
    },
    "collapsed": {"model": HMM},
    "components": LEVELS,
    "filter": ASKED,
    "forecast": {**ASKED, "steps": 1, "draws": 2},
    "load_fit": lambda: {"path": inference.save_fit(fitted()["result"], "fit.pt")},
    "load_plan": lambda: {"path": inference.value_iteration(tiger(), gap=5.0).save("plan.pt")},
    "log_evidence": ASKED,
    "matched_loo": lambda: {**normal(), "draws": 25},
    "mdp_values": {"problem": tiger()},
    "most_likely_states": ASKED,
    "posterior_quantities": ASKED,
    "predict": ASKED,
    "leave_future_out": lambda: {
        "refit": lambda past: fitted()["result"],
        "data": DATA,
        "first": 1,
    },
    "pseudo_residuals": {**ASKED, "draws": 2},
    "scores": lambda: {"forecast": ahead(), "observed": DATA.head(2)},
    "report": lambda: {**fitted(), "path": "page.html", "diagnosis": inference.Diagnosis((), {})},
    "qmdp": {"problem": tiger()},
    "sample_states": ASKED,
    "smooth": ASKED,
    "smooth_pairs": ASKED,
    "solve_horizon": {"problem": tiger(), "horizon": 1},
    "standardised_innovations": LEVELS,
    "starting_values": ASKED,
    "steady_state": {"model": LEVEL},
    "step_log_likelihood": ASKED,
    **{
        name: {}
        for name in (
            *("BayesianRecurrentFilter", "CRFFilter", "ElmanFilter", "FitSettings"),
            "GRUFilter",
            *("LSTMFilter", "MEMMFilter", "NoMemory", "ParticleTracker", "SigmoidFilter"),
            *("SpectralFilter", "TrajectoryNetwork"),
        )
    },
}
