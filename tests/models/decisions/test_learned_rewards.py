"""Rewards that are learned: the bound of their noise, units, and starts drawn at random."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import lognorm

from beliefzoo.models import POMDP, Categorical, Sequences, Uniform, tiger
from beliefzoo.models.chains.actions import ActionEmission
from beliefzoo.models.priors import AtLeast
from beliefzoo.models.randomness import seeded


def episodes(count: int = 40, length: int = 10, seed: int = 0) -> Sequences:
    return tiger().rollout(Uniform(), count, length, seed=seed).data


def unknown(**options: object) -> POMDP:
    return POMDP(2, 2, actions=3, reward="learned", **options)  # type: ignore[arg-type]


def law(model: object) -> ActionEmission:
    assert isinstance(model, POMDP)
    return model.law


def test_a_scale_above_a_bound_is_a_shifted_law() -> None:
    prior = AtLeast(dist.LogNormal(0.3, 0.8), 0.25)
    x = torch.tensor([0.3, 1.0, 4.0])
    expected = lognorm(0.8, loc=0.25, scale=math.exp(0.3)).logpdf(x.numpy())
    torch.testing.assert_close(
        prior.log_prob(x).double(), torch.tensor(expected), rtol=1e-5, atol=0
    )
    with seeded(0):
        drawn = prior.sample(torch.Size([1000]))
    assert float(drawn.min()) > 0.25
    assert prior.expand((3,)).sample().shape == (3,)


@pytest.mark.parametrize(("unit", "offset"), [(1.0, 0.0), (1e-3, 0.0), (1e3, 0.0), (1.0, -1e6)])
def test_the_bound_is_a_tenth_of_the_spread_at_most(unit: float, offset: float) -> None:
    """Rewards of opening a door differ by 110, twice their spread."""
    data = episodes()
    assert data.rewards is not None
    scaled = replace(data, rewards=data.rewards * unit + offset)
    spread = float(data.rewards.std(correction=0)) * unit
    found = law(unknown().scaled_to(scaled))
    assert found.least_scale == pytest.approx(0.1 * spread, rel=1e-9)
    assert found.reward_spread == pytest.approx(spread, rel=1e-9)
    prior = unknown().scaled_to(scaled).priors["reward_scale"]
    assert prior.support.lower_bound == pytest.approx(0.1 * spread)  # type: ignore[union-attr]


def test_the_bound_keeps_values_apart_that_are_close() -> None:
    """Rewards 0 and .1 of one action beside 100 of the other: a tenth of .1."""
    rewards = torch.tensor([[0.0, 0.1, 100.0] * 10], dtype=torch.float64)
    actions = torch.tensor([[0, 0, 1] * 10])
    blank = ActionEmission(Categorical(2), 2, first=True, rewards=True)
    data = Sequences.from_arrays(
        torch.zeros(1, 30).numpy(), codes=True, actions=actions.numpy(), rewards=rewards.numpy()
    )
    found = blank.scaled_to(data)
    assert isinstance(found, ActionEmission)
    assert found.least_scale == pytest.approx(0.01, rel=1e-9)
    noisy = replace(data, rewards=rewards + 1e-3 * torch.rand(1, 30))  # as if drawn, no values
    found = blank.scaled_to(noisy)
    assert isinstance(found, ActionEmission)
    assert found.least_scale == pytest.approx(0.01 * float(rewards.std(correction=0)), rel=1e-3)


def test_constant_rewards_have_a_unit_of_one() -> None:
    data = episodes()
    assert data.rewards is not None
    for value in (0.0, 0.1, 1e9):  # the spread of .1 is rounding
        found = law(
            unknown().scaled_to(replace(data, rewards=torch.full_like(data.rewards, value)))
        )
        assert (found.reward_location, found.reward_spread) == (pytest.approx(value), 1.0)


def test_known_noise_and_other_priors_may_be_below_the_bound() -> None:
    model = unknown().scaled_to(episodes())
    assert float(model.with_parameters(reward_scale=1e-6).known["reward_scale"]) == 1e-6
    with pytest.raises(ValueError, match="reward_scale: needs values in"):
        model.with_parameters(reward_scale=-1.0)
    unknown(priors={"reward_scale": dist.LogNormal(0.0, 1.0)})
    with pytest.raises(ValueError, match="needs Greater"):
        unknown(priors={"reward_scale": dist.Normal(0.0, 1.0)})


def test_a_likelihood_without_bound_is_named() -> None:
    data = episodes()
    own = unknown(priors={"reward_scale": dist.LogNormal(0.0, 1.0)}).scaled_to(data)
    with pytest.warns(UserWarning, match="likelihood grows without bound"):
        own.start(data)
    bounded = unknown(priors={"reward_scale": AtLeast(dist.LogNormal(0.0, 1.0), 0.1)})
    noise = torch.randn(data.rewards.shape, generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr]
    assert data.rewards is not None
    noisy = replace(data, rewards=data.rewards + noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bounded.scaled_to(data).start(data)
        own.start(noisy)
        unknown().scaled_to(data).start(data)


@pytest.mark.parametrize(("unit", "offset"), [(1e3, 0.0), (1e-3, 0.0), (1.0, 1e4)])
def test_rewards_far_from_their_prior_are_named(unit: float, offset: float) -> None:
    data = episodes()
    assert data.rewards is not None
    other = replace(data, rewards=data.rewards * unit + offset)
    with pytest.warns(UserWarning, match=r"far from their prior .*scaled_to\(data\)"):
        unknown().start(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unknown().scaled_to(other).start(other)
        unknown().start(data)  # units of 1 are near enough


def test_the_m_step_counts() -> None:
    """Against loops over steps: with sure labels, the shares and means of what was counted."""
    data, model = episodes(30, 8), unknown().scaled_to(episodes(30, 8))
    states = tiger().rollout(Uniform(), 30, 8, seed=0).states
    hot = torch.nn.functional.one_hot(states, 2).double()
    assert data.actions is not None
    assert data.rewards is not None
    moves, told = torch.zeros(3, 2, 2).double(), torch.zeros(3, 2, 2).double()
    for n in range(30):
        for t in range(7):
            action, now, then = int(data.actions[n, t]), int(states[n, t]), int(states[n, t + 1])
            moves[action, now, then] += 1
            told[action, then, int(data.values[n, t + 1])] += 1
    assert model.m_step is not None
    found = model.m_step(data, hot, moves)
    torch.testing.assert_close(found["transition"], moves / moves.sum(-1, True), atol=5e-3, rtol=0)
    # A visit more, shared as all observations, is in the shares of symbols.
    torch.testing.assert_close(found["probs"], told / told.sum(-1, True), atol=3e-2, rtol=0)
    expected = torch.tensor(tiger().tables().reward)
    torch.testing.assert_close(found["reward"], expected, atol=5e-3, rtol=0)
    assert float(found["reward_scale"]) == pytest.approx(1.01 * model.law.least_scale)
    warm = model.m_step(data, hot, moves, 0.5)
    assert float(warm["reward_scale"]) == pytest.approx(0.5 * model.law.reward_spread)


def test_drawn_starts_differ() -> None:
    data = episodes()
    model = unknown().scaled_to(data)
    with seeded(1):
        one, other = model.start_from_frames(data), model.start_from_frames(data)
    for name in ("transition", "probs", "reward"):
        assert float((one[name] - other[name]).abs().max()) > 0.05
    # Listening costs 1 in either state: that is not drawn.
    torch.testing.assert_close(one["reward"][0], torch.full((2,), -1.0).double(), atol=0.1, rtol=0)
