"""What planning gives: vectors to act on, and bounds on what the best policy earns."""

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
from ...models.data.storage import read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class AlphaVectors:
    """A function max_m b·α_m of beliefs, and the action of the largest.

    ``vectors`` α (M, K) float64, ``actions`` (M,) int64, ``action_count`` A.
    """

    vectors: Tensor
    actions: Tensor
    action_count: int

    def value(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        """max_m b·α_m of beliefs (…, K), (…)."""
        return self._products(belief).amax(-1)

    def act(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        """Probabilities (…, A): 1 for the action of the largest vector; the first of equal ones."""
        action = self.actions[self._products(belief).argmax(-1)]
        return torch.nn.functional.one_hot(action, self.action_count).double()

    @property
    def policy(self) -> BeliefPolicy:
        """It acts on the exact belief; on another one by ``BeliefPolicy(plan.act, tracker)``."""
        return BeliefPolicy(self.act)

    def _products(self, belief: Tensor | npt.ArrayLike) -> Tensor:
        belief = torch.as_tensor(belief, dtype=torch.float64)
        states = self.vectors.shape[1]
        fits = belief.ndim > 0 and belief.shape[-1] == states
        require(fits, "belief", f"needs {states} states last", tuple(belief.shape))
        return belief @ self.vectors.T


class History(NamedTuple):
    """Bounds at the initial belief over time, each (steps,); the first are those before any search.

    ``seconds`` since the call, ``lower``, ``upper``.
    """

    seconds: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Plan(AlphaVectors):
    """A policy with what it earns at least, and what no policy exceeds.

    ``value`` is a lower bound on what ``act`` earns from any belief on. ``lower`` and ``upper`` are
    bounds on the value of the best policy at the initial belief; the policy earns at least
    ``lower`` there.
    """

    lower: float
    upper: float
    history: History

    @property
    def gap(self) -> float:
        """upper - lower: what the best policy may earn more, at most."""
        return self.upper - self.lower

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan to one file, whole or not at all; ``load_plan`` reads it."""
        content: dict[str, Any] = {"vectors": self.vectors, "actions": self.actions}
        content |= self.history._asdict()
        content["bounds"] = [self.lower, self.upper]
        return write_tensors(path, {"plan": content, "action_count": self.action_count})


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan that ``Plan.save`` wrote; nothing is unpickled.

    Raises:
        ValueError: missing, truncated or foreign file.
    """
    content = read_tensors(path, {"plan", "action_count"})
    try:
        plan = content["plan"]
        history = History(*(plan[name] for name in History._fields))
        lower, upper = plan["bounds"]
        count = int(content["action_count"])
        return Plan(plan["vectors"], plan["actions"], count, lower, upper, history)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"path: needs a plan written by Plan.save, got {os.fspath(path)!r} with other content "
            f"under the same names ({error})"
        ) from error
