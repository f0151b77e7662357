"""Plans: bounds on either side of values that are known or enumerated, and policies that earn."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from beliefzoo.inference import load_plan, mdp_values, qmdp, value_iteration
from beliefzoo.models import POMDP, Tables
from beliefzoo.models.data.storage import write_tensors
from oracles_planning import reachable_value, state_values, tree_value
from planning_cases import random_tables, tiger

TIGER = 2.5399375 / 0.131118125
"""Value of "listen until two net hints, then open" at discount .95: 19.371368."""


def corridor(states=100, discount=0.9):
    """Stay or move on; the last state pays 1 a step. Few transitions, nothing to be seen."""
    transition = np.stack([np.eye(states), np.eye(states, k=1)])
    transition[1, -1, -1] = 1
    reward = np.zeros((2, states))
    reward[:, -1] = 1
    return Tables(np.eye(states)[0], transition, np.ones((2, states, 1)), reward, discount)


def test_tiger():
    plan = value_iteration(tiger(), gap=0.01)
    assert plan.lower <= TIGER <= plan.upper
    assert plan.gap <= 0.01
    assert plan.value([0.5, 0.5]) == pytest.approx(plan.lower, abs=1e-9)
    # Listen as long as growls from one side outnumber the others by at most one.
    for net in range(-4, 5):
        left = 1 / (1 + (0.15 / 0.85) ** net)
        listens = plan.act([left, 1 - left])[0] == 1
        assert listens == (abs(net) <= 1)
    assert plan.act([0.99, 0.01]).tolist() == [0, 0, 1]


def test_tiger_with_short_sight():
    """Published vectors of the infinite horizon at discount .75."""
    plan = value_iteration(tiger(0.75), gap=1e-5)
    assert plan.lower <= 1.933439 + 5e-7
    assert plan.upper >= 1.933439 - 5e-7
    for vector in [(-98.549921, 11.450079), (-10.854299, 6.516937), (1.933439, 1.933439)]:
        for mirrored in (vector, vector[::-1]):
            nearest = (plan.vectors - torch.tensor(mirrored).double()).abs().amax(1).min()
            assert nearest < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_bounds_bracket_what_enumeration_gives(seed):
    tables = random_tables(seed, actions=2 + seed % 2, symbols=2 + seed // 3)
    plan = value_iteration(tables, gap=1e-3)
    steps = 5 if len(tables.reward) * tables.observation.shape[2] < 6 else 4
    tail = tables.discount**steps / (1 - tables.discount)
    for belief in (tables.initial, np.ones(3) / 3, np.eye(3)[1]):
        finite = tree_value(tables, belief, steps)
        highest = finite + tail * tables.reward.max()
        assert plan.value(belief) <= highest + 1e-12
        assert qmdp(tables).value(belief) >= finite + tail * tables.reward.min() - 1e-12
    finite = tree_value(tables, tables.initial, steps)
    assert plan.upper >= finite + tail * tables.reward.min() - 1e-12
    assert 0 < plan.gap <= 1e-3
    # What the plan does earns at least what it claims.
    earned = tree_value(tables, tables.initial, steps, lambda b: int(plan.act(b).argmax()))
    assert earned + tail * tables.reward.max() >= plan.lower - 1e-12
    assert earned <= finite + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_few_reachable_beliefs(seed):
    """Deterministic moves and exact, partial sight: the value is known to the last digits."""
    rng = np.random.default_rng(seed)
    states, actions = 6, 3
    to = rng.integers(states, size=(actions, states))
    sees = np.eye(3)[rng.integers(3, size=states)]
    tables = Tables(
        np.full(states, 1 / states),
        np.eye(states)[to],
        np.broadcast_to(sees, (actions, states, 3)),
        rng.normal(size=(actions, states)),
        0.9,
    )
    value = reachable_value(tables)
    plan = value_iteration(tables, gap=1e-6)
    assert plan.lower <= value + 1e-11
    assert plan.upper >= value - 1e-11
    assert plan.gap <= 1e-6


def test_a_long_corridor_with_few_transitions():
    tables = corridor()
    value = 0.9**99 / 0.1
    plan = value_iteration(tables, gap=1e-7)
    assert plan.lower <= value <= plan.upper
    assert plan.gap <= 1e-7


def test_every_bound_on_the_way_holds_and_neither_gets_worse():
    plan = value_iteration(tiger(), gap=1e-3)
    seconds, lower, upper = plan.history
    assert (lower <= TIGER).all()
    assert (upper >= TIGER).all()
    for series in (seconds, lower, -upper):
        assert (series.diff() >= 0).all()
    assert (float(lower[-1]), float(upper[-1])) == (plan.lower, plan.upper)


def test_trials_and_time_are_limits():
    start = value_iteration(tiger(), trials=0)
    assert len(start.history.seconds) == 1
    assert start.lower == pytest.approx(-20)  # to listen for ever
    assert start.upper > TIGER
    ten, again = (value_iteration(tiger(), gap=1e-3, trials=10) for _ in range(2))
    assert len(ten.history.seconds) == 11
    assert torch.equal(ten.vectors, again.vectors)
    late = value_iteration(tiger(), gap=1e-9, seconds=1e-3)
    assert late.lower <= TIGER <= late.upper


def test_nothing_ahead_and_nothing_to_choose():
    tables = random_tables(0, discount=0.0)
    now = (tables.reward @ tables.initial).max()
    plan = value_iteration(tables)
    assert plan.lower == pytest.approx(now, abs=1e-12)
    assert plan.upper >= now
    one = Tables(np.ones(1), np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.full((1, 1), 3.0), 0.75)
    plan = value_iteration(one)
    assert plan.lower <= 12 <= plan.upper
    assert plan.gap < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_values_of_seen_states(seed):
    tables = random_tables(seed, states=4, actions=3, discount=0.9)
    expected = state_values(tables, 400)
    np.testing.assert_allclose(mdp_values(tables), expected, atol=1e-9)
    policy = qmdp(tables)
    belief = tables.initial
    assert float(policy.value(belief)) == pytest.approx((expected @ belief).max())
    assert int(policy.act(belief).argmax()) == (expected @ belief).argmax()


def test_equally_good_actions_end_the_policy_iteration():
    tables = random_tables(0, actions=3, discount=0.9)
    same = tables._replace(
        **{
            name: np.stack([getattr(tables, name)[0]] * 3)
            for name in ("transition", "observation", "reward")
        }
    )
    np.testing.assert_allclose(mdp_values(same), state_values(same, 400), atol=1e-9)


def test_the_plan_earns_its_bounds_in_the_model():
    """Simulated return of the plan on the exact belief; a false alarm is a matter of one in 10⁶."""
    tables = tiger()
    model = POMDP.from_tables(
        tables.transition, tables.observation, tables.reward, initial=tables.initial
    )
    plan = value_iteration(model)
    assert plan.lower <= TIGER <= plan.upper
    length = 120
    returns = model.rollout(plan.policy, 2000, length, seed=0).returns()
    spread = 5 * returns.std() / len(returns) ** 0.5
    tail = 0.95**length * 100 / 0.05
    assert plan.lower - tail - spread <= returns.mean() <= plan.upper + tail + spread
    blind = model.rollout(None, 200, length, seed=0).returns()
    assert blind.mean() < -100


def test_plans_are_kept_in_files(tmp_path):
    plan = value_iteration(tiger(), gap=0.1)
    back = load_plan(plan.save(tmp_path / "plan.pt"))
    assert (back.lower, back.upper, back.action_count) == (plan.lower, plan.upper, 3)
    for one, other in zip(back.history, plan.history, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(back.vectors, plan.vectors)
    assert torch.equal(back.act([0.3, 0.7]), plan.act([0.3, 0.7]))
    write_tensors(tmp_path / "other.pt", {"plan": {"vectors": 1}, "action_count": 2}, "plan")
    with pytest.raises(ValueError, match=r"of a plan written by Plan\.save, got .*other\.pt"):
        load_plan(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="path: needs an existing file"):
        load_plan(tmp_path / "none.pt")


def spoiled(**parts):
    return tiger()._replace(**parts)


ROW = np.stack([np.eye(2), np.array([[0.5, 0.5], [0.5, 0.4]]), np.eye(2)])
BAD = {
    "forever": (spoiled(discount=1.0), {}, r"discount: must be in \[0, 1\) .*, got 1.0"),
    "discount": (spoiled(discount=1.5), {}, r"discount: must be in \[0, 1\], got 1.5"),
    "discount, a word": (spoiled(discount="a"), {}, r"discount: must be in \[0, 1\], got 'a'"),
    "reward, a word": (spoiled(reward="a"), {}, "reward: needs an array of numbers, got 'a'"),
    "nan": (spoiled(discount=np.nan), {}, r"discount: must be in \[0, 1\], got nan"),
    "row": (spoiled(transition=ROW), {}, r"transition: rows .* at \(1, 1\) .* sum 0.9$"),
    "start": (spoiled(initial=np.ones(2)), {}, r"initial: rows .* got sum 2$"),
    "negative": (spoiled(initial=np.array([2.0, -1])), {}, "initial: rows must be probabilities"),
    "states": (spoiled(initial=np.ones(3) / 3), {}, r"initial: needs shape \(2,\).*got \(3,\)"),
    "reward": (spoiled(reward=np.ones((2, 3))), {}, r"reward: needs shape \(3, 2\)"),
    "infinite": (spoiled(reward=np.full((3, 2), np.inf)), {}, "reward: must be finite"),
    "axes": (spoiled(observation=np.eye(2)), {}, "observation: needs shape"),
    "gap": (tiger(), {"gap": 0}, "gap: must be a finite number > 0, got 0"),
    "seconds": (tiger(), {"seconds": -1.0}, "seconds: must be a finite number > 0"),
    "trials": (tiger(), {"trials": 1.5}, "trials: must be a whole number >= 0, got 1.5"),
    "kind": ((1, 2), {}, "problem: must be a POMDP or its Tables"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments(kind):
    problem, arguments, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        value_iteration(problem, **arguments)


def test_a_belief_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"belief: needs 2 states last, got \(3,\)"):
        qmdp(tiger()).act([0.1, 0.2, 0.7])


@pytest.mark.parametrize(
    "belief", [[0.5, math.nan], [math.inf, 0.0], [0.9, 0.2], [1.5, -0.5], [50, 50]]
)
def test_what_is_no_belief_is_refused(belief):
    """The largest of numbers that are none is the first: an action would come out, of nothing."""
    plan = value_iteration(tiger(), gap=5.0)
    for ask in (plan.value, plan.act):
        with pytest.raises(ValueError, match="belief: needs probabilities that sum to 1"):
            ask(belief)


def test_many_beliefs_at_once():
    plan = value_iteration(tiger(), gap=0.1)
    beliefs = torch.rand(4, 5, 1, dtype=torch.float64)
    beliefs = torch.cat([beliefs, 1 - beliefs], -1)
    values, chances = plan.value(beliefs), plan.act(beliefs)
    assert values.shape == (4, 5)
    assert chances.shape == (4, 5, 3)
    for i, j in product(range(4), range(5)):
        each = [float(beliefs[i, j] @ vector) for vector in plan.vectors]
        assert float(values[i, j]) == pytest.approx(max(each))
        assert chances[i, j, plan.actions[int(np.argmax(each))]] == 1
