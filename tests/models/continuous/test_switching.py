"""Switching linear models: densities against loops, draws, starts, coincidences, bad input."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

import oracles_switching as slow
from beliefzoo.models import (
    InputTransition,
    Sequences,
    SwitchingLinearSSM,
    load_model,
    save_model,
)
from switching_cases import as_oracle, known_model, ragged

KINDS = {
    "plain": {},
    "recurrent": {"recurrent": True},
    "emission": {"switching_emission": True, "noise": "full"},
    "single": {"regimes": 1},
    "scalar": {"dimensions": 1, "features": 1},
    "wide": {"regimes": 3, "dimensions": 3, "features": 2},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def log_normal(x, mean, covariance):
    error = np.atleast_1d(x - mean)
    covariance = np.atleast_2d(covariance)
    log_scale = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * (error @ np.linalg.inv(covariance) @ error + log_scale)


def textbook(model, path, z, y):
    """log p(s, z) and log p(y | s, z), term by term."""
    some = as_oracle(model)
    recurrence = model.known.get("recurrence", torch.zeros(model.regimes, model.dimensions)).numpy()
    chain = np.log(some.initial[path[0]])
    chain += log_normal(z[0], some.initial_mean, some.initial_covariance)
    for t in range(len(path) - 1):
        logits = np.log(some.transition[path[t]]) + recurrence @ z[t]
        chain += logits[path[t + 1]] - np.log(np.exp(logits).sum())
        k = path[t + 1]
        chain += log_normal(z[t + 1], some.dynamics[k] @ z[t] + some.drift[k], some.noise[k])
    emission = 0.0
    for t, k in enumerate(path):
        mean = some.loading[k] @ z[t] + some.intercept[k]
        for f in np.flatnonzero(~np.isnan(y[t])):
            emission += log_normal(y[t, f], mean[f], some.observation_noise[k][f, f])
    return chain, emission


@kinds
def test_densities_are_the_textbook_sums(kind):
    model = known_model(**kind)
    states, data = ragged(model)
    laws = model.laws({}, data)
    regimes, z = laws.split(states)
    chain, emission = laws.chain_log_prob(states), laws.emission_log_prob(states)
    for n, length in enumerate(data.lengths.tolist()):
        path = regimes[n, :length].tolist()
        expected = textbook(model, path, z[n, :length].numpy(), data.arrays()[n])
        assert (float(chain[n]), float(emission[n])) == pytest.approx(expected, abs=1e-10)


@kinds
def test_steps_add_up_to_the_whole(kind):
    model = known_model(**kind)
    _, data = ragged(model)
    laws = model.laws({}, data)
    many = torch.stack([laws.sample_states() for _ in range(3)])
    chain = laws.log_first(many[..., 0, :])
    emission = laws.log_step(many[..., 0, :], 0)
    for t in range(1, data.max_length):
        step = laws.log_next(many[..., t, :], many[..., t - 1, :], t - 1)
        chain = chain + torch.where(data.step_mask[:, t], step, 0)
        emission = emission + laws.log_step(many[..., t, :], t)
    torch.testing.assert_close(chain, laws.chain_log_prob(many))
    torch.testing.assert_close(emission, laws.emission_log_prob(many))
    assert laws.draw_next(laws.draw_first(4), 0).shape == (4, 3, model.states)


def test_one_regime_is_the_linear_gaussian_model():
    model = known_model(1)
    states, data = ragged(model)
    z = states[..., 1:]
    mean, covariance = slow.states_given(as_oracle(model), (0,) * 5)
    expected = log_normal(z[0].numpy().flatten(), mean, covariance)
    assert float(model.laws({}, data).chain_log_prob(states)[0]) == pytest.approx(expected)


def test_without_recurrence_the_recurrent_model_is_the_other():
    plain = known_model()
    recurrent = SwitchingLinearSSM(2, 2, 2, recurrent=True).with_parameters(
        recurrence=torch.zeros(2, 2), **plain.known
    )
    states, data = ragged(plain)
    both = [model.laws({}, data).chain_log_prob(states) for model in (plain, recurrent)]
    torch.testing.assert_close(*both)


def test_padding_adds_nothing():
    model = known_model()
    states, data = ragged(model)
    longer = Sequences.from_tensors(
        torch.nn.functional.pad(data.values, (0, 0, 0, 4)),
        torch.nn.functional.pad(data.mask, (0, 0, 0, 4)),
        data.lengths,
    )
    padded = torch.nn.functional.pad(states, (0, 0, 0, 4))
    for name in ("chain_log_prob", "emission_log_prob"):
        short = getattr(model.laws({}, data), name)(states)
        torch.testing.assert_close(short, getattr(model.laws({}, longer), name)(padded))


def test_missing_values_leave_no_trace_in_the_gradient():
    model = known_model()
    states, data = ragged(model)
    loading = model.known["loading"].clone().requires_grad_()
    free = SwitchingLinearSSM(2, 2, 2).with_parameters(
        **{name: value for name, value in model.known.items() if name != "loading"}
    )
    free.laws({"loading": loading}, data).emission_log_prob(states).sum().backward()
    assert loading.grad is not None
    assert bool(loading.grad.isfinite().all())


def test_simulation_has_the_moments_of_the_chain_of_linear_gaussian_steps():
    """Means over 20 000 sequences of three steps; each of 18 checks fails with probability 6e-5."""
    model = known_model(seed=3)
    some = as_oracle(model)
    drawn = model.sample(20_000, 3, seed=0)
    regimes, z = model.laws({}, drawn.data).split(drawn.states)
    weight = some.initial
    shares = [weight, weight @ some.transition, weight @ some.transition @ some.transition]
    first = (some.initial_mean, some.initial_covariance)
    for t in range(3):
        share = np.bincount(regimes[:, t].numpy(), minlength=2) / 20_000
        np.testing.assert_allclose(share, shares[t], atol=4 * 0.5 / math.sqrt(20_000))
    moved = z[:, 1] - torch.einsum("nij,nj->ni", model.known["dynamics"][regimes[:, 1]], z[:, 0])
    for k in range(2):
        here = moved[regimes[:, 1] == k].numpy()
        error = np.sqrt(np.diag(some.noise[k]) / len(here))
        np.testing.assert_array_less(np.abs(here.mean(0) - some.drift[k]), 4 * error)
        spread = np.diag(some.noise[k])
        np.testing.assert_allclose(here.var(0), spread, rtol=4 * math.sqrt(2 / len(here)))
    error = np.sqrt(np.diag(first[1]) / 20_000)
    np.testing.assert_array_less(np.abs(z[:, 0].numpy().mean(0) - first[0]), 4 * error)
    left = drawn.data.values - z @ model.known["loading"].mT - model.known["intercept"]
    spread = model.known["observation_scale"].numpy()
    np.testing.assert_allclose(left[:, 1].std(0), spread, rtol=4 / math.sqrt(2 * 20_000))


@kinds
def test_the_program_has_the_density_of_its_parts(kind):
    model = known_model(**kind)
    free = SwitchingLinearSSM(
        model.regimes,
        model.dimensions,
        model.features,
        recurrent=model.recurrent,
        switching_emission=model.switching_emission,
        noise=model.noise,
    )
    states, data = ragged(model)
    values = {name: value.float().double() for name, value in model.known.items()}
    if "noise_correlation_factor" in values:
        values["noise_correlation_factor"] = model.known["noise_correlation_factor"]
    fixed = poutine.condition(free, {**values, "states": states})
    with pyro.validation_enabled(False):
        got = poutine.trace(fixed).get_trace(data).log_prob_sum()
    laws = free.laws(values, data)
    expected = (laws.chain_log_prob(states) + laws.emission_log_prob(states)).sum()
    expected = expected + sum(free.priors[name].log_prob(value) for name, value in values.items())
    torch.testing.assert_close(got, expected)
    drawn = poutine.trace(model).get_trace(data, observe=False)
    assert drawn.nodes["states"]["value"].shape == (3, 5, model.states)


@kinds
def test_parameters_have_axes_and_starts_inside_their_support(kind):
    known = known_model(**kind)
    free = SwitchingLinearSSM(
        known.regimes,
        known.dimensions,
        known.features,
        recurrent=known.recurrent,
        switching_emission=known.switching_emission,
        noise=known.noise,
    )
    _, data = ragged(known, (30, 20, 1))
    model = free.scaled_to(data)
    dims = model.parameter_dims()
    assert tuple(dims) == model.parameter_names
    for name, prior in model.priors.items():
        assert len(prior.event_shape) == len(dims[name])
    start = model.start(data)
    assert set(start) == set(model.priors)
    assert model.with_parameters(**start).known.keys() == start.keys()


def test_the_start_tells_regimes_apart_that_move_differently():
    """Two rotations in opposite directions, seen directly; regimes up to their names."""
    turn = math.pi / 8
    c, s = math.cos(turn), math.sin(turn)
    truth = SwitchingLinearSSM(2, 2, 2).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.98, 0.02], [0.02, 0.98]],
        dynamics=[[[c, -s], [s, c]], [[c, s], [-s, c]]],
        drift=torch.zeros(2, 2),
        noise_scale=torch.full((2, 2), 0.05),
        initial_mean=[1.0, 0.0],
        initial_scale=[0.1, 0.1],
        loading=torch.eye(2),
        intercept=[0.0, 0.0],
        observation_scale=[0.02, 0.02],
    )
    data = truth.sample(4, 200, seed=0).data
    model = SwitchingLinearSSM(2, 2, 2).with_parameters(loading=torch.eye(2), intercept=[0.0, 0.0])
    found = model.scaled_to(data).start(data)["dynamics"]
    error = min(
        float((found[list(order)] - truth.known["dynamics"]).abs().max())
        for order in ((0, 1), (1, 0))
    )
    assert error < 0.05


def test_a_saved_model_is_the_same(tmp_path):
    data = Sequences.from_tensors(torch.randn(2, 9, 2), inputs=torch.randn(2, 9, 1))
    model = SwitchingLinearSSM(
        2, 3, 2, recurrent=True, noise="full", transition=InputTransition(1, sticky=3.0)
    ).with_parameters(loading=torch.ones(2, 3))
    model = model.scaled_to(data)
    back = load_model(save_model(model, tmp_path / "model.pt"))
    assert back.configuration == model.configuration
    torch.testing.assert_close(back.known["loading"], model.known["loading"])
    assert repr(back) == repr(model)


def test_inputs_drive_the_regimes():
    model = SwitchingLinearSSM(2, 1, 1, transition=InputTransition(1))
    plain = known_model(2, 1, 1)
    weight = torch.tensor([[[0.0], [50.0]], [[50.0], [0.0]]])
    model = model.with_parameters(**plain.known, transition_weight=weight)
    inputs = torch.ones(1, 6, 1)
    drawn = model.sample(1, 6, seed=0, inputs=inputs)
    regimes, _ = model.laws({}, drawn.data).split(drawn.states)
    assert (regimes[:, 1:] != regimes[:, :-1]).all()  # the input forces a change at every step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regimes": 0, "dimensions": 1}, "regimes: must be a whole number >= 1"),
        ({"regimes": 2, "dimensions": 1.5}, "dimensions: must be a whole number"),
        ({"regimes": 1, "dimensions": 1, "recurrent": True}, "recurrent: needs at least 2 regimes"),
        ({"regimes": 2, "dimensions": 1, "noise": "low"}, "noise: must be 'diagonal' or 'full'"),
        ({"regimes": 2, "dimensions": 1, "transition": 3}, "transition: must be a transition law"),
        ({"regimes": 2, "dimensions": 2, "unit": (1.0, -1.0)}, "unit: must be finite and > 0"),
        ({"regimes": 2, "dimensions": 2, "spread": (1.0, 1.0, 1.0)}, "spread: needs one number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwitchingLinearSSM(**arguments)


def test_bad_data_and_parameters():
    model = known_model(1)
    with pytest.raises(ValueError, match="needs 2 feature"):
        model.check(Sequences.from_arrays([np.zeros((4, 3))]))
    with pytest.raises(ValueError, match="a single regime has no chain"):
        model.with_parameters(transition=[[1.0]])
    with pytest.raises(ValueError, match="noise_scale: needs values in"):
        model.with_parameters(noise_scale=[[0.0, 1.0]])
