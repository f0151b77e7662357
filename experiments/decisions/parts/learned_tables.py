"""The numbers of a learned decision process: which state is which, and intervals of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....models import POMDP

Draws = Mapping[str, Tensor]

RATE = 0.9
"""Of the intervals."""


def named_as(values: Draws, order: Sequence[int]) -> dict[str, Tensor]:
    """Parameters, also with an axis of draws, with the states in another order."""
    out = dict(values)
    place = torch.tensor(order)
    for name, axes in (
        ("initial", (-1,)),
        ("transition", (-2, -1)),
        ("probs", (-2,)),
        ("reward", (-1,)),
    ):
        for axis in axes:
            if name in out:
                out[name] = out[name].index_select(axis, place)
    return out


def names_of_states(model: POMDP, medians: Draws) -> tuple[int, ...]:
    """Which state of a fit is which: by the rewards, or by what is heard where there are none."""
    name = "reward" if "reward" in medians else "probs"
    true = model.known[name]

    def off(order: tuple[int, ...]) -> float:
        return float((named_as(medians, order)[name] - true).abs().sum())

    return min(itertools.permutations(range(model.states)), key=off)


class Entry(NamedTuple):
    """One number among the parameters."""

    label: str
    parameter: str
    place: tuple[int, ...]
    truth: float
    edge: bool
    """Whether it is at the edge of its support in truth."""


def entries(model: POMDP) -> list[Entry]:
    """Every free number: of two chances that sum to 1 the first."""
    out = []
    for name, value in model.known.items():
        rows = name in ("initial", "transition", "probs")
        for place in np.ndindex(*value.shape):
            if rows and place[-1] > 0:
                continue
            number = float(value[place])
            edge = rows and number in (0.0, 1.0)
            out.append(Entry(_label(model, name, place), name, place, number, edge))
    return out


def _label(model: POMDP, name: str, place: tuple[int, ...]) -> str:
    if name == "initial":
        return "initial left"
    if name == "reward_scale":
        return "noise of R"
    action, state = model.action_names[place[0]], ("left", "right")[place[1]]
    what = {"transition": "T to left", "probs": "O left", "reward": "R"}[name]
    return f"{what} | {action}, {state}"


def drawn(draws: Draws, entry: Entry) -> Tensor:
    """Draws of one number, (draws,)."""
    values = draws[entry.parameter]
    for index in entry.place:
        values = values[:, index]
    return values


def bounds(draws: Tensor) -> tuple[float, float]:
    """Ends of the 90 % interval with as much on either side."""
    tail = (1 - RATE) / 2
    low, high = torch.quantile(draws, torch.tensor([tail, 1 - tail]).double()).tolist()
    return low, high
