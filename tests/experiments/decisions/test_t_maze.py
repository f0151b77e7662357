"""What the experiment t-maze measures, beside slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beliefzoo.experiments.decisions.t_maze import (
    Settings,
    guided_belief,
    heldout,
    horizon,
    measured,
    network,
    own_belief,
    remember,
    trained,
    without_memory,
)
from beliefzoo.inference import BeliefGuide, GRUFilter, LSTMFilter

SMALL = Settings(
    lengths=(4,),
    steps=(3,),
    hidden_size=5,
    heldout_episodes=40,
    training_episodes=200,
    leanings=(1.0, 0.5),
)
CASE = (4, 0.2)


def test_what_episodes_bring() -> None:
    maze = heldout(SMALL, CASE)
    for n in range(len(maze.data)):
        cue, arrived = -1, False
        for t, symbol in enumerate(maze.data.values[n].tolist()):
            name = maze.model.observation_names[symbol]
            cue = t if name.startswith("cue") else cue
            first = name == "junction" and not arrived
            arrived = arrived or first
            assert int(maze.lag[n, t]) == t - cue
            assert bool(maze.arrived[n, t]) == first


def test_the_exact_belief_is_at_no_distance_and_knows_the_side() -> None:
    maze = heldout(SMALL, CASE)
    found = measured(maze, maze.belief.log())
    assert found.figures["kl_belief_per_step"] == pytest.approx(0, abs=1e-12)
    assert found.figures["kl_side_per_step"] == pytest.approx(0, abs=1e-9)
    assert found.figures["cue_at_junction"] == pytest.approx(1, abs=1e-12)
    states = maze.belief.shape[-1]
    even = torch.full_like(maze.belief, -np.log(states))
    total = 0.0
    for law in maze.belief.reshape(-1, states).tolist():
        total += sum(p * np.log(p * states) for p in law if p > 0)
    flat = measured(maze, even)
    assert flat.figures["kl_belief_per_step"] == pytest.approx(total / maze.data.n_steps, abs=1e-12)
    assert flat.figures["cue_at_junction"] == pytest.approx(0.5, abs=1e-12)
    np.testing.assert_allclose(flat.cue_by_lag[~np.isnan(flat.cue_by_lag)], 0.5, atol=1e-12)


def test_without_memory_the_side_is_not_known() -> None:
    """The share of visits on either side differs by chance only."""
    found = without_memory(SMALL, CASE).figures
    assert found["cue_at_junction"] == pytest.approx(0.5, abs=0.1)
    assert found["kl_belief_per_step"] > found["kl_side_per_step"] > 0.1


def test_zeros_of_the_model_know_the_side() -> None:
    """Whatever a network says: a guide takes out of it what is impossible."""
    maze = heldout(SMALL, (4, 0.0))
    torch.manual_seed(1)
    guide = BeliefGuide(maze.model, network(SMALL, "lstm", maze.model))
    assert measured(maze, own_belief(guide, maze)).figures["kl_belief_per_step"] > 1
    held = measured(maze, guided_belief(guide, maze)).figures
    assert held["kl_belief_per_step"] == pytest.approx(0, abs=1e-6)
    assert held["cue_at_junction"] == pytest.approx(1, abs=1e-6)


def test_a_longer_maze_begins_with_what_is_known_of_its_cells() -> None:
    short, long = (heldout(SMALL, (length, 0.2)) for length in (4, 6))
    first = network(SMALL, "gru", short.model)
    before = trained(BeliefGuide(short.model, first), short)
    second = network(SMALL, "gru", long.model, before)
    assert first.head is not None
    assert second.head is not None
    assert second.network is not None
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, before.network.state_dict()[name])
    known = dict(zip(before.states, before.weight, strict=True))
    carried = 0
    for row, name in enumerate(long.model.state_names):
        if name in known:
            assert torch.equal(second.head.weight[row], known[name])
            carried += 1
    assert carried == short.model.states


def test_gates_that_remember() -> None:
    """With nothing read, a unit keeps 1 / (1 + 1 / s) of its memory, s from 1 to the horizon."""
    steps = horizon(100)
    for made in (LSTMFilter(50), GRUFilter(50)):
        made.build(heldout(SMALL, CASE).model)
        remember(made, steps)
        size, weights = made.hidden_size, dict(made.named_parameters())
        bias = weights["network.bias_ih_l0"] + weights["network.bias_hh_l0"]
        bias = bias.detach()
        keeps = bias[size : 2 * size].sigmoid()
        assert float(keeps.min()) >= 0.5
        assert float(keeps.max()) <= 1 / (1 + 1 / (steps - 1)) + 1e-6
        if isinstance(made, LSTMFilter):
            torch.testing.assert_close(bias[:size].sigmoid(), 1 - keeps, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("lengths: must be >= 2", {"lengths": (1,), "steps": (9,)}),
        ("lengths: needs at least one", {"lengths": ()}),
        ("steps: needs a number >= 1 for each of 1 lengths", {"lengths": (4,), "steps": (0,)}),
        ("steps: needs a number >= 1 for each of 2 lengths", {"lengths": (4, 5), "steps": (9,)}),
        ("seeds: must be a whole number >= 1", {"seeds": 0}),
        ("gain: must be a finite number > 0", {"gain": 0.0}),
    ],
)
def test_bad_settings_are_refused(message: str, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)  # type: ignore[arg-type]
