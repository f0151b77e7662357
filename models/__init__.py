"""Sequences and the generative models: three laws and one Pyro program each.

======================  ==========================================  ================================
hidden state            discrete time                               continuous time
======================  ==========================================  ================================
discrete                ``HiddenMarkovModel``                       ``ContinuousTimeHMM``
discrete, hundreds      the same with ``NeuralTransition`` or a     the same with few allowed jumps
                        low-rank, banded or sparse transition
discrete, binary nodes  ``TemporalSigmoidBeliefNetwork``,
                        ``TemporalRBM``
continuous, linear      ``LinearGaussianSSM``                       the same with ``LinearSDE`` or
                                                                    ``OrnsteinUhlenbeck``
linear, with regimes    ``SwitchingLinearSSM``
continuous, nonlinear   ``DeepMarkovModel``                         ``DeepMarkovModel(timed=True)``
======================  ==========================================  ================================

Outputs of hidden and deep Markov models are those of any emission family: discrete or continuous,
of low or high dimension; those of linear models are reals.
"""

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
from .hmm import HiddenMarkovModel, Laws
from .laws import (
    BandedTransition,
    InputTransition,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)
from .linear import LinearEmission, LinearGaussianSSM, LinearLaws
from .misclassification import Misclassification
from .model import Model, Simulation
from .neural import NeuralEmission, NeuralTransition
from .node_laws import (
    HarmoniumInitial,
    HarmoniumTransition,
    NodeEmission,
    NodeInitial,
    SigmoidTransition,
)
from .nodes import node_states
from .persistence import load_model, save_model
from .priors import Ordered
from .reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .regression import Regression
from .sequences import Sequences
from .structural import Autoregressive, Cycle, LocalLevel, LocalLinearTrend, Seasonal
from .switching import SwitchingLaws, SwitchingLinearSSM

__all__ = [
    "Autoregressive",
    "BandedTransition",
    "Bernoulli",
    "Categorical",
    "ContinuousTimeHMM",
    "CoupledNodes",
    "Cycle",
    "DeepLaws",
    "DeepMarkovModel",
    "DiscreteBelief",
    "Dynamics",
    "Emission",
    "FullGaussian",
    "GateConditions",
    "GatedTransition",
    "Gaussian",
    "GaussianBelief",
    "GaussianMixture",
    "GeneratorTransition",
    "HarmoniumInitial",
    "HarmoniumTransition",
    "HiddenMarkovModel",
    "InputTransition",
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
    "Misclassification",
    "Model",
    "Multinomial",
    "NeuralEmission",
    "NeuralTransition",
    "NodeEmission",
    "NodeGate",
    "NodeInitial",
    "Ordered",
    "OrnsteinUhlenbeck",
    "Poisson",
    "Regression",
    "Seasonal",
    "SequenceFolder",
    "Sequences",
    "SigmoidTransition",
    "Simulation",
    "SparseTransition",
    "StudentT",
    "SwitchingLaws",
    "SwitchingLinearSSM",
    "TemporalRBM",
    "TemporalSigmoidBeliefNetwork",
    "gate_conditions",
    "load_model",
    "node_gate",
    "node_states",
    "save_model",
    "write_folder",
]
