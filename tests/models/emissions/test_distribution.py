"""Emissions from distributions of Pyro and torch: against SciPy, and against our own families.

What every emission has to do is tested in ``test_emissions.py``, with some of these among them.
"""

import copy
import itertools
import math
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import approx_fprime
from torch.distributions import biject_to, constraints

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    fit,
    forecast,
    log_evidence,
    nuts,
    starting_values,
    to_arviz,
)
from beliefzoo.models import (
    POMDP,
    Bernoulli,
    DeepMarkovModel,
    Emission,
    FromDistribution,
    Gaussian,
    HiddenMarkovModel,
    NeuralEmission,
    Poisson,
    Regression,
    Sequences,
    VonMises,
    load_model,
    save_model,
)

CHAIN = {"initial": [0.6, 0.4], "transition": [[0.85, 0.15], [0.25, 0.75]]}


def zero_inflated(rate: float, gate: float) -> Any:
    """SciPy has none."""
    counts = stats.poisson(rate)
    return types.SimpleNamespace(
        logpdf=lambda y: np.log(gate * (np.asarray(y) == 0) + (1 - gate) * counts.pmf(y)),
        cdf=lambda y: gate + (1 - gate) * counts.cdf(y),
        mean=lambda: (1 - gate) * rate,
    )


def discrete(law: Any) -> Any:
    return types.SimpleNamespace(logpdf=law.logpmf, cdf=law.cdf, mean=law.mean)


@dataclass(frozen=True)
class Family:
    """A distribution at two states, and SciPy's of the same arguments."""

    family: type
    values: dict[str, list[float]]
    scipy: Callable[..., Any]
    given: dict[str, ArrayLike] = field(default_factory=dict)
    moves: dict[str, Callable[[Any, float], Any]] = field(default_factory=dict)
    """What becomes of a parameter if the data are multiplied by a number; others stay."""
    exact: float = 1e-10
    whole: bool = False

    @property
    def emission(self) -> FromDistribution:
        return FromDistribution(self.family, **self.given)

    @property
    def known(self) -> HiddenMarkovModel:
        return HiddenMarkovModel(2, self.emission).with_parameters(**CHAIN, **self.values)

    def law(self, state: int) -> Any:
        return self.scipy(**{name: value[state] for name, value in self.values.items()})


def times(value: Any, factor: float) -> Any:
    return value * factor


def over(value: Any, factor: float) -> Any:
    return value / factor


LOCATED = {"loc": times, "scale": times}

