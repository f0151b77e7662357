"""Filters, guides, exact inference, fitting, and everything that measures a fit."""

from .arviz_groups import Convergence, LeaveOneOut, compare, convergence, loo, read, write
from .deep_guide import DeepGuide, TrajectoryNetwork
from .diagnostics import InformationCriteria, information_criteria
from .evidence_gap import EvidenceGap, evidence_gap
from .filters import ElmanFilter, ExactFilter, GRUFilter, LSTMFilter
from .fit import Fit, NonFiniteLossError, fit
from .gap_parts import GapParts, gaps
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
from .saving import load_fit, save_fit
from .settings import FitSettings
from .start import starting_values
from .sweeps import FailedJob, Sweep, sweep
from .switching import SmoothedRegimes, most_likely_regimes, smooth_regimes
from .switching_guide import RegimeGuide
from .to_arviz import to_arviz
from .update_errors import EventTable, UpdateErrors, steps_since_switch, update_errors

__all__ = [
    "BeliefGuide",
    "Component",
    "Convergence",
    "DeepGuide",
    "ElmanFilter",
    "EventTable",
    "EvidenceGap",
    "ExactFilter",
    "FailedJob",
    "Fit",
    "FitSettings",
    "Forecast",
    "ForwardGuide",
    "GRUFilter",
    "GapParts",
    "Importance",
    "InformationCriteria",
    "InnovationTests",
    "LSTMFilter",
    "LeaveOneOut",
    "LinearForecast",
    "MeanFieldGuide",
    "Moments",
    "MostLikely",
    "NonFiniteLossError",
    "NutsFit",
    "NutsSettings",
    "Particles",
    "RegimeForecast",
    "RegimeGuide",
    "RegimeParticles",
    "SmoothedRegimes",
    "Sweep",
    "TrajectoryNetwork",
    "UpdateErrors",
    "WeightedEvidence",
    "compare",
    "components",
    "convergence",
    "evidence_gap",
    "filter",
    "fit",
    "forecast",
    "gaps",
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
    "steps_since_switch",
    "sweep",
    "to_arviz",
    "update_errors",
    "weighted_evidence",
    "write",
]
