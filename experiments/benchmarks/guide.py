"""One training step of an LSTM guide beside the LSTM alone.

The whole ELBO of a `BeliefGuide` and its gradient, as a fit takes it, against the forward and
backward pass of the same `torch.nn.LSTM` on the same input: what the library adds to the network.
With the model's parameters known, and with a posterior over them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ...inference import BeliefGuide, LSTMFilter
from ...inference.fitting.objectives import Batch, elbo
from ...inference.guides.guide import Guide
from ...inference.guides.posteriors import Backward
from ...models import Sequences
from ..command.seeds import Figures
from ..parts.training import Units
from .parts import fresh
from .parts.comparison import Sized, ratios
from .parts.problems import Case, Problem, problem
from .parts.turns import in_turn


@dataclass(frozen=True)
class Settings(Units, Sized):
    """Settings of the benchmark."""

    sequences: int = 64
    """Sequences of a step: the default batch of a fit."""
    rounds: int = 25
    """Turns of each: many, since the ratio of two similar times is sought."""
    profiled_steps: int = 20
    """Training steps over which torch's profiler counts."""
    operations: int = 12
    """Operations that are named in the profile."""


SMOKE: Mapping[str, object] = {
    "hidden_size": 4,
    "states": 3,
    "sequences": 5,
    "length": 7,
    "rounds": 3,
    "profiled_steps": 1,
}

REACH = 1.4
"""Times the LSTM's forward and backward pass that a whole step may take; fixed before any run."""

STEPS = ("known_parameters", "unknown_parameters")


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings) -> dict[str, object]:
    """Milliseconds of the LSTM and of whole steps, their ratio, and where a step spends them."""
    size = settings.states, settings.sequences, settings.length
    given = problem(Case("categorical", *size), settings.seed)
    data = given.data(torch.float32)
    torch.manual_seed(settings.seed)
    guides = _guides(given, settings.hidden_size)
    network, x = _network(guides["known_parameters"], data)
    work = {name: _step(guide, data) for name, guide in guides.items()}
    stamps: dict[str, list[list[float]]] = {name: [] for name in guides}
    in_parts = {
        f"{name}_in_parts": partial(_note, stamps[name], guide, data)
        for name, guide in guides.items()
    }
    timings = in_turn(
        {"lstm_alone": lambda: network(x)[0].sum().backward(), **work, **in_parts},
        rounds=settings.rounds,
    )
    lstm = timings["lstm_alone"]
    figures: dict[str, Any] = {name: timings[name].figures() for name in ("lstm_alone", *guides)}
    for name in guides:
        figures[name] |= {
            **ratios(timings[name].milliseconds, lstm.milliseconds, "times_lstm_alone"),
            "times_lstm_alone_to_reach": REACH,
            "parts": _parts(stamps[name]),
            "operations": _operations(work[name], settings),
        }
    return figures


def _guides(given: Problem, hidden_size: int) -> dict[str, Guide]:
    model = given.model()
    known = model.with_parameters(**given.parameters)
    return {
        "known_parameters": BeliefGuide(known, LSTMFilter(hidden_size)),
        "unknown_parameters": BeliefGuide(model, LSTMFilter(hidden_size)),
    }


def _network(guide: Guide, data: Sequences) -> tuple[torch.nn.Module, torch.Tensor]:
    """The guide's network and what it reads."""
    filter = guide.filter
    assert isinstance(filter, LSTMFilter)
    assert filter.network is not None
    laws = guide.model.laws(guide.draw_parameters().values, data)
    return filter.network, filter.channels(laws).detach()


def _step(guide: Guide, data: Sequences) -> Callable[[], None]:
    def step() -> None:
        guide.zero_grad()
        elbo(guide, Batch(data, scale=1.0, particles=1)).backward()

    return step


def _note(stamps: list[list[float]], guide: Guide, data: Sequences) -> None:
    stamps.append(_stamps(guide, data))


