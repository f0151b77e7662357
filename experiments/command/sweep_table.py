"""What a sweep found, point by point of its grid: statistics over seeds, a table, a drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t

from .report import leaves, readable
from .seeds import Figures

MOST_ROWS = 12
"""Figures that are printed unless some are chosen."""

MOST_PANELS = 6
"""Figures that are drawn."""


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds of one point.

    With values v_1 … v_n, mean m and sd s = √(Σ (v_i − m)² / (n − 1)), the interval is that of the
    mean, m ± t_{.975, n−1} s / √n. For n = 1 there is neither.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    min: float
    max: float
    n: int
    by_seed: Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """One point of the grid: the varied settings, and every numeric figure by its dotted path."""

    settings: Mapping[str, Any]
    figures: Mapping[str, Spread]
    failed: int
    """Seeds without result."""

    @property
    def label(self) -> str:
        """Such as "hidden_size=8 steps=100"."""
        return label(self.settings)


def label(settings: Mapping[str, object]) -> str:
    """Settings on one line, as `--set` reads them."""
    return " ".join(f"{name}={shown(value)}" for name, value in settings.items()) or "defaults"


def shown(value: object) -> str:
    """One value, as `--set` reads it."""
    return ":".join(map(readable, value)) if isinstance(value, list | tuple) else readable(value)


def point(settings: Mapping[str, object], by_seed: Mapping[int, Figures | None]) -> Point:
    """The statistics of one point.

    Args:
        settings: the values of what is varied.
        by_seed: nested figures of each seed, None where the job failed. What is not a number counts
            as no figure, nor do lists.
    """
    values: dict[str, dict[str, float]] = {}
    for seed, figures in by_seed.items():
        for path, value in leaves(figures or {}):
            if isinstance(value, int | float):
                values.setdefault(path, {})[str(seed)] = value
    failed = sum(figures is None for figures in by_seed.values())
    return Point(settings, {path: spread(found) for path, found in values.items()}, failed)


def spread(by_seed: Mapping[str, float]) -> Spread:
    """Mean, sd, interval and range of one figure; see `Spread`."""
    values = np.asarray(list(by_seed.values()), dtype=np.float64)
    n, mean = len(values), float(values.mean())
    if values.min() == values.max():
        mean = float(values[0])  # free of rounding, as is the sd then
    sd = low = high = None
    if n > 1:
        sd = math.sqrt(float(((values - mean) ** 2).sum()) / (n - 1))
        half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
        low, high = mean - half, mean + half
    return Spread(mean, sd, low, high, float(values.min()), float(values.max()), n, by_seed)


def chosen(points: Sequence[Point], globs: Sequence[str]) -> list[str]:
    """Paths of the figures to show, in the order of the experiment.

    Those that match a pattern; without patterns, those that every job has and that are not the same
    at all points (with a single point, those that every job has).
    """
    paths = list(dict.fromkeys(path for at in points for path in at.figures))
    if globs:
        return [path for path in paths if any(fnmatchcase(path, glob) for glob in globs)]
    done = [at for at in points if at.figures]
    most = max((found.n for at in points for found in at.figures.values()), default=0)
    everywhere = [
        path
        for path in paths
        if all(path in at.figures and at.figures[path].n + at.failed >= most for at in done)
    ]
    if len(done) < 2:
        return everywhere
    return [path for path in everywhere if len({at.figures[path].mean for at in done}) > 1]


def table(points: Sequence[Point], paths: Sequence[str]) -> str:
    """Figures × points as text: mean ± sd, the 95 % interval of the mean, number of seeds."""
    width = max((len(at.label) for at in points), default=0)
    lines = []
    for path in paths:
        lines.append(path)
        for at in points:
            found = at.figures.get(path)
            lines.append(f"  {at.label:{width}}  {_row(found) if found else 'no result'}")
    return "\n".join(lines)


def _row(found: Spread) -> str:
    if found.sd is None:
        return f"{found.mean:.4g}  (n = 1)"
    interval = f"[{found.low:.4g}, {found.high:.4g}]"
    return f"{found.mean:.4g} ± {found.sd:.2g}  {interval}  (n = {found.n})"


def draw(points: Sequence[Point], paths: Sequence[str]) -> Figure:
    """Up to six figures against the first setting with several values, the others by colour.

    A dot is a seed, a bar mean ± sd.
    """
    shown = list(paths)[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    size = (max(5.0, 3.8 * columns), 3.2 * rows + 0.4)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, path in zip(panels.flat, shown, strict=False):
        _panel(axes, points, path)
    for axes in list(panels.flat)[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle("dots: seeds, bars: mean ± sd", fontsize="small")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _across(points: Sequence[Point]) -> str:
    """The setting along the axis; "" if there is none."""
    names = list(points[0].settings)
    several = [n for n in names if len({shown(at.settings[n]) for at in points}) > 1]
    return (several or names or [""])[0]


def _panel(axes: Axes, points: Sequence[Point], path: str) -> None:
    across = _across(points)
    ticks = list(dict.fromkeys(shown(at.settings.get(across, "")) for at in points))
    rests = [{k: v for k, v in at.settings.items() if k != across} for at in points]
    groups = list(dict.fromkeys(label(rest) for rest in rests))
    for number, group in enumerate(groups):
        shift = 0.6 * ((number + 0.5) / len(groups) - 0.5)
        colour = f"C{number}"
        first = True
        for at, rest in zip(points, rests, strict=True):
            found = at.figures.get(path)
            if found is None or label(rest) != group:
                continue
            place = ticks.index(shown(at.settings.get(across, ""))) + shift
            seeds = np.linspace(-0.06, 0.06, found.n) if found.n > 1 else np.zeros(1)
            axes.plot(place + seeds, list(found.by_seed.values()), ".", color=colour, alpha=0.35)
            axes.errorbar(
                place,
                found.mean,
                yerr=found.sd or 0.0,
                fmt="o",
                color=colour,
                capsize=4,
                label=group if first and len(groups) > 1 else None,
            )
            first = False
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_xlabel(across)
    axes.set_title(path, fontsize="small", loc="left")
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
