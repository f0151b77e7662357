"""Tiger, learned: tables, rewards and their uncertainty from episodes of random actions.

Two doors, a tiger behind one; listening tells the side with chance .85, opening earns 10 or −100
and puts the tiger anew. From episodes of random actions the initial law, T, O and R of a
``POMDP(2, 2, actions=3, reward="learned")`` are learned by variational inference with the states
summed out exactly; NUTS is the yardstick of one posterior. Rewards are seen with noise:
without any, all that is learned of it is that it lies at its bound. Asked is whether 90 % intervals
hold the truth at their rate, and how far the belief by the learned tables is from the true one on
new episodes, of random actions and of an agent that opens a door only when it is sure.

What cannot be learned, and is measured here: the names of the two states (renaming them changes no
evidence; they are matched by the rewards), what follows on actions that were never taken (their
posterior is the prior), and little of T and O where rewards are not seen. Two chances are 1 in
truth (listening moves no tiger): no interval inside the support holds them, so that they do not
count for the rate, and the 90 % bound on them is given instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from ...inference import BeliefGuide, ExactFilter, filter, fit, log_evidence, nuts
from ...inference.arviz_groups import Idata
from ...inference.fitting.draws import draw_parameters, draw_prior
from ...models import POMDP, BeliefPolicy, FixedChances, Sequences, tiger
from ...models.beliefs import divergence
from ...models.decisions.policies import Policy
from ...models.randomness import seeded
from ..command.report import Outcome, record
from ..command.seeds import Repeated, against, at_least, each_seed, interval, over_seeds, stream
from ..parts.training import positive, to_the_end
from .drawings.tiger_learned import draw
from .parts.learned_tables import RATE, Draws, bounds, drawn, entries, named_as, names_of_states

__all__ = ["SMOKE", "Settings", "draw", "run"]

REACH = {
    "coverage.share_interval_low": ("<=", RATE),
    "coverage.share_interval_high": (">=", RATE),
    "belief.random_actions.kl_per_step": ("<=", 0.01),
    "belief.careful_agent.kl_per_step": ("<=", 0.01),
}
"""What was to be reached, fixed before any run."""

KINDS = ("everything", "without_rewards", "right_never_opened")
"""What is learned from: the first in all seeds, the others to see what is then not known."""

UNIT = 10.0
"""Of the rewards, where some are never seen: the width of what is known of these grows from where
fits begin, .05, towards that of the prior, by no more than the learning rate a step. In units of 1
it does not get there; in units of 50 the widths of all that is seen are too small for the fit."""

SURE = 0.9
"""The careful agent opens where the belief is above: at two growls more on one side than the other
it is .97, at one more .85."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    episodes: int = 2000
    """Episodes of random actions, and…"""
    length: int = 10
    """…their steps."""
    fewer: tuple[int, ...] = (20, 60, 200, 600)
    """Episodes of further fits, to see how the belief gets better."""
    noise: float = 1.0
    """Standard deviation of the rewards' noise: as much as listening costs."""
    steps: int = 700
    """Gradient steps, each on all episodes."""
    learning_rate: float = 0.05
    """Adam's, falling along a cosine: a chance of 1 is seven units away on the logistic scale."""
    draws: int = 4000
    """Of each posterior: the ends of its intervals are then known to 2 % of their width."""
    heldout: int = 1000
    """New episodes on which beliefs are compared, the same for all fits."""
    nuts_draws: int = 150
    """Draws of each of two chains of NUTS, for the first seed…"""
    nuts_warmup: int = 100
    """…and steps before them, from the fitted values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "episodes", "steps", "draws", "heldout", "nuts_draws")
        at_least(2, self, "length")
        positive(self, "noise")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "episodes": 30,
    "length": 5,
    "fewer": (10,),
    "steps": 3,
    "draws": 20,
    "heldout": 10,
    "nuts_draws": 2,
    "nuts_warmup": 2,
}


# The process


def truth(settings: Settings) -> POMDP:
    """The tiger problem with noisy rewards."""
    plain = tiger()
    known = plain.known
    return POMDP(
        plain.state_names,
        plain.observation_names,
        actions=plain.action_names,
        reward="learned",
    ).with_parameters(
        initial=known["initial"],
        transition=known["transition"],
        probs=known["probs"],
        reward=plain.tables().reward,
        reward_scale=settings.noise,
    )


def careful(belief: Tensor) -> Tensor:
    """Listen while unsure, else open the door without the tiger; by beliefs (N, 2)."""
    left = belief[:, 0]
    action = torch.where(left > SURE, 2, torch.where(left < 1 - SURE, 1, 0))
    return torch.nn.functional.one_hot(action, 3).double()


def episodes(settings: Settings, kind: str, count: int, number: int) -> Sequences:
    """What one fit learns from."""
    chances = (0.5, 0.5, 0.0) if kind == "right_never_opened" else (1 / 3, 1 / 3, 1 / 3)
    seed = stream(settings, 1, KINDS.index(kind), count, number)
    return truth(settings).rollout(FixedChances(chances), count, settings.length, seed=seed).data


# Learning


class Learned(NamedTuple):
    """A posterior, its states named as in truth."""

    draws: dict[str, Tensor]
    """(draws, …) float64."""
    prior: dict[str, Tensor]
    """Standard deviation of every parameter under its prior."""
    medians: dict[str, Tensor]


def learn(settings: Settings, kind: str, count: int, number: int) -> Learned:
    """One fit, from its own episodes."""
    true, data = truth(settings), episodes(settings, kind, count, number)
    unit = UNIT if kind == "right_never_opened" else 1.0
    assert data.rewards is not None
    data = dataclasses.replace(data, rewards=data.rewards / unit)
    model = unknown(data, rewards=kind != "without_rewards")
    guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
    how = to_the_end(
        steps=settings.steps, batch_size=count, parameter_learning_rate=settings.learning_rate
    )
    seed = stream(settings, 2, KINDS.index(kind), count, number)
    found = fit(model, guide, data, settings=how, seed=seed, progress=False)
    with seeded(seed):
        draws = draw_parameters(found.guide, settings.draws).values
        prior = draw_prior(model, settings.draws)
    medians = in_units(found.guide.median(), unit)
    order = names_of_states(true, medians)
    return Learned(
        named_as(in_units(draws, unit), order),
        in_units({name: value.std(0) for name, value in prior.items()}, unit),
        named_as(medians, order),
    )


def in_units(values: Draws, unit: float) -> dict[str, Tensor]:
    """Parameters with rewards in units of 1 that were learned in others, float64."""
    return {
        name: value.double() * (unit if name.startswith("reward") else 1.0)
        for name, value in values.items()
    }


def unknown(data: Sequences, *, rewards: bool = True) -> POMDP:
    """The model of which nothing is known but its sizes."""
    model = POMDP(2, 2, actions=3, reward="learned" if rewards else None).scaled_to(data)
    assert isinstance(model, POMDP)
    return model


# What was learned


def coverage(settings: Settings, found: Sequence[Learned]) -> dict[str, object]:
    """How often the intervals hold the truth, over all seeds and free numbers."""
    held, by_entry, at_edge = [], {}, {}
    for entry in entries(truth(settings)):
        number = entry.truth
        key = entry.label.replace(" | ", " given ").replace(", ", " ").replace(" ", "_")
        each = [drawn(one.draws, entry) for one in found]
        if entry.edge:  # the bound away from the edge
            off = [(draws - number).abs() for draws in each]
            at_edge[key] = max(float(torch.quantile(draws, RATE)) for draws in off)
            continue
        inside = [low <= number <= high for low, high in map(bounds, each)]
        by_entry[key] = sum(inside)
        held += inside
    wilson = binomtest(sum(held), len(held)).proportion_ci(method="wilson")
    return {
        "share": sum(held) / len(held),
        "share_interval_low": wilson.low,
        "share_interval_high": wilson.high,
        "intervals": len(held),
        "seeds_that_hold_the_truth": by_entry,
        "largest_distance_from_the_edge": at_edge,
    }


def plain(values: Draws) -> POMDP:
    """The process that beliefs are tracked with: rewards tell it nothing."""
    return POMDP.from_tables(values["transition"], values["probs"], initial=values["initial"])


def missed(true: Tensor, other: Tensor) -> float:
    """Mean over episodes and steps of KL(true ‖ other), beliefs (N, T, K): nats a step."""
    return float(divergence(true.log(), other.log()).mean())


def heldout(settings: Settings) -> dict[str, Sequences]:
    """New episodes, by who acts."""
    model = tiger()
    who: dict[str, Policy] = {
        "random_actions": FixedChances((1 / 3, 1 / 3, 1 / 3)),
        "careful_agent": BeliefPolicy(careful),
    }
    size = settings.heldout, settings.length
    return {
        name: model.rollout(policy, *size, seed=stream(settings, 3, place)).data
        for place, (name, policy) in enumerate(who.items())
    }


def belief_figures(settings: Settings, found: Mapping[int, Sequence[Learned]]) -> dict[str, object]:
    """KL(true belief ‖ belief by learned tables), and of those that need no learning."""
    model, out = tiger(), dict[str, object]()
    for name, data in heldout(settings).items():
        true = filter(model, data)
        by_count = {
            count: [missed(true, filter(plain(one.medians), data)) for one in learned]
            for count, learned in found.items()
        }
        most = by_count[settings.episodes]
        out[name] = {
            "kl_per_step": float(np.mean(most)),
            "kl_per_step_interval": interval(most),
            "kl_per_step_by_seed": most,
            "kl_of_no_belief_per_step": missed(true, torch.full_like(true, 0.5)),
            "kl_of_the_last_observation_per_step": missed(true, _last(model, data)),
            "by_episodes": {
                f"{count}_episodes": {
                    "episodes": count,
                    "kl_per_step": float(np.mean(each)),
                    "kl_per_step_by_seed": each,
                }
                for count, each in sorted(by_count.items())
            },
        }
    return out


def _last(model: POMDP, data: Sequences) -> Tensor:
    """The belief of one that knows O but remembers nothing."""
    likelihood = model.laws({}, data).log_likelihood
    return likelihood.softmax(-1)


def identified(found: Mapping[str, Learned]) -> dict[str, object]:
    """Standard deviations of the posteriors in units of the prior's, by block of parameters."""
    actions = truth(Settings()).action_names
    out: dict[str, Any] = {}
    for kind, one in found.items():
        ratios = {name: draws.std(0) / one.prior[name] for name, draws in one.draws.items()}
        rows = {"initial": float(ratios["initial"].mean())}
        for name in ("transition", "probs", "reward"):
            if name not in ratios:
                continue
            for place, action in enumerate(actions):
                rows[f"{name}_{action}".replace("-", "_")] = float(ratios[name][place].mean())
        out[kind] = rows
    return out


