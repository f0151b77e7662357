"""The hidden Markov model: its laws, its Pyro program, its parameters, and published figures."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceMeanField_ELBO
from scipy import integrate, stats
from torch.distributions import biject_to, transform_to

import oracles
from beliefzoo.experiments.data.loaders import load_earthquakes
from beliefzoo.inference import BeliefGuide, ExactFilter, log_evidence, starting_values
from beliefzoo.models import (
    BandedTransition,
    Bernoulli,
    Categorical,
    FromDistribution,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LowRankGaussian,
    LowRankTransition,
    MatrixTransition,
    Misclassification,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    Ordered,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
    load_model,
    save_model,
)
from beliefzoo.models.chains.hmm import SHORTHAND
from beliefzoo.models.chains.laws import FreeInitial, stationary

COUNTS = Sequences.from_arrays([[3, 0, 7, np.nan], [1, 2], [5]])
PRINTED = {
    "transition": [
        [0.9546243, 0.0244426, 0.02093313],
        [0.04976679, 0.8993673, 0.05086592],
        [1.504e-09, 0.1966420, 0.80335799],
    ],
    "rate": [13.14573, 19.72101, 29.71437],
}


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1])


# Known parameters


def test_printed_matrices_are_normalised():
    """Published rows miss a sum of 1 by some 1e-7; the values are otherwise the printed ones."""
    model = HiddenMarkovModel(3, "poisson", initial="stationary").with_parameters(**PRINTED)
    transition = model.known["transition"]
    assert transition.dtype == torch.float64
    np.testing.assert_allclose(transition.sum(-1), 1, atol=1e-15)
    np.testing.assert_allclose(transition, PRINTED["transition"], atol=1e-6)
    assert model.priors == {}
    assert model.parameter_names == ("transition", "rate")


def test_exact_rows_are_kept_bit_for_bit():
    transition = torch.tensor(rows(5, 5))
    once = HiddenMarkovModel(5, "poisson").with_parameters(transition=transition)
    assert torch.equal(once.known["transition"], transition)
    again = once.with_parameters(transition=once.known["transition"])
    assert torch.equal(again.known["transition"], once.known["transition"])


def test_a_model_with_known_parameters_is_another_model():
    model = HiddenMarkovModel(2, "poisson")
    part = model.with_parameters(rate=[1.0, 2.0])
    whole = part.with_parameters(initial=[1.0, 0.0], transition=np.eye(2))
    assert (set(model.known), set(part.known)) == (set(), {"rate"})
    assert list(part.priors) == ["initial", "transition"]
    assert whole.priors == {}
    assert "known=['rate']" in repr(part)
    assert part.with_parameters(rate=[3.0, 4.0]).known["rate"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transition": [[0.9, 0.2], [0.5, 0.5]]}, r"transition: needs prob.*got \[1.1, 1.0\]"),
        ({"transition": [[1.5, -0.5], [0.5, 0.5]]}, r"transition: needs prob.* minimum -0.5"),
        ({"transition": np.eye(3)}, r"transition: needs shape \(2, 2\), got \(3, 3\)"),
        ({"transition": [[np.nan, 1], [0, 1]]}, "transition: needs finite numbers"),
        ({"initial": [0.5, 0.4]}, "initial: needs probabilities >= 0 that sum to 1"),
        ({"rate": [-1.0, 2.0]}, r"rate: needs values in .*lower_bound=0.* got \[-1.0, 2.0\]"),
        ({"rate": [np.inf, 2.0]}, "rate: needs finite numbers, got"),
        ({"rate": 3.0}, r"rate: needs shape \(2,\), got \(\)"),
        ({"rate": ["a", "b"]}, r"rate: needs an array of numbers, got \['a', 'b'\]"),
        ({"rate": [[1.0], [2.0, 3.0]]}, "rate: needs an array of numbers"),
        ({"mean": [1.0, 2.0]}, r"mean: needs the name of a parameter, one of \['initial', 'rate'"),
    ],
)
def test_values_outside_the_support_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(2, "poisson").with_parameters(**values)


def test_names_that_do_not_exist_are_explained():
    fixed = HiddenMarkovModel(2, "poisson", initial="stationary")
    with pytest.raises(ValueError, match=r"'initial' .the stationary law follows"):
        fixed.with_parameters(initial=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"'transition' .a single state has no chain"):
        HiddenMarkovModel(1, "poisson").with_parameters(transition=[[1.0]])


def test_covariance_stands_for_its_factors():
    """log O of full Gaussians given by covariance, against SciPy; float32 factors pass too."""
    covariance = np.array([[[2.0, 0.6], [0.6, 0.5]], [[1.0, -0.9], [-0.9, 4.0]]])
    mean = np.array([[0.0, 1.0], [2.0, -1.0]])
    model = HiddenMarkovModel(2, FullGaussian(2))
    known = model.with_parameters(mean=mean, covariance=covariance)
    assert set(known.known) == {"mean", "scale", "correlation_factor"}
    y = np.random.default_rng(0).normal(size=(1, 5, 2))
    chain = {"initial": torch.ones(2).double() / 2, "transition": torch.eye(2).double()}
    table = known.laws(chain, Sequences.from_array(y)).log_likelihood[0]
    for k in range(2):
        expected = stats.multivariate_normal.logpdf(y[0], mean[k], covariance[k])
        np.testing.assert_allclose(table[:, k], expected, rtol=1e-12)
    factor = known.known["correlation_factor"].float()
    again = model.with_parameters(correlation_factor=factor)
    assert float((again.known["correlation_factor"].norm(dim=-1) - 1).abs().max()) < 1e-15


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"covariance": -np.eye(2)[None].repeat(2, 0)}, "covariance: needs symmetric positive"),
        ({"covariance": [[[1, 0.5], [0.1, 1]]] * 2}, "covariance: needs symmetric positive"),
        ({"covariance": np.eye(3)[None]}, r"covariance: .* \(states, 2, 2\), got shape \(1, 3, 3"),
        ({"covariance": np.eye(2)[None]}, r"needs shape \(2, 2\), got \(1, 2\)"),
        (
            {"covariance": [np.eye(2)] * 2, "scale": np.ones((2, 2))},
            r"covariance: stands for scale and correlation_factor, got \['scale'\] too",
        ),
        (
            {"correlation_factor": [[[1, 0], [0.5, 0.5]]] * 2},
            "correlation_factor: needs a Cholesky factor of a correlation matrix",
        ),
    ],
)
def test_bad_covariances_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(2, FullGaussian(2)).with_parameters(**values)


def test_covariance_is_no_name_elsewhere():
    with pytest.raises(ValueError, match="covariance: needs the name of a parameter"):
        HiddenMarkovModel(2, Gaussian(2)).with_parameters(covariance=[np.eye(2)] * 2)


def test_known_values_keep_their_graph():
    rate = torch.tensor([2.0, 6.0], requires_grad=True)
    chain = {"initial": [0.5, 0.5], "transition": [[0.9, 0.1], [0.2, 0.8]]}
    model = HiddenMarkovModel(2, "poisson").with_parameters(rate=rate, **chain)
    (slope,) = torch.autograd.grad(log_evidence(model, COUNTS).sum(), rate)
    for k in range(2):
        ends = []
        for step in (-1e-4, 1e-4):
            moved = np.array([2.0, 6.0]) + step * np.eye(2)[k]
            end = HiddenMarkovModel(2, "poisson").with_parameters(rate=moved, **chain)
            ends.append(float(log_evidence(end, COUNTS).sum()))
        assert float(slope[k]) == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-5)


def test_missing_values_are_named():
    model = HiddenMarkovModel(2, "poisson").with_parameters(rate=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"needs values for \['initial', 'transition'\]"):
        model.laws({}, COUNTS)


def test_the_dtype_is_that_of_the_given_values():
    model = HiddenMarkovModel(2, "poisson").with_parameters(rate=[1.0, 2.0])
    given = {"initial": torch.tensor([0.5, 0.5]), "transition": torch.eye(2)}
    assert model.laws(given, COUNTS).log_likelihood.dtype == torch.float32
    double = {name: value.double() for name, value in given.items()}
    assert model.laws(double, COUNTS).log_likelihood.dtype == torch.float64


# Published figures: Zucchini & MacDonald's earthquakes


@pytest.mark.parametrize(
    ("initial", "values", "expected"),
    [
        ({}, PRINTED, -329.46027),
        (
            {"initial": [1.0, 0.0, 0.0]},
            {
                "transition": [
                    [0.9392937, 0.03209754, 0.02860881],
                    [0.04040106, 0.90643731, 0.05316163],
                    [0.0, 0.19025401, 0.80974599],
                ],
                "rate": [13.13374, 19.71312, 29.70964],
            },
            -328.52748,
        ),
    ],
    ids=["stationary", "free"],
)
def test_earthquakes_at_printed_parameters(initial, values, expected):
    kind = "free" if initial else "stationary"
    model = HiddenMarkovModel(3, "poisson", initial=kind).with_parameters(**initial, **values)
    got = log_evidence(model, load_earthquakes())
    assert float(got) == pytest.approx(expected, abs=1e-4)


def test_earthquakes_with_one_and_two_states():
    """One state is a plain Poisson sample; two states to the three digits that are printed."""
    data = load_earthquakes()
    counts = data.values.flatten().numpy()
    one = HiddenMarkovModel(1, "poisson").with_parameters(rate=[counts.mean()])
    expected = stats.poisson.logpmf(counts, counts.mean()).sum()
    assert float(log_evidence(one, data)) == pytest.approx(expected, abs=1e-10)
    assert expected == pytest.approx(-391.9189, abs=1e-4)
    two = HiddenMarkovModel(2, "poisson", initial="stationary").with_parameters(
        transition=[[0.9340, 0.0660], [0.1285, 0.8715]], rate=[15.472, 26.125]
    )
    # The maximum is flat: rounding the estimates to 4 digits costs less than 1e-4 nats.
    assert float(log_evidence(two, data)) == pytest.approx(-342.3183, abs=2e-4)
    pi = two.laws({}, data).log_initial.exp()
    np.testing.assert_allclose(pi, [[0.6608, 0.3392]], atol=2e-4)


def test_epileptic_seizures_at_printed_parameters(shared_data):
    """Parameters with 4 digits at the maximum: −211.6821 to within 1e-3."""
    path = next(shared_data.rglob("epileptic_seizures.csv"))
    table = np.genfromtxt(path, delimiter=",", names=True)
    counts = table[table.dtype.names[-1]]
    assert (len(counts), round(counts.mean(), 5)) == (204, 0.66176)
    model = HiddenMarkovModel(2, "poisson", initial="stationary").with_parameters(
        transition=[[0.9735, 0.0265], [0.0348, 0.9652]], rate=[0.2623, 1.1668]
    )
    got = float(log_evidence(model, Sequences.from_array(counts)))
    assert got == pytest.approx(-211.6821, abs=1e-3)


# The initial law


@pytest.mark.parametrize("size", [2, 3, 20, 200])
def test_stationary_law_is_the_eigenvector_and_the_limit(size):
    matrices = rows(3, size, size)
    pi = stationary(torch.tensor(matrices))
    for matrix, law in zip(matrices, pi.numpy(), strict=True):
        values, vectors = np.linalg.eig(matrix.T)
        vector = np.real(vectors[:, np.argmin(np.abs(values - 1))])
        np.testing.assert_allclose(law, vector / vector.sum(), atol=1e-12)
        np.testing.assert_allclose(law, np.linalg.matrix_power(matrix, 1000)[0], atol=1e-12)
        assert law.sum() == pytest.approx(1, abs=1e-12)


def test_stationary_law_of_special_chains():
    periodic = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert periodic.dtype == torch.float32
    torch.testing.assert_close(stationary(periodic), torch.ones(3) / 3)
    absorbing = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]).double()
    assert stationary(absorbing).tolist() == [0, 0, pytest.approx(1)]
    # A chain of birth and death: π_k ∝ Π birth / death, over 12 orders of magnitude.
    birth, death, size = 0.01, 0.9, 7
    matrix = np.diag(np.full(size - 1, birth), 1) + np.diag(np.full(size - 1, death), -1)
    matrix += np.diag(1 - matrix.sum(-1))
    expected = (birth / death) ** np.arange(size)
    got = stationary(torch.tensor(matrix))
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-3, atol=1e-15)


def test_stationary_law_is_differentiable():
    free = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: stationary(x.softmax(-1)), free)


@pytest.mark.parametrize(
    "transition",
    [
        np.eye(2),
        np.kron(np.eye(2), [[0.9, 0.1], [0.3, 0.7]]),
        [[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]],
        [[1 - 1e-17, 1e-17], [1e-17, 1 - 1e-17]],
    ],
    ids=["identity", "blocks", "two absorbing", "nearly"],
)
def test_chains_with_several_closed_classes_are_refused(transition):
    transition = np.array(transition)
    states = len(transition)
    model = HiddenMarkovModel(states, "poisson", initial="stationary").with_parameters(
        transition=transition, rate=np.arange(1.0, states + 1)
    )
    with pytest.raises(ValueError, match="single closed class of states; got one with several"):
        model.laws({}, COUNTS)


def test_every_draw_has_its_own_stationary_law():
    matrices = torch.tensor(rows(2, 3, 4, 4))
    model = HiddenMarkovModel(4, "poisson", initial="stationary")
    rate = torch.arange(1.0, 5.0).double().expand(2, 3, 4)
    laws = model.laws({"transition": matrices, "rate": rate}, COUNTS)
    assert laws.log_initial.shape == (2, 3, 1, 4)
    assert laws.log_transition.shape == (2, 3, 1, 1, 4, 4)
    pi = laws.log_initial.exp()
    torch.testing.assert_close(pi @ matrices, pi)


# Priors


def test_sticky_prior_adds_to_staying():
    """The prior's log ratio between two matrices, by the Dirichlet density."""
    plain, sticky = (HiddenMarkovModel(3, "poisson", sticky=s).priors for s in (0.0, 5.0))
    matrices = [torch.tensor(rows(3, 3, seed=s)).float() for s in (0, 1)]
    gained = [sticky["transition"].log_prob(m) - plain["transition"].log_prob(m) for m in matrices]
    logs = [m.diagonal().log().sum() for m in matrices]
    assert float(gained[0] - gained[1]) == pytest.approx(5 * float(logs[0] - logs[1]), rel=1e-4)
    mean = HiddenMarkovModel(2, "poisson", transition=MatrixTransition(2.0, 4.0)).priors
    np.testing.assert_allclose(mean["transition"].base_dist.mean, [[0.75, 0.25], [0.25, 0.75]])


