"""Evidence and gradient of hidden Markov models: this library beside its peers.

The log evidence of a batch of sequences and its gradient in all parameters, from observations to
parameters, as a user of each library computes it: dynamax (jit, float32), Pyro's `DiscreteHMM` and
`TraceEnum_ELBO` with `pyro.markov` (float32), hmmlearn (one EM iteration with its default and with
its faster implementation, float64; ours in float64 beside it), pomegranate (forward-backward,
float32). All take turns in one process with a fixed number of threads, after their results were
found to agree with ours in float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..command.seeds import Figures
from ..parts.training import positive
from .parts import fresh
from .parts.comparison import (
    Compared,
    Contender,
    Limits,
    by_case,
    checked,
    compare,
    line,
    ratios,
)
from .parts.contenders import CONTENDERS, OURS, PARTS, parts
from .parts.problems import FAMILIES, Case, Family, Problem, problem, reference

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Settings(Compared):
    """Settings of the benchmark."""

    sizes: tuple[Size, ...] = (
        (4, 64, 256),
        (16, 64, 256),
        (64, 16, 1000),
        (16, 1, 100_000),
        (256, 4, 500),
    )
    """(states, sequences, length): batches of short sequences from few states to many, and one long
    sequence, where nothing can be done in parallel over sequences."""
    families: tuple[Family, ...] = FAMILIES
    """Emissions: one of 32 symbols, whose scores are looked up, and eight independent Gaussian
    features, whose scores have to be computed."""
    gigabytes: float = 6.0
    """Memory that a peer may need before a case is left out for it."""
    enumerated_steps: int = 256
    """Longest sequence for Pyro's enumeration; at 256 steps a gradient takes it about a second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "gigabytes")
        if not self.families or not self.sizes:
            raise ValueError(f"sizes: needs a size and a family, got {self.sizes}, {self.families}")
        for size in self.sizes:
            if min(size) < 1 or min(size[0], size[2]) < 2:
                raise ValueError(f"sizes: need states and length >= 2, sequences >= 1, got {size}")


SMOKE: Mapping[str, object] = {
    "sizes": ((3, 2, 8), (2, 1, 12)),
    "rounds": 2,
    "seconds_each": 0.1,
}

REACH: Mapping[str, Mapping[Size, float]] = {
    "dynamax": {
        (4, 64, 256): 3,
        (16, 64, 256): 3,
        (64, 16, 1000): 3,
        (16, 1, 100_000): 12,
        (256, 4, 500): 3,
    },
    "pyro_DiscreteHMM": {(4, 64, 256): 20, (16, 64, 256): 20, (64, 16, 1000): 20},
    "hmmlearn": {
        (4, 64, 256): 6,
        (16, 64, 256): 6,
        (64, 16, 1000): 6,
        (16, 1, 100_000): 2.5,
        (256, 4, 500): 6,
    },
    "pyro_TraceEnum": {(4, 64, 256): 500, (16, 64, 256): 200},
}
"""How many times slower than this library a peer should be; fixed before any run."""

ORIENTATION: Mapping[Family, Mapping[Size, float]] = {
    "categorical": {
        (4, 64, 256): 0.96,
        (16, 64, 256): 3.3,
        (64, 16, 1000): 13.6,
        (16, 1, 100_000): 46.9,
        (256, 4, 500): 12.2,
    },
    "gaussian": {
        (4, 64, 256): 2.3,
        (16, 64, 256): 7.6,
        (64, 16, 1000): 31.6,
        (16, 1, 100_000): 80.8,
        (256, 4, 500): 29.7,
    },
}
"""Milliseconds of a trial kernel on two cores, float32: ours should need at most these."""


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(
    settings: Settings, contenders: Sequence[Contender[Problem]] = CONTENDERS
) -> dict[str, dict[str, object]]:
    """Figures by family, size and contender.

    Raises:
        ValueError: a contender's result differs from ours by more than rounding.
    """
    cases = (Case(family, *size) for family in settings.families for size in settings.sizes)
    return by_case(cases, lambda case: _compare(case, settings, contenders))


