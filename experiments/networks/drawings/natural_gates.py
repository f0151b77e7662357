"""Drawings of `natural-gates`, from its figures and its posterior.nc."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_COLOURS = {"divided": "tab:blue", "undivided": "tab:orange", "free": "tab:green"}
_NAMES = {
    "divided": "natural cells, work divided",
    "undivided": "natural cells, undivided",
    "free": "free read-out",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Gates by what they should be, for a model of each group; R² and KL of all models."""
    return {"gates": _draw_gates(posterior), "models": _draw_models(posterior, figures)}


def _draw_gates(posterior: Idata) -> Figure:
    found = group(posterior, "constant_data")
    names = [str(name) for name in found["model"].values]
    chosen = [names[0], *(one for one in ("drawn_0",) if one in names)]
    chosen += [one for one in names if one.startswith("redraw")][:1]
    figure, axes = plt.subplots(
        len(chosen), 3, figsize=(11, 3.3 * len(chosen)), squeeze=False, layout="constrained"
    )
    for row, name in zip(axes, chosen, strict=True):
        one = {str(key): value.values.ravel() for key, value in found.sel(model=name).items()}
        before, exact = one["before"], one["exact_kept"] / one["before"]
        inside = np.abs(before) > 0.3
        _points(row[0], before[inside], one["forget_gate"][inside], "forget gate")
        order = np.argsort(before[inside])
        row[0].plot(before[inside][order], exact[inside][order], ".", ms=1.5, color="black")
        row[0].set(
            ylim=(0, 1), xlabel="c before, nats", ylabel="f", title=f"{_plain(name)}: forget"
        )
        for axis, part in zip(row[1:], ("kept", "written"), strict=True):
            _points(axis, one[f"exact_{part}"], one[part], f"{part} part")
            ends = [one[f"exact_{part}"].min(), one[f"exact_{part}"].max()]
            axis.plot(ends, ends, color="black", lw=0.7)
            axis.set(xlabel="Bayes' rule, nats", ylabel="LSTM, nats", title=part)
    axes[0, 0].legend(["LSTM", "Bayes' rule"], frameon=False, markerscale=4)
    return figure


def _points(axis: Axes, x: np.ndarray, y: np.ndarray, label: str) -> None:
    axis.plot(x, y, ".", ms=1.5, color="tab:blue", alpha=0.4, label=label)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _draw_models(posterior: Idata, figures: Figures) -> Figure:
    runs = group(posterior, "runs")
    names = [str(name) for name in runs["model"].values]
    parts = ("forget", "kept", "written")
    figure, axes = plt.subplots(1, 4, figsize=(13, 1.2 + 0.28 * len(names)), sharey=True)
    rows = np.arange(len(names))
    for axis, part in zip(axes, parts, strict=False):
        found = runs[f"{part}_r_squared"]
        for kind in found["with_natural_cells"].values:
            values = 1 - found.sel(with_natural_cells=kind).values
            for number in range(values.shape[1]):
                axis.plot(values[:, number], rows, ".", color=_COLOURS[str(kind)], ms=5)
        axis.set(xscale="log", xlabel="1 − R²", title=part)
    for kind in runs["network"].values:
        values = runs["kl_filter_per_step"].sel(network=kind).values
        for number in range(values.shape[1]):
            label = _NAMES[str(kind)] if number == 0 else None
            axes[3].plot(values[:, number], rows, ".", color=_COLOURS[str(kind)], ms=5, label=label)
    axes[3].set(xscale="log", xlabel="nats per step", title="KL(exact filter ‖ LSTM)")
    axes[0].set_yticks(rows, [_plain(name) for name in names])
    axes[0].invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Every dot is a network; gates of the worst cell")
    del figures
    figure.set_layout_engine("constrained")
    return figure
