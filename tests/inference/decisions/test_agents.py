"""Agents trained by sb3-contrib beside its own policies, and the experiment agent-beliefs."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import beliefzoo.experiments.decisions.parts
from beliefzoo.models import (
    POMDP,
    ActionSequence,
    Episodes,
    ExactTracker,
    Sequences,
    Uniform,
    t_maze,
    tiger,
)

pytest.importorskip("sb3_contrib", reason="needs the extra agents")

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from beliefzoo.experiments.decisions.agent_beliefs import (
    PROBLEMS,
    Settings,
    _posterior,
    beliefs,
    run,
    success,
    until_the_end,
    value_of_the_seeing,
    with_bystander,
)
from beliefzoo.experiments.decisions.parts.recurrent_ppo import SideBySide, Training, train
from beliefzoo.inference import POMDPEnv, lstm_readouts
from beliefzoo.inference.arviz_groups import group
from beliefzoo.inference.decisions.agents import RecurrentAgent

HOW = Training(
    steps=64,
    environments=4,
    horizon=8,
    most=12,
    reward_scale=0.1,
    entropy=(0.1, 0.01),
    hidden_size=5,
    forget_bias=1.0,
    gae_lambda=0.9,
    learning_rate=1e-2,
    epochs=2,
    batch_size=16,
)


class Mixed(BaseFeaturesExtractor):
    """A layer between the symbol and the LSTM."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 7)
        self.layer = nn.Sequential(nn.Linear(int(space.n), 7), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def policy_of(model: POMDP, show_action: bool, **layout: Any) -> Any:
    env = POMDPEnv(model, show_action=show_action)
    options: dict[str, Any] = {"lstm_hidden_size": 6, **layout}
    ppo = RecurrentPPO(
        "MlpLstmPolicy", env, n_steps=8, batch_size=8, policy_kwargs=options, device="cpu", seed=3
    )
    with torch.no_grad():  # as if it were trained: at first all actions are about as likely
        ppo.policy.action_net.weight.mul_(200)
    return ppo.policy


@pytest.mark.parametrize("show_action", [False, True])
@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (tiger(), {}),
        (t_maze(3, 0.2), {"net_arch": [], "shared_lstm": True, "enable_critic_lstm": False}),
        (
            t_maze(3, 0.2),
            {
                "n_lstm_layers": 2,
                "features_extractor_class": Mixed,
                "share_features_extractor": False,
            },
        ),
    ],
)
def test_it_acts_as_the_policy_does(
    model: POMDP, layout: dict[str, Any], show_action: bool
) -> None:
    policy = policy_of(model, show_action, **layout)
    agent = RecurrentAgent(policy, model)
    made = model.rollout(agent, 20, 9, seed=1)
    data = made.data
    assert data.actions is not None
    h, c = agent.states(data)
    likeliest = model.rollout(agent.greedily(), 20, 9, seed=1).probabilities
    assert set(likeliest.unique().tolist()) == {0.0, 1.0}
    nothing = int(not model.law.first)
    symbols = model.emission.encoding_size
    for n in range(20):
        state = tuple(torch.zeros(layout.get("n_lstm_layers", 1), 1, 6) for _ in range(2))
        for t in range(9):
            code = int(data.values[n, t]) if bool(data.mask[n, t]) else symbols
            assert bool(data.mask[n, t]) == (t > 0 or not nothing)
            if show_action:
                before = int(data.actions[n, t - 1]) if t else model.actions
                code = code * (model.actions + 1) + before
            with torch.no_grad():
                law, state = policy.get_distribution(torch.tensor([code]), state, torch.zeros(1))
            np.testing.assert_allclose(
                made.probabilities[n, t], law.distribution.probs[0], atol=1e-6
            )
            np.testing.assert_allclose(h[n, t], state[0][-1, 0], atol=1e-6)
            np.testing.assert_allclose(c[n, t], state[1][-1, 0], atol=1e-6)


def test_its_lstm_is_read_like_any_other() -> None:
    model = tiger()
    agent = RecurrentAgent(policy_of(model, True), model)
    made = model.rollout(agent, 30, 12, seed=2, tracker=ExactTracker())
    assert made.beliefs is not None
    found = lstm_readouts(agent.lstm, agent.inputs(made.data), made.beliefs, windows=1)
    assert 0 <= found.window[1].share <= 1


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("policy: must have the parts", lambda: RecurrentAgent(nn.Linear(2, 2), tiger())),  # type: ignore[arg-type]
        (
            "policy: must read the 4 symbols of the process, or 20 with its actions",
            lambda: RecurrentAgent(policy_of(tiger(), True), t_maze(3)),
        ),
        (
            "model: must be of the sizes of",
            lambda: t_maze(3).rollout(RecurrentAgent(policy_of(tiger(), True), tiger()), 1, 2),
        ),
    ],
)
def test_what_is_refused(message: str, act: Any) -> None:
    with pytest.raises(ValueError, match=message):
        act()


def test_what_it_never_saw_is_refused() -> None:
    model = t_maze(2)
    agent = RecurrentAgent(policy_of(model, True), model)
    blank = Sequences.from_arrays([[0, np.nan, 2]], codes=True, actions=[[0, 0, 0]])
    with pytest.raises(ValueError, match=r"data: must be observed at every step, .* got 1 without"):
        agent.states(blank)
    with pytest.raises(ValueError, match=r"data\.actions"):
        agent.states(Sequences.from_arrays([[0, 2, 2]], codes=True))