FAMILIES = {
    "gamma": Family(
        dist.Gamma,
        {"concentration": [2.0, 9.0], "rate": [2.0, 1.5]},
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
        moves={"rate": over},
    ),
    "von-mises": Family(
        dist.VonMises,
        {"loc": [0.0, 3.0], "concentration": [4.0, 1.5]},
        lambda loc, concentration: stats.vonmises(concentration, loc),
        exact=1e-5,  # torch's Bessel function is good to 2e-7
    ),
    "negative-binomial": Family(
        dist.NegativeBinomial,
        {"total_count": [3.0, 6.0], "probs": [0.3, 0.7]},
        lambda total_count, probs: discrete(stats.nbinom(total_count, 1 - probs)),
        whole=True,
    ),
    "beta": Family(
        dist.Beta,
        {"concentration1": [2.0, 6.0], "concentration0": [5.0, 2.0]},
        lambda concentration1, concentration0: stats.beta(concentration1, concentration0),
    ),
    "log-normal": Family(
        dist.LogNormal,
        {"loc": [0.0, 1.5], "scale": [0.6, 0.3]},
        lambda loc, scale: stats.lognorm(scale, scale=np.exp(loc)),
        moves={"loc": lambda value, factor: value + math.log(factor)},
    ),
    "exponential": Family(
        dist.Exponential,
        {"rate": [0.2, 3.0]},
        lambda rate: stats.expon(scale=1 / rate),
        moves={"rate": over},
    ),
    "zero-inflated-poisson": Family(
        dist.ZeroInflatedPoisson,
        {"rate": [2.0, 9.0], "gate": [0.3, 0.2]},
        zero_inflated,
        whole=True,
    ),
    "weibull": Family(
        dist.Weibull,
        {"scale": [1.0, 5.0], "concentration": [1.2, 3.0]},
        lambda scale, concentration: stats.weibull_min(concentration, scale=scale),
        moves={"scale": times},
    ),
    "cauchy": Family(
        dist.Cauchy,
        {"loc": [0.0, 6.0], "scale": [1.0, 0.5]},
        lambda loc, scale: stats.cauchy(loc, scale),
        moves=LOCATED,
    ),
    "laplace": Family(
        dist.Laplace,
        {"loc": [0.0, 3.0], "scale": [1.0, 0.5]},
        lambda loc, scale: stats.laplace(loc, scale),
        moves=LOCATED,
    ),
    "gumbel": Family(
        dist.Gumbel,
        {"loc": [0.0, 4.0], "scale": [1.0, 0.5]},
        lambda loc, scale: stats.gumbel_r(loc, scale),
        moves=LOCATED,
    ),
    "student-t": Family(
        dist.StudentT,
        {"loc": [0.0, 4.0], "scale": [1.0, 0.5]},
        lambda loc, scale: stats.t(4, loc, scale),
        given={"df": 4.0},
        moves=LOCATED,
    ),
    "binomial": Family(
        dist.Binomial,
        {"probs": [0.2, 0.7]},
        lambda probs: discrete(stats.binom(10, probs)),
        given={"total_count": 10},
        whole=True,
    ),
    "pareto": Family(
        dist.Pareto,
        {"alpha": [1.5, 6.0]},
        lambda alpha: stats.pareto(alpha),
        given={"scale": 1.0},
    ),
}
every_family = pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
CONTINUOUS = {name: case for name, case in FAMILIES.items() if not case.whole}
WITH_A_UNIT = {name: case for name, case in CONTINUOUS.items() if case.moves}


def frames(case: Family, number: int, state: int = 0) -> torch.Tensor:
    """Draws of one state, (number, 1) float64."""
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in case.values.items()}
    return case.emission.draw(values, torch.full((number, 1), state))[:, 0].clone()


def quick_fit(model: HiddenMarkovModel, data: Sequences, parameters: str, steps: int) -> Fit:
    settings = FitSettings(
        steps=steps,
        batch_size=len(data),
        parameter_learning_rate=0.1,
        holdout=0,
        patience=None,
        evaluate_every=steps,
    )
    guide = BeliefGuide(model, ExactFilter(), parameters=parameters)
    return fit(model, guide, data, settings=settings, progress=False)


# The density, draws and means


@every_family
def test_evidence_is_the_sum_over_all_paths_of_scipys_densities(case):
    data = case.known.sample(3, [6, 5, 1], seed=1).data
    seen = data.mask.clone()
    seen[0, 2] = seen[0, 4] = False
    data = Sequences.from_tensors(data.values, seen, data.lengths)
    got = log_evidence(case.known, data)
    first, move = (np.log(CHAIN[name]) for name in ("initial", "transition"))
    for n, length in enumerate(data.lengths.tolist()):
        y = data.values[n, :length, 0].double().numpy()
        table = np.stack([case.law(state).logpdf(y) for state in range(2)], -1)
        table[~seen[n, :length, 0].numpy()] = 0
        moves = np.broadcast_to(move, (length - 1, 2, 2))
        expected = oracles.log_evidence(first, moves, table)
        assert float(got[n]) == pytest.approx(expected, rel=case.exact, abs=case.exact)