BASES = {
    "normal": (dist.Normal(1.0, 2.0), stats.norm(1, 2), (-15, 17)),
    "gamma": (dist.Gamma(2.0, 0.5), stats.gamma(2, scale=2), (0, 60)),
    "beta": (dist.Beta(2.0, 3.0), stats.beta(2, 3), (0, 1)),
    "lognormal": (dist.LogNormal(0.0, 0.5), stats.lognorm(0.5), (0, 20)),
}
every_base = pytest.mark.parametrize(("base", "law", "ends"), BASES.values(), ids=BASES)


@every_base
def test_ordered_density_is_the_product_times_the_permutations(base, law, ends):
    """K! Π p(x_k) on sorted vectors, which integrates to one; nothing elsewhere."""
    ordered = Ordered(base.expand([2]).to_event(1))
    x = np.sort(law.rvs((20, 3), random_state=0))
    triple = Ordered(base.expand([3]).to_event(1))
    expected = law.logpdf(x).sum(-1) + math.log(6)
    np.testing.assert_allclose(triple.log_prob(torch.tensor(x)), expected, rtol=1e-5)
    assert triple.log_prob(torch.tensor(x[:, ::-1].copy())).tolist() == [-np.inf] * 20

    def density(y: float, x: float) -> float:
        return float(ordered.log_prob(torch.tensor([x, y], dtype=torch.float64)).exp())

    # Over x < y <= high: one half of a square, so the tolerances need not be tight.
    total, _ = integrate.dblquad(density, *ends, lambda x: x, ends[1], epsabs=1e-4, epsrel=1e-4)
    assert total == pytest.approx(1, abs=1e-3)


