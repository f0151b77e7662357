"""Exact inference for linear-Gaussian models against the joint normal law and published figures."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import oracles_linear as oracle
from beliefzoo.experiments.data.loaders import load_nile
from beliefzoo.inference.checking.innovations import innovation_tests
from beliefzoo.inference.queries import answers as queries
from beliefzoo.inference.queries import linear as linear_queries
from beliefzoo.models import (
    Autoregressive,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Seasonal,
    Sequences,
)
from linear_cases import MODELS, some_data, written_out

Case = tuple[LinearGaussianSSM, Sequences]


def structural() -> Case:
    """A proper first state, singular noise, and steps that are missing."""
    dynamics = (
        LocalLinearTrend(smooth=True, initial_variance=2.0)
        + Seasonal(3, initial_variance=1.0)
        + Autoregressive(2)
    )
    model = LinearGaussianSSM(dynamics).with_parameters(
        slope_variance=0.3,
        seasonal_variance=0.1,
        ar_coefficient=[0.5, 0.2],
        ar_variance=0.4,
        observation_variance=0.2,
    )
    return model, some_data(1)


CASES = {**MODELS, "structural": structural()}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


FUTURE = 3


def told(case: Case) -> dict[str, torch.Tensor]:
    """What a forecast is told of the steps ahead."""
    model, data = case
    out, rng = {}, np.random.default_rng(9)
    if model.inputs:
        out["inputs"] = torch.from_numpy(rng.normal(size=(len(data), FUTURE, model.inputs)))
    if model.timed:
        assert data.times is not None
        out["times"] = data.times[:, -1:] + torch.tensor([0.5, 1.5, 1.75], dtype=torch.float64)
    return out


@every_case
def test_simulated_continuations_have_the_forecast_law(case: Case) -> None:
    """40 000 draws, mean to 5 standard errors (6e-7 by chance a number), variance to 7 of them."""
    model, data = case
    ahead = queries.forecast(model, data, FUTURE, draws=40_000, seed=3, **told(case))
    error = (ahead.variance / 40_000).sqrt()
    assert ((ahead.draws.mean(0) - ahead.mean).abs() < 5 * error).all()
    assert ((ahead.draws.var(0) / ahead.variance - 1).abs() < 7 * math.sqrt(2 / 40_000)).all()
    low, high = ahead.quantile(0.05), ahead.quantile(0.95)
    inside = ((ahead.draws > low) & (ahead.draws < high)).double().mean(0)
    assert ((inside - 0.9).abs() < 5 * math.sqrt(0.09 / 40_000)).all()


def test_successive_steps_of_a_continuation_belong_together() -> None:
    """A random walk without observation noise: increments of variance 0.5, 40 000 draws."""
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=0.5, observation_variance=0.0
    )
    data = Sequences.from_arrays([[1.0, 2.0, 4.0]])
    ahead = queries.forecast(model, data, 3, draws=40_000, seed=0)
    increments = ahead.draws[:, 0, :, 0].diff(dim=1)
    assert ((increments.var(0) - 0.5).abs() < 7 * 0.5 * math.sqrt(2 / 40_000)).all()
    torch.testing.assert_close(ahead.variance[0, :, 0], torch.tensor([0.5, 1, 1.5]).double())


def test_posterior_trajectories_have_the_smoothed_moments() -> None:
    """40 000 draws: means to 5 standard errors, 6e-7 by chance a number."""
    for case in (CASES["full"], CASES["structural"]):
        model, data = case
        drawn = queries.sample_states(model, data, 40_000, seed=0)
        smoothed = queries.smooth(model, data)
        variance = smoothed.covariance.diagonal(dim1=-2, dim2=-1)
        deviation = (drawn.mean(0) - smoothed.mean).abs()
        assert (deviation <= 5 * (variance / 40_000).sqrt() + 1e-12).all()
        assert ((drawn.var(0) - variance).abs() <= 7 * variance * math.sqrt(2 / 4e4) + 1e-12).all()


def test_components_add_up_to_what_is_observed() -> None:
    model, data = CASES["structural"]
    found = linear_queries.components(model, data)
    assert list(found) == ["trend", "seasonal", "ar"]
    smoothed = queries.smooth(model, data)
    signal = smoothed.mean @ model.dynamics.loading[0]
    torch.testing.assert_close(sum(part.mean for part in found.values()), signal)
    torch.testing.assert_close(found["trend"].mean, smoothed.mean[..., 0])
    torch.testing.assert_close(found["ar"].variance, smoothed.covariance[..., 4, 4])
    with pytest.raises(ValueError, match="model: needs structural components"):
        linear_queries.components(*CASES["full"])


def test_a_missing_end_is_a_shorter_sequence() -> None:
    model, _ = CASES["full"]
    y = np.random.default_rng(0).normal(size=(6, 3))
    y[4:] = np.nan
    long, short = Sequences.from_arrays([y]), Sequences.from_arrays([y[:4]])
    torch.testing.assert_close(
        queries.log_evidence(model, long), queries.log_evidence(model, short)
    )
    torch.testing.assert_close(
        queries.smooth(model, long).mean[:, :4], queries.smooth(model, short).mean
    )


# Coincidences


def test_continuous_time_at_uniform_gaps_is_discrete_time() -> None:
    rate, mean, variance, gap = 0.6, 2.0, 1.5, 0.4
    y = np.random.default_rng(1).normal(size=30)
    data = Sequences.from_arrays([y], times=[gap * np.arange(30)])
    process = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=rate, mean=mean, stationary_variance=variance, observation_variance=0.5
    )
    decay = math.exp(-rate * gap)
    discrete = LinearGaussianSSM(LinearDynamics(1, offset=True)).with_parameters(
        transition=[[decay]],
        offset=[mean * (1 - decay)],
        process_variance=[variance * (1 - decay**2)],
        initial_mean=[mean],
        initial_variance=[variance],
        loading=[[1.0]],
        observation_variance=0.5,
    )
    torch.testing.assert_close(
        queries.log_evidence(process, data), queries.log_evidence(discrete, data)
    )
    one, other = queries.filter(process, data), queries.filter(discrete, data)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(one.covariance, other.covariance, rtol=0, atol=1e-8)


def test_steps_at_which_nothing_is_seen_only_pass_time() -> None:
    """A process observed at 0 and 3 is the same with unobserved times in between."""
    model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=0.6, mean=2.0, stationary_variance=1.5, observation_variance=0.5
    )
    few = Sequences.from_arrays([[1.0, 3.0]], times=[[0.0, 3.0]])
    many = Sequences.from_arrays([[1.0, np.nan, np.nan, 3.0]], times=[[0.0, 1.2, 2.9, 3.0]])
    torch.testing.assert_close(queries.log_evidence(model, few), queries.log_evidence(model, many))


def test_flat_seasons_are_the_same_in_both_forms() -> None:
    rng = np.random.default_rng(0)
    data = Sequences.from_arrays([np.tile(rng.normal(size=4), 5) + 0.3 * rng.normal(size=20)])
    signals = []
    for season in (Seasonal(4), Seasonal(4, harmonics=2)):
        model = LinearGaussianSSM(LocalLevel() + season).with_parameters(
            level_variance=0.1, seasonal_variance=0.0, observation_variance=0.1
        )
        signals.append(linear_queries.components(model, data)["seasonal"])
    torch.testing.assert_close(signals[0].mean, signals[1].mean)
    torch.testing.assert_close(signals[0].variance, signals[1].variance)


def test_flat_evidence_is_the_integral_over_the_first_state() -> None:
    model = LinearGaussianSSM(LocalLinearTrend() + Seasonal(3) + Autoregressive(1))
    model = model.with_parameters(
        level_variance=0.2,
        slope_variance=0.1,
        seasonal_variance=0.3,
        ar_partial=[0.4],
        ar_variance=0.5,
        observation_variance=0.6,
    )
    y = np.random.default_rng(4).normal(size=(9, 1))
    y[[0, 3]] = np.nan
    data = Sequences.from_arrays([y])
    laws = model.laws({}, data)
    expected = oracle.diffuse_log_evidence(written_out(laws, 0), laws.diffuse.numpy(), y)
    assert float(queries.log_evidence(model, data)) == pytest.approx(expected, abs=1e-9)


# The flow of the Nile, local level (Durbin & Koopman 2012, chapter 2)


def nile_model(dynamics: LocalLevel | None = None) -> LinearGaussianSSM:
    model = LinearGaussianSSM(dynamics or LocalLevel())
    return model.with_parameters(level_variance=1469.1, observation_variance=15099.0)


def test_nile_in_four_conventions() -> None:
    data, model = load_nile(), nile_model()
    exact = float(queries.log_evidence(model, data))
    assert exact == pytest.approx(-633.4646, abs=1e-4)
    assert exact + 0.5 * math.log(2 * math.pi) == pytest.approx(-632.5456, abs=1e-4)
    steps = queries.step_log_likelihood(model, data)
    assert float(steps[0, 1:].sum()) == pytest.approx(-632.5456, abs=1e-4)
    proper = nile_model(LocalLevel(initial_variance=1e7))
    assert float(queries.log_evidence(proper, data)) == pytest.approx(-641.5856, abs=1e-4)


def test_nile_smoothed_levels() -> None:
    smoothed = queries.smooth(nile_model(), load_nile())
    level, variance = smoothed.mean[0, :, 0], smoothed.covariance[0, :, 0, 0]
    assert level[[0, -1]].tolist() == pytest.approx([1111.668, 798.3703], abs=1e-3)
    assert variance[[0, -1]].tolist() == pytest.approx([4032.158, 4032.158], abs=1e-3)


def test_nile_with_missing_stretches() -> None:
    """Figures of statsmodels 0.14, with its exact and with its approximate flat first level.

    The latter is N(0, 1e6), whose first term is left out of the likelihood.
    """
    y = load_nile().values[0, :, 0].double().numpy().copy()
    y[20:40] = y[60:80] = np.nan
    data = Sequences.from_arrays([y])
    exact, wide = nile_model(), nile_model(LocalLevel(initial_variance=1e6))
    assert float(queries.log_evidence(exact, data)) == pytest.approx(-381.5060013, abs=1e-6)
    steps = queries.step_log_likelihood(wide, data)
    assert float(steps[0, 1:].sum()) == pytest.approx(-380.57875, abs=1e-5)
    for model, level in ((exact, [990.083526, 893.791945]), (wide, [990.0654, 893.7818])):
        smoothed = queries.smooth(model, data)
        assert smoothed.mean[0, [20, 30], 0].tolist() == pytest.approx(level, abs=1e-4)
        assert float(smoothed.covariance[0, 30, 0, 0]) == pytest.approx(9715.005, abs=1e-3)


def test_nile_diagnostics_of_the_innovations() -> None:
    """Durbin & Koopman (2012), section 2.12, as in statsmodels' tests."""
    found = innovation_tests(nile_model(), load_nile())
    assert int(found.used) == 99
    assert float(found.ljung_box) == pytest.approx(8.84, abs=0.01)
    assert float(found.skewness) == pytest.approx(-0.03, abs=5e-3)
    assert float(found.kurtosis) == pytest.approx(3.09, abs=5e-3)
    assert float(found.heteroskedasticity) == pytest.approx(0.61, abs=5e-3)
    # The tails of χ²(9), of two normals and of F(33, 33) at these figures.
    p_values = {name: float(p) for name, p in found.p_values().items()}
    assert p_values["ljung_box"] == pytest.approx(stats.chi2(9).sf(8.84), abs=2e-3)
    assert p_values["skewness"] == pytest.approx(math.erfc(0.03 * math.sqrt(99 / 12)), abs=0.02)
    assert p_values["kurtosis"] == pytest.approx(math.erfc(0.09 * math.sqrt(99 / 48)), abs=0.01)
    assert p_values["heteroskedasticity"] == pytest.approx(2 * stats.f(33, 33).cdf(0.61), abs=5e-3)
    shown = str(found).splitlines()
    assert shown[0] == "nile: 99 innovations"
    assert shown[1].split()[:3] == ["Ljung-Box,", "9", "lags"]
    assert float(shown[1].split()[3]) == pytest.approx(8.84, abs=0.01)
    assert len(shown) == 5


