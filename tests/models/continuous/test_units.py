"""Linear-Gaussian models are the same in any unit and from any origin of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from beliefzoo.inference import Moments, forecast, log_evidence, predict, smooth
from beliefzoo.inference import filter as filtered
from beliefzoo.inference.queries.evidence import log_evidence as laws_evidence
from beliefzoo.models import (
    Autoregressive,
    Cycle,
    LinearDynamics,
    LinearEmission,
    LinearGaussianSSM,
    LinearSDE,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Seasonal,
    Sequences,
)

SCALES = (2.0**-30, -(2.0**30))
OFFSET = 2.0**30
"""In units of the data's spread. Powers of two, so that the data move without rounding."""


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Parameters in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def models() -> dict[str, LinearGaussianSSM]:
    rich = LinearEmission(3, correlated=True, intercept=True, inputs=2)
    return {
        "level": LinearGaussianSSM(LocalLevel()),
        "proper level": LinearGaussianSSM(LinearDynamics(1, initial="free"), intercept=True),
        "trend": LinearGaussianSSM(LocalLinearTrend()),
        "smooth trend": LinearGaussianSSM(LocalLinearTrend(smooth=True)),
        "season": LinearGaussianSSM(Seasonal(3)),
        "harmonics": LinearGaussianSSM(LocalLevel() + Seasonal(4.5, harmonics=2)),
        "autoregression": LinearGaussianSSM(Autoregressive(2)),
        "cycle": LinearGaussianSSM(Cycle()),
        "sum": LinearGaussianSSM(LocalLinearTrend() + Seasonal(3) + Autoregressive() + Cycle()),
        "free": LinearGaussianSSM(LinearDynamics(2, correlated=True, inputs=2), emission=rich),
        "stationary": LinearGaussianSSM(LinearDynamics(2, initial="stationary"), 3),
        "flat": LinearGaussianSSM(LinearDynamics(2, initial="diffuse"), 3),
        "process": LinearGaussianSSM(OrnsteinUhlenbeck()),
        "processes": LinearGaussianSSM(OrnsteinUhlenbeck(3, stationary=False), 3),
        "equation": LinearGaussianSSM(LinearSDE(2, correlated=True, initial="stationary"), 3),
    }


def data_for(model: LinearGaussianSSM, scale: float = 1.0, offset: float = 0.0) -> Sequences:
    """Ragged, with missing elements; times and inputs where the model reads them."""
    rng, lengths = np.random.default_rng(3), (30, 14, 21)
    features = model.emission.features
    arrays, times, inputs = [], [], []
    for length in lengths:
        y = rng.normal(size=(length, features)).cumsum(0) + rng.normal(size=(length, features))
        y[rng.random(y.shape) < 0.1] = np.nan
        y[0] = 0.5
        arrays.append(scale * (np.round(y * 2**16) / 2**16 + offset))
        times.append(rng.choice([0.5, 1.0, 2.0], size=length).cumsum())
        inputs.append(rng.normal(size=(length, model.inputs)))
    given = {"times": times} if model.timed else {}
    given |= {"inputs": inputs} if model.inputs else {}
    return Sequences.from_arrays(arrays, **given)


def moved(
    model: LinearGaussianSSM, values: dict[str, Tensor], scale: float, offset: float
) -> dict[str, Tensor]:
    """Parameters of scale · (y + offset), if these are the parameters of y."""
    own = model.dynamics.loading is not None  # states in units of the data
    out = dict(values)
    for name, value in values.items():
        if name in ("loading", "input_effect"):
            out[name] = scale * value
        elif name == "intercept" or (own and name in ("mean", "initial_mean")):
            out[name] = scale * (value + offset)
        elif name == "observation_variance" or (own and name.endswith("_variance")):
            out[name] = scale**2 * value
    return out