@every_base
def test_ordered_draws_are_sorted(base, law, ends):
    """The smallest of three: E against quadrature, 6 standard errors (1 in 10^8 a number)."""
    ordered = Ordered(base.expand([3]).to_event(1))
    draws = ordered.sample((20_000,))
    assert bool((draws.diff(dim=-1) >= 0).all())
    assert bool(ordered.support.check(draws).all())
    grid = np.linspace(*ends, 20_001)[1:-1]
    density = 3 * law.sf(grid) ** 2 * law.pdf(grid)  # of the smallest
    expected = np.trapezoid(grid * density, grid)
    error = float(draws[:, 0].std()) / 20_000**0.5
    assert float(draws[:, 0].mean()) == pytest.approx(expected, abs=6 * error)


@every_base
def test_ordered_support_has_a_bijection(base, law, ends):
    """Onto increasing vectors of the base's support, there and back, with its Jacobian."""
    ordered = Ordered(base.expand([3]).to_event(1))
    free = torch.randn(50, 3, dtype=torch.float64)
    for transform in (biject_to(ordered.support), transform_to(ordered.support)):
        x = transform(free)
        assert bool(ordered.support.check(x).all())
        assert bool((x.diff(dim=-1) > 0).all())
        torch.testing.assert_close(transform.inv(x), free, rtol=1e-6, atol=1e-6)
        assert float(ends[0]) <= float(x.min())
    bijection = biject_to(ordered.support)
    jacobian = torch.autograd.functional.jacobian(bijection, free[0])
    got = bijection.log_abs_det_jacobian(free[0], bijection(free[0]))
    assert float(got) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-8)
    outside = torch.tensor([[2.0, 1.0, 3.0]])
    assert not bool(ordered.support.check(outside))


ROWS = {
    "normal": (dist.Normal(1.0, 2.0).expand([3, 4]).to_event(2), 2),
    "gamma": (dist.Gamma(2.0, 0.5).expand([3, 2]).to_event(2), 0),
    "beta": (dist.Beta(2.0, 3.0).expand([3, 2]).to_event(2), 1),
    "simplex": (dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0, 0.7])).expand([3]).to_event(1), 2),
    "simplex-first": (dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])).expand([3]).to_event(1), 0),
    "simplex-of-two": (dist.Dirichlet(torch.tensor([1.0, 2.0])).expand([3]).to_event(1), 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_sorted_by_a_column(name):
    """K! Π p(row) where the column increases; a bijection with the Jacobian of its free entries."""
    base, column = ROWS[name]
    ordered = Ordered(base, column)
    draws = base.sample((50,))
    place = draws[..., column].argsort(-1).unsqueeze(-1)
    rows = draws.gather(-2, place.expand_as(draws))
    expected = base.log_prob(draws) + math.log(6)
    torch.testing.assert_close(ordered.log_prob(rows), expected, rtol=1e-5, atol=1e-5)
    assert ordered.log_prob(rows.flip(-2)).tolist() == [-np.inf] * 50
    assert bool((ordered.sample((20,))[..., column].diff(dim=-1) >= 0).all())
    assert bool(ordered.support.check(rows).all())
    assert not bool(ordered.support.check(rows.flip(-2)).any())

    bijection = biject_to(ordered.support)
    free = torch.randn(bijection.inverse_shape((4, *base.event_shape)), dtype=torch.float64)
    values = bijection(free)
    assert values.shape == (4, *base.event_shape)
    assert bool(ordered.support.check(values).all())
    torch.testing.assert_close(bijection.inv(values), free, rtol=1e-6, atol=1e-6)
    single = bijection(free[0])
    kept = slice(1, None) if "simplex" in name and column == 0 else slice(None)
    if "simplex" in name and column:
        kept = slice(None, -1)
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection(x)[:, kept], free[0])
    size = free[0].numel()
    square = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
    assert float(bijection.log_abs_det_jacobian(free[0], single)) == pytest.approx(float(square))


