"""Bounds on the value of a POMDP, from below by vectors and from above by points.

The optimal value V of a belief b is convex. A vector α with α·b ≤ V(b) everywhere is the value of a
plan that is followed from b on whatever the state. The upper bound interpolates between the values
at the corners of the simplex and at points inside by the *sawtooth* of Hauskrecht (2000): from one
point and the corners.

Neither bound is ever loosened: what was a bound stays one. So a caller passes the number of vectors
and points that it has already used, and only later ones are evaluated.

Every update is moved outwards by ``Dynamics.rounding``, more than float64 can lose in it, so that
the bounds hold exactly for the tables as they are stored.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.decisions.rewards import Tables

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

SPARSE = 0.05
"""Share of non-zero transitions below which the products skip the zeros; a trade of speed alone."""


class Successors(NamedTuple):
    """The possible next beliefs: one for each action and observation of positive probability.

    ``action`` (n,), ``probability`` (n,) of the observation given the action, ``belief`` (n, K)
    after it, ``observation`` (n,).
    """

    action: Numbers
    observation: Numbers
    probability: Array
    belief: Array


class Dynamics:
    """The tables of a POMDP as the products that planning takes of them."""

    def __init__(self, tables: Tables) -> None:
        from scipy.sparse import csr_array  # loaded when first needed

        self.tables = tables
        self.actions, self.states, _ = tables.transition.shape
        dense = np.count_nonzero(tables.transition) >= SPARSE * tables.transition.size
        form = np.asarray if dense else csr_array
        self.onward: list[Any] = [form(matrix) for matrix in tables.transition]
        """T[a] (K, K)"""
        self._stacked = form(tables.transition.transpose(0, 2, 1).reshape(-1, self.states))
        symbols = tables.observation.shape[2]
        # A backup sums K products of a sum of S: each addition errs by at most eps of the largest.
        largest = np.abs(tables.reward).max() / (1 - tables.discount)
        self.rounding = float(4 * (self.states + symbols) * np.finfo(float).eps * largest)

    def successors(self, belief: Array) -> Successors:
        """Bayes' rule for every action and observation; belief (K,)."""
        tables = self.tables
        predicted = (self._stacked @ belief).reshape(self.actions, self.states)
        reached = predicted.any(0)
        joint = predicted[:, reached, None] * tables.observation[:, reached]
        probability = joint.sum(1)
        action, observation = np.nonzero(probability)
        chance = probability[action, observation]
        beliefs = np.zeros((len(action), self.states))
        beliefs[:, reached] = joint[action, :, observation] / chance[:, None]
        return Successors(action, observation, chance, beliefs)

    def action_values(self, belief: Array, following: Successors, values: Array) -> Array:
        """R(b, a) + γ Σ_o P(o | b, a) v(a, o), (A,); v (n,) stands beside the successors."""
        expected = np.bincount(
            following.action, following.probability * values, minlength=self.actions
        )
        return self.tables.reward @ belief + self.tables.discount * expected

    def backup(self, action: int, following: Array) -> Array:
        """R(z, a) + γ Σ_z' T(z' | z, a) Σ_o O(o | a, z') α_o(z'), (K,); α (S, K)."""
        tables = self.tables
        seen = np.einsum("ko,ok->k", tables.observation[action], following)
        vector: Array = tables.reward[action] + tables.discount * (self.onward[action] @ seen)
        return vector


def blind_vectors(dynamics: Dynamics) -> Array:
    """Values of repeating one action for ever, (A, K), from below (Hauskrecht 1997)."""
    tables = dynamics.tables
    vectors = np.empty_like(tables.reward)
    for action, reward in enumerate(tables.reward):
        vectors[action] = _discounted(dynamics.onward[action], tables.discount, reward)
        again = reward + tables.discount * (dynamics.onward[action] @ vectors[action])
        # A solution with residual r has an error of at most r / (1 - γ).
        slack = np.abs(again - vectors[action]).max() + dynamics.rounding
        vectors[action] -= slack / (1 - tables.discount)
    return vectors


