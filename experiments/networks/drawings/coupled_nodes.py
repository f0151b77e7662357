"""Drawings of `coupled-nodes`, from its figures and its posterior.nc."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

COUPLINGS = ("full", "diagonal")
HEADS = ("logit_per_node", "logit_per_state")


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Excess of both couplings beside the enumerated bound; smallest LSTMs by log2 K."""
    return {"couplings": _draw_couplings(figures), "lstm": _draw_lstm(posterior, figures)}


def _draw_couplings(figures: Figures) -> Figure:
    by_nodes = figures["by_nodes"]
    nodes = [int(key.split("_")[0]) for key in by_nodes]
    figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
    lines = {
        "excess_of_frames_alone_per_step": ("frames alone, no memory", "0.6", "s:"),
        "enumerated_bound_of_the_diagonal_per_step": ("enumerated bound, diagonal", "k", "-"),
        "excess_of_the_enumerated_projection_per_step": ("enumerated projection", "k", "--"),
    }
    for key, (label, color, style) in lines.items():
        axis.plot(nodes, [one[key] for one in by_nodes.values()], style, color=color, label=label)
    for coupling, color in zip(COUPLINGS, ("tab:red", "tab:blue"), strict=True):
        key = f"{coupling}_excess_per_step"
        mean = np.array([one[key] for one in by_nodes.values()])
        ends = np.array([one[f"{key}_interval"] for one in by_nodes.values()])
        label = f"{coupling} W_h, fitted (95 %)"
        axis.errorbar(nodes, mean, np.abs(ends.T - mean), fmt="o", color=color, ms=4, label=label)
    axis.axhline(0.005, color="tab:red", lw=0.7, ls="--", label="reach for full W_h: .005")
    axis.set(
        yscale="log",
        xlabel="nodes k (2^k states)",
        ylabel="evidence behind the truth, nats per step",
        title="Held-out sequences, means over random models",
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_lstm(posterior: Idata, figures: Figures) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    known = group(posterior, "constant_data")
    for head, axis in zip(HEADS, axes, strict=False):
        rows = known[f"{head}_tried"].values
        for nodes in np.unique(rows[:, 0]):
            mine = rows[rows[:, 0] == nodes]
            sizes = np.unique(mine[:, 1])
            middle = [np.median(mine[mine[:, 1] == size, 2]) for size in sizes]
            (line,) = axis.loglog(sizes, middle, lw=0.8, label=f"{2 ** int(nodes)} states")
            axis.plot(mine[:, 1], mine[:, 2], ".", color=line.get_color())
        axis.axhline(0.01, color="black", lw=0.7, ls="--")
        axis.set(xlabel="units of the LSTM", title=head.replace("_", " "))
        axis.set_ylabel("KL beyond the floor / information of the belief")
    axes[0].legend(frameon=False, fontsize=8)
    for head, color, aside in zip(HEADS, ("tab:red", "tab:blue"), (-0.08, 0.08), strict=True):
        for key, of in figures["smallest_lstm"].items():
            x = math.log2(int(key.split("_")[0])) + aside
            found = of[head]["smallest_units_by_seed"]
            axes[2].plot([x] * len(found), found, ".", color=color)
            if found:
                axes[2].plot(x, np.median(found), "_", ms=14, color=color)
        axes[2].plot([], [], ".", color=color, label=head.replace("_", " "))
    axes[2].set(xlabel="log2 K", ylabel="smallest LSTM that holds K states, units", yscale="log")
    axes[2].set_yticks([1, 2, 4, 8, 16, 32], labels=["1", "2", "4", "8", "16", "32"])
    axes[2].set_title("Smallest LSTM (dots: seeds, bars: medians)")
    axes[2].legend(frameon=False)
    return figure
