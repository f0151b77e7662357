"""Drawings of `related-architectures`, from what its posterior.nc holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

TITLES = {
    "symbols": "HMM of symbols",
    "harmonium": "harmonium over time (3 nodes)",
    "linear_gaussian": "linear-Gaussian model",
    "input_output": "input-output HMM",
}

SMALLEST = 1e-7
"""Nats: what is smaller, rounding, is drawn here."""

COLORS = {
    "trained by the bound": "tab:red",
    "estimated from moments": "tab:green",
    "written from the parameters": "tab:blue",
    "baseline": "0.55",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Regret and KL of every architecture; the spectral error."""
    known = group(posterior, "constant_data")
    return {
        "regret": _draw_rows(known, "regret", "regret of one-step predictions, nats per step"),
        "distances": _draw_rows(known, "kl_filter", "KL(exact filter ‖ belief), nats per step"),
        "spectral_error": _draw_spectral(known, figures),
    }


def _title(name: str, weights: float) -> str:
    """An architecture beside its dots, with the number of its weights."""
    words = name.replace("_", " ")
    for short in ("lstm", "gru"):
        words = words.replace(short, short.upper())
    for proper in ("bayesian", "elman", "markov"):
        words = words.replace(proper, proper.capitalize())
    return f"{words} ({weights:.0f})" if weights > 0 else words


def _draw_rows(known: Any, field: str, label: str) -> Figure:
    cases = list(TITLES)
    processes = known["process"].values
    counts = [int((processes == case).sum()) for case in cases]
    figure, axes = plt.subplots(
        len(cases),
        1,
        figsize=(8.5, 0.27 * sum(counts) + 2.6),
        sharex=True,
        height_ratios=counts,
        layout="constrained",
    )
    labels: dict[str, Any] = {}
    for case, axis in zip(cases, axes, strict=True):
        here = known.isel(row=np.flatnonzero(processes == case))
        values = here[field].values
        order = np.argsort(-np.nan_to_num(values).mean(1))
        weights = np.nan_to_num(here["parameters"].values[order]).mean(1)
        for place, row in enumerate(order):
            origin, seeds = str(here["origin"].values[row]), np.maximum(values[row], SMALLEST)
            (dots,) = axis.plot(
                seeds, np.full(len(seeds), place), "o", ms=5, alpha=0.6, color=COLORS[origin]
            )
            labels[origin] = dots
        names = here["architecture"].values[order]
        titles = [_title(str(x), size) for x, size in zip(names, weights, strict=True)]
        axis.set_yticks(range(len(titles)), titles, fontsize=8)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xscale("log")
        axis.set_title(f"{TITLES[case]} (weights in brackets)", loc="left", fontsize=10)
        axis.grid(axis="x", color="0.9")
    axes[-1].set_xlabel(f"{label} (below {SMALLEST:g} drawn there)")
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_spectral(known: Any, figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    sizes = known["size"].values
    names = {
        "joint": ("tab:green", "spectral: probability of four symbols"),
        "next_symbol": ("tab:blue", "spectral: fourth symbol given three"),
        "counting": ("0.5", "counting sequences of four symbols"),
    }
    for kind, (color, label) in names.items():
        errors = known["spectral_error"].sel(error_of=kind).values
        slope = figures["spectral_error"][kind]["slope"]
        axis.loglog(sizes, errors, ".", color=color, alpha=0.6)
        axis.loglog(sizes, errors.mean(1), color=color, lw=1, label=f"{label} (slope {slope:.3f})")
    first = float(known["spectral_error"].sel(error_of="joint").values[0].mean())
    axis.loglog(sizes, first * (sizes / sizes[0]) ** -0.5, "k:", lw=1, label="n^(−1/2)")
    axis.set(xlabel="samples n", ylabel="sum of absolute errors", title="Errors fall as n^(−1/2)")
    axis.legend(frameon=False, fontsize=8)
    return figure
