"""Structural components: their matrices, their limits, and the published likelihoods."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov, toeplitz

import oracles_linear as oracle
from beliefzoo.models import (
    Autoregressive,
    Cycle,
    Dynamics,
    LinearDynamics,
    LinearGaussianSSM,
    LinearLaws,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Seasonal,
    Sequences,
)
from beliefzoo.models.continuous.structural import ar_coefficients, partial_autocorrelations
from linear_cases import written_out

NOTHING = Sequences.from_arrays([np.zeros(6)])


def laws_of(dynamics: Dynamics, **known: object) -> LinearLaws:
    model = LinearGaussianSSM(dynamics, intercept=False)
    return model.with_parameters(observation_variance=1.0, **known).laws({}, NOTHING)  # type: ignore[arg-type]


def pattern(laws: LinearLaws, start: list[float], steps: int) -> np.ndarray:
    """What is observed of a state that moves without noise."""
    z, seen = np.array(start), []
    for _ in range(steps):
        seen.append((laws.loading[0, 0].numpy() @ z).item())
        z = laws.transition[0, 0].numpy() @ z
    return np.array(seen)


def test_a_trend_without_noise_is_a_line() -> None:
    laws = laws_of(LocalLinearTrend(), level_variance=0.0, slope_variance=0.0)
    np.testing.assert_allclose(pattern(laws, [1.0, 0.5], 5), 1 + 0.5 * np.arange(5))


def test_dummy_seasons_repeat_and_sum_to_zero() -> None:
    laws = laws_of(Seasonal(4), seasonal_variance=0.3)
    seen = pattern(laws, [1.0, -2.0, 0.5], 12)
    np.testing.assert_allclose(seen[:4], seen[4:8])
    np.testing.assert_allclose([seen[i : i + 4].sum() for i in range(8)], 0, atol=1e-12)
    np.testing.assert_allclose(laws.noise[0, 0], np.diag([0.3, 0, 0]))


@pytest.mark.parametrize(("period", "harmonics", "size"), [(12, 6, 11), (52.18, 2, 4), (7, 3, 6)])
def test_harmonics_repeat_after_the_period(period: float, harmonics: int, size: int) -> None:
    dynamics = Seasonal(period, harmonics=harmonics)
    assert dynamics.states == size == len(dynamics.components)
    laws = laws_of(dynamics, seasonal_variance=0.3)
    start = np.arange(1.0, size + 1)
    cosines, sines = start[::2], np.append(start[1::2], 0)
    t = np.arange(30)[:, None]
    angle = 2 * np.pi * np.arange(1, harmonics + 1) * t / period
    expected = (np.cos(angle) * cosines + np.sin(angle) * sines[:harmonics]).sum(1)
    np.testing.assert_allclose(pattern(laws, start.tolist(), 30), expected, atol=1e-12)


def test_all_harmonics_span_the_dummy_seasons() -> None:
    """Without noise both say the same of what repeats, up to the volume of their coordinates."""
    rng = np.random.default_rng(0)
    y = np.tile(rng.normal(size=4), 5)[:, None] + 0.3 * rng.normal(size=(20, 1))
    data, smoothed = Sequences.from_arrays([y]), []
    for dynamics in (
        Seasonal(4, initial_variance=1e6),
        Seasonal(4, harmonics=2, initial_variance=1e6),
    ):
        model = LinearGaussianSSM(dynamics, intercept=False).with_parameters(
            seasonal_variance=0.0, observation_variance=0.09
        )
        x = written_out(model.laws({}, data), 0)
        mean, _ = oracle.smoothed(x, y)
        smoothed.append((x.c @ mean[..., None])[:, 0, 0])
    np.testing.assert_allclose(*smoothed, atol=1e-4)


@pytest.mark.parametrize("coefficient", [[0.6], [-0.9], [1.2, -0.5], [0.4, 0.2, -0.3, 0.1]])
def test_autoregressions_start_from_their_stationary_law(coefficient: list[float]) -> None:
    order = len(coefficient)
    laws = laws_of(Autoregressive(order), ar_coefficient=coefficient, ar_variance=0.7)
    a, q = laws.transition[0, 0].numpy(), laws.noise[0, 0].numpy()
    np.testing.assert_allclose(a[0], coefficient, rtol=1e-12)
    expected = solve_discrete_lyapunov(a, q)
    np.testing.assert_allclose(laws.initial_covariance[0], expected, rtol=1e-9)
    np.testing.assert_allclose(expected, toeplitz(expected[0]), rtol=1e-9)


def test_an_autoregression_of_order_one() -> None:
    laws = laws_of(Autoregressive(1), ar_partial=[0.8], ar_variance=0.9)
    assert float(laws.initial_covariance) == pytest.approx(0.9 / (1 - 0.64))
    assert float(laws.transition) == pytest.approx(0.8)


def test_partial_autocorrelations_are_those_of_the_autocovariances() -> None:
    """The last coefficient of the best linear prediction from k lags, k = 1, 2, 3."""
    partial = torch.tensor([0.5, -0.3, 0.7], dtype=torch.float64)
    laws = laws_of(Autoregressive(3), ar_partial=partial, ar_variance=1.0)
    covariance = laws.initial_covariance[0].numpy()
    a = laws.transition[0, 0].numpy()
    gamma = np.append(covariance[0], (a @ covariance)[0, 2])
    for k in range(1, 4):
        best = np.linalg.solve(toeplitz(gamma[:k]), gamma[1 : k + 1])
        assert best[-1] == pytest.approx(float(partial[k - 1]))


def test_coefficients_and_partial_autocorrelations_are_inverse() -> None:
    partial = torch.tensor([0.9, -0.8, 0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(partial_autocorrelations(ar_coefficients(partial)), partial)


@pytest.mark.parametrize("coefficient", [[1.0], [0.5, 0.5], [0.2, 0.3, -1.1]])
def test_autoregressions_that_are_not_stationary_are_refused(coefficient: list[float]) -> None:
    model = LinearGaussianSSM(Autoregressive(len(coefficient)))
    with pytest.raises(ValueError, match="ar_coefficient: needs coefficients of a stationary law"):
        model.with_parameters(ar_coefficient=coefficient)


def test_a_cycle_is_stationary() -> None:
    laws = laws_of(Cycle(), cycle_damping=0.9, cycle_frequency=0.4, cycle_variance=0.5)
    a, q = laws.transition[0, 0].numpy(), laws.noise[0, 0].numpy()
    expected = solve_discrete_lyapunov(a, q)
    np.testing.assert_allclose(laws.initial_covariance[0], expected, rtol=1e-9, atol=1e-12)
    t = np.arange(8)
    np.testing.assert_allclose(pattern(laws, [1.0, 0.0], 8), 0.9**t * np.cos(0.4 * t), rtol=1e-9)


def test_a_sum_is_independent_laws_side_by_side() -> None:
    dynamics = LocalLinearTrend(smooth=True) + Seasonal(3) + Autoregressive(1)
    assert dynamics.components == ("level", "slope", "seasonal", "seasonal_lag1", "ar")
    laws = laws_of(
        dynamics, slope_variance=0.2, seasonal_variance=0.3, ar_partial=[0.5], ar_variance=3
    )
    np.testing.assert_allclose(
        laws.transition[0, 0],
        [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, -1, -1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0.5]],
    )
    np.testing.assert_allclose(laws.noise[0, 0], np.diag([0, 0.2, 0.3, 0, 3]))
    np.testing.assert_allclose(laws.loading[0, 0], [[1, 0, 1, 0, 1]])
    np.testing.assert_allclose(laws.diffuse, np.eye(5)[:, :4])
    np.testing.assert_allclose(laws.initial_covariance[0], np.diag([0, 0, 0, 0, 4]))


def test_a_local_level_is_a_linear_law_of_one_state() -> None:
    level = LinearGaussianSSM(LocalLevel(initial_variance=7.0)).with_parameters(
        level_variance=0.3, observation_variance=2.0
    )
    free = LinearGaussianSSM(LinearDynamics(1), intercept=False).with_parameters(
        transition=[[1.0]],
        process_variance=[0.3],
        initial_mean=[0.0],
        initial_variance=[7.0],
        loading=[[1.0]],
        observation_variance=2.0,
    )
    path = torch.randn(1, 6, 1, dtype=torch.float64)
    for one, other in zip(
        (level.laws({}, NOTHING).chain_log_prob(path), level.laws({}, NOTHING).score(path, path)),
        (free.laws({}, NOTHING).chain_log_prob(path), free.laws({}, NOTHING).score(path, path)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


# Published likelihoods, by the joint normal law


def series(shared_data, file: str, column: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    table = np.genfromtxt(shared_data / "series" / file, delimiter=",", skip_header=1)
    return table[:, [column]]


@pytest.mark.parametrize(
    ("dynamics", "known", "published"),
    [
        (
            LocalLevel(),
            {"observation_variance": 4.256647886e-06, "level_variance": 0.1182078808},
            -71.89136,
        ),
        (
            LocalLinearTrend(),
            {
                "observation_variance": 1.339852549e-06,
                "level_variance": 0.01008704925,
                "slope_variance": 0.0609176081,
            },
            -32.99428,
        ),
        (
            LocalLinearTrend(smooth=True),
            {"observation_variance": 0.0008824099, "slope_variance": 0.0753064234},
            -33.76049,
        ),
    ],
)
def test_unemployment_has_the_published_likelihoods(  # type: ignore[no-untyped-def]
    shared_data, dynamics: Dynamics, known: dict[str, float], published: float
) -> None:
    header = (shared_data / "series" / "us_macrodata.csv").read_text().splitlines()[0].split(",")
    column = [name.strip('"') for name in header].index("unemp")
    y = series(shared_data, "us_macrodata.csv", column)
    model = LinearGaussianSSM(dynamics).with_parameters(**known)
    laws = model.laws({}, Sequences.from_arrays([y]))
    found = oracle.diffuse_log_evidence(written_out(laws, 0), laws.diffuse.numpy(), y)
    assert found == pytest.approx(published, abs=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Seasonal(4.5), "period: must be a whole number >= 2 without harmonics"),
        (lambda: Seasonal(12, harmonics=7), "harmonics: must be <= period / 2"),
        (lambda: Seasonal(1.5, harmonics=1), "period: must be a number > 2"),
        (lambda: Autoregressive(0), "order: must be a whole number >= 1"),
        (lambda: Autoregressive(1, initial_variance=1.0), "an autoregression starts stationary"),
        (lambda: Cycle(shortest=5, longest=4), "shortest, longest: must be"),
        (lambda: LocalLevel(initial_variance=-1), "initial_variance: must be a finite number > 0"),
        (lambda: LocalLevel(name="a b"), "name: must be letters"),
        (
            lambda: Seasonal(4) + Seasonal(7),
            r"need different names for their laws, got \['seasonal'",
        ),
        (lambda: LocalLevel() + LocalLinearTrend(), r"different names for their parameters"),
        (lambda: LocalLevel() + LinearDynamics(1), "a sum needs laws of one observed series"),
        (
            lambda: LocalLevel() + OrnsteinUhlenbeck(),
            "all be in discrete or all in continuous time",
        ),
    ],
)
def test_bad_components_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_two_seasons_with_names() -> None:
    dynamics = Seasonal(7, name="week") + Seasonal(365.25, harmonics=3, name="year")
    names = set(LinearGaussianSSM(dynamics).priors)
    assert {"week_variance", "year_variance"} < names
    assert math.isclose(LinearGaussianSSM(dynamics).states, 12)
