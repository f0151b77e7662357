"""Rewards of the steps of a decision process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import is_number, require

Array = npt.NDArray[np.float64]

MOST = 2**24
"""Entries of a table; of larger ones those that are not zero are held."""


class Tables(NamedTuple):
    """The tables of a decision process with symbols for observations, in float64.

    ``POMDP.tables`` makes them.

    Attributes:
        initial: p(z_1), (K,).
        transition: T(z' | z, a), (A, K, K), rows from and columns to.
        observation: O(o | a, z'), (A, K, S), where z' is the state that the action led to.
        reward: E[r | z, a], (A, K).
        discount: γ in [0, 1]: a reward t steps ahead counts γ^t.

    >>> from beliefzoo.models import tiger
    >>> tables = tiger().tables()
    >>> tables.reward.tolist()  # listen, open left, open right
    [[-1.0, -1.0], [-100.0, 10.0], [10.0, -100.0]]
    """

    initial: Array
    transition: Array
    observation: Array
    reward: Array
    discount: float


@dataclass(frozen=True)
class Rewards:
    """Rewards R(a, z, z', o) of action, state, next state and next observation.

    ``Rewards.of_table`` makes them from an array. An axis that the reward does not depend on has
    size 1.

    Args:
        shape: (A|1, K|1, K|1, S|1).
        values: the entries, the last axis running fastest.
        places: where the entries stand if all others are zero, counted with the last axis running
            fastest, in increasing order; None if none is left out.

    Raises:
        ValueError: another number of axes or entries, places out of order or range, or entries that
            are not finite.

    >>> rewards = Rewards.of_table([[-1.0, -1.0], [-100.0, 10.0]])  # R(a, z)
    >>> rewards.shape
    (2, 2, 1, 1)
    """

    shape: tuple[int, ...]
    values: tuple[float, ...]
    places: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for argument in ("shape", "values"):
            given = getattr(self, argument)
            fits = isinstance(given, tuple | list) and all(is_number(x) for x in given)
            require(fits, f"reward.{argument}", "must be a tuple of numbers", repr(given)[:99])
        if self.places is not None:
            fits = isinstance(self.places, tuple | list)
            fits = fits and all(is_number(x) and x % 1 == 0 for x in self.places)
            wanted = "must be whole numbers, or None"
            require(fits, "reward.places", wanted, repr(self.places)[:99])
        set_ = object.__setattr__  # a frozen dataclass
        set_(self, "shape", tuple(int(size) for size in self.shape))
        set_(self, "values", tuple(float(value) for value in self.values))
        count = math.prod(self.shape) if self.places is None else len(self.places)
        require(
            len(self.shape) == 4 and count == len(self.values),
            "reward",
            "needs four axes (action, state, state_to, observation) and an entry for each place",
            f"shape {self.shape} and {len(self.values)} entries",
        )
        if self.places is not None:
            ends = (-1, *self.places, math.prod(self.shape))
            fits = all(low < high for low, high in pairwise(ends))
            wanted = "must be in increasing order within the shape"
            require(fits, "reward.places", wanted, f"{self.places[:9]} for {self.shape}")
        others = [value for value in self.values if not np.isfinite(value)]
        require(not others, "reward", "must be finite", others[:1])

    @classmethod
    @boundary
    def of_table(cls, table: npt.ArrayLike | Tensor) -> Rewards:
        """Make rewards from an array (A|1, K|1, K|1, S|1).

        An array of fewer axes has the first ones: (A, K) is R(a, z).

        Raises:
            ValueError: more than four axes, or entries that are not finite numbers.
        """
        try:
            array = np.asarray(table, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward: needs an array of numbers, got {table!r}") from error
        require(array.ndim <= 4, "reward", "has at most four axes", array.shape)
        array = array.reshape(array.shape + (1,) * (4 - array.ndim))
        return cls(array.shape, tuple(array.ravel().tolist()))

    @cached_property
    def table(self) -> Tensor:
        """The rewards, (A|1, K|1, K|1, S|1) float64.

        Raises:
            ValueError: more than 2^24 of them.
        """
        values = torch.tensor(self.values, dtype=torch.float64)
        if self.places is not None:
            few = math.prod(self.shape) <= MOST
            require(few, "reward", "needs at most 2^24 entries to be a table", self.shape)
            at = torch.tensor(self.places, dtype=torch.int64)
            values = torch.zeros(math.prod(self.shape), dtype=torch.float64).index_put(
                (at,), values
            )
        return values.reshape(self.shape)

    def entries(self) -> tuple[npt.NDArray[np.int64], Array]:
        """Return where rewards that are not zero stand, (entries, 4), and which they are."""
        values = np.array(self.values)
        places = np.arange(len(values)) if self.places is None else np.array(self.places, np.int64)
        there = values != 0
        found = np.unravel_index(places[there], self.shape)
        return np.stack(found, -1).astype(np.int64), values[there]

    @cached_property
    def paying(self) -> Tensor:
        """Whether a move may earn something, (A|1, K|1, K|1) bool."""
        where, _ = self.entries()
        found = torch.zeros(self.shape[:3], dtype=torch.bool)
        found[tuple(torch.from_numpy(where[:, :3].T))] = True
        return found

    def alike(self, one: int, other: int) -> bool:
        """Whether two states earn the same, so that rewards do not change if they are exchanged."""
        where, values = self.entries()
        turned = where.copy()
        for axis in (1, 2):
            if self.shape[axis] > 1:
                turned[where[:, axis] == one, axis] = other
                turned[where[:, axis] == other, axis] = one
        before, after = (np.ravel_multi_index(tuple(x.T), self.shape) for x in (where, turned))
        order = after.argsort()
        return np.array_equal(before, after[order]) and np.array_equal(values, values[order])

    def check(self, actions: int, states: int, symbols: int | None) -> None:
        """Raise ``ValueError`` unless the rewards fit a process of these sizes."""
        sizes = actions, states, states, symbols or 1
        fits = all(own in (1, size) for own, size in zip(self.shape, sizes, strict=True))
        requirement = f"must broadcast to (action, state, state_to, observation) = {sizes}"
        require(fits, "reward", requirement, f"shape {self.shape}")

    def of(
        self,
        action: Tensor,
        state: Tensor,
        state_to: Tensor,
        observation: Tensor | None = None,
    ) -> Tensor:
        """Return the rewards of steps, in the common shape of the arguments; float64."""
        seen = action if observation is None else observation
        places = action, state, state_to, seen
        index = (
            place if size > 1 else torch.zeros_like(place)
            for place, size in zip(places, self.shape, strict=True)
        )
        if self.places is None:
            return self.table[tuple(index)]
        flat = torch.zeros((), dtype=torch.int64)
        for place, size in zip(index, self.shape, strict=True):
            flat = flat * size + place
        known = torch.tensor((*self.places, -1), dtype=torch.int64)
        values = torch.tensor((*self.values, 0.0), dtype=torch.float64)
        at = torch.searchsorted(known[:-1], flat)
        return torch.where(known[at] == flat, values[at], 0)

    def expected(self, transition: Array, observation: Array | None) -> Array:
        """Return Σ_z' T(z'|z,a) Σ_o O(o|a,z') R(a, z, z', o), (A, K)."""
        if self.places is not None:
            return self._expected_of_entries(transition, observation)
        table = self.table.numpy()
        actions, states = transition.shape[:2]
        if table.shape[3] > 1:
            assert observation is not None  # the table was checked with the process
            ours = np.broadcast_to(table, (actions, *table.shape[1:]))
            told = np.broadcast_to(observation[:, None], (actions, 1, *observation.shape[1:]))
            ours = np.einsum("aijs,aijs->aij", *np.broadcast_arrays(ours, told))
        else:
            ours = np.broadcast_to(table[..., 0], (actions, *table.shape[1:3]))
        if ours.shape[2] == 1:  # the rows of the transition sum to 1
            return np.broadcast_to(ours[..., 0], (actions, states)).copy()
        ours = np.broadcast_to(ours, (actions, ours.shape[1], states))
        if ours.shape[1] == 1:
            return np.asarray(np.einsum("azj,aj->az", transition, ours[:, 0]))
        return np.asarray(np.einsum("azj,azj->az", transition, ours))

    def _expected_of_entries(self, transition: Array, observation: Array | None) -> Array:
        """``expected``, entry by entry; an axis of size 1 stands for all of its places."""
        actions, states = transition.shape[:2]
        found = np.zeros((actions, states))
        for where, value in zip(*self.entries(), strict=True):
            a, z, to, seen = (
                slice(None) if size == 1 else int(place)
                for place, size in zip(where, self.shape, strict=True)
            )
            told = np.ones((actions, states))
            if self.shape[3] > 1:
                assert observation is not None  # the shape was checked with the process
                told = np.broadcast_to(observation[:, :, seen], (actions, states))
            chance = (transition[:, :, to] * told[:, None, to]).reshape(actions, states, -1).sum(-1)
            found[a, z] += value * chance[a, z]
        return found
