"""Starting values for decision processes: tables from labelled steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import warn
from ..data.sequences import Sequences
from ..priors import support_of
from .start import FRAMES, clustered

if TYPE_CHECKING:
    from .actions import ActionEmission
    from .hmm import HiddenMarkovModel

BORROWED = 0.05
"""Weight of the observations after other actions in the law after an action, at the start."""

LEFT = 1e-3
"""The same in the M-step: what was not seen needs a value, what was seen hardly changes."""

NOISE = 0.3
"""Standard deviation of drawn mean rewards between states, in units of the rewards' own."""

FAR = 100.0
"""Rewards that are further from their prior, in its standard deviations, are of other units."""

COARSE = 0.2
"""Where the least scale is more than this share of the rewards' spread, it hides their values."""

Values = dict[str, Tensor]


def start_of_actions(
    law: ActionEmission, model: HiddenMarkovModel, data: Sequences, lloyd: bool
) -> Values:
    """Estimate tables from labels of the steps, or draw them.

    With ``lloyd`` the labels are the states of highest likelihood where the laws are known,
    otherwise clusters. Without, labels are drawn at random for each observation and the action
    before it, and so are the moves and the differences of mean rewards between states: no two draws
    are alike. Known parameters are kept, so that the states become the known ones. An
    action that was not observed takes the average over the others.
    """
    data = data[: max(1, FRAMES // data.max_length)]
    if law.rewards and lloyd:
        _warn_of_units(law, model, data)
    if not lloyd:
        return _drawn(law, model, data)
    labels = _labels(law, model, data, lloyd)
    hot = torch.nn.functional.one_hot(labels.clamp_min(0), model.states).double()
    weight = hot.masked_fill((labels < 0).unsqueeze(-1), 0)
    moves = weight[:, :-1].unsqueeze(-1) * weight[:, 1:].unsqueeze(-2)
    assert data.actions is not None  # checked with the data
    chosen = torch.nn.functional.one_hot(data.actions[:, :-1], model.actions).double()
    counts = torch.einsum("nta,ntij->aij", chosen, moves)
    return tables_of_counts(law, model, data, weight, counts, borrowed=BORROWED)


def _warn_of_units(law: ActionEmission, model: HiddenMarkovModel, data: Sequences) -> None:
    """Warn of rewards that are far from their prior, and of a likelihood without bound."""
    assert data.rewards is not None
    assert data.actions is not None
    earned = data.rewards[data.step_mask]
    mean, spread = float(earned.mean()), float(earned.std(correction=0))
    off = max(abs(mean - law.reward_location), spread) / law.reward_spread
    coarse = law.least_scale > COARSE * spread > 0
    if {"reward", "reward_scale"} & set(model.priors) and (off > FAR or coarse):
        warn(
            f"reward: rewards of mean {mean:.3g} and standard deviation {spread:.3g} are far from "
            f"their prior N({law.reward_location:.3g}, {law.reward_spread:.3g}²); "
            "model.scaled_to(data) has one on their scale",
        )
    prior = model.priors.get("reward_scale")
    if prior is None or float(getattr(support_of(prior), "lower_bound", 0)) > 0:
        return
    values = [earned[data.actions[data.step_mask] == a].unique() for a in range(law.actions)]
    if max(map(len, values)) <= model.states:
        warn(
            "reward_scale: the likelihood grows without bound as it falls, since the rewards have "
            f"no noise, and the prior {prior} has no bound; leave out priors['reward_scale'], or "
            "give one that has",
        )


def _drawn(law: ActionEmission, model: HiddenMarkovModel, data: Sequences) -> Values:
    """Parameters of states that are drawn at random."""
    assert data.actions is not None
    states, step = model.states, torch.arange(data.max_length)
    labels = _labels(law, model, data, lloyd=False) if not law.codes else law.observed(data)[0]
    kinds = int(labels.max()) + 1
    share = _simplex(model.actions * max(kinds, 1), states)
    weight = share[data.actions.roll(1, 1) * kinds + labels.clamp_min(0)]
    weight = weight * (data.observed_steps | (step == 0)).unsqueeze(-1)
    moves = (_simplex(model.actions, states, states) + 1 / states) / 2
    values = tables_of_counts(law, model, data, weight, 1e6 * moves, warmth=1.0)
    if law.rewards:
        values["reward"] = values["reward"] + NOISE * _spreads(law, data) * torch.randn(
            law.actions, states
        )
    return values | dict(model.known)


def _spreads(law: ActionEmission, data: Sequences) -> Tensor:
    """Standard deviation of the rewards of every action, (A, 1); zero for one that is not taken."""
    assert data.rewards is not None
    assert data.actions is not None
    chosen = torch.nn.functional.one_hot(data.actions, law.actions).double()
    chosen = chosen[data.step_mask]
    earned, count = data.rewards[data.step_mask].unsqueeze(-1), chosen.sum(0).clamp_min(1)
    mean = (chosen * earned).sum(0) / count
    return ((chosen * (earned - mean).square()).sum(0) / count).sqrt().unsqueeze(-1)


def _simplex(*shape: int) -> Tensor:
    """Rows of probabilities, all equally likely, (…, K) float64."""
    rows = torch.empty(shape, dtype=torch.float64).exponential_()
    return rows / rows.sum(-1, keepdim=True)


def _labels(law: ActionEmission, model: HiddenMarkovModel, data: Sequences, lloyd: bool) -> Tensor:
    """The state of highest likelihood where the laws are known, otherwise clusters."""
    y, mask = law.observed(data)
    seen = data.observed_steps
    if set(law.family.dims()) <= set(model.known):
        given = replace(law, rewards=False).given(data)
        labels = given.score(model.known, y, mask).argmax(-1)
    else:
        y = y if law.codes else y.double()
        labels = clustered(model, y, mask, seen.nonzero().unbind(1), lloyd)[0]
    return torch.where(seen, labels, -1)


def tables_of_counts(
    law: ActionEmission,
    model: HiddenMarkovModel,
    data: Sequences,
    weight: Tensor,
    counts: Tensor,
    *,
    borrowed: float = LEFT,
    warmth: float = 0.0,
) -> Values:
    """All parameters from soft labels (N, T, K) and counts of moves (A, K, K)."""
    states = model.states
    # One expected visit for each row, half of which stays: no state starts without a way out.
    every = counts.sum(0) + (1 / states + torch.eye(states)) / 2
    rows = counts + borrowed * every
    values: Values = {"transition": rows / rows.sum(-1, keepdim=True)}
    first = weight[:, 0].sum(0) + 1 / states
    values["initial"] = first / first.sum()
    values |= _laws(law, model, data, weight, borrowed)
    if law.rewards:
        values |= _rewards(law, data, weight, borrowed, warmth)
    return values | dict(model.known)


def _laws(
    law: ActionEmission, model: HiddenMarkovModel, data: Sequences, weight: Tensor, borrowed: float
) -> Values:
    """Parameters of the emission after each action."""
    assert data.actions is not None
    y, mask = law.observed(data)
    y = y if law.codes else y.double()
    seen = data.observed_steps
    before = data.actions.roll(1, 1)
    before[:, 0] = model.actions  # of the first step, whether it is observed or not
    share = (weight[seen].sum(0) + 1) / (len(weight[seen]) + model.states)
    soft = (1 - borrowed) * weight[seen] + borrowed * share
    parts: list[Mapping[str, Tensor]] = []
    y, mask, before = y[seen], mask[seen], before[seen]
    for action in range(law.tables):
        own = before == action
        if borrowed == LEFT and bool(own.any()):
            parts.append(law.family.start(y[own], mask[own], soft[own]))
            continue
        here = torch.where(own, 1.0, borrowed).unsqueeze(-1)
        parts.append(law.family.start(y, mask, here * soft))
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _rewards(
    law: ActionEmission, data: Sequences, weight: Tensor, borrowed: float, warmth: float
) -> Values:
    """Mean reward of every action in every state, and the standard deviation around it."""
    assert data.rewards is not None
    assert data.actions is not None
    chosen = torch.nn.functional.one_hot(data.actions, law.actions).double()
    chosen = chosen * data.step_mask.unsqueeze(-1)
    visits = torch.einsum("nta,ntk->ak", chosen, weight)
    earned = torch.einsum("nta,ntk,nt->ak", chosen, weight, data.rewards)
    inside = data.rewards[data.step_mask]
    mean = (earned + borrowed * inside.mean()) / (visits + borrowed)
    error = (data.rewards.unsqueeze(-1) - mean[data.actions]).square()
    variance = (weight * error).sum() / weight.sum().clamp_min(1)
    # A little above the bound, which the prior excludes.
    least = max(warmth * float(inside.std(correction=0)), 1.01 * law.least_scale)
    return {"reward": mean, "reward_scale": variance.sqrt().clamp_min(least)}
