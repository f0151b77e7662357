"""Drawings of `policy-reading`, from its figures and its posterior.nc."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

CASES = ("one_gaussian_node", "two_gaussian_nodes", "one_node_of_bits")
_COLORS = {"emitted": "tab:blue", "acting": "tab:red"}
_LABELS = {"emitted": "y is emitted by the nodes", "acting": "y acts on the nodes"}
_TITLES = {name: name.replace("_", " ").replace("gaussian", "Gaussian") for name in CASES}
_LEVEL: dict[str, Any] = {"color": "black", "lw": 0.7, "label": "neither reading ahead"}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Evidence by data set, its dependence on memory, and gates learned in both worlds."""
    return {
        "evidence": _draw_evidence(posterior, figures),
        "memory": _draw_memory(figures),
        "gates": _draw_gates(posterior, figures),
    }


def _draw_evidence(posterior: Idata, figures: Figures) -> Figure:
    figure, axes = plt.subplots(1, len(CASES), figsize=(11, 3.8), layout="constrained")
    known = group(posterior, "constant_data")
    for name, axis in zip(CASES, axes, strict=True):
        for reading, color in _COLORS.items():
            ahead = np.sort(known[f"{name}_{reading}_ahead"].values)
            rank = (np.arange(len(ahead)) + 0.5) / len(ahead)
            low, high = figures[name][reading]["share_picked_interval"]
            right = f"picked right {figures[name][reading]['share_picked']:.0%}"
            label = f"{_LABELS[reading]}:\n{right} (95 %: {low:.0%} to {high:.0%})"
            axis.plot(ahead, rank, ".", color=color, label=label)
        axis.plot([0, 0], [0, 1], **_LEVEL)
        axis.set(title=_TITLES[name], ylim=(0, 1.55), yticks=np.linspace(0, 1, 6))
        axis.set_xlabel("held-out evidence, emitted − acting (nats)")
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    axes[0].set_ylabel("share of the data sets")
    return figure


def _draw_memory(figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
    rows = list(figures["by_switch_rate"].values())
    rates = np.array([row["switch_rate"] for row in rows])
    for place, (reading, color) in enumerate(_COLORS.items()):
        mean = np.array([row[reading]["nats_ahead"] for row in rows])
        ends = np.array([row[reading]["nats_ahead_interval"] for row in rows])
        shares = [row[reading]["share_picked"] for row in rows]
        label = f"{_LABELS[reading]} (mean, 95 %)"
        axis.errorbar(rates, mean, np.abs(ends.T - mean), fmt="o-", ms=4, color=color, label=label)
        known = [row[reading]["nats_ahead_at_true_parameters"] for row in rows]
        told = f"{_LABELS[reading]}: the models that made the data"
        axis.plot(rates, known, "--", lw=1, marker="_", color=color, label=told)
        for rate, at, share in zip(rates, ends[:, place], shares, strict=True):
            offset = (0, -12 if place == 0 else 6)
            axis.annotate(
                f"{share:.0%}",
                (rate, at),
                offset,
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=color,
            )
    axis.axhline(0, **_LEVEL)
    axis.margins(y=0.12)
    axis.set(
        xlabel="chance of the node to switch (½: no memory, the readings coincide)",
        ylabel="held-out evidence of the true reading\nbefore that of the other (nats)",
        title="One Gaussian node (numbers: share of data sets read right)",
    )
    figure.legend(frameon=False, loc="outside lower center")
    return figure


def _draw_gates(posterior: Idata, figures: Figures) -> Figure:
    figure, axes = plt.subplots(1, len(CASES) + 1, figsize=(14, 3.8), layout="constrained")
    for name, axis in zip(CASES, axes[:-1], strict=True):
        written = group(posterior, "constant_data")[f"{name}_written"].values.ravel()
        for place, (reading, color) in enumerate(_COLORS.items()):
            learned = group(posterior, "runs")[f"{name}_{reading}"].values
            learned = learned.reshape(len(learned), -1)
            x = np.arange(learned.shape[1]) + (place - 0.5) * 0.3
            half = 1.96 * learned.std(0, ddof=1) / np.sqrt(len(learned))
            axis.plot(np.broadcast_to(x, learned.shape).T, learned.T, ".", color=color, ms=3)
            told = None if place else "mean, 95 %"
            axis.errorbar(x, learned.mean(0), half, fmt="_", color="black", capsize=3, label=told)
            axis.plot([], [], "o", color=color, ms=4, label=f"{_LABELS[reading]}, a data set")
        ends = np.arange(len(written)) + np.array([[-0.4], [0.4]])
        axis.hlines(written, *ends, "0.5", label="the truth")
        axis.set(title=_TITLES[name], xlabel="weight of the gate")
        nodes, inputs = group(posterior, "constant_data")[f"{name}_written"].shape
        axis.set_xticks(range(len(written)), _weight_names(nodes, inputs - nodes - 1), fontsize=8)
    axes[0].set_ylabel("learned from the nodes' bits")
    axes[0].legend(frameon=False, fontsize=7)
    last, places = axes[-1], np.arange(len(CASES))
    rows = [figures[name]["gate_alone"] for name in CASES]
    ends = np.array([[row["gain_interval_low"], row["gain_interval_high"]] for row in rows])
    mean = np.array([row["gain_of_two_gates"] for row in rows])
    last.errorbar(places, mean, np.abs(ends.T - mean), fmt="o", color="black", label="two worlds")
    mean = np.array([row["gain_where_the_gates_differ"] for row in rows])
    ends = np.array([row["gain_where_the_gates_differ_interval"] for row in rows])
    spread = np.abs(ends.T - mean)
    last.errorbar(
        places + 0.2, mean, spread, fmt="s", color="tab:green", label="control: gates differ"
    )
    last.axhline(0, color="black", lw=0.7, label="no gain")
    last.set_xticks(places, [_TITLES[name].replace(" ", "\n", 1) for name in CASES])
    last.set(
        ylabel="gain of two gates over one (nats a pair)", title="the gate alone", ylim=(-2, None)
    )
    last.legend(frameon=False, fontsize=7)
    return figure


def _weight_names(nodes: int, reads: int) -> list[str]:
    """Names of the weights of every gate in turn, numbered if there are several of a kind."""

    def named(kind: str, *places: tuple[int, int]) -> str:
        """A name; the pairs are a place and how many there are."""
        digits = "".join(str(place + 1) for place, count in places if count > 1)
        return f"${kind}^{{{digits}}}$" if digits else f"${kind}$"

    names = []
    for gate in range(nodes):
        own = gate, nodes
        names += [named("W_h", own, (other, nodes)) for other in range(nodes)]
        names += [named("W_y", own, (other, reads)) for other in range(reads)]
        names.append(named("b", own))
    return names