@pytest.mark.parametrize(
    ("emission", "ordered", "name", "column"),
    [
        (Gaussian(), "mean", "mean", None),
        (Gaussian(), "scale", "scale", None),
        (Gaussian(2), ("mean", 1), "mean", 1),
        (Gaussian(2), ("scale", 0), "scale", 0),
        (FullGaussian(2), ("mean", 0), "mean", 0),
        (Categorical(3), ("probs", 2), "probs", 2),
        (Categorical(2), ("probs", 0), "probs", 0),
        (Multinomial(3), ("probs", 1), "probs", 1),
        (StudentT(), "freedom", "freedom", None),
        (Poisson(2), ("rate", 1), "rate", 1),
        (FromDistribution(dist.Gamma), "rate", "rate", None),
        (Regression(Gaussian(), lags=1), "scale", "scale", None),
    ],
    ids=str,
)
def test_states_are_ordered_by_any_parameter(emission, ordered, name, column, tmp_path):
    model = HiddenMarkovModel(3, emission, ordered=ordered)
    drawn = model.sample(2, 30, seed=0)

    def along(value):
        return value if column is None else value[:, column]

    assert model.ordering == (name, column)
    assert bool((along(drawn.parameters[name]).diff() > 0).all())
    started = starting_values(model, drawn.data)
    assert bool((along(started[name]).diff() > 0).all())
    assert bool(model.priors[name].log_prob(started[name]).isfinite())
    with pytest.raises(ValueError, match=f"{name}: needs values in (IncreasingV|SortedRows)"):
        model.with_parameters(**{name: drawn.parameters[name].flip(0)})
    known = model.with_parameters(**{name: drawn.parameters[name]})
    loaded = load_model(save_model(known, tmp_path / "model.pt"))
    assert loaded.ordered == ordered
    assert loaded.ordering == model.ordering
    scaled = model.scaled_to(drawn.data)
    assert scaled.ordering == model.ordering
    assert bool((along(scaled.priors[name].sample()).diff() > 0).all())


@pytest.mark.parametrize(
    ("emission", "ordered"),
    [
        (Gaussian(), "median"),
        (Gaussian(), ("mean", 0)),
        (Gaussian(2), "mean"),
        (Gaussian(2), ("mean", 2)),
        (Gaussian(2), ("mean", -1)),
        (Categorical(3), "probs"),
        (Poisson(), "transition"),
        (FullGaussian(2), ("correlation_factor", 0)),
        (Misclassification(3, ((0, 1),)), "error"),
    ],
    ids=str,
)
def test_states_can_be_ordered_by_numbers_of_states_alone(emission, ordered):
    with pytest.raises(ValueError, match="ordered: must be True, False or one of"):
        HiddenMarkovModel(3, emission, ordered=ordered)


@pytest.mark.parametrize("ordered", ["", 1, ("mean",), ("mean", 0.0), ("mean", True), None])
def test_an_ordering_is_a_name_with_or_without_a_column(ordered):
    with pytest.raises(ValueError, match="ordered: must be True, False, a parameter's name, or"):
        HiddenMarkovModel(2, Gaussian(2), ordered=ordered)


@pytest.mark.parametrize(
    "emission", [Poisson(), Gaussian(), StudentT(), Bernoulli(), Regression(Poisson(), lags=1)]
)
def test_ordered_states(emission):
    model = HiddenMarkovModel(3, emission, ordered=True)
    name = emission.ordering
    assert isinstance(model.priors[name], Ordered)
    drawn = model.sample(2, 4, seed=0).parameters[name]
    assert bool((drawn.diff() > 0).all())
    start, stop = drawn[0], drawn[-1]
    with pytest.raises(ValueError, match=f"{name}: needs values in IncreasingVector"):
        model.with_parameters(**{name: torch.stack([stop, start, stop])})


@pytest.mark.parametrize(
    "emission", [Categorical(3), Poisson(2), FullGaussian(2), GaussianMixture(), Multinomial(2)]
)
def test_states_without_an_order_cannot_be_ordered(emission):
    with pytest.raises(ValueError, match="ordered: needs an emission with one feature and a loc"):
        HiddenMarkovModel(2, emission, ordered=True)
    assert HiddenMarkovModel(1, emission, ordered=True).ordered  # one state is in order


