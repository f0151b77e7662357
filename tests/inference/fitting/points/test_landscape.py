"""The function that point estimates maximise: its short cuts give what the laws give."""

import dataclasses

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from beliefzoo.inference.fitting.parallel import Processes
from beliefzoo.inference.fitting.points import landscape, maximum
from beliefzoo.inference.fitting.points.affine import Affine
from beliefzoo.inference.fitting.points.ascent import Ascent
from beliefzoo.inference.fitting.points.climb import climb
from beliefzoo.inference.fitting.points.families import Products
from beliefzoo.inference.fitting.points.landscape import Landscape
from beliefzoo.inference.fitting.points.maps import Maps
from beliefzoo.inference.fitting.start import starting_values
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models import (
    Autoregressive,
    BandedTransition,
    Bernoulli,
    Categorical,
    FromDistribution,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    Independent,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    Poisson,
    Regression,
    Seasonal,
    Sequences,
    StudentT,
)
from beliefzoo.models.emissions.emission import in_products

ALONE = Processes(None)


def reals(features: int = 1) -> Sequences:
    """Two sequences in a unit of their own, with missing elements."""
    rng = np.random.default_rng(0)
    arrays = [5e4 + 30 * rng.normal(size=(n, features)) for n in (30, 17)]
    arrays[0][3] = arrays[1][5, 0] = np.nan
    return Sequences.from_arrays(arrays)


def counts(features: int = 1) -> Sequences:
    rng = np.random.default_rng(1)
    return Sequences.from_arrays([rng.poisson(40.0, (n, features)).astype(float) for n in (30, 9)])


def symbols(size: int) -> Sequences:
    rng = np.random.default_rng(2)
    return Sequences.from_arrays([rng.integers(0, size, n) for n in (40, 20)], codes=True)


CHAINS = {
    "gaussian": (HiddenMarkovModel(2, "gaussian"), reals()),
    "two features": (HiddenMarkovModel(3, Gaussian(2)), reals(2)),
    "a single state": (HiddenMarkovModel(1, "gaussian"), reals()),
    "counts": (HiddenMarkovModel(3, Poisson(2)), counts(2)),
    "bits": (HiddenMarkovModel(2, Bernoulli()), Sequences.from_arrays([[0, 1, 1, 0, 1, 1, 1]])),
    "symbols": (HiddenMarkovModel(3, Categorical(4)), symbols(4)),
    "stationary": (HiddenMarkovModel(2, "poisson", initial="stationary"), counts()),
    "ordered": (HiddenMarkovModel(2, "poisson", ordered=True), counts()),
    "bands": (HiddenMarkovModel(4, "poisson", transition=BandedTransition()), counts()),
    "known moves": (
        HiddenMarkovModel(2, "poisson").with_parameters(transition=[[0.0, 1.0], [0.5, 0.5]]),
        counts(),
    ),
    "two channels": (
        HiddenMarkovModel(2, Independent(time=Gaussian(), errors=Poisson())),
        Sequences.from_arrays(
            [np.stack([np.linspace(3, 9, 12), np.arange(12) % 5], 1)], features=["time", "errors"]
        ),
    ),
    "known emissions": (
        HiddenMarkovModel(2, "poisson").with_parameters(rate=[35.0, 45.0]),
        counts(),
    ),
    "known means": (HiddenMarkovModel(2, "gaussian").with_parameters(mean=[4.9e4, 5.1e4]), reals()),
}


def space_of(model, data) -> Coordinates:
    return Coordinates(model.priors, model.units, starting_values(model, data))


def centre_of(space: Coordinates) -> dict[str, torch.Tensor]:
    return space.values(torch.zeros(space.size, dtype=torch.float64))


def points_in(space: Coordinates, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, space.size, generator=generator, dtype=torch.float64)


def seen(model, data, space, prior="none") -> Landscape:
    return Landscape(model, data, space, prior=prior, processes=ALONE)


