"""What ``gated_accumulator`` draws: gates beside posteriors, and means beside the exact one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_TARGETS = {
    "lstm_of_one_unit": "squared error to the simulated memory",
    "lstm_of_one_unit_by_the_elbo": "ELBO of what is observed",
}
"""What a cell was trained by."""

_COLORS = {
    "lstm_of_one_unit": "tab:red",
    "lstm_of_one_unit_by_the_elbo": "tab:orange",
    "elman_of_one_unit": "tab:blue",
    "elman_with_as_many_weights": "tab:cyan",
}


def gates(posterior: Idata, figures: Figures, cases: Sequence[str]) -> Figure:
    """Gates of the first seed over the posteriors, with correlations over all seeds."""
    known = group(posterior, "constant_data")
    parts = (("f", "keep", "forget"), ("i", "write", "input"), ("g", "value", "candidate"))
    figure, axes = plt.subplots(
        len(cases), 3, figsize=(9, 2.9 * len(cases)), layout="constrained", squeeze=False
    )
    labels = {"f": "P(keep | y)", "i": "P(write | y)", "g": "E[value | y]"}
    for row, case in zip(axes, cases, strict=True):
        for axis, (gate, quantity, word) in zip(row, parts, strict=True):
            exact = known[f"{case}_exact_{quantity}"].values[:, 1:]
            key = f"{word}_gate_correlation" if gate != "g" else "candidate_correlation"
            found = []
            for cell, target in _TARGETS.items():
                ours = known[f"{case}_{cell}_{gate}"].values[:, 1:]
                dots = exact.ravel()[::3], ours.ravel()[::3]
                axis.plot(*dots, ".", ms=1.5, alpha=0.4, color=_COLORS[cell])
                axis.plot([], [], ".", color=_COLORS[cell], label=target)
                found.append(f"{figures[case][cell][key]:.4f}")
            axis.axline((0, 0), slope=1, color="black", lw=0.7)
            axis.set(xlabel=labels[gate], ylabel=f"{word} gate {gate}".replace("te gate", "te"))
            axis.set_title(f"{_words(case)}\nr = {', '.join(found)}", fontsize=9)
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    figure.suptitle(
        "LSTM of one unit; dots: first seed, r: means over seeds, in the order of the targets",
        fontsize=10,
    )
    return figure


def memory(posterior: Idata, cases: Sequence[str]) -> Figure:
    """One sequence: its memory, the exact mean, and the networks of the first seed."""
    known, drawn = group(posterior, "constant_data"), group(posterior, "posterior")
    size = 9, 3 * len(cases)
    figure, axes = plt.subplots(len(cases), 1, figsize=size, sharex=True, layout="constrained")
    for axis, case in zip(axes, cases, strict=True):
        own = known.isel(heldout=0)
        step = own["step"].values
        samples = drawn[f"{case}_memory"].isel(sequence=0).stack(sample=("chain", "draw"))
        low, high = np.quantile(samples.transpose("step", "sample").values, (0.05, 0.95), axis=1)
        axis.fill_between(
            step, low, high, color="0.9", step="mid", label="90 % of draws given the whole sequence"
        )
        axis.plot(step, own[f"{case}_true_memory"], "k+", label="memory z")
        exact = own[f"{case}_exact_memory"]
        axis.plot(step, exact, color="black", lw=4, alpha=0.3, label="exact mean given the past")
        for kind, color in _COLORS.items():
            if f"{case}_{kind}_mean" in own:
                mean = own[f"{case}_{kind}_mean"]
                axis.plot(step, mean, ".-", color=color, lw=1, label=_words(kind))
        axis.set(ylabel="memory", title=_words(case))
        axis.legend(frameon=False, fontsize=7, ncols=2)
    axes[-1].set(xlabel="step", xticks=step[::2])
    return figure


def distances(figures: Figures, cases: Sequence[str]) -> Figure:
    """Squared distances from the exact mean, one dot a seed."""
    kinds: tuple[str, ...] = ("mean_without_reading", "untrained_lstm_of_one_unit")
    kinds += ("gates_at_their_prior_probabilities", "elman_of_one_unit")
    kinds += ("elman_with_as_many_weights", *_TARGETS)
    path = "squared_distance_from_exact_mean"
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    for place, kind in enumerate(kinds):
        for number, case in enumerate(cases):
            own = figures[case].get(kind)
            if own is None:
                continue
            at = place + 0.18 * (number - (len(cases) - 1) / 2)
            label = _words(case) if place == len(kinds) - 1 else None
            values = own.get(f"{path}_by_seed", [own[path]])
            axis.plot([at] * len(values), values, "o", color=f"C{number}", ms=4, label=label)
    names = [_words(kind) for kind in kinds]
    axis.set_xticks(range(len(kinds)), [textwrap.fill(name, 18) for name in names], fontsize=8)
    axis.set(yscale="log", ylabel="squared distance from the exact mean")
    written = [figures[case]["constructed"] for case in cases if "constructed" in figures[case]]
    errors = [each["largest_error"] for each in written]
    title = f"One dot a seed; constructed cells are at {max(errors) ** 2:.0e} or less"
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _words(name: str) -> str:
    return (
        name.replace("_", " ")
        .replace("lstm", "LSTM")
        .replace("elman", "Elman")
        .replace("elbo", "ELBO")
    )