def _discounted(onward: Any, discount: float, reward: Array) -> Array:
    """(1 - γ T)⁻¹ r, (K,)."""
    dense: Any = onward if isinstance(onward, np.ndarray) else onward.toarray()
    values: Array = np.linalg.solve(np.eye(len(reward)) - discount * dense, reward)
    return values


def state_action_values(dynamics: Dynamics) -> Array:
    """Values Q(a, z) if the state is observed, (A, K), by policy iteration."""
    tables = dynamics.tables
    rewards, states = tables.reward, np.arange(dynamics.states)
    policy = rewards.argmax(0)
    values = np.full(dynamics.states, -np.inf)
    while True:
        onward = tables.transition[policy, states]
        evaluated = _discounted(onward, tables.discount, rewards[policy, states])
        ahead = np.stack([matrix @ evaluated for matrix in dynamics.onward])
        q: Array = rewards + tables.discount * ahead
        if not (evaluated > values + dynamics.rounding).any():  # policies repeat only at the end
            return q
        values = evaluated
        # Keep the old action unless the new one gains: equal ones must not alternate.
        gained = q.max(0) > q[policy, states] + dynamics.rounding
        policy = np.where(gained, q.argmax(0), policy)


def informed_vectors(dynamics: Dynamics, sweeps: int = 200) -> Array:
    """The fast informed bound (Hauskrecht 2000): (A, K) whose largest product with b is ≥ V(b).

    The state is assumed to be observed one step late, from the next action on:
    α_a(z) = R(a, z) + γ Σ_o max_a' Σ_z' T(z' | z, a) O(o | a, z') α_a'(z'), iterated from
    the values of the process whose state is observed. These are above the fixed point, so that
    every sweep gives a bound.

    Args:
        dynamics: the problem.
        sweeps: largest number of sweeps; iteration stops earlier once nothing changes.
    """
    tables = dynamics.tables
    seen = state_action_values(dynamics)
    ahead = np.stack([matrix @ seen.max(0) for matrix in dynamics.onward])
    slack = np.abs(tables.reward + tables.discount * ahead - seen).max() + dynamics.rounding
    vectors: Array = seen + slack / (1 - tables.discount)
    for _ in range(sweeps):
        before = vectors
        swept = [_informed(dynamics, action, before) for action in range(dynamics.actions)]
        vectors = np.minimum(np.stack(swept) + dynamics.rounding, before)
        if (before - vectors).max() <= 1e-6 * np.abs(vectors).max():
            break
    return vectors


def _informed(dynamics: Dynamics, action: int, vectors: Array) -> Array:
    tables = dynamics.tables
    observation = tables.observation[action]
    best = np.full(observation.shape, -np.inf)
    for following in vectors:
        np.maximum(best, dynamics.onward[action] @ (observation * following[:, None]), out=best)
    informed: Array = tables.reward[action] + tables.discount * best.sum(1)
    return informed


class LowerBound:
    """The maximum of vectors, numbered in the order they were added; numbers never change."""

    def __init__(self, vectors: Array, actions: Numbers) -> None:
        self.vectors = list(vectors)
        self.actions = [int(action) for action in actions]
        self._numbers = np.arange(len(vectors))
        self._matrix = vectors.copy()
        self._used = len(vectors)

    @property
    def active(self) -> Numbers:
        """Numbers of the vectors that were not dropped."""
        return self._numbers[: self._used]

    def at(self, beliefs: Array, since: int = 0) -> tuple[Array, Numbers]:
        """Values (n,) of the best vector numbered ``since`` or later, −∞ if none; its number."""
        first = int(np.searchsorted(self.active, since))
        if first == self._used:
            return np.full(len(beliefs), -np.inf), np.zeros(len(beliefs), int)
        values = beliefs @ self._matrix[first : self._used].T
        best = values.argmax(1)
        return values[np.arange(len(beliefs)), best], self._numbers[first + best]

    def add(self, vector: Array, action: int) -> None:
        """Adds a vector."""
        if self._used == len(self._matrix):
            self._matrix = np.concatenate([self._matrix, np.empty_like(self._matrix)])
            self._numbers = np.concatenate([self._numbers, np.empty_like(self._numbers)])
        self._matrix[self._used] = vector
        self._numbers[self._used] = len(self.vectors)
        self._used += 1
        self.vectors.append(vector)
        self.actions.append(action)

    def prune(self, beliefs: Array) -> None:
        """Drops the vectors that are best at none of the beliefs (N, K)."""
        kept = np.unique(self.at(beliefs)[1])
        self._numbers, self._used = kept, len(kept)
        self._matrix = np.stack([self.vectors[number] for number in kept])


