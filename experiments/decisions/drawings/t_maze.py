"""What ``t_maze`` draws: distances, the cue over time, and one episode."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_STYLES = {
    "lstm": ("tab:green", "LSTM"),
    "gru": ("tab:orange", "GRU"),
    "elman": ("tab:blue", "Elman network"),
    "untrained_lstm": ("0.5", "untrained LSTM"),
    "no_memory": ("tab:red", "no memory"),
    "lstm_and_zeros_of_the_model": ("tab:olive", "LSTM and the model's zeros"),
}
_LEAST = 1e-6
"""Smaller distances are drawn as this."""


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Distances of all networks, the cue by its age, and an episode of the shortest maze."""
    known = group(posterior, "constant_data")
    return {"distances": _distances(known), "cue": _cue(known), "episode": _episode(known)}


def _words(case: Any) -> str:
    _, length, _, chance = str(case).split("_")
    return f"{length} cells, stochasticity {chance.replace('p', '.')}"


def _distances(known: Any) -> Figure:
    """One dot a fit: KL(exact ‖ belief), and what is missing of the right side at the junction."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    cases, names = known["case"].values, known["network"].values
    parts = (("kl_belief_per_step", 0.01, False), ("cue_at_junction", 0.01, True))
    for axis, (part, bound, missing) in zip(axes, parts, strict=True):
        for number, name in enumerate(names):
            color, label = _STYLES[str(name)]
            values = known[part].sel(network=name).values
            values = np.maximum(1 - values if missing else values, _LEAST)
            place = np.arange(len(cases))[:, None] + 0.12 * (number - (len(names) - 1) / 2)
            at = np.broadcast_to(place, values.shape)
            axis.plot(values.ravel(), at.ravel(), "o", color=color, ms=4, alpha=0.8, label=label)
        axis.axvline(bound, color="black", ls="--", lw=0.8, label="to be reached by the LSTM")
        axis.set(xscale="log")
        axis.grid(axis="x", color="0.92")
    axes[0].set_yticks(range(len(cases)), [_words(case) for case in cases])
    axes[0].invert_yaxis()
    axes[0].set(xlabel="KL(exact ‖ belief), nats per step", title="Belief, a dot a seed")
    axes[1].set(xlabel="1 − probability of the right side", title="Cue at the junction")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _cue(known: Any) -> Figure:
    """Probability of the right side by the age of the cue, mean over seeds and episodes."""
    cases = known["case"].values
    columns = len(cases) if len(cases) < 4 else len(cases) // 2
    rows = -(-len(cases) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(10, 2.6 * rows + 0.6),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    order = np.arange(len(cases)).reshape(columns, -1).T if rows > 1 else np.arange(len(cases))
    for axis, number in zip(axes.flat, np.ravel(order), strict=False):
        here = known["cue_by_lag"].isel(case=int(number))
        for name in known["network"].values:
            color, label = _STYLES[str(name)]
            axis.plot(here.sel(network=name), color=color, lw=1.4, label=label)
        ages = np.flatnonzero(~np.isnan(here.values).all(0))
        axis.set(xlim=(0, max(int(ages.max()), 1)))
        axis.set_title(_words(cases[int(number)]), fontsize=9)
        axis.axhline(0.99, color="black", ls="--", lw=0.6, label=".99")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[-1]:
        axis.set_xlabel("steps since the cue")
    for axis in axes[:, 0]:
        axis.set_ylabel("P(right side)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _episode(known: Any) -> Figure:
    """Beliefs over cells, exact and the LSTM's; the side; and how its gates keep."""
    figure, axes = plt.subplots(
        4, 1, figsize=(9, 8), layout="constrained", sharex=True, height_ratios=(3, 3, 1.6, 1.6)
    )
    titles = {"exact": "exact belief", "network": "LSTM"}
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        cells = known[f"shown_{name}_cell"].values
        shades: dict[str, Any] = {"cmap": "Greys", "vmin": 0, "vmax": 1}
        image = axis.imshow(
            cells.T, origin="lower", aspect="auto", interpolation="nearest", **shades
        )
        axis.set(ylabel="cell")
        axis.set_title(title, fontsize=9)
    figure.colorbar(image, ax=list(axes[:2]), label="probability")
    axes[2].plot(known["shown_exact_up"], color="black", lw=4, alpha=0.3, label="exact")
    axes[2].plot(known["shown_network_up"], color="tab:green", lw=1.2, label="LSTM")
    axes[2].set(ylabel="P(goal is up)", ylim=(-0.05, 1.05))
    axes[2].legend(frameon=False, fontsize=8, ncols=2)
    axes[3].plot(known["shown_keeping"], color="tab:green", label="forget gates, mean of units")
    axes[3].set(ylabel="forget gate", xlabel="step")
    axes[3].legend(frameon=False, fontsize=8)
    axes[2].set_title("side of the goal", fontsize=9)
    axes[3].set_title("forget gates, and information gained", fontsize=9)
    other = axes[3].twinx()
    gain = known["shown_information_gain"].values
    other.bar(np.arange(len(gain)), gain, color="tab:purple", alpha=0.4)
    other.set_ylabel("information\ngain, nats", color="tab:purple")
    return figure
