"""Decision processes beside sums over all paths, and beside hidden Markov models."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

from beliefzoo.inference import filter, log_evidence, most_likely_states, smooth
from beliefzoo.models import (
    POMDP,
    ActionEmission,
    ActionSequence,
    BeliefPolicy,
    Categorical,
    ExactTracker,
    FixedChances,
    Gaussian,
    HiddenMarkovModel,
    Mixture,
    ObservationPolicy,
    Rewards,
    Seen,
    Sequences,
    Uniform,
    World,
    load_model,
    save_model,
)

MOVES = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.3, 0.7]], [[1.0, 0.0], [0.0, 1.0]]])
TOLD = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]],
        [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25]],
        [[0.6, 0.4, 0.0], [0.0, 0.4, 0.6]],
    ]
)
OFF = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.3, 0.6]], [[1, 0], [0, 1]]])
START = np.array([0.6, 0.4])
FIRST = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])


def process(first: bool = False, **options: object) -> POMDP:
    return POMDP.from_tables(
        MOVES,
        TOLD,
        options.pop("reward", np.arange(6.0).reshape(3, 2)),  # type: ignore[arg-type]
        initial=START,
        first=FIRST if first else None,
        states=["left", "right"],
        actions=["a", "b", "c"],
        observations=["x", "y", "z"],
        **options,  # type: ignore[arg-type]
    )


def joint(actions: list[int], seen: list[int | None], path: tuple[int, ...], first: bool) -> float:
    """p(z, o | a) in plain numbers."""
    out = START[path[0]]
    if first and seen[0] is not None:
        out *= FIRST[path[0], seen[0]]
    for t in range(1, len(path)):
        out *= MOVES[actions[t - 1]][path[t - 1], path[t]]
        if (symbol := seen[t]) is not None:
            out *= TOLD[actions[t - 1]][path[t], symbol]
    return float(out)


@pytest.mark.parametrize("first", [False, True])
def test_exact_inference_is_the_sum_over_all_paths(first: bool) -> None:
    model = process(first)
    actions = [[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]]
    seen: list[list[int | None]] = [[1, 0, 2, None, 1], [0, 1, 1, 0, 2]]
    for row in seen:
        row[0] = row[0] if first else None
    data = Sequences.from_arrays(
        [[np.nan if o is None else o for o in row] for row in seen], codes=True, actions=actions
    )
    paths = list(itertools.product(range(2), repeat=5))
    for n in range(2):
        weight = np.array([joint(actions[n], seen[n], path, first) for path in paths])
        assert float(log_evidence(model, data)[n]) == pytest.approx(np.log(weight.sum()), abs=1e-12)
        best = paths[int(weight.argmax())]
        assert most_likely_states(model, data).states[n].tolist() == list(best)
        for t in range(5):
            found = [
                sum(w for w, p in zip(weight, paths, strict=True) if p[t] == k) for k in (0, 1)
            ]
            np.testing.assert_allclose(smooth(model, data)[n, t], found / weight.sum(), atol=1e-12)
            short = list(itertools.product(range(2), repeat=t + 1))
            so_far = np.array([joint(actions[n], seen[n], path, first) for path in short])
            belief = [
                sum(w for w, p in zip(so_far, short, strict=True) if p[t] == k) for k in (0, 1)
            ]
            np.testing.assert_allclose(filter(model, data)[n, t], belief / so_far.sum(), atol=1e-12)


def test_one_action_is_a_hidden_markov_model() -> None:
    model = POMDP.from_tables(MOVES[:1], TOLD[:1], initial=START, first=TOLD[0])
    hmm = HiddenMarkovModel(2, Categorical(3)).with_parameters(
        initial=START, transition=MOVES[0], probs=TOLD[0]
    )
    data = hmm.sample(7, 30, seed=1).data
    acted = Sequences.from_tensors(
        data.values, codes=True, actions=torch.zeros(7, 30, dtype=torch.int64)
    )
    torch.testing.assert_close(
        log_evidence(model, acted), log_evidence(hmm, data), atol=1e-11, rtol=0
    )
    torch.testing.assert_close(smooth(model, acted), smooth(hmm, data), atol=1e-11, rtol=0)


def test_continuous_observations_are_chosen_by_the_action() -> None:
    model = POMDP(2, Gaussian(2), actions=3).with_parameters(
        initial=START,
        transition=MOVES,
        mean=torch.arange(12.0).reshape(3, 2, 2),
        scale=np.full((3, 2, 2), 0.7),
    )
    made = model.rollout(Uniform(), 3, 4, seed=2)
    data = made.data
    assert data.actions is not None
    for n in range(3):
        total = 0.0
        for path in itertools.product(range(2), repeat=4):
            weight = START[path[0]]
            for t in range(1, 4):
                a = int(data.actions[n, t - 1])
                mean = torch.arange(12.0).reshape(3, 2, 2)[a, path[t]]
                density = torch.distributions.Normal(mean.double(), 0.7).log_prob(
                    data.values[n, t].double()
                )
                weight *= MOVES[a][path[t - 1], path[t]] * float(density.sum().exp())
            total += weight
        assert float(log_evidence(model, data)[n]) == pytest.approx(np.log(total), abs=1e-9)


@pytest.mark.parametrize("first", [False, True])
def test_a_tracker_is_the_filter(first: bool) -> None:
    model = process(first)
    made = model.rollout(Uniform(), 50, 12, seed=3, tracker=ExactTracker())
    assert made.beliefs is not None
    torch.testing.assert_close(made.beliefs, filter(model, made.data), atol=1e-12, rtol=0)


def test_episodes_follow_the_laws() -> None:
    """Frequencies of 40 000 steps within five standard errors: fails once in 10^5 at most."""
    model = process()
    made = model.rollout(Uniform(), 2000, 21, seed=4)
    assert made.data.actions is not None
    assert made.data.rewards is not None
    before, after = made.states[:, :-1].flatten(), made.states[:, 1:].flatten()
    action, symbol = made.data.actions[:, :-1].flatten(), made.data.values[:, 1:].flatten()
    for a, k in itertools.product(range(3), range(2)):
        at = (action == a) & (before == k)
        share, error = float((after[at] == 1).double().mean()), 0.5 / float(at.sum()) ** 0.5
        assert abs(share - MOVES[a, k, 1]) <= 5 * error
        to = (action == a) & (after == k)
        for o in range(3):
            share, error = float((symbol[to] == o).double().mean()), 0.5 / float(to.sum()) ** 0.5
            assert abs(share - TOLD[a, k, o]) <= 5 * error
    assert not bool(made.data.mask[:, 0].any())
    expected = np.arange(6.0).reshape(3, 2)[made.data.actions, made.states]
    np.testing.assert_array_equal(made.data.rewards, expected)
    weight = 0.95 ** np.arange(21)
    np.testing.assert_allclose(made.returns(), expected @ weight, rtol=1e-12)


def test_expected_rewards_are_sums() -> None:
    table = torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(0)).numpy()
    for part in (
        table,
        table[:1],
        table[:, :, :1, :1],
        table[:, :1],
        table[..., :1],
        table[:, :, :1],
    ):
        model = process(reward=part)
        full = np.broadcast_to(part, table.shape)
        found = np.zeros((3, 2))
        for a, k, j, o in itertools.product(range(3), range(2), range(2), range(3)):
            found[a, k] += MOVES[a, k, j] * TOLD[a, j, o] * full[a, k, j, o]
        np.testing.assert_allclose(model.tables().reward, found, atol=1e-12)
        places = np.flatnonzero(part)  # those that are not zero alone
        few = Rewards(part.shape, tuple(part.ravel()[places]), tuple(map(int, places)))
        np.testing.assert_allclose(process(reward=few).tables().reward, found, atol=1e-12)
        whole = Rewards.of_table(part)
        steps = [torch.randint(size, (60,)) for size in table.shape]
        torch.testing.assert_close(few.of(*steps), whole.of(*steps))
        assert torch.equal(few.table, whole.table)
        assert torch.equal(few.paying, whole.paying)


def test_a_policy_acts_on_what_it_sees() -> None:
    model = process(first=True)
    table = torch.eye(3, dtype=torch.float64)
    made = model.rollout(ObservationPolicy(table), 100, 9, seed=5)
    assert made.data.actions is not None
    assert torch.equal(made.data.actions, made.data.values)
    fixed = model.rollout(ActionSequence((0, 2, 1)), 4, 3, seed=5).data.actions
    assert fixed is not None
    assert fixed.tolist() == [[0, 2, 1]] * 4
    sure = model.rollout(BeliefPolicy(lambda belief: belief @ table[:2]), 2000, 6, seed=6)
    beliefs = filter(model, sure.data)
    assert sure.data.actions is not None
    share = (sure.data.actions == 0).double().mean()
    assert float(share) == pytest.approx(float(beliefs[..., 0].mean()), abs=0.02)


def test_the_program_scores_the_joint_density() -> None:
    model = process()
    pyro.set_rng_seed(7)
    trace = poutine.trace(model.program).get_trace(Uniform(), 5, 4)
    trace.compute_log_prob()
    states = trace.nodes["states"]["value"].argmax(-1)
    actions, seen = trace.nodes["actions"]["value"], trace.nodes["obs"]["value"]
    total = 0.0
    for n in range(5):
        told: list[int | None] = [None, *seen[n, 1:].tolist()]
        path = tuple(states[n].tolist())
        total += np.log(joint(actions[n].tolist(), told, path, False)) + 4 * np.log(1 / 3)
    assert float(trace.log_prob_sum()) == pytest.approx(total, abs=1e-9)
    assert set(trace.stochastic_nodes) >= {"states", "actions", "obs"}


def test_rewards_are_learned_from() -> None:
    """The evidence of noisy rewards is that of one more channel of the state and the action."""
    model = POMDP(2, 3, actions=2, reward="learned").with_parameters(
        initial=START,
        transition=MOVES[:2],
        probs=TOLD[:2],
        reward=[[1.0, -1.0], [0.0, 3.0]],
        reward_scale=0.5,
    )
    made = model.rollout(Uniform(), 3, 4, seed=8)
    data = made.data
    assert data.actions is not None
    assert data.rewards is not None
    mean = np.array([[1.0, -1.0], [0.0, 3.0]])
    for n in range(3):
        total = 0.0
        actions, seen = data.actions[n].tolist(), data.values[n].tolist()
        for path in itertools.product(range(2), repeat=4):
            weight = joint(actions, [None, *seen[1:]], path, False)
            for t, k in enumerate(path):
                off = (float(data.rewards[n, t]) - mean[actions[t], k]) / 0.5
                weight *= np.exp(-0.5 * off**2) / (0.5 * np.sqrt(2 * np.pi))
            total += weight
        assert float(log_evidence(model, data)[n]) == pytest.approx(np.log(total), abs=1e-10)


def test_saved_and_loaded(tmp_path: Path) -> None:
    for model in (process(True, discount=0.5), POMDP(3, Gaussian(2), actions=["u", "v"], sticky=2)):
        again = load_model(save_model(model, tmp_path / "model.pt"))
        assert isinstance(again, POMDP)
        assert again.configuration == model.configuration
        assert set(again.known) == set(model.known)
        assert all(torch.equal(again.known[name], value) for name, value in model.known.items())


def test_the_table_of_an_episode() -> None:
    made = process().rollout(Uniform(), 2, 3, seed=9, tracker=ExactTracker())
    table = made.table()
    assert list(table.columns) == [
        *("episode", "step", "state", "belief left", "belief right"),
        *("action", "observation", "reward"),
    ]
    assert len(table) == 6
    assert table["observation"].isna().tolist() == [True, False, False] * 2
    np.testing.assert_allclose(table[["belief left", "belief right"]].sum(axis=1), 1)


def test_impossible_observations() -> None:
    sure = [[[1.0, 0.0], [0.0, 1.0]]]
    model = POMDP.from_tables(sure, [[[1.0, 0.0], [0.0, 1.0]]], initial=[1.0, 0.0])
    seen = Seen(torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]), torch.ones(2).bool())
    for impossible in ("raise", "reset"):
        tracker = ExactTracker(impossible)  # type: ignore[arg-type]
        _, memory = tracker.update(
            tracker.begin(model, 2), Seen(None, torch.zeros(2).long(), torch.zeros(2).bool())
        )
        if impossible == "raise":
            with pytest.raises(ValueError, match="episode 1, step 1, got 1"):
                tracker.update(memory, seen)
        else:
            assert tracker.update(memory, seen)[0].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("transition: needs shape", {"transition": [[1.0]]}),
        ("observation: needs shape", {"observation": TOLD[:2]}),
        (
            "rows must sum to 1; that of action '1', state '1' does not, got 0.9",
            {"transition": OFF},
        ),
        ("reward: must broadcast", {"reward": np.zeros((2, 2))}),
        ("discount: must be in", {"discount": 1.5}),
        ("discount: must be in [0, 1], got '0.9'", {"discount": "0.9"}),
        ("discount: must be in [0, 1], got True", {"discount": True}),
        ("initial: needs", {"initial": [0.7, 0.7]}),
        ("initial: needs shape (2,), got (3,)", {"initial": [0.5, 0.5, 0.0]}),
        ("first: needs shape (2, 3), got (3,)", {"first": FIRST[0]}),
        ("first: needs probabilities >= 0 that sum to 1", {"first": FIRST / 2}),
        ("states: must name the 2 of the tables, got 1", {"states": ["a"]}),
        ("actions: must name the 3 of the tables, got 2", {"actions": ["a", "b"]}),
        ("observations: must name the 3 of the tables, got 4", {"observations": list("abcd")}),
        ("reward: needs an array of numbers, got [['a']]", {"reward": [["a"]]}),
        ("reward: must be finite, got [nan]", {"reward": [[np.nan]]}),
    ],
)
def test_bad_tables_are_refused(message: str, changes: dict[str, object]) -> None:
    given: dict[str, object] = {"transition": MOVES, "observation": TOLD, **changes}
    with pytest.raises(ValueError, match=re.escape(message)):
        POMDP.from_tables(**given)  # type: ignore[arg-type]


def test_a_law_of_actions_is_that_of_the_process() -> None:
    law = ActionEmission(Categorical(3), 3)
    assert POMDP(2, law, actions=3).law is law
    with pytest.raises(ValueError, match=r"emission: .* = \(2, False, False\), .* got \(3, "):
        POMDP(2, law, actions=2)
    with pytest.raises(ValueError, match=r"emission: .* = \(3, False, True\)"):
        POMDP(2, law, actions=3, reward="learned")
    with pytest.raises(ValueError, match=r"emission: .* = \(3, True, False\)"):
        POMDP(2, law, actions=3, first=True)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("policy: must be a Policy, got <class", lambda: Uniform),
        ("policy: must be a Policy, got 3", lambda: 3),
        ("act: must be a function of beliefs", lambda: BeliefPolicy(torch.ones(2))),  # type: ignore[arg-type]
        ("tracker: must be a Tracker", lambda: BeliefPolicy(torch.exp, 3)),  # type: ignore[arg-type]
        ("policy: must be a Policy, got 3", lambda: Mixture([3])),  # type: ignore[list-item]
        ("policy: must give probabilities of shape (4, 3), got (4, 2)", lambda: acting([0.5, 0.5])),
        ("shape (4, 3), got (4,)", lambda: BeliefPolicy(lambda belief: belief.argmax(-1))),
        (
            "must give probabilities >= 0 that sum to 1, got [1.0, 1.0, 0.0]",
            lambda: acting([1, 1, 0]),
        ),
        ("must give probabilities >= 0 that sum to 1", lambda: acting([1.5, -0.5, 0])),
        ("must give probabilities >= 0 that sum to 1", lambda: acting([np.nan, 0.5, 0.5])),
        ("actions: must be whole numbers 0 to 2", lambda: ActionSequence((0.0,) * 5)),  # type: ignore[arg-type]
        ("first: needs shape (3,), got (2,)", lambda: ObservationPolicy(torch.eye(3), [0.5, 0.5])),  # type: ignore[arg-type]
    ],
)
def test_bad_policies_are_refused(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        process().rollout(make(), 4, 2, seed=0)


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("episodes: must be a whole number >= 1, got 0", lambda m: m.program(Uniform(), 0, 2)),
        ("length: must be a whole number >= 1, got 0", lambda m: m.program(Uniform(), 2, 0)),
        ("policy: must be a Policy, got None", lambda m: m.program(None, 2, 2)),
        ("model: must be a POMDP, got 3", lambda m: World(3)),  # type: ignore[arg-type]
    ],
)
def test_bad_programs_are_refused(message: str, act: Callable[[POMDP], object]) -> None:
    with pytest.raises(ValueError, match=message):
        act(process())


def acting(law: list[float]) -> BeliefPolicy:
    return BeliefPolicy(lambda belief: torch.tensor([law] * len(belief)))


def test_probabilities_of_single_precision_are_probabilities() -> None:
    law = [0.1, 0.2, 0.7]
    assert abs(torch.tensor(law).double().sum() - 1) > 1e-9
    for policy in (
        ObservationPolicy(torch.tensor([law] * 3), law),  # type: ignore[arg-type]
        FixedChances(torch.tensor(law)),
        acting(law),
    ):
        made = process().rollout(policy, 2, 3, seed=0)
        assert made.probabilities.dtype == torch.float64
        np.testing.assert_allclose(made.probabilities, np.broadcast_to(law, (2, 3, 3)), atol=1e-7)


def test_one_state_is_all_there_is_to_reset_to() -> None:
    model = POMDP.from_tables(np.ones((1, 1, 1)), [[[1.0, 0.0]]])
    with pytest.raises(ValueError, match="initial: needs probabilities"):
        POMDP.from_tables(np.ones((1, 1, 1)), [[[1.0, 0.0]]], initial=[0.5])
    memory = ExactTracker("reset").begin(model, 2)
    seen = Seen(torch.zeros(2).long(), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))
    assert ExactTracker("reset").update(memory, seen)[0].tolist() == [[1], [1]]


def test_bad_data_are_refused() -> None:
    model = process()
    with pytest.raises(ValueError, match=r"data\.actions: .* needs the action of every step"):
        log_evidence(model, Sequences.from_arrays([[0, 1]], codes=True))
    with pytest.raises(ValueError, match="needs actions 0 to 2, got 3 in sequence '0', step 1"):
        log_evidence(model, Sequences.from_arrays([[np.nan, 1]], codes=True, actions=[[0, 3]]))
    with pytest.raises(ValueError, match="nothing can be observed before the first action"):
        log_evidence(model, Sequences.from_arrays([[0, 1]], codes=True, actions=[[0, 1]]))
    with pytest.raises(ValueError, match="reward: needs four axes"):
        Rewards((2, 2), (1.0,))