def test_custom_priors_take_the_place_of_the_familys_own():
    rate = dist.LogNormal(1.0, 0.1).expand([2]).to_event(1)
    model = HiddenMarkovModel(2, "poisson", priors={"rate": rate})
    assert repr(model.priors["rate"]) == repr(rate)
    assert model.replaced_priors == {"rate": rate}
    ordered = Ordered(rate)
    model = HiddenMarkovModel(2, "poisson", ordered=True, priors={"rate": ordered})
    assert isinstance(model.priors["rate"], Ordered)
    narrow = dist.Uniform(0.2, 0.4).expand([2]).to_event(1)
    assert repr(
        HiddenMarkovModel(2, "bernoulli", priors={"probs": narrow}).priors["probs"]
    ) == repr(narrow)
    wide = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    own = HiddenMarkovModel(2, "gaussian", priors={"mean": wide}).priors["mean"]
    assert own.covariance_matrix.tolist() == [[1, 0], [0, 1]]
    assert own.loc.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "prior", "message"),
    [
        ("rat", dist.Gamma(torch.ones(2), 1.0).to_event(1), "unknown parameter 'rat'; there are"),
        ("rate", dist.Gamma(1.0, 1.0), r"event shape \(2,\) and no batch .* got event \(\), batch"),
        ("rate", dist.Gamma(torch.ones(2), 1.0), r"got event \(\), batch \(2,\)"),
        ("rate", dist.Normal(torch.ones(2), 1.0).to_event(1), r"needs .*lower_bound=0.*got .*Real"),
        ("rate", 3.0, "must be a distribution of pyro.distributions, got 3.0"),
        ("initial", dist.Beta(torch.ones(2), 1.0).to_event(1), "needs Simplex"),
        ("transition", dist.Gamma(torch.ones(2, 2), 1.0).to_event(2), "needs .*Simplex"),
        (
            "rate",
            dist.Poisson(torch.ones(2)).to_event(1),
            r"priors\['rate'\]: needs .*lower_bound=0.*got",
        ),
        (
            "rate",
            torch.distributions.Independent(torch.distributions.Gamma(torch.ones(2), 1.0), 1),
            "must be a distribution of pyro.distributions, got Independent",
        ),
    ],
)
def test_bad_priors_are_refused(name, prior, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(2, "poisson", priors={name: prior})


def test_a_prior_that_loses_the_order_is_refused():
    plain = dist.Gamma(torch.ones(2), 1.0).to_event(1)
    with pytest.raises(ValueError, match=r"priors\['rate'\]: needs IncreasingVector"):
        HiddenMarkovModel(2, "poisson", ordered=True, priors={"rate": plain})


def test_names_dims_and_priors_agree():
    model = HiddenMarkovModel(
        3, Regression(Gaussian(2), 2, 1), transition=InputTransition(2), initial="free"
    )
    dims = model.parameter_dims()
    assert tuple(dims) == model.parameter_names == tuple(model.priors)
    for name, prior in model.priors.items():
        assert len(dims[name]) == len(prior.event_shape)
    assert dims["transition_weight"] == ("state", "state_to", "input")
    assert model.inputs == 2
    neural = HiddenMarkovModel(
        5, NeuralEmission(Categorical(4), 3, 6), transition=NeuralTransition(3, 6)
    )
    sizes: dict[str, int] = {}
    for name, names in neural.parameter_dims().items():
        for dim, size in zip(names, neural.priors[name].event_shape, strict=True):
            assert sizes.setdefault(dim, size) == size
    assert (sizes["state"], sizes["state_to"]) == (5, 5)


def test_priors_on_the_scale_of_the_data():
    data = Sequences.from_arrays([[1000.0, 1010.0, 990.0]])
    model = HiddenMarkovModel(2, "gaussian").with_parameters(scale=[1.0, 2.0])
    scaled = model.scaled_to(data)
    np.testing.assert_allclose(scaled.priors["mean"].mean, [1000, 1000])
    assert scaled.known["scale"].tolist() == [1, 2]
    np.testing.assert_allclose(model.priors["mean"].mean, [0, 0])


# Simulation


@pytest.mark.parametrize(
    "emission",
    [
        Categorical(3),
        Poisson(2),
        Bernoulli(4),
        Multinomial(3),
        Gaussian(2),
        FullGaussian(2),
        LowRankGaussian(3),
        StudentT(),
        GaussianMixture(2),
        Regression(Gaussian(), lags=2),
        Regression(Categorical(3), lags=1),
        NeuralEmission(Bernoulli(3)),
    ],
    ids=repr,
)
def test_sample_gives_valid_data_of_the_right_shape(emission):
    model = HiddenMarkovModel(3, emission)
    drawn = model.sample(4, [5, 2, 1, 5], seed=3)
    data = drawn.data
    assert data.lengths.tolist() == [5, 2, 1, 5]
    assert data.is_codes == emission.codes
    assert data.values.shape == ((4, 5) if emission.codes else (4, 5, emission.features))
    assert torch.equal(data.observed_steps, data.step_mask)
    assert drawn.states.dtype == torch.int64
    assert bool((drawn.states[~data.step_mask] == -1).all())
    assert bool(((drawn.states >= 0) & (drawn.states < 3))[data.step_mask].all())
    assert set(drawn.parameters) == set(model.parameter_names)
    model.check(data)
    assert bool(model.laws(drawn.parameters, data).log_likelihood.isfinite().all())


@pytest.mark.parametrize("length", [(3, 1), np.array([3, 1]), torch.tensor([3, 1])], ids=repr)
def test_lengths_come_in_any_form(length):
    drawn = HiddenMarkovModel(2, "poisson").sample(2, length, seed=0)
    assert drawn.data.lengths.tolist() == [3, 1]


def test_seeds_repeat_and_leave_the_global_generator_alone():
    model = HiddenMarkovModel(2, "gaussian")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (model.sample(2, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.data.values, two.data.values)
    assert torch.equal(one.states, two.states)
    assert not torch.equal(one.data.values, other.data.values)
    free = model.sample(2, 6)
    assert not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    assert torch.equal(model.sample(2, 6).data.values, free.data.values)


def test_the_first_emission_is_at_the_first_state():
    """A chain that must leave its first state at once shows that state first."""
    model = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[1.0, 0.0], transition=[[0.0, 1.0], [1.0, 0.0]], rate=[0.0, 1000.0]
    )
    drawn = model.sample(3, 4, seed=0)
    assert drawn.states.tolist() == [[0, 1, 0, 1]] * 3
    assert (drawn.data.values.squeeze(-1) > 500).tolist() == [[False, True, False, True]] * 3
    data = Sequences.from_arrays([[0.0, 1000.0]])
    expected = stats.poisson.logpmf(1000, 1000)
    assert float(log_evidence(model, data)) == pytest.approx(expected, abs=1e-9)
    wrong = Sequences.from_arrays([[1000.0, 0.0]])
    assert float(log_evidence(model, wrong)) == -np.inf


def test_simulations_keep_gaps_lengths_names_and_inputs():
    model = HiddenMarkovModel(2, Regression(Gaussian(), inputs=1))
    like = Sequences.from_arrays(
        [[1.0, np.nan, 2.0], [0.5]],
        inputs=[[[1.0], [2.0], [3.0]], [[4.0]]],
        times=[[0.0, 0.5, 2.0], [1.0]],
        labels=["a", "b"],
        features=["y"],
    )
    values = {name: prior.sample() for name, prior in model.priors.items()}
    data = model.simulate(values, like).data
    assert torch.equal(data.mask, like.mask)
    assert torch.equal(data.inputs, like.inputs)
    assert torch.equal(data.times, like.times)
    assert (data.labels, data.features) == (("a", "b"), ("y",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n: must be a whole number >= 1, got 0"),
        ({"n": 1.5}, "n: must be a whole number >= 1, got 1.5"),
        ({"length": 0}, "length: must be a whole number >= 1, got 0"),
        ({"length": [3, -1]}, "length: must be a whole number >= 1, got -1"),
        ({"length": [3, 2, 1]}, "length: needs one length, or 2, got 3 lengths"),
        ({"length": 2.5}, "length: must be a whole number >= 1, got 2.5"),
        ({"inputs": np.zeros((2, 3, 1))}, "inputs: .* reads none, got ndarray"),
    ],
)
def test_bad_requests_for_samples_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(2, "poisson").sample(**({"n": 2, "length": 3} | arguments))


def test_samples_need_the_inputs_that_the_model_reads():
    model = HiddenMarkovModel(2, "poisson", transition=InputTransition(2))
    with pytest.raises(ValueError, match=r"InputTransition\(inputs=2\) needs 2 column\(s\), got 0"):
        model.sample(2, 3)
    with pytest.raises(ValueError, match=r"needs 2 column\(s\), got 1"):
        model.sample(2, 3, inputs=np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match="inputs"):
        model.sample(2, 3, inputs=np.zeros((2, 4, 2)))
    assert model.sample(2, [3, 1], inputs=np.zeros((2, 3, 2)), seed=0).data.inputs.shape == (
        2,
        3,
        2,
    )


# Inputs that drive the chain


def io_model(states: int = 2) -> HiddenMarkovModel:
    rng = np.random.default_rng(3)
    return HiddenMarkovModel(states, "gaussian", transition=InputTransition(2)).with_parameters(
        initial=rows(states, seed=1),
        transition=rows(states, states, seed=2),
        transition_weight=rng.normal(size=(states, states, 2)),
        mean=rng.normal(size=states),
        scale=np.ones(states),
    )


def test_input_transition_is_the_loop_by_hand():
    """The input of step t drives the move from t to t + 1; that of the last step drives nothing."""
    model = io_model(3)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 2))
    data = Sequences.from_array(np.zeros((2, 4)), lengths=[4, 3], inputs=inputs)
    laws = model.laws({}, data)
    got = laws.log_transition.exp()
    assert got.shape == (2, 3, 3, 3)
    matrix, weight = model.known["transition"].numpy(), model.known["transition_weight"].numpy()
    tables = []
    for n, t, i in itertools.product(range(2), range(3), range(3)):
        if t < int(data.lengths[n]) - 1:
            score = matrix[i] * np.exp(weight[i] @ inputs[n, t])
            np.testing.assert_allclose(got[n, t, i], score / score.sum(), atol=1e-12)
    for n, length in enumerate((4, 3)):
        tables = laws.log_transition[n, : length - 1].numpy()
        initial, emitted = laws.log_initial[0].numpy(), laws.log_likelihood[n, :length].numpy()
        expected = oracles.log_evidence(initial, tables, emitted)
        assert float(log_evidence(model, data)[n]) == pytest.approx(expected, abs=1e-10)
    moved = inputs.copy()
    moved[0, 3], moved[1, 2] = 9.0, 9.0  # the last inputs
    other = Sequences.from_array(np.zeros((2, 4)), lengths=[4, 3], inputs=moved)
    torch.testing.assert_close(log_evidence(model, other), log_evidence(model, data))


