"""Decision processes as Gymnasium environments, and environments as data."""

from __future__ import annotations

import importlib
import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.inference import ParticleTracker
from beliefzoo.models import (
    POMDP,
    BeliefPolicy,
    Gaussian,
    Mixture,
    ObservationPolicy,
    Rewards,
    Uniform,
    World,
    tiger,
)

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra pomdp")

from gymnasium import spaces  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402

from beliefzoo import inference  # noqa: E402
from beliefzoo.inference import (  # noqa: E402
    POMDPEnv,
    POMDPVectorEnv,
    register_environment,
    roll_out,
)

MOVES = np.array(
    [
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]],
        [[0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]],
    ]
)
TOLD = np.array([[[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]], [[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]]])
START = np.array([0.6, 0.4, 0.0])
FIRST = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
# R(a, z, z'): 10 a + 3 z − z', nothing in the last state.
PAID = np.array([[[10 * a + 3 * z - j + 1.0 for j in range(3)] for z in range(3)] for a in (0, 1)])
PAID[:, 2] = 0


def process(first: bool = False, endless: bool = False) -> POMDP:
    """Three states, the last of which ends an episode."""
    moves, paid = MOVES, PAID
    if endless:
        moves, paid = MOVES.copy(), PAID + 1
        moves[:, 2] = [0.5, 0.5, 0.0]
    return POMDP.from_tables(
        moves,
        TOLD,
        Rewards.of_table(paid),
        initial=START,
        first=FIRST if first else None,
        states=["left", "right", "out"],
        actions=["stay", "go"],
        observations=["low", "high"],
    )


register_environment("beliefzoo-tests/Process-v0", process, max_episode_steps=30)
register_environment("beliefzoo-tests/Endless-v0", process(endless=True), max_episode_steps=7)
register_environment("beliefzoo-tests/First-v0", process(first=True), max_episode_steps=30)
IDS = [f"beliefzoo-tests/{name}-v0" for name in ("Process", "Endless", "First")]


BUILT_IN = [
    f"beliefzoo/{name}-v0"
    for name in ("Tiger", "TMaze", "LightMaze", "RockSample", "MachineRepair")
]


