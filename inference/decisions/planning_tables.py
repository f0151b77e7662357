"""The requirements of planning on the tables of a POMDP."""

from __future__ import annotations

import numpy as np

from ...models import POMDP
from ...models.checks import require, require_share
from ...models.decisions.rewards import Tables
from ...models.model import as_tensor

_ROUNDED = 1e-9
"""Rows that miss a sum of 1 by more than this are refused."""


def checked_tables(problem: POMDP | Tables) -> Tables:
    """The tables in float64, checked.

    Raises:
        ValueError: sizes that do not agree, entries that are not finite, rows of probabilities that
            are negative or do not sum to 1 (the first such row is named), or a discount outside
            [0, 1].
    """
    given = problem if isinstance(problem, Tables) else _tables_of(problem)
    require_share(given.discount, "discount")
    arrays = (as_tensor(*part).contiguous().numpy() for part in given._asdict().items())
    initial, transition, observation, reward, _ = arrays
    tables = Tables(initial, transition, observation, reward, float(given.discount))
    actions, states, _ = tables.observation.shape if tables.observation.ndim == 3 else (0, 0, 0)
    wanted = {
        "observation": (actions, states, tables.observation.shape[-1]),
        "initial": (states,),
        "transition": (actions, states, states),
        "reward": (actions, states),
    }
    for name, shape in wanted.items():
        part = getattr(tables, name)
        fits = part.shape == shape and part.size > 0
        require(fits, name, f"needs shape {shape}, as that of observation says", part.shape)
        require(bool(np.isfinite(part).all()), name, "must be finite", "other entries")
    for name in ("initial", "transition", "observation"):
        part = getattr(tables, name)
        off = (part < 0).any(-1) | (abs(part.sum(-1) - 1) > _ROUNDED)
        for row in np.argwhere(off)[:1]:
            place = f"at {tuple(row.tolist())}" if len(row) else "of all states"
            requirement = "rows must be probabilities that sum to 1; that " + place + " is not"
            require(False, name, requirement, f"sum {part[tuple(row)].sum():.10g}")
    return tables


def require_discount(tables: Tables) -> None:
    """Raises ``ValueError`` for a discount of 1: infinite sums of rewards may diverge."""
    requirement = (
        "must be in [0, 1) where rewards count for ever; solve_horizon takes a discount of 1"
    )
    require(tables.discount < 1, "discount", requirement, tables.discount)


def _tables_of(problem: POMDP) -> Tables:
    fits = hasattr(problem, "tables")
    require(fits, "problem", "must be a POMDP or its Tables", type(problem))
    return problem.tables()
