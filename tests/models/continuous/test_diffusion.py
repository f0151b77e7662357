"""Linear stochastic differential equations: exact moves between irregular times."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import oracles_linear as oracle
from beliefzoo.models import (
    LinearDynamics,
    LinearGaussianSSM,
    LinearSDE,
    OrnsteinUhlenbeck,
    Sequences,
)
from beliefzoo.models.continuous.diffusion import discretised

DRIFTS = {
    "damped": [[-0.5, 1.0], [-1.0, -0.2]],
    "zero": [[0.0, 0.0], [0.0, 0.0]],
    "singular": [[0.0, 1.0], [0.0, 0.0]],
    "stiff": [[-80.0, 3.0], [0.0, -0.1]],
    "growing": [[0.3, 0.0], [0.2, -0.4]],
}
CONSTANT = np.array([0.7, -0.2])
DIFFUSION = np.array([[1.0, 0.3], [0.3, 0.5]])


def timed(times: list[list[float]]) -> Sequences:
    return Sequences.from_arrays([np.zeros(len(row)) for row in times], times=times)


@pytest.mark.parametrize("name", DRIFTS)
@pytest.mark.parametrize("gap", [1e-6, 0.01, 0.5, 3.0])
def test_moves_are_the_integrals(name: str, gap: float) -> None:
    drift = np.array(DRIFTS[name])
    found = discretised(
        *map(torch.from_numpy, (drift, CONSTANT, DIFFUSION)),
        torch.tensor([gap], dtype=torch.float64),
    )
    expected = oracle.discretised(drift, CONSTANT, DIFFUSION, gap)
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(got[0], right, rtol=1e-9, atol=1e-12 * gap)


def test_an_integrated_walk_has_its_known_covariance() -> None:
    """dz = v dt, dv = dW: Var z = Δ³/3, right to the last digits for the smallest gaps too."""
    for gap in (1e-5, 1.0, 1e3):
        drift, diffusion = (
            torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
            torch.diag(torch.tensor([0.0, 1.0])),
        )
        a, b, q = discretised(
            drift, torch.zeros(2), diffusion, torch.tensor([gap], dtype=torch.float64)
        )
        np.testing.assert_allclose(a[0], [[1, gap], [0, 1]], rtol=1e-14)
        np.testing.assert_allclose(q[0], [[gap**3 / 3, gap**2 / 2], [gap**2 / 2, gap]], rtol=1e-12)
        assert not b.any()


def test_two_gaps_are_one() -> None:
    given = [torch.tensor(x, dtype=torch.float64) for x in (DRIFTS["damped"], CONSTANT, DIFFUSION)]
    a, b, q = discretised(*given, torch.tensor([0.7, 1.9, 2.6], dtype=torch.float64))
    torch.testing.assert_close(a[1] @ a[0], a[2])
    torch.testing.assert_close(a[1] @ b[0] + b[1], b[2])
    torch.testing.assert_close(a[1] @ q[0] @ a[1].mT + q[1], q[2])


def test_a_long_gap_forgets_everything() -> None:
    """Van Loan's formula in one piece overflows here."""
    given = [torch.tensor(x, dtype=torch.float64) for x in (DRIFTS["stiff"], CONSTANT, DIFFUSION)]
    dynamics = LinearSDE(2, correlated=True, initial="stationary", offset=True)
    model = LinearGaussianSSM(dynamics).with_parameters(
        drift=given[0],
        drift_offset=given[1],
        diffusion_covariance=given[2],
        loading=[[1.0, 0.0]],
        observation_variance=1.0,
    )
    laws = model.laws({}, timed([[0.0, 1000.0]]))
    assert laws.transition.abs().max() < 1e-30
    torch.testing.assert_close(laws.noise[0, 0], laws.initial_covariance[0])
    torch.testing.assert_close(laws.offset[0, 0], laws.initial_mean[0])
    balance = given[0] @ laws.initial_covariance[0]
    torch.testing.assert_close(balance + balance.mT + given[2], torch.zeros(2, 2).double())


def test_moves_are_differentiable() -> None:
    given = [torch.tensor(x, dtype=torch.float64) for x in (DRIFTS["damped"], CONSTANT, DIFFUSION)]
    gap = torch.tensor([0.3, 4.0], dtype=torch.float64)
    for part in given:
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, c, s: discretised(f, c, s, gap), given)


@pytest.mark.parametrize("stationary", [True, False])
def test_an_ornstein_uhlenbeck_process_is_a_linear_equation(stationary: bool) -> None:
    rate, mean, variance = 0.7, 1.5, 2.0
    own = (
        {"stationary_variance": variance}
        if stationary
        else {
            "diffusion_variance": 2 * rate * variance,
            "initial_mean": mean,
            "initial_variance": variance,
        }
    )
    process = LinearGaussianSSM(OrnsteinUhlenbeck(stationary=stationary)).with_parameters(
        rate=rate, mean=mean, observation_variance=1.0, **own
    )
    general = LinearGaussianSSM(LinearSDE(1, initial="stationary", offset=True)).with_parameters(
        drift=[[-rate]],
        drift_offset=[rate * mean],
        diffusion_variance=[2 * rate * variance],
        loading=[[1.0]],
        observation_variance=1.0,
    )
    data = timed([[0.0, 0.5, 0.75, 10.0], [3.0, 3.001]])
    one, other = process.laws({}, data), general.laws({}, data)
    for name in ("initial_mean", "initial_covariance", "transition", "offset", "noise"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), msg=name)


