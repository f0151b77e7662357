"""Classic decision processes beside their files, slow loops and closed forms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from beliefzoo.models import (
    POMDP,
    ActionSequence,
    ExactTracker,
    light_dark,
    light_maze,
    machine_repair,
    read_pomdp,
    rock_sample,
    t_maze,
    tiger,
    write_pomdp,
)

EVERY = {
    "tiger": tiger,
    "t_maze": lambda: t_maze(3, 0.2),
    "light_maze": light_maze,
    "light_dark": light_dark,
    "rock_sample": lambda: rock_sample(3, 2),
    "machine_repair": machine_repair,
}


def earned(model: POMDP, *actions: str, episodes: int = 50) -> dict[str, set[float]]:
    """Discounted returns of the same actions, by the state that the episode began in."""
    plan = ActionSequence(tuple(model.action_names.index(name) for name in actions))
    made = model.rollout(plan, episodes, len(actions), seed=0)
    out: dict[str, set[float]] = {}
    for state, value in zip(made.states[:, 0].tolist(), made.returns().tolist(), strict=True):
        out.setdefault(model.state_names[state], set()).add(round(value, 9))
    return out


@pytest.mark.parametrize("name", EVERY)
def test_rows_sum_to_one_and_names_fit_the_format(name: str, tmp_path: Path) -> None:
    model = EVERY[name]()
    tables = model.tables()
    for table in tables[:3]:
        assert (table >= 0).all()
        np.testing.assert_allclose(table.sum(-1), 1, rtol=0, atol=1e-12)
    if not model.law.first:
        again = read_pomdp(write_pomdp(model, tmp_path / "x.POMDP"))
        assert again.state_names == model.state_names
        np.testing.assert_array_equal(again.tables().reward, tables.reward)


@pytest.mark.parametrize(
    ("model", "file"),
    [
        (tiger(), "tiger.95.POMDP"),
        (tiger(discount=0.75), "tiger.aaai.POMDP"),
        (light_maze(), "light_maze.POMDP"),
    ],
    ids=["tiger.95", "tiger.aaai", "light_maze"],
)
def test_as_in_the_classic_files(shared_data: Path, model: POMDP, file: str) -> None:
    classic = read_pomdp(shared_data / "pomdp" / file)
    # The same names in any order.
    z, a, o = (
        [ours.index(name) for name in theirs]
        for ours, theirs in (
            (model.state_names, classic.state_names),
            (model.action_names, classic.action_names),
            (model.observation_names, classic.observation_names),
        )
    )
    ours, theirs = model.tables(), classic.tables()
    np.testing.assert_array_equal(ours.initial[z], theirs.initial)
    np.testing.assert_array_equal(ours.transition[np.ix_(a, z, z)], theirs.transition)
    np.testing.assert_allclose(  # 1 − .85 is not .15 to the last bit
        ours.observation[np.ix_(a, z, o)], theirs.observation, rtol=0, atol=1e-15
    )
    np.testing.assert_array_equal(ours.reward[np.ix_(a, z)], theirs.reward)
    assert ours.discount == theirs.discount


# --- T-maze


def walked(cell: str, move: str, length: int) -> str:
    """Where a move leads, from the description."""
    if cell in ("arm-up", "arm-down"):
        return cell
    if move == "left":
        return str(max(int(cell) - 1, 0))
    if int(cell) < length:
        return str(int(cell) + 1) if move == "right" else cell
    return f"arm-{move}" if move in ("up", "down") else cell


@pytest.mark.parametrize(("length", "slip"), [(1, 0.0), (1, 0.5), (4, 0.2), (6, 1.0)])
def test_t_maze_by_a_slow_loop(length: int, slip: float) -> None:
    model = t_maze(length, slip)
    cells = [*map(str, range(length + 1)), "arm-up", "arm-down"]
    moves = ["right", "up", "left", "down"]
    assert model.states == 2 * (length + 3)
    told = {"0": "cue-{}", str(length): "junction", "arm-up": "junction", "arm-down": "junction"}
    place = model.state_names.index
    tables = model.tables()
    assert model.reward is not None
    reward = model.reward.table.numpy()[0, :, :, 0]
    for goal, cell in itertools.product(("up", "down"), cells):
        state = place(f"goal-{goal}-at-{cell}")
        symbol = model.observation_names.index(told.get(cell, "corridor").format(goal))
        np.testing.assert_array_equal(model.known["probs"][:, state], [np.eye(4)[symbol]] * 5)
        for number, chosen in enumerate(moves):
            expected = np.zeros(model.states)
            for move in moves:
                to = place(f"goal-{goal}-at-{walked(cell, move, length)}")
                expected[to] += (1 - slip) * (move == chosen) + slip / 4
                if cell.startswith("arm"):
                    value = 0.0
                elif to == state:
                    value = -0.1
                elif "arm" in (arrived := walked(cell, move, length)):
                    value = 4.0 if arrived == f"arm-{goal}" else -0.1
                else:
                    value = 0.0
                assert reward[state, to] == value
            np.testing.assert_allclose(tables.transition[number, state], expected, atol=1e-15)
    start = [place("goal-up-at-0"), place("goal-down-at-0")]
    np.testing.assert_array_equal(np.flatnonzero(tables.initial), sorted(start))


def test_t_maze_value_and_the_cue_that_is_remembered() -> None:
    model = t_maze(10)
    gained = earned(model, *["right"] * 10, "up", "left")
    assert gained == {
        "goal-up-at-0": {round(4 * 0.98**10, 9)},
        "goal-down-at-0": {round(-0.1 * 0.98**10, 9)},
    }
    made = model.rollout(ActionSequence((0,) * 10), 20, 10, seed=1, tracker=ExactTracker())
    assert made.beliefs is not None
    assert bool((made.beliefs.amax(-1) == 1).all())  # told once, known ever after
    assert bool(made.data.mask.all())
    assert set(made.data.values[:, 0].tolist()) == {0, 1}
    assert set(made.data.values[:, 1:].flatten().tolist()) == {2}


# --- light maze


def test_light_maze_value() -> None:
    gained = earned(light_maze(), "lookup", "forward", "right", "forward", "forward")
    assert gained == {
        "start-rewardright": {round(0.95**3, 9)},
        "start-rewardleft": {round(-(0.95**3), 9)},
    }


# --- light and dark


def test_light_dark_by_a_slow_loop() -> None:
    model = light_dark(3, light=2, noise=0.5)
    line = {-3: "left-3", -2: "left-2", -1: "left-1", 0: "origin"}
    line |= {1: "right-1", 2: "right-2", 3: "right-3"}
    place, symbol = model.state_names.index, model.observation_names.index
    tables = model.tables()
    for x, name in line.items():
        spread = 0.5 * abs(x - 2) + 0.01
        weight = {o: np.exp(-(((o - x) / spread) ** 2) / 2) for o in line}
        for o, seen in line.items():
            share = weight[o] / sum(weight.values())
            found = model.known["probs"][:, place(name), symbol(f"seen-{seen}")]
            np.testing.assert_allclose(found, [share] * 4, atol=1e-15)
        for action, to in (("left", max(x - 1, -3)), ("right", min(x + 1, 3))):
            number = model.action_names.index(action)
            assert tables.transition[number, place(name), place(line[to])] == 1
            assert tables.reward[number, place(name)] == 0
        assert tables.transition[2, place(name), place("end")] == 1
        assert tables.reward[2, place(name)] == (10 if x == 0 else -10)
    end = place("end")
    assert (tables.transition[:, end, end] == 1).all()
    assert (tables.reward[:, end] == 0).all()
    assert tables.initial[end] == 0
    gained = earned(light_dark(3, light=0, noise=0.0), "left", "left", "stop", "stop")
    assert gained["right-2"] == {round(10 * 0.9**2, 9)}
    assert gained["left-1"] == {round(-10 * 0.9**2, 9)}


# --- rock sample


@pytest.mark.parametrize(("n", "k", "states"), [(4, 4, 257), (5, 5, 801), (1, 1, 3)])
def test_rock_sample_sizes_as_published(n: int, k: int, states: int) -> None:
    model = rock_sample(n, k)
    assert model.states == states
    assert model.actions == k + 5
    assert int((model.tables().initial > 0).sum()) == 2**k


def rover(
    state: tuple[int, int, tuple[bool, ...]], action: str, n: int, rocks: list[tuple[int, int]]
) -> tuple[tuple[int, int, tuple[bool, ...]] | None, float]:
    """One step of the rover, from the description; None is the end."""
    x, y, good = state
    if action == "east" and x == n - 1:
        return None, 10.0
    if action == "sample" and (x, y) in rocks:
        at = rocks.index((x, y))
        left = tuple(bit and rock != at for rock, bit in enumerate(good))
        return (x, y, left), 10.0 if good[at] else -10.0
    if action == "east":
        x += 1
    if action == "west":
        x = max(x - 1, 0)
    if action == "north":
        y = min(y + 1, n - 1)
    if action == "south":
        y = max(y - 1, 0)
    return (x, y, good), 0.0


def test_rock_sample_by_a_slow_loop() -> None:
    n, rocks = 3, [(0, 1), (2, 2)]
    model = rock_sample(n, 2, rocks=rocks, start=(1, 1), half=2.0)
    tables = model.tables()

    def place(state: tuple[int, int, tuple[bool, ...]] | None) -> int:
        if state is None:
            return model.state_names.index("end")
        marks = "".join("g" if bit else "b" for bit in state[2])
        return model.state_names.index(f"x{state[0]}-y{state[1]}-{marks}")

    bits = list(itertools.product((False, True), repeat=2))
    for state in itertools.product(range(n), range(n), bits):
        for number, action in enumerate(model.action_names):
            to, reward = rover(state, action, n, rocks)
            assert tables.transition[number, place(state), place(to)] == 1
            assert tables.reward[number, place(state)] == reward
            told = [0.0, 0.0, 1.0]
            if action.startswith("check"):
                rock = int(action[-1])
                far = np.hypot(state[0] - rocks[rock][0], state[1] - rocks[rock][1])
                right = (1 + 2 ** (-far / 2.0)) / 2
                told = [right, 1 - right, 0] if state[2][rock] else [1 - right, right, 0]
            np.testing.assert_allclose(tables.observation[number, place(state)], told, atol=1e-15)
    end = place(None)
    assert (tables.transition[:, end, end] == 1).all()
    assert (tables.reward[:, end] == 0).all()
    np.testing.assert_array_equal(
        np.flatnonzero(tables.initial), sorted(place((1, 1, good)) for good in bits)
    )


def test_rock_sample_leaving_at_once() -> None:
    gained = earned(rock_sample(4, 4), *["east"] * 5)
    assert set().union(*gained.values()) == {round(10 * 0.95**3, 9)}


# --- machine repair


def test_machine_repair() -> None:
    model = machine_repair(0.2, (0.25, 0.75), inspection=0.5, repair=3.0)
    tables = model.tables()
    np.testing.assert_allclose(tables.transition[0], [[0.8, 0.2], [0, 1]])
    np.testing.assert_array_equal(tables.transition[1], np.eye(2))
    np.testing.assert_array_equal(tables.transition[2], [[1, 0], [1, 0]])
    # A run from working: P(works on) P(flawless | works) + P(breaks) P(flawless | broken).
    np.testing.assert_allclose(
        tables.reward, [[0.8 * 0.75 + 0.2 * 0.25, 0.25], [-0.5, -0.5], [-3, -3]]
    )
    blind = machine_repair(0.2, (0.5, 0.5))
    made = blind.rollout(ActionSequence((0,) * 8), 3, 8, seed=0, tracker=ExactTracker())
    assert made.beliefs is not None
    np.testing.assert_allclose(made.beliefs[..., 0], [0.8 ** np.arange(8)] * 3)


# --- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiger(1.2), r"accuracy: must be in \[0, 1\], got 1\.2"),
        (lambda: tiger(discount=1.5), r"discount: must be in \[0, 1\], got 1\.5"),
        (lambda: t_maze(0), "length: must be a whole number >= 1, got 0"),
        (lambda: t_maze(2, -0.1), r"stochasticity: must be in \[0, 1\]"),
        (lambda: light_dark(3, light=4), "light: must be a place of the line, got 4"),
        (lambda: light_dark(noise=-1.0), "noise: must be a finite number >= 0, got -1"),
        (lambda: rock_sample(7, 8), r"k: needs tables of at most 2\^27 entries, got 13 actions"),
        (lambda: rock_sample(2, 5), "k: needs a cell for every rock, at most 4, got 5"),
        (lambda: tiger("a"), r"accuracy: must be in \[0, 1\], got 'a'"),  # type: ignore[arg-type]
        (lambda: light_dark(noise=float("inf")), "noise: must be a finite number >= 0, got inf"),
        (lambda: rock_sample(3, 2, rocks=[]), "rocks: needs 2 places, got 0"),
        (lambda: rock_sample(3, 1, start=()), r"start: needs \(x, y\) from 0 to 2, got \(\)"),
        (lambda: machine_repair(defects=(0.1,)), "defects: needs two probabilities"),  # type: ignore[arg-type]
        (lambda: rock_sample(3, 2, rocks=[(0, 0)]), "rocks: needs 2 places, got 1"),
        (lambda: rock_sample(3, 2, rocks=[(0, 0)] * 2), "rocks: needs different places"),
        (lambda: rock_sample(3, 1, rocks=[(0, 3)]), r"rocks: needs \(x, y\) from 0 to 2"),
        (lambda: rock_sample(3, 1, start=(3, 0)), r"start: needs \(x, y\) from 0 to 2"),
        (lambda: rock_sample(3, 1, half=0), "half: must be a finite number > 0"),
        (lambda: machine_repair(2.0), r"wear: must be in \[0, 1\], got 2"),
        (lambda: machine_repair(defects=(0.1, 1.1)), r"defects: must be in \[0, 1\], got 1\.1"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_places_are_any_pairs_of_numbers() -> None:
    made = rock_sample(3, 2, rocks=np.array([[0, 2], [1, 1]]), start=[1, 0])  # type: ignore[arg-type]
    same = rock_sample(3, 2, rocks=((0, 2), (1, 1)), start=(1, 0))
    for ours, theirs in zip(made.tables(), same.tables(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [made.state_names[z] for z in made.tables().initial.nonzero()[0]] == [
        f"x1-y0-{bits}" for bits in ("bb", "bg", "gb", "gg")
    ]
