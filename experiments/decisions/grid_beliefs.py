"""Grid beliefs: what acting on an LSTM's belief earns, in mazes and other classic problems.

Seven problems from files, of 8 to 870 states. A plan is computed, with bounds on either side of
what the best policy could earn. Then the same plan acts on beliefs that are not the same: the exact
one, that of particles, what can be known without memory, and that of an LSTM that reads the last
action and what was seen after it, (a_{t-1}, o_t). Beside it two cheap policies on the exact belief:
QMDP, and what would be best in the most likely state.

The network learns from simulated states alone, by forward KL: −Σ_t log β_t(z_t), whose minimum is
the exact belief. No exact belief is computed for it. Half of its episodes are acted upon at random,
half by the plan on the network's own belief, anew in every round, which is what it is judged on;
the belief given actions and observations does not depend on who chose the actions. The ELBO of the
belief guide (SCIENCE I1) is not used, since it says nothing of the belief in states that the zeros
of these models rule out: the guide takes them out itself, and a tracker has the network alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...inference import (
    FilterTracker,
    LSTMFilter,
    NoMemory,
    ParticleTracker,
    Plan,
    qmdp,
    value_iteration,
)
from ...inference.arviz_groups import Idata
from ...models import POMDP, BeliefPolicy, ExactTracker, Policy, Tracker, Uniform
from ...models.beliefs import divergence
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome, record
from ..command.seeds import Repeated, all_counts, falls_short, over_seeds, stream, summary
from ..data.loaders import load_problem
from ..parts.training import GradientSteps
from .drawings.grid_beliefs import draw
from .parts.plan_beliefs import Heldout, Noisy, most_likely, surprise, tracked, without_memory

__all__ = ["SMOKE", "Settings", "draw", "run"]

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "hallway": (0.99, 1.2),
    "mini-hall2": (2.705, 2.715),
    "4x3": (1.885, 1.895),
    "cheese": (3.455, 3.465),
    "shuttle": (32.85, 32.95),
    "tag": (-6.4, -6.1),
}
"""Values at the start that others print: bounds (hallway), simulated (tag), or, of single numbers,
all that would be rounded to them."""

ACTING = ("where_the_plan_acts", "where_actions_are_random")
"""Episodes on which beliefs are compared: the plan acts on the exact belief, or nobody does."""

OWN = "where_it_acts_itself"
"""And those in which the plan acts on the LSTM's belief."""


@dataclass(frozen=True)
class Settings(GradientSteps, Repeated):
    """Settings of the experiment."""

    problems: tuple[str, ...] = (
        "hallway",
        "mini-hall2",
        "4x3",
        "cheese",
        "shuttle",
        "light_maze",
        "tag",
    )
    """Names of ``load_problem``."""
    gap: float = 0.01
    """Difference of the bounds at which planning stops…"""
    trials: int = 400
    """…and descents after which it does, which only hallway needs…"""
    tag_trials: int = 650
    """…and tag, whose upper bound closes too slowly to wait for."""
    hidden_size: int = 64
    """Units of the LSTM: as many as hallway has states."""
    tag_hidden_size: int = 128
    """More for 870 states, which 29 places of the robot and 30 of the other one make up."""
    training_length: int = 40
    """Steps of a training episode: those after hold nothing that is new, the LSTM goes on."""
    tag_training_length: int = 25
    """In tag, which is mostly over by then if the plan acts."""
    rounds: int = 5
    """Times that the network acts anew, to learn from where its own actions lead."""
    training_episodes: int = 4000
    """New ones in every round…"""
    tag_training_episodes: int = 2000
    """…fewer in tag, where each of the plan's 500 vectors is 870 numbers long."""
    steps: int = 400
    """Gradient steps of a network…"""
    hallway_steps: int = 1200
    """…which has more to learn here…"""
    tag_steps: int = 500
    """…and here."""
    batch_size: int = 128
    """Episodes a step."""
    noise: float = 0.1
    """Share of the plan's actions in training that are chosen at random instead: the paths beside
    those that it takes are learned as well."""
    length: int = 150
    """Steps of an episode of the evaluation: what comes later counts less than a 2000th."""
    episodes: int = 500
    """Episodes of every policy and seed."""
    tag_length: int = 80
    """Steps in tag, where next to all episodes have ended by then…"""
    tag_episodes: int = 150
    """…and the exact belief costs more."""
    measured: int = 100
    """Episodes of each kind, of a problem, on which beliefs are compared."""
    particles: int = 50
    """Of the particle belief."""

    def __post_init__(self) -> None:
        all_counts(self)
        if not self.problems:
            raise ValueError("problems: must name at least one, got none")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise: must be in [0, 1], got {self.noise}")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "problems": ("shuttle",),
    "gap": 0.5,
    "trials": 3,
    "hidden_size": 4,
    "training_length": 6,
    "rounds": 2,
    "training_episodes": 8,
    "steps": 4,
    "batch_size": 4,
    "length": 8,
    "episodes": 6,
    "measured": 4,
    "particles": 5,
}


