"""NUTS: posteriors known by formula or by quadrature, seeds, jobs, and what it refuses.

False-failure rates are for independent draws a third as many as the chains return; NUTS on these
posteriors does better than that. Seeds are fixed, so a failure is news.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import joblib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from beliefzoo.inference.fitting.no_u_turn import Widths, landscape_of
from beliefzoo.inference.fitting.nuts import NutsFit, NutsSettings, nuts
from beliefzoo.models import (
    Categorical,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    LowRankGaussian,
    Sequences,
    StudentT,
)
from oracles import Floats
from oracles import log_evidence as sum_over_paths

COUNTS = [[3.0, 0.0, 7.0], [8.0], [1.0, 2.0]]
"""Ragged, and with gaps in `gappy`."""


def gappy() -> Sequences:
    return Sequences.from_arrays([np.array([3.0, np.nan, 7.0]), np.array([8.0]), [1.0, 2.0]])


def short(model: HiddenMarkovModel, data: Sequences, **settings: object) -> NutsFit:
    """A run that is too short to mean anything."""
    few = {"chains": 1, "draws": 4, "warmup": 4, "max_tree_depth": 3, "progress": False}
    return nuts(model, data, **(few | settings))  # type: ignore[arg-type]


def test_gamma_posterior_of_a_poisson_rate() -> None:
    """One state: rate ~ Gamma(2, 2/10) and n counts give Gamma(2 + Σy, 2/10 + n).

    600 draws, counted as 200: the mean misses by 4 of its standard errors, 0.28 posterior sd, with
    probability 6e-5; the relative standard error of the sd is 0.05, so 0.2 is as rare.
    """
    y = [[4.0], [6.0], [3.0]]
    model = HiddenMarkovModel(1, "poisson", priors={"rate": gamma(2.0, 0.2, 1)})
    found = nuts(
        model, Sequences.from_arrays(y), chains=2, draws=300, warmup=60, progress=False
    ).draws["rate"]
    exact = stats.gamma(2 + np.sum(y), scale=1 / (0.2 + np.size(y)))
    assert found.shape == (2, 300, 1)
    assert found.dtype == torch.float64
    assert abs(float(found.mean()) - exact.mean()) < 0.28 * exact.std()
    assert float(found.std()) == pytest.approx(exact.std(), rel=0.2)
    for probability in (0.05, 0.25, 0.5, 0.75, 0.95):
        below = float((found < exact.ppf(probability)).double().mean())
        assert abs(below - probability) < 4 * math.sqrt(probability * (1 - probability) / 200)


def gamma(shape: float, rate: float, size: int) -> dist.TorchDistribution:
    prior = dist.Gamma(torch.full((size,), shape), torch.full((size,), rate))
    return prior.to_event(1)


def test_transition_posterior_by_quadrature() -> None:
    """Two states, all known but p(stay) of each: a sum over a 30 × 30 grid, over all paths.

    500 draws, counted as 170: means within 0.31 sd (6e-5), standard deviations within 0.22 of
    themselves (relative standard error 0.054), the correlation within 0.31 (6e-5).
    """
    y = np.array([[0.0, 1.0, 9.0], [7.0, 9.0, 8.0], [1.0, 0.0, 0.0], [9.0, 8.0, 1.0]])
    rate = np.array([1.0, 8.0])
    model = HiddenMarkovModel(2, "poisson", initial="stationary").with_parameters(rate=rate)
    few = {"chains": 2, "draws": 250, "warmup": 60, "target_accept": 0.75}
    found = short(model, Sequences.from_arrays(list(y)), **few, max_tree_depth=6)

    grid = (np.arange(30) + 0.5) / 30
    likelihood = stats.poisson.logpmf(y[..., None], rate)
    density = np.empty((30, 30))
    for i, j in np.ndindex(30, 30):
        matrix = np.array([[grid[i], 1 - grid[i]], [1 - grid[j], grid[j]]])
        first = np.array([matrix[1, 0], matrix[0, 1]]) / (matrix[1, 0] + matrix[0, 1])
        chain = np.log(first), np.log(np.stack([matrix] * 2))
        density[i, j] = sum(sum_over_paths(*chain, one) for one in likelihood)
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    mean = np.array([weight.sum(1) @ grid, weight.sum(0) @ grid])
    second = np.array([weight.sum(1) @ grid**2, weight.sum(0) @ grid**2])
    sd = np.sqrt(second - mean**2)
    correlation = (grid @ weight @ grid - mean.prod()) / sd.prod()

    stay = found.draws["transition"].diagonal(dim1=-2, dim2=-1).flatten(0, 1).numpy()
    assert np.abs((stay.mean(0) - mean) / sd).max() < 0.31
    assert np.abs(stay.std(0) / sd - 1).max() < 0.22
    assert abs(np.corrcoef(stay.T)[0, 1] - correlation) < 0.31


def chain_of(values: Mapping[str, Floats], steps: int) -> tuple[Floats, Floats]:
    return np.log(values["initial"]), np.log(np.stack([values["transition"]] * (steps - 1)))


def test_log_density_is_prior_plus_sum_over_paths() -> None:
    """Term by term for each draw; also that gaps and lengths are respected, in float64."""
    model = HiddenMarkovModel(2, "poisson", priors={"rate": gamma(3.0, 0.5, 2)})
    found = short(model, gappy(), chains=2)
    assert found.log_density.shape == (2, 4)
    for c, d in np.ndindex(2, 4):
        values = {name: draw[c, d].numpy() for name, draw in found.draws.items()}
        total = stats.gamma(3, scale=2).logpdf(values["rate"]).sum()  # Dirichlet(1): density 1
        for one in ([3.0, None, 7.0], [8.0], [1.0, 2.0]):
            table = np.array(
                [np.zeros(2) if y is None else stats.poisson.logpmf(y, values["rate"]) for y in one]
            )
            first, onward = chain_of(values, max(2, len(one)))
            total += sum_over_paths(first, onward[: len(one) - 1], table)
        assert float(found.log_density[c, d]) == pytest.approx(total, abs=1e-10)


def test_ordered_draws_stay_ordered() -> None:
    model = HiddenMarkovModel(3, "poisson", ordered=True)
    rate = short(model, Sequences.from_arrays(COUNTS), draws=20).draws["rate"]
    assert bool((rate.diff(dim=-1) > 0).all())


def categorical() -> tuple[HiddenMarkovModel, Sequences]:
    data = Sequences.from_arrays([[0, 2, 1], [1, 1]], codes=True)
    return HiddenMarkovModel(2, Categorical(3)), data


def with_inputs() -> tuple[HiddenMarkovModel, Sequences]:
    generator = np.random.default_rng(0)
    data = Sequences.from_arrays(
        [generator.normal(size=4), generator.normal(size=3)],
        inputs=[generator.normal(size=(4, 2)), generator.normal(size=(3, 2))],
    )
    return HiddenMarkovModel(2, Gaussian(), transition=InputTransition(2)), data


def vectors(family: object) -> tuple[HiddenMarkovModel, Sequences]:
    generator = np.random.default_rng(0)
    data = Sequences.from_arrays([generator.normal(size=(n, 3)) for n in (5, 3)])
    return HiddenMarkovModel(2, family), data  # type: ignore[arg-type]


def matrix_prior() -> tuple[HiddenMarkovModel, Sequences]:
    """A user's float32 prior whose density mixes no dtypes."""
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    mean = dist.MultivariateNormal(torch.zeros(2), covariance)
    data = Sequences.from_arrays([[0.3, -1.2, 2.0], [1.0, 0.1]])
    return HiddenMarkovModel(2, Gaussian(), priors={"mean": mean}), data


