"""Starting values for decision processes: tables from labelled steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.sequences import Sequences
from .start import FRAMES, clustered

if TYPE_CHECKING:
    from .actions import ActionEmission
    from .hmm import HiddenMarkovModel

BORROWED = 0.05
"""Weight of the observations after other actions in the law after an action."""

Values = dict[str, Tensor]


def start_of_actions(
    law: ActionEmission, model: HiddenMarkovModel, data: Sequences, lloyd: bool
) -> Values:
    """Estimate tables from labels of the steps.

    The labels are the states of highest likelihood where the laws are known, otherwise clusters.
    Known parameters are kept, so that the states become the known ones. An action that was not
    observed takes the average over the others.
    """
    data = data[: max(1, FRAMES // data.max_length)]
    labels = _labels(law, model, data, lloyd)
    hot = torch.nn.functional.one_hot(labels.clamp_min(0), model.states).double()
    weight = hot.masked_fill((labels < 0).unsqueeze(-1), 0)
    moves = weight[:, :-1].unsqueeze(-1) * weight[:, 1:].unsqueeze(-2)
    assert data.actions is not None  # checked with the data
    chosen = torch.nn.functional.one_hot(data.actions[:, :-1], model.actions).double()
    counts = torch.einsum("nta,ntij->aij", chosen, moves)
    return tables_of_counts(law, model, data, weight, counts)


def _labels(law: ActionEmission, model: HiddenMarkovModel, data: Sequences, lloyd: bool) -> Tensor:
    """The state of highest likelihood where the laws are known, otherwise clusters."""
    y, mask = law.observed(data)
    seen = data.observed_steps
    if set(law.family.dims()) <= set(model.known):
        given = replace(law, rewards=False).given(data)
        labels = given.score(model.known, y, mask).argmax(-1)
    else:
        y = y if law.codes else y.double()
        labels = clustered(model, y, mask, seen.nonzero().unbind(1), lloyd)
    return torch.where(seen, labels, -1)


def tables_of_counts(
    law: ActionEmission, model: HiddenMarkovModel, data: Sequences, weight: Tensor, counts: Tensor
) -> Values:
    """All parameters from soft labels (N, T, K) and counts of moves (A, K, K)."""
    states = model.states
    # One expected visit for each row, half of which stays: no state starts without a way out.
    every = counts.sum(0) + (1 / states + torch.eye(states)) / 2
    rows = counts + BORROWED * every
    values: Values = {"transition": rows / rows.sum(-1, keepdim=True)}
    first = weight[:, 0].sum(0) + 1
    values["initial"] = first / first.sum()
    values |= _laws(law, model, data, weight)
    return values | dict(model.known)


def _laws(law: ActionEmission, model: HiddenMarkovModel, data: Sequences, weight: Tensor) -> Values:
    """Parameters of the emission after each action."""
    assert data.actions is not None
    y, mask = law.observed(data)
    y = y if law.codes else y.double()
    seen = data.observed_steps
    before = data.actions.roll(1, 1)
    before[:, 0] = model.actions  # of the first step, whether it is observed or not
    share = (weight[seen].sum(0) + 1) / (len(weight[seen]) + model.states)
    soft = 0.95 * weight[seen] + 0.05 * share
    parts: list[Mapping[str, Tensor]] = []
    for action in range(law.tables):
        here = torch.where(before[seen] == action, 1.0, BORROWED).unsqueeze(-1)
        parts.append(law.family.start(y[seen], mask[seen], here * soft))
    values = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return values | (_rewards(data, weight, model.actions) if law.rewards else {})


def _rewards(data: Sequences, weight: Tensor, actions: int) -> Values:
    """Mean reward of every action in every state, and the standard deviation around it."""
    assert data.rewards is not None
    assert data.actions is not None
    chosen = torch.nn.functional.one_hot(data.actions, actions).double()
    chosen = chosen * data.step_mask.unsqueeze(-1)
    visits = torch.einsum("nta,ntk->ak", chosen, weight)
    earned = torch.einsum("nta,ntk,nt->ak", chosen, weight, data.rewards)
    inside = data.rewards[data.step_mask]
    mean = (earned + inside.mean()) / (visits + 1)
    error = (data.rewards.unsqueeze(-1) - mean[data.actions]).square()
    variance = (weight * error).sum() / weight.sum().clamp_min(1)
    least = 1e-3 * float(inside.std(correction=0)) or 1e-3
    return {"reward": mean, "reward_scale": variance.sqrt().clamp_min(least)}