@every_family
@pytest.mark.parametrize("state", [0, 1])
def test_draws_have_scipys_distribution_function(case, state):
    """The largest distance from it, of 4000 draws: above .05 by chance in 1 of 5e8."""
    y = frames(case, 4000, state)[:, 0].numpy()
    if case.family is dist.VonMises:  # on the turn where SciPy's begins
        y = (y - case.values["loc"][state] + np.pi) % (2 * np.pi) - np.pi
        law = stats.vonmises(case.values["concentration"][state])
    else:
        law = case.law(state)
    values, counts = np.unique(y, return_counts=True)
    assert np.abs(np.cumsum(counts) / len(y) - law.cdf(values)).max() < 0.05


@every_family
def test_means_are_those_of_scipy(case):
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in case.values.items()}
    got = case.emission.mean(values)
    assert got.shape == (2, 1)
    for state in range(2):
        if case.family is dist.Cauchy:
            assert bool(got.isnan().all())
        elif case.family is dist.VonMises:  # the mean direction
            assert float(got[state]) == case.values["loc"][state]
        else:
            assert float(got[state]) == pytest.approx(case.law(state).mean(), rel=1e-10)


def test_features_are_independent_and_share_fixed_values():
    """Of three features, by hand: degrees of freedom one a feature."""
    emission = FromDistribution(dist.StudentT, 3, df=[2.0, 4.0, 30.0])
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(2, 3)), rng.uniform(0.5, 2, (2, 3))
    y = rng.normal(size=(1, 7, 3))
    seen = rng.random(y.shape) < 0.6
    got = emission.score(
        {"loc": torch.tensor(loc), "scale": torch.tensor(scale)},
        torch.tensor(np.where(seen, y, np.nan)).nan_to_num(7.0),
        torch.tensor(seen),
    )
    for t, k in itertools.product(range(7), range(2)):
        terms = stats.t.logpdf(y[0, t], [2.0, 4.0, 30.0], loc[k], scale[k])
        expected = terms[seen[0, t]].sum()
        assert float(got[0, t, k]) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert emission.dims() == {"loc": ("state", "feature"), "scale": ("state", "feature")}


@pytest.mark.parametrize(
    ("made", "own", "names"),
    [
        (FromDistribution(dist.Poisson), Poisson(), {"rate": "rate"}),
        (FromDistribution(dist.Bernoulli, 2), Bernoulli(2), {"probs": "probs"}),
        (FromDistribution(dist.Normal, 2), Gaussian(2), {"mean": "loc", "scale": "scale"}),
    ],
    ids=["poisson", "bernoulli", "normal"],
)
@pytest.mark.parametrize("lags", [0, 2])
def test_regressions_coincide_with_those_of_our_own_families(
    made: Emission, own: Emission, names: dict[str, str], lags: int
):
    """Inputs and earlier observations act on the same linear predictor."""
    if lags and isinstance(own, Bernoulli):
        lags = 0  # our own reads bits as they are
    model = HiddenMarkovModel(2, Regression(own, inputs=2, lags=lags))
    values = {name: prior.sample().double() for name, prior in model.priors.items()}
    inputs = torch.randn(4, 8, 2, dtype=torch.float64) / 4
    for name in {"input_weight", "lag_weight"} & set(values):
        values[name] = values[name] / 4
    data = model.with_parameters(**values).sample(4, 8, seed=3, inputs=inputs).data
    other = HiddenMarkovModel(2, Regression(made, inputs=2, lags=lags))
    moved = {names.get(name, name): value for name, value in values.items()}
    expected = log_evidence(model.with_parameters(**values), data)
    got = log_evidence(other.with_parameters(**moved), data)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


