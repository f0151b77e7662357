"""Results of planning: vectors to act on, and bounds on the optimal value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from ...models import BeliefPolicy
from ...models.checks import require
from ...models.data.storage import read_tensors, reading, write_tensors

_ROUNDED = 1e-3
"""Distance of a sum of probabilities from 1 that networks in float32 leave, and more."""


@dataclass(frozen=True, eq=False)
class AlphaVectors:
    """Piecewise linear value function max_m b·α_m of beliefs b, and the action of each vector.

    Args:
        vectors: α, (M, K) float64, in units of reward.
        actions: the action of each vector, (M,) int64.
        action_count: number of actions A.

    >>> import torch
    >>> from beliefzoo.inference import AlphaVectors
    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]], dtype=torch.float64)
    >>> plan = AlphaVectors(vectors, torch.tensor([0, 1, 2]), action_count=3)
    >>> plan.value([0.9, 0.1]).item(), plan.act([0.9, 0.1]).tolist()
    (0.9, [1.0, 0.0, 0.0])
    >>> plan.value([0.5, 0.5]).item(), plan.act([0.5, 0.5]).tolist()
    (0.6, [0.0, 0.0, 1.0])
    """

    vectors: Tensor
    actions: Tensor
    action_count: int

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._size()})"

    def _size(self) -> str:
        vectors, states = self.vectors.shape
        return f"{vectors} vectors, {states} states, {self.action_count} actions"

    def value(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        """Returns max_m b·α_m of beliefs b (…, K): (…)."""
        return self._products(belief).amax(-1)

    def act(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        """Returns probabilities (…, A): 1 for the action of the largest vector."""
        action = self.actions[self._products(belief).argmax(-1)]
        return torch.nn.functional.one_hot(action, self.action_count).double()

    @property
    def policy(self) -> BeliefPolicy:
        """The policy on the exact belief; for others, ``BeliefPolicy(plan.act, tracker)``."""
        return BeliefPolicy(self.act)

    def _products(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        belief = torch.as_tensor(belief, dtype=torch.float64)
        states = self.vectors.shape[1]
        fits = belief.ndim > 0 and belief.shape[-1] == states
        require(fits, "belief", f"needs {states} states last", tuple(belief.shape))
        off = (belief.sum(-1) - 1).abs()  # NaN is near nothing
        fits = bool((off < _ROUNDED).all()) and bool((belief > -_ROUNDED).all())
        needed = "needs probabilities that sum to 1 over the states"
        require(fits, "belief", needed, f"a sum that is off by {float(off.max()):.3g}")
        return belief @ self.vectors.T


class History(NamedTuple):
    """Bounds at the initial belief in the course of planning, the first before any search.

    Attributes:
        seconds: time since the call, (steps,).
        lower: lower bound, (steps,), in units of reward.
        upper: upper bound, (steps,).

    >>> from beliefzoo.inference import value_iteration
    >>> from beliefzoo.models import tiger
    >>> history = value_iteration(tiger(), gap=5.0).history
    >>> bool((history.lower.diff() >= 0).all()), bool((history.upper.diff() <= 0).all())
    (True, True)
    """

    seconds: Tensor
    lower: Tensor
    upper: Tensor

    def __repr__(self) -> str:
        bounds = f"{float(self.lower[-1]):.6g} to {float(self.upper[-1]):.6g}"
        return f"History({len(self.seconds)} bounds in {float(self.seconds[-1]):.3g} s, {bounds})"


@dataclass(frozen=True, eq=False)
class Plan(AlphaVectors):
    """A policy with bounds on the optimal value; made by :func:`value_iteration`.

    ``value(b)`` is a lower bound on what ``act`` earns from belief b on.

    Attributes:
        vectors, actions, action_count: as of :class:`AlphaVectors`.
        lower: lower bound on the value of the best policy at the initial belief; this policy earns
            at least as much there.
        upper: upper bound on the value of every policy there.
        history: the bounds in the course of planning.

    >>> from beliefzoo.inference import value_iteration
    >>> from beliefzoo.models import tiger
    >>> model = tiger()
    >>> plan = value_iteration(model, gap=1.0)
    >>> episodes = model.rollout(plan.policy, episodes=2000, length=60, seed=0)
    >>> abs(episodes.returns().mean().item() - 19.3714) < 2  # the optimal value
    True
    """

    lower: float
    upper: float
    history: History

    def __repr__(self) -> str:
        value = f"value {self.lower:.6g} to {self.upper:.6g}"
        return f"{type(self).__name__}({self._size()}, {value})"

    @property
    def gap(self) -> float:
        """upper - lower: the most that the best policy could earn beyond this one."""
        return self.upper - self.lower

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the plan to one file, completely or not at all; :func:`load_plan` reads it.

        Returns:
            The path.
        """
        content: dict[str, Any] = {"vectors": self.vectors, "actions": self.actions}
        content |= self.history._asdict()
        content["bounds"] = [self.lower, self.upper]
        return write_tensors(path, {"plan": content, "action_count": self.action_count}, "plan")


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan that :meth:`Plan.save` wrote; nothing is unpickled.

    Args:
        path: the file.

    Returns:
        The plan.

    Raises:
        ValueError: a missing, damaged or foreign file.

    >>> import tempfile
    >>> from beliefzoo.inference import load_plan, value_iteration
    >>> from beliefzoo.models import tiger
    >>> plan = value_iteration(tiger(), gap=5.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read = load_plan(plan.save(f"{folder}/tiger.plan"))
    >>> read.upper == plan.upper
    True
    """
    content = read_tensors(path, {"plan": dict, "action_count": int}, "plan")
    with reading(path, "a plan written by Plan.save"):
        return _restored(content["plan"], content["action_count"])


def _restored(told: dict[str, Any], count: int) -> Plan:
    vectors, actions = told["vectors"], told["actions"]
    history = History(*(told[name] for name in History._fields))
    lower, upper = map(float, told["bounds"])
    several = vectors.ndim == 2 and vectors.shape[0] > 0 and actions.shape == vectors.shape[:1]
    require(several, "plan", "needs vectors (M, K) with an action each", tuple(vectors.shape))
    chosen = actions.dtype == torch.int64 and bool(((actions >= 0) & (actions < count)).all())
    require(chosen, "plan", f"needs actions of {count}", actions.tolist())
    shapes = {one.shape for one in history}
    along = len(shapes) == 1 and history.lower.ndim == 1
    require(along, "plan", "needs bounds (steps,)", sorted(map(tuple, shapes)))
    return Plan(vectors.double(), actions, count, lower, upper, history)
