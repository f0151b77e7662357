"""The measures of the experiment on the tiger problem, in plain numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beliefzoo.experiments.decisions.tiger import (
    CLOSED_FORM,
    Settings,
    by_the_rule,
    exact_beliefs,
    judged,
    net_growls,
)
from beliefzoo.inference import value_iteration
from beliefzoo.models import ExactTracker, Uniform, tiger
from beliefzoo.models.beliefs import divergence


def test_closed_form() -> None:
    """Value of "listen until two net growls, then open", by its own Bellman equations."""
    right = 0.85**2 + 0.15**2  # the second growl agrees with the first
    sure = 0.85**2 / right
    opening = 10 * sure - 100 * (1 - sure)
    matrix = np.array([[1, -0.95, 0], [-0.95 * (1 - right), 1, -0.95 * right], [-0.95, 0, 1]])
    value = np.linalg.solve(matrix, [-1, -1, opening])
    assert value[0] == pytest.approx(CLOSED_FORM, abs=1e-9)
    assert pytest.approx(19.371368, abs=1e-6) == CLOSED_FORM


def test_net_growls_and_rule_beside_a_loop() -> None:
    made = tiger().rollout(Uniform(), 30, 25, seed=1)
    actions, seen = made.data.actions, made.data.values
    assert actions is not None
    followed = []
    for n in range(30):
        net = 0
        for t in range(25):
            if t:
                before = int(actions[n, t - 1])
                net = net + (1 if int(seen[n, t]) == 0 else -1) if before == 0 else 0
            assert int(net_growls(made)[n, t]) == net
            best = 0 if abs(net) < 2 else (2 if net > 0 else 1)  # growls left: open the right door
            followed.append(best == int(actions[n, t]))
    assert by_the_rule(made) == pytest.approx(np.mean(followed), abs=1e-12)


def test_the_plan_follows_the_rule() -> None:
    settings = Settings(episodes=50, length=30, shown=1)
    plan = value_iteration(tiger(), gap=0.5, seconds=None)
    found = judged(settings, plan, ExactTracker(), seed=2)
    assert found.figures["share_of_steps_by_the_rule"] == 1
    assert found.figures["kl_belief_per_step"] == pytest.approx(0, abs=1e-12)
    growls = net_growls(found.episodes).double()
    torch.testing.assert_close(
        exact_beliefs(tiger(), found.episodes.data)[..., 0],
        torch.sigmoid(growls * np.log(0.85 / 0.15)),
        atol=1e-9,
        rtol=0,
    )


def test_divergence_is_a_mean_over_steps() -> None:
    exact = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]], dtype=torch.float64)
    belief = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]], dtype=torch.float64)
    wanted = (np.log(2) + 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert divergence(exact.log(), belief.log()).mean().item() == pytest.approx(wanted, abs=1e-12)