# Priors and starts


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_a_start_is_the_maximum_of_scipys_likelihood(case):
    """The gradient is zero: a parameter is within .02 standard errors of the maximum.

    A Laplace has a corner there, of height 1 in the score, and the step to it halves.
    """
    y = frames(case, 500, 1)
    mask, weight = torch.ones_like(y, dtype=torch.bool), torch.ones(len(y), 1).double()
    emission = case.emission
    start = emission.start(y, mask, weight)
    supports = {n: prior.base_dist.support for n, prior in emission.priors(1).items()}
    bijections = {name: biject_to(support) for name, support in supports.items()}

    def score(free: np.ndarray) -> np.ndarray:
        values = {
            name: float(bijections[name](torch.tensor(x)))
            for name, x in zip(start, free, strict=True)
        }
        return case.scipy(**values).logpdf(y[:, 0].numpy())

    free = np.array([float(bijections[name].inv(value)) for name, value in start.items()])
    slopes = approx_fprime(free, score, 1e-6)  # (frames, parameters)
    information = slopes.T @ slopes
    miss = np.linalg.solve(information, slopes.sum(0)) * np.sqrt(np.diag(information))
    assert np.abs(miss).max() < (0.1 if case.family is dist.Laplace else 0.02)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
@pytest.mark.parametrize("case", WITH_A_UNIT.values(), ids=WITH_A_UNIT)
def test_priors_and_starts_go_with_the_unit(case, unit):
    """Data in another unit: the start has the same likelihood but for the unit, so has the prior.

    Where there is a corner (Laplace) a start may be another by a hundredth of a standard deviation.
    """
    data = case.known.sample(4, 100, seed=2).data.to(torch.float64)
    other = replace(data, values=data.values * unit)
    corner = case.family is dist.Laplace
    found, priors = [], []
    for each in (data, other):
        model = HiddenMarkovModel(2, case.emission).scaled_to(each)
        torch.set_default_dtype(torch.float64)
        found.append(starting_values(model, each))
        priors.append(sum(model.priors[name].log_prob(found[-1][name]) for name in case.values))
    model = HiddenMarkovModel(2, case.emission)
    first, second = (
        log_evidence(model.with_parameters(**start), each).sum()
        for start, each in zip(found, (data, other), strict=True)
    )
    assert float(second + data.n_observed * math.log(unit)) == pytest.approx(
        float(first), abs=1.0 if corner else 1e-3
    )
    shift = sum(2 * math.log(unit) for name, move in case.moves.items() if move is times)
    shift -= sum(2 * math.log(unit) for name, move in case.moves.items() if move is over)
    assert float(priors[1]) + shift == pytest.approx(float(priors[0]), abs=0.1 if corner else 1e-3)


def test_a_fit_goes_with_the_unit():
    """Of Gamma, maximum a posteriori: the same log-likelihood but for the unit, to .01 nats."""
    data = FAMILIES["gamma"].known.sample(10, 40, seed=2).data.to(torch.float64)
    found = []
    for unit in (1e-3, 1.0, 1e3):
        other = replace(data, values=data.values * unit)
        result = quick_fit(HiddenMarkovModel(2, dist.Gamma).scaled_to(other), other, "map", 80)
        found.append(float(log_evidence(result.fitted, other).sum()))
        found[-1] += data.n_observed * math.log(unit)
    assert found == pytest.approx(3 * [found[1]], abs=0.01)


TIGHT = Family(
    dist.Gamma,
    {"concentration": [2000.0, 1500.0], "rate": [2000.0, 100.0]},
    FAMILIES["gamma"].scipy,
)


@pytest.mark.parametrize(
    "case", [*FAMILIES.values(), TIGHT], ids=[*FAMILIES, "narrow states far apart"]
)
def test_priors_do_not_contradict_the_data(case):
    """The parameters that made the data are within two standard deviations of their priors."""
    data = case.known.sample(10, 100, seed=4).data
    for name, centre, width in case.emission.scaled_to(data).scaling:
        value = torch.tensor(case.values[name])
        support = case.emission.priors(2)[name].support
        free = biject_to(support).inv(value)
        assert bool(((free - centre[0]) / width[0]).abs().max() < 2), name


