"""Drawings of the experiment `earthquakes`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ...parts.marks import QUANTILES, name_rows, quantile_row


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The series and its states, the rates, the comparison of models, the predictive check."""
    return {
        "series": _draw_series(posterior, figures),
        "rates": _draw_rates(posterior, figures),
        "comparison": _draw_comparison(figures),
        "predictive_check": _draw_check(posterior, figures),
    }


def _draw_series(posterior: Idata, figures: Figures) -> Figure:
    counts = group(posterior, "observed_data")["obs"].isel(sequence=0).squeeze()
    years = group(posterior, "constant_data")["times"].isel(sequence=0).values
    rate = group(posterior, "posterior")["rate"].mean(("chain", "draw")).values
    path = np.asarray(figures["decoded"]["most_likely_path"])
    smoothed = group(posterior, "posterior_states")["smoothed_probability"].isel(sequence=0)
    states = smoothed.transpose("state", "time").values
    shades = _shades(len(states))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=(2, 1))
    top.step(years, rate[path], where="mid", color="black", lw=1.2, label="rate, most likely path")
    top.plot(years, counts.values, color="lightgrey", lw=0.8, zorder=0)
    for state, shade in enumerate(shades):
        here = path == state
        top.plot(years[here], counts.values[here], "o", color=shade, ms=4)
    top.set(ylabel="earthquakes a year", title="World earthquakes of magnitude 7 and more")
    top.legend(loc="upper right", frameon=False)
    names = [f"rate {value:.1f}" for value in rate]
    bottom.stackplot(years, states, colors=shades, labels=names, step="mid")
    bottom.set(
        ylim=(0, 1), xlabel="year", ylabel="p(state | all years)", xlim=(years[0], years[-1])
    )
    bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _shades(states: int) -> Any:
    return plt.get_cmap("viridis")(np.linspace(0.1, 0.85, states))


def _draw_rates(posterior: Idata, figures: Figures) -> Figure:
    """Densities by NUTS; under them median, 50 % and 90 % interval of NUTS and of every guide."""
    drawn = group(posterior, "posterior")["rate"].stack(sample=("chain", "draw"))
    rates = drawn.transpose("state", "sample").values
    shades = _shades(len(rates))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 2))
    bins = np.linspace(rates.min(), rates.max(), 90)
    for shade, one in zip(shades, rates, strict=True):
        label = f"state of rate {one.mean():.1f}"
        top.hist(one, bins=bins, density=True, color=shade, alpha=0.8, label=label)
    top.legend(frameon=False)
    top.set(ylabel="density (NUTS)", yticks=[], title="Posterior of the rates")
    rows = {"NUTS": np.quantile(rates, QUANTILES, axis=1)}
    labels = {
        "multivariate_normal_exact_filter": "multivariate normal",
        "independent_normal_exact_filter": "independent normals",
        "multivariate_normal_lstm": "multivariate normal, LSTM",
    }
    for name, label in labels.items():
        rows[label] = np.asarray(figures["variational"][name]["rate_quantiles"])
    for place, quantiles in enumerate(rows.values()):
        for shade, one in zip(shades, quantiles.T, strict=True):
            quantile_row(bottom, place, one, shade)
    name_rows(bottom, list(rows))
    bottom.set(xlabel="earthquakes a year (median, 50 % and 90 % interval)")
    return figure


def _draw_comparison(figures: Figures) -> Figure:
    table = figures["maximum_likelihood"]["stationary_start"]
    names = list(table)
    states = [int(name.removeprefix("states")) for name in names]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for key, color in (("aic", "tab:blue"), ("bic", "tab:orange")):
        ours = [table[name][key] for name in names]
        theirs = [table[name][f"{key}_published"] for name in names]
        left.plot(states, ours, "o-", color=color, label=key.upper())
        left.plot(states, theirs, "x", color="black", ms=9, label=None)
    left.plot([], [], "x", color="black", ms=9, label="published")
    left.set(xlabel="states", ylabel="criterion (small is good)", xticks=states)
    left.set_title("Maximum likelihood, stationary start")
    left.legend(frameon=False)
    compared = figures["model_comparison"]
    rows = [compared[name] for name in names]
    elpd = [row["elpd"] for row in rows]
    spread = [row["se_difference"] for row in rows]
    label = "left out (bar: se of the\ndifference to the best)"
    right.errorbar(states, elpd, spread, fmt="o-", color="tab:green", capsize=3, label=label)
    within = [row["elpd"] + row["p"] for row in rows]
    right.plot(states, within, "o-", color="lightgrey", label="in sample", zorder=0)
    right.set(xlabel="states", ylabel="elpd, nats (large is good)", xticks=states)
    right.set_title("Full Bayes, one step ahead")
    right.legend(frameon=False)
    return figure


def _draw_check(posterior: Idata, figures: Figures) -> Figure:
    """Statistics of replicated series, from the saved replications, and of the data."""
    replicas = group(posterior, "posterior_predictive")["obs"].isel(sequence=0)
    series = replicas.stack(sample=("chain", "draw")).transpose("sample", "time", ...).values
    series = series.reshape(series.shape[:2])
    deviation = series - series.mean(1, keepdims=True)
    variance = deviation.var(1)
    statistics = {
        "mean": series.mean(1),
        "variance": variance,
        "lag-1 autocorrelation": (deviation[:, 1:] * deviation[:, :-1]).mean(1) / variance,
    }
    checked = figures["predictive_check"]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8))
    for axis, (name, values) in zip(axes, statistics.items(), strict=True):
        (row,) = [row for full, row in checked.items() if full.startswith(name)]
        axis.hist(values, bins=20, color="lightgrey")
        axis.axvline(row["observed"], color="tab:red")
        axis.set(xlabel=name, yticks=[], title=f"tail {row['tail']:.2f}")
    figure.suptitle("Replicated series (grey) and the data (red)")
    return figure