def _compare(
    case: Case, settings: Settings, contenders: Sequence[Contender[Problem]]
) -> dict[str, Any]:
    """One case: check, then time in turn."""
    given = problem(case, settings.seed)
    expected = reference(given)
    limits = Limits(settings.gigabytes, settings.enumerated_steps)
    figures, timings = compare(
        given,
        contenders,
        settings,
        lambda contender, prepared: checked(contender, case, prepared, expected),
        lambda contender: contender.obstacle(case, limits),
    )
    for contender in contenders:
        name, ours = contender.name, OURS[contender.precision]
        if name in timings and ours in timings and name != ours:
            figures[name] |= ratios(timings[name].milliseconds, timings[ours].milliseconds)
            reach = REACH.get(name, {}).get((case.states, case.sequences, case.length))
            if reach is not None:
                figures[name]["times_slower_to_reach"] = reach
    for precision, name in OURS.items():
        if name in timings:
            work = parts(given, precision)
            figures[name]["parts"] = _parts([work() for _ in range(3 * settings.rounds)])
    return figures


def _parts(taken: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median milliseconds of every part."""
    return {
        f"{part}_milliseconds": 1e3 * float(np.median([one[part] for one in taken]))
        for part in PARTS
    }


# --- what is shown --------------------------------------------------------------------------------

_COLOURS: Mapping[Family, str] = {"categorical": "tab:blue", "gaussian": "tab:orange"}
_OFFSETS: Mapping[Family, float] = {"categorical": -0.16, "gaussian": 0.16}
_LABELS: Mapping[Family, str] = {
    "categorical": "categorical, 32 symbols",
    "gaussian": "Gaussian, 8 features",
}


def table(figures: Figures) -> str:
    """Our milliseconds and how many times slower the others are, a line a case."""
    lines = []
    for family, size, by_name in _cases(figures):
        lines.append(f"{family}, {_words(size)}")
        for name, one in by_name.items():
            lines.append(f"  {name:20}{line(one)}")
    return "\n".join(lines)


def draw(figures: Figures) -> dict[str, Figure]:
    """Ratios to every peer with the reach marked, and where our own time goes."""
    return {"ratios": _draw_ratios(figures), "parts": _draw_parts(figures)}


def _cases(figures: Figures) -> Iterator[tuple[Family, Size, Mapping[str, Any]]]:
    for family in FAMILIES:
        for size, by_name in figures.get(family, {}).items():
            yield family, _size(size), by_name


def _size(words: str) -> Size:
    """The numbers in the name of a size."""
    found = re.fullmatch(r"states(\d+)_sequences(\d+)_length(\d+)", words)
    assert found is not None, words
    states, sequences, length = map(int, found.groups())
    return states, sequences, length


def _words(size: Size) -> str:
    states, sequences, length = size
    return f"{states} states, {sequences} × {length}"


_TITLES = {
    "beliefzoo": "beliefzoo",
    "pyro_DiscreteHMM": "Pyro DiscreteHMM",
    "hmmlearn": "hmmlearn, one EM iteration\n(its default)",
    "hmmlearn_scaling": "hmmlearn, one EM iteration\n(implementation='scaling')",
    "pomegranate": "pomegranate,\nforward-backward alone",
    "pyro_TraceEnum": "Pyro TraceEnum_ELBO",
}


def _draw_ratios(figures: Figures) -> Figure:
    cases = list(_cases(figures))
    sizes = list(dict.fromkeys(size for _, size, _ in cases))
    shown = [name for name in cases[0][2] if name != OURS["float64"]]
    columns = 4
    rows = math.ceil((len(shown) + 1) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(13, rows * (1.5 + 0.6 * len(sizes))), sharey=True, squeeze=False
    )
    panels = list(grid.flat)
    for axis, name in zip(panels, shown, strict=False):
        _draw_panel(axis, name, cases, sizes)
    panels[0].set_yticks(range(len(sizes)), [_words(size) for size in sizes])
    panels[0].set_ylim(len(sizes) - 0.4, -0.6)
    for axis in panels[len(shown) :]:
        axis.set_axis_off()
    dots = [
        Line2D([], [], marker="o", ls="", color=_COLOURS[f], label=_LABELS[f]) for f in FAMILIES
    ]
    tick = Line2D([], [], marker="|", ls="", ms=12, mew=2, color="black", label="to reach")
    bar = Line2D([], [], lw=5, color="grey", alpha=0.35, label="quartiles of the turns")
    panels[len(shown)].legend(handles=[*dots, tick, bar], loc="center", frameon=False)
    figure.suptitle(
        "Log evidence and its gradient in all parameters; all in turn in one process\n"
        "(sizes: states, sequences × steps)"
    )
    return figure


def _draw_panel(
    axis: Axes,
    name: str,
    cases: Sequence[tuple[Family, Size, Mapping[str, Any]]],
    sizes: Sequence[Size],
) -> None:
    """One contender: its time if it is ours, else its ratio to ours."""
    is_ours = name == OURS["float32"]
    for family, size, by_name in cases:
        row = sizes.index(size) + _OFFSETS[family]
        reach = ORIENTATION[family].get(size) if is_ours else REACH.get(name, {}).get(size)
        _mark(axis, row, by_name.get(name, {}), _COLOURS[family], reach, is_ours)
    axis.set_xscale("log")
    axis.set_title(_TITLES.get(name, name), fontsize=10)
    axis.set_xlabel("milliseconds, float32" if is_ours else "times our time", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    if not is_ours:
        axis.axvline(1, color="black", lw=0.8)
    low, high = axis.get_xlim()
    low, high = low / 1.6, high * 1.6  # room for the numbers
    axis.set_xlim(low, high)
    narrow = high < 30 * low
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _mark(
    axis: Axes,
    row: float,
    figures: Figures,
    colour: str,
    reach: float | None,
    is_ours: bool,
) -> None:
    """One point with its quartiles and its number, and the tick of what it should reach."""
    key = "milliseconds_median" if is_ours else "times_slower"
    if reach is not None:
        axis.plot(reach, row, marker="|", ms=13, mew=2, color="black", zorder=3)
    if key not in figures:
        where = axis.get_yaxis_transform()  # beside the axis, whatever its scale
        axis.text(
            0.5,
            row,
            "left out",
            color="grey",
            fontsize=8,
            transform=where,
            ha="center",
            va="center",
        )
        return
    stem = "milliseconds" if is_ours else key
    low, high = (figures[f"{stem}_{side}_quartile"] for side in ("lower", "upper"))
    axis.plot([low, high], [row, row], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
    axis.plot(figures[key], row, "o", color=colour, ms=5)
    axis.annotate(
        f"{figures[key]:.3g}",
        (figures[key], row),
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=7,
        ha="center",
    )


def _draw_parts(figures: Figures) -> Figure:
    cases = list(_cases(figures))
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.36 * len(cases)))
    names = []
    for row, (family, size, by_name) in enumerate(cases):
        ours = by_name[OURS["float32"]]
        taken = [ours["parts"][f"{part}_milliseconds"] for part in PARTS]
        left = 0.0
        for part, (number, milliseconds) in zip(PARTS, enumerate(taken), strict=True):
            share = 100 * milliseconds / sum(taken)
            label = part.replace("_", " ") if row == 0 else None
            axis.barh(row, share, left=left, color=f"C{number}", label=label)
            if share > 8:
                text = f"{milliseconds:.3g}"
                axis.text(
                    left + share / 2, row, text, ha="center", va="center", color="white", fontsize=8
                )
            left += share
        names.append(f"{family}, {_words(size)}")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), xlabel="% of the time (in the bars: milliseconds)")
    figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)
    return figure