@every_family
def test_whatever_the_frames_a_start_is_finite(case):
    """One frame, the same frame again and again, a state without frames, nothing seen at all."""
    y = frames(case, 6)
    for some in (y[:1], y[:1].expand(6, 1), y):
        weight = torch.zeros(len(some), 2).double()
        weight[:, 0] = 1
        for seen in (torch.ones_like(some, dtype=torch.bool), torch.zeros_like(some).bool()):
            start = case.emission.start(some, seen, weight)
            for name, value in start.items():
                support = case.emission.priors(2)[name].support
                assert bool(biject_to(support).inv(value).isfinite().all())


def test_a_lone_far_value_makes_no_cluster():
    """Cauchy's states start near where they are, though some values are thousands away."""
    data = FAMILIES["cauchy"].known.sample(4, 250, seed=0).data
    assert float(data.values.abs().max()) > 300
    start = starting_values(HiddenMarkovModel(2, dist.Cauchy), data)
    assert start["loc"].tolist() == pytest.approx([0.0, 6.0], abs=0.5)


def test_angles_are_clustered_on_their_circle():
    """States that look to 0 and to π, where the angles begin again."""
    data = FAMILIES["von-mises"].known.sample(20, 100, seed=0).data
    start = starting_values(HiddenMarkovModel(2, dist.VonMises), data)
    turns = start["loc"] - torch.tensor([0.0, 3.0])
    turns = (turns + math.pi) % (2 * math.pi) - math.pi
    assert bool((turns.abs() < 0.3).all())


# Arguments


def by_mean(mean, shape):
    return dist.Gamma(shape, shape / mean)


def test_a_function_that_returns_a_distribution():
    positive = constraints.positive
    emission = FromDistribution(by_mean, mean=positive, shape=positive)
    assert emission.ordering == "mean"
    assert repr(emission) == "FromDistribution(by_mean, mean=positive, shape=positive)"
    case = FAMILIES["gamma"]
    data = case.known.sample(2, 10, seed=0).data
    shape, rate = (np.array(case.values[name]) for name in ("concentration", "rate"))
    model = HiddenMarkovModel(2, emission, ordered=True)
    known = model.with_parameters(**CHAIN, mean=shape / rate, shape=shape)
    torch.testing.assert_close(log_evidence(known, data), log_evidence(case.known, data))


def test_a_regression_of_a_positive_mean_is_on_its_logarithm():
    positive = constraints.positive
    emission = FromDistribution(by_mean, mean=positive, shape=positive)
    values = {name: torch.tensor([2.0]).double() for name in ("mean", "shape")}
    y = torch.full((1, 1, 1), 1.5, dtype=torch.float64)
    shift = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    got = emission.score(values, y, y > 0, shift)
    expected = stats.gamma.logpdf(1.5, 2.0, scale=2.0 * np.exp(0.3) / 2.0)
    assert float(got) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="lags: must be 0 unless observations are reals or counts"):
        emission.lagged(values, y, y > 0)


def test_of_arguments_that_stand_for_one_another_the_first_is_taken_or_the_named():
    real = constraints.real
    names = [
        (FromDistribution(dist.NegativeBinomial), ["total_count", "probs"]),
        (FromDistribution(dist.NegativeBinomial, logits=real), ["total_count", "logits"]),
        (FromDistribution(dist.ZeroInflatedPoisson), ["rate", "gate"]),
        (FromDistribution(dist.ZeroInflatedNegativeBinomial), ["total_count", "probs", "gate"]),
        (FromDistribution(torch.distributions.Gamma), ["concentration", "rate"]),
        (FromDistribution(dist.AffineBeta, loc=-1, scale=3), ["concentration1", "concentration0"]),
    ]
    for emission, expected in names:
        assert list(emission.dims()) == list(emission.priors(2)) == expected


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (dist.LogNormal, "loc"),
        (dist.VonMises, "loc"),
        (dist.Cauchy, "loc"),
        (dist.Gumbel, "loc"),
        (dist.Poisson, "rate"),
        (dist.HalfNormal, "scale"),
        (dist.Gamma, None),
        (dist.Exponential, None),  # its mean falls with the rate
        (dist.Beta, None),
    ],
)
def test_states_are_ordered_by_what_alone_moves_the_mean_or_the_median(family, name):
    assert FromDistribution(family).ordering == name


