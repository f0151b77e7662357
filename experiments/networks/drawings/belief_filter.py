"""Drawings of the experiment `belief-filter`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ...parts.marks import legend_above

COLOURS = {"lstm": "tab:red", "gru": "tab:blue", "elman": "tab:green"}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The belief over a sequence; the distance of every method; where networks err."""
    return {
        "beliefs": _draw_beliefs(posterior),
        "distances": _draw_distances(posterior, figures),
        "update_errors": _draw_update_errors(posterior),
    }


def _title(posterior: Idata, case: str) -> str:
    known = group(posterior, "constant_data").sel(case=case)
    return f"ε = {float(known['switch_rate']):g}, μ = {float(known['signal']):g}"


def _draw_beliefs(posterior: Idata) -> Figure:
    """One sequence a case: exact filter, LSTM over it, and the trap."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(10, 2.1 * len(cases) + 0.5), sharex=True, squeeze=False
    )
    time = known["time"].values
    for name, axis in zip(cases, axes[:, 0], strict=True):
        here = known.sel(case=name)
        states = here["true_state"].transpose("sequence", "time").values
        switches = (np.diff(states, axis=1) != 0).sum(1)
        typical = float(here["switch_rate"]) * (len(time) - 1)
        chosen = int(np.argmin(np.abs(switches - typical)))
        here = here.isel(sequence=chosen)
        axis.stairs(
            np.where(states[chosen] > 0, 1.04, -0.04),
            np.append(time, time[-1] + 1) - 0.5,
            baseline=-0.04,
            fill=True,
            color="0.9",
            label="hidden state is +1",
        )
        axis.plot(time, here["exact_filter"], color="black", lw=4, alpha=0.35, label="exact filter")
        lines = {
            "lstm/belief_guide": ("tab:red", "-", "LSTM, BeliefGuide"),
            "lstm/plain_causal_forward": ("tab:blue", "--", "LSTM, causal forward guide"),
            "lstm/plain_causal_mean_field": ("tab:purple", ":", "LSTM, causal mean-field"),
        }
        for method, (colour, style, label) in lines.items():
            if method in known["approach"].values:
                belief = here["belief"].sel(approach=method)
                axis.plot(time, belief, style, color=colour, lw=1.2, label=label)
        axis.set(ylim=(-0.04, 1.04), xlim=(0.5, time[-1] + 0.5), ylabel="P(z = +1 | y so far)")
        axis.set_title(_title(posterior, name), loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("step")
    legend_above(figure, axes[0, 0], 5)
    return figure


_ROWS = {
    "belief_guide": "BeliefGuide",
    "belief_guide_forward_kl": "BeliefGuide, forward KL",
    "plain_causal_mean_field": "causal mean-field",
    "plain_causal_mean_field_from_filter": "causal mean-field, from the filter",
    "plain_causal_forward": "causal forward guide",
    "mean_field": "mean-field",
    "untrained_lstm": "BeliefGuide",
}


def _row(method: str) -> str:
    """A method's name beside its dots."""
    network, kind = method.split("/")
    *before, last = {"baselines": "untrained_lstm"}.get(network, network).split("_")
    return f"{' '.join([*before, _proper(last)])}: {_ROWS[kind]}"


def _draw_distances(posterior: Idata, figures: Figures) -> Figure:
    """Every fit a dot: KL to the filter and evidence gap, by method and case."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    names = [str(name) for name in known["approach"].values]
    place = np.arange(len(names))[::-1]
    note: dict[str, Any] = {"color": "0.5", "fontsize": 8, "ha": "center", "va": "center"}
    figure, axes = plt.subplots(
        2,
        len(cases),
        figsize=(3.6 * len(cases) + 2.5, 0.56 * len(names) + 1.8),
        sharey=True,
        sharex="row",
        squeeze=False,
    )
    panels = (
        ("kl_filter", "kl_filter_per_step", "affine_kl", "KL(filter ‖ belief), nats per step"),
        ("evidence_gap", "evidence_gap_per_step", "affine_gap", "evidence − ELBO, nats per step"),
    )
    for row, (field, reach, affine, label) in zip(axes, panels, strict=True):
        for case, axis in zip(cases, row, strict=True):
            here = known.sel(case=case)
            values = here[field].transpose("approach", "fit").values
            colours = ["tab:red" if "/belief_guide" in name else "0.35" for name in names]
            for height, dots, colour in zip(place, values, colours, strict=True):
                axis.plot(dots, np.full(dots.size, height), "o", color=colour, ms=5, alpha=0.55)
                if np.isnan(dots).all():
                    axis.text(
                        0.5, height, "sees the future", **note, transform=axis.get_yaxis_transform()
                    )
            axis.axvline(
                figures["reach"][reach]["bound"],
                color="black",
                ls="--",
                lw=1,
                label="to be reached",
            )
            axis.axvline(
                float(here[affine]), color="tab:blue", ls=":", lw=1.5, label="best affine recursion"
            )
            if field == "evidence_gap":
                free = [h for h, name in zip(place, names, strict=True) if "mean_field" in name]
                floor = np.full(len(free), float(here["mean_field_gap"]))
                axis.plot(floor, free, "k|", ms=11, label="best mean field, sequence by sequence")
            axis.set(xscale="log", xlabel=label)
            axis.set_yticks(place, [_row(name) for name in names])
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
            if field == "kl_filter":
                axis.set_title(_title(posterior, case), fontsize=10)
    legend_above(figure, axes[1, 0], 3)
    return figure


def _draw_update_errors(posterior: Idata) -> Figure:
    """The local update error over time, by surprise and after a switch."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    columns = (
        ("update_error_over_time", "time", "step"),
        ("update_error_by_surprise", "decile", "decile of surprise −log p(y now | y before)"),
        ("update_error_since_switch", "lag", "steps since the state changed"),
    )
    figure, axes = plt.subplots(
        len(cases),
        3,
        figsize=(11, 2.4 * len(cases) + 0.6),
        sharey="row",
        sharex="col",
        squeeze=False,
    )
    for case, row in zip(cases, axes, strict=True):
        here = known.sel(case=case)
        for axis, (field, dim, label) in zip(row, columns, strict=True):
            for network in (str(name) for name in known["network"].values):
                values = here[field].sel(network=network)
                style = {"marker": "" if dim == "time" else "o", "ms": 3, "lw": 1.2}
                axis.semilogy(
                    known[dim], values, color=COLOURS[network], label=_proper(network), **style
                )
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(color="0.92")
            if case == cases[-1]:
                axis.set_xlabel(label)
        row[0].set_ylabel("update error, nats")
        row[0].set_title(_title(posterior, case), loc="left", fontsize=10)
    legend_above(figure, axes[0, 0], 3)
    return figure


def _proper(network: str) -> str:
    return "Elman" if network == "elman" else network.upper()
