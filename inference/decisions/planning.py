"""Planning in a POMDP: what to do at every belief, and how much the best policy can earn.

Point-based value iteration with bounds on both sides: however long it runs, the value of the best
policy lies between them, and the policy found earns at least the lower one. It is a yardstick for
policies that act on learned beliefs, for up to about a thousand states.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from ...models import POMDP
from ...models.boundary import boundary
from ...models.checks import require_count, require_positive
from ...models.decisions.rewards import Tables
from ..fitting.progress import progress_of
from .planning_bounds import (
    Array,
    Dynamics,
    LowerBound,
    Numbers,
    Successors,
    UpperBound,
    blind_vectors,
    informed_vectors,
    state_action_values,
)
from .planning_tables import checked_tables, require_discount
from .plans import AlphaVectors, History, Plan

SHRINK = 0.95
"""Share of the gap that a short descent is to leave, as in the implementation of HSVI2; a trade of
speed alone."""


@boundary
def value_iteration(
    problem: POMDP | Tables,
    *,
    gap: float = 1e-2,
    seconds: float | None = 60.0,
    trials: int | None = None,
    progress: bool = False,
) -> Plan:
    r"""Plans by heuristic search value iteration, HSVI2, with bounds on the optimal value.

    .. math::
        V(b) = \max_a \sum_z b(z) R(a, z) + γ \sum_o p(o | b, a)\, V(b^{a,o})

    is bounded at the initial belief, before any observation: from below by vectors, which start
    from the values of repeating one action for ever; from above by the fast informed bound and the
    sawtooth interpolation of points. Each trial follows the actions that are best by the upper
    bound and the observations that contribute most to the gap, and updates both bounds on its way
    back. Half of the work goes into short descents, to where the discounted gap is a little below
    that of the start, half into long ones, to where it is below ``gap``. The bounds account for
    rounding in float64.

    Args:
        problem: a POMDP with discrete observations and known parameters, or its tables.
        gap: difference of the bounds at which to stop, in units of reward.
        seconds: time after which to stop with the bounds reached; None: no limit.
        trials: number of trials after which to stop; None: no limit. A result limited by trials
            alone is reproducible.
        progress: show a progress bar with the bounds.

    Returns:
        The plan; ``plan.gap`` tells whether the gap was reached.

    Raises:
        ValueError: a bad argument or table, or a discount outside [0, 1).

    Source: Smith & Simmons (2005).

    >>> from beliefzoo.inference import value_iteration
    >>> from beliefzoo.models import tiger
    >>> plan = value_iteration(tiger(), gap=0.1)
    >>> plan.gap <= 0.1, plan.lower <= 19.3714 <= plan.upper
    (True, True)
    >>> plan.act([0.5, 0.5]).tolist()  # not knowing where the tiger is: listen
    [1.0, 0.0, 0.0]
    """
    start = time.perf_counter()
    tables = checked_tables(problem)
    require_discount(tables)
    require_positive(gap, "gap")
    if seconds is not None:
        require_positive(seconds, "seconds")
    if trials is not None:
        require_count(trials, "trials", least=0)
    deadline = math.inf if seconds is None else start + seconds
    limit = math.inf if trials is None else trials
    search = _Search(Dynamics(tables), gap, deadline)
    history = [(time.perf_counter() - start, *search.bounds)]
    with progress_of(trials, "trial", shown=progress) as bar:
        while search.left > gap and len(history) <= limit and time.perf_counter() < deadline:
            told = search.trial()
            history.append((time.perf_counter() - start, *search.bounds))
            bar.update()
            bar.set_postfix({"bounds": " to ".join(f"{bound:.6g}" for bound in search.bounds)})
            if not told:  # the rest is below the precision of float64
                break
    return search.plan(history)


def mdp_values(problem: POMDP | Tables) -> Tensor:
    r"""Values Q(a, z) of the decision process whose state is observed, by policy iteration.

    .. math:: Q(a, z) = R(a, z) + γ \sum_{z'} T(z' | z, a) \max_{a'} Q(a', z')

    Args:
        problem: a POMDP with discrete observations and known parameters, or its tables.

    Returns:
        Expected discounted rewards, (A, K), float64.

    Raises:
        ValueError: bad tables, or a discount outside [0, 1).

    >>> from beliefzoo.inference import mdp_values
    >>> from beliefzoo.models import tiger
    >>> mdp_values(tiger(discount=0.5)).numpy().round(2)  # the right door pays 10 at every step
    array([[  9.,   9.],
           [-90.,  20.],
           [ 20., -90.]])
    """
    tables = checked_tables(problem)
    require_discount(tables)
    return torch.tensor(state_action_values(Dynamics(tables)))


def qmdp(problem: POMDP | Tables) -> AlphaVectors:
    """Policy that acts as if the state will be observed from the next step on (QMDP).

    It takes the action of max_a Σ_z b(z) Q(a, z), with Q of :func:`mdp_values`. This is cheap and
    an upper bound on the value of every policy, but it ignores what an action reveals: it never
    acts only to gain information.

    Args:
        problem: a POMDP with discrete observations and known parameters, or its tables.

    Returns:
        One vector for each action.

    Raises:
        ValueError: bad tables, or a discount outside [0, 1).

    Source: Littman, Cassandra & Kaelbling (1995).

    >>> from beliefzoo.inference import qmdp
    >>> from beliefzoo.models import tiger
    >>> policy = qmdp(tiger(discount=0.5))
    >>> policy.value([0.5, 0.5]).item(), policy.act([0.98, 0.02]).tolist()
    (9.0, [0.0, 0.0, 1.0])
    """
    q = mdp_values(problem)
    return AlphaVectors(q, torch.arange(len(q)), len(q))


class _Node:
    """A belief that was visited, and the best known bounds at it and at its successors.

    Place 0 of ``upper``, ``lower``, ``best`` is the belief's own, the others are its successors'.
    """

    def __init__(self, belief: Array, successors: int) -> None:
        self.belief = belief
        self.upper = np.full(1 + successors, np.inf)
        self.lower = np.full(1 + successors, -np.inf)
        self.best: Numbers = np.zeros(1 + successors, np.int64)
        self.points_seen = self.vectors_seen = 0
        self.point: int | None = None


class _Search:
    """Heuristic search (HSVI2) from the initial belief."""

    def __init__(self, dynamics: Dynamics, gap: float, deadline: float) -> None:
        self.dynamics, self.deadline = dynamics, deadline
        self.lower = LowerBound(blind_vectors(dynamics), np.arange(dynamics.actions))
        self.upper = UpperBound(informed_vectors(dynamics))
        self.nodes: dict[bytes, _Node] = {}
        discount = dynamics.tables.discount
        # Smaller gains than this are skipped: over all steps to come they add up to a hundredth
        # of the gap for either bound, and descents aim at the rest of it.
        self.least = gap * (1 - discount) / 100
        self.aim = 0.98 * gap
        self.root = self._visit(dynamics.tables.initial)[0]
        self.work = [0, 0]
        self._pruned = [dynamics.actions, 1]

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound at the initial belief."""
        slack = self.dynamics.rounding
        return float(self.root.lower[0]) - slack, float(self.root.upper[0]) + slack

    @property
    def left(self) -> float:
        """The gap there."""
        lower, upper = self.bounds
        return upper - lower

    def trial(self) -> bool:
        """One descent from the initial belief, and the updates on the way back.

        Going down, it takes the action that is best by the upper bound, and the observation whose
        successor exceeds its allowed gap ε γ^-t by most. Returns whether any bound improved.
        """
        # Half of the work goes into short descents, which improve the upper bound fastest, half
        # into long ones, which improve the lower bound fastest.
        deep = self.work[0] > self.work[1]
        aim = self.aim if deep else max(SHRINK * self.left, self.aim)
        discount = self.dynamics.tables.discount
        belief, path = self.dynamics.tables.initial, []
        while time.perf_counter() < self.deadline:
            aim = aim / discount if discount else math.inf
            node, following = self._visit(belief)
            path.append(node)
            values = self.dynamics.action_values(belief, following, node.upper[1:])
            excess = following.probability * (node.upper[1:] - node.lower[1:] - aim)
            excess[following.action != values.argmax()] = -np.inf
            chosen = int(excess.argmax())
            if excess[chosen] <= 0:
                break
            belief = following.belief[chosen]
        self.work[deep] += len(path)
        changed = [self._backup(node) for node in reversed(path)]
        self._visit(self.root.belief)
        self._prune()
        return any(changed) or not deep

    def plan(self, history: list[tuple[float, float, float]]) -> Plan:
        """The result of the search."""
        numbers = self.lower.active
        vectors = np.stack([self.lower.vectors[number] for number in numbers])
        actions = np.array([self.lower.actions[number] for number in numbers])
        return Plan(
            torch.tensor(vectors),
            torch.tensor(actions),
            self.dynamics.actions,
            *self.bounds,
            History(*torch.tensor(history, dtype=torch.float64).T),
        )

    def _visit(self, belief: Array) -> tuple[_Node, Successors]:
        """The node of a belief, with its bounds updated by all vectors and points so far."""
        following = self.dynamics.successors(belief)
        key = belief.tobytes()
        if key not in self.nodes:
            self.nodes[key] = _Node(belief, len(following.action))
        node = self.nodes[key]
        beliefs = np.concatenate([belief[None], following.belief])
        node.upper = self.upper.at(beliefs, node.upper, node.points_seen)
        values, best = self.lower.at(beliefs, node.vectors_seen)
        better = values > node.lower
        node.lower[better], node.best[better] = values[better], best[better]
        node.points_seen, node.vectors_seen = self.upper.points, len(self.lower.vectors)
        return node, following

    def _backup(self, node: _Node) -> bool:
        """Bellman's update of both bounds at a belief; returns whether either improved."""
        node, following = self._visit(node.belief)
        slack = self.dynamics.rounding
        highest = self.dynamics.action_values(node.belief, following, node.upper[1:]).max() + slack
        fell = highest < node.upper[0] - self.least
        if fell:
            node.upper[0] = highest
            node.point = self.upper.add(node.belief, highest, node.point)
        values = self.dynamics.action_values(node.belief, following, node.lower[1:])
        rose = values.max() > node.lower[0] + self.least
        if rose:
            self._add_vector(node, following, int(values.argmax()))
        return bool(fell or rose)

    def _add_vector(self, node: _Node, following: Successors, action: int) -> None:
        tables = self.dynamics.tables
        # Observations impossible at this belief may occur at others: for these, use the vector
        # that is best for the predicted belief.
        predicted = node.belief @ self.dynamics.onward[action]
        ahead = np.repeat(self.lower.at(predicted[None])[1], tables.observation.shape[2])
        mine = following.action == action
        ahead[following.observation[mine]] = node.best[1:][mine]
        vectors = self.lower.vectors
        vector = self.dynamics.backup(action, np.stack([vectors[number] for number in ahead]))
        self.lower.add(vector - self.dynamics.rounding, action)

    def _prune(self) -> None:
        """Drops redundant vectors and points whenever their number has grown by half."""
        if len(self.lower.active) > 1.5 * self._pruned[0] + 32:
            self.lower.prune(np.stack([node.belief for node in self.nodes.values()]))
            self._pruned[0] = len(self.lower.active)
        if self.upper.active > 1.5 * self._pruned[1] + 32:
            self.upper.prune()
            self._pruned[1] = self.upper.active