def test_a_prior_of_ones_own():
    emission = FromDistribution(dist.Gamma, 2, rate=dist.LogNormal(1.0, 0.5))
    prior = emission.priors(3)["rate"]
    assert prior.event_shape == (3, 2)
    at = torch.full((3, 2), 2.0)
    expected = 6 * stats.lognorm(0.5, scale=np.e).logpdf(2.0)
    assert float(prior.log_prob(at)) == pytest.approx(expected, rel=1e-5)
    data = Sequences.from_array(np.random.default_rng(0).gamma(2.0, size=(1, 50, 2)))
    assert [name for name, *_ in emission.scaled_to(data).scaling] == ["concentration"]


def test_equal_settings_are_equal_and_copies_work():
    made = [FromDistribution(dist.StudentT, df=4, scale=dist.Gamma(2.0, 1.0)) for _ in range(2)]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert made[0] != FromDistribution(dist.StudentT, df=5)
    assert (
        repr(made[0]) == "FromDistribution(StudentT, df=4.0, scale=Gamma(concentration=2, rate=1))"
    )
    bits = FromDistribution(dist.Bernoulli)
    for same in (copy.deepcopy(bits), pickle.loads(pickle.dumps(bits))):
        assert same == bits
        assert same.observations == bits.observations


@pytest.mark.parametrize(
    "emission",
    [
        FromDistribution(dist.Gamma),
        FromDistribution(dist.StudentT, 2, df=4.0, scale=dist.Gamma(2.0, 1.0)),
        FromDistribution(dist.NegativeBinomial, logits=constraints.real),
        Regression(FromDistribution(dist.Laplace), inputs=1),
    ],
    ids=repr,
)
def test_models_are_saved_and_loaded(emission, tmp_path):
    model = HiddenMarkovModel(2, emission)
    inputs = torch.zeros(2, 30, 1) if model.inputs else None
    data = model.sample(2, 30, seed=0, inputs=inputs).data
    model = model.scaled_to(data)
    model = model.with_parameters(**{n: p.sample() for n, p in model.priors.items()})
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert loaded.emission == model.emission
    assert repr(loaded) == repr(model)
    assert torch.equal(log_evidence(loaded, data), log_evidence(model, data))


