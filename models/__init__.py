"""Sequences and the generative models: three laws and one Pyro program each."""

from .beliefs import DiscreteBelief, GaussianBelief
from .counts import Bernoulli, Categorical, Multinomial, Poisson
from .emissions import Emission
from .folders import SequenceFolder, write_folder
from .hmm import HiddenMarkovModel, Laws
from .laws import (
    BandedTransition,
    InputTransition,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)
from .model import Model, Simulation
from .neural import NeuralEmission, NeuralTransition
from .persistence import load_model, save_model
from .priors import Ordered
from .reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .regression import Regression
from .sequences import Sequences
from .switching import SwitchingLaws, SwitchingLinearSSM

__all__ = [
    "BandedTransition",
    "Bernoulli",
    "Categorical",
    "DiscreteBelief",
    "Emission",
    "FullGaussian",
    "Gaussian",
    "GaussianBelief",
    "GaussianMixture",
    "HiddenMarkovModel",
    "InputTransition",
    "Laws",
    "LowRankGaussian",
    "LowRankTransition",
    "MatrixTransition",
    "Model",
    "Multinomial",
    "NeuralEmission",
    "NeuralTransition",
    "Ordered",
    "Poisson",
    "Regression",
    "SequenceFolder",
    "Sequences",
    "Simulation",
    "SparseTransition",
    "StudentT",
    "SwitchingLaws",
    "SwitchingLinearSSM",
    "load_model",
    "save_model",
    "write_folder",
]