@pytest.mark.parametrize("id", IDS + BUILT_IN)
@pytest.mark.parametrize("options", [{}, {"show_action": True, "tell_belief": True}])
def test_environments_keep_to_the_interface(id: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(id, tell_state=True, render_mode="ansi", **options)
        check_env(env.unwrapped)


def by_hand(seed: int, actions: list[int], first: bool) -> list[tuple[int, int, float]]:
    """(observation, state, reward) of an episode: one uniform number for each law, in order.

    A number u chooses the first entry whose cumulative probability exceeds it.
    """
    numpy_stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    torch.manual_seed(int(numpy_stream.integers(2**63)))

    def chosen(law: np.ndarray) -> int:
        u, total = float(torch.rand(1, 1, dtype=torch.float64)), 0.0
        for k, p in enumerate(law):
            total += p
            if u < total:
                return k
        raise AssertionError

    state = chosen(START)
    rows = [(chosen(FIRST[state]) if first else 2, state, 0.0)]
    for action in actions:
        to = chosen(MOVES[action, state])
        rows.append((chosen(TOLD[action, to]), to, float(PAID[action, state, to])))
        state = to
    return rows


@pytest.mark.parametrize("first", [False, True])
def test_a_seeded_episode_is_that_of_a_plain_loop(first: bool) -> None:
    actions = [0, 1, 1, 0, 1, 0, 0, 1, 0]
    env = POMDPEnv(process(first), tell_state=True)
    for seed in range(20):
        expected = by_hand(seed, actions, first)
        before = torch.get_rng_state()
        seen, info = env.reset(seed=seed)
        assert (seen, info["state"]) == expected[0][:2]
        for action, (told, state, paid) in zip(actions, expected[1:], strict=True):
            seen, reward, over, late, info = env.step(action)
            assert (seen, info["state"], reward) == (told, state, paid)
            assert (over, late) == (state == 2, False)
        assert torch.equal(before, torch.get_rng_state())


def test_an_episode_is_over_where_nothing_is_left_to_earn() -> None:
    # 0 and 1 lead to one another unpaid; 2 leads there, paid; 3 unpaid, but on to 2.
    moves = np.zeros((1, 4, 4))
    moves[0, [0, 1, 2, 3], [1, 0, 0, 2]] = 1
    reward = np.zeros((1, 4, 4))
    reward[0, 2, 0] = reward[0, 0, 3] = 5  # the second is never come by
    model = POMDP.from_tables(moves, np.full((1, 4, 2), 0.5), reward)
    assert World(model).over().tolist() == [True, True, False, False]
    unpaid = POMDP.from_tables(moves, np.full((1, 4, 2), 0.5))
    assert not bool(World(unpaid).over().any())


def test_the_belief_that_is_told_is_bayes_rule() -> None:
    env = POMDPEnv(process(True), tell_belief=True)
    for seed, action in itertools.product(range(3), (0, 1)):
        seen, info = env.reset(seed=seed)
        belief = START * FIRST[:, seen]
        np.testing.assert_allclose(info["belief"], belief / belief.sum(), atol=1e-14)
        for _ in range(4):
            belief = belief / belief.sum()
            seen, *_, info = env.step(action)
            moved = [sum(belief[z] * MOVES[action, z, j] for z in range(3)) for j in range(3)]
            belief = np.array(moved) * TOLD[action, :, seen]
            np.testing.assert_allclose(info["belief"], belief / belief.sum(), atol=1e-14)


def test_frequencies_are_the_tables() -> None:
    """Of 4000 episodes side by side; within five standard errors, fails once in 10^5 at most."""
    env = POMDPVectorEnv(process(endless=True), 4000, tell_state=True, show_action=True)
    generator = np.random.default_rng(0)
    _, info = env.reset(seed=1)
    before, count = info["state"], np.zeros((2, 3, 3))
    told, earned = np.zeros((2, 3, 2)), 0.0
    moves = process(endless=True).tables().transition
    for _ in range(12):
        action = generator.integers(2, size=4000)
        seen, reward, over, late, info = env.step(action)
        assert not over.any()
        assert not late.any()
        assert (seen % 3 == action).all()
        np.testing.assert_array_equal(reward, PAID[action, before, info["state"]] + 1)
        np.add.at(count, (action, before, info["state"]), 1)
        np.add.at(told, (action, info["state"], seen // 3), 1)
        before = info["state"]
        earned += reward.mean()
    for table, law in (count, moves), (told, TOLD):
        size = table.sum(-1, keepdims=True)
        assert (np.abs(table / size - law) <= 5 * 0.5 / np.sqrt(size)).all()


def test_the_return_is_that_of_the_tables() -> None:
    """Mean of 20 000 episodes beside the sum over all states; within five standard errors."""
    steps, model = 6, process(endless=True)
    tables = model.tables()
    law, expected = START, 0.0
    for _ in range(steps):  # a fair coin chooses between the two actions
        expected += float(np.mean([law @ tables.reward[a] for a in (0, 1)]))
        law = np.mean([law @ tables.transition[a] for a in (0, 1)], axis=0)
    env = POMDPVectorEnv(model, 20_000)
    env.reset(seed=2)
    generator, earned = np.random.default_rng(3), np.zeros(20_000)
    for _ in range(steps):
        earned += env.step(generator.integers(2, size=20_000))[1]
    assert abs(earned.mean() - expected) <= 5 * earned.std() / 20_000**0.5


def test_one_of_many_is_the_single_one() -> None:
    single, many = POMDPEnv(process()), POMDPVectorEnv(process(), 1, tell_state=True)
    for seed in range(5):
        seen, _ = single.reset(seed=seed)
        rows, _ = many.reset(seed=seed)
        assert rows.tolist() == [seen]
        for action in (1, 0, 1):
            seen, reward, over, _, _ = single.step(action)
            rows, paid, ends, _, _ = many.step(np.array([action]))
            assert (rows[0], paid[0], ends[0]) == (seen, reward, over)
            if over:
                break


def test_what_follows_the_end_of_an_episode() -> None:
    n = 200
    later = POMDPVectorEnv(process(), n, max_episode_steps=4, tell_state=True)
    later.reset(seed=1)
    ended = np.zeros(n, dtype=bool)
    for _ in range(12):
        seen, reward, over, late, info = later.step(np.ones(n, dtype=np.int64))
        assert (seen[ended] == 2).all()  # nothing is seen before the first action
        assert not reward[ended].any()
        assert not (over | late)[ended].any()
        assert ((info["state"] == 2) == over).all()
        assert not (over & late).any()
        assert info["_state"].all()
        ended = over | late
    at_once = POMDPVectorEnv(
        process(), n, max_episode_steps=4, tell_state=True, autoreset_mode=AutoresetMode.SAME_STEP
    )
    at_once.reset(seed=1)
    steps, most = np.zeros(n, dtype=int), 0
    for _ in range(12):
        seen, _, over, late, info = at_once.step(np.ones(n, dtype=np.int64))
        steps += 1
        ended = over | late
        assert (seen[ended] == 2).all()
        assert (info["state"] != 2).all()
        if ended.any():
            assert (info["_final_obs"] == ended).all()
            assert all(last in (0, 1) for last in info["final_obs"][ended])
            final = info["final_info"]["state"]
            assert ((final == 2) & ended == over).all()
        assert (steps[late] == 4).all()
        most = max(most, steps.max())
        steps[ended] = 0
    assert most == 4


def test_registered_environments_can_be_made_and_made_many() -> None:
    env = gymnasium.make("beliefzoo.inference.decisions.gymnasium_env:beliefzoo/Tiger-v0")
    assert (env.observation_space, env.action_space) == (spaces.Discrete(3), spaces.Discrete(3))
    other = gymnasium.make("beliefzoo/Tiger-v0", model=process(), max_episode_steps=3)
    other.reset(seed=0)
    assert [other.step(0)[3] for _ in range(3)] == [False, False, True]
    many = gymnasium.make_vec("beliefzoo-tests/Endless-v0", num_envs=5)
    many.reset(seed=0)
    late = [many.step(np.zeros(5, dtype=np.int64))[3].tolist() for _ in range(8)]
    assert late == [[False] * 5] * 6 + [[True] * 5, [False] * 5]


def test_a_step_in_words() -> None:
    env = POMDPEnv(process(first=True), render_mode="ansi")
    env.reset(seed=3)
    line = env.render()
    assert line is not None
    assert line.startswith("step 0: saw ")
    env.step(1)
    line = env.render()
    assert line is not None
    assert line.startswith("step 1: go earned ")
    assert "belief" in line
    assert POMDPEnv(process()).render() is None


def test_numbers_are_a_box() -> None:
    model = POMDP(2, Gaussian(2), actions=2, reward=[[0.0, 1.0], [1.0, 0.0]]).with_parameters(
        initial=START[:2],
        transition=np.full((2, 2, 2), 0.5),
        mean=torch.arange(8.0).reshape(2, 2, 2),
        scale=np.full((2, 2, 2), 0.5),
    )
    env = POMDPEnv(model)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    seen, info = env.reset(seed=0)
    assert seen.tolist() == [0, 0]
    assert info == {"observed": False}
    seen, *_, info = env.step(0)
    assert seen in env.observation_space
    assert info == {"observed": True}
    with pytest.raises(ValueError, match="show_action: needs symbols"):
        POMDPEnv(model, show_action=True)


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("action: must be 0 to 1, got 2", lambda env: env.step(2)),
        ("action: must be 0 to 1, got -1", lambda env: env.step(-1)),
        ("render_mode: must be 'ansi'", lambda env: POMDPEnv(process(), render_mode="human")),
        ("env: must be reset before", lambda env: POMDPEnv(process()).step(0)),
        ("parameters: needs values", lambda env: POMDPEnv(POMDP(2, 3, actions=2))),
        ("num_envs: must be a whole number >= 1", lambda env: POMDPVectorEnv(process(), 0)),
        (
            "autoreset_mode: must be in",
            lambda env: POMDPVectorEnv(process(), autoreset_mode=AutoresetMode.DISABLED),
        ),
        (
            "actions: needs 2 whole numbers from 0 to 1",
            lambda env: POMDPVectorEnv(process(), 2).step(np.array([0, 2])),
        ),
    ],
)
def test_what_is_refused(message: str, act: Any) -> None:
    env = POMDPEnv(process())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        act(env)


# Environments as data


class Counter(gymnasium.Env[Any, Any]):
    """Shows the steps done, and ends after as many as its seed says; action a pays a²."""

    def __init__(self, observations: Any, actions: Any = None) -> None:
        self.observation_space = observations
        self.action_space = spaces.Discrete(3, start=-1) if actions is None else actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.done, self.most = 0, int(self.np_random.integers(1, 6))
        return self.shown(), {}

    def shown(self) -> Any:
        bits = np.array([int(bit) for bit in f"{self.done:03b}"], dtype=np.int8)
        if isinstance(self.observation_space, spaces.Discrete):
            return self.done + 5
        if isinstance(self.observation_space, spaces.MultiDiscrete):
            return np.array([1 + self.done // 3, self.done % 3])
        if isinstance(self.observation_space, spaces.Tuple):
            return self.done // 4, np.array([bits[1], bits[2]])
        if isinstance(self.observation_space, spaces.Dict):
            return {"high": self.done // 4, "low": self.done % 4}
        return bits

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        self.done += 1
        return self.shown(), float(action) ** 2, self.done == self.most, False, {}


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(8, start=5), 8),
        (spaces.MultiDiscrete([3, 3], start=[1, 0]), 9),
        (spaces.MultiBinary(3), 8),
        (spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]), 8),
        (spaces.Dict({"high": spaces.Discrete(2), "low": spaces.Discrete(4)}), 8),
    ],
)
def test_ragged_episodes_of_any_symbols(space: Any, size: int) -> None:
    data = roll_out(Counter(space), Uniform(), 40, seed=3)
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(3)))
    assert data.lengths.tolist() == [int(stream.integers(1, 6)) for _ in range(40)]
    assert data.symbols == tuple(str(code) for code in range(size))
    assert data.actions is not None
    assert data.rewards is not None
    assert set(data.actions[data.step_mask].tolist()) == {0, 1, 2}
    for n, length in enumerate(data.lengths.tolist()):
        assert data.values[n, :length].tolist() == list(range(length))
        paid = [(a - 1) ** 2 for a in data.actions[n, :length].tolist()]
        assert data.rewards[n, :length].tolist() == paid
    short = roll_out(Counter(space), episodes=10, length=2, seed=3)
    assert short.max_length == 2
    assert torch.equal(
        roll_out(Counter(space), episodes=10, length=2, seed=3).actions, short.actions
    )


