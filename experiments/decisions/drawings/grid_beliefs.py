"""Drawings of `grid-beliefs`, from its figures and its posterior.nc."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

BELIEFS = {
    ("without_memory", "where_the_plan_acts"): ("no memory, the plan acts", "s", "0.5"),
    ("untrained_lstm", "where_the_plan_acts"): ("untrained LSTM, the plan acts", "x", "0.5"),
    ("lstm", "where_the_plan_acts"): ("LSTM, the plan acts on the exact belief", "o", "tab:blue"),
    ("lstm", "where_it_acts_itself"): ("LSTM, the plan acts on it", "v", "tab:red"),
    ("lstm", "where_actions_are_random"): ("LSTM, random actions", "^", "tab:green"),
}
POLICIES = {
    "plan_on_exact_belief": "plan, exact belief",
    "plan_on_lstm_belief": "plan, LSTM's belief",
    "plan_on_particle_belief": "plan, particles",
    "qmdp_on_exact_belief": "QMDP, exact belief",
    "best_in_most_likely_state": "most likely state",
    "plan_without_memory": "plan, no memory",
    "at_random": "random actions",
}
SMALLEST = 1e-6
"""Nats: what is smaller is drawn here."""


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Distances of beliefs, returns beside bounds, the distance over time, and one episode."""
    problems = {key: part for key, part in figures.items() if key not in ("reach", "not_reached")}
    return {
        "returns": _draw_returns(problems),
        "distances": _draw_distances(problems),
        "over_time": _draw_over_time(posterior, problems),
        "episode": _draw_episode(posterior, problems),
    }


def _draw_returns(problems: Figures) -> Figure:
    columns = min(4, len(problems))
    rows = -(-len(problems) // columns)
    size = (3.2 * columns + 1.2, 2.6 * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axis in axes.flat[len(problems) :]:
        axis.set_visible(False)
    for axis, part in zip(axes.flat, problems.values(), strict=False):
        bounds = part["value_of_the_best_policy"]
        low, high = bounds["lower_bound"], bounds["upper_bound"]
        style = {"color": "tab:orange", "alpha": 0.4, "lw": 1, "label": "bounds of the best value"}
        axis.axvspan(low, high, **style)
        if "published_value" in part:
            for number, value in enumerate(part["published_value"]):
                label = "published value" if number == 0 else None
                axis.axvline(value, color="black", ls=":", lw=1, label=label)
        for place, name in enumerate(reversed(POLICIES)):
            mean = part["return"][name]
            ends = np.array(part["return"][f"{name}_interval"])
            color = "tab:blue" if name == "plan_on_lstm_belief" else "0.3"
            half = np.abs(ends - mean)[:, None]
            axis.errorbar(mean, place, xerr=half, fmt="o", ms=4, capsize=2, color=color)
        axis.set_yticks(range(len(POLICIES)), list(reversed(POLICIES.values())))
        axis.set(title=f"{part['problem']} ({part['states']} states)", ylim=(-0.6, 6.6))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=8, ncols=2)
    figure.supxlabel("discounted return (mean, 95 % over seeds)")
    return figure


def _draw_distances(problems: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(1.1 * len(problems) + 4, 4.2))
    least = 1.0
    for place, ((belief, who), (label, mark, color)) in enumerate(BELIEFS.items()):
        x = np.arange(len(problems)) + 0.12 * (place - 2)
        each = [part["belief_kl_per_step"][belief] for part in problems.values()]
        mean = np.array([one[who] for one in each])
        least = min(least, mean.clip(SMALLEST).min())
        ends = np.array([one[f"{who}_interval"] for one in each]).clip(SMALLEST)
        style: dict[str, Any] = {"fmt": mark, "ms": 5, "capsize": 2, "color": color}
        axis.errorbar(x, mean, np.abs(ends.T - mean), label=label, **style)
    axis.set_xticks(
        range(len(problems)),
        [f"{part['problem']}\n{part['states']} states" for part in problems.values()],
    )
    axis.set(yscale="log", ylabel="KL(exact belief ‖ belief), nats per step\n(mean, 95 % of seeds)")
    axis.set_ylim(bottom=least / 3)  # an interval may reach below zero
    axis.grid(axis="y", color="0.9")
    axis.set_title("Distance from the exact belief")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw_over_time(posterior: Idata, problems: Figures) -> Figure:
    known = group(posterior, "constant_data")
    figure, axis = plt.subplots(figsize=(7, 4))
    for key, part in problems.items():
        curve = known[f"{key}_kl"].values.mean(0).clip(SMALLEST)
        axis.plot(1 + np.arange(len(curve)), curve, lw=1, label=part["problem"])
    axis.set(
        xlabel="step",
        ylabel="KL(exact belief ‖ LSTM), nats",
        yscale="log",
        title="Where the plan acts on the exact belief (mean of seeds and episodes)",
    )
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def _draw_episode(posterior: Idata, problems: Figures) -> Figure:
    """Exact belief and a network's along one episode of the first problem."""
    key, part = next(iter(problems.items()))
    exact = group(posterior, "constant_data")[f"{key}_exact"].values
    belief = group(posterior, "runs")[f"{key}_belief"].values[0]
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
    shown = slice(0, min(60, len(exact)))
    for axis, table, title in zip(axes, (exact, belief), ("exact belief", "LSTM"), strict=True):
        image = axis.imshow(
            np.sqrt(table[shown].T), aspect="auto", cmap="Greys", vmin=0, vmax=1, origin="lower"
        )
        axis.set(ylabel="state", title=f"{part['problem']}: {title}")
    axes[1].set_xlabel("step of an episode in which the plan acts on the exact belief")
    bar = figure.colorbar(image, ax=axes, ticks=np.sqrt([0, 0.04, 0.25, 0.5, 1]))
    bar.ax.set_yticklabels(["0", ".04", ".25", ".5", "1"])
    bar.set_label("probability")
    return figure
