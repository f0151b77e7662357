"""The number of free parameters is the rank of what a law says, by differentiation, of any law."""

from __future__ import annotations

import inspect

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

import beliefzoo.models as zoo
from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit, information_criteria
from beliefzoo.inference.checking.criteria import free_parameters
from beliefzoo.models import (
    POMDP,
    Autoregressive,
    BandedTransition,
    Bernoulli,
    Categorical,
    ContinuousTimeHMM,
    Cycle,
    Emission,
    FromDistribution,
    FullGaussian,
    GatedAccumulator,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    LowRankGaussian,
    LowRankTransition,
    MatrixTransition,
    Misclassification,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    Poisson,
    Regression,
    ResetModel,
    Seasonal,
    Sequences,
    SparseTransition,
    StudentT,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
)
from beliefzoo.models.emissions.identified import unconstrained_size

LISTED = SparseTransition(((1,), (0, 1, 2), (0, 2)))
PAIRS = ((0, ((0, 1), (1, 0))), (0, ((0, 1),)), (0, ((1, 0),)), (1, ((0, 1),)))
"""Three effects of column 0, one of which is the sum of the others."""


def chain(law, states=3):
    return HiddenMarkovModel(states, "poisson", transition=law)


def hmm(law, states=2):
    return HiddenMarkovModel(states, law)


# Counts by hand; a Poisson chain of three states has three rates and two numbers to start.
CHAIN = 3 + 2  # rates, first state
START = {2: 1 + 2, 3: 2 + 6}  # first state and transition

