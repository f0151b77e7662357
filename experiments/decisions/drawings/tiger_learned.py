"""Drawings of `tiger-learned`, from its figures and its posterior.nc."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_ACTORS = {
    "random_actions": ("random actions", "tab:blue"),
    "careful_agent": ("careful agent", "tab:red"),
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Intervals beside the truth, beliefs by the number of episodes, and what is not known."""
    return {
        "parameters": _draw_parameters(posterior, figures),
        "beliefs": _draw_beliefs(figures),
        "identified": _draw_identified(figures),
    }


def _draw_parameters(posterior: Idata, figures: Figures) -> Figure:
    known = group(posterior, "constant_data")
    labels = [str(label) for label in known["number"].values]
    ends, truth = known["interval"].values, known["truth"].values
    edge = known["edge"].values > 0
    rewards = np.array([label.startswith(("R |", "noise")) for label in labels])
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axis, rows, title in (
        (axes[0], ~rewards, "chances"),
        (axes[1], rewards, "rewards and their noise"),
    ):
        places = np.arange(rows.sum())
        shift = np.linspace(-0.3, 0.3, ends.shape[1]) if ends.shape[1] > 1 else np.zeros(1)
        for fit in range(ends.shape[1]):
            low, high = (ends[rows, fit] - truth[rows, None]).T
            out, no_count = (low > 0) | (high < 0), edge[rows]
            for which, color in (
                (~out & ~no_count, "tab:blue"),
                (out & ~no_count, "tab:red"),
                (no_count, "0.6"),
            ):
                axis.hlines((places + shift[fit])[which], low[which], high[which], color, lw=1.6)
        axis.axvline(0, color="black", lw=0.7)
        names = [label for label, row in zip(labels, rows, strict=True) if row]
        values = [f"{name}  ({value:g})" for name, value in zip(names, truth[rows], strict=True)]
        axis.set_yticks(places, values, fontsize=8)
        axis.invert_yaxis()
        axis.set(title=title, xlabel="90 % interval − truth, one line a seed")
    share = figures["coverage"]
    figure.suptitle(
        f"{share['share']:.0%} of {share['intervals']} intervals hold the truth "
        f"(95 %: {share['share_interval_low']:.0%} to {share['share_interval_high']:.0%}); "
        "red: not; grey: at the edge, do not count",
        fontsize=10,
    )
    return figure


def _draw_beliefs(figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
    for name, (label, color) in _ACTORS.items():
        found = figures["belief"][name]
        rows = list(found["by_episodes"].values())
        counts = [row["episodes"] for row in rows]
        axis.loglog(counts, [row["kl_per_step"] for row in rows], "-", color=color, label=label)
        for row in rows:
            each = row["kl_per_step_by_seed"]
            axis.loglog([row["episodes"]] * len(each), each, ".", color=color, ms=4)
        for key, style, what in (
            ("kl_of_no_belief_per_step", ":", "belief (½, ½)"),
            ("kl_of_the_last_observation_per_step", "--", "last observation alone"),
        ):
            axis.axhline(found[key], color=color, ls=style, lw=1, label=f"{label}: {what}")
    axis.axhline(0.01, color="black", lw=0.8, label="reach: .01")
    axis.set(
        xlabel="episodes of random actions learned from",
        ylabel="KL(true belief ‖ belief by learned tables)\nnats per step",
        title="Belief by the learned tables, a dot a seed",
    )
    axis.legend(frameon=False, fontsize=7)
    return figure


def _draw_identified(figures: Figures) -> Figure:
    table = figures["width_in_units_of_the_prior"]
    rows = list(next(iter(table.values())))
    figure, axis = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for place, (kind, color) in enumerate(
        zip(table, ("tab:blue", "tab:green", "tab:red"), strict=True)
    ):
        found = [
            (at + 0.2 * (place - 1), table[kind][row])
            for at, row in enumerate(rows)
            if row in table[kind]
        ]
        y, x = zip(*found, strict=True)
        axis.semilogx(x, y, "o", color=color, label=kind.replace("_", " "))
    axis.axvline(1, color="black", lw=0.7)
    axis.set_yticks(range(len(rows)), [_plain(row) for row in rows])
    axis.invert_yaxis()
    axis.set(
        xlabel="standard deviation of the posterior, in units of the prior's (1: nothing learned)",
        title="What the episodes say of each table",
    )
    axis.legend(frameon=False, fontsize=8, title="learned from")
    return figure


def _plain(row: str) -> str:
    """Words for a block of parameters."""
    what, _, action = row.partition("_")
    short = {"initial": "initial law", "transition": "T", "probs": "O", "reward": "R"}[what]
    return f"{short} after {action.replace('_', ' ')}" if action else short
