"""Linear-Gaussian chains: evidence with gradient, filter and smoother, beside other libraries.

Two tasks on batches of sequences of one time-invariant model. `evidence`: the log evidence of all
sequences and its gradient in all eight parameters, against dynamax (jit, vmap, float32) and Pyro's
`GaussianHMM` (float32). `smoother`: means and covariances of filter and smoother, against dynamax,
statsmodels, pykalman and filterpy (float64 but for dynamax; those three take one sequence at a
time). All take turns in one process with a fixed number of threads, after their results were found
to agree with ours in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..command.seeds import Figures
from .parts import fresh
from .parts.comparison import Compared, Contender, by_case, checked, compare, line, ratios
from .parts.linear import CONTENDERS, OURS, TASKS, Case, Problem, Task, problem, reference

Size = tuple[int, int, int, int]


@dataclass(frozen=True)
class Settings(Compared):
    """Settings of the benchmark."""

    sizes: tuple[Size, ...] = ((2, 1, 64, 256), (4, 2, 64, 1000), (16, 8, 16, 500))
    """(state size, features, sequences, length): from the size of structural time series to that of
    tracking and of recordings of many channels."""
    tasks: tuple[Task, ...] = TASKS
    """What is computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes or not self.tasks:
            raise ValueError(f"sizes: needs a size and a task, got {self.sizes}, {self.tasks}")
        for size in self.sizes:
            if min(size) < 1 or size[3] < 2:
                raise ValueError(f"sizes: need numbers >= 1 and length >= 2, got {size}")


SMOKE: Mapping[str, object] = {
    "sizes": ((2, 1, 3, 6), (3, 2, 2, 5)),
    "rounds": 2,
    "seconds_each": 0.1,
}

REACH: Mapping[Task, Mapping[str, float]] = {
    "evidence": {"dynamax": 2, "pyro_GaussianHMM": 10},
    "smoother": {"dynamax": 1, "statsmodels": 1, "pykalman": 10, "filterpy": 10},
}
"""How many times slower than this library a peer should be, at every size; fixed before any run."""


# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(
    settings: Settings, contenders: Mapping[Task, Sequence[Contender[Problem]]] = CONTENDERS
) -> dict[str, dict[str, object]]:
    """Figures by task, size and contender.

    Raises:
        ValueError: a contender's result differs from ours by more than rounding.
    """
    cases = (Case(task, *size) for task in settings.tasks for size in settings.sizes)
    return by_case(cases, lambda case: _compare(case, settings, contenders[case.family]))


def _compare(
    case: Case, settings: Settings, contenders: Sequence[Contender[Problem]]
) -> dict[str, Any]:
    """One case: check, then time in turn."""
    given = problem(case, settings.seed)
    expected = reference(given)
    figures, timings = compare(
        given,
        contenders,
        settings,
        lambda contender, prepared: checked(contender, case, prepared, expected),
    )
    for name, timing in timings.items():
        if name != OURS and OURS in timings:
            figures[name] |= ratios(timing.milliseconds, timings[OURS].milliseconds)
            figures[name]["times_slower_to_reach"] = REACH[case.family][name]
    return figures


# --- what is shown --------------------------------------------------------------------------------


def table(figures: Figures) -> str:
    """Our milliseconds and how many times slower the others are, a line a case."""
    lines = []
    for task, by_size in figures.items():
        for size, by_name in by_size.items():
            lines.append(f"{task}, {_words(size)}")
            lines += [f"  {name:20}{line(one)}" for name, one in by_name.items()]
    return "\n".join(lines)


def _words(size: str) -> str:
    numbers = [int("".join(filter(str.isdigit, part))) for part in size.split("_")]
    return "state {}, features {}, {} × {}".format(*numbers)


def draw(figures: Figures) -> dict[str, Figure]:
    """Milliseconds of every contender with the quartiles of its turns, a panel a task."""
    tasks = [(task, by_size) for task, by_size in figures.items() if by_size]
    rows = max(len(by_size) for _, by_size in tasks)
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 1.8 + 1.2 * rows), squeeze=False, sharey=True
    )
    titles = {
        "evidence": "log evidence and its gradient\nin all parameters",
        "smoother": "means and covariances of\nfilter and smoother",
    }
    for axis, (task, by_size) in zip(axes[0], tasks, strict=True):
        names = list(dict.fromkeys(name for by_name in by_size.values() for name in by_name))
        for row, by_name in enumerate(by_size.values()):
            for place, name in enumerate(names):
                _mark(
                    axis, row, place / len(names) * 0.8 - 0.32, f"C{place}", by_name.get(name, {})
                )
        for place, name in enumerate(names):
            axis.plot([], [], "o", color=f"C{place}", label=name.replace("_", " "))
        axis.set_xscale("log")
        axis.set_yticks(range(len(by_size)), [_words(size) for size in by_size])
        axis.set_ylim(len(by_size) - 0.5, -0.5)
        low, high = axis.get_xlim()
        axis.set_xlim(low / 1.5, high * 3)  # room for the numbers
        axis.set(title=titles[task], xlabel="milliseconds (beside it: times ours)")
        axis.grid(axis="x", alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return {"times": figure}


def _mark(axis: Any, row: int, shift: float, colour: str, one: Figures) -> None:
    if "milliseconds_median" not in one:
        return
    low, high = (one[f"milliseconds_{side}_quartile"] for side in ("lower", "upper"))
    height = row + shift
    axis.plot([low, high], 2 * [height], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
    axis.plot(one["milliseconds_median"], height, "o", color=colour, ms=5)
    said = f"{one['milliseconds_median']:.3g} ms"
    if "times_slower" in one:
        said = f"{one['times_slower']:.3g} ×"
    axis.annotate(
        said,
        (high, height),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=7,
        va="center",
    )
