"""Sequences, and generative models: three laws and one Pyro program each.

======================  ==========================================  ================================
hidden state            discrete time                               continuous time
======================  ==========================================  ================================
discrete                ``HiddenMarkovModel``                       ``ContinuousTimeHMM``
discrete, hundreds      the same with ``NeuralTransition`` or a     the same with few allowed jumps
                        low-rank, banded or sparse transition
discrete, binary nodes  ``TemporalSigmoidBeliefNetwork``,
                        ``TemporalRBM``
binary nodes, inputs    ``PolicyReading``
discrete, with memory   ``GatedAccumulator``, ``ResetModel``
discrete, with actions  ``POMDP``
continuous, linear      ``LinearGaussianSSM``                       the same with ``LinearSDE`` or
                                                                    ``OrnsteinUhlenbeck``
linear, with regimes    ``SwitchingLinearSSM``
continuous, nonlinear   ``DeepMarkovModel``                         ``DeepMarkovModel(timed=True)``
continuous, actions     ``MountainHike``
======================  ==========================================  ================================

Observations of hidden and deep Markov models have any emission family: discrete or continuous, of
low or high dimension, several at once (``Independent``); those of linear models are reals.
"""

from .beliefs import DiscreteBelief, GaussianBelief
from .chains.actions import ActionEmission, ActionTransition
from .chains.automata import as_strings, read_automaton, read_strings
from .chains.binary import (
    CoupledNodes,
    GateConditions,
    NodeGate,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    gate_conditions,
    node_gate,
)
from .chains.continuous_time import ContinuousTimeHMM
from .chains.generators import GeneratorTransition
from .chains.hmm import ChainLaws, HiddenMarkovModel, Laws
from .chains.labelled import LabelledHMM
from .chains.laws import (
    BandedTransition,
    InputTransition,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)
from .chains.memory import (
    AccumulatorTransition,
    EmptyMemory,
    GatedAccumulator,
    MemoryEmission,
    MemoryStates,
    ResetModel,
    ResetTransition,
    keep_probability,
    memory_mean,
    memory_states,
    value_mean,
    write_probability,
)
from .chains.neural import NeuralEmission, NeuralTransition
from .chains.node_emission import NodeEmission
from .chains.node_laws import HarmoniumInitial, HarmoniumTransition, NodeInitial, SigmoidTransition
from .chains.nodes import node_states
from .chains.policy_reading import (
    PolicyReading,
    as_policy,
    emission_of,
    policy_gate,
    read_as_inputs,
)
from .chains.processes import (
    LabelledChain,
    golden_mean,
    labelled_chain,
    mess3,
    random_random_xor,
    zero_one_random,
)
from .continuous.deep import DeepLaws, DeepMarkovModel, GatedTransition
from .continuous.diffusion import LinearSDE, OrnsteinUhlenbeck
from .continuous.dynamics import Dynamics, LinearDynamics, Moves
from .continuous.linear import LinearEmission, LinearGaussianSSM, LinearLaws
from .continuous.structural import Autoregressive, Cycle, LocalLevel, LocalLinearTrend, Seasonal
from .continuous.switching import SwitchingLaws, SwitchingLinearSSM
from .data.folders import SequenceFolder, write_folder
from .data.requirements import UnreadWarning
from .data.sequences import Sequences
from .decisions.bayes_rule import BeliefPolicy, ExactTracker
from .decisions.files import read_pomdp, write_pomdp
from .decisions.memory_process import MemoryProcess, memory_process
from .decisions.mountain_hike import Hikes, MountainHike
from .decisions.policies import (
    ActionSequence,
    FixedChances,
    Mixture,
    ObservationPolicy,
    Policy,
    Seen,
    Tracker,
    Uniform,
)
from .decisions.pomdp import POMDP, Episodes, World
from .decisions.problems import light_dark, light_maze, machine_repair, rock_sample, t_maze, tiger
from .decisions.rewards import Rewards, Tables
from .emissions.counts import Bernoulli, Categorical, Multinomial, Poisson
from .emissions.distribution import FromDistribution
from .emissions.emission import Emission, Parameters, Priors
from .emissions.independent import Independent
from .emissions.misclassification import Misclassification
from .emissions.named import (
    Beta,
    Exponential,
    Gamma,
    LogNormal,
    NegativeBinomial,
    VonMises,
    Weibull,
)
from .emissions.observations import Symbols, Vectors
from .emissions.reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .emissions.regression import Regression
from .model import DiscreteLaws, LinearGaussianLaws, Model, Simulation, TrajectoryLaws
from .persistence import load_model, save_model
from .priors import Ordered
from .trajectories import BandedMoves, Chain, FactorialMoves, LowRankMoves, SparseMoves