class UpperBound:
    """The least of the fast informed bound and the interpolation of values at corners and points.

    Points are sparse and numbered in the order they were added. Those with the same most likely
    state are linked, the latest first, since they do not lower the bound at beliefs that give this
    state probability zero.
    """

    def __init__(self, informed: Array) -> None:
        # Compiled code; numba is imported on first use since it takes a while.
        self._kernels = import_module(".planning_bounds_machine", __package__)
        self._informed = informed
        self._corners = informed.max(0)
        self.points = 0
        self.active = 0
        self._latest = np.full(len(self._corners), -1)
        self._points = Points(
            *(np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1), np.zeros(1)),
            *(np.zeros(1), np.zeros(1, np.int64)),
        )

    def at(self, beliefs: Array, known: Array, since: int = 0) -> Array:
        """Upper bounds (n,): those known, lowered by the points numbered ``since`` or later."""
        if since == 0:
            known = np.minimum(known, (beliefs @ self._informed.T).max(1))
        level = beliefs @ self._corners
        drops = np.minimum(known - level, 0)
        self._kernels.sawtooth(beliefs, self._latest, since, self._points, drops)
        values: Array = np.minimum(known, level + drops)
        return values

    def add(self, belief: Array, value: float, instead: int | None = None) -> int | None:
        """Adds a point and returns its number; ``instead`` of an earlier one at the same belief.

        A corner has no number: its value is lowered, and with it the bounds of all points.
        """
        (index,) = belief.nonzero()
        if len(index) == 1:
            self._corners[index] = np.minimum(self._corners[index], value)
            self._kernels.against_corners(self.points, self._points, self._corners)
            return None
        if instead is not None:
            self._points.values[instead] = self._points.gains[instead] = np.inf
            self.active -= 1
        number = self.points
        self.points += 1
        self.active += 1
        starts, states, shares, values, gains, earlier = self._points
        start = starts[number]
        end = start + len(index)
        starts = _room(starts, number + 2)
        states, shares = _room(states, end), _room(shares, end)
        values, gains, earlier = (_room(x, number + 1) for x in (values, gains, earlier))
        starts[number + 1] = end
        states[start:end], shares[start:end] = index, belief[index]
        values[number], gains[number] = value, value - belief @ self._corners
        likeliest = belief.argmax()
        earlier[number], self._latest[likeliest] = self._latest[likeliest], number
        self._points = Points(starts, states, shares, values, gains, earlier)
        return number

    def prune(self) -> None:
        """Drops the points at which the other points give no larger bound."""
        self.active = self._kernels.drop_idle(self.points, self._points, self._latest)


class Points(NamedTuple):
    """Point p has the states and shares from ``starts[p]`` on, to ``starts[p + 1]``."""

    starts: Numbers
    states: Numbers
    shares: Array
    values: Array
    """∞ for those that were dropped."""
    gains: Array
    """Value less what the corners give."""
    earlier: Numbers
    """The next point with the same likeliest state, −1 at the end."""


def _room(array: Any, size: int) -> Any:
    """The array, or one of twice its length or more that begins with it."""
    if size <= len(array):
        return array
    return np.concatenate([array, np.zeros(size, array.dtype)])
