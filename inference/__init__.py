"""Filters, guides, exact inference, fitting, and everything that measures a fit."""

from .agents import RecurrentAgent
from .arviz_groups import Convergence, LeaveOneOut, compare, convergence, loo, read, write
from .bayesian_recurrent import BayesianRecurrentFilter
from .belief_recursion import filter_beliefs
from .conditional_markov import CRFFilter, MEMMFilter
from .constructed import (
    ConstructedCell,
    ConstructedFilter,
    ConstructedGate,
    SteadyState,
    construct,
    failing_conditions,
    steady_state,
)
from .deep_guide import DeepGuide, TrajectoryNetwork
from .diagnostics import InformationCriteria, information_criteria
from .evidence_gap import EvidenceGap, evidence_gap
from .filters import ElmanFilter, ExactFilter, GRUFilter, LSTMFilter
from .fit import Fit, NonFiniteLossError, fit
from .gap_parts import GapParts, gaps
from .gate_comparison import BestUnit, GateComparison, compare_gates, posterior_quantities
from .gate_events import belief_events, gates_and_beliefs
from .gates import export_gates, gates
from .guides import BeliefGuide, ForwardGuide, MeanFieldGuide
from .horizons import HorizonPlan, solve_horizon
from .importance import Importance, WeightedEvidence, importance, weighted_evidence
from .innovations import InnovationTests, innovation_tests
from .linear_queries import (
    Component,
    LinearForecast,
    Moments,
    components,
    standardised_innovations,
)
from .lstm_samples import lstm_log_likelihood, sample_lstm
from .mixture_kalman import RegimeForecast, RegimeParticles, mixture_kalman
from .network_inputs import fold_embedding
from .network_policy import NetworkPolicy
from .nuts import NutsFit, NutsSettings, nuts
from .particle_tracker import ParticleTracker
from .particles import Particles, particle_filter
from .planning import mdp_values, qmdp, value_iteration
from .plans import AlphaVectors, History, Plan, load_plan
from .predictive_check import predictive_check
from .queries import (
    Forecast,
    MostLikely,
    filter,
    forecast,
    log_evidence,
    most_likely_states,
    predict,
    sample_states,
    smooth,
    smooth_pairs,
    step_log_likelihood,
)
from .readouts import (
    BeliefReadout,
    Readouts,
    belief_readout,
    lstm_readouts,
    mean_readout,
)
from .recurrences import recurrent_gates
from .sample_statistics import Distance, SampleComparison, compare_samples
from .sampled_bits import SampledBitGuide
from .saving import load_fit, save_fit
from .settings import FitSettings
from .sigmoid_filter import SigmoidFilter
from .spectral import (
    ObservableOperators,
    SpectralFilter,
    symbol_triples,
    triple_probabilities,
)
from .start import starting_values
from .sweeps import FailedJob, Sweep, sweep
from .switching import SmoothedRegimes, most_likely_regimes, smooth_regimes
from .switching_guide import RegimeGuide
from .to_arviz import to_arviz
from .trackers import FilterTracker, NoMemory, track
from .update_errors import EventTable, UpdateErrors, steps_since_switch, update_errors
from .wrapping import Wrapped, WrappedComparison, compare_wrapped, wrap

__all__ = [
    "AlphaVectors",
    "BayesianRecurrentFilter",
    "BeliefGuide",
    "BeliefReadout",
    "BestUnit",
    "CRFFilter",
    "Component",
    "ConstructedCell",
    "ConstructedFilter",
    "ConstructedGate",
    "Convergence",
    "DeepGuide",
    "Distance",
    "ElmanFilter",
    "EventTable",
    "EvidenceGap",
    "ExactFilter",
    "FailedJob",
    "FilterTracker",
    "Fit",
    "FitSettings",
    "Forecast",
    "ForwardGuide",
    "GRUFilter",
    "GapParts",
    "GateComparison",
    "History",
    "HorizonPlan",
    "Importance",
    "InformationCriteria",
    "InnovationTests",
    "LSTMFilter",
    "LeaveOneOut",
    "LinearForecast",
    "MEMMFilter",
    "MeanFieldGuide",
    "Moments",
    "MostLikely",
    "NetworkPolicy",
    "NoMemory",
    "NonFiniteLossError",
    "NutsFit",
    "NutsSettings",
    "ObservableOperators",
    "ParticleTracker",
    "Particles",
    "Plan",
    "Readouts",
    "RecurrentAgent",
    "RegimeForecast",
    "RegimeGuide",
    "RegimeParticles",
    "SampleComparison",
    "SampledBitGuide",
    "SigmoidFilter",
    "SmoothedRegimes",
    "SpectralFilter",
    "SteadyState",
    "Sweep",
    "TrajectoryNetwork",
    "UpdateErrors",
    "WeightedEvidence",
    "Wrapped",
    "WrappedComparison",
    "belief_events",
    "belief_readout",
    "compare",
    "compare_gates",
    "compare_samples",
    "compare_wrapped",
    "components",
    "construct",
    "convergence",
    "evidence_gap",
    "export_gates",
    "failing_conditions",
    "filter",
    "filter_beliefs",
    "fit",
    "fold_embedding",
    "forecast",
    "gaps",
    "gates",
    "gates_and_beliefs",
    "importance",
    "information_criteria",
    "innovation_tests",
    "load_fit",
    "load_plan",
    "log_evidence",
    "loo",
    "lstm_log_likelihood",
    "lstm_readouts",
    "mdp_values",
    "mean_readout",
    "mixture_kalman",
    "most_likely_regimes",
    "most_likely_states",
    "nuts",
    "particle_filter",
    "posterior_quantities",
    "predict",
    "predictive_check",
    "qmdp",
    "read",
    "recurrent_gates",
    "sample_lstm",
    "sample_states",
    "save_fit",
    "smooth",
    "smooth_pairs",
    "smooth_regimes",
    "solve_horizon",
    "standardised_innovations",
    "starting_values",
    "steady_state",
    "step_log_likelihood",
    "steps_since_switch",
    "sweep",
    "symbol_triples",
    "to_arviz",
    "track",
    "triple_probabilities",
    "update_errors",
    "value_iteration",
    "weighted_evidence",
    "wrap",
    "write",
]
