"""Drawings of the experiment `co2-gaps`."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ...parts.marks import forecast_bands, name_rows, normal_band


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Components and gaps, the forecast of the last two years, coverage by horizon, parameters."""
    return {
        "components": _draw_components(figures),
        "forecast": _draw_forecast(figures),
        "coverage": _draw_coverage(figures),
        "parameters": _draw_parameters(posterior),
    }


def _draw_components(figures: Figures) -> Figure:
    series = figures["series"]
    years, values = np.asarray(series["year"]), np.asarray(series["values"])
    missing = np.asarray(series["missing"], dtype=int)
    values[missing] = np.nan
    parts, end = series["components"], len(series["filled"])
    figure, axes = plt.subplots(len(parts) + 1, 1, figsize=(9, 2 + 1.6 * len(parts)), sharex=True)
    axes[0].plot(years, values, "k-", lw=0.6, label="seen")
    filled = missing[missing < end]
    axes[0].plot(
        years[filled],
        np.asarray(series["filled"])[filled],
        ".",
        color="tab:red",
        ms=3,
        label="missing, filled in",
    )
    axes[0].set(ylabel="ppm", title="Weekly CO2 and its components (band: 90 %)")
    axes[0].legend(frameon=False)
    for axis, (name, mean) in zip(axes[1:], parts.items(), strict=True):
        sd = series["components_sd"][name]
        normal_band(axis, years[:end], mean, sd, "tab:blue", alpha=0.3)
        axis.plot(years[:end], mean, color="tab:blue", lw=0.7)
        axis.set(ylabel=name)
    axes[-1].set(xlabel="year", xlim=(years[0], years[-1]))
    return figure


def _draw_forecast(figures: Figures) -> Figure:
    series = figures["series"]
    years, values = np.asarray(series["year"]), np.asarray(series["values"])
    values[np.asarray(series["missing"], dtype=int)] = np.nan
    weeks = len(series["forecast"])
    shown, ahead = slice(max(0, len(years) - 2 * weeks), None), slice(len(years) - weeks, None)
    figure, axis = plt.subplots(figsize=(9, 3.6))
    forecast_bands(axis, years[ahead], series["forecast_quantiles"])
    axis.plot(
        years[ahead], series["forecast"], color="tab:orange", lw=1, label="forecast, 50 and 90 %"
    )
    axis.plot(years[shown], values[shown], "k.", ms=3, label="seen")
    axis.set(xlabel="year", ylabel="ppm", title="Forecast of the years held out")
    axis.legend(frameon=False)
    return figure


def _draw_coverage(figures: Figures) -> Figure:
    rows = figures["all_origins"]
    horizons = [int(name.removesuffix("_weeks")) for name in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    first, *_ = levels = list(next(iter(rows.values()))["model"]["coverage"])
    for key in levels:
        for who, color, marker in (("model", "tab:orange", "o"), ("seasonal_naive", "grey", "s")):
            points = [row[who]["coverage"][key] for row in rows.values()]
            label = who.replace("_", " ") if key == first else None
            left.plot(horizons, points, f"{marker}-", color=color, label=label)
        nominal = "nominal" if key == first else None
        left.axhline(float(key), color="black", lw=0.7, ls=":", label=nominal)
    left.set(xscale="log", xlabel="weeks ahead", ylabel="coverage, %", ylim=(0, 102))
    left.legend(frameon=False)
    for who, color in (("model", "tab:orange"), ("seasonal_naive", "grey")):
        error = [row[who]["root_mean_square_error"] for row in rows.values()]
        right.plot(horizons, error, "o-", color=color, label=who.replace("_", " "))
    right.legend(frameon=False)
    left.set_title("Intervals of 50 and 90 %")
    right.set_title("Errors of forecasts")
    right.set(
        xscale="log", xlabel="weeks ahead", ylabel="root mean square error, ppm", ylim=(0, None)
    )
    for axis in (left, right):
        axis.set_xticks(horizons, [str(h) for h in horizons])
        axis.minorticks_off()
    return figure


def _draw_parameters(posterior: Idata) -> Figure:
    drawn = group(posterior, "posterior")
    names = [name for name in drawn.data_vars if str(name).endswith("variance")]
    figure, axis = plt.subplots(figsize=(7, 0.5 * len(names) + 1))
    for place, name in enumerate(names):
        values = drawn[name].values.reshape(-1)
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        axis.plot([low, high], [place, place], color="tab:blue")
        axis.plot(middle, place, "o", color="tab:blue")
    name_rows(axis, [str(name).replace("_", " ") for name in names])
    axis.set(xscale="log", xlabel="ppm² (median and 90 % interval)", title="Posterior variances")
    return figure
