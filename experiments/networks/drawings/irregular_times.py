"""Drawings of the experiment `irregular-times`."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_COLORS = {
    "lstm_told_the_gaps": "tab:red",
    "gru_told_the_gaps": "tab:green",
    "lstm_not_told_the_gaps": "tab:blue",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """What is kept of the past beside the exact share and by gap; one sequence and its beliefs."""
    return {
        "retention": _draw_retention(posterior, figures),
        "by_gap": _draw_by_gap(posterior, figures["rate"]),
        "beliefs": _draw_beliefs(posterior),
    }


def _draw_retention(posterior: Idata, figures: Figures) -> Figure:
    known = group(posterior, "constant_data")
    exact, gap = known["exact_retention"].values, known["gap"].values
    figure, axes = plt.subplots(
        1, len(_COLORS), figsize=(11, 3.8), sharey=True, layout="constrained"
    )
    for name, axis in zip(_COLORS, axes, strict=True):
        ours = known[f"{name}_retention"].values
        colors = {"c": np.log(gap[:, ::4]), "cmap": "viridis", "s": 2, "alpha": 0.6}
        dots = axis.scatter(exact[:, ::4], ours[:, ::4], rasterized=True, **colors)
        axis.plot([0, 1], [0, 1], "k-", lw=0.7)
        found = figures[name]["retention_unexplained"]
        title = f"{name.replace('_', ' ')}, 1 − R² = {found:.4f}"
        axis.set(title=title, xlim=(0, 1), ylim=(-0.1, 1.1))
        axis.set_xlabel("exact filter keeps e^{−θΔ} (1 − K)")
    axes[0].set_ylabel("network keeps")
    bar = figure.colorbar(dots, ax=axes, label="gap")
    ticks = [0.1, 0.3, 1, 3]
    bar.set_ticks(np.log(ticks).tolist(), labels=[str(t) for t in ticks])
    return figure


def _draw_by_gap(posterior: Idata, rate: float) -> Figure:
    """Means over steps of like gaps."""
    known = group(posterior, "constant_data")
    gap = known["gap"].values.reshape(-1)
    order = np.argsort(gap)
    pieces = np.array_split(order, 30)
    middle = [float(np.median(gap[piece])) for piece in pieces]
    figure, axis = plt.subplots(figsize=(6.5, 4))

    def means(name: str) -> list[float]:
        values = known[name].values.reshape(-1)
        return [float(np.median(values[piece])) for piece in pieces]

    axis.plot(middle, means("exact_retention"), color="black", lw=4, alpha=0.35, label="exact")
    axis.plot(middle, np.exp(-rate * np.asarray(middle)), "k:", lw=1, label="e^{−θΔ}")
    for name, color in _COLORS.items():
        label = name.replace("_", " ")
        axis.plot(middle, means(f"{name}_retention"), "o-", color=color, ms=3, lw=1, label=label)
    axis.set(xscale="log", xlabel="gap", ylabel="share of the belief that is kept (median)")
    axis.set_title("What is kept over a gap")
    axis.legend(frameon=False)
    return figure


def _draw_beliefs(posterior: Idata) -> Figure:
    known = group(posterior, "constant_data").isel(sequence=0)
    y = group(posterior, "observed_data")["y"].isel(sequence=0).values
    times, mean, sd = (known[name].values for name in ("times", "exact_mean", "exact_sd"))
    figure, axis = plt.subplots(figsize=(10, 3.8))
    axis.fill_between(times, mean - 2 * sd, mean + 2 * sd, color="0.88", label="exact, ± 2 sd")
    axis.plot(times, mean, color="black", lw=4, alpha=0.35, label="exact, mean")
    for name in ("lstm_told_the_gaps", "lstm_not_told_the_gaps"):
        label = name.replace("_", " ").replace("lstm", "LSTM")
        axis.plot(times, known[f"{name}_mean"], ".-", color=_COLORS[name], lw=1, label=label)
    axis.plot(times, y, "+", color="0.5", label="observed")
    axis.set(xlabel="time", ylabel="state", title="Beliefs in the state of the first sequence")
    figure.legend(frameon=False, ncols=5, loc="outside lower center")
    return figure
