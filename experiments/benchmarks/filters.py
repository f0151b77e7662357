"""Amortized or exact: what a step of an LSTM filter costs and gives beside the exact filter.

The exact filter costs K² a step for K states, an LSTM the same for any K but for its read-out. Both
sit in the same slot and go from observations to beliefs. Their accuracy is the divergence from the
exact filter in float64, in nats a step: of the exact filter in float32, and of LSTMs that were
trained for a short while by the bound of a `BeliefGuide` on data of the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from ...inference import BeliefGuide, ExactFilter, FitSettings, LSTMFilter, fit
from ...inference.filters.slot import Filter
from ...models import HiddenMarkovModel, Sequences
from ..command.seeds import Figures, at_least
from ..parts.training import positive
from .parts import fresh
from .parts.comparison import Timed
from .parts.problems import Array, emission
from .parts.turns import in_turn


@dataclass(frozen=True)
class Settings(Timed):
    """Settings of the benchmark."""

    states: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    """Numbers of hidden states."""
    hidden_sizes: tuple[int, ...] = (32, 64, 128)
    """Units of the LSTMs."""
    successors: float = 4.0
    """About how many states a state leads to. With rows of probabilities that are all alike, the
    past would say nothing and a belief would need no memory."""
    sequences: int = 64
    """Sequences that are filtered at once, and on which accuracy is measured."""
    length: int = 64
    """Steps of a sequence."""
    rounds: int = 10
    """Turns of each filter."""
    training_steps: int = 200
    """Gradient steps of each LSTM: a short training, seconds up to 256 states and a minute or two
    at 1024. The divergence would still fall with more."""
    batch_size: int = 16
    """Sequences of a gradient step, drawn from the training sequences; few, since with a thousand
    states a step takes half a second."""
    training_sequences: int = 2000
    """Sequences that the LSTMs learn from, drawn from the model."""
    learning_rate: float = 2e-2
    """Adam's, falling along a cosine. In trials with 16 states .03 was better for few units, .01
    for many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "length")
        for name, least in (("states", 2), ("hidden_sizes", 1)):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < least or list(sizes) != sorted(set(sizes)):
                raise ValueError(f"{name}: needs increasing numbers >= {least}, got {sizes}")
        positive(self, "successors", "learning_rate")


SMOKE: Mapping[str, object] = {
    "states": (2, 5),
    "hidden_sizes": (3, 4),
    "sequences": 4,
    "length": 6,
    "rounds": 3,
    "training_steps": 3,
    "batch_size": 4,
    "training_sequences": 30,
}

SPREAD = 0.01
"""Share of a transition's probability that goes to all states alike, so that none is out of reach
and a bound is finite for any belief."""


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings) -> dict[str, object]:
    """Cost and accuracy by number of states and filter, and where the costs cross."""
    figures: dict[str, Any] = {
        f"states{states}": _compare(settings, states) for states in settings.states
    }
    figures["states_of_equal_cost"] = {
        lstm: _crossing(settings.states, [figures[f"states{k}"] for k in settings.states], lstm)
        for lstm in map(_name, settings.hidden_sizes)
    }
    return figures


def _name(hidden_size: int) -> str:
    return f"lstm{hidden_size}"


def _compare(settings: Settings, states: int) -> dict[str, Any]:
    """One model: train, measure accuracy, then cost."""
    model = HiddenMarkovModel(states, emission("categorical"))
    values = _parameters(settings, states)
    known = model.with_parameters(**values)
    n, length = settings.sequences, settings.length
    data = known.sample(n, length, seed=settings.seed).data
    training = known.sample(settings.training_sequences, length, seed=settings.seed + 1).data
    exact = _beliefs(ExactFilter(), model, values, data, torch.float64)

    filters: dict[str, Filter] = {"exact": ExactFilter()}
    figures: dict[str, Any] = {"exact": {}}
    for hidden_size in settings.hidden_sizes:
        name = _name(hidden_size)
        torch.manual_seed(settings.seed)
        guide = BeliefGuide(known, LSTMFilter(hidden_size))
        began = time.perf_counter()
        trained = fit(known, guide, training, settings=_how(settings), progress=False)
        filters[name] = trained.guide.filter
        untrained = _beliefs(guide.filter, model, values, data, torch.float64)
        figures[name] = {
            "training_seconds": time.perf_counter() - began,
            "untrained_divergence_nats_per_step": float(divergence(exact, untrained).mean()),
        }
        print(f"{states} states, {name}: {figures[name]['training_seconds']:.1f} s", flush=True)
    call = partial(_beliefs, model=model, values=values, data=data, dtype=torch.float32)
    timings = in_turn(
        {name: partial(call, filter) for name, filter in filters.items()}, rounds=settings.rounds
    )
    for name, filter in filters.items():
        microseconds = 1e3 * timings[name].median / (n * length)
        figures[name] |= {
            "divergence_nats_per_step": float(divergence(exact, call(filter)).mean()),
            "microseconds_per_step": microseconds,
            **timings[name].figures(),
        }
    entropy = -torch.where(exact > -math.inf, exact.exp() * exact, 0).sum(-1).mean()
    return {**figures, "entropy_of_belief_nats": float(entropy)}


def _parameters(settings: Settings, states: int) -> dict[str, Array]:
    random = np.random.default_rng([settings.seed, states])
    few = random.dirichlet(np.full(states, min(1.0, settings.successors / states)), states)
    return {
        "initial": np.full(states, 1 / states),
        "transition": (1 - SPREAD) * few + SPREAD / states,
        "probs": random.dirichlet(np.full(emission("categorical").encoding_size, 0.5), states),
    }