@pytest.mark.parametrize(
    "case",
    [
        categorical,
        with_inputs,
        matrix_prior,
        lambda: vectors(Gaussian(features=3)),
        lambda: vectors(FullGaussian(features=3)),
        lambda: vectors(LowRankGaussian(features=3, rank=1)),
        lambda: vectors(StudentT(features=3)),
        lambda: vectors(GaussianMixture(features=3)),
    ],
)
def test_every_support_is_kept(case: Callable[[], tuple[HiddenMarkovModel, Sequences]]) -> None:
    model, data = case()
    found = short(model, data)
    assert set(found.draws) == set(model.parameter_names)
    assert bool(found.log_density.isfinite().all())
    for name, prior in model.priors.items():
        draw = found.draws[name]
        assert draw.dtype == torch.float64
        assert draw.shape == (1, 4, *prior.event_shape)
        assert bool(prior.support.check(draw).all()), name


def test_known_parameters_stay_out() -> None:
    model = HiddenMarkovModel(2, "poisson").with_parameters(rate=[1.0, 6.0])
    found = short(model, Sequences.from_arrays(COUNTS))
    assert set(found.draws) == {"initial", "transition"}
    assert found.model.known["rate"].tolist() == [1.0, 6.0]


def test_the_same_seed_gives_the_same_numbers() -> None:
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    data = Sequences.from_arrays(COUNTS)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = short(model, data, seed=3, chains=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    torch.manual_seed(99)
    again, other = short(model, data, seed=3, chains=2), short(model, data, seed=4, chains=2)
    one = short(model, data, seed=3, chains=1)
    for name, draws in first.draws.items():
        assert torch.equal(draws, again.draws[name])
        assert torch.equal(draws[:1], one.draws[name])
        assert not torch.equal(draws, other.draws[name])
        assert not torch.equal(draws[0], draws[1])
    assert torch.equal(first.log_density, again.log_density)
    for far in (-1, 2**64 - 1):  # as `fit` takes them, and as `calibrate` draws them
        short(model, data, seed=far)
    assert first.accept.shape == (2,)
    assert first.divergences.shape == (2, 4)
    assert first.divergences.dtype == torch.bool


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_jobs_change_no_number(backend: str) -> None:
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    data = Sequences.from_arrays(COUNTS)
    alone = short(model, data, chains=2)
    with joblib.parallel_config(backend=backend):
        beside = short(model, data, chains=2, jobs=2)
    for name, draws in alone.draws.items():
        assert torch.equal(draws, beside.draws[name])
    assert torch.equal(alone.log_density, beside.log_density)
    assert torch.equal(alone.accept, beside.accept)


def test_a_start_by_name_is_where_chains_start() -> None:
    """With tiny steps (few warm-up steps, acceptance near 1) the first draw is near the start."""
    model = HiddenMarkovModel(1, "poisson", priors={"rate": gamma(1.0, 1e-3, 1)})
    many = Sequences.from_arrays([np.full(2, 1000.0) for _ in range(50)])
    start = {"rate": torch.tensor([1000.0])}
    rate = short(model, many, start=start, warmup=1, draws=1).draws["rate"]
    # The posterior's sd is about 3; the jitter is measured by it.
    assert abs(float(rate) - 1000) < 30


def test_corners_end_a_trajectory_and_not_the_run() -> None:
    """A prior that puts its mass on chains that never leave a state, and next to no data."""
    prior = dist.Dirichlet(torch.tensor([[2e-2, 1e-3], [1e-3, 2e-2]])).to_event(1)
    model = HiddenMarkovModel(2, "poisson", initial="stationary", priors={"transition": prior})
    found = short(
        model.with_parameters(rate=[1.0, 2.0]), Sequences.from_arrays([[1.0], [2.0]]), draws=40
    )
    assert bool(found.draws["transition"].isfinite().all())
    assert bool(found.divergences.any())  # it did get there


def test_no_warnings_and_no_bars(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short(HiddenMarkovModel(2, "poisson"), Sequences.from_arrays(COUNTS))
    assert capfd.readouterr() == ("", "")
    short(HiddenMarkovModel(2, "poisson"), Sequences.from_arrays(COUNTS), progress=True)
    assert "chain 0: 8/8 steps" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains: must be a whole number >= 1, got 0"),
        ({"draws": 2.5}, "draws: must be a whole number >= 1, got 2.5"),
        ({"warmup": 0}, "warmup: must be a whole number >= 1, got 0"),
        ({"max_tree_depth": -1}, "max_tree_depth: must be a whole number >= 1, got -1"),
        ({"target_accept": 1.0}, r"target_accept: must be in \(0, 1\), got 1.0"),
        ({"seed": 2**64}, "seed: must be a whole number from"),
        ({"seed": 0.5}, "seed: must be a whole number from .* got 0.5"),
        ({"jobs": 0}, "jobs: must be a whole number other than 0"),
        ({"start": "best"}, "start: must be one of .* got 'best'"),
        ({"start": {"mean": torch.ones(2)}}, "got 'mean'"),
        ({"start": {"rate": torch.tensor([0.0, 1.0])}}, r"rate.*\[0.0, 1.0\]"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short(HiddenMarkovModel(2, "poisson"), Sequences.from_arrays(COUNTS), **settings)


def test_bad_model_and_data() -> None:
    data = Sequences.from_arrays(COUNTS)
    known = HiddenMarkovModel(1, "poisson").with_parameters(rate=[3.0])
    with pytest.raises(ValueError, match="model: nothing to sample, all parameters are known"):
        nuts(known, data)
    with pytest.raises(ValueError, match=r"model: must be a model of .*, got 'poisson'"):
        nuts("poisson", data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data: must be Sequences, got list"):
        nuts(HiddenMarkovModel(1, "poisson"), COUNTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data: Poisson needs"):
        nuts(HiddenMarkovModel(1, "poisson"), Sequences.from_arrays([[0.5]]))
    impossible = HiddenMarkovModel(2, "bernoulli").with_parameters(probs=[0.0, 0.0])
    with pytest.raises(ValueError, match="start: the density of parameters and data must be fin"):
        nuts(impossible, Sequences.from_arrays([[1.0, 0.0]]), progress=False)


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_the_target_has_no_unit(unit):
    """The same density up to a constant, and the same widths, whatever the unit."""
    y = np.random.default_rng(0).normal(size=40)
    settings = NutsSettings(1, 1, 1, "kmeans", 0.9, 8, True)
    found = []
    for scale in (1.0, unit):
        data = Sequences.from_arrays([scale * y])
        model = HiddenMarkovModel(2, "gaussian", ordered=True).adapted_to(data)
        landscape = landscape_of(model, data, settings, 0)
        origin = torch.zeros(landscape.coordinates.size, dtype=torch.float64)
        heights, _ = landscape(torch.stack([origin, origin + 0.3]))
        widths = Widths.at(landscape, origin, dense=True)
        found.append((float(heights[1] - heights[0]), widths.covariance))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-4)


def structural() -> tuple[LinearGaussianSSM, Sequences]:
    level = np.random.default_rng(1).normal(size=30).cumsum()
    return LinearGaussianSSM(LocalLevel()), Sequences.from_arrays([level])


def test_a_chain_in_machine_code_does_not_depend_on_those_beside_it() -> None:
    for model, data in (structural(), categorical()):
        several, one = short(model, data, chains=3, draws=8), short(model, data, draws=8)
        for name, draws in several.draws.items():
            assert torch.equal(draws[:1], one.draws[name])
        assert torch.equal(several.log_density[:1], one.log_density)