def test_inputs_force_the_path():
    """A strong input at step t decides the state at t + 1."""
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)).with_parameters(
        initial=[1.0, 0.0],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        transition_weight=[[[-50.0], [50.0]], [[-50.0], [50.0]]],
        mean=[0.0, 1.0],
        scale=[1.0, 1.0],
    )
    inputs = np.array([[[1.0], [-1.0], [1.0], [1.0]]])
    assert model.sample(1, 4, inputs=inputs, seed=0).states.tolist() == [[0, 1, 0, 1]]


def test_input_transition_with_forbidden_moves_has_finite_gradients():
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1))
    data = Sequences.from_arrays([[0.3, -1.0, 2.0]], inputs=[[[1.0], [2.0], [0.0]]])
    values = {
        "initial": torch.tensor([1.0, 0.0]),
        "transition": torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
        "transition_weight": torch.randn(2, 2, 1),
        "mean": torch.tensor([0.0, 1.0]),
        "scale": torch.tensor([1.0, 1.0]),
    }
    leaves = {name: value.double().requires_grad_() for name, value in values.items()}
    laws = model.laws(leaves, data)
    assert bool(laws.log_transition[0, :, 1, 0].isneginf().all())
    known = model.with_parameters(**leaves)
    grads = torch.autograd.grad(log_evidence(known, data).sum(), list(leaves.values()))
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_laws_that_cannot_go_together_are_refused():
    with pytest.raises(ValueError, match="initial: 'stationary' needs transitions that are the sa"):
        HiddenMarkovModel(2, "poisson", initial="stationary", transition=InputTransition(1))
    with pytest.raises(
        ValueError, match=r"transition, emission: read the same input columns.* 1 a"
    ):
        HiddenMarkovModel(2, Regression(Poisson(), inputs=2), transition=InputTransition(1))
    with pytest.raises(ValueError, match="sticky: belongs to the default transition"):
        HiddenMarkovModel(2, "poisson", transition=InputTransition(1), sticky=2.0)


def test_neural_transition_is_the_softmax_of_scores():
    model = HiddenMarkovModel(4, "poisson", transition=NeuralTransition(3, 5))
    values = {name: prior.sample().double() for name, prior in model.priors.items()}
    p = {name: value.numpy() for name, value in values.items()}
    hidden = np.tanh(p["transition_from"] @ p["transition_weight0"] + p["transition_bias0"])
    scores = (hidden @ p["transition_weight1"] + p["transition_bias1"]) @ p["transition_into"].T
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    got = model.laws(values, COUNTS).log_transition
    assert got.shape == (1, 1, 4, 4)
    np.testing.assert_allclose(got[0, 0].exp(), expected, rtol=1e-10)


def test_low_rank_transition_is_a_product():
    left, right = [[0.1, 0.9], [0.5, 0.5], [1.0, 0.0]], [[0.2, 0.8, 0.0], [0.3, 0.3, 0.4]]
    model = HiddenMarkovModel(3, "poisson", transition=LowRankTransition(2))
    known = model.with_parameters(transition_left=left, transition_right=right)
    got = known.laws(prior_values(known), COUNTS).log_transition
    assert got.shape == (1, 1, 3, 3)
    np.testing.assert_allclose(got[0, 0].exp(), np.array(left) @ np.array(right), rtol=1e-12)


def test_banded_and_sparse_transitions_leave_out_what_is_not_there():
    """The last state of a left-right chain can but stay; both laws say the same chain."""
    moves = [[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]
    expected = [[0.25, 0.75, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    listed = ((0, 1), (1, 2), (2,))
    for law in (BandedTransition((0, 1)), SparseTransition(listed)):
        model = HiddenMarkovModel(3, "poisson", transition=law)
        known = model.with_parameters(transition_move=moves)
        got = known.laws(prior_values(known), COUNTS).log_transition
        np.testing.assert_array_equal(got[0, 0].exp(), expected)
        draws = model.priors["transition_move"].sample((7,))
        values = prior_values(known.with_parameters(), 7) | {"transition_move": draws}
        assert model.laws(values, COUNTS).log_transition.shape == (7, 1, 1, 3, 3)
        with pytest.raises(ValueError, match=r"transition_move: needs in every row .* rows \[2\]"):
            model.with_parameters(transition_move=[[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])


LAWS_OF_MOVES = {
    "banded": BandedTransition((0, 1)),
    "walk": BandedTransition((-1, 0, 1)),
    "far": BandedTransition((0, 2, -1)),
    "sparse": SparseTransition(((1,), (0, 1, 2), (2, 0))),
}


@pytest.mark.parametrize("name", LAWS_OF_MOVES)
def test_moves_are_shown_and_taken_as_a_matrix(name, tmp_path):
    model = HiddenMarkovModel(3, "poisson", transition=LAWS_OF_MOVES[name])
    torch.manual_seed(0)
    moves = model.priors["transition_move"].sample()
    known = model.with_parameters(transition_move=moves)
    matrix = known.known["transition"]
    law = known.laws(prior_values(known), COUNTS)
    torch.testing.assert_close(matrix, law.log_transition[0, 0].exp(), rtol=1e-12, atol=0)
    assert set(known.known) == {"transition"}
    assert "known=['transition']" in repr(known)
    assert known.shown_dims()["transition"] == ("state", "state_to")
    assert set(known.shown_dims()) == {"initial", "transition", "rate"}
    again = model.with_parameters(transition=matrix)
    assert torch.equal(again.own_known["transition_move"], known.own_known["transition_move"])
    loaded = load_model(save_model(known, tmp_path / "moves.pt"))
    assert torch.equal(loaded.known["transition"], matrix)
    many = model.shown({"transition_move": model.priors["transition_move"].sample((5, 2))})
    assert many["transition"].shape == (5, 2, 3, 3)
    assert bool(((many["transition"] > 0) == (matrix > 0)).all())


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2), r"transition: needs shape \(3, 3\), got \(2, 2\)"),
        (np.full((3, 3), 1 / 3), r"transition: needs 0 where the law has no move, got 0.33.* 0 to"),
        (np.eye(3) * 0.9, "transition: needs probabilities >= 0 in rows of sum 1"),
        (np.eye(3) * 1.5 - 0.5 * np.eye(3)[[1, 2, 0]], "transition: needs probabilities >= 0"),
        (np.full((3, 3), np.nan), "transition: needs probabilities >= 0 in rows of sum 1"),
    ],
)
def test_a_matrix_must_be_one_of_the_law(matrix, message):
    model = HiddenMarkovModel(3, "poisson", transition=BandedTransition())
    with pytest.raises(ValueError, match=message):
        model.with_parameters(transition=matrix)
    with pytest.raises(ValueError, match="transition: stands for transition_move, got both"):
        model.with_parameters(transition=np.eye(3), transition_move=[[1, 0]] * 3)


