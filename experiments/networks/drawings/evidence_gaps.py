"""Drawings of the experiment `evidence-gaps`: the parts of every gap, the update error by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group

_COLOURS = {"family": "tab:purple", "causality": "tab:blue", "amortization": "tab:orange"}


def draw_parts(posterior: Idata, titles: Mapping[str, str], labels: Mapping[str, str]) -> Figure:
    """Stacked bars, family + causality + amortization, a panel a case and a bar an approach.

    ``titles`` of the cases, ``labels`` of the approaches; a case of one approach is left out.
    """
    known = group(posterior, "constant_data")
    every = known["parts"].transpose("case", "approach", "part", "fit").values
    present = np.isfinite(every).all((2, 3)).sum(1)
    cases = [case for case, count in zip(titles, present, strict=True) if count > 1]
    figure, axes = plt.subplots(2, 2, figsize=(13, 7.4), layout="constrained")
    for case, axis in zip(cases, axes.reshape(-1), strict=True):
        parts = known["parts"].sel(case=case).transpose("approach", "part", "fit")
        _draw_case(axis, parts, labels)
        axis.set_title(titles[case], fontsize=11)
        axis.set_xlabel("nats per step (± sd over fits; longer bars are cut)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    return figure


def _draw_case(axis: Axes, parts: Any, labels: Mapping[str, str]) -> None:
    shown = [str(name) for name in parts["approach"].values]
    shown = [name for name in shown if bool(np.isfinite(parts.sel(approach=name)).all())]
    # An untrained network is off the scale of everything else; its bar is cut.
    trained = [name for name in shown if "untrained" not in name]
    widest = max(float(parts.sel(approach=name).sum("part").mean()) for name in trained)
    for place, name in enumerate(shown):
        values = parts.sel(approach=name).values  # (part, fit)
        left = 0.0
        for part, mean in zip(_COLOURS, values.mean(1), strict=True):
            label = part if place == 0 else None
            axis.barh(-place, max(mean, 0), left=left, color=_COLOURS[part], label=label)
            left += max(mean, 0)
        total = values.sum(0)
        spread = total.std(ddof=1) if total.size > 1 else 0.0
        if left < 1.15 * widest:
            axis.errorbar(total.mean(), -place, xerr=spread, color="black", lw=1, capsize=2)
        note = "0" if abs(total.mean()) < 1e-9 else f"{total.mean():.2g}"
        cut = left + spread > 1.12 * widest
        at = 1.24 * widest if cut else left + spread + 0.015 * widest
        axis.text(at, -place, note, va="center", ha="right" if cut else "left", fontsize=8)
    axis.set_xlim(0, 1.25 * widest)
    axis.set_yticks([-p for p in range(len(shown))], [labels[name] for name in shown])
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)


def draw_updates(posterior: Idata, titles: Mapping[str, str]) -> Figure:
    """The update error of the LSTM in a BeliefGuide, over time and by event, a line a case."""
    known = group(posterior, "constant_data")
    columns = (
        ("over_time", "step"),
        ("by_surprise", "decile of surprise −log p(y now | y before)"),
        ("since_switch", "steps since the state changed"),
        ("by_missing", "observation"),
    )
    figure, axes = plt.subplots(1, 4, figsize=(14, 4), sharey=True, layout="constrained")
    for axis, (name, label) in zip(axes, columns, strict=True):
        for number, case in enumerate(titles):
            mean = known[name].sel(case=case).values
            error = known[f"{name}_error"].sel(case=case).values
            place = np.arange(len(mean)) + (0 if name == "since_switch" else 1)
            if not np.isfinite(mean).any():
                continue
            style = {"fmt": "o-", "ms": 3, "lw": 1, "capsize": 2, "color": f"C{number}"}
            axis.errorbar(place, mean, yerr=error, label=titles[case], **style)
        axis.set(yscale="log", xlabel=label)
        axis.grid(color="0.92")
    lags = known["since_switch"].shape[-1] - 2
    axes[2].set_xticks(range(lags + 2), [*range(lags), f"≥ {lags}", "none"], fontsize=8)
    axes[3].set_xticks([1, 3], ["seen", "missing"])  # steps of one number are never seen in part
    axes[3].set_xlim(0.5, 3.5)
    axes[0].set_ylabel("update error, nats")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle("Update errors of the LSTM in a BeliefGuide")
    return figure
