"""Drawings of the experiment `kalman-filter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ...parts.marks import legend_above
from ..parts.linear_cases import Case


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The belief over a sequence; the distance of every method; variances and weights."""
    known = group(posterior, "constant_data")
    cases = [case for case in get_args(Case) if f"{case}_kalman_mean" in known]
    drawn = {
        "beliefs": _draw_beliefs(posterior, cases),
        "distances": _draw_distances(known, cases, figures["reach"]),
    }
    return {**drawn, "inside": _draw_inside(known, cases)}


_TITLES = {"scalar": "random walk with drift", "rotation": "rotation, elements missing"}


def _draw_beliefs(posterior: Idata, cases: Sequence[str]) -> Figure:
    """One sequence a case, the first component: Kalman's belief, and the LSTM's over it."""
    known = group(posterior, "constant_data")
    seen = group(posterior, "observed_data")
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(10, 3.2 * len(cases) + 0.5), squeeze=False, layout="constrained"
    )
    for case, axis in zip(cases, axes[:, 0], strict=True):
        here = known.isel({"sequence": 0, f"{case}_component": 0})
        time = known[f"{case}_time"].values
        mean, sd = here[f"{case}_kalman_mean"].values, here[f"{case}_kalman_sd"].values
        axis.fill_between(time, mean - 2 * sd, mean + 2 * sd, color="0.85", label="Kalman, ± 2 sd")
        axis.plot(time, mean, color="black", lw=4, alpha=0.35, label="Kalman, mean")
        ours, own = here[f"{case}_belief_mean"].values, here[f"{case}_belief_sd"].values
        axis.plot(time, ours, color="tab:red", lw=1.2, label="LSTM, mean")
        for sign in (-2, 2):
            label = "LSTM, ± 2 sd" if sign > 0 else None
            axis.plot(time, ours + sign * own, ":", color="tab:red", lw=1.2, label=label)
        axis.plot(time, here[f"{case}_true_state"], ".", color="tab:blue", label="true state")
        nothing = np.isnan(seen[f"{case}_y"].isel(sequence=0).values).all(-1)
        for step in time[nothing]:
            axis.axvspan(step - 0.5, step + 0.5, color="tab:orange", alpha=0.15, lw=0)
        axis.set(ylabel="first component", xlim=(time[0] - 0.5, time[-1] + 0.5))
        axis.set_title(_TITLES[case], loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("step (shaded: nothing observed)")
    legend_above(figure, axes[0, 0], 5)
    return figure


def _draw_distances(known: Any, cases: Sequence[str], reach: Figures) -> Figure:
    """Every fit a dot: evidence gap, error of the mean, error of the variance."""
    names = [str(name) for name in known["approach"].values]
    place = np.arange(len(names))[::-1]
    panels = (
        ("evidence_gap", "evidence − ELBO, nats per step", reach["evidence_gap_per_step"]["bound"]),
        ("rmse_times_exact", "error of the mean − 1, in exact errors", 0.01),
        ("variance_error", "mean relative error of the variance", reach["variance_error"]["bound"]),
    )
    figure, axes = plt.subplots(
        len(cases),
        len(panels),
        figsize=(12, (0.3 * len(names) + 1.4) * len(cases)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for case, row in zip(cases, axes, strict=True):
        for (field, label, most), axis in zip(panels, row, strict=True):
            values = known[f"{case}_{field}"].transpose("approach", "fit").values
            if field == "rmse_times_exact":
                values = np.maximum(values - 1, 1e-6)
            for height, dots, name in zip(place, values, names, strict=True):
                colour = "tab:red" if name.endswith("/belief_guide") else "0.35"
                axis.plot(dots, np.full(dots.size, height), "o", color=colour, ms=5, alpha=0.55)
            axis.axvline(most, color="black", ls="--", lw=1, label="to be reached")
            if field == "evidence_gap":
                _draw_floors(axis, known, case)
            axis.set(xscale="log")
            axis.set_yticks(place, [name.replace("_", " ").replace("/", ": ") for name in names])
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
            if case == cases[-1]:
                axis.set_xlabel(label)
        row[0].set_title(_TITLES[case], loc="left", fontsize=10)
    legend_above(figure, axes[0, 0], 3)
    return figure


def _draw_floors(axis: Axes, known: Any, case: str) -> None:
    for field, label, colour in (
        ("fixed_gain_gap", "filter with a fixed gain", "tab:blue"),
        ("mean_field_gap", "best mean field", "tab:purple"),
    ):
        axis.axvline(float(known[f"{case}_{field}"]), color=colour, ls=":", lw=1.5, label=label)


def _draw_inside(known: Any, cases: Sequence[str]) -> Figure:
    """Variance over time beside Kalman's; weight of past observations in the belief."""
    panels = [*cases, *(["weights"] if "scalar" in cases else [])]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False, layout="constrained"
    )
    for panel, axis in zip(panels, axes[0], strict=True):
        if panel == "weights":
            delay = known["delay"].values
            kalman = known["scalar_weights_of_the_past_kalman"]
            axis.plot(delay, kalman, color="black", lw=4, alpha=0.35, label="Kalman, K (1 − KC)^s")
            ours = known["scalar_weights_of_the_past"]
            axis.plot(delay, ours, "o-", color="tab:red", ms=4, lw=1, label="LSTM")
            axis.set(xlabel="steps ago", ylabel="weight of an observation")
            axis.set_title("weight of the past, scalar state", loc="left", fontsize=10)
            axis.legend(frameon=False)
            continue
        ratio = known[f"{panel}_variance_ratio"].transpose("lstm_fit", f"{panel}_time")
        lines = axis.plot(known[f"{panel}_time"], ratio.values.T, color="tab:red", lw=1)
        lines[0].set_label("LSTM, a line a fit")
        axis.axhspan(0.98, 1.02, color="0.9", label="within 2 %")
        axis.axhline(1, color="black", lw=1, label="Kalman")
        axis.set(xlabel="step", ylabel="variance / Kalman's")
        axis.legend(frameon=False, fontsize=8)
        axis.set_title(_TITLES[panel], loc="left", fontsize=10)
    return figure