def test_a_printed_matrix_of_moves_is_normalised():
    model = HiddenMarkovModel(3, "poisson", transition=BandedTransition())
    printed = [[0.333333, 0.666666, 0], [0, 0.5, 0.5], [0, 0, 1]]
    rows = model.with_parameters(transition=printed).known["transition"].sum(-1)
    np.testing.assert_allclose(rows, 1, rtol=1e-15)


def prior_values(model: HiddenMarkovModel, draws: int | None = None) -> dict[str, torch.Tensor]:
    shape = () if draws is None else (draws,)
    return {name: prior.sample(shape).double() for name, prior in model.priors.items()}


# Small sizes


@pytest.mark.parametrize("initial", ["free", "stationary"])
@pytest.mark.parametrize(
    "transition", [None, InputTransition(1), NeuralTransition()], ids=["matrix", "input", "neural"]
)
def test_a_single_state_is_an_independent_sample(initial, transition):
    if initial == "stationary" and isinstance(transition, InputTransition):
        transition = MatrixTransition(2.0)
    model = HiddenMarkovModel(1, "poisson", initial=initial, transition=transition)
    assert model.parameter_names == ("rate",)
    known = model.with_parameters(rate=[4.0])
    inputs = np.zeros((3, 4, 1)) if model.inputs else None
    data = Sequences.from_tensors(
        COUNTS.values,
        COUNTS.mask,
        COUNTS.lengths,
        inputs=None if inputs is None else torch.tensor(inputs),
    )
    got = log_evidence(known, data)
    expected = [stats.poisson.logpmf(y, 4.0).sum() for y in ([3, 0, 7], [1, 2], [5])]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    drawn = known.sample(2, 3, seed=0, inputs=None if inputs is None else inputs[:2, :3])
    assert drawn.states.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_one_sequence_of_one_step():
    model = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.3, 0.7], transition=rows(2, 2), rate=[1.0, 5.0]
    )
    data = Sequences.from_arrays([[4]])
    expected = np.log(0.3 * stats.poisson.pmf(4, 1) + 0.7 * stats.poisson.pmf(4, 5))
    assert float(log_evidence(model, data)) == pytest.approx(expected, rel=1e-12)
    io = io_model()
    single = Sequences.from_arrays([[0.5]], inputs=[[[1.0, 2.0]]])
    assert bool(log_evidence(io, single).isfinite())
    assert io.sample(1, 1, inputs=np.zeros((1, 1, 2)), seed=0).states.shape == (1, 1)


def test_sequences_without_any_observation_tell_nothing():
    model = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.3, 0.7], transition=rows(2, 2), rate=[1.0, 5.0]
    )
    data = Sequences.from_arrays([[np.nan, np.nan], [3.0, 1.0]])
    got = log_evidence(model, data)
    assert float(got[0]) == pytest.approx(0, abs=1e-14)
    assert float(got[1]) == pytest.approx(float(log_evidence(model, data[1])))


# The Pyro program


def program_cases() -> dict[str, HiddenMarkovModel]:
    emissions = {
        "categorical": Categorical(3),
        "poisson": Poisson(),
        "bernoulli": Bernoulli(3),
        "multinomial": Multinomial(3),
        "gaussian": Gaussian(2),
        "full-gaussian": FullGaussian(2),
        "low-rank-gaussian": LowRankGaussian(3),
        "student-t": StudentT(),
        "gaussian-mixture": GaussianMixture(),
        "regression": Regression(Gaussian(), inputs=1, lags=1),
        "regression-poisson": Regression(Poisson(), inputs=1),
        "regression-categorical": Regression(Categorical(3), lags=1),
        "neural": NeuralEmission(Categorical(3), 3, 4),
    }
    models = {name: HiddenMarkovModel(2, emission) for name, emission in emissions.items()}
    return models | {
        "stationary": HiddenMarkovModel(3, "poisson", initial="stationary"),
        "ordered-sticky": HiddenMarkovModel(3, "poisson", ordered=True, sticky=3.0),
        "input-transition": HiddenMarkovModel(3, "gaussian", transition=InputTransition(1)),
        "neural-transition": HiddenMarkovModel(3, "poisson", transition=NeuralTransition(3, 4)),
        "low-rank": HiddenMarkovModel(3, "poisson", transition=LowRankTransition(2)),
        "banded": HiddenMarkovModel(3, "poisson", transition=BandedTransition((-1, 0, 1))),
        "sparse": HiddenMarkovModel(
            3, "gaussian", transition=SparseTransition(((0, 1), (1, 2, 0), (2,)))
        ),
        "single": HiddenMarkovModel(1, "poisson"),
    }


@pytest.fixture(params=program_cases())
def model(request: pytest.FixtureRequest) -> HiddenMarkovModel:
    """Every kind of model, with its priors in float64."""
    torch.set_default_dtype(torch.float64)
    return program_cases()[request.param]


def simulated(model: HiddenMarkovModel) -> tuple[dict[str, torch.Tensor], Sequences]:
    """Values drawn from the priors in float64, and ragged data with gaps drawn under them."""
    torch.manual_seed(1)
    lengths = [5, 3, 1, 4]
    inputs = torch.randn(4, 5, model.inputs) if model.inputs else None
    values = {name: prior.sample().double() for name, prior in model.priors.items()}
    full = model.with_parameters(**values).sample(4, lengths, seed=2, inputs=inputs).data
    missing = torch.zeros_like(full.mask)
    missing[0, 1] = missing[3, 0] = True
    data = Sequences.from_tensors(
        full.values, full.mask & ~missing, full.lengths, codes=full.is_codes, inputs=full.inputs
    )
    return values, data