# The problems


class Problem(NamedTuple):
    """A process, its plan, and episodes on which beliefs are compared."""

    name: str
    model: POMDP
    plan: Plan
    heldout: dict[str, Heldout]
    """By who acts, see ``ACTING``."""
    memoryless: NoMemory


def own(settings: Settings, name: str, field: str) -> int:
    """A setting, or that of a large problem where it has one."""
    value: int = getattr(settings, f"{name}_{field}", getattr(settings, field))
    return value


def prepared(settings: Settings, name: str) -> Problem:
    """Read, plan, and set episodes aside."""
    model = load_problem(name)
    trials = own(settings, name, "trials")
    plan = value_iteration(model, gap=settings.gap, seconds=None, trials=trials)
    length = own(settings, name, "length")
    heldout = {}
    acting: tuple[Policy, ...] = plan.policy, Uniform()
    for place, (who, policy) in enumerate(zip(ACTING, acting, strict=True)):
        seed = stream(settings, 0, place)
        data = model.rollout(policy, settings.measured, length, seed=seed).data
        heldout[who] = Heldout(data, tracked(model, ExactTracker(), data))
    made = model.rollout(plan.policy, settings.measured, length, seed=stream(settings, 1))
    return Problem(name, model, plan, heldout, without_memory(model, made.states))


# Policies and beliefs


def policies(settings: Settings, problem: Problem, network: LSTMFilter) -> dict[str, Policy]:
    """Everything that acts, by name."""
    model, plan = problem.model, problem.plan
    particles = ParticleTracker(settings.particles, impossible="reset")
    return {
        "plan_on_exact_belief": plan.policy,
        "plan_on_lstm_belief": BeliefPolicy(plan.act, FilterTracker(network)),
        "plan_on_particle_belief": BeliefPolicy(plan.act, particles),
        "plan_without_memory": BeliefPolicy(plan.act, problem.memoryless),
        "qmdp_on_exact_belief": qmdp(model).policy,
        "best_in_most_likely_state": BeliefPolicy(most_likely(model)),
        "at_random": Uniform(),
    }


# Training


def untrained(settings: Settings, problem: Problem, seed: int) -> LSTMFilter:
    """A network as it is made."""
    network = LSTMFilter(own(settings, problem.name, "hidden_size"))
    with seeded(seed):
        network.build(problem.model)
    return network


def trained(settings: Settings, problem: Problem, number: int) -> LSTMFilter:
    """A network after all rounds of acting and learning."""
    seed = stream(settings, 2, number)
    network = untrained(settings, problem, seed)
    steps = own(settings, problem.name, "steps")
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with seeded(seed):
        for turn in range(settings.rounds):
            x, states = acted(settings, problem, network)
            for _ in range(turn, steps, settings.rounds):
                rows = torch.randint(len(x), (settings.batch_size,))
                loss = surprise(network, x[rows], states[rows])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                fall.step()
    return network


