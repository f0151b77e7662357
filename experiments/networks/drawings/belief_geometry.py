"""Figures of the experiment belief-geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ..parts.labelled_processes import PROCESSES

_LEAST = 1e-6
"""Nats that are drawn as nothing."""


_ROWS = {
    "lstm_h_and_c": "LSTM, h and c",
    "lstm_h": "LSTM, h",
    "lstm_c": "LSTM, c",
    "untrained_lstm_h_and_c": "untrained LSTM, h and c",
    "scaled_reservoir_h_and_c": "the same, weights scaled up",
    "last_4_inputs": "last 4 symbols",
    "last_2_inputs": "last 2 symbols",
    "last_1_input": "last symbol",
    "next_symbol_probabilities": "exact next-symbol probabilities",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The fractal of Mess3, the beliefs of RRXOR, what holds how much of them, the training."""
    known = group(posterior, "constant_data")
    return {
        "fractal": _draw_fractal(known, figures),
        "rrxor": _draw_rrxor(known, figures),
        "read_outs": _draw_readouts(figures),
        "training": _draw_training(known, figures),
    }


def _titles(figures: Figures) -> dict[str, str]:
    """Of the panels of one process, by what is shown in them."""
    rows = figures["read_outs"]
    return {
        "exact": "exact belief",
        "lstm": f"read off the LSTM, R² = {rows['lstm_h_and_c']['r_squared']:.4f}",
        "untrained": "read off an untrained LSTM, "
        f"R² = {rows['untrained_lstm_h_and_c']['r_squared']:.4f}",
    }


def _draw_fractal(known: Any, figures: Figures) -> Figure:
    """Beliefs in the triangle; the colour of a point is its exact belief, in all three panels."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    exact = known["mess3_exact_beliefs"].values
    titles = _titles(figures["mess3"])
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    color = exact.clip(0, 1) ** 0.6  # brighter in the middle
    for (kind, title), axis in zip(titles.items(), axes, strict=True):
        place = known[f"mess3_{kind}_beliefs"].values @ corners
        axis.scatter(place[:, 0], place[:, 1], c=color, s=1.5, lw=0, rasterized=True)
        axis.plot(*corners[[0, 1, 2, 0]].T, color="0.6", lw=0.7)
        for corner, name, shift in zip(corners, "ABC", (-1, -1, 1), strict=True):
            axis.annotate(
                f"state {name}",
                corner,
                (0, 10 * shift),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
            )
        axis.set(title=title, aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.12, 1.0))
        axis.axis("off")
    figure.suptitle("Mess3: the belief after every word of up to eight symbols")
    return figure


def _draw_rrxor(known: Any, figures: Figures) -> Figure:
    """Beliefs over five states in the plane of the exact ones' first two principal components."""
    exact = known["random_random_xor_exact_beliefs"].values
    mean = exact.mean(0)
    axes_of = np.linalg.svd(exact - mean, full_matrices=False)[2][:2].T
    titles = _titles(figures["random_random_xor"])
    color = np.stack([exact[:, 0], exact[:, 1] + exact[:, 2], exact[:, 3] + exact[:, 4]], 1)
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    for (kind, title), axis in zip(titles.items(), axes, strict=True):
        place = (known[f"random_random_xor_{kind}_beliefs"].values - mean) @ axes_of
        size = 14 if kind == "exact" else 3
        axis.scatter(place[:, 0], place[:, 1], c=color.clip(0, 1), s=size, lw=0, rasterized=True)
        axis.set(title=title, xlabel="first principal component of the exact beliefs")
    axes[0].set_ylabel("second principal component")
    figure.suptitle(
        "RRXOR: the belief after every word of up to eleven symbols (exactly: red S, green 0 or 1, "
        "blue F or T)"
    )
    return figure


def _draw_readouts(figures: Figures) -> Figure:
    figure, axes = plt.subplots(2, len(PROCESSES), figsize=(14, 6.4), layout="constrained")
    place = np.arange(len(_ROWS))
    for column, (name, process) in enumerate(PROCESSES.items()):
        rows = figures[name]["read_outs"]
        for axis, figure_name in zip(axes[:, column], ("r_squared", "decoder_kl"), strict=True):
            value = np.array([rows[row][figure_name] for row in _ROWS])
            ends = np.array([rows[row][f"{figure_name}_interval"] for row in _ROWS])
            if figure_name == "decoder_kl":
                value, ends = np.maximum(value, _LEAST), np.maximum(ends, _LEAST)
            spread = np.abs(ends - value[:, None]).T
            shade = ["tab:red"] * 3 + ["tab:grey"] * (len(_ROWS) - 3)
            if not (value > _LEAST).any() and figure_name == "decoder_kl":
                axis.text(0.5, 0.5, "all below 10⁻⁶", transform=axis.transAxes, ha="center")
            axis.barh(place, value, color=shade, xerr=spread, error_kw={"lw": 0.8})
            bound = figures["reach"].get(f"{name}.read_outs.lstm_h_and_c.{figure_name}")
            if bound is not None:
                axis.axvline(bound, color="black", ls="--", lw=1, label=f"reach {bound:g}")
                axis.legend(frameon=False, loc="lower center", fontsize=8)
            axis.set_yticks(place, list(_ROWS.values()) if column == 0 else [])
            axis.invert_yaxis()
        axes[0, column].set(title=process.title, xlim=(0, 1.05), xlabel="R² of the belief")
        axes[1, column].set(xscale="log", xlim=(_LEAST, 2), xlabel="decoder KL, nats per symbol")
    figure.suptitle("How much of the exact belief a linear read-out finds (95 % over seeds)")
    return figure


def _draw_training(known: Any, figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (name, process) in enumerate(PROCESSES.items()):
        curves = known[f"{name}_curve"].values
        for seed, (step, above) in enumerate(curves):
            label = None
            if seed == 0:
                rate = figures[name]["loss_floor_on_the_same_sequences"]
                label = f"{process.title} (floor {rate:.4f})"
            axis.plot(step, np.maximum(above, 1e-6), color=f"C{number}", lw=0.9, label=label)
    axis.axhline(0.002, color="black", ls="--", lw=1, label="reach: .002")
    axis.set(
        yscale="log",
        xlabel="gradient step",
        ylabel="loss − exact floor, nats per symbol",
        title="Next-symbol loss on held-out sequences",
    )
    axis.legend(frameon=False)
    return figure