def test_sites_are_the_parameters_and_two_trajectories(model):
    _, data = simulated(model)
    trace = poutine.trace(model).get_trace(data)
    latent = [n for n, s in trace.nodes.items() if s["type"] == "sample" and not _is_plate(s)]
    assert latent == [*model.parameter_names, "states", "obs"]
    assert trace.nodes["obs"]["is_observed"]
    assert trace.nodes["states"]["value"].shape == (4, 5, model.states)
    known = model.with_parameters(**{n: trace.nodes[n]["value"] for n in model.parameter_names})
    bare = poutine.trace(known).get_trace(data)
    assert [n for n, s in bare.nodes.items() if s["type"] == "sample" and not _is_plate(s)] == [
        "states",
        "obs",
    ]


def _is_plate(site: dict) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def test_log_prob_sum_is_the_textbook_joint(model):
    """Priors, first state, moves and emissions, added up one by one; the scale weighs sequences."""
    _, data = simulated(model)
    trace = poutine.trace(model).get_trace(data, scale=2.5)
    values = {name: trace.nodes[name]["value"] for name in model.parameter_names}
    prior = sum(float(model.priors[name].log_prob(value)) for name, value in values.items())
    laws = model.laws(values, data)
    paths = trace.nodes["states"]["value"].argmax(-1)
    joint = 0.0
    for n, length in enumerate(data.lengths.tolist()):
        moves = laws.log_transition.expand(4, 4, -1, -1)[n, : length - 1].numpy()
        table = laws.log_likelihood[n, :length].numpy()
        path = paths[n, :length].numpy()
        joint += oracles.log_joint(path, laws.log_initial[0].numpy(), moves, table)
    assert float(trace.log_prob_sum()) == pytest.approx(prior + 2.5 * joint, rel=1e-10)


def test_elbo_with_the_exact_filter_is_the_evidence(model):
    values, data = simulated(model)
    known = model.with_parameters(**values)
    loss = TraceMeanField_ELBO().loss(known, BeliefGuide(known, ExactFilter()), data)
    laws = known.laws({}, data)
    expected = 0.0
    for n, length in enumerate(data.lengths.tolist()):
        moves = laws.log_transition.expand(4, 4, -1, -1)[n, : length - 1].numpy()
        table = laws.log_likelihood[n, :length].numpy()
        expected += oracles.log_evidence(laws.log_initial[0].numpy(), moves, table)
    assert -loss == pytest.approx(expected, rel=1e-9)


def test_the_program_without_observations_draws_them(model):
    values, data = simulated(model)
    drawn = model.with_parameters(**values)(data, observe=False)
    assert drawn.shape == model.emission.observed(data)[0].shape
    many = Predictive(model, num_samples=3)(data, observe=False)
    assert many["obs"].shape[0] == 3
    assert bool(many["obs"].isfinite().all())


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 0}, "states: must be a whole number >= 1, got 0"),
        ({"states": 2.0}, "states: must be a whole number >= 1, got 2.0"),
        ({"states": "3"}, "states: must be a whole number >= 1, got '3'"),
        ({"states": True}, "states: must be a whole number >= 1, got True"),
        ({"emission": "binomial"}, r"emission: must be an Emission or one of \['bern.*'binomial'"),
        ({"emission": Poisson}, "emission: must be an Emission or one of .*got <class"),
        ({"emission": "categorical"}, r"'categorical' needs a size; .*Categorical\(symbols=27\)"),
        ({"emission": "multinomial"}, r"needs a size; .*Multinomial\(features=5\)"),
        ({"emission": "full-gaussian"}, r"needs a size; .*FullGaussian\(features=3\)"),
        ({"emission": "low-rank-gaussian"}, r"needs a size; .*LowRankGaussian\(features=20"),
        (
            {"initial": "uniform"},
            "initial: must be 'free', 'stationary' or an initial law, got 'uniform'",
        ),
        ({"initial": FreeInitial}, "initial: must be .* or an initial law, got <class"),
        ({"transition": MatrixTransition}, "transition: must be a transition law.* got <class"),
        ({"transition": np.eye(2)}, "transition: must be a transition law"),
        ({"transition": "sticky"}, "transition: must be a transition law.* got 'sticky'"),
        ({"sticky": -1.0}, "sticky: must be a finite number >= 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(**({"states": 2, "emission": "poisson"} | arguments))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixTransition(0.0), "concentration: must be a finite number > 0, got 0.0"),
        (lambda: MatrixTransition(sticky=np.nan), "sticky: must be a finite number >= 0, got nan"),
        (lambda: InputTransition(0), "inputs: must be a whole number >= 1, got 0"),
        (lambda: InputTransition(1, sticky=-1.0), "sticky: must be a finite number >= 0, got -1.0"),
        (lambda: InputTransition(1, weight_scale=0.0), "weight_scale: must be a finite number"),
        (lambda: LowRankTransition(0), "rank: must be a whole number >= 1, got 0"),
        (lambda: LowRankTransition(2, 0.0), "concentration: must be a finite number"),
        (lambda: BandedTransition((1, 2)), r"offsets: must be different .* 0 among them, got"),
        (lambda: BandedTransition((0, 0)), "offsets: must be different whole numbers"),
        (lambda: SparseTransition(((0,), ())), r"targets\[1\]: must be different states in 0..1"),
        (lambda: SparseTransition(((0, 2), (1,))), r"targets\[0\]: .* got \(0, 2\)"),
        (
            lambda: HiddenMarkovModel(2, "poisson", transition=BandedTransition((0, 2))),
            "offsets: must be smaller than the number of states, 2",
        ),
        (
            lambda: HiddenMarkovModel(2, "poisson", transition=SparseTransition(((0,),))),
            "targets: must have a list for each of the 2 states, got 1 lists",
        ),
        (lambda: NeuralTransition(0), "embedding: must be a whole number >= 1, got 0"),
        (lambda: NeuralTransition(width=1.5), "width: must be a whole number >= 1, got 1.5"),
        (lambda: Ordered(dist.Normal(0.0, 1.0)), r"Ordered: base must have event shape .* \(\)"),
    ],
)
def test_bad_settings_of_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", SHORTHAND)
def test_short_names_are_families_of_one_feature(name):
    model = HiddenMarkovModel(2, name)
    assert model.emission.features == 1
    assert type(model.emission) is SHORTHAND[name]
    model.check(model.sample(1, 4, seed=0).data)


def test_more_states_than_data_are_refused():
    """Only where something is to be learned: known parameters can be used on anything."""
    model = HiddenMarkovModel(4, "poisson")
    data = Sequences.from_arrays([[1.0, np.nan, 2.0], [3.0]])
    with pytest.raises(ValueError, match="4 states need at least as many observed steps, got 3"):
        model.check(data)
    known = model.with_parameters(**model.sample(1, 4, seed=0).parameters)
    known.check(data)
    with pytest.raises(ValueError, match="data: must be Sequences, got list"):
        model.check([[1.0, 2.0]])
