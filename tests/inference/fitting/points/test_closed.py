"""Heights in machine code are the density of the Pyro program, and climbs on them end as others."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, collapsed, fit
from beliefzoo.inference.fitting.parallel import Processes
from beliefzoo.inference.fitting.points.climb import _by_machine, _by_turns, climb, reach_of
from beliefzoo.inference.fitting.points.landscape import Landscape
from beliefzoo.inference.fitting.points.maximum import _starts
from beliefzoo.inference.fitting.start import starting_values
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    Independent,
    Poisson,
    Regression,
    Sequences,
    StudentT,
)
from beliefzoo.models.emissions.emission import closed_forms

ALONE = Processes(None)


def series(kind: str, features: int = 1) -> Sequences:
    """Two sequences with missing elements; numbers in a unit of their own."""
    rng = np.random.default_rng(0)
    if kind == "codes":
        return Sequences.from_arrays([rng.integers(0, 4, n) for n in (40, 20)], codes=True)
    draws = {
        "reals": lambda n: 5e4 + 30 * rng.normal(size=(n, features)),
        "counts": lambda n: rng.poisson(40.0, (n, features)).astype(float),
        "bits": lambda n: rng.integers(0, 2, (n, features)).astype(float),
        "mixed": lambda n: np.stack([rng.normal(size=n), rng.poisson(3.0, n), np.arange(n) % 2], 1),
    }
    arrays = [draws[kind](n) for n in (30, 17)]
    arrays[0][3] = arrays[1][5, 0] = np.nan
    return Sequences.from_arrays(arrays)


def with_inputs(data: Sequences) -> Sequences:
    """The same with two columns of inputs, each in a unit of its own."""
    rng = np.random.default_rng(1)
    arrays = [np.where(m, y, np.nan) for y, m in zip(data.values, data.mask, strict=True)]
    inputs = [[1e-3, 40.0] * rng.normal(size=(n, 2)) for n in data.lengths]
    arrays = [y[:n] for y, n in zip(arrays, data.lengths, strict=True)]
    return Sequences.from_arrays(arrays, inputs=inputs)


CHAINS = {
    "gaussian": (HiddenMarkovModel(2, "gaussian"), series("reals")),
    "two features": (HiddenMarkovModel(3, Gaussian(2)), series("reals", 2)),
    "a single state": (HiddenMarkovModel(1, "gaussian"), series("reals")),
    "counts": (HiddenMarkovModel(3, Poisson(2)), series("counts", 2)),
    "bits": (HiddenMarkovModel(2, Bernoulli(2)), series("bits", 2)),
    "symbols": (HiddenMarkovModel(3, Categorical(4)), series("codes")),
    "stationary": (HiddenMarkovModel(3, "poisson", initial="stationary"), series("counts")),
    "known moves": (
        HiddenMarkovModel(2, "poisson").with_parameters(transition=[[0.1, 0.9], [0.5, 0.5]]),
        series("counts"),
    ),
    "known means": (
        HiddenMarkovModel(2, "gaussian").with_parameters(mean=[4.999e4, 5.001e4]),
        series("reals"),
    ),
    "mixed": (
        HiddenMarkovModel(2, Independent(time=Gaussian(), errors=Poisson(), right=Bernoulli())),
        series("mixed"),
    ),
    "a lag": (HiddenMarkovModel(2, Regression(Gaussian(), lags=1)), series("reals")),
    "lags of two features": (
        HiddenMarkovModel(2, Regression(Gaussian(2), lags=3)),
        series("reals", 2),
    ),
    "inputs": (
        HiddenMarkovModel(3, Regression(Gaussian(), inputs=2), initial="stationary"),
        with_inputs(series("reals")),
    ),
    "lags and inputs": (
        HiddenMarkovModel(2, Regression(Gaussian(2), lags=1, inputs=2)),
        with_inputs(series("reals", 2)),
    ),
    "known lags": (
        HiddenMarkovModel(2, Regression(Gaussian(), lags=1)).with_parameters(
            lag_weight=[[[[0.9]]], [[[-0.2]]]]
        ),
        series("reals"),
    ),
    "known centres of lags": (
        HiddenMarkovModel(2, Regression(Gaussian(), lags=2)).with_parameters(mean=[4.9e4, 5.1e4]),
        series("reals"),
    ),
    "ordered rates": (HiddenMarkovModel(3, "poisson", ordered=True), series("counts")),
    "ordered means": (HiddenMarkovModel(2, "gaussian", ordered=True), series("reals")),
    "ordered shares": (HiddenMarkovModel(3, "bernoulli", ordered=True), series("bits")),
    "priors of one's own": (
        HiddenMarkovModel(
            2, "poisson", priors={"rate": dist.LogNormal(3.0, 1.0).expand([2]).to_event(1)}
        ),
        series("counts"),
    ),
}


def space_of(model, data) -> Coordinates:
    return Coordinates(model.priors, model.units, starting_values(model, data))


def points_in(space: Coordinates, count: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, space.size, generator=generator, dtype=torch.float64)


def seen(model, data, space, prior="none") -> Landscape:
    found = Landscape(model, data, space, prior=prior, processes=ALONE)
    assert found.climbs
    return found


@pytest.mark.parametrize("prior", ["none", "parameters", "coordinates"])
@pytest.mark.parametrize(("model", "data"), CHAINS.values(), ids=CHAINS)
def test_heights_are_the_density_of_the_pyro_program(model, data, prior):
    model = model.adapted_to(data)
    space = space_of(model, data)
    points = points_in(space, 3)
    heights, gradients = seen(model, data, space, prior)(points)
    for point, height, gradient in zip(points, heights, gradients, strict=True):
        v = point.clone().requires_grad_()
        values = space.values(v)
        program = poutine.condition(collapsed(model), values)
        trace = poutine.trace(program).get_trace(data)
        expected = trace.log_prob_sum()
        if prior == "none":
            expected = expected - sum(model.priors[n].log_prob(x) for n, x in values.items())
        if prior == "coordinates":
            expected = expected + sum(space.log_jacobians(v, values).values())
        (slope,) = torch.autograd.grad(expected, v)
        assert float(height) == pytest.approx(float(expected.detach()), rel=1e-10)
        torch.testing.assert_close(gradient, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("model", "data"), CHAINS.values(), ids=CHAINS)
def test_climbs_end_as_those_in_python(model, data):
    model = model.adapted_to(data)
    space = space_of(model, data)
    heights = seen(model, data, space, "parameters")
    starts = 0.3 * points_in(space, 4)
    settings = (reach_of(space.scale_free), 300, 1e-6)
    found, left = _by_machine(heights, starts, *settings, None)
    others = _by_turns(heights, starts, *settings, None)
    assert not left.any()
    assert not found.moving.any()
    torch.testing.assert_close(found.trace[:5], others.trace[:5], rtol=1e-9, atol=1e-9)
    assert float(found.heights.max()) == pytest.approx(float(others.heights.max()), abs=1e-4)
    torch.testing.assert_close(heights(found.points)[0], found.heights)
    torch.testing.assert_close(found.trace[-1], found.heights)


def test_starts_that_machine_code_cannot_tell_are_climbed_by_laws():
    """One start has a state a million times narrower than the others."""
    model, data = CHAINS["gaussian"]
    model = model.adapted_to(data)
    space = space_of(model, data)
    narrow = starting_values(model, data)
    narrow["scale"] = narrow["scale"] * torch.tensor([1.0, 1e-7])
    starts = torch.stack([space.at(narrow), *points_in(space, 2)])
    heights = seen(model, data, space)
    found = climb(heights, starts, bounded=space.scale_free, steps=50, tolerance=1e-2)
    assert bool(found.heights.isfinite().all())
    at_the_end = heights(found.points)[0]
    torch.testing.assert_close(at_the_end, found.heights)
    assert found.trace.shape[1] == 3
    torch.testing.assert_close(found.trace[-1], found.heights)


def test_results_are_the_same_with_any_number_of_threads():
    model, data = CHAINS["counts"]
    settings = FitSettings(steps=40)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        guide = BeliefGuide(model, ExactFilter(), parameters="ml")
        found.append(fit(model, guide, data, settings=settings, progress=False))
    torch.set_num_threads(before)
    assert torch.equal(found[0].losses, found[1].losses)


class Wider(Gaussian):
    """A user's law that changes the coefficients, and inherits their form."""

    def coefficients(self, parameters):
        return super().coefficients({**parameters, "scale": 2 * parameters["scale"]})