def test_a_model_with_a_function_is_not_saved(tmp_path):
    positive = constraints.positive
    model = HiddenMarkovModel(2, FromDistribution(by_mean, mean=positive, shape=positive))
    with pytest.raises(ValueError, match=r"can save .*got <function by_mean"):
        save_model(model, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FromDistribution(dist.Gamma, 0), "features: must be a whole number >= 1, got 0"),
        (lambda: FromDistribution(dist.Gamma(1.0, 1.0)), "family: must be a class of distrib"),
        (lambda: FromDistribution(int), "family: must be a class of distrib.*got <class 'int'>"),
        (lambda: FromDistribution("gamma"), "family: must be a class of distrib.* got 'gamma'"),
        (
            lambda: FromDistribution(lambda a: 3, a=constraints.real),
            "family: must return a distribution, got <lambda> with 3",
        ),
        (
            lambda: FromDistribution(dist.Gamma, rte=1.0),
            r"family: Gamma takes \['concentration', 'rate'\], got \['rte'\]",
        ),
        (lambda: FromDistribution(dist.Gamma, rate="1"), "rate: needs a finite number.* got '1'"),
        (lambda: FromDistribution(dist.Gamma, rate=-1), "rate: needs numbers > 0, got -1.0"),
        (
            lambda: FromDistribution(dist.Gamma, rate=dist.Normal(0.0, 1.0)),
            "rate: needs to lie in positive, got Normal",
        ),
        (
            lambda: FromDistribution(dist.Gamma, rate=dist.Gamma(torch.ones(2), 1.0)),
            "rate: needs a prior of one real number",
        ),
        (
            lambda: FromDistribution(dist.Gamma, rate=constraints.simplex),
            "rate: needs a constraint on single real numbers, got Simplex",
        ),
        (
            lambda: FromDistribution(dist.Gamma, rate=constraints.greater_than(1.0)),
            r"rate: needs a prior on interval\(1, inf\)",
        ),
        (
            lambda: FromDistribution(dist.Normal, 2, scale=[1.0, 2.0, 3.0]),
            r"scale: needs one number, or one a feature \(2\), got 3",
        ),
        (
            lambda: FromDistribution(dist.Gamma, concentration=1.0, rate=1.0),
            "family: needs a single number to fit",
        ),
        (lambda: FromDistribution(dist.Gamma, rate=None), "rate: needs a finite number.* None"),
        (lambda: FromDistribution(dist.Uniform), "low: needs a value, a constraint or a prior"),
        (
            lambda: FromDistribution(dist.Uniform, low=constraints.real, high=constraints.real),
            "family: needs a support that does not depend on what is fitted",
        ),
        (
            lambda: FromDistribution(dist.Pareto),
            "family: needs a support that does not depend on what is fitted.* got Pareto",
        ),
        (lambda: FromDistribution(dist.MultivariateNormal), "loc: .*see FullGaussian.* got Indep"),
        (lambda: FromDistribution(dist.Dirichlet), "concentration: .*derive from Emission"),
        (lambda: FromDistribution(dist.Categorical), "family: .*see .* Categorical.* got Categ"),
        (lambda: FromDistribution(dist.Delta), "v: needs a value, a constraint or a prior"),
        (
            lambda: FromDistribution(dist.StudentT, settings=(("df", "four"),)),
            "df: needs a finite number .* got 'four'",
        ),
        (
            lambda: FromDistribution(dist.StudentT, settings=(4.0,)),
            r"settings: must be pairs such as \(\('df', 4.0\),\), got \(4.0,\)",
        ),
        (
            lambda: FromDistribution(dist.Gamma, scaling=(("rate", (0.0,), (-1.0,)),)),
            "scaling: needs numbers > 0 for 'rate'",
        ),
        (
            lambda: FromDistribution(dist.Gamma, scaling=(("size", (0.0,), (1.0,)),)),
            r"scaling: needs names of \['concentration', 'rate'\], got \['size'\]",
        ),
        (
            lambda: HiddenMarkovModel(2, dist.Gamma, ordered=True),
            r"ordered: needs an emission .* got FromDistribution\(Gamma\)",
        ),
        (
            lambda: HiddenMarkovModel(2, Regression(FromDistribution(dist.Gamma), inputs=1)),
            "emission: needs a distribution whose mean or median depends on one parameter alone",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_distribution_without_a_density_is_refused():
    class Mute(dist.Normal):
        def log_prob(self, value):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"family: needs a log density .* got Mute"):
        FromDistribution(Mute)


