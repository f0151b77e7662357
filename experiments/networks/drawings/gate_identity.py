"""Drawings of `gate-identity`, from its figures and its posterior.nc."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

EXACT = ("gaussian_orthogonal", "bernoulli_one_parent", "harmonium")
CASES = (*EXACT, "gaussian_random", "bernoulli_two_parents")

_COLORS = dict(
    zip(CASES, ("tab:blue", "tab:green", "tab:purple", "tab:red", "tab:orange"), strict=True)
)


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Learned weights by the formula's, divergences by the number of nodes, errors by coupling."""
    return {
        "weights": _draw_weights(posterior),
        "divergences": _draw_divergences(figures),
        "couplings": _draw_couplings(posterior),
    }


def _draw_weights(posterior: Idata) -> Figure:
    figure, axes = plt.subplots(1, len(EXACT), figsize=(11, 3.8), layout="constrained")
    for name, axis in zip(EXACT, axes, strict=True):
        learned = group(posterior, "runs")[name].values
        written = group(posterior, "constant_data")[f"{name}_written"].values
        nodes = written.shape[0]
        parts = {"W_h": slice(nodes), "W_y": slice(nodes, -1), "b": slice(-1, None)}
        for (label, place), color in zip(
            parts.items(), ("0.6", "tab:blue", "tab:red"), strict=True
        ):
            x = np.broadcast_to(written, learned.shape)[..., place]
            axis.plot(x.ravel(), learned[..., place].ravel(), ".", ms=3, color=color, label=label)
        ends = [written.min(), written.max()]
        axis.plot(ends, ends, "k-", lw=0.6, label="equal")
        axis.set(title=f"{name.replace('_', ' ')}, {nodes} nodes", xlabel="weight by the formula")
    axes[0].set_ylabel("weight learned from simulations (all seeds)")
    axes[0].legend(frameon=False)
    return figure


def _draw_divergences(figures: Figures) -> Figure:
    lines = {
        "kl_of_constant_probabilities_per_step": ("constant probabilities", "0.7", "s:"),
        "kl_without_the_nodes_before_per_step": ("gate that reads y alone", "0.5", "v:"),
        "kl_of_the_constructed_gate_per_step": ("written from the parameters", "tab:blue", "x--"),
        "floor_per_step": ("floor: best gate", "black", "-"),
        "floor_from_total_correlation_per_step": ("of it total correlation", "black", ":"),
        "kl_of_any_logistic_fit_per_step": ("any fit of as many weights: p/2n", "tab:red", "--"),
    }
    figure, axes = plt.subplots(1, len(CASES), figsize=(15, 3.8), sharey=True, layout="constrained")
    for name, axis in zip(CASES, axes, strict=True):
        by_nodes = figures["by_case"][name]
        nodes = [int(key.split("_")[0]) for key in by_nodes]
        for key, (label, color, style) in lines.items():
            values = [max(one[key], 1e-7) for one in by_nodes.values()]
            axis.semilogy(nodes, values, style, color=color, label=label, ms=4)
        key = "kl_of_the_learned_gate_per_step"
        mean = np.array([one[key] for one in by_nodes.values()])
        ends = np.array([one[f"{key}_interval"] for one in by_nodes.values()])
        spread = np.abs(ends.T - mean)
        axis.errorbar(nodes, mean, spread, fmt="o", color="tab:red", ms=4, label="learned, 95 %")
        axis.set(title=name.replace("_", " "), xlabel="nodes")
    axes[0].set_ylabel("KL(posterior ‖ gate), nats per step\n(cut at 1e-7)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_couplings(posterior: Idata) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for name, color in _COLORS.items():
        checked = group(posterior, "constant_data")[f"{name}_checked"].values
        coupling, found = np.maximum(checked[:, 0], 1e-6), np.maximum(checked[:, 1], 1e-17)
        axis.loglog(coupling, found, ".", color=color, label=name.replace("_", " "))
    axis.axhline(1e-6, color="black", lw=0.7, ls="--", label="reach where it is exact: 1e-6")
    axis.set(
        xlabel="largest coupling of two nodes, nats (cut at 1e-6)",
        ylabel="largest error of a state's probability",
        title="Gates written from the parameters, one dot a model",
    )
    axis.legend(frameon=False, fontsize=8)
    return figure
