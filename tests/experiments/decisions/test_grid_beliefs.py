"""The measures of grid-beliefs, by loops; what is planned, beside what is published."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.experiments.decisions import grid_beliefs as experiment
from beliefzoo.experiments.decisions.grid_beliefs import Problem, Settings
from beliefzoo.inference import LSTMFilter, Plan, value_iteration
from beliefzoo.models import (
    ExactTracker,
    ObservationPolicy,
    Seen,
    Uniform,
    tiger,
)
from oracles_planning import bayes


@pytest.fixture(scope="module")
def plan() -> Plan:
    return value_iteration(tiger(), gap=1.0, seconds=None, trials=20)


def settings(**changes: Any) -> Settings:
    small = {"problems": ("tiger",), "length": 12, "measured": 20, "episodes": 50, "particles": 20}
    return Settings(**{**small, **changes})


def problem(plan: Plan) -> Problem:
    model = tiger()
    heldout = {}
    for seed, who in enumerate(experiment.ACTING):
        data = model.rollout(plan.policy if seed == 0 else Uniform(), 20, 12, seed=seed).data
        exact = experiment.tracked(model, ExactTracker(), data)
        heldout[who] = experiment.Heldout(data, exact)
    states = model.rollout(plan.policy, 20, 12, seed=2).states
    memoryless = experiment.without_memory(model, states)
    return Problem("tiger", model, plan, heldout, memoryless)


def test_beliefs_along_episodes_that_were_made_already() -> None:
    model = tiger()
    tables = model.tables()
    data = model.rollout(Uniform(), 4, 6, seed=0).data
    tracked = experiment.tracked(model, ExactTracker(), data).numpy()
    assert data.actions is not None
    for n in range(4):
        belief = tables.initial
        np.testing.assert_allclose(tracked[n, 0], belief)
        for t in range(1, 6):
            action, symbol = int(data.actions[n, t - 1]), int(data.values[n, t])
            moves, told = tables.transition[action], tables.observation[action]
            (belief,) = [b for o, _, b in bayes(belief, moves, told) if o == symbol]
            np.testing.assert_allclose(tracked[n, t], belief, atol=1e-14)


def test_divergence_is_that_of_a_loop() -> None:
    rows = [[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    exact = torch.tensor(rows, dtype=torch.float64)
    rows = [[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    belief = torch.tensor(rows, dtype=torch.float64)
    found = experiment.divergence(exact.log(), belief.log())
    wanted = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.3)
    assert float(found[0]) == pytest.approx(wanted, abs=1e-14)
    assert float(found[1]) == 0
    assert float(found[2]) == math.inf


def test_the_most_likely_state_is_acted_upon_as_if_it_were_seen() -> None:
    act = experiment.most_likely(tiger())
    left, right = tiger().tables().reward[1:]
    # Behind the door of the larger reward is no tiger: to open it is best, were the state seen.
    best = [1 + int(right[state] > left[state]) for state in range(2)]
    chosen = act(torch.tensor([[0.6, 0.4], [0.1, 0.9]]).double())
    assert chosen.argmax(-1).tolist() == best
    assert torch.equal(chosen.sum(-1), torch.ones(2).double())


def test_noise_is_a_share_of_uniform_actions() -> None:
    sure = ObservationPolicy(torch.tensor([[1.0, 0, 0], [0, 0, 1]]), torch.tensor([0.0, 1, 0]))
    noisy = experiment.Noisy(sure, 0.3)
    memory = noisy.begin(tiger(), 2)
    seen = Seen(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([True, True]))
    found, _ = noisy(memory, seen)
    wanted = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).double()
    torch.testing.assert_close(found, wanted)


def test_without_memory_every_state_counts_once_more() -> None:
    states = torch.tensor([[0, 0, 1], [0, 1, 1]])
    memoryless = experiment.without_memory(tiger(), states)
    assert memoryless.prior is not None
    # Before the last step: state 0 three times, state 1 once.
    torch.testing.assert_close(memoryless.prior, torch.tensor([4 / 6, 2 / 6]).double())


def test_surprise_is_that_of_a_loop() -> None:
    model = tiger()
    network = LSTMFilter(3)
    network.build(model)
    made = model.rollout(Uniform(), 4, 5, seed=0)
    laws = model.laws({}, made.data)
    with torch.no_grad():
        found = experiment.surprise(network, network.channels(laws), made.states)
        log_belief = network(laws)
    assert isinstance(log_belief, torch.Tensor)
    each = [-float(log_belief[n, t, made.states[n, t]]) for n in range(4) for t in range(5)]
    assert float(found) == pytest.approx(sum(each) / 20, abs=1e-6)


def test_a_network_learns_the_belief_from_states_alone(plan: Plan) -> None:
    asked = settings(
        hidden_size=16,
        training_length=12,
        rounds=3,
        training_episodes=400,
        steps=200,
        batch_size=64,
    )
    figures = experiment.work(asked, problem(plan), 0).figures
    distance = figures["belief_kl_per_step"]
    for who in experiment.ACTING:
        # A tiger's place is not told by the last growl alone, and an LSTM counts growls.
        assert 0 <= distance["lstm"][who] < distance["without_memory"][who]
        assert distance["lstm"][who] < distance["untrained_lstm"][who]


def test_shares_and_differences_of_returns() -> None:
    returns = {"plan_on_exact_belief": -4.0, "plan_on_lstm_belief": -5.0}
    found = experiment.compared(returns)
    assert found == {"lstm_minus_exact": -1.0, "lstm_over_exact": 1.25}
    nothing = {**returns, "plan_on_exact_belief": 0.0}
    assert experiment.compared(nothing) == {"lstm_minus_exact": -5.0}


def test_the_same_seed_gives_the_same_network(plan: Plan) -> None:
    asked = settings(
        hidden_size=4, training_length=5, rounds=2, training_episodes=10, steps=4, batch_size=4
    )
    first, second, other = (
        experiment.trained(asked, problem(plan), number).state_dict() for number in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", ["shuttle", "mini-hall2"])
def test_bounds_meet_what_is_published(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELIEFZOO_DATA", str(shared_data))
    asked = Settings(measured=2, length=4)
    plan = experiment.prepared(asked, name).plan
    low, high = experiment.PUBLISHED[name]
    assert plan.lower <= high
    assert low <= plan.upper
    assert plan.gap <= asked.gap


def test_what_is_reached_is_of_the_problems_asked_for() -> None:
    reach = experiment.reached(Settings(problems=("shuttle", "light_maze", "tag")))
    problems = [path.split(".")[0] for path in reach]
    assert problems == ["shuttle"] * 4 + ["tag"] * 3
    assert reach["shuttle.value_of_the_best_policy.upper_bound"] == (">=", 32.85)
    assert reach["tag.simulated_value_of_the_plan.interval_high"] == (">=", -6.4)


def test_large_problems_have_settings_of_their_own() -> None:
    asked = Settings(steps=1, hallway_steps=2, tag_steps=3)
    assert [experiment.own(asked, name, "steps") for name in ("4x3", "hallway", "tag")] == [1, 2, 3]
    assert experiment.own(asked, "hallway", "hidden_size") == asked.hidden_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: must be >= 1, got 0"),
        ({"tag_steps": -1}, "tag_steps: must be >= 1, got -1"),
        ({"problems": ()}, "problems: must name at least one"),
        ({"noise": 1.5}, "noise: must be in \\[0, 1\\], got 1.5"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)