def test_training_is_reproducible_and_keeps_the_seeds_of_others() -> None:
    model = tiger()
    states = torch.get_rng_state(), random.getstate()
    found = [train(model, HOW, watch=[0, 30], seed=5) for _ in range(2)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert [one.step for one in found[0]] == [0, 32, 64]
    for one, other in zip(*found, strict=True):
        for name, weight in one.agent.lstm.state_dict().items():
            assert torch.equal(weight, other.agent.lstm.state_dict()[name])
    first, _, last = (one.agent.lstm.weight_hh_l0 for one in found[0])
    assert not torch.equal(first, last)
    other = train(model, HOW, watch=[], seed=6)
    assert not torch.equal(other[0].agent.lstm.weight_hh_l0, last)


def test_environments_for_the_trainer_begin_again_at_once() -> None:
    env = SideBySide(tiger(), 3, most=4, reward_scale=0.5, seed=1)
    assert env.reset().tolist() == [11] * 3  # nothing seen, nothing done
    for step in range(1, 9):
        seen, reward, done, told = env.step(np.array([0, 1, 0]))
        assert reward[0] == reward[2] == -0.5
        assert reward[1] in (5, -50)
        assert done.tolist() == [step % 4 == 0] * 3
        if done[0]:
            assert seen.tolist() == [11] * 3
            assert all(one["TimeLimit.truncated"] for one in told)
            assert [one["terminal_observation"] % 4 for one in told] == [0, 1, 0]
        else:
            assert told == [{}, {}, {}]
            assert (seen % 4).tolist() == [0, 1, 0]


def forward(initial: Any, moves: list[Any], told: list[Any]) -> list[Any]:
    """Beliefs of a chain by the textbook recursion; ``told[t]`` are likelihoods of the states."""
    out, belief = [], np.asarray(initial)
    for t, likelihood in enumerate(told):
        if t:
            belief = belief @ moves[t - 1]
        belief = belief * likelihood
        belief = belief / belief.sum()
        out.append(belief)
    return out


@pytest.mark.parametrize("base", [tiger(), t_maze(2, 0.3)])
def test_the_belief_beside_a_bystander_is_a_product(base: POMDP) -> None:
    stay, told = 0.85, 0.7
    model = with_bystander(base, stay, told)
    made = model.rollout(Uniform(), 20, 8, seed=3, tracker=ExactTracker())
    relevant, irrelevant = beliefs(made)
    tables, chain = base.tables(), np.array([[stay, 1 - stay], [1 - stay, stay]])
    assert made.data.actions is not None
    for n in range(20):
        action, seen = made.data.actions[n].tolist(), made.data.values[n].tolist()
        main: list[Any] = [
            tables.observation[a][:, o // 2] for a, o in zip(action, seen[1:], strict=False)
        ]
        side: list[Any] = [[told if u == o % 2 else 1 - told for u in (0, 1)] for o in seen]
        first: Any = np.ones(base.states)
        if base.law.first:
            first = base.known["probs"][-1][:, seen[0] // 2].numpy()
        else:
            side[0] = [1, 1]
        exact = forward(tables.initial, [tables.transition[a] for a in action], [first, *main])
        np.testing.assert_allclose(relevant[n], exact, atol=1e-12)
        np.testing.assert_allclose(
            irrelevant[n], forward([0.5, 0.5], [chain] * 8, side), atol=1e-12
        )
        z = made.states[n] // 2
        paid = base.reward.of(made.data.actions[n, :-1], z[:-1], z[1:])  # type: ignore[union-attr]
        assert made.data.rewards is not None
        assert torch.equal(made.data.rewards[n, :-1], paid)


def test_the_value_of_the_seeing() -> None:
    for length in (
        1,
        4,
        10,
    ):
        assert value_of_the_seeing(t_maze(length)) == pytest.approx(4 * 0.98**length, abs=1e-9)


def rollout_with_beliefs(model: POMDP) -> Episodes:
    return model.rollout(ActionSequence((0, 0, 1, 3, 3)), 6, 5, seed=1, tracker=ExactTracker())


def test_episodes_are_read_until_they_end() -> None:
    model = with_bystander(t_maze(2), 0.9, 0.8)
    made = model.rollout(ActionSequence((0, 0, 1, 3, 3)), 40, 5, seed=1)
    data = until_the_end(made)
    assert data.lengths.tolist() == [3] * 40  # cell 0, cell 1, the junction
    shown = group(
        _posterior(Settings(draws=2), {"t_maze": rollout_with_beliefs(model)}), "posterior"
    )
    assert shown["t_maze_state"].shape == (1, 2, 4, 3)
    won = (made.states[:, 0] < model.states // 2).double().mean()  # the goal is up
    assert success(PROBLEMS["t_maze"], made) == pytest.approx(float(won))
    opened = tiger().rollout(ActionSequence((0, 1, 2)), 50, 3, seed=1)
    right = (opened.states[:, 1] == 1).sum() + (opened.states[:, 2] == 0).sum()
    assert success(PROBLEMS["tiger"], opened) == pytest.approx(float(right) / 100)


def test_without_the_trainer_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    monkeypatch.delitem(sys.modules, "beliefzoo.experiments.decisions.parts.recurrent_ppo")
    monkeypatch.delattr(beliefzoo.experiments.decisions.parts, "recurrent_ppo")
    with pytest.raises(ValueError, match=r"pip install 'beliefzoo\[agents\]' brings it"):
        run(Settings())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="episodes: must be >= 4, got 3"):
        Settings(episodes=3)