def drawn(model: LinearGaussianSSM) -> dict[str, Tensor]:
    """A draw from the priors, the same standard numbers for every model of a kind."""
    torch.manual_seed(0)
    return {name: prior.sample() for name, prior in model.priors.items()}


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=tolerance, atol=0), name


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("scale", [abs(scale) for scale in SCALES])
@pytest.mark.parametrize("offset", [0.0, OFFSET])
def test_priors_and_starts_move_with_the_data(name: str, scale: float, offset: float) -> None:
    model = models()[name]
    data, other = data_for(model), data_for(model, scale, offset)
    here, there = model.scaled_to(data), model.scaled_to(other)
    agree(drawn(there), moved(here, drawn(here), scale, offset))
    torch.manual_seed(1)
    first = moved(here, here.start(data), scale, offset)
    torch.manual_seed(1)
    agree(there.start(other), first, 1e-7)  # gaps are filled with the mean, which is rounded


@pytest.mark.parametrize("scale", SCALES)
def test_priors_know_the_scale_of_the_inputs(scale: float) -> None:
    model = models()["free"]
    data = data_for(model)
    assert data.inputs is not None
    other = replace(data, inputs=scale * data.inputs)
    here, there = drawn(model.scaled_to(data)), drawn(model.scaled_to(other))
    for name in ("input_effect", "input_weight"):
        here[name] = here[name] / abs(scale)
    agree(there, here)


@pytest.mark.parametrize("scale", SCALES)
def test_priors_know_the_unit_of_time(scale: float) -> None:
    for name in ("equation", "processes"):
        model = models()[name]
        data = data_for(model)
        assert data.times is not None
        other = replace(data, times=abs(scale) * data.times)
        here, there = model.scaled_to(data), model.scaled_to(other)
        for ours, theirs in (
            (drawn(here), drawn(there)),
            (here.start(data), there.start(other)),
        ):
            for rate in {"rate", "drift", "diffusion_variance"} & set(ours):
                ours[rate] = ours[rate] / abs(scale)
            if "loading" in ours:  # of states beyond the features, at random
                ours["loading"] = theirs["loading"]
            agree(theirs, ours)


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", [0.0, OFFSET])
def test_answers_move_with_the_data(name: str, scale: float, offset: float) -> None:
    """At given parameters: evidence by n log |scale|, means with the data, variances squared."""
    model = models()[name]
    data, other = data_for(model), data_for(model, scale, offset)
    torch.manual_seed(0)
    values = model.scaled_to(data).start(data)
    here = model.with_parameters(**values)
    there = model.with_parameters(**moved(model, values, scale, offset))
    flat = here.laws({}, data).diffuse.shape[-1]  # a unit of a flat prior is one of the states
    own = flat if model.dynamics.loading is not None else 0
    shift = (data.mask.sum((1, 2)) - own) * math.log(abs(scale))
    pair = (here, data), (there, other)
    ours, theirs = log_evidence(here, data), log_evidence(there, other) + shift
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    for query in (filtered, predict, smooth):
        told = query(here, data), query(there, other)
        known = told[0].covariance.isfinite().flatten(2).all(-1) & data.step_mask
        assert torch.equal(told[0].covariance.isfinite(), told[1].covariance.isfinite())
        first, second = (observed(m, d, x) for (m, d), x in zip(pair, told, strict=True))
        close(first, second, scale, offset, known)
    future = forecasts(here, data), forecasts(there, other)
    close(*future, scale, offset, torch.ones(len(data), 3).bool())


def close(
    ours: tuple[Tensor, Tensor],
    theirs: tuple[Tensor, Tensor],
    scale: float,
    offset: float,
    known: Tensor,
) -> None:
    """Means and variances, the former in standard deviations; 1e-7 is the rounding of the data."""
    variance = scale**2 * ours[1][known]
    torch.testing.assert_close(theirs[1][known], variance, rtol=1e-6, atol=0)
    apart = (theirs[0] - scale * (ours[0] + offset))[known] / variance.sqrt()
    assert apart.abs().max() < 2e-6


