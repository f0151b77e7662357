"""Linear-Gaussian models against the joint normal law of all states and observations."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

import oracles_linear as oracle
from beliefzoo.models import (
    Autoregressive,
    Cycle,
    Dynamics,
    GaussianBelief,
    LinearDynamics,
    LinearGaussianSSM,
    LinearSDE,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Seasonal,
    Sequences,
    load_model,
    save_model,
)
from beliefzoo.models.continuous.linear_trajectories import NormalNoise, affine_scan
from linear_cases import LENGTHS, MODELS, covariance, full_model, generator, some_data, written_out


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[LinearGaussianSSM, Sequences]:
    return MODELS[request.param]


def paths_for(model: LinearGaussianSSM, data: Sequences) -> Tensor:
    return torch.from_numpy(generator(3).normal(size=(len(data), data.max_length, model.states)))


def test_densities_of_trajectories_and_observations_are_those_of_the_joint_law(
    case: tuple[LinearGaussianSSM, Sequences],
) -> None:
    model, data = case
    laws, paths = model.laws({}, data), paths_for(*case)
    chain, emitted = laws.chain_log_prob(paths), laws.emission_log_prob(paths)
    for n, length in enumerate(LENGTHS):
        law = oracle.joint(written_out(laws, n))
        z, y = paths[n, :length].numpy().reshape(-1), data.arrays()[n].reshape(-1)
        seen = law.states + np.flatnonzero(~np.isnan(y))
        both = np.concatenate([np.arange(law.states), seen])
        value = np.concatenate([z, y[~np.isnan(y)]])
        marginal = oracle.log_density(
            z, law.mean[: law.states], law.covariance[: law.states, : law.states]
        )
        joint = oracle.log_density(value, law.mean[both], law.covariance[np.ix_(both, both)])
        assert float(chain[n]) == pytest.approx(marginal, abs=1e-9)
        assert float(chain[n] + emitted[n]) == pytest.approx(joint, abs=1e-9)


def test_densities_step_by_step_sum_to_those_of_trajectories(
    case: tuple[LinearGaussianSSM, Sequences],
) -> None:
    model, data = case
    laws, paths = model.laws({}, data), paths_for(*case)
    several = torch.stack([paths, paths + 0.1])
    inside = data.step_mask
    chain, emitted = laws.log_first(several[:, :, 0]), torch.zeros(2, len(data))
    for t in range(data.max_length):
        if t:
            step = laws.log_next(several[:, :, t], several[:, :, t - 1], t - 1)
            chain = chain + step * inside[:, t]
        emitted = emitted + laws.log_step(several[:, :, t], t)
    torch.testing.assert_close(chain, laws.chain_log_prob(several))
    torch.testing.assert_close(emitted, laws.emission_log_prob(several).to(emitted))


def test_padding_and_missing_elements_count_for_nothing(
    case: tuple[LinearGaussianSSM, Sequences],
) -> None:
    model, data = case
    paths = paths_for(*case)
    wild = torch.where(data.step_mask.unsqueeze(-1), paths, 1e6)
    laws = model.laws({}, data)
    assert torch.equal(laws.chain_log_prob(paths), laws.chain_log_prob(wild))
    assert torch.equal(laws.emission_log_prob(paths), laws.emission_log_prob(wild))


def test_draws_have_the_mean_and_covariance_of_the_joint_law() -> None:
    """400 000 draws of 12 numbers: a deviation of 5 standard errors, 3e-5 by chance in 60 tests."""
    model = full_model()
    laws = model.laws({}, model.sample(1, 4, seed=0).data)
    law = oracle.joint(written_out(laws, 0))
    many = model.sample(400_000, 4, seed=5)
    flat = torch.cat([many.states.flatten(1), many.data.values.flatten(1)], -1).double().numpy()
    kept = np.concatenate([np.arange(8), np.arange(8, 12)])
    mean, spread = law.mean[kept], law.covariance[np.ix_(kept, kept)]
    deviation = flat[:, kept].mean(0) - mean
    error = np.sqrt(spread.diagonal() / len(flat))
    assert (np.abs(deviation) < 5 * error).all()
    found = np.cov(flat[:, kept].T)
    sizes = np.sqrt(spread.diagonal()[:, None] * spread.diagonal() + spread**2)
    assert (np.abs(found - spread) < 5 * sizes / math.sqrt(len(flat))).all()


def test_draws_of_steps_are_draws_of_the_moves() -> None:
    """100 000 draws of two numbers: 5 standard errors, 1e-6 by chance each."""
    laws = full_model().laws({}, some_data())
    z = torch.tensor([0.5, -1.0], dtype=torch.float64).expand(100_000, 3, 2)
    for drawn, mean, spread in (
        (laws.draw_first(100_000), laws.initial_mean[0], laws.initial_covariance[0]),
        (
            laws.draw_next(z, 1),
            laws.transition[0, 0] @ z[0, 0] + laws.offset[0, 0],
            laws.noise[0, 0],
        ),
    ):
        error = (spread.diagonal() / 100_000).sqrt()
        assert ((drawn[:, 0].mean(0) - mean).abs() < 5 * error).all()
        off = torch.cov(drawn[:, 0].mT) - spread
        assert (off.abs() < 0.02 * spread.diagonal().max()).all()


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_affine_scan_is_the_loop(varying: bool, steps: int) -> None:
    matrix = torch.randn(2, steps - 1 if varying and steps > 1 else 1, 3, 3).double() / 2
    shift, first = torch.randn(4, 2, steps - 1, 3).double(), torch.randn(4, 2, 3).double()
    z = [first]
    for t in range(steps - 1):
        here = matrix[:, t if varying else 0]
        z.append((here @ z[-1].unsqueeze(-1)).squeeze(-1) + shift[:, :, t])
    torch.testing.assert_close(affine_scan(matrix, shift, first), torch.stack(z, 2))


def test_the_program_scores_what_the_laws_score() -> None:
    model, data = MODELS["full"]
    paths = paths_for(model, data)
    conditioned = poutine.condition(model, {"states": paths})
    trace = poutine.trace(conditioned).get_trace(data)
    trace.compute_log_prob()
    laws = model.laws({}, data)
    got = trace.nodes["states"]["log_prob"] + trace.nodes["obs"]["log_prob"]
    torch.testing.assert_close(got, laws.chain_log_prob(paths) + laws.emission_log_prob(paths))


def test_the_program_draws_parameters_states_and_observations() -> None:
    model = LinearGaussianSSM(LinearDynamics(2), 3)
    pyro.set_rng_seed(0)
    trace = poutine.trace(model).get_trace(some_data(), observe=False)
    assert set(model.parameter_names) <= set(trace.nodes)
    assert trace.nodes["states"]["value"].shape == (3, 5, 2)
    assert trace.nodes["obs"]["value"].shape == (3, 5, 3)


# Components without noise


def test_a_smooth_trend_has_the_density_of_its_slope() -> None:
    dynamics = LocalLinearTrend(smooth=True, initial_variance=4.0)
    model = LinearGaussianSSM(dynamics).with_parameters(slope_variance=0.5, observation_variance=1)
    slope = torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64)
    level = torch.tensor([1.0, 1.3, 1.4], dtype=torch.float64)
    path = torch.stack([level, slope], -1)[None]
    laws = model.laws({}, Sequences.from_arrays([[0.0, 0.0, 0.0]]))
    expected = torch.distributions.Normal(0, 2).log_prob(path[0, 0]).sum()
    expected = expected + torch.distributions.Normal(0, 0.5**0.5).log_prob(slope.diff()).sum()
    assert float(laws.chain_log_prob(path)) == pytest.approx(float(expected))
    path[0, 2, 0] += 0.01
    assert float(laws.chain_log_prob(path)) == -math.inf


def test_drawn_trajectories_of_a_singular_law_can_be_scored() -> None:
    dynamics = LocalLinearTrend(smooth=True, initial_variance=4.0) + Seasonal(
        4, initial_variance=1.0
    )
    known = {"slope_variance": 0.5, "seasonal_variance": 0.1, "observation_variance": 0.0}
    for dtype in (torch.float32, torch.float64):
        model = LinearGaussianSSM(dynamics).with_parameters(**known)
        drawn = model.sample(3, 50, seed=0)
        data = Sequences.from_tensors(drawn.data.values.to(dtype))
        values = {name: value.to(dtype) for name, value in model.known.items()}
        laws = LinearGaussianSSM(dynamics).laws(values, data)
        paths = drawn.states.to(dtype)
        assert laws.chain_log_prob(paths).isfinite().all()
        assert (laws.emission_log_prob(paths) == 0).all()  # seen without noise
        assert (laws.emission_log_prob(paths + 0.1) == -math.inf).all()


def test_a_singular_noise_that_is_not_along_components_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^noise: needs a covariance that is positive definite"):
        NormalNoise(torch.ones(1, 1, 2, 2), "noise")


def test_gradients_stay_finite_beside_silent_components() -> None:
    dynamics = LocalLinearTrend(smooth=True, initial_variance=4.0)
    variance = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    laws = LinearGaussianSSM(dynamics).laws(
        {"slope_variance": variance, "observation_variance": torch.ones((), dtype=torch.float64)},
        Sequences.from_arrays([[0.0, math.nan, 0.0]]),
    )
    laws.chain_log_prob(laws.sample_states().detach()).sum().backward()
    assert variance.grad is not None
    assert bool(variance.grad.isfinite())


# Flat first states


def test_the_flat_density_is_the_limit_of_wide_normal_laws() -> None:
    """log N(z; 0, κ I) + ½ q log κ tends to the density of the flat law."""
    path = torch.tensor([[[0.3, -0.2], [0.5, 0.1]]], dtype=torch.float64)
    data, kappa = Sequences.from_arrays([[0.0, 0.0]]), 1e12
    known = {"level_variance": 0.3, "slope_variance": 0.5, "observation_variance": 1.0}
    found = []
    for dynamics in (LocalLinearTrend(), LocalLinearTrend(initial_variance=kappa)):
        laws = LinearGaussianSSM(dynamics).with_parameters(**known).laws({}, data)
        found.append(float(laws.chain_log_prob(path)))
    assert found[0] == pytest.approx(found[1] + math.log(kappa), abs=1e-9)


def test_a_flat_first_state_beside_a_proper_one() -> None:
    model = LinearGaussianSSM(LocalLevel() + Autoregressive(1)).with_parameters(
        level_variance=0.3, ar_partial=[0.6], ar_variance=0.64, observation_variance=1.0
    )
    laws = model.laws({}, Sequences.from_arrays([[0.0]]))
    got = float(laws.log_first(torch.tensor([[7.0, 0.5]], dtype=torch.float64)))
    expected = -0.5 * math.log(2 * math.pi) + float(
        torch.distributions.Normal(0, 1).log_prob(torch.tensor(0.5))
    )
    assert got == pytest.approx(expected)


def test_nothing_is_drawn_from_a_flat_law() -> None:
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1, observation_variance=1
    )
    with pytest.raises(ValueError, match=r"initial: draws of the states need a proper law"):
        model.sample(1, 3)


# Known values


def test_known_covariances_become_variances_and_correlations() -> None:
    model = full_model()
    laws = model.laws({}, some_data())
    rng = generator(1)
    rng.normal(size=(2, 2)), rng.normal(size=2)
    torch.testing.assert_close(laws.noise[0, 0], torch.from_numpy(covariance(rng, 2)))


def test_matrices_may_vary_over_time() -> None:
    rng = generator(4)
    steps = 6
    moves = {
        "transition": rng.normal(size=(steps - 1, 2, 2)) / 2,
        "process_covariance": np.stack([covariance(rng, 2) for _ in range(steps - 1)]),
        "loading": rng.normal(size=(steps, 1, 2)),
        "observation_variance": rng.uniform(0.1, 1, steps),
        "intercept": rng.normal(size=steps),
    }
    model = LinearGaussianSSM(LinearDynamics(2, correlated=True)).with_parameters(
        **moves, initial_mean=[0, 0], initial_covariance=np.eye(2)
    )
    data = Sequences.from_arrays([rng.normal(size=4), rng.normal(size=2)])
    laws = model.laws({}, data)
    for name, part in (
        ("transition", laws.transition),
        ("process_covariance", laws.noise),
        ("loading", laws.loading),
    ):
        torch.testing.assert_close(part[0], torch.from_numpy(moves[name][: part.shape[1]]))
    assert laws.transition.shape == (1, 3, 2, 2)
    torch.testing.assert_close(
        laws.observation_noise[0, :, 0, 0], torch.from_numpy(moves["observation_variance"][:4])
    )
    model.check(data)
    with pytest.raises(ValueError, match=r"known for \d step"):
        model.check(Sequences.from_arrays([rng.normal(size=7)]))


def test_variances_may_be_known_as_zero_and_no_less() -> None:
    model = LinearGaussianSSM(LocalLevel())
    assert float(model.with_parameters(level_variance=0).known["level_variance"]) == 0
    with pytest.raises(ValueError, match="level_variance"):
        model.with_parameters(level_variance=-1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"process_covariance": [[1.0, 0.5], [0.5, 1.0]]}, "process_covariance: needs a law with"),
        ({"process_covariance": [[1.0, 2.0], [2.0, 1.0]]}, "needs a symmetric positive definite"),
        ({"process_covariance": [[1.0, 2.0], [0.0, 9.0]]}, "needs a symmetric positive definite"),
        ({"process_covariance": [1.0, 2.0]}, r"needs shape \(2, 2\)"),
        ({"process_covariance": np.eye(2), "process_variance": [1, 1]}, "stands for variances"),
        ({"transition": np.eye(3)}, r"transition: needs shape \(2, 2\)"),
        ({"observation_variance": [1.0, np.inf, 1.0]}, "observation_variance: needs finite"),
        ({"level_variance": 1.0}, "level_variance: needs the name of a parameter"),
    ],
)
def test_bad_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearGaussianSSM(LinearDynamics(2), 3).with_parameters(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dynamics", "options", "message"),
    [
        (3, {}, "dynamics: must be a law of linear dynamics"),
        (LocalLevel(), {"features": 2}, r"features: LocalLevel is a law of 1 observed"),
        (LinearDynamics(2, inputs=1), {"inputs": 2}, "inputs: dynamics and emission read"),
        (LinearDynamics(2), {"features": 0}, "features: must be a whole number >= 1"),
    ],
)
def test_bad_models_are_refused(dynamics: Dynamics, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearGaussianSSM(dynamics, **options)  # type: ignore[arg-type]


def test_a_stationary_start_needs_a_stable_transition() -> None:
    model = LinearGaussianSSM(LinearDynamics(1, initial="stationary"))
    values = {"process_variance": [1.0], "loading": [[1.0]], "observation_variance": 1.0}
    stable = model.with_parameters(transition=[[0.6]], intercept=0.0, **values)
    laws = stable.laws({}, some_data(1))
    assert float(laws.initial_covariance) == pytest.approx(1 / (1 - 0.36))
    with pytest.raises(ValueError, match="transition: a stationary first state needs eigenvalues"):
        model.with_parameters(transition=[[1.0]], intercept=0.0, **values).laws({}, some_data(1))


def test_axes_of_draws_are_refused() -> None:
    model = LinearGaussianSSM(LocalLevel())
    values = {"level_variance": torch.ones(7), "observation_variance": torch.ones(7)}
    with pytest.raises(ValueError, match=r"level_variance: needs one value of shape \(\)"):
        model.laws(values, some_data(1))


# Around a model


ALL_DYNAMICS: dict[str, tuple[Dynamics, int]] = {
    "linear": (LinearDynamics(2, offset=True), 3),
    "correlated": (LinearDynamics(3, correlated=True), 2),
    "sde": (LinearSDE(2, correlated=True, initial="stationary"), 3),
    "ou": (OrnsteinUhlenbeck(), 1),
    "ou_free": (OrnsteinUhlenbeck(2, stationary=False), 2),
    "cycle": (LocalLevel() + Cycle(), 1),
    "trend": (LocalLinearTrend() + Seasonal(4, name="year") + Autoregressive(2), 1),
}


@pytest.mark.parametrize("name", ALL_DYNAMICS)
def test_starts_lie_inside_the_support_and_give_laws(name: str) -> None:
    dynamics, features = ALL_DYNAMICS[name]
    model = LinearGaussianSSM(dynamics, features)
    data = some_data(features, times=model.timed)
    model = model.scaled_to(data)
    values = model.start(data)
    assert set(values) == set(model.priors)
    for key, prior in model.priors.items():
        assert prior.log_prob(values[key]).isfinite(), key
        assert len(model.parameter_dims()[key]) == len(prior.event_shape), key
    laws = model.laws(values, data)
    assert laws.chain_log_prob(torch.zeros(3, 5, model.states, dtype=torch.float64)).shape == (3,)


@pytest.mark.parametrize("name", ALL_DYNAMICS)
def test_models_are_saved_and_loaded_whole(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    dynamics, features = ALL_DYNAMICS[name]
    model = LinearGaussianSSM(dynamics, features)
    data = some_data(features, times=model.timed)
    model = model.scaled_to(data)
    model = model.with_parameters(**model.start(data))
    again = load_model(save_model(model, tmp_path / "model.pt"))
    assert isinstance(again, LinearGaussianSSM)
    assert again.dynamics == model.dynamics
    assert again.emission == model.emission
    assert all(torch.equal(again.known[key], value) for key, value in model.known.items())


def test_priors_move_to_the_scale_of_the_data() -> None:
    model = LinearGaussianSSM(LocalLevel())
    data = Sequences.from_arrays([1e3 * generator().normal(size=200)])
    median = model.scaled_to(data).priors["observation_variance"].base_dist.loc.exp()  # type: ignore[attr-defined]
    assert 0.5e6 < float(median) < 2e6


def test_beliefs_are_full_for_small_states_only() -> None:
    assert LinearGaussianSSM(LinearDynamics(16)).belief == GaussianBelief(16, full=True)
    assert LinearGaussianSSM(LinearDynamics(17)).belief == GaussianBelief(17, full=False)


def test_data_of_another_kind_are_refused() -> None:
    model = LinearGaussianSSM(LocalLevel())
    with pytest.raises(ValueError, match=r"LinearGaussianSSM needs 1 feature\(s\), got 3"):
        model.check(some_data(3))
    with pytest.raises(ValueError, match="LinearDynamics"):
        LinearGaussianSSM(LinearDynamics(1, inputs=2)).check(some_data(1))