__all__ = [
    "POMDP",
    "AccumulatorTransition",
    "ActionEmission",
    "ActionSequence",
    "ActionTransition",
    "Autoregressive",
    "BandedMoves",
    "BandedTransition",
    "BeliefPolicy",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Chain",
    "ChainLaws",
    "ContinuousTimeHMM",
    "CoupledNodes",
    "Cycle",
    "DeepLaws",
    "DeepMarkovModel",
    "DiscreteBelief",
    "DiscreteLaws",
    "Dynamics",
    "Emission",
    "EmptyMemory",
    "Episodes",
    "ExactTracker",
    "Exponential",
    "FactorialMoves",
    "FixedChances",
    "FromDistribution",
    "FullGaussian",
    "Gamma",
    "GateConditions",
    "GatedAccumulator",
    "GatedTransition",
    "Gaussian",
    "GaussianBelief",
    "GaussianMixture",
    "GeneratorTransition",
    "HarmoniumInitial",
    "HarmoniumTransition",
    "HiddenMarkovModel",
    "Hikes",
    "Independent",
    "InputTransition",
    "LabelledChain",
    "LabelledHMM",
    "Laws",
    "LinearDynamics",
    "LinearEmission",
    "LinearGaussianLaws",
    "LinearGaussianSSM",
    "LinearLaws",
    "LinearSDE",
    "LocalLevel",
    "LocalLinearTrend",
    "LogNormal",
    "LowRankGaussian",
    "LowRankMoves",
    "LowRankTransition",
    "MatrixTransition",
    "MemoryEmission",
    "MemoryProcess",
    "MemoryStates",
    "Misclassification",
    "Mixture",
    "Model",
    "MountainHike",
    "Moves",
    "Multinomial",
    "NegativeBinomial",
    "NeuralEmission",
    "NeuralTransition",
    "NodeEmission",
    "NodeGate",
    "NodeInitial",
    "ObservationPolicy",
    "Ordered",
    "OrnsteinUhlenbeck",
    "Parameters",
    "Poisson",
    "Policy",
    "PolicyReading",
    "Priors",
    "Regression",
    "ResetModel",
    "ResetTransition",
    "Rewards",
    "Seasonal",
    "Seen",
    "SequenceFolder",
    "Sequences",
    "SigmoidTransition",
    "Simulation",
    "SparseMoves",
    "SparseTransition",
    "StudentT",
    "SwitchingLaws",
    "SwitchingLinearSSM",
    "Symbols",
    "Tables",
    "TemporalRBM",
    "TemporalSigmoidBeliefNetwork",
    "Tracker",
    "TrajectoryLaws",
    "Uniform",
    "UnreadWarning",
    "Vectors",
    "VonMises",
    "Weibull",
    "World",
    "as_policy",
    "as_strings",
    "emission_of",
    "gate_conditions",
    "golden_mean",
    "keep_probability",
    "labelled_chain",
    "light_dark",
    "light_maze",
    "load_model",
    "machine_repair",
    "memory_mean",
    "memory_process",
    "memory_states",
    "mess3",
    "node_gate",
    "node_states",
    "policy_gate",
    "random_random_xor",
    "read_as_inputs",
    "read_automaton",
    "read_pomdp",
    "read_strings",
    "rock_sample",
    "save_model",
    "t_maze",
    "tiger",
    "value_mean",
    "write_folder",
    "write_pomdp",
    "write_probability",
    "zero_one_random",
]
