"""Filters, guides, exact inference, fitting, and everything that measures a fit."""

from .arviz_groups import Convergence, LeaveOneOut, compare, convergence, loo, read, write
from .bayesian_recurrent import BayesianRecurrentFilter
from .belief_recursion import filter_beliefs
from .conditional_markov import CRFFilter, MEMMFilter
from .deep_guide import DeepGuide, TrajectoryNetwork
from .diagnostics import InformationCriteria, information_criteria
from .filters import ElmanFilter, ExactFilter, GRUFilter, LSTMFilter
from .fit import Fit, NonFiniteLossError, fit
from .gaps import EvidenceGap, evidence_gap
from .guides import BeliefGuide, ForwardGuide, MeanFieldGuide
from .importance import Importance, WeightedEvidence, importance, weighted_evidence
from .innovations import InnovationTests, innovation_tests
from .linear_queries import (
    Component,
    LinearForecast,
    Moments,
    components,
    standardised_innovations,
)
from .mixture_kalman import RegimeForecast, RegimeParticles, mixture_kalman
from .nuts import NutsFit, NutsSettings, nuts
from .particles import Particles, particle_filter
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
from .recurrences import recurrent_gates
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

__all__ = [
    "BayesianRecurrentFilter",
    "BeliefGuide",
    "CRFFilter",
    "Component",
    "Convergence",
    "DeepGuide",
    "ElmanFilter",
    "EvidenceGap",
    "ExactFilter",
    "FailedJob",
    "Fit",
    "FitSettings",
    "Forecast",
    "ForwardGuide",
    "GRUFilter",
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
    "NonFiniteLossError",
    "NutsFit",
    "NutsSettings",
    "ObservableOperators",
    "Particles",
    "RegimeForecast",
    "RegimeGuide",
    "RegimeParticles",
    "SampledBitGuide",
    "SigmoidFilter",
    "SmoothedRegimes",
    "SpectralFilter",
    "Sweep",
    "TrajectoryNetwork",
    "WeightedEvidence",
    "compare",
    "components",
    "convergence",
    "evidence_gap",
    "filter",
    "filter_beliefs",
    "fit",
    "forecast",
    "importance",
    "information_criteria",
    "innovation_tests",
    "load_fit",
    "log_evidence",
    "loo",
    "mixture_kalman",
    "most_likely_regimes",
    "most_likely_states",
    "nuts",
    "particle_filter",
    "predict",
    "predictive_check",
    "read",
    "recurrent_gates",
    "sample_states",
    "save_fit",
    "smooth",
    "smooth_pairs",
    "smooth_regimes",
    "standardised_innovations",
    "starting_values",
    "step_log_likelihood",
    "sweep",
    "symbol_triples",
    "to_arviz",
    "triple_probabilities",
    "weighted_evidence",
    "write",
]
