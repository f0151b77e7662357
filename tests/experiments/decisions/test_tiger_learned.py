"""The measures of `tiger-learned`, beside loops and numbers that are known; starts of processes."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.experiments.decisions import tiger_learned as experiment
from beliefzoo.experiments.decisions.parts import learned_tables as tables
from beliefzoo.inference import filter, log_evidence, starting_values
from beliefzoo.models import POMDP, Gaussian, Uniform, tiger

SETTINGS = experiment.Settings(**{**experiment.SMOKE, "heldout": 40})


def test_free_numbers_are_those_that_the_rows_leave() -> None:
    """1 + 6 + 6 chances, 6 rewards and their noise; listening moves no tiger: at the edge."""
    rows = tables.entries(experiment.truth(SETTINGS))
    assert len(rows) == 20
    assert [row.label for row in rows if row.edge] == [
        "T to left | listen, left",
        "T to left | listen, right",
    ]


def test_states_are_named_by_their_rewards() -> None:
    model = experiment.truth(SETTINGS)
    known = dict(model.known)
    for order in itertools.permutations(range(2)):
        mixed = tables.named_as(known, order)
        found = tables.names_of_states(model, mixed)
        again = tables.named_as(mixed, found)
        assert all(torch.equal(again[name], value) for name, value in known.items())
    swapped = tables.named_as(known, (1, 0))
    assert swapped["transition"][0].tolist() == [[1, 0], [0, 1]]
    assert swapped["probs"][0].tolist() == known["probs"][0].flip(0).tolist()
    data = experiment.episodes(SETTINGS, "everything", 10, 0)
    unknown = experiment.unknown(data)
    inside = {**known, "transition": torch.rand(3, 2, 2).softmax(-1)}
    first, second = (
        log_evidence(unknown.with_parameters(**tables.named_as(inside, order)), data).sum()
        for order in ((0, 1), (1, 0))
    )
    assert float(first) == pytest.approx(float(second), abs=1e-9)


def test_coverage_counts_what_intervals_hold() -> None:
    """Draws about the truth hold it, draws far away do not; chances of 1 do not count."""
    model = experiment.truth(SETTINGS)
    near = {
        name: value + 0.01 * torch.randn(200, *value.shape, dtype=torch.float64)
        for name, value in model.known.items()
    }
    far = {name: value + 1 for name, value in near.items()}
    found = [experiment.Learned(draws, {}, {}) for draws in (near, far)]
    figures = experiment.coverage(SETTINGS, found)
    assert figures["intervals"] == 36
    assert figures["share"] == 0.5
    assert set(figures["largest_distance_from_the_edge"]) == {
        "T_to_left_given_listen_left",
        "T_to_left_given_listen_right",
    }


def test_the_divergence_is_a_sum() -> None:
    rng = np.random.default_rng(0)
    true, other = rng.dirichlet([1, 1], (3, 4)), rng.dirichlet([1, 1], (3, 4))
    true[0, 0] = [1, 0]
    total = 0.0
    for n, t, k in itertools.product(range(3), range(4), range(2)):
        if true[n, t, k] > 0:
            total += true[n, t, k] * np.log(true[n, t, k] / other[n, t, k]) / 12
    found = experiment.missed(torch.tensor(true), torch.tensor(other))
    assert found == pytest.approx(total, abs=1e-12)


def test_the_careful_agent_opens_at_two_growls_more_on_one_side() -> None:
    data = experiment.heldout(SETTINGS)["careful_agent"]
    assert data.actions is not None
    for n in range(len(data)):
        net = 0
        for t in range(data.max_length):
            if t > 0 and int(data.actions[n, t - 1]) == 0:
                net += 1 if int(data.values[n, t]) == 0 else -1
            elif t > 0:
                net = 0
            expected = 0 if abs(net) < 2 else (2 if net > 0 else 1)
            assert int(data.actions[n, t]) == expected


def test_a_fit_from_few_episodes_runs_whatever_it_learns_from() -> None:
    for kind in experiment.KINDS:
        found = experiment.learn(SETTINGS, kind, 12, 0)
        assert set(found.draws) == set(found.medians) == set(found.prior)
        assert ("reward" in found.draws) == (kind != "without_rewards")
    chosen = experiment.episodes(SETTINGS, "right_never_opened", 50, 0).actions
    assert chosen is not None
    assert set(chosen.unique().tolist()) == {0, 1}


def test_a_start_is_near_enough_for_the_right_rewards() -> None:
    """Rewards of −100 and 10 are told apart by EM, from labels that know nothing of them."""
    truth = experiment.truth(experiment.Settings())
    data = truth.rollout(Uniform(), 300, 10, seed=1).data
    model = experiment.unknown(data)
    found = starting_values(model, data)
    order = tables.names_of_states(truth, found)
    named = tables.named_as(found, order)
    torch.testing.assert_close(named["reward"].double(), truth.known["reward"], atol=1.5, rtol=0)
    assert float(found["reward_scale"]) < 5


def test_a_start_of_numbers_seen_after_actions() -> None:
    """Two states that no action mixes: each has its own mean after each action."""
    truth = POMDP(2, Gaussian(), actions=2).with_parameters(
        initial=[0.5, 0.5],
        transition=[[[0.95, 0.05], [0.05, 0.95]]] * 2,
        mean=[[0.0, 5.0], [1.0, 8.0]],
        scale=[[0.5, 0.5], [0.5, 0.5]],
    )
    data = truth.rollout(Uniform(), 100, 20, seed=2).data
    found = starting_values(POMDP(2, Gaussian(), actions=2), data)
    mean = found["mean"].double()
    order = mean[0].argsort()
    torch.testing.assert_close(mean[:, order], truth.known["mean"], atol=1.0, rtol=0)


def test_beliefs_are_those_of_tiger_at_its_own_tables() -> None:
    data = experiment.heldout(SETTINGS)["random_actions"]
    learned = experiment.plain(experiment.truth(SETTINGS).known)
    torch.testing.assert_close(filter(learned, data), filter(tiger(), data), atol=1e-12, rtol=0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="episodes: must be >= 1"):
        experiment.Settings(episodes=0)
    with pytest.raises(ValueError, match="noise: must be finite and > 0, got 0"):
        experiment.Settings(noise=0)