def acted(settings: Settings, problem: Problem, network: LSTMFilter) -> tuple[Tensor, Tensor]:
    """New episodes, as the network reads them (N, T, input), and their states (N, T)."""
    acting = BeliefPolicy(problem.plan.act, FilterTracker(network))
    length, read, states = own(settings, problem.name, "training_length"), [], []
    for policy in (Uniform(), Noisy(acting, settings.noise)):
        half = max(1, settings.training_episodes // 2)
        made = problem.model.rollout(policy, half, length)
        read.append(network.channels(problem.model.laws({}, made.data)))
        states.append(made.states)
    return torch.cat(read), torch.cat(states)


# Measures


class Measured(NamedTuple):
    """A network on a problem."""

    figures: dict[str, Any]
    curve: Tensor
    """KL over time where the plan acts on the exact belief, (T,)."""
    shown: Tensor
    """Its belief along the first of these episodes, (T, K)."""


def work(settings: Settings, problem: Problem, number: int) -> Measured:
    """Train one network; compare beliefs, and what acting on them earns."""
    model = problem.model
    network = trained(settings, problem, number)
    length, episodes = (own(settings, problem.name, field) for field in ("length", "episodes"))
    earned, data = {}, {}
    for name, policy in policies(settings, problem, network).items():
        made = model.rollout(policy, episodes, length, seed=stream(settings, 3, number))
        earned[name], data[name] = float(made.returns().mean()), made.data
    few = data["plan_on_lstm_belief"][: settings.measured]
    mine = Heldout(few, tracked(model, ExactTracker(), few))
    trackers: dict[str, Tracker] = {
        "lstm": FilterTracker(network),
        "untrained_lstm": FilterTracker(untrained(settings, problem, stream(settings, 4, number))),
        "without_memory": problem.memoryless,
    }
    distance: dict[str, dict[str, float]] = {name: {} for name in trackers}
    for name, tracker in trackers.items():
        for who, episode in problem.heldout.items():
            belief = tracked(model, tracker, episode.data)
            each = divergence(episode.exact.log(), belief.log())
            distance[name][who] = float(each.mean())
            if (name, who) == ("lstm", ACTING[0]):
                curve, shown = each.mean(0), belief[0]
    itself = divergence(mine.exact.log(), tracked(model, trackers["lstm"], few).log())
    distance["lstm"][OWN] = float(itself.mean())
    return Measured({"belief_kl_per_step": distance, "return": earned}, curve, shown)


def compared(returns: Mapping[str, float]) -> dict[str, float]:
    """What the plan earns on the LSTM's belief beside what it earns on the exact one.

    Of negative returns a larger share is a worse one; without any there is no share.
    """
    exact, lstm = returns["plan_on_exact_belief"], returns["plan_on_lstm_belief"]
    out = {"lstm_minus_exact": lstm - exact}
    return out | ({"lstm_over_exact": lstm / exact} if exact else {})


# The experiment


@one_thread()
def run(settings: Settings) -> Outcome:
    """Plan, train and act, problem by problem."""
    figures: dict[str, Any] = {}
    records: dict[str, tuple[Problem, Sequence[Measured]]] = {}
    for name in settings.problems:
        problem = prepared(settings, name)
        plan = [(settings, problem, number) for number in range(settings.seeds)]
        found = over_seeds(work, plan, jobs=settings.jobs)
        records[name] = problem, found
        figures[_key(name)] = _figures(problem, found)
    reach = reached(settings)
    short = falls_short(figures, reach)
    figures = {"reach": {k: list(v) for k, v in reach.items()}, "not_reached": short, **figures}
    return Outcome(figures, _record(settings, records))


def _key(name: str) -> str:
    """A problem's name as that of a figure."""
    return name.replace("-", "_").replace("4x3", "four_by_three")


def _figures(problem: Problem, found: Sequence[Measured]) -> dict[str, Any]:
    """What planning says, what others say, and what the networks do."""
    plan, model = problem.plan, problem.model
    out: dict[str, Any] = {
        "problem": problem.name,
        "states": model.states,
        "value_of_the_best_policy": {"lower_bound": plan.lower, "upper_bound": plan.upper},
        "planning": {"trials": len(plan.history.lower) - 1, "vectors": len(plan.vectors)},
    }
    if problem.name in PUBLISHED:
        out["published_value"] = list(PUBLISHED[problem.name])
    each = [compared(one.figures["return"]) for one in found]
    shared = set.intersection(*(set(one) for one in each))
    out |= summary([one.figures for one in found])
    out |= summary([{name: one[name] for name in sorted(shared)} for one in each])
    low, high = out["return"]["plan_on_exact_belief_interval"]
    out["simulated_value_of_the_plan"] = {"interval_low": low, "interval_high": high}
    return out


def reached(settings: Settings) -> dict[str, tuple[str, float]]:
    """What was to be reached: that our values meet those published, see ``PUBLISHED``.

    Both our bounds and the 95 % interval of what the plan earns on the exact belief.
    """
    reach: dict[str, tuple[str, float]] = {}
    for name in settings.problems:
        if name in PUBLISHED:
            low, high = PUBLISHED[name]
            key = _key(name)
            reach[f"{key}.value_of_the_best_policy.lower_bound"] = ("<=", high)
            reach[f"{key}.value_of_the_best_policy.upper_bound"] = (">=", low)
            reach[f"{key}.simulated_value_of_the_plan.interval_low"] = ("<=", high)
            reach[f"{key}.simulated_value_of_the_plan.interval_high"] = (">=", low)
    if "tag" in settings.problems:  # what is published is simulated: a plan may be better
        del reach["tag.value_of_the_best_policy.lower_bound"]
    return reach


def _record(settings: Settings, records: Mapping[str, tuple[Problem, Sequence[Measured]]]) -> Idata:
    """The networks' beliefs along an episode, and curves beside them."""
    beliefs: dict[str, Any] = {}
    known: dict[str, Any] = {}
    dims: dict[str, tuple[str, ...]] = {}
    for name, (problem, found) in records.items():
        key = _key(name)
        step, state = f"{key}_step", f"{key}_state"
        beliefs[f"{key}_belief"] = torch.stack([one.shown for one in found]).numpy()
        known[f"{key}_exact"] = problem.heldout[ACTING[0]].exact[0].numpy()
        known[f"{key}_kl"] = torch.stack([one.curve for one in found]).numpy()
        history = problem.plan.history
        known[f"{key}_bounds"] = torch.stack([history.lower, history.upper]).numpy()
        dims[f"{key}_exact"] = (step, state)
        dims[f"{key}_belief"] = (f"{key}_network", step, state)
        dims[f"{key}_kl"] = (f"{key}_network", step)
        dims[f"{key}_bounds"] = ("lower_upper", f"{key}_trial")
    return record(
        settings,
        {"runs": beliefs, "constant_data": known},
        dims=dims,
    )
