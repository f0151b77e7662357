"""Filters, guides, exact inference, fitting, and everything that measures a fit.

``POMDPEnv``, ``POMDPVectorEnv``, ``register_environment`` and ``roll_out`` load Gymnasium, which
comes with the extra ``pomdp``, when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .arviz_groups.files import read, write
from .arviz_groups.groups import by_step
from .arviz_groups.judgements import (
    Convergence,
    ConvergenceWarning,
    LeaveOneOut,
    compare,
    convergence,
    loo,
    prior_sensitivity,
)
from .checking.criteria import information_criteria
from .checking.evidence_gap import EvidenceGap, evidence_gap
from .checking.gap_parts import GapParts, gaps
from .checking.importance import Importance, WeightedEvidence, importance, weighted_evidence
from .checking.innovations import InnovationTests, innovation_tests
from .checking.predictive_check import predictive_check
from .checking.sample_statistics import Distance, SampleComparison, compare_samples
from .checking.update_errors import EventTable, UpdateErrors, steps_since_switch, update_errors
from .decisions.agents import RecurrentAgent
from .decisions.horizons import HorizonPlan, solve_horizon
from .decisions.network_policy import NetworkPolicy
from .decisions.particle_tracker import ParticleTracker
from .decisions.planning import mdp_values, qmdp, value_iteration
from .decisions.plans import AlphaVectors, History, Plan, load_plan
from .decisions.trackers import FilterTracker, NoMemory, track
from .diagnosis.belief_calibration import BeliefCalibration, belief_calibration
from .diagnosis.calibrate import Calibration, calibrate
from .diagnosis.cross_validate import CrossValidation, cross_validate
from .diagnosis.diagnose import diagnose
from .diagnosis.leave_future_out import LeaveFutureOut, leave_future_out
from .diagnosis.matched_loo import matched_loo
from .diagnosis.pseudo_residuals import PseudoResiduals, pseudo_residuals
from .diagnosis.record import Check, Diagnosis
from .diagnosis.report import report
from .diagnosis.scores import ForecastComparison, Scores, compare_forecasts, scores
from .exact.potentials import filter_beliefs
from .export.gates import export_gates, gates
from .export.to_arviz import to_arviz
from .filters.bayesian import BayesianRecurrentFilter
from .filters.conditional_markov import CRFFilter, MEMMFilter
from .filters.gaussian_beliefs import GaussianBeliefs
from .filters.natural import NaturalLSTMFilter
from .filters.network import NetworkFilter
from .filters.recurrences import recurrent_gates
from .filters.recurrent import ElmanFilter, GRUFilter, LSTMFilter
from .filters.sigmoid import SigmoidFilter
from .filters.slot import ExactFilter, Filter, ScoredFilter
from .filters.spectral import (
    ObservableOperators,
    SpectralFilter,
    symbol_triples,
    triple_probabilities,
)
from .fitting.criteria import Extent, InformationCriteria
from .fitting.loop import fit
from .fitting.nuts import NutsFit, NutsSettings, nuts
from .fitting.record import Fit, NonFiniteLossError
from .fitting.saving import load_fit, save_fit
from .fitting.settings import FitSettings
from .fitting.standard_errors import StandardErrors
from .fitting.start import starting_values
from .fitting.summary import Estimate, Summary
from .fitting.sweeps import FailedJob, Sweep, sweep
from .guides.deep import DeepGuide, TrajectoryNetwork
from .guides.guide import BeliefGuide, ForwardGuide, Guide, MeanFieldGuide, Posterior
from .guides.particles import Particles, particle_filter
from .guides.regimes import RegimeGuide
from .guides.sampled_bits import SampledBitGuide
from .machines.baum_welch import BaumWelch, baum_welch
from .machines.certificates import LawDivergence, law_divergence
from .machines.known_laws import next_log_probabilities
from .machines.laws import SequenceLaw
from .machines.machine import Machine, load_machine
from .machines.merging import merge_states
from .machines.network_laws import NetworkLaw, PrefixLaw
from .machines.reading import machine_of
from .machines.wrapped_comparison import WrappedComparison, compare_wrapped
from .machines.wrapping import Wrapped, wrap
from .networks.constructed import (
    ConstructedCell,
    ConstructedFilter,
    ConstructedGate,
    SteadyState,
    construct,
    failing_conditions,
    steady_state,
)
from .networks.gate_comparison import BestUnit, GateComparison, compare_gates, posterior_quantities
from .networks.gate_events import belief_events, gates_and_beliefs
from .networks.gate_floor import gate_floor
from .networks.gate_identity import Agreement, GateIdentity, gate_identity, update_agreement
from .networks.lstm_samples import lstm_log_likelihood, sample_lstm
from .networks.network_inputs import fold_embedding
from .networks.readouts import BeliefReadout, Readouts, belief_readout, lstm_readouts, mean_readout
from .networks.stochastic_cell import CellLaw, StochasticCell
from .queries.answers import (
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
from .queries.chains import Forecast
from .queries.collapsed import collapsed
from .queries.kinds import Answers
from .queries.linear import Component, LinearForecast, Moments, components, standardised_innovations
from .queries.mixture_kalman import RegimeForecast, RegimeParticles, mixture_kalman
from .queries.regimes import SmoothedRegimes, most_likely_regimes, smooth_regimes

if TYPE_CHECKING:
    from .decisions.gymnasium_env import POMDPEnv as POMDPEnv
    from .decisions.gymnasium_env import POMDPVectorEnv as POMDPVectorEnv
    from .decisions.gymnasium_env import register_environment as register_environment
    from .decisions.gymnasium_rollout import roll_out as roll_out

__all__ = [
    "Agreement",
    "AlphaVectors",
    "Answers",
    "BaumWelch",
    "BayesianRecurrentFilter",
    "BeliefCalibration",
    "BeliefGuide",
    "BeliefReadout",
    "BestUnit",
    "CRFFilter",
    "Calibration",
    "CellLaw",
    "Check",
    "Component",
    "ConstructedCell",
    "ConstructedFilter",
    "ConstructedGate",
    "Convergence",
    "ConvergenceWarning",
    "CrossValidation",
    "DeepGuide",
    "Diagnosis",
    "Distance",
    "ElmanFilter",
    "Estimate",
    "EventTable",
    "EvidenceGap",
    "ExactFilter",
    "Extent",
    "FailedJob",
    "Filter",
    "FilterTracker",
    "Fit",
    "FitSettings",
    "Forecast",
    "ForecastComparison",
    "ForwardGuide",
    "GRUFilter",
    "GapParts",
    "GateComparison",
    "GateIdentity",
    "GaussianBeliefs",
    "Guide",
    "History",
    "HorizonPlan",
    "Importance",
    "InformationCriteria",
    "InnovationTests",
    "LSTMFilter",
    "LawDivergence",
    "LeaveFutureOut",
    "LeaveOneOut",
    "LinearForecast",
    "MEMMFilter",
    "Machine",
    "MeanFieldGuide",
    "Moments",
    "MostLikely",
    "NaturalLSTMFilter",
    "NetworkFilter",
    "NetworkLaw",
    "NetworkPolicy",
    "NoMemory",
    "NonFiniteLossError",
    "NutsFit",
    "NutsSettings",
    "ObservableOperators",
    "ParticleTracker",
    "Particles",
    "Plan",
    "Posterior",
    "PrefixLaw",
    "PseudoResiduals",
    "Readouts",
    "RecurrentAgent",
    "RegimeForecast",
    "RegimeGuide",
    "RegimeParticles",
    "SampleComparison",
    "SampledBitGuide",
    "ScoredFilter",
    "Scores",
    "SequenceLaw",
    "SigmoidFilter",
    "SmoothedRegimes",
    "SpectralFilter",
    "StandardErrors",
    "SteadyState",
    "StochasticCell",
    "Summary",
    "Sweep",
    "TrajectoryNetwork",
    "UpdateErrors",
    "WeightedEvidence",
    "Wrapped",
    "WrappedComparison",
    "baum_welch",
    "belief_calibration",
    "belief_events",
    "belief_readout",
    "by_step",
    "calibrate",
    "collapsed",
    "compare",
    "compare_forecasts",
    "compare_gates",
    "compare_samples",
    "compare_wrapped",
    "components",
    "construct",
    "convergence",
    "cross_validate",
    "diagnose",
    "evidence_gap",
    "export_gates",
    "failing_conditions",
    "filter",
    "filter_beliefs",
    "fit",
    "fold_embedding",
    "forecast",
    "gaps",
    "gate_floor",
    "gate_identity",
    "gates",
    "gates_and_beliefs",
    "importance",
    "information_criteria",
    "innovation_tests",
    "law_divergence",
    "leave_future_out",
    "load_fit",
    "load_machine",
    "load_plan",
    "log_evidence",
    "loo",
    "lstm_log_likelihood",
    "lstm_readouts",
    "machine_of",
    "matched_loo",
    "mdp_values",
    "mean_readout",
    "merge_states",
    "mixture_kalman",
    "most_likely_regimes",
    "most_likely_states",
    "next_log_probabilities",
    "nuts",
    "particle_filter",
    "posterior_quantities",
    "predict",
    "predictive_check",
    "prior_sensitivity",
    "pseudo_residuals",
    "qmdp",
    "read",
    "recurrent_gates",
    "report",
    "sample_lstm",
    "sample_states",
    "save_fit",
    "scores",
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
    "update_agreement",
    "update_errors",
    "value_iteration",
    "weighted_evidence",
    "wrap",
    "write",
]

# What needs an extra is left out of __all__, so that `import *` works without it.
_WITH_GYMNASIUM = {
    "POMDPEnv": ".decisions.gymnasium_env",
    "POMDPVectorEnv": ".decisions.gymnasium_env",
    "register_environment": ".decisions.gymnasium_env",
    "roll_out": ".decisions.gymnasium_rollout",
}


def __getattr__(name: str) -> object:
    if name not in _WITH_GYMNASIUM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WITH_GYMNASIUM[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_GYMNASIUM})