@pytest.mark.parametrize("prior", ["none", "coordinates"])
@pytest.mark.parametrize(("model", "data"), CHAINS.values(), ids=CHAINS)
def test_statistics_give_what_the_laws_give(model, data, prior, monkeypatch):
    model = model.adapted_to(data)
    space = space_of(model, data)
    points = points_in(space, 5)
    assert Products.of(model, data, centre_of(space)) is not None
    heights, gradients = seen(model, data, space, prior)(points)
    monkeypatch.setattr(landscape.Products, "of", lambda *_: None)
    by_laws = seen(model, data, space, prior)(points)
    torch.testing.assert_close(heights, by_laws[0], rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(gradients, by_laws[1], rtol=1e-8, atol=1e-8)
    one = seen(model, data, space, prior)(points[:1])
    torch.testing.assert_close(one[0], heights[:1])


def test_narrow_states_are_left_to_recursions_that_keep_their_digits():
    data = reals()
    model = HiddenMarkovModel(2, "gaussian").adapted_to(data)
    at = starting_values(model, data)
    at["scale"] = at["scale"] * torch.tensor([1.0, 1e-7])
    space = Coordinates(model.priors, model.units, at)
    found = Products.of(model, data, centre_of(space))
    centre = torch.zeros(1, space.size, dtype=torch.float64)
    assert found.log_evidence(space.values(centre)).tolist() == [-torch.inf]
    height, gradient = seen(model, data, space)(centre)
    assert bool(height.isfinite().all())
    assert bool(gradient.isfinite().all())


def test_points_without_a_law_have_no_height_and_spare_the_others():
    """Neither state is ever left at the first point, so that no stationary law is the only one."""
    model, data = CHAINS["stationary"]
    model = model.adapted_to(data)
    space = space_of(model, data)
    apart = space.at(
        space.values(torch.zeros(space.size, dtype=torch.float64))
        | {
            "transition": torch.tensor(
                [[1 - 1e-15, 1e-15], [1e-15, 1 - 1e-15]], dtype=torch.float64
            )
        }
    )
    whole = seen(model, data, space)
    point = points_in(space, 1)
    heights, gradients = whole(torch.cat([apart[None], point]))
    assert heights[0] == -torch.inf
    assert gradients[0].tolist() == [0.0] * space.size
    assert heights[1] == pytest.approx(float(whole(point)[0]))
    broken = Landscape(model, data, space_at(model, apart, space), prior="none", processes=ALONE)
    assert broken(torch.zeros_like(point))[0].tolist() == [-torch.inf]


def space_at(model, point: torch.Tensor, space: Coordinates) -> Coordinates:
    return Coordinates(model.priors, model.units, space.values(point))


def test_climbs_are_not_given_up_beside_one_that_never_ends():
    """One height rises to the end of the range, the other climbs slowly to 0."""

    def heights(points):
        x, runs = points[:, 0], points[:, 1] > 50
        fall = torch.where(runs, 1e5 * x, -10 * (1 + (x - 3).square()).log())
        slope = torch.where(runs, 1e5, -20 * (x - 3) / (1 + (x - 3).square()))
        return fall, torch.stack([slope, torch.zeros_like(x)], -1)

    starts = torch.tensor([[0.0, 100.0], [-15.0, 0.0]], dtype=torch.float64)
    bounded = torch.tensor([True, False])
    found = climb(heights, starts, bounded=bounded, steps=200, tolerance=1e-4)
    assert found.heights[0] == pytest.approx(2e6)
    assert found.heights[1] == pytest.approx(0.0, abs=1e-3)


@dataclasses.dataclass(frozen=True)
class Twice(Poisson):
    """A user's law that changes the score, and inherits the statistics of another one."""

    def score(self, parameters, y, mask, shift=None):
        return 2 * super().score(parameters, y, mask, shift)


WITHOUT = {
    "a score of its own": HiddenMarkovModel(2, Twice()),
    "student": HiddenMarkovModel(2, StudentT()),
    "full": HiddenMarkovModel(2, FullGaussian(2)),
    "a distribution": HiddenMarkovModel(2, FromDistribution(dist.Normal)),
}


@pytest.mark.parametrize("model", WITHOUT.values(), ids=WITHOUT)
def test_other_laws_say_no_statistics(model):
    assert in_products(model.emission) is None


@pytest.mark.parametrize("base", [Poisson(), StudentT()])
def test_regressions_of_other_families_are_left_to_their_laws(base):
    model = HiddenMarkovModel(2, Regression(base, lags=1)).adapted_to(counts())
    space = space_of(model, counts())
    assert Products.of(model, counts(), centre_of(space)) is None


def test_channels_without_statistics_have_none_together():
    model = HiddenMarkovModel(2, Independent(time=Gaussian(), back=StudentT()))
    data = Sequences.from_arrays([np.random.default_rng(0).normal(size=(20, 2))])
    model = model.adapted_to(data)
    assert Products.of(model, data, centre_of(space_of(model, data))) is None


def test_moves_that_depend_on_inputs_have_no_statistics():
    rng = np.random.default_rng(0)
    data = Sequences.from_arrays([rng.normal(size=20)], inputs=[rng.normal(size=(20, 1))])
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)).adapted_to(data)
    assert Products.of(model, data, centre_of(space_of(model, data))) is None