@pytest.mark.parametrize(
    ("message", "env"),
    [
        (
            r"env.observation_space: must be Discrete, .* got Box\(0.0, 1.0, \(2,\), float32\)",
            Counter(spaces.Box(0, 1, (2,))),
        ),
        (r"got Text", Counter(spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]))),
        (
            r"env.action_space: must be Discrete, got Box",
            Counter(spaces.Discrete(9), spaces.Box(-1, 1)),
        ),
        ("must have at most 1048576 values", Counter(spaces.MultiBinary(30))),
        ("length: is needed where nothing ends", POMDPEnv(process(endless=True))),
        ("env: must be a gymnasium.Env", None),
    ],
)
def test_what_cannot_be_rolled_out(message: str, env: Any) -> None:
    with pytest.raises(ValueError, match=message):
        roll_out(env)


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize(
    "policy",
    [
        Mixture([Uniform(), ObservationPolicy(torch.eye(2))]),
        BeliefPolicy(
            lambda belief: belief[:, :2] + belief[:, 2:] / 2, ParticleTracker(2, impossible="reset")
        ),
    ],
)
def test_policies_that_draw_follow_the_seed(policy: Any, seed: int | None) -> None:
    def rolled(before: int) -> torch.Tensor:
        torch.manual_seed(before)
        untouched = torch.get_rng_state()
        data = roll_out(
            POMDPEnv(process(endless=True)),
            policy,
            20,
            length=6,
            model=process(endless=True),
            seed=seed,
        )
        assert torch.equal(torch.get_rng_state(), untouched)
        assert data.actions is not None
        return data.actions

    assert torch.equal(rolled(1), rolled(2)) == (seed is not None)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("seed: must be a whole number >= 0, got -1", {"seed": -1}),
        ("seed: must be a whole number >= 0, got 'a'", {"seed": "a"}),
        ("policy: must be a Policy, got 3", {"policy": 3}),
        (
            r"policy: must give probabilities of shape \(1, 2\), got \(1, 3\)",
            {"policy": BeliefPolicy(lambda b: b), "model": process()},
        ),
        (
            "must give probabilities >= 0 that sum to 1",
            {"policy": BeliefPolicy(lambda b: torch.ones(1, 2)), "model": process()},
        ),
    ],
)
def test_bad_arguments_of_roll_out(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        roll_out(POMDPEnv(process()), length=2, **options)


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("model: must be a POMDP or a function", lambda: POMDPEnv(3)),  # type: ignore[arg-type]
        ("model: must make a POMDP, got 3", lambda: POMDPEnv(lambda: 3)),  # type: ignore[arg-type,return-value]
        ("model: must be a POMDP or a function", lambda: register_environment("mine/No-v0", 3)),  # type: ignore[arg-type]
        (
            "max_episode_steps: must be a whole number",
            lambda: register_environment("mine/No-v0", process, max_episode_steps=0),
        ),
    ],
)
def test_an_environment_is_of_a_process(message: str, act: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        act()
    assert "mine/No-v0" not in gymnasium.registry


def test_a_model_for_the_policy_must_fit() -> None:
    with pytest.raises(ValueError, match="model: needs 3 actions and 8 symbols"):
        roll_out(Counter(spaces.Discrete(8, start=5)), model=process())


def test_policies_see_what_the_environment_shows() -> None:
    """What was shown decides the next action, and so does the belief of a model of one's own."""
    env, model = POMDPEnv(process(first=True)), process(first=True)
    told = roll_out(env, ObservationPolicy(torch.eye(2)), 30, length=6, seed=1)
    assert told.actions is not None
    assert torch.equal(told.actions[told.step_mask], told.values[told.step_mask])

    def act(belief: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((belief[:, 0] > 0.5).long(), 2).double()

    data = roll_out(env, BeliefPolicy(act), 30, length=6, seed=1, model=model)
    assert data.actions is not None
    for n, length in enumerate(data.lengths.tolist()):
        belief = START * FIRST[:, data.values[n, 0]]
        for t in range(length):
            belief = belief / belief.sum()
            a = int(data.actions[n, t])
            assert a == int(belief[0] > 0.5)
            if t + 1 < length:
                belief = (belief @ MOVES[a]) * TOLD[a][:, data.values[n, t + 1]]


def test_nothing_is_a_missing_value() -> None:
    data = roll_out(POMDPEnv(process()), episodes=20, seed=2)
    assert not bool(data.mask[:, 0].any())
    assert torch.equal(data.mask[:, 1:], data.step_mask[:, 1:])
    assert data.symbols == ("0", "1")
    assert data.lengths.unique().numel() > 2


def test_without_gymnasium_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "beliefzoo.inference.decisions.gymnasium_env"
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'beliefzoo\[pomdp\]' brings it"):
        importlib.import_module(name)


@pytest.mark.parametrize("name", ["POMDPEnv", "POMDPVectorEnv", "register_environment", "roll_out"])
def test_the_face_loads_environments_when_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name in dir(inference)
    assert getattr(inference, name).__name__ == name
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for module in ("gymnasium_env", "gymnasium_rollout"):
        monkeypatch.delitem(sys.modules, f"beliefzoo.inference.decisions.{module}")
    with pytest.raises(ImportError, match=r"pip install 'beliefzoo\[pomdp\]' brings it"):
        getattr(inference, name)


def test_the_face_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = inference.no_such_name


def test_a_time_limit_around_an_environment_ends_its_episodes() -> None:
    """Also under other wrappers, and without a registered limit."""
    limited = gymnasium.wrappers.TimeLimit(POMDPEnv(tiger()), 7)
    for env in (limited, gymnasium.wrappers.PassiveEnvChecker(limited)):
        assert roll_out(env, episodes=2, seed=0).lengths.tolist() == [7, 7]
    with pytest.raises(ValueError, match="length: is needed where nothing ends an episode"):
        roll_out(gymnasium.wrappers.PassiveEnvChecker(POMDPEnv(tiger())), seed=0)