def observed(model: LinearGaussianSSM, data: Sequences, told: Moments) -> tuple[Tensor, Tensor]:
    """Mean and variance of C z + d."""
    laws = model.laws({}, data)
    mean = (laws.loading @ told.mean.unsqueeze(-1)).squeeze(-1) + laws.intercept
    covariance = laws.loading @ told.covariance @ laws.loading.mT
    return mean, covariance.diagonal(dim1=-2, dim2=-1)


def forecasts(model: LinearGaussianSSM, data: Sequences) -> tuple[Tensor, Tensor]:
    """Mean and variance three steps ahead."""
    count, steps = len(data), 3
    given = {}
    if model.timed and data.times is not None:
        last = data.times[torch.arange(count), data.lengths - 1]
        given["times"] = last.unsqueeze(-1) + torch.arange(1.0, 1.0 + steps)
    if model.inputs:
        given["inputs"] = torch.ones(count, steps, model.inputs)
    found = forecast(model, data, steps=steps, draws=2, seed=0, **given)
    return found.mean, found.variance


def test_constant_data_start_somewhere() -> None:
    """Where nothing varies, not even rounding errors are taken for a scale."""
    for value in (0.0, 1e-7, 0.1, 1e9 / 3):
        for model in (models()["level"], models()["process"], models()["stationary"]):
            shape = (9, model.emission.features)
            times = {"times": [np.arange(9.0)]} if model.timed else {}
            data = Sequences.from_arrays([np.full(shape, value)], **times)
            scaled = model.scaled_to(data)
            for key, prior in scaled.priors.items():
                start = scaled.start(data)[key]
                assert prior.log_prob(start).isfinite(), key
                if key == "observation_variance":
                    assert (start >= 0.1 * (value**2 or 1)).all()


def test_silent_components_are_told_apart_in_any_unit() -> None:
    """A straight line through its own slope, and one that leaves it by a thousandth."""
    model = LinearGaussianSSM(LocalLinearTrend(smooth=True, fixed_slope=True, initial_variance=1.0))
    for unit in (1e-9, 1.0, 1e9):
        given = model.with_parameters(observation_variance=unit**2)
        data = Sequences.from_arrays([unit * np.arange(5.0)])
        line = torch.stack([unit * torch.arange(5.0), torch.full((5,), unit)], -1)[None]
        bent = line.clone()
        bent[0, 3, 0] += 1e-3 * unit
        laws = given.laws({}, data)
        assert laws.chain_log_prob(line).isfinite().all()
        assert (laws.chain_log_prob(bent) == -math.inf).all()
        assert (laws.log_next(bent[:, 3], bent[:, 2], 2) == -math.inf).all()
        exact = model.with_parameters(observation_variance=0).laws({}, data)
        assert exact.score(data.values, line).isfinite().all()
        assert (exact.score(data.values, bent) == -math.inf).all()


def test_one_number_for_one_feature_is_no_axis_of_steps() -> None:
    model = LinearGaussianSSM(LinearDynamics(1), intercept=True)
    one = model.with_parameters(intercept=[0.5], observation_variance=[2.0])
    assert one.known["intercept"].shape == ()
    assert one.known["observation_variance"].shape == ()
    over = model.with_parameters(intercept=[0.5, 1.0])
    assert over.known["intercept"].shape == (2,)


def test_data_keep_their_digits_beside_single_parameters() -> None:
    values = {"level_variance": torch.tensor(0.1), "observation_variance": torch.tensor(0.2)}
    single = {name: value.float() for name, value in values.items()}
    model, y = LinearGaussianSSM(LocalLevel()), np.random.default_rng(0).normal(size=20)
    y = np.round(y * 2**16) / 2**16
    near, far = (Sequences.from_arrays([y + offset]) for offset in (0.0, OFFSET))
    found = [laws_evidence(model.laws(single, data)) for data in (near, far)]
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1])
