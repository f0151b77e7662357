"""Sequences and the generative models: three laws and one Pyro program each.

======================  ==========================================  ================================
hidden state            discrete time                               continuous time
======================  ==========================================  ================================
discrete                ``HiddenMarkovModel``                       ``ContinuousTimeHMM``
discrete, hundreds      the same with ``NeuralTransition`` or a     the same with few allowed jumps
                        low-rank, banded or sparse transition
discrete, binary nodes  ``TemporalSigmoidBeliefNetwork``,
                        ``TemporalRBM``
discrete, driven nodes  ``PolicyReading``
discrete, a memory      ``GatedAccumulator``, ``ResetModel``
discrete, acted upon    ``POMDP``
continuous, linear      ``LinearGaussianSSM``                       the same with ``LinearSDE`` or
                                                                    ``OrnsteinUhlenbeck``
linear, with regimes    ``SwitchingLinearSSM``
continuous, nonlinear   ``DeepMarkovModel``                         ``DeepMarkovModel(timed=True)``
continuous, acted upon  ``MountainHike``
======================  ==========================================  ================================

Outputs of hidden and deep Markov models are those of any emission family: discrete or continuous,
of low or high dimension; those of linear models are reals.
"""

from .actions import ActionEmission, ActionTransition
from .beliefs import DiscreteBelief, GaussianBelief
from .binary import (
    CoupledNodes,
    GateConditions,
    NodeGate,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    gate_conditions,
    node_gate,
)
from .continuous_time import ContinuousTimeHMM
from .counts import Bernoulli, Categorical, Multinomial, Poisson
from .deep import DeepLaws, DeepMarkovModel, GatedTransition
from .diffusion import LinearSDE, OrnsteinUhlenbeck
from .dynamics import Dynamics, LinearDynamics
from .emissions import Emission
from .folders import SequenceFolder, write_folder
from .generators import GeneratorTransition
from .hmm import ChainLaws, HiddenMarkovModel, Laws
from .laws import (
    BandedTransition,
    InputTransition,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)
from .linear import LinearEmission, LinearGaussianSSM, LinearLaws
from .memory import (
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
from .memory_process import MemoryProcess, memory_process
from .misclassification import Misclassification
from .model import Model, Simulation
from .mountain_hike import Hikes, MountainHike
from .neural import NeuralEmission, NeuralTransition
from .node_emission import NodeEmission
from .node_laws import (
    HarmoniumInitial,
    HarmoniumTransition,
    NodeInitial,
    SigmoidTransition,
)
from .nodes import node_states
from .persistence import load_model, save_model
from .policies import (
    ActionSequence,
    BeliefPolicy,
    ExactTracker,
    FixedChances,
    Mixture,
    ObservationPolicy,
    Policy,
    Seen,
    Tracker,
    Uniform,
)
from .policy_reading import PolicyReading, as_policy, emission_of, policy_gate, read_as_inputs
from .pomdp import POMDP, Episodes, World
from .pomdp_file import read_pomdp, write_pomdp
from .priors import Ordered
from .problems import light_dark, light_maze, machine_repair, rock_sample, t_maze, tiger
from .processes import (
    LabelledChain,
    golden_mean,
    labelled_chain,
    mess3,
    random_random_xor,
    zero_one_random,
)
from .reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .regression import Regression
from .rewards import Rewards, Tables
from .sequences import Sequences
from .structural import Autoregressive, Cycle, LocalLevel, LocalLinearTrend, Seasonal
from .switching import SwitchingLaws, SwitchingLinearSSM

__all__ = [
    "POMDP",
    "AccumulatorTransition",
    "ActionEmission",
    "ActionSequence",
    "ActionTransition",
    "Autoregressive",
    "BandedTransition",
    "BeliefPolicy",
    "Bernoulli",
    "Categorical",
    "ChainLaws",
    "ContinuousTimeHMM",
    "CoupledNodes",
    "Cycle",
    "DeepLaws",
    "DeepMarkovModel",
    "DiscreteBelief",
    "Dynamics",
    "Emission",
    "EmptyMemory",
    "Episodes",
    "ExactTracker",
    "FixedChances",
    "FullGaussian",
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
    "InputTransition",
    "LabelledChain",
    "Laws",
    "LinearDynamics",
    "LinearEmission",
    "LinearGaussianSSM",
    "LinearLaws",
    "LinearSDE",
    "LocalLevel",
    "LocalLinearTrend",
    "LowRankGaussian",
    "LowRankTransition",
    "MatrixTransition",
    "MemoryEmission",
    "MemoryProcess",
    "MemoryStates",
    "Misclassification",
    "Mixture",
    "Model",
    "MountainHike",
    "Multinomial",
    "NeuralEmission",
    "NeuralTransition",
    "NodeEmission",
    "NodeGate",
    "NodeInitial",
    "ObservationPolicy",
    "Ordered",
    "OrnsteinUhlenbeck",
    "Poisson",
    "Policy",
    "PolicyReading",
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
    "SparseTransition",
    "StudentT",
    "SwitchingLaws",
    "SwitchingLinearSSM",
    "Tables",
    "TemporalRBM",
    "TemporalSigmoidBeliefNetwork",
    "Tracker",
    "Uniform",
    "World",
    "as_policy",
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
    "read_pomdp",
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
