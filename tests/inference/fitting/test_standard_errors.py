"""Standard errors of point estimates against textbook formulas, statsmodels and differences."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import poisson

import oracles
from beliefzoo.experiments.data.loaders import load_earthquakes, load_nile
from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, LSTMFilter, fit
from beliefzoo.inference.fitting.points.scalars import Scalars, scalars_at
from beliefzoo.inference.fitting.standard_errors import standard_errors
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models import (
    Categorical,
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    Ordered,
    Regression,
    Sequences,
)

FINE = FitSettings(tolerance=1e-9)
Z = 1.959963984540054  # of 95 %


def errors_of(model, data, parameters="ml", settings=FINE):
    guide = BeliefGuide(model, ExactFilter(), parameters=parameters)
    return fit(model, guide, data, settings=settings, progress=False).standard_errors()


def near(expected):
    return pytest.approx(np.asarray(expected), rel=1e-4)


def test_a_normal_sample():
    """se(mean) = s / √n and se(scale) = s / √(2 n), with s at its maximum likelihood."""
    y = np.random.default_rng(0).normal(-3e3, 20.0, 50)
    found = errors_of(HiddenMarkovModel(1, "gaussian"), Sequences.from_arrays([y]))
    s = y.std()
    assert found.errors["mean"].flatten().numpy() == near([s / 50**0.5])
    assert found.errors["scale"].flatten().numpy() == near([s / 100**0.5])
    assert found.low["mean"].item() == near(y.mean() - Z * s / 50**0.5)
    assert found.high["scale"].item() == near(s * math.exp(Z / 100**0.5))


def test_counts_and_their_posterior_mode():
    """√(mean / n); with a gamma prior of shape a the mode has θ / √(a + Σ y − 1)."""
    counts = [3, 5, 4, 4, 0, 2]
    data = Sequences.from_arrays([counts])
    model = HiddenMarkovModel(1, "poisson")
    assert errors_of(model, data).errors["rate"].item() == near((3 / 6) ** 0.5)
    prior = dist.Gamma(torch.tensor([4.0]), 2.0).to_event(1)
    found = errors_of(HiddenMarkovModel(1, "poisson", priors={"rate": prior}), data, "map")
    mode = (4 + sum(counts) - 1) / (2 + 6)
    assert found.estimates["rate"].item() == near(mode)
    assert found.errors["rate"].item() == near(mode / (4 + sum(counts) - 1) ** 0.5)


def test_least_squares():
    """s² (X'X)⁻¹ of a line through normal observations."""
    rng = np.random.default_rng(1)
    x = rng.normal(2.0, 1.0, 40)
    y = 1.0 + 0.5 * x + rng.normal(0, 0.3, 40)
    design = np.stack([np.ones(40), x], 1)
    weights, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
    expected = rest[0] / 40 * np.linalg.inv(design.T @ design)
    data = Sequences.from_arrays([y], inputs=[x[:, None]])
    model = HiddenMarkovModel(1, Regression(Gaussian(), inputs=1))
    found = errors_of(model, data)
    assert found.estimates["input_weight"].item() == near(weights[1])
    assert found.errors["mean"].item() == near(expected[0, 0] ** 0.5)
    assert found.errors["input_weight"].item() == near(expected[1, 1] ** 0.5)
    names = [n for n, x in found.estimates.items() for _ in range(x.numel())]
    a, b = names.index("mean"), names.index("input_weight")
    assert found.covariance[a, b].item() == near(expected[0, 1])


def test_multinomial_with_a_symbol_that_never_came():
    """(p_i δ_ij − p_i p_j) / n; the probability of zero is held, the others keep their errors."""
    codes = [0] * 5 + [1] * 12 + [2] * 3
    data = Sequences.from_arrays([codes], codes=True, symbols=["a", "b", "c", "d"])
    found = errors_of(HiddenMarkovModel(1, Categorical(4)), data)
    p = np.array([5, 12, 3]) / 20
    expected = (np.diag(p) - np.outer(p, p)) / 20
    name = next(n for n, x in found.estimates.items() if x.numel() == 4)
    errors = found.errors[name].flatten().numpy()
    assert errors[:3] == near(np.diag(expected) ** 0.5)
    assert math.isnan(errors[3])
    assert found.reasons[name] == ("", "", "", "at the boundary")
    start = list(found.estimates).index(name)
    before = sum(x.numel() for x in list(found.estimates.values())[:start])
    own = found.covariance[before : before + 3, before : before + 3].numpy()
    assert own == pytest.approx(expected, rel=1e-4)


def test_local_level_of_the_nile():
    """statsmodels 0.15, UnobservedComponents(y, 'llevel', use_exact_diffuse=True), Nelder-Mead to
    1e-10, then smooth(cov_type='approx') by complex steps; the same by differences in logs."""
    found = errors_of(LinearGaussianSSM(LocalLevel()), load_nile())
    assert found.estimates["observation_variance"].item() == near(15098.51784)
    assert found.errors["observation_variance"].item() == near(3145.5477)
    assert found.errors["level_variance"].item() == near(1280.3753)
    # Intervals of logarithms.
    low = 1469.17635 * math.exp(-Z * 1280.3753 / 1469.17635)
    assert found.low["level_variance"].item() == near(low)


def test_two_states_against_differences_of_the_forward_loop():
    """A covariance from second differences of the textbook loop, in other coordinates; the initial
    law is at its boundary, and held there."""
    data = load_earthquakes()
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    found = errors_of(model, data)
    y = data.values[0, :, 0].numpy()
    best = found.estimates
    at = np.array(
        [best["transition"][0, 1], best["transition"][1, 0], *best["rate"].flatten()], dtype=float
    )
    initial = best["initial"].numpy().round()

    def height(x):
        a, b, *rates = x
        with np.errstate(divide="ignore"):
            law = np.log(initial)
        seen = poisson.logpmf(y[:, None], np.array(rates))
        return oracles.scaled_log_evidence(law, np.log([[1 - a, a], [b, 1 - b]]), seen)

    steps = np.diag(1e-3 * at)
    curvature = np.empty((4, 4))
    for i, j in itertools.product(range(4), repeat=2):
        curvature[i, j] = -sum(
            s * t * height(at + s * steps[i] + t * steps[j]) for s in (1, -1) for t in (1, -1)
        ) / (4 * steps[i, i] * steps[j, j])
    expected = np.sqrt(np.diag(np.linalg.inv(curvature)))
    transition = found.errors["transition"]
    ours = [transition[0, 1], transition[1, 0], *found.errors["rate"].flatten()]
    assert np.array(ours) == pytest.approx(expected, rel=1e-3)
    assert transition[0, 0].item() == near(transition[0, 1].item())
    assert found.reasons["initial"] == ("at the boundary",) * 2


def space_of(**priors):
    model = HiddenMarkovModel(1, "poisson")  # its axes are not asked for
    space = Coordinates(priors, {}, {})
    return _Named(model, priors), space


class _Named:
    """A model as far as its priors."""

    def __init__(self, model, priors):
        self.priors = priors


def test_a_direction_that_is_not_determined_leaves_the_others():
    """a − b is determined, a + b is not; c is, and its curvature is twelve orders larger."""
    model, space = space_of(**{n: dist.Normal(0.0, 1.0) for n in "abc"})
    curvature = torch.tensor([[9.0, -9, 0], [-9, 9, 0], [0, 0, 4e12]], dtype=torch.float64)
    found = standard_errors(model, space, torch.zeros(3, dtype=torch.float64), curvature)
    assert found.reasons == {"a": ("not determined",), "b": ("not determined",), "c": ("",)}
    assert found.errors["c"].item() == near(0.5e-6)
    saddle = torch.diag(torch.tensor([-9.0, 4, 1], dtype=torch.float64))
    found = standard_errors(model, space, torch.zeros(3, dtype=torch.float64), saddle)
    assert found.reasons == {"a": ("no maximum",), "b": ("",), "c": ("",)}
    assert found.errors["b"].item() == near(0.5)


def test_a_variance_at_zero_is_at_the_boundary_and_one_unseen_is_not_determined():
    model, space = space_of(a=dist.Gamma(2.0, 1.0), b=dist.Gamma(2.0, 1.0), c=dist.Normal(0.0, 1.0))
    curvature = torch.diag(torch.tensor([1e-7, 1e-7, 4.0], dtype=torch.float64))
    point = torch.tensor([-15.0, 0.3, 0.0], dtype=torch.float64)
    found = standard_errors(model, space, point, curvature)
    assert found.reasons == {"a": ("at the boundary",), "b": ("not determined",), "c": ("",)}
    assert found.errors["c"].item() == near(0.5)
    assert math.isnan(found.errors["a"])
    assert math.isnan(found.high["a"])


@pytest.mark.parametrize(
    ("prior", "ends"),
    [
        (dist.Normal(0.0, 1.0), (-math.inf, math.inf)),
        (dist.LogNormal(0.0, 1.0), (0.0, math.inf)),
        (dist.Uniform(-2.0, 3.0), (-2.0, 3.0)),
        (dist.Beta(2.0, 2.0), (0.0, 1.0)),
        (dist.Dirichlet(torch.ones(3)), (0.0, 1.0)),
        (dist.LKJCholesky(3, 1.0), (-1.0, 1.0)),
        (Ordered(dist.LogNormal(0.0, 1.0).expand([2, 2]).to_event(2), column=0), (0.0, math.inf)),
        (Ordered(dist.Dirichlet(torch.ones(2, 3)).to_event(1), column=1), (0.0, 1.0)),
        (
            ContinuousTimeHMM(2, errors=[(0, 1), (1, 0)]).priors["error"],
            (0.0, 1.0),
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_intervals_stay_inside_the_support(prior, ends):
    """However wide they are; and their natural scale is that of ``back``, and its slope."""
    model, space = space_of(x=prior)
    point = torch.linspace(-2, 2, space.size, dtype=torch.float64)
    curvature = 0.02 * torch.eye(space.size, dtype=torch.float64)
    found = standard_errors(model, space, point, curvature)
    known = [not reason for reason in found.reasons["x"]]
    estimate, low, high = (
        x["x"].flatten()[known] for x in (found.estimates, found.low, found.high)
    )
    assert len(estimate)
    assert bool((low < estimate).all())
    assert bool((estimate < high).all())
    assert bool((low >= ends[0]).all())
    assert bool((high <= ends[1]).all())
    scalars = scalars_at(model, space, point)
    assert scalars.back(scalars.natural)[known].numpy() == pytest.approx(estimate.numpy())
    moved = scalars._replace(values=scalars.values + 1e-6 * found.errors["x"].flatten())
    slope = (moved.natural - scalars.natural) / (moved.values - scalars.values)
    assert slope[known].numpy() == pytest.approx(scalars.stretch[known].numpy(), rel=1e-4)


def test_curvature_is_computed_from_the_data_where_the_fit_has_none():
    """Equal to that of L-BFGS, √(θ / n), at a maximum by Adam; refused without exact evidence."""
    data = Sequences.from_arrays([[3, 5, 4, 4]])
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    start = {"rate": torch.tensor([4.0])}
    by_adam = FitSettings(steps=1, method="adam", start=start, parameter_learning_rate=1e-9)
    result = fit(model, guide, data, settings=by_adam, progress=False)
    assert result.standard_errors().reasons["rate"] == ("needs data",)
    assert math.isnan(result.standard_errors().errors["rate"])
    assert "standard errors need summary(data=…)" in str(result)
    assert result.standard_errors(data=data).errors["rate"].item() == near(1.0)
    assert "needs data" not in str(result.summary(data=data))
    network = BeliefGuide(model, LSTMFilter(2), parameters="ml")
    by_network = fit(model, network, data, settings=FitSettings(steps=1), progress=False)
    with pytest.raises(ValueError, match=r"data: .* got BeliefGuide with LSTMFilter"):
        by_network.standard_errors(data=data)


def test_a_support_that_ends_above():
    end = torch.tensor([5.0], dtype=torch.float64)
    at = Scalars(end - 2, -end / 0, end, torch.ones(1, 1))
    assert at.back(at.natural).item() == pytest.approx(3.0)
    assert at.stretch.item() == 0.5  # of −log(5 − θ)
    assert at.back(at.natural + 50).item() <= 5


def test_refusals():
    data = Sequences.from_arrays([[3, 5, 4, 4]])
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    spread = fit(model, guide, data, settings=FitSettings(steps=1), progress=False)
    with pytest.raises(ValueError, match="parameters='ml' or 'map', got 'normal'"):
        spread.standard_errors()
    with pytest.raises(ValueError, match="level: must be a number in"):
        spread.summary(1.0)
    known = model.with_parameters(rate=[4.0])
    network = BeliefGuide(known, LSTMFilter(2))
    result = fit(known, network, data, settings=FitSettings(steps=1), progress=False)
    with pytest.raises(ValueError, match="got known parameters"):
        result.standard_errors()
    assert "all parameters are known" in str(result)