def renaming(settings: Settings, one: Learned) -> float:
    """What renaming the states changes of the evidence, nats in all: nothing but rounding."""
    data = episodes(settings, KINDS[0], settings.episodes, 0)
    model = unknown(data)
    first, second = (
        log_evidence(model.with_parameters(**named_as(one.medians, order)), data).sum()
        for order in ((0, 1), (1, 0))
    )
    return abs(float(first - second))


def against_nuts(settings: Settings, one: Learned) -> dict[str, object]:
    """The first seed's posterior beside that of NUTS: widths, and distance of the means."""
    data = episodes(settings, KINDS[0], settings.episodes, 0)
    seed = stream(settings, 4)
    start = {name: value.float() for name, value in one.medians.items()}
    found = nuts(
        unknown(data),
        data,
        chains=2,
        draws=settings.nuts_draws,
        warmup=settings.nuts_warmup,
        start=start,
        seed=seed,
        progress=False,
    )
    exact = {name: value.flatten(0, 1) for name, value in found.draws.items()}
    ratios, shifts, edges = [], [], []
    for entry in entries(truth(settings)):
        ours, theirs = drawn(one.draws, entry), drawn(exact, entry)
        if entry.edge:
            off = ((x - entry.truth).abs() for x in (ours, theirs))
            edges.append([float(torch.quantile(x, RATE)) for x in off])
            continue
        ratios.append(float(ours.std() / theirs.std()))
        shifts.append(float((ours.mean() - theirs.mean()).abs() / theirs.std()))
    return {
        "median_ratio_of_widths": float(np.median(ratios)),
        "smallest_ratio_of_widths": min(ratios),
        "largest_ratio_of_widths": max(ratios),
        "median_distance_of_means_in_widths": float(np.median(shifts)),
        "largest_distance_of_means_in_widths": max(shifts),
        "distances_from_the_edge": [ours for ours, _ in edges],
        "distances_from_the_edge_by_nuts": [theirs for _, theirs in edges],
        "divergent_draws": float(found.divergences.sum()),
    }


