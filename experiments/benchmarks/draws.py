"""Draws: effective draws of a posterior a second, beside other samplers.

The parameters of a hidden Markov model of yearly earthquakes and of a local level of the Nile are
sampled in four chains, the states summed out: by this library, by Pyro's NUTS on the same program,
by nutpie on the same density, and by numpyro on a program of its own with the same priors. Seconds
are those of the processor, which neighbours change little, of a call in a process that has made the
call before (numpyro compiles at every call, and that counts); the first call stands beside it. The
draws must agree with ours in mean before they are compared. What counts is the smallest effective
sample size of a parameter, by ArviZ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference.arviz_groups import build, convergence
from ...models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Model, Sequences
from ..command.seeds import at_least
from ..data.loaders import load_earthquakes, load_nile
from .parts import fresh
from .parts.comparison import Timed
from .parts.samplers import OURS, SAMPLERS, Array, Task, timed

FASTER = 10.0
"""Times as many effective draws a second as Pyro's NUTS has; fixed before any run."""

AT_LEAST = 1.0
"""The same of the others."""

FAR = 5.0
"""Standard errors by which the means of two samplers may differ."""

ROWS: Mapping[str, Callable[[], tuple[Model, Sequences]]] = {
    "earthquakes_2": lambda: (HiddenMarkovModel(2, "poisson", ordered=True), load_earthquakes()),
    "earthquakes_3": lambda: (HiddenMarkovModel(3, "poisson", ordered=True), load_earthquakes()),
    "nile": lambda: (LinearGaussianSSM(LocalLevel()), load_nile()),
}


@dataclass(frozen=True)
class Settings(Timed):
    """Settings of the benchmark."""

    draws: int = 500
    """Kept of each of four chains, after as many of warm-up."""
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    """Who is asked; those that are not installed are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(20, self, "draws")
        if OURS not in self.samplers or not set(self.samplers) <= set(SAMPLERS):
            raise ValueError(f"samplers: needs {OURS} among some of {list(SAMPLERS)}")


SMOKE: Mapping[str, object] = {"draws": 20, "samplers": (OURS,)}


def run(settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings) -> dict[str, dict[str, Any]]:
    """Figures by row and sampler, and what falls short.

    Raises:
        ValueError: the draws of another sampler have other means.
    """
    figures: dict[str, Any] = {}
    for name, made in ROWS.items():
        print(name, flush=True)
        task = Task(name, *made(), settings.draws, settings.seed)
        figures[name] = _compare(task, settings.samplers)
    return {"rows": figures, "summary": {"not_reached": falls_short(figures)}}


def _compare(task: Task, samplers: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    means: dict[str, tuple[Array, Array]] = {}
    for name in samplers:
        sampler, package = SAMPLERS[name]
        if package and fresh.installed(package) is None:
            figures[name] = {"left_out": f"{package} is not installed"}
            continue
        first = timed(sampler, task)
        drawn = timed(sampler, task)
        columns = np.concatenate(
            [x.reshape(*x.shape[:2], -1) for _, x in sorted(drawn.parameters.items())], -1
        )
        effective = _effective(columns)
        means[name] = columns.mean((0, 1)), columns.std((0, 1)) / np.sqrt(effective)
        off = _distance(means[name], means[OURS])
        if task.draws >= 200 and not off < FAR:
            raise ValueError(
                f"{name}: means must be within {FAR:g} standard errors of ours, got {off:.1f} on "
                f"{task.name}"
            )
        figures[name] = {
            "effective_draws": float(effective.min()),
            "seconds": drawn.seconds,
            "processor_seconds": drawn.processor_seconds,
            "processor_seconds_of_first_call": first.processor_seconds,
            "effective_draws_a_second": float(effective.min()) / drawn.processor_seconds,
            "standard_errors_from_ours": off,
        }
    for one in figures.values():
        if "effective_draws_a_second" in one:
            mine = figures[OURS]["effective_draws_a_second"]
            one["ours_over_this"] = mine / one["effective_draws_a_second"]
    return figures


def _effective(columns: Array) -> Array:
    """The smaller effective sample size of means and of tails, of every number."""
    found = [
        convergence(build({"posterior": {"x": x}}, dims={})) for x in np.moveaxis(columns, -1, 0)
    ]
    return np.array([min(one.ess_bulk, one.ess_tail) for one in found])


def _distance(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    return float((np.abs(one[0] - other[0]) / np.hypot(one[1], other[1])).max())


def falls_short(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was not reached, in words; nothing if all was."""
    return [
        f"{row}: {one['ours_over_this']:.2g} times the effective draws a second of {name}"
        for row, by_name in figures.items()
        for name, one in by_name.items()
        if name != OURS
        and "ours_over_this" in one
        and not one["ours_over_this"] >= (FASTER if name == "pyro" else AT_LEAST)
    ]


def table(figures: Mapping[str, Any]) -> str:
    """Effective draws, seconds and ratios, a line a sampler."""
    lines = []
    for row, by_name in figures["rows"].items():
        lines.append(row)
        for name, one in by_name.items():
            if "left_out" in one:
                lines.append(f"  {name:12}left out: {one['left_out']}")
                continue
            lines.append(
                f"  {name:12}{one['effective_draws']:8.0f} effective draws in "
                f"{one['seconds']:.3g} s, {one['processor_seconds']:.3g} s of a processor (first "
                f"call {one['processor_seconds_of_first_call']:.3g} s): "
                f"{one['effective_draws_a_second']:.3g} a second, ours "
                f"{one['ours_over_this']:.3g} times as many"
            )
    return "\n".join([*lines, *(f"falls short: {x}" for x in figures["summary"]["not_reached"])])


def draw(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Effective draws a second, a group of bars a row."""
    rows = figures["rows"]
    figure, axis = plt.subplots(figsize=(9, 4))
    for place, name in enumerate(SAMPLERS):
        heights = [by.get(name, {}).get("effective_draws_a_second", np.nan) for by in rows.values()]
        axis.bar(np.arange(len(rows)) + 0.2 * (place - 1.5), heights, 0.2, label=name)
    axis.set_yscale("log")
    axis.set_xticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axis.set(
        ylabel="effective draws a second of a processor",
        title="Draws of a posterior, the states summed out",
    )
    axis.legend(frameon=False)
    return {"effective_draws": figure}
