"""Exact values over few steps, against published ones and against trees of all that may happen."""

import numpy as np
import pytest

from beliefzoo.inference import solve_horizon
from oracles_planning import tree_value
from planning_cases import random_tables, tiger


def test_tiger_over_two_steps_without_discount():
    plan = solve_horizon(tiger(discount=1.0), 2)
    assert plan.value([0.5, 0.5]) == pytest.approx(-2)
    expected = [(-101, 9), (-16.85, 7.35), (-2, -2), (7.35, -16.85), (9, -101)]
    found = sorted(tuple(vector) for vector in plan.vectors.tolist())
    np.testing.assert_allclose(found, sorted(expected), atol=1e-12)


def test_tiger_over_fifteen_steps():
    """The number that AI-Toolbox and pomdp-solve agree on."""
    plan = solve_horizon(tiger(), 15)
    assert plan.horizon == 15
    assert plan.value([0.5, 0.5]).item() == pytest.approx(9.7284247446776746, abs=1e-12)


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize(("seed", "discount"), [(0, 0.9), (1, 1.0), (2, 0.5), (3, 0.0)])
def test_every_stage_is_what_enumeration_gives(seed, discount, states):
    tables = random_tables(seed, states=states, actions=2, symbols=2, discount=discount)
    plan = solve_horizon(tables, 4)
    beliefs = np.random.default_rng(seed).dirichlet(np.ones(states), 3)
    for steps, stage in enumerate(plan.stages, start=1):
        for belief in (*beliefs, *np.eye(states)):
            assert float(stage.value(belief)) == pytest.approx(
                tree_value(tables, belief, steps), abs=1e-9
            )


@pytest.mark.parametrize("seed", range(3))
def test_no_vector_is_idle(seed):
    """Every vector is best at some belief of a fine grid over two states."""
    plan = solve_horizon(random_tables(seed, states=2, discount=0.9), 3)
    grid = np.linspace(0, 1, 200001)
    values = np.column_stack([grid, 1 - grid]) @ plan.vectors.numpy().T
    assert set(values.argmax(1)) == set(range(len(plan.vectors)))


def test_bad_arguments():
    with pytest.raises(ValueError, match="horizon: must be a whole number >= 1, got 0"):
        solve_horizon(tiger(), 0)
    with pytest.raises(ValueError, match=r"discount: must be in \[0, 1\], got 2"):
        solve_horizon(tiger(discount=2.0), 3)