def test_forms_of_another_law_are_not_taken():
    assert closed_forms(Wider()) == ()
    assert closed_forms(StudentT()) == ()
    assert closed_forms(Independent(one=Gaussian(), two=StudentT())) == ()
    assert closed_forms(Regression(Wider(), lags=1)) == ()
    assert closed_forms(Regression(Gaussian(), lags=1, width=2)) == ()
    assert closed_forms(Regression(Poisson(), lags=1)) == ()
    assert len(closed_forms(Independent(one=Gaussian(), two=Poisson()))) == 2


def test_residuals_far_smaller_than_the_data_keep_their_digits():
    """A wave that two lags foretell to a billionth, against sums in long double."""
    x = np.sin(0.3 * np.arange(200)) + 1e-9 * np.random.default_rng(0).normal(size=200)
    data = Sequences.from_arrays([x])
    model = HiddenMarkovModel(1, Regression(Gaussian(), lags=2)).adapted_to(data)
    weights = torch.tensor([2 * np.cos(0.3), -1.0]).double().reshape(1, 2, 1, 1)
    at = {"mean": torch.zeros(1), "scale": torch.tensor([2.4e-9]), "lag_weight": weights}
    space = Coordinates(model.priors, model.units, at)
    y, (a, b) = x.astype(np.longdouble), weights.flatten().numpy().astype(np.longdouble)
    residual = y.copy()
    residual[1:] -= a * y[:-1]
    residual[2:] -= b * y[:-2]
    z = (residual / np.longdouble(float(at["scale"]))) ** 2
    expected = -0.5 * z.sum() - len(y) * np.log(float(at["scale"]) * np.sqrt(2 * np.pi))
    heights, _ = seen(model, data, space)(torch.zeros(1, space.size, dtype=torch.float64))
    assert float(heights) == pytest.approx(float(expected), rel=1e-10)