def _how(settings: Settings) -> FitSettings:
    return FitSettings(
        steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        sleep_steps=0,  # trained by the bound alone
        holdout=0,
        patience=None,
    )


@torch.no_grad()
def _beliefs(
    filter: Filter,
    model: HiddenMarkovModel,
    values: Mapping[str, Array],
    data: Sequences,
    dtype: torch.dtype,
) -> Tensor:
    """Log beliefs (N, T, K) from observations."""
    laws = model.laws({n: torch.from_numpy(v).to(dtype) for n, v in values.items()}, data)
    beliefs = filter(laws)
    assert isinstance(beliefs, Tensor)  # the states are discrete
    return beliefs


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p log(p/q) − p + q along the last axis, in float64 nats.

    The divergence of p from q where both sum to 1. Never negative, also where rounding has them
    miss that: q in float32 would otherwise be off by its rounding errors to first order.
    """
    log_p, log_q = log_p.double(), log_q.double()
    p, q = log_p.exp(), log_q.exp()
    ratio = torch.where(p > 0, log_p, 0) - torch.where(p > 0, log_q, 0)
    return (p * ratio - p + q).sum(-1).clamp_min(0)


def _crossing(states: tuple[int, ...], figures: list[Mapping[str, Any]], lstm: str) -> float | str:
    """States from which on the LSTM is cheaper, between sizes on a log scale."""
    cost = np.log(
        [[one[name]["microseconds_per_step"] for one in figures] for name in (lstm, "exact")]
    )
    ahead = cost[1] - cost[0]  # above zero: the LSTM is cheaper
    if ahead[-1] <= 0:
        return f"the exact filter is cheaper at {states[-1]} states"
    if (ahead > 0).all():
        return f"the LSTM is cheaper at {states[0]} states"
    last = int(np.flatnonzero(ahead <= 0)[-1])
    share = ahead[last] / (ahead[last] - ahead[last + 1])
    low, high = np.log(states[last]), np.log(states[last + 1])
    return float(np.exp(low + share * (high - low)))


def table(figures: Figures) -> str:
    """Cost and accuracy of every filter, a line each."""
    lines = []
    for states, by_name in _models(figures):
        lines.append(
            f"{states} states; entropy of the belief {by_name['entropy_of_belief_nats']:.3g} nats"
        )
        for name in _filters(figures):
            one = by_name[name]
            cost, off = one["microseconds_per_step"], one["divergence_nats_per_step"]
            lines.append(f"  {name:10}{cost:10.3g} µs a step, {off:.2g} nats a step from exact")
    lines += ["the LSTM costs as much as the exact filter at, in states:"]
    crossings = figures["states_of_equal_cost"].items()
    lines += [f"  {n}: {x if isinstance(x, str) else format(x, '.0f')}" for n, x in crossings]
    return "\n".join(lines)


def draw(figures: Figures) -> dict[str, Figure]:
    """Cost and accuracy over the number of states."""
    models = list(_models(figures))
    states = [k for k, _ in models]
    figure, (cost, accuracy) = plt.subplots(2, 1, figsize=(8, 8), sharex=True)
    micro = [by_name["exact"]["microseconds_per_step"] for _, by_name in models]
    cost.plot(states, micro, "o-", color="black", ms=4, label="exact, float32")
    for number, (name, crossing) in enumerate(figures["states_of_equal_cost"].items()):
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "ms": 4}
        label = f"LSTM, {name.removeprefix('lstm')} units"
        micro, off, before = (
            [by_name[name][field] for _, by_name in models]
            for field in (
                "microseconds_per_step",
                "divergence_nats_per_step",
                "untrained_divergence_nats_per_step",
            )
        )
        cost.plot(states, micro, **style, label=label)
        accuracy.plot(states, off, **style, label=label)
        accuracy.plot(states, before, color=f"C{number}", ls=":", lw=1)
        _mark_crossing(cost, crossing, f"C{number}")
    entropy = [by_name["entropy_of_belief_nats"] for _, by_name in models]
    accuracy.plot(states, entropy, color="grey", ls="--", label="entropy of the belief")
    accuracy.plot([], [], color="grey", ls=":", label="before training")
    for axis in (cost, accuracy):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    accuracy.set_xticks(states, [str(k) for k in states])
    cost.set_ylabel("µs per step of a sequence")
    cost.set_title("Cost: from observations to beliefs")
    rounding = max(by_name["exact"]["divergence_nats_per_step"] for _, by_name in models)
    accuracy.set(xlabel="hidden states", ylabel="nats per step")
    accuracy.set_title(
        "Accuracy: KL(exact filter in float64 ‖ LSTM)\n"
        f"(the exact filter in float32: at most {rounding:.0e} nats per step)"
    )
    cost.legend(frameon=False)
    accuracy.legend(frameon=False, fontsize=8, ncols=2)
    return {"filters": figure}


def _mark_crossing(axis: Axes, states: float | str, colour: str) -> None:
    """A line where the costs are equal, with the number of states."""
    if not isinstance(states, str):
        axis.axvline(states, color=colour, lw=0.8, ls="--")
        where = axis.get_xaxis_transform()
        axis.text(states, 0.02, f" {states:.0f}", color=colour, transform=where, fontsize=9)


def _models(figures: Figures) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for name, by_name in figures.items():
        if name != "states_of_equal_cost":
            yield int(name.removeprefix("states")), by_name


def _filters(figures: Figures) -> list[str]:
    return ["exact", *figures["states_of_equal_cost"]]
