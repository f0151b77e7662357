"""Drawings of `belief-or-bit`, from what its posterior.nc holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

LABELS = {
    "deterministic_unit": "one unit, deterministic",
    "sampled_bit": "one unit, sampled bit (forward KL)",
    "sampled_bit_by_its_bound": "one unit, sampled bit (its bound)",
    "lstm": "LSTM, near m = 0",
    "untrained_lstm": "untrained LSTM",
}

CONTROLS = {
    "recursion_with_the_slope_of_the_bit": "recursion with the bit's slope, near m = 0",
    "exact_filter": "exact filter, near m = 0",
}
"""What is put through the LSTM's reading to see what it would say."""


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The slopes between their two readings; beliefs on previous beliefs; distances."""
    known = group(posterior, "constant_data")
    return {
        "slopes": _draw_slopes(known),
        "belief_maps": _draw_maps(known),
        "distances": _draw_distances(known),
    }


def _panels(known: Any, height: float) -> tuple[Figure, Any]:
    cases = known["case"].values
    width = 3.3 * len(cases) + 2.4
    figure, axes = plt.subplots(
        1, len(cases), figsize=(width, height), sharey=True, squeeze=False, layout="constrained"
    )
    for case, axis in zip(cases, axes[0], strict=True):
        here = known.sel(case=case)
        axis.set_title(f"ε = {float(here['switch_rate']):g}, μ = {float(here['signal']):g}")
    return figure, axes[0]


def _draw_slopes(known: Any) -> Figure:
    figure, axes = _panels(known, 3.8)
    shown = [name for name in LABELS if name != "untrained_lstm"]
    for case, axis in zip(known["case"].values, axes, strict=True):
        here = known.sel(case=case)
        belief, bit = float(here["slope_of_a_belief"]), float(here["slope_of_a_bit"])
        axis.axvline(belief, color="tab:blue", label="belief: 1 − 2ε")
        axis.axvline(bit, color="tab:red", label="bit: artanh(1 − 2ε)")
        axis.axvline(
            float(here["affine_slope"]), color="0.4", ls=":", label="best affine recursion"
        )
        for place, name in enumerate(reversed(shown)):
            dots = here["slope"].sel(network=name).values
            label = None if place else "network, a dot a seed"
            axis.plot(dots, np.full(dots.size, place), "ko", ms=5, alpha=0.5, label=label)
        for place, name in enumerate(CONTROLS, len(shown)):
            label = "control" if place == len(shown) else None
            axis.plot(float(here[f"slope_{name}"]), place, "D", color="0.5", ms=5, label=label)
        rows = [*(LABELS[name] for name in reversed(shown)), *CONTROLS.values()]
        axis.set_yticks(range(len(rows)), rows)
        axis.set(xlabel="½ logit per unit of m", ylim=(-0.6, len(rows) - 0.4))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Slope at which a network feeds back")
    return figure


def _draw_maps(known: Any) -> Figure:
    figure, axes = _panels(known, 3.8)
    m = known["belief_before"].values
    fine = np.linspace(-1, 1, 400)
    lines = {
        "lstm": ("tab:green", "o", "LSTM"),
        "deterministic_unit": ("tab:orange", "s", "one unit, deterministic"),
        "untrained_lstm": ("0.6", "x", "untrained LSTM"),
    }
    for case, axis in zip(known["case"].values, axes, strict=True):
        here = known.sel(case=case)
        belief, bit = float(here["slope_of_a_belief"]), float(here["slope_of_a_bit"])
        exact = np.arctanh(belief * fine)
        axis.plot(fine, exact, color="black", lw=4, alpha=0.3, label="exact filter")
        axis.plot(fine, belief * fine, color="tab:blue", lw=1, label="slope of a belief")
        axis.plot(fine, bit * fine, color="tab:red", lw=1, label="slope of a bit")
        for name, (color, mark, label) in lines.items():
            axis.plot(m, here["added"].sel(curve=name), mark, color=color, ms=3.5, label=label)
        axis.set(xlabel="previous belief m = P(+1) − P(−1)", xlim=(-1, 1))
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    top = float(known["slope_of_a_bit"].max())
    axes[0].set(ylabel="added to μ y, in ½ logit", ylim=(-1.15 * top, 1.15 * top))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("What the belief before adds to the belief after")
    return figure


def _draw_distances(known: Any) -> Figure:
    figure, axes = _panels(known, 3.4)
    shown = list(LABELS)
    for case, axis in zip(known["case"].values, axes, strict=True):
        here = known.sel(case=case)
        best = float(here["affine_kl"])
        axis.axvline(best, color="0.4", ls=":", label="best affine recursion")
        axis.axvline(
            float(here["kl_to_reach"]),
            color="black",
            ls="--",
            label="a quarter, for the LSTM to reach",
        )
        for place, name in enumerate(reversed(shown)):
            dots = here["kl_filter"].sel(network=name).values
            color = "tab:green" if name == "lstm" else "0.35"
            label = None if place else "network, a dot a seed (green: LSTM)"
            axis.plot(
                dots, np.full(dots.size, place), "o", color=color, ms=5, alpha=0.6, label=label
            )
        names = [LABELS[name].split(", near")[0] for name in reversed(shown)]
        axis.set_yticks(range(len(shown)), names)
        axis.set(xscale="log", xlabel="KL(filter ‖ belief), nats per step")
        axis.grid(axis="x", color="0.9")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Distance from the exact filter")
    return figure