def test_a_regression_beside_another_channel_is_left_to_its_laws():
    model = HiddenMarkovModel(2, Independent(a=Regression(Gaussian(), lags=1), b=Gaussian()))
    data = series("reals", 2)
    space = space_of(model.adapted_to(data), data)
    found = Landscape(model.adapted_to(data), data, space, prior="none", processes=ALONE)
    assert not found.climbs


@pytest.mark.parametrize("prior", [dist.HalfNormal(50.0), dist.Weibull(50.0, 2.0)])
def test_other_priors_keep_their_gradients(prior):
    model = HiddenMarkovModel(2, "poisson", priors={"rate": prior.expand([2]).to_event(1)})
    data = series("counts")
    model = model.adapted_to(data)
    space = space_of(model, data)
    assert Landscape(model, data, space, prior="none", processes=ALONE).climbs
    assert not Landscape(model, data, space, prior="parameters", processes=ALONE).climbs


@pytest.mark.parametrize(("model", "data"), CHAINS.values(), ids=CHAINS)
def test_starts_made_together_are_as_many_and_differ(model, data):
    model = model.adapted_to(data)
    space = space_of(model, data)
    points = _starts(model, space, data, "kmeans", range(12), 5)
    assert points.shape == (12, space.size)
    assert bool(points.isfinite().all())
    assert points[0].tolist() == [0.0] * space.size
    assert len(points.unique(dim=0)) > min(4, model.states)  # known means leave few clusters
    assert torch.equal(points, _starts(model, space, data, "kmeans", range(12), 5))
    later = _starts(model, space, data, "kmeans", range(12, 24), 5)
    assert not torch.equal(later[1:], points[1:])
