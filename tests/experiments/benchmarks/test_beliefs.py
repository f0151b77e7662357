"""The benchmark of beliefs: that it compares the same quantity. No test asserts a time."""

from typing import Any

import numpy as np
import pytest

import oracles
from beliefzoo.experiments.benchmarks import beliefs
from beliefzoo.experiments.benchmarks.beliefs import ALLOWED, Settings
from beliefzoo.experiments.benchmarks.parts import comparison, fresh, processes
from beliefzoo.experiments.benchmarks.parts.comparison import Contender, Prepared
from beliefzoo.experiments.benchmarks.parts.processes import CONTENDERS, Problem
from beliefzoo.experiments.benchmarks.parts.turns import Timing
from beliefzoo.experiments.command.cli import main
from beliefzoo.models.decisions import problems

SIZE = 3, 2, 4, 5
SETTINGS = Settings(tiger=(), sizes=(SIZE,), steps=4, pairs=60, rounds=1, seconds_each=0.1)


def small() -> Problem:
    return processes.problem(processes.random_tables(SIZE, 4.0, 0), SIZE[-1], 4, 60, 0)


def test_tables_are_reproducible_and_possible() -> None:
    one, again = (processes.random_tables(SIZE, 4.0, 0).tables() for _ in range(2))
    other = processes.random_tables(SIZE, 4.0, 1).tables()
    for field in ("transition", "observation"):
        np.testing.assert_array_equal(getattr(one, field), getattr(again, field))
        assert not np.array_equal(getattr(one, field), getattr(other, field))
        np.testing.assert_allclose(getattr(one, field).sum(-1), 1)
    assert one.transition.min() >= processes.SPREAD / SIZE[0]
    assert one.transition.shape == (2, 3, 3)
    assert one.observation.shape == (2, 3, 4)


def test_a_state_has_few_successors() -> None:
    rows = processes.random_tables((200, 2, 4, 1), 4.0, 0).tables().transition
    # 1 / Σ p² counts equal shares; a row of Dirichlet(4/200) has (1 + 4) / (1 + 4/200) in the mean.
    assert 2 < (1 / (rows**2).sum(-1)).mean() < 8


def test_an_episode_has_the_actions_and_observations_of_its_steps() -> None:
    given = small()
    assert given.size == "states3_actions2_symbols4_episodes5"
    assert given.actions.shape == given.observations.shape == (5, 4)
    assert bool(given.data.mask[:, 1:].all())
    assert not bool(given.data.mask[:, 0].any())


@pytest.mark.parametrize("name", ["random", "tiger"])
def test_reference_is_the_sum_over_paths(name: str) -> None:
    """Tables that the actions choose, one step after the other."""
    given = small() if name == "random" else processes.problem(problems.tiger(), 5, 4, 60, 0)
    found = processes.reference(given).reshape(5, 4, -1)
    tables = given.model.tables()
    for episode in range(5):
        actions, seen = given.actions[episode].tolist(), given.observations[episode].tolist()
        told = [tables.observation[a, :, o] for a, o in zip(actions, seen, strict=True)]
        nothing = np.zeros(given.model.states)
        with np.errstate(divide="ignore"):  # the Tiger's side is known to stay
            moves = np.log(tables.transition[actions])
        scores = np.stack([nothing, *np.log(told)])
        expected = oracles.filter_beliefs(np.log(tables.initial), moves, scores)
        np.testing.assert_allclose(found[episode], expected[1:], atol=1e-14)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("name", ["random", "tiger"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what pymdp uses of jax
def test_every_contender_that_is_installed_agrees(contender: Contender[Problem], name: str) -> None:
    if contender.package and fresh.installed(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    given = small() if name == "random" else processes.problem(problems.tiger(), 5, 4, 60, 0)
    expected = processes.reference(given)
    prepared = contender.prepare(given)
    for _ in range(2):  # the second call finds nothing that the first has left behind
        found = prepared.answer(prepared.work())
        assert found.shape == (prepared.belief_steps, given.model.states)
        np.testing.assert_allclose(
            found, expected[: prepared.belief_steps], rtol=0, atol=ALLOWED[contender.precision]
        )
    # 60 pairs are 6 steps of 3² or 15 of 2²: a second episode begins.
    visited = 60 // given.model.states**2
    assert prepared.belief_steps == (visited if contender.name == "pomdp_py" else 20)


@pytest.mark.parametrize("shift", [1e-3, np.nan])
def test_a_wrong_contender_is_named_and_nothing_is_timed(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(given: Problem) -> Prepared:
        wrong = processes.reference(given) + shift
        return Prepared(lambda: wrong, lambda found: found, len(wrong))

    monkeypatch.setattr(comparison, "in_turn", None)
    message = f"liar: beliefs must agree .* {small().size}, got"
    with pytest.raises(ValueError, match=message):
        beliefs.measure(SETTINGS, [Contender("liar", prepare)])


def test_absent_peers_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "installed", lambda package: None)
    (by_name,) = beliefs.measure(SETTINGS).values()
    reasons = {name: one["left_out"] for name, one in by_name.items() if "left_out" in one}
    assert reasons == {
        "pymdp_step": "inferactively-pymdp is not installed",
        "pymdp_scan": "inferactively-pymdp is not installed",
        "pomdp_py": "pomdp-py is not installed",
    }


def test_ratios_are_by_the_belief_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose calls take as long, but make a tenth of the steps, is ten times slower."""

    def prepare(given: Problem, belief_steps: int) -> Prepared:
        right = processes.reference(given)
        return Prepared(lambda: right, lambda found: found[:belief_steps], belief_steps)

    contenders = [
        Contender("ours", lambda given: prepare(given, 20)),
        Contender("peer", lambda given: prepare(given, 2), beside=("ours", "not run")),
    ]
    turn = Timing((4.0, 4.0, 4.0))
    monkeypatch.setattr(comparison, "in_turn", lambda work, **_: dict.fromkeys(work, turn))
    (by_name,) = beliefs.measure(SETTINGS, contenders).values()
    assert by_name["ours"]["microseconds_per_belief_step"] == pytest.approx(200)
    assert by_name["peer"]["microseconds_per_belief_step"] == pytest.approx(2000)
    assert by_name["peer"]["beside_ours"]["times_slower"] == pytest.approx(10)
    assert "beside_not run" not in by_name["peer"]
    assert "10 times ours (reach: 10)" in beliefs.table({small().size: by_name})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "1", "2", "3", "4"], "need states and symbols >= 2"),
        (["--sizes", "3", "2", "4", "0"], "actions and episodes >= 1"),
        (["--tiger", "0"], "tiger: needs numbers of episodes >= 1, got (0,)"),
        (["--steps", "0"], "steps: must be >= 1, got 0"),
        (["--successors", "nan"], "successors: must be finite and > 0"),
    ],
)
def test_bad_settings_are_a_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "beliefs", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error


def test_no_problem_is_a_message() -> None:
    with pytest.raises(ValueError, match="sizes: needs a size, or episodes of the Tiger"):
        Settings(tiger=(), sizes=())
