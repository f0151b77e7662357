"""Drawings of the experiment `bee-dance`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ..parts.changes import TOLERANCE, TOLERANCES

FAMILIES: Mapping[str, str] = {
    "gaussian_hmm": "Gaussian HMM",
    "ar1_hmm": "AR(1)-HMM",
    "ar2_hmm": "AR(2)-HMM",
    "linear_gaussian": "one regime",
    "switching": "switching linear",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """One dance with marked and found changes; F1 by tolerance; evidence of every model."""
    return {
        "dance": _draw_dance(posterior, figures["dance"]),
        "changes": _draw_f1(figures),
        "evidence": _draw_evidence(figures["by_model"]),
    }


def _draw_dance(posterior: Idata, dance: Mapping[str, list[int]]) -> Figure:
    y = group(posterior, "observed_data")["obs"].isel(sequence=0)
    y = y.transpose("time", "feature")
    states = group(posterior, "posterior_states")["smoothed_mean"].isel(sequence=0)
    names = [str(name) for name in states["component"].values]
    shares = states.transpose("time", "component").values[
        :, [name.startswith("regime") for name in names]
    ]
    figure, axes = plt.subplots(
        3, 1, figsize=(11, 6), sharex=True, height_ratios=[3, 1.2, 1.6], layout="constrained"
    )
    step = np.arange(len(y))
    for f, name in enumerate(y["feature"].values):
        axes[0].plot(step, y.values[:, f] - 6 * f, lw=0.7, label=str(name))
    axes[0].set_yticks([-6 * f for f in range(y.shape[1])], [str(n) for n in y["feature"].values])
    axes[0].set_title("A dance that the model was not fitted to; black: changes marked by hand")
    regimes = [f"regime {place}" for place in range(shares.shape[1])]
    axes[1].stackplot(step, shares.T, alpha=0.8, labels=regimes)
    axes[1].set_title("Share of each regime", fontsize=10)
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    axes[2].set_title("Changes that each model finds", fontsize=10)
    axes[1].set(ylabel="regimes,\nLSTM guide", ylim=(0, 1))
    rows = [family for family in FAMILIES if family != "linear_gaussian"]
    colors = {family: f"C{place}" for place, family in enumerate(FAMILIES)}
    for row, family in enumerate(rows):
        at = dance[family]
        axes[2].plot(at, [row] * len(at), "|", ms=12, mew=1.6, color=colors[family])
    axes[2].set_yticks(range(len(rows)), [FAMILIES[family] for family in rows])
    axes[2].set(ylim=(-0.6, len(rows) - 0.4), xlabel="frame", xlim=(0, len(y)))
    for axis in axes:
        for mark in dance["marked"]:
            axis.axvline(mark, color="black", lw=0.8, alpha=0.7)
    return figure


def _draw_f1(figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for place, (family, name) in enumerate(FAMILIES.items()):
        if family != "linear_gaussian":
            curve = figures["by_model"][family]["f1_by_tolerance"]
            width = 3 if family == "switching" else 1.5
            axis.plot(TOLERANCES, curve, label=name, lw=width, color=f"C{place}")
    for name, style in (("evenly_spaced", "--"), ("random", ":")):
        curve = figures["baselines"][name]["f1_by_tolerance"]
        axis.plot(TOLERANCES, curve, style, color="grey", label=name.replace("_", " "))
    axis.axvline(TOLERANCE, color="black", lw=0.6, label="tolerance of the report")
    axis.set(xlabel="tolerance, frames", ylabel="F1 of changes, unseen dances", ylim=(0, 1))
    axis.set_title("Changes of behaviour that are found")
    axis.legend()
    return figure


def _draw_evidence(by_model: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    names = list(FAMILIES)
    for row, family in enumerate(names):
        each = by_model[family]["evidence_of_each_seed"]
        axis.plot(each, [row] * len(each), "o", color=f"C{row}", alpha=0.7)
        if "bound_per_frame" in by_model[family]:
            axis.plot(by_model[family]["bound_per_frame"], row, "|", ms=14, color="black")
    axis.set_yticks(range(len(names)), [FAMILIES[family] for family in names])
    axis.invert_yaxis()
    axis.set(
        xlabel="evidence of unseen dances, nats per frame",
        title="A dot a seed; bar: bound of the guide",
    )
    return figure
