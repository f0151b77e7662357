"""Drawing of `own-models`, from what its posterior.nc holds and its baselines."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_TITLES = {"random_random_xor": "RRXOR", "slow_chain": "chain of ε = .02"}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Regret of every architecture, and of the exact filter of its model."""
    runs = group(posterior, "runs")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True, layout="constrained")
    names = [str(name) for name in runs["architecture"].values]
    for axis, case in zip(axes, _TITLES, strict=True):
        own = runs.sel(process=case)
        for place, name in enumerate(names):
            for key, color, mark, label in (
                ("regret_per_step", "tab:red", "o", "own belief, own model"),
                ("regret_of_the_exact_filter_of_its_model", "tab:blue", "|", "exact filter of it"),
            ):
                values = own[key].sel(architecture=name).values
                axis.plot(
                    np.maximum(values, 1e-7),
                    [place] * len(values),
                    mark,
                    color=color,
                    ms=6,
                    alpha=0.7,
                    label=None if place else label,
                )
        for number, (name, one) in enumerate(
            (name, one)
            for name, one in figures[case].items()
            if name.startswith(("window", "no_memory"))
        ):
            label = name.replace("_", " ")
            axis.axvline(one["regret_per_step"], color=f"C{number + 4}", ls=":", label=label)
        axis.set(xscale="log", xlabel="regret, nats per step", title=_TITLES[case])
        axis.set_yticks(range(len(names)), [_words(name) for name in names])
        axis.grid(axis="x", color="0.9")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle("Each architecture with the model that it learned", fontsize=11)
    return {"regret": figure}


def _words(name: str) -> str:
    words = name.replace("_", " ")
    for short in ("lstm", "gru"):
        words = words.replace(short, short.upper())
    for proper in ("bayesian", "elman", "markov"):
        words = words.replace(proper, proper.capitalize())
    return words
