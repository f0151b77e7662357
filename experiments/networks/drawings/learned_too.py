"""Drawings of `learned-too`, from its figures and its posterior.nc."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Gates by what they should be under the fitted model; R² and intervals of all models."""
    return {"gates": _draw_gates(posterior), "models": _draw_models(figures)}


def _draw_gates(posterior: Idata) -> Figure:
    found = group(posterior, "constant_data")
    names = [str(name) for name in found["model"].values]
    chosen = names[:1] + [one for one in ("earthquakes", "letters") if one in names[1:]]
    figure, axes = plt.subplots(
        len(chosen), 3, figsize=(11, 3.3 * len(chosen)), squeeze=False, layout="constrained"
    )
    for row, name in zip(axes, chosen, strict=True):
        one = {str(key): value.values for key, value in found.sel(model=name).items()}
        inside = np.abs(one["before"]) > 0.3
        before, exact = one["before"][inside], (one["exact_kept"] / one["before"])[inside]
        row[0].plot(before, one["forget_gate"][inside], ".", ms=1.5, alpha=0.4, label="LSTM")
        row[0].plot(before, exact, ".", ms=1.5, color="black", label="Bayes' rule, fitted model")
        row[0].set(xlabel="c before, nats", ylabel="f", title=f"{name.replace('_', ' ')}: forget")
        for axis, part in zip(row[1:], ("kept", "written"), strict=True):
            axis.plot(one[f"exact_{part}"], one[part], ".", ms=1.5, alpha=0.4)
            ends = [np.nanmin(one[f"exact_{part}"]), np.nanmax(one[f"exact_{part}"])]
            axis.plot(ends, ends, color="black", lw=0.7)
            axis.set(xlabel="Bayes' rule, nats", ylabel="LSTM, nats", title=part)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, markerscale=4
    )
    return figure


def _draw_models(figures: Figures) -> Figure:
    models = figures["by_model"]
    names = list(models)
    rows = np.arange(len(names))
    figure, axes = plt.subplots(
        1, 4, figsize=(13, 1.6 + 0.3 * len(names)), sharey=True, layout="constrained"
    )
    for axis, part in zip(axes, ("forget", "kept", "written"), strict=False):
        key = f"{part}_r_squared"
        for row, name in zip(rows, names, strict=True):
            own = models[name]["divided"]
            seeds = own[f"{key}_by_seed"]
            axis.plot(1 - np.array(seeds), [row] * len(seeds), ".", color="tab:blue")
            if "of_the_true_model" in own:
                axis.plot(1 - own["of_the_true_model"][key], row, "|", color="black", ms=10)
            axis.plot(1 - own["untrained"][key], row, "x", color="tab:orange", ms=4)
        axis.axvline(0.1, color="grey", ls=":", lw=0.8)
        axis.set(xscale="log", xlabel="1 − R²", title=part)
    axes[0].set_yticks(rows, [name.replace("_", " ") for name in names])
    axes[0].invert_yaxis()
    for row, name in zip(rows, names, strict=True):
        own = models[name]["divided"]
        for key, marker, color in (
            ("widths_of_intervals_over_exact", "o", "tab:blue"),
            ("widths_of_intervals_of_linear_response_over_exact", "s", "tab:green"),
        ):
            if key in own:
                values = own[f"{key}_by_seed"]
                axes[3].plot(values, [row] * len(values), marker, color=color, ms=4)
    axes[3].axvline(1, color="grey", ls=":", lw=0.8)
    axes[3].set(xlabel="over those with the exact filter", title="widths of intervals")
    axes[0].plot([], [], ".", color="tab:blue", label="fitted model, one dot a fit")
    axes[0].plot([], [], "|", color="black", ms=10, label="true model, mean")
    axes[0].plot([], [], "x", color="tab:orange", ms=4, label="untrained")
    axes[0].plot([], [], "o", color="tab:blue", ms=4, label="widths: of the bound")
    axes[0].plot([], [], "s", color="tab:green", ms=4, label="widths: linear response")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