BY_HAND = {
    "matrix": (chain(MatrixTransition()), CHAIN + 6),
    "banded": (chain(BandedTransition()), CHAIN + 2),
    "walk": (chain(BandedTransition((-1, 0, 1))), CHAIN + 1 + 2 + 1),
    "sparse": (chain(LISTED), CHAIN + 3),
    "input": (chain(InputTransition(1)), CHAIN + 12),
    "inputs": (chain(InputTransition(2)), CHAIN + 6 + 2 * 6),
    "low-rank-1": (chain(LowRankTransition(1)), CHAIN + 2),
    "low-rank-2": (chain(LowRankTransition(2)), CHAIN + 5),
    "low-rank-3": (chain(LowRankTransition(3)), CHAIN + 6),
    "low-rank-5": (chain(LowRankTransition(5)), CHAIN + 6),
    "low-rank-2-of-5": (chain(LowRankTransition(2), 5), 5 + 4 + 2 * 5 * 2 - 4 - 5),
    "neural-1": (chain(NeuralTransition(1, 3), 4), 4 + 3 + 1 * (2 * 4 - 1 - 1)),
    "neural-2": (chain(NeuralTransition(2, 3), 5), 5 + 4 + 2 * (2 * 5 - 1 - 2)),
    "neural-full": (chain(NeuralTransition(3, 4), 3), CHAIN + 6),
    "categorical": (hmm(Categorical(4)), START[2] + 6),
    "multinomial": (hmm(Multinomial(3)), START[2] + 4),
    "bernoulli": (hmm(Bernoulli(3)), START[2] + 6),
    "full": (hmm(FullGaussian(3)), START[2] + 2 * 9),
    "factors-1-of-2": (hmm(LowRankGaussian(2, rank=1)), START[2] + 2 * (2 + 3)),
    "factors-1-of-3": (hmm(LowRankGaussian(3, rank=1)), START[2] + 2 * (3 + 6)),
    "factors-2-of-3": (hmm(LowRankGaussian(3, rank=2)), START[2] + 2 * (3 + 6)),
    "factors-2-of-5": (hmm(LowRankGaussian(5, rank=2)), START[2] + 2 * (5 + 5 + 10 - 1)),
    "mixture": (hmm(GaussianMixture(2)), START[2] + 2 * (1 + 4 + 4)),
    "student": (hmm(StudentT()), START[2] + 6),
    "gamma": (hmm(FromDistribution(dist.Gamma)), START[2] + 4),
    "gamma-of-mean": (hmm(zoo.Gamma()), START[2] + 4),
    "exponential": (hmm(zoo.Exponential()), START[2] + 2),
    "weibull": (hmm(zoo.Weibull()), START[2] + 4),
    "log-normal": (hmm(zoo.LogNormal()), START[2] + 4),
    "beta": (hmm(zoo.Beta()), START[2] + 4),
    "angles": (hmm(zoo.VonMises()), START[2] + 4),
    "spread-counts": (hmm(zoo.NegativeBinomial()), START[2] + 4),
    "channels": (hmm(zoo.Independent(time=Gaussian(), kind=Categorical(3))), START[2] + 4 + 4),
    "inputs-of-symbols": (hmm(Regression(Categorical(4), inputs=1)), START[2] + 12),
    "inputs-of-totals": (hmm(Regression(Multinomial(3), inputs=2)), START[2] + 2 * (2 + 4)),
    "lags-of-symbols": (hmm(Regression(Categorical(3), lags=1)), START[2] + 2 * (2 + 3 * 2)),
    "lags-of-totals": (hmm(Regression(Multinomial(3), lags=1)), START[2] + 2 * (2 + 3 * 2)),
    "both": (hmm(Regression(Categorical(3), inputs=1, lags=2)), START[2] + 2 * (2 + 2 + 12)),
    "lags-of-counts": (hmm(Regression(Poisson(2), lags=1)), START[2] + 2 * (2 + 4)),
    "lags-of-bits": (hmm(Regression(Bernoulli(2), lags=2)), START[2] + 2 * (2 + 8)),
    "lags-of-reals": (hmm(Regression(Gaussian(2), inputs=1, lags=1)), START[2] + 2 * (4 + 2 + 4)),
    # Two symbols: all that a lag can say is one number after each.
    "network-of-symbols": (hmm(Regression(Categorical(2), lags=1, width=3)), START[2] + 2 + 2),
    "mistaken": (hmm(Misclassification(3, ((0, 1), (1, 0), (1, 2))), 3), START[3] + 3),
    "mistaken-inputs": (
        hmm(Regression(Misclassification(3, ((0, 1), (1, 0), (1, 2))), inputs=2), 3),
        START[3] + 3 + 2 * 3,
    ),
    "neural-symbols": (hmm(NeuralEmission(Categorical(3), 2, 4)), START[2] + 2 * 2),
    "neural-reals": (hmm(NeuralEmission(Gaussian(), 1, 2)), START[2] + 4),
    "nodes": (TemporalSigmoidBeliefNetwork(2, Gaussian(2)), 2 + 4 + 2 + 4 + 2 + 2),
    "nodes-of-symbols": (TemporalSigmoidBeliefNetwork(2, Categorical(3)), 2 + 4 + 2 + 4 + 2),
    "harmonium": (TemporalRBM(2, Bernoulli(2)), 2 + 4 + 2 + 4 + 2),
    "harmonium-of-symbols": (TemporalRBM(2, Categorical(3)), 2 + 4 + 2 + 4 + 2),
    "stationary-symbols": (
        HiddenMarkovModel(4, Categorical(5), initial="stationary"),
        4 * 4 + 12,
    ),
    "reals": (hmm(Gaussian(3)), START[2] + 12),
    "full-of-four": (hmm(FullGaussian(4)), START[2] + 2 * (4 + 4 + 6)),
    "stationary": (HiddenMarkovModel(3, Poisson(), initial="stationary"), 3 + 6),
    "ordered": (HiddenMarkovModel(3, Poisson(), ordered=True), CHAIN + 6),
    "one-state": (HiddenMarkovModel(1, Poisson(), transition=InputTransition(1)), 1),
    "jumps": (ContinuousTimeHMM(3, jumps=((0, 1), (1, 2)), errors=((0, 1),)), 2 + 2 + 1),
    "effects": (ContinuousTimeHMM(2, inputs=2, errors=((0, 1),)), 1 + 2 + 4 + 1),
    "shared-effects": (
        ContinuousTimeHMM(2, inputs=2, effects=PAIRS, emission="poisson"),
        1 + 2 + 2 + 1 + 2,
    ),
    "pomdp": (POMDP(2, Categorical(3), actions=2), 1 + 2 * 2 + 2 * 2 * 2),
    "pomdp-factors": (POMDP(2, LowRankGaussian(2, rank=1), actions=2), 1 + 4 + 2 * 2 * 5),
    "accumulator": (GatedAccumulator(8, features=2), 3 + 3 * 2 + 2 + 2),
    "reset": (ResetModel(features=2), 2 + 2 * 2 + 2 + 2),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_by_hand_and_by_rank(name):
    model, count = BY_HAND[name]
    assert unconstrained_size(model.priors) - model.redundant(model.priors) == count
    assert rank(model, model.priors) == count


def rank(model, priors):
    """Rank of the central differences of all log probabilities, at draws from the priors."""
    data = probe(model)
    torch.manual_seed(1)
    drawn = {name: prior.sample().double() for name, prior in model.priors.items()}
    maps = {name: biject_to(prior.support) for name, prior in priors.items()}
    free = {name: maps[name].inv(drawn[name]) for name in priors}
    flat = torch.cat([x.flatten() for x in free.values()])

    def said(x):
        parts = x.split([v.numel() for v in free.values()])
        named = zip(free, parts, strict=True)
        values = {n: maps[n](part.reshape(free[n].shape)) for n, part in named}
        laws = model.laws(drawn | values, data)
        return torch.cat(
            [laws.log_initial.flatten(), laws.matrices.flatten(), laws.log_likelihood.flatten()]
        )

    step = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    finite = said(flat).isfinite()
    columns = [((said(flat + h) - said(flat - h)) / 2e-5)[finite] for h in step]
    jacobian = torch.stack(columns, -1).numpy()
    jacobian /= np.linalg.norm(jacobian, axis=1, keepdims=True).clip(1e-6)
    length = np.linalg.norm(jacobian, axis=0)
    turned = length > 1e-6 * length.max()
    return np.linalg.matrix_rank(jacobian[:, turned] / length[turned], tol=1e-6)


def probe(model):
    """Draws of the model, long and many enough, with inputs and times of which all differ."""
    generator = np.random.default_rng(0)
    n, steps = 12, 8
    along = {}
    if model.inputs:
        along["inputs"] = generator.normal(size=(n, steps, model.inputs))
    if model.timed:
        along["times"] = generator.exponential(size=(n, steps)).cumsum(1)
    return model.sample(n, steps, seed=0, **along).data


def test_every_law_of_a_chain_is_counted():
    """No emission or transition law of the library is left out above."""
    used = set()
    for model, _ in BY_HAND.values():
        laws = [model.emission, model.transition]
        while laws:
            law = laws.pop()
            used.add(type(law))
            laws += [getattr(law, n) for n in ("base", "family") if hasattr(law, n)]
    classes = [thing for _, thing in inspect.getmembers(zoo, inspect.isclass)]
    emissions = {c for c in classes if issubclass(c, Emission) and c is not Emission}
    moves = {c for c in classes if c.__name__.endswith("Transition") and hasattr(c, "dims")}
    assert emissions | moves - {zoo.GatedTransition} <= used  # the last is of continuous states


# What is known does not count


@pytest.mark.parametrize(
    ("model", "known", "count"),
    [
        (chain(InputTransition(1)), "transition", CHAIN + 9 - 3),
        (chain(InputTransition(1)), "transition_weight", CHAIN + 6),
        (chain(BandedTransition()), "transition_move", CHAIN),
        (chain(LowRankTransition(2)), "transition_left", CHAIN + 2 * 2),
        (chain(LowRankTransition(5)), "transition_left", CHAIN + 3 * 2),
        (chain(LowRankTransition(5)), "transition_right", CHAIN + 3 * 2),
        (hmm(Regression(Categorical(4), inputs=1)), "probs", START[2] + 6),
        (hmm(Regression(Categorical(4), inputs=1)), "input_weight", START[2] + 6),
        (hmm(LowRankGaussian(3, rank=2)), "scale", START[2] + 6 + 2 * 5),
        (hmm(LowRankGaussian(3, rank=2)), "loading", START[2] + 6 + 6),
        (chain(NeuralTransition(2, 3), 4), "transition_from", None),
        (hmm(NeuralEmission(Categorical(3), 2, 2)), "emission_from", None),
        (TemporalSigmoidBeliefNetwork(2, Categorical(3)), "node_loading", 2 + 6 + 2),
        (TemporalRBM(2, Categorical(3)), "node_loading", 2 + 6 + 2),
        (TemporalRBM(2, Categorical(3)), "node_bias", 2 + 4 + 6 + 2),
        (TemporalRBM(2, Categorical(3)), "node_initial", 6 + 6 + 2),
    ],
)
def test_known_parameters_are_not_counted(model, known, count):
    torch.manual_seed(0)
    half = model.with_parameters(**{known: model.priors[known].sample()})
    found = unconstrained_size(half.priors) - half.redundant(half.priors)
    assert found == rank(model, half.priors)
    assert count in (found, None)


def test_networks_too_large_to_count_are_refused():
    data = Sequences.from_arrays([[0, 1, 2, 1]], codes=True)
    model = hmm(NeuralEmission(Categorical(3), 8, 200))
    drawn = {name: prior.sample() for name, prior in model.priors.items()}
    known = model.with_parameters(**drawn)
    with pytest.raises(ValueError, match=r"parameters: needs their number where .* 1000 weights"):
        information_criteria(known, data)
    assert information_criteria(known, data, parameters=7).parameters == 7


# Continuous states: only the joint distribution of the observations counts


def moving(law, features=1, **settings):
    return LinearGaussianSSM(law, features, **settings)


LINEAR = {
    "level": (moving(LocalLevel()), 2),
    "trend": (moving(LocalLinearTrend()), 3),
    "level-and-season": (moving(LocalLevel() + Seasonal(4)), 3),
    # An AR(1) with an intercept: coefficient, its variance, intercept, and noise.
    "autoregressive": (moving(Autoregressive(1)), 4),
    "cycle": (moving(Cycle()), None),
    # D = 1: z can be scaled, so that one of loading, process and first law is for nothing.
    "one": (moving(LinearDynamics(1, initial="stationary")), 2 + 3 - 1),
    "one-free": (moving(LinearDynamics(1)), 2 + 2 + 3 - 1),
    "one-diffuse": (moving(LinearDynamics(1, initial="diffuse")), 2 + 3 - 1),
    # D = 2 with full Q: of the ARMA(2, 2) spectrum of one feature there are 2 + 2 + 1 numbers.
    "two": (
        moving(LinearDynamics(2, correlated=True, initial="stationary"), intercept=False),
        5,
    ),
    # D = F = 2: invertible maps (4) take A, Q, C to others; 4 + 3 + 4 + 2 - 4, spectra have more.
    "two-of-two": (
        moving(LinearDynamics(2, correlated=True, initial="stationary"), 2, intercept=False),
        4 + 3 + 4 + 2 - 4,
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_models_by_rank(name):
    model, count = LINEAR[name]
    y = np.random.default_rng(0).normal(size=(30, model.emission.features))
    data = Sequences.from_arrays([y])
    found = free_parameters(model, model.priors, data)
    assert count in (found, None)
    if name in ("two", "two-of-two", "one"):
        assert found == moment_rank(model)


def moment_rank(model):
    """Rank of the differences of the covariances of y at lags 0 to 6, of a stationary start."""
    torch.manual_seed(3)
    blank = Sequences.from_arrays([np.zeros((7, model.emission.features))])
    names = list(model.priors)
    while True:
        drawn = {name: prior.sample().double() for name, prior in model.priors.items()}
        if float(torch.linalg.eigvals(drawn["transition"]).abs().max()) < 0.9:
            break
    maps = {name: biject_to(model.priors[name].support) for name in names}
    free = {name: maps[name].inv(drawn[name]) for name in names}
    flat = torch.cat([x.flatten() for x in free.values()])

    def moments(x):
        parts = x.split([v.numel() for v in free.values()])
        values = {
            n: maps[n](part.reshape(free[n].shape)) for n, part in zip(names, parts, strict=True)
        }
        laws = model.laws(values, blank)
        a, c, p = laws.transition[0, 0], laws.loading[0, 0], laws.initial_covariance[0]
        out = [c @ p @ c.mT + laws.observation_noise[0, 0]]
        for _ in range(6):
            p = a @ p
            out.append(c @ p @ c.mT)
        return torch.cat([laws.intercept.flatten()[:1], torch.stack(out).flatten()])

    step = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    columns = [(moments(flat + h) - moments(flat - h)) / 2e-5 for h in step]
    return np.linalg.matrix_rank(torch.stack(columns, -1).numpy(), tol=1e-7)


def test_criteria_use_the_count():
    data = Sequences.from_arrays([[0, 2, 1, 5, 6, 4, 9, 8, 9, 1]])
    model = chain(BandedTransition())
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    result = fit(model, guide, data, settings=FitSettings(steps=2), progress=False)
    assert information_criteria(result, data).parameters == CHAIN + 2
