"""Beliefs of decision processes: this library beside its peers, by the belief step.

Many episodes of the same process, whose actions and observations are given; at every step the
belief moves by the action and is updated by the observation. In two ways: step by step, where each
belief is there before the next observation is (``ExactTracker``), and whole episodes at once
(``filter``). Peers are pymdp (both ways; jit, vmap, float32) and pomdp-py's histogram belief (one
episode and one step at a time, float64). All take turns in one process with a fixed number of
threads, after their beliefs were found to agree with Bayes' rule in numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ...models.decisions import problems
from ..command.seeds import Figures
from ..parts.training import positive
from .parts import fresh
from .parts.comparison import Compared, Contender, Prepared, compare, ratios
from .parts.problems import Array, Precision
from .parts.processes import (
    CONTENDERS,
    FILTER,
    TRACKER,
    Problem,
    Size,
    problem,
    random_tables,
    reference,
)


@dataclass(frozen=True)
class Settings(Compared):
    """Settings of the benchmark."""

    tiger: tuple[int, ...] = (64, 1024)
    """Numbers of episodes of the Tiger, advanced together: few, where what a call costs by itself
    is most of it, and as many as an estimate of a policy's value takes."""
    sizes: tuple[Size, ...] = ((60, 5, 21, 64), (60, 5, 21, 1024), (870, 5, 30, 64))
    """(states, actions, symbols, episodes) of random tables, of the sizes of the classic problems
    Hallway and Tag. The peer that takes one episode at a time takes as many as ``pairs`` allows."""
    steps: int = 50
    """Belief steps of an episode, under actions that are drawn uniformly."""
    successors: float = 4.0
    """About how many states a state leads to, as on a grid."""
    pairs: int = 2_000_000
    """Pairs (from, to) that pomdp-py visits in a call, one after the other in Python: some tenths
    of a second. Its time grows with the number of belief steps, so that few of them tell it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "successors")
        if not self.tiger and not self.sizes:
            raise ValueError("sizes: needs a size, or episodes of the Tiger, got none")
        if min(self.tiger, default=1) < 1:
            raise ValueError(f"tiger: needs numbers of episodes >= 1, got {self.tiger}")
        for size in self.sizes:
            states, actions, symbols, episodes = size
            if min(states, symbols) < 2 or min(actions, episodes) < 1:
                raise ValueError(
                    f"sizes: need states and symbols >= 2, actions and episodes >= 1, got {size}"
                )


SMOKE: Mapping[str, object] = {
    "tiger": (2,),
    "sizes": ((4, 3, 3, 3),),
    "steps": 4,
    "pairs": 100,
    "rounds": 2,
    "seconds_each": 0.1,
}

REACH = 10
"""How many times slower than this library a peer should be by the belief step; fixed before any
run."""

ALLOWED: Mapping[Precision, float] = {"float32": 1e-4, "float64": 1e-10}
"""Largest difference of a probability from the reference. Rounding errors of a step are 1e-7 and
1e-16 of it, and observations keep them from adding up; pymdp, in float32, besides takes no
probability to be below 1.2e-7."""

# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(
    settings: Settings, contenders: Sequence[Contender[Problem]] = CONTENDERS
) -> dict[str, object]:
    """Figures by size and contender.

    Raises:
        ValueError: a contender's beliefs differ from the reference by more than rounding.
    """
    processes = [(problems.tiger(), episodes) for episodes in settings.tiger]
    for size in settings.sizes:
        processes.append((random_tables(size, settings.successors, settings.seed), size[-1]))
    figures: dict[str, object] = {}
    for model, episodes in processes:
        given = problem(model, episodes, settings.steps, settings.pairs, settings.seed)
        print(given.size, flush=True)
        figures[given.size] = _compare(given, settings, contenders)
    return figures


def _compare(
    given: Problem, settings: Settings, contenders: Sequence[Contender[Problem]]
) -> dict[str, Any]:
    """One problem: check, then time in turn; of each the cost of a belief step, and its ratios."""
    expected = reference(given)
    figures, timings = compare(
        given,
        contenders,
        settings,
        lambda contender, prepared: _checked(contender, given, prepared, expected),
    )
    microseconds = {
        name: [
            1e3 * each / cast(int, figures[name]["belief_steps"]) for each in timing.milliseconds
        ]
        for name, timing in timings.items()
    }
    for contender in contenders:
        if contender.name not in timings:
            continue
        own, found = microseconds[contender.name], figures[contender.name]
        found["microseconds_per_belief_step"] = float(np.median(own))
        for ours in contender.beside:
            if ours in microseconds:
                beside = ratios(own, microseconds[ours])
                found[f"beside_{ours}"] = {**beside, "times_slower_to_reach": REACH}
    return figures


def _checked(
    contender: Contender[Problem], given: Problem, prepared: Prepared, expected: Array
) -> dict[str, Any]:
    """Agreement with the reference."""
    found = prepared.answer(prepared.work())
    off = float(np.abs(found - expected[: prepared.belief_steps]).max())
    allowed = ALLOWED[contender.precision]
    if not off <= allowed:
        raise ValueError(
            f"{contender.name}: beliefs must agree with Bayes' rule in float64 to {allowed:.0e} on "
            f"{given.size}, got {off:.1e}"
        )
    return {
        "precision": contender.precision,
        "belief_steps": prepared.belief_steps,
        "largest_difference": off,
    }


# --- what is shown --------------------------------------------------------------------------------

_TITLES = {
    TRACKER: "ExactTracker, step by step",
    FILTER: "filter, whole episodes",
    f"{FILTER}_float32": "filter, whole episodes, float32",
    "pymdp_step": "pymdp, step by step, float32",
    "pymdp_scan": "pymdp, whole episodes, float32",
    "pomdp_py": "pomdp-py, step by step",
}


def table(figures: Figures) -> str:
    """Microseconds of a belief step and how many times slower the peers are."""
    lines = []
    for words, by_name in figures.items():
        lines.append(_words(words))
        lines += [f"  {name:27}{_line(one)}" for name, one in by_name.items()]
    return "\n".join(lines)


def _line(figures: Figures) -> str:
    if "left_out" in figures:
        return f"left out: {figures['left_out']}"
    line = f"{figures['microseconds_per_belief_step']:10.3g} µs a belief step"
    for ours, ratio in _ratios(figures):
        line += f"; {ratio['times_slower']:.3g} times {ours} (reach: {REACH})"
    return line


def _ratios(figures: Figures) -> Iterator[tuple[str, Mapping[str, float]]]:
    for name, ratio in figures.items():
        if name.startswith("beside_"):
            yield name.removeprefix("beside_"), ratio


def _words(size: str) -> str:
    found = re.fullmatch(r"states(\d+)_actions(\d+)_symbols(\d+)_episodes(\d+)", size)
    assert found is not None, size
    return "{} states, {} actions, {} symbols, {} episodes".format(*found.groups())


def draw(figures: Figures) -> dict[str, Figure]:
    """Cost of a belief step, and how many times slower the peers are."""
    figure, (cost, ratio) = plt.subplots(1, 2, figsize=(13, 5))
    _draw_cost(cost, figures)
    _draw_ratios(ratio, figures)
    for axis in (cost, ratio):
        axis.set_yscale("log")
        axis.set_xticks(range(len(figures)), [_words(n).replace(", ", "\n") for n in figures])
        axis.tick_params(axis="x", labelsize=8)
        axis.set_xlim(-0.5, len(figures) - 0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return {"beliefs": figure}


def _draw_cost(axis: Axes, figures: Figures) -> None:
    names = list(next(iter(figures.values())))
    for number, name in enumerate(names):
        measured = [
            (place, by_name[name])
            for place, by_name in enumerate(figures.values())
            if "left_out" not in by_name[name]
        ]
        if not measured:
            continue
        places = [place + 0.06 * (number - (len(names) - 1) / 2) for place, _ in measured]
        middle = np.array([one["microseconds_per_belief_step"] for _, one in measured])
        style: dict[str, Any] = {"color": f"C{number}", "label": _TITLES.get(name, name)}
        axis.plot(places, middle, "o" if name.startswith("beliefzoo") else "D", ms=5, **style)
        quartiles = [
            1e3 * np.array([one[f"milliseconds_{side}_quartile"] for _, one in measured])
            for side in ("lower", "upper")
        ]
        steps = np.array([one["belief_steps"] for _, one in measured])
        low, high = (side / steps for side in quartiles)
        axis.vlines(places, low, high, color=f"C{number}", lw=5, alpha=0.35)
    axis.set_title("µs per belief step (bars: quartiles of the turns)", fontsize=10)


def _draw_ratios(axis: Axes, figures: Figures) -> None:
    colours = {name: f"C{number}" for number, name in enumerate(next(iter(figures.values())))}
    for place, by_name in enumerate(figures.values()):
        ratios = [
            (name, ours, ratio) for name, one in by_name.items() for ours, ratio in _ratios(one)
        ]
        for number, (name, ours, ratio) in enumerate(ratios):
            where = place + 0.2 * (number - (len(ratios) - 1) / 2)
            low, high = (ratio[f"times_slower_{side}_quartile"] for side in ("lower", "upper"))
            axis.vlines(where, low, high, color=colours[name], lw=5, alpha=0.35)
            whole = ours != TRACKER
            face = "white" if whole else colours[name]
            axis.plot(where, ratio["times_slower"], "D", ms=6, color=colours[name], mfc=face)
            times = ratio["times_slower"]
            text = f"{times:.0f}" if times >= 100 else f"{times:.2g}"
            place_of_text = (0, -15 if whole else 7)  # filled above, open below: they may be close
            axis.annotate(
                text,
                (where, times),
                place_of_text,
                textcoords="offset points",
                fontsize=8,
                ha="center",
            )
    axis.axhline(REACH, color="black", ls="--", lw=1, label=f"{REACH} times, to reach")
    axis.axhline(1, color="black", lw=0.8)
    axis.set_title("times our time; filled: step by step, open: whole episodes", fontsize=10)