@pytest.mark.parametrize(
    ("emission", "values", "message"),
    [
        (FromDistribution(dist.Gamma), [1.0, 0.0], r"data: Gamma needs numbers > 0, got \[0.0\]"),
        (FromDistribution(dist.Exponential), [0.0, -1.0], "data: Exponential needs numbers >= 0"),
        (FromDistribution(dist.Beta), [0.5, 1.0], r"data: Beta needs numbers in \(0, 1\), got"),
        (
            FromDistribution(dist.Geometric),
            [1.0, 0.5],
            r"data: Geometric needs whole numbers >= 0, got \[0.5\]",
        ),
        (
            FromDistribution(dist.Binomial, total_count=10),
            [1.0, 11.0],
            r"data: Binomial needs whole numbers from 0 to 10, got \[11.0\]",
        ),
        (FromDistribution(dist.Bernoulli), [1.0, 2.0], "data: Bernoulli needs values 0 or 1"),
        (
            FromDistribution(dist.AffineBeta, loc=-1, scale=3),
            [-1.0],
            r"data: AffineBeta needs numbers in \(-1, 2\), got \[-1.0\]",
        ),
        (FromDistribution(dist.Pareto, scale=2), [1.0], "data: Pareto needs numbers >= 2"),
        (FromDistribution(dist.Gamma, 2), [1.0], r"data: Gamma needs 2 feature\(s\), got 1"),
    ],
    ids=repr,
)
def test_data_outside_of_the_support_are_refused(emission, values, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(2, emission).check(Sequences.from_arrays([values]))


# The rest of the library


def test_posteriors_predictions_and_arviz():
    """A guide, NUTS and a forecast; states are in increasing order of their means."""
    case = FAMILIES["zero-inflated-poisson"]
    data = case.known.sample(4, 40, seed=5).data
    model = HiddenMarkovModel(2, dist.ZeroInflatedPoisson).scaled_to(data)
    by_guide = quick_fit(model, data, "normal", 20)
    by_nuts = nuts(model, data, draws=4, warmup=4, chains=1, progress=False)
    for result in (by_guide, by_nuts):
        idata = to_arviz(result, data, **({"draws": 4} if result is by_guide else {}))
        posterior = idata.posterior
        assert posterior["rate"].dims == posterior["gate"].dims == ("chain", "draw", "state")
        mean = ((1 - posterior["gate"]) * posterior["rate"]).mean(("chain", "draw"))
        assert float(mean[0]) < float(mean[1])
        assert idata.posterior_predictive["obs"].shape == (1, 4, 4, 40)
    ahead = forecast(quick_fit(model, data, "map", 20).fitted, data, steps=3, draws=5)
    assert ahead.mean.shape == (4, 3, 1)
    assert bool((ahead.draws == ahead.draws.round()).all())


def test_a_network_that_makes_the_parameters():
    """Any family of priors will do for a ``NeuralEmission``: the score is that of its base."""
    base = FromDistribution(dist.Gamma)
    emission = NeuralEmission(base, embedding=2, width=3)
    values = {name: 0.1 * prior.sample() for name, prior in emission.priors(2).items()}
    y = torch.rand(2, 5, 1) + 0.1
    mask = torch.ones_like(y, dtype=torch.bool)
    expected = base.score(emission.expanded(values), y, mask)
    torch.testing.assert_close(emission.score(values, y, mask), expected)


def test_decisions_and_deep_models_take_any_distribution():
    """Also where nothing is shown at the first step, and zero could not be."""
    shown = POMDP(2, FromDistribution(dist.Gamma), actions=2).sample(3, 5, seed=0).data
    assert bool((shown.values[shown.mask] > 0).all())
    assert not bool(shown.mask[:, 0].any())
    deep = DeepMarkovModel(2, FromDistribution(dist.Laplace, 2)).sample(3, 5, seed=0).data
    assert deep.values.shape == (3, 5, 2)
    with pytest.raises(ValueError, match="emission: needs a distribution whose mean or median"):
        DeepMarkovModel(2, FromDistribution(dist.Gamma)).sample(3, 5, seed=0)


def test_angles_that_look_like_degrees_are_warned_of() -> None:
    model = HiddenMarkovModel(1, VonMises()).with_parameters(loc=[0.0], concentration=[1.0])
    turns = Sequences.from_arrays([[0.5, 0.5 + 6 * np.pi, -3.0]])
    log_evidence(model, turns)
    with pytest.warns(UserWarning, match="angles in radians, got 270, more than 4 turns"):
        log_evidence(model, Sequences.from_arrays([[0.0, 90.0, 270.0]]))
