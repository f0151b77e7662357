"""Drawings of `related-architectures`, from what its posterior.nc holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..inference.arviz_groups import Idata, group

TITLES = {
    "symbols": "HMM of symbols",
    "harmonium": "harmonium over time (3 nodes)",
    "linear_gaussian": "linear-Gaussian model",
    "input_output": "input-output HMM",
}

SMALLEST = 1e-7
"""Nats: what is smaller, rounding, is drawn here."""

_TRAINED = {"color": "tab:red", "label": "trained by the bound"}
_WRITTEN = {"color": "tab:blue", "label": "written from the parameters"}
_MOMENTS = {"color": "tab:green", "label": "estimated from moments"}
_BASELINE = {"color": "0.55", "label": "baseline"}


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Regret of every architecture; KL against the number of weights; the spectral error."""
    known = group(posterior, "constant_data")
    return {
        "regret": _draw_rows(known, "regret", "regret of one-step predictions, nats per step"),
        "distances": _draw_rows(known, "kl_filter", "KL(exact filter ‖ belief), nats per step"),
        "sizes": _draw_sizes(known),
        "spectral_error": _draw_spectral(known, figures),
    }


def _style(name: str, seeds: Any) -> dict[str, str]:
    if name == "spectral":
        return _MOMENTS
    if name.startswith(("stationary", "window")):
        return _BASELINE
    same = len(set(np.round(seeds, 14))) == 1
    return _WRITTEN if same else _TRAINED


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
        names = [str(name) for name in here["architecture"].values[order]]
        for place, (name, seeds) in enumerate(zip(names, values[order], strict=True)):
            style = _style(name, seeds)
            shown = np.maximum(seeds, SMALLEST)
            (dots,) = axis.plot(shown, np.full(len(seeds), place), "o", ms=5, alpha=0.6, **style)
            labels[style["label"]] = dots
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xscale("log")
        axis.set_title(TITLES[case], loc="left", fontsize=10)
        axis.grid(axis="x", color="0.9")
    axes[-1].set_xlabel(f"{label} (below {SMALLEST:g} drawn there)")
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_sizes(known: Any) -> Figure:
    """KL against the number of weights, means over fits."""
    figure, axes = plt.subplots(
        1, len(TITLES), figsize=(14, 3.6), sharey=True, layout="constrained"
    )
    processes = known["process"].values
    for case, axis in zip(TITLES, axes, strict=True):
        here = known.isel(row=np.flatnonzero(processes == case))
        for name, size, kl in zip(
            here["architecture"].values,
            here["parameters"].values.mean(1),
            here["kl_filter"].values,
            strict=True,
        ):
            if not size > 0:
                continue
            style = _style(str(name), kl)
            axis.loglog(size, max(kl.mean(), SMALLEST), "o", color=style["color"])
            text = str(name).replace("_", " ")
            axis.annotate(text, (size, max(kl.mean(), SMALLEST)), fontsize=7, rotation=25)
        axis.set(title=TITLES[case], xlabel="weights")
        axis.margins(x=0.35, y=0.15)
    axes[0].set_ylabel("KL(exact filter ‖ belief), nats per step")
    return figure


def _draw_spectral(known: Any, figures: Mapping[str, Any]) -> Figure:
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
    axis.set(xlabel="samples n", ylabel="sum of absolute errors")
    axis.legend(frameon=False, fontsize=8)
    return figure