def _parts(stamps: list[list[float]]) -> dict[str, float]:
    """Median milliseconds of the parts of a step, taken apart by hand.

    The bound is all between beliefs and ELBO. ``pyro`` is what is left of the whole forward pass:
    tracing the two programs, and the parameters' own terms.
    """
    laws, belief, bound, backward, whole = 1e3 * np.median(np.diff(np.array(stamps)), axis=0)
    return {
        "laws_and_emission_milliseconds": laws,
        "lstm_and_readout_milliseconds": belief,
        "bound_milliseconds": bound,
        "backward_milliseconds": backward,
        "pyro_milliseconds": max(0.0, whole - laws - belief - bound),
    }


def _stamps(guide: Guide, data: Sequences) -> list[float]:
    """Times at the ends of the parts: of a step without Pyro, then of Pyro's forward pass."""
    guide.zero_grad()
    stamps = [time.perf_counter()]

    def stamp() -> None:
        stamps.append(time.perf_counter())

    values = guide.draw_parameters().values
    whole = guide.model.laws(values, data)
    laws = whole.discrete
    assert laws is not None
    _ = laws.log_likelihood  # computed when first asked for
    stamp()
    beliefs = guide.filter(whole)
    assert isinstance(beliefs, Tensor)  # log beliefs: the states are discrete
    stamp()
    loss = -Backward(laws, beliefs).elbo().sum()
    stamp()
    loss.backward()
    stamp()
    elbo(guide, Batch(data, scale=1.0, particles=1))
    stamp()
    return stamps


def _operations(step: Callable[[], None], settings: Settings) -> dict[str, float]:
    """Milliseconds a step of the operations that take most, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(settings.profiled_steps):
            step()
    counted = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {
        event.key: event.self_cpu_time_total / settings.profiled_steps / 1e3
        for event in counted[: settings.operations]
    }


def table(figures: Figures) -> str:
    """Milliseconds of the LSTM and of whole steps."""
    lines = [f"LSTM alone: {figures['lstm_alone']['milliseconds_median']:.3g} ms"]
    for name in STEPS:
        one = figures[name]
        lines.append(
            f"step, {name.replace('_', ' ')}: {one['milliseconds_median']:.3g} ms, "
            f"{one['times_lstm_alone']:.2f} times the LSTM (reach: {REACH:g})"
        )
        lines += [
            f"  {part.replace('_', ' ')}: {value:.3g}" for part, value in one["parts"].items()
        ]
    return "\n".join(lines)


def draw(figures: Figures) -> dict[str, Figure]:
    """A whole step beside the LSTM alone, and the operations that take most of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1.4, 1))
    lstm = figures["lstm_alone"]["milliseconds_median"]
    left.barh(0, lstm, color="tab:grey")
    parts = list(figures[STEPS[0]]["parts"])
    ends = [REACH * lstm]
    for row, name in enumerate(STEPS, 1):
        start = 0.0
        for number, part in enumerate(parts):
            width = figures[name]["parts"][part]
            label = part.removesuffix("_milliseconds").replace("_", " ") if row == 1 else None
            left.barh(row, width, left=start, color=f"C{number}", label=label)
            start += width
        measured, ratio = figures[name]["milliseconds_median"], figures[name]["times_lstm_alone"]
        whole = left.plot(measured, row, "D", color="black", ms=5)
        text = f"{ratio:.2f} ×"
        left.annotate(
            text, (max(start, measured), row), (8, 0), textcoords="offset points", va="center"
        )
        ends.append(max(start, measured))
    whole[0].set_label("whole step, as measured")
    left.axvline(REACH * lstm, color="black", ls="--", label=f"{REACH:g} × the LSTM")
    left.set_yticks(range(3), ["LSTM alone", *(n.replace("_", "\n") for n in STEPS)])
    left.set(xlabel="milliseconds, forward and backward", ylim=(2.6, -0.5))
    left.set_xlim(0, 1.2 * max(ends))
    left.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    operations = figures[STEPS[1]]["operations"]
    right.barh(list(operations), list(operations.values()), color="tab:grey")
    right.invert_yaxis()
    right.set(xlabel="milliseconds a step, by itself", title=f"step, {STEPS[1].replace('_', ' ')}")
    right.tick_params(axis="y", labelsize=8)
    return {"step": figure}