# The experiment


def run(settings: Settings) -> Outcome:
    """Learn from all numbers of episodes, and with less to learn from."""
    counts = (*settings.fewer, settings.episodes)
    found = each_seed(learn, settings, [(KINDS[0], count) for count in counts])
    by_count = {count: each for (_, count), each in found.items()}
    best = by_count[settings.episodes]
    plan = [(settings, kind, settings.episodes, 0) for kind in KINDS[1:]]
    less = [best[0], *over_seeds(learn, plan, jobs=settings.jobs)]
    figures: dict[str, Any] = {
        "coverage": coverage(settings, best),
        "belief": belief_figures(settings, by_count),
        "beside_nuts": against_nuts(settings, best[0]),
        "width_in_units_of_the_prior": identified(dict(zip(KINDS, less, strict=True))),
        "evidence_changed_by_renaming_the_states": renaming(settings, best[0]),
    }
    return Outcome(against(figures, REACH), _record(settings, best))


def _record(settings: Settings, found: Sequence[Learned]) -> Idata:
    """Draws of all seeds' posteriors, and the truth."""
    model = truth(settings)
    kept = min(settings.draws, 500)
    draws = {
        name: torch.stack([one.draws[name][:kept] for one in found], 1).numpy()[None]
        for name in model.known
    }
    dims = {name: ("fit", *axes) for name, axes in model.parameter_dims().items()}
    rows = entries(model)
    ends = np.array([[bounds(drawn(one.draws, row)) for one in found] for row in rows])
    known = {
        "interval": ends,
        "truth": np.array([row.truth for row in rows]),
        "edge": np.array([float(row.edge) for row in rows]),
    }
    return record(
        settings,
        {"posterior": draws, "constant_data": known},
        dims=dims
        | {"interval": ("number", "fit", "end"), "truth": ("number",), "edge": ("number",)},
        coords={"number": [row.label for row in rows], "action": list(model.action_names)},
    )