def test_p_values_of_a_true_model_are_uniform() -> None:
    """Of 400 series, 5 % are below 0.05: 20 ± 4.4, and at most 42 but for a chance of 1e-6."""
    model = LinearGaussianSSM(LocalLevel(initial_variance=4.0)).with_parameters(
        level_variance=0.5, observation_variance=1.0
    )
    found = innovation_tests(model, model.sample(400, 300, seed=1).data, lags=4)
    for p_values in found.p_values().values():
        assert p_values.shape == (400, 1)
        assert int((p_values < 0.05).sum()) <= 42
        assert abs(float(p_values.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / 400) + 0.02


def test_innovations_of_a_true_model_are_independent_and_standard() -> None:
    """2000 series of 100 steps: n ρ̂² and moments to 5 standard errors, some 1e-6 by chance each."""
    model = LinearGaussianSSM(LocalLevel(initial_variance=4.0)).with_parameters(
        level_variance=0.5, observation_variance=1.0
    )
    data = model.sample(2000, 100, seed=0).data
    innovations = linear_queries.standardised_innovations(model, data)[..., 0]
    count = innovations.numel()
    assert abs(float(innovations.mean())) < 5 / math.sqrt(count)
    assert abs(float(innovations.square().mean()) - 1) < 5 * math.sqrt(2 / count)
    product = innovations[:, 1:] * innovations[:, :-1]
    assert abs(float(product.mean())) < 5 / math.sqrt(count)
    box = innovation_tests(model, data[:200]).ljung_box
    assert abs(float(box.mean()) - 9) < 5 * math.sqrt(18 / 200)


# Bad input


def test_forecasts_need_their_inputs_and_times() -> None:
    model, data = CASES["inputs"]
    with pytest.raises(ValueError, match=r"inputs: forecasting needs .*\(3, 2, 2\), got None"):
        queries.forecast(model, data, 2)
    model, data = CASES["sde"]
    with pytest.raises(ValueError, match=r"times: forecasting needs .*\(3, 2\), got None"):
        queries.forecast(model, data, 2)
    with pytest.raises(ValueError, match="times"):
        queries.forecast(model, data, 2, times=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="steps: must be a whole number >= 1, got 0"):
        queries.forecast(model, data, 0, times=torch.zeros(3, 2))


def test_diagnostics_need_enough_innovations() -> None:
    data = Sequences.from_arrays([np.arange(20.0), np.arange(5.0)], labels=["a", "b"])
    with pytest.raises(ValueError, match=r"got 4 in sequence 1 \('b'\), feature 0"):
        innovation_tests(nile_model(), data)


def test_unknown_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"needs values for .'level_variance'"):
        queries.log_evidence(LinearGaussianSSM(LocalLevel()), load_nile())


def test_quantiles_lie_inside_the_unit_interval() -> None:
    ahead = queries.forecast(nile_model(), load_nile(), 1, draws=1)
    with pytest.raises(ValueError, match=r"q: must be in \(0, 1\), got 1"):
        ahead.quantile(1)


def test_forecasts_of_too_few_data_are_refused() -> None:
    model = LinearGaussianSSM(LocalLinearTrend()).with_parameters(
        level_variance=1.0, slope_variance=1.0, observation_variance=1.0
    )
    with pytest.raises(ValueError, match=r"sequence '?1"):
        queries.forecast(model, Sequences.from_arrays([[1.0, 2.0, 3.0], [1.0]]), 2)