SERIES = {
    "level": LocalLevel(),
    "trend and season": LocalLinearTrend() + Seasonal(period=4),
    "autoregression": Autoregressive(2),
}


@pytest.mark.parametrize("dynamics", SERIES.values(), ids=SERIES)
def test_points_of_a_linear_model_are_evaluated_together_as_each_alone(dynamics):
    data = Sequences.from_arrays([reals().values[0, :30, 0]])
    model = LinearGaussianSSM(dynamics).adapted_to(data)
    space = space_of(model, data)
    points = points_in(space, 4)
    whole = seen(model, data, space)
    together = whole(points)
    alone = [whole(point) for point in points.split(1)]
    for one, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(one, torch.cat(parts), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", ["none", "coordinates"])
@pytest.mark.parametrize(
    ("dynamics", "offset"), [(LocalLevel(), 1e9), (SERIES["trend and season"], 1e6)]
)
def test_noises_give_what_the_laws_give(dynamics, offset, prior, monkeypatch):
    data = reals()
    data = dataclasses.replace(data, values=(data.values + offset) * data.mask)
    model = LinearGaussianSSM(dynamics).adapted_to(data)
    space = space_of(model, data)
    assert Affine.of(model, data, Maps(space)) is not None
    points = points_in(space, 4)
    found = seen(model, data, space, prior)(points)
    monkeypatch.setattr(landscape.Affine, "of", lambda *_: None)
    by_laws = seen(model, data, space, prior)(points)
    torch.testing.assert_close(found[0], by_laws[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1], by_laws[1], rtol=1e-7, atol=1e-7)


def test_chains_that_depend_on_more_than_noises_are_asked_for_their_laws():
    data = Sequences.from_arrays([reals().values[0, :30, 0]])
    model = LinearGaussianSSM(Autoregressive(2)).adapted_to(data)
    assert Affine.of(model, data, Maps(space_of(model, data))) is None


def ended(*heights: float, why: str = "converged") -> Ascent:
    zero = torch.zeros(1, dtype=torch.float64)
    return Ascent(zero, max(heights), zero, why, (), heights, (max(heights),), None, None)


@pytest.mark.parametrize(
    ("ends", "starts", "heights"),
    [
        ([ended(1.0, 0.9)], None, (1.0, 0.9)),
        ([ended(1.0, -5.0), ended(1.1, 0.0)], None, (1.1, 1.0, 0.0, -5.0)),  # the second agrees
        ([ended(1.0), ended(3.0), ended(9.0)], None, (9.0, 3.0, 1.0)),  # no more than three times
        ([ended(1.0, -5.0)], 20, (1.0, -5.0)),  # the user says how many
        ([ended(1.0, -5.0, why="unbounded")], None, (1.0, -5.0)),
        ([None], None, None),
    ],
)
def test_more_starts_are_tried_while_only_one_is_highest(ends, starts, heights, monkeypatch):
    sent = []

    def ascend(landscape, points, **settings):
        sent.append(points)
        return ends[len(sent) - 1]

    monkeypatch.setattr(maximum, "ascend", ascend)
    model, data = CHAINS["counts"]
    model = model.adapted_to(data)
    space = space_of(model, data)
    found = maximum.maximise(
        None,
        model,
        space,
        data,
        prior="none",
        start="kmeans",
        starts=starts,
        seed=0,
        steps=5,
        tolerance=1e-4,
    )
    assert heights == (None if found is None else found.heights)
    assert [len(points) for points in sent] == [starts or 40] * len(ends)