def test_small_gaps_keep_their_digits() -> None:
    """v (1 − e^{−2θΔ}) for θΔ = 1e-14 is 2 v θ Δ."""
    model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=1e-9, mean=0.0, stationary_variance=3.0, observation_variance=1.0
    )
    noise = model.laws({}, timed([[0.0, 1e-5]])).noise
    assert float(noise) == pytest.approx(6e-14, rel=1e-12)


def test_a_slow_process_is_a_random_walk() -> None:
    model = LinearGaussianSSM(OrnsteinUhlenbeck(stationary=False))
    values = {
        "rate": torch.tensor(1e-13, dtype=torch.float64, requires_grad=True),
        **{
            name: torch.tensor(x, dtype=torch.float64)
            for name, x in (
                ("mean", 0.0),
                ("diffusion_variance", 2.0),
                ("initial_mean", 0.0),
                ("initial_variance", 1.0),
                ("observation_variance", 1.0),
            )
        },
    }
    laws = model.laws(values, timed([[0.0, 1.5]]))
    assert laws.noise.item() == pytest.approx(3.0, rel=1e-12)
    assert laws.transition.item() == pytest.approx(1.0, rel=1e-12)
    (slope,) = torch.autograd.grad(laws.noise.sum(), values["rate"])
    assert float(slope) == pytest.approx(-2.0 * 1.5**2, rel=1e-9)  # σ²Δ (1 − θΔ + …)


def test_uniform_gaps_are_a_model_in_discrete_time() -> None:
    drift = torch.tensor(DRIFTS["damped"], dtype=torch.float64)
    known = {"loading": [[1.0, 0.5]], "observation_variance": 0.3, "intercept": 0.0}
    first = {"initial_mean": [0.0, 0.0], "initial_variance": [1.0, 1.0]}
    continuous = LinearGaussianSSM(LinearSDE(2)).with_parameters(
        drift=drift, diffusion_variance=[1.0, 0.5], **first, **known
    )
    data = timed([list(0.25 * np.arange(9)), list(10 + 0.25 * np.arange(4))])
    laws = continuous.laws({}, data)
    assert laws.transition.shape == (1, 1, 2, 2)
    a, _, q = oracle.discretised(drift.numpy(), np.zeros(2), np.diag([1.0, 0.5]), 0.25)
    discrete = LinearGaussianSSM(LinearDynamics(2, correlated=True)).with_parameters(
        transition=a,
        process_covariance=q,
        initial_mean=[0, 0],
        initial_covariance=np.eye(2),
        **known,
    )
    path = torch.randn(2, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(
        laws.chain_log_prob(path),
        discrete.laws({}, data).chain_log_prob(path),
        rtol=1e-9,
        atol=1e-9,
    )


def shapes(times: list[list[float]]) -> tuple[int, ...]:
    model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=1.0, mean=0.0, stationary_variance=1.0, observation_variance=1.0
    )
    transition: Tensor = model.laws({}, timed(times)).transition
    return tuple(transition.shape[:2])


def test_matrices_are_shared_where_gaps_are() -> None:
    assert shapes([[0.0, 1.0, 2.0, 3.0], [5.0, 6.0]]) == (1, 1)
    assert shapes([[0.0, 1.0, 3.0], [5.0, 6.0, 8.0]]) == (1, 2)
    assert shapes([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]]) == (2, 1)
    assert shapes([[0.0, 1.0, 3.0], [5.0, 7.0, 8.0]]) == (2, 2)
    assert shapes([[4.0]]) == (1, 1)


def test_simulations_have_the_autocovariance_of_the_process() -> None:
    """20 000 pairs; the error of a product of standard normal numbers is 1.4 / √20 000 = .01."""
    model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=0.8, mean=5.0, stationary_variance=1.0, observation_variance=0.1
    )
    z = model.sample(20_000, 2, times=[0.0, 1.3], seed=1).states[..., 0] - 5
    assert float(z.prod(-1).mean()) == pytest.approx(math.exp(-0.8 * 1.3), abs=0.05)
    assert float(z.square().mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("dynamics", [OrnsteinUhlenbeck(), LinearSDE(1)])
def test_times_are_needed_and_must_increase(dynamics: LinearSDE | OrnsteinUhlenbeck) -> None:
    model, name = LinearGaussianSSM(dynamics), type(dynamics).__name__
    with pytest.raises(ValueError, match=f"data.times: {name} needs the time of every step"):
        model.check(Sequences.from_arrays([[1.0, 2.0]]))
    still = Sequences.from_arrays(
        [[1.0, 2.0], [1.0, 2.0, 3.0]], times=[[0, 1], [0, 1, 1]], labels=["a", "b"]
    )
    with pytest.raises(ValueError, match=r"got 1\.0 after 1\.0 in sequence 'b', step 2"):
        model.check(still)
    with pytest.raises(ValueError, match="times"):
        model.sample(1, 3)


def test_a_stationary_start_needs_a_drift_that_returns() -> None:
    model = LinearGaussianSSM(LinearSDE(1, initial="stationary")).with_parameters(
        drift=[[0.0]],
        diffusion_variance=[1.0],
        loading=[[1.0]],
        intercept=0.0,
        observation_variance=1.0,
    )
    with pytest.raises(ValueError, match="drift: a stationary first state needs eigenvalues"):
        model.laws({}, timed([[0.0, 1.0]]))
