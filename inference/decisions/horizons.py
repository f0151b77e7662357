"""Exact value of a POMDP over a few steps: all vectors that are best at some belief.

For small problems; a yardstick for :mod:`.planning`, and the way to plan with a discount of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models import POMDP
from ...models.checks import require_count
from ...models.decisions.rewards import Tables
from .planning_bounds import Array
from .planning_tables import checked_tables
from .plans import AlphaVectors

_NOTHING = 1e-10
"""Advantage of a vector over the others, relative to the largest entry, that counts as none: the
least feasibility tolerance of the solver of linear programs."""


@dataclass(frozen=True)
class HorizonPlan:
    """Optimal values and actions over a finite number of steps; made by :func:`solve_horizon`.

    Values are exact up to 1e-10 of the largest value a step: a vector that gains less is dropped.

    Attributes:
        stages: ``stages[n - 1]`` holds the vectors and first actions for n steps to go.

    >>> from beliefzoo.inference import solve_horizon
    >>> from beliefzoo.models import tiger
    >>> plan = solve_horizon(tiger(discount=1.0), horizon=2)
    >>> [stage.act([0.5, 0.5]).argmax().item() for stage in plan.stages]
    [0, 0]
    """

    stages: tuple[AlphaVectors, ...]

    def __repr__(self) -> str:
        return f"HorizonPlan({self.horizon} steps, the first with {self.stages[-1]})"

    @property
    def horizon(self) -> int:
        """Total number of steps."""
        return len(self.stages)

    @property
    def vectors(self) -> Tensor:
        """The vectors (M, K) of the first step."""
        return self.stages[-1].vectors

    def value(self, belief: Tensor) -> Tensor:
        """Returns the expected discounted rewards of all steps from beliefs (…, K) on: (…)."""
        return self.stages[-1].value(belief)


def solve_horizon(problem: POMDP | Tables, horizon: int) -> HorizonPlan:
    r"""Computes the optimal value over ``horizon`` steps by incremental pruning.

    .. math::
        V_n(b) = \max_a \sum_z b(z) R(a, z) + γ \sum_o p(o | b, a)\, V_{n-1}(b^{a,o}), \quad V_0 = 0

    V_n is the largest of linear functions, b·α. The vectors of an action are sums of one vector for
    each observation; observations are added one after the other, and after each those vectors that
    are best at no belief are dropped, which a linear program for each vector decides. Their number
    may grow very fast with states, observations and horizon.

    Args:
        problem: a POMDP with discrete observations and known parameters, or its tables; the
            discount may be 1.
        horizon: number of rewards that count.

    Returns:
        The vectors of every stage.

    Raises:
        ValueError: bad tables, or a horizon below 1.

    Source: Cassandra, Littman & Zhang (1997).

    >>> import torch
    >>> from beliefzoo.inference import solve_horizon
    >>> from beliefzoo.models import tiger
    >>> plan = solve_horizon(tiger(discount=1.0), horizon=3)
    >>> [round(plan.value(torch.tensor(b)).item(), 4) for b in ([0.5, 0.5], [0.9, 0.1], [1.0, 0.0])]
    [2.72, 3.93, 8.0]
    """
    tables = checked_tables(problem)
    require_count(horizon, "horizon")
    vectors = np.zeros((1, len(tables.initial)))
    stages = []
    for _ in range(horizon):
        plans = [_plans(tables, action, vectors) for action in range(len(tables.reward))]
        actions = np.repeat(np.arange(len(plans)), [len(plan) for plan in plans])
        vectors = np.concatenate(plans)
        kept = _useful(vectors)
        vectors, actions = vectors[kept], actions[kept]
        stages.append(AlphaVectors(torch.tensor(vectors), torch.tensor(actions), len(plans)))
    return HorizonPlan(tuple(stages))


def _plans(tables: Tables, action: int, following: Array) -> Array:
    """The undominated vectors of an action and what follows it, (M, K)."""
    sums: Array = tables.reward[action][None]
    for observation in tables.observation[action].T:
        ahead = tables.discount * (following * observation) @ tables.transition[action].T
        ahead = ahead[_useful(ahead)]
        sums = (sums[:, None] + ahead[None]).reshape(-1, sums.shape[1])
        sums = sums[_useful(sums)]
    return sums


def _useful(vectors: Array) -> list[int]:
    """Indices of the vectors that are best at some belief (Lark's method, White 1991)."""
    least = _NOTHING * max(float(np.abs(vectors).max()), 1e-300)
    left = _undominated(vectors, least)
    # Vectors that are best at a corner or in the middle need no linear program.
    beliefs = np.vstack([np.eye(vectors.shape[1]), np.full(vectors.shape[1], 1 / vectors.shape[1])])
    kept = sorted({left[_first_best(vectors[left], belief)] for belief in beliefs})
    left = [index for index in left if index not in kept]
    while left:
        belief = _witness(vectors[left[-1]], vectors[kept], least)
        if belief is None:
            left.pop()
        else:
            kept.append(left.pop(_first_best(vectors[left], belief)))
    return sorted(kept)


def _undominated(vectors: Array, least: float) -> list[int]:
    """Indices of those that no other one exceeds, or equals, in every state."""
    kept: list[int] = []
    for index in np.argsort(-vectors.sum(1), kind="stable"):
        if not kept or not (vectors[kept] >= vectors[index] - least).all(1).any():
            kept.append(int(index))
    return kept


def _first_best(vectors: Array, belief: Array) -> int:
    """Index of the best vector at a belief.

    Ties are broken by the values in the states, one after the other, since a vector that is best
    at one belief alone may not be needed.
    """
    values = vectors @ belief
    tied = np.flatnonzero(values >= values.max() - 1e-14 * np.abs(values).max())
    order = np.lexsort(vectors[tied].T[::-1])
    return int(tied[order[-1]])


def _witness(vector: Array, others: Array, least: float) -> Array | None:
    """A belief at which the vector exceeds all others, or None.

    max δ subject to b·(v - w) ≥ δ for all others w, Σ b = 1, b ≥ 0.
    """
    scale = least / _NOTHING
    states = len(vector)
    if states == 2:
        share = _highest((vector - others) / scale)
        belief = np.array([1 - share, share])
        return belief if ((vector - others) @ belief).min() / scale > _NOTHING else None

    from scipy.optimize import linprog  # loaded when first needed

    solved = linprog(
        np.append(np.zeros(states), -1.0),
        A_ub=np.column_stack([(others - vector) / scale, np.ones(len(others))]),
        b_ub=np.zeros(len(others)),
        A_eq=np.append(np.ones(states), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * states + [(None, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solved.status != 0:
        raise ArithmeticError(f"a linear program was not solved: {solved.message}")
    belief = np.asarray(solved.x[:states])
    return belief if solved.x[-1] > _NOTHING else None


def _highest(lines: Array) -> float:
    """Where in [0, 1] the least of lines, given by their values at 0 and at 1, is highest.

    Two lines, one rising and one falling, cross above the highest point. The line that is least
    there takes the place of one of them, until none is below the crossing.
    """
    slopes = lines[:, 1] - lines[:, 0]
    rising = np.lexsort((slopes, lines[:, 0]))[0]
    falling = np.lexsort((-slopes, lines[:, 1]))[0]
    if slopes[rising] <= 0:
        return 0.0
    if slopes[falling] >= 0:
        return 1.0
    while True:
        share = (lines[falling, 0] - lines[rising, 0]) / (slopes[rising] - slopes[falling])
        values = lines[:, 0] + share * slopes
        least = values.argmin()
        if slopes[least] == 0 or values[least] >= min(values[rising], values[falling]):
            return float(share)
        if slopes[least] > 0:
            rising = least
        else:
            falling = least
