"""Drawings of the experiment `heart-transplant`."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ..parts.heart_models import GRADES


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Rates and errors beside the printed ones, survival, filters, some patients."""
    return {
        "rates": _draw_rates(figures),
        "survival": _draw_survival(figures["survival"]),
        "filters": _draw_filters(figures["filters"]),
        "patients": _draw_patients(posterior),
    }


def _draw_rates(figures: Figures) -> Figure:
    panels = [("markov", "jump_rate"), ("hidden", "jump_rate"), ("hidden", "error")]
    titles = ["Markov: rates a year", "Hidden: rates a year", "Hidden: errors"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for axis, (name, parameter), title in zip(axes, panels, titles, strict=True):
        found, maximum = figures["posterior"][name], figures["maximum_likelihood"][name]
        place = np.arange(len(found[f"{parameter}_of"]))
        bars = [(found[f"{parameter}_interval"], "tab:blue", "NUTS")]
        bars.append((found[f"{parameter}_guide_interval"], "tab:orange", "guide"))
        if f"{parameter}_interval_published" in found:
            bars.append((found[f"{parameter}_interval_published"], "black", "printed"))
        for number, (interval, color, label) in enumerate(bars):
            low, high = np.array(interval).T
            axis.hlines(place + 0.17 * (number - 1), low, high, color=color, lw=3, label=label)
        printed = maximum.get(f"{parameter}_published", maximum[parameter])
        label = "printed estimate" if f"{parameter}_published" in maximum else "estimate"
        axis.plot(printed, place, "o", color="white", mec="black", ms=5, label=label)
        axis.set_yticks(place, found[f"{parameter}_of"])
        scale = "log" if parameter == "jump_rate" else "linear"
        axis.set(xscale=scale, title=title, ylim=(len(place) - 0.5, -0.5))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncols=4, frameon=False)
    figure.suptitle("95 % intervals")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def _draw_survival(figures: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    years = figures["years"]
    axis.step(years, figures["kaplan_meier"], where="post", color="black", label="Kaplan–Meier")
    for name, color in (("markov", "tab:orange"), ("hidden", "tab:blue")):
        one = figures[name]
        axis.plot(years, one["median"], color=color, label=name)
        axis.fill_between(years, one["low"], one["high"], color=color, alpha=0.2)
    axis.set(xlabel="years after the transplant", ylabel="share alive", ylim=(0, 1.02))
    axis.legend(frameon=False)
    axis.set_title("Survival (bands: 95 %)")
    return figure


def _draw_filters(figures: Figures) -> Figure:
    names = ["lstm", "lstm_without_gaps", "exact_filter_at_the_mean_gap", "untrained_lstm"]
    labels = ["LSTM", "LSTM,\nno gaps", "exact filter,\nall gaps equal", "LSTM,\nuntrained"]
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for number, (where, rows) in enumerate(figures.items()):
        height = [max(rows[name]["gap_per_visit"], 1e-9) for name in names]
        label = where.replace("_", " ")
        axis.bar(np.arange(len(names)) + 0.38 * number, height, 0.36, label=label)
    axis.set_yscale("log")
    axis.set_xticks(np.arange(len(names)) + 0.19, labels)
    axis.set(ylabel="evidence − ELBO, nats per visit")
    axis.legend(frameon=False)
    axis.set_title("Filters in the guide's slot, model known")
    figure.tight_layout()
    return figure


def _draw_patients(posterior: Idata, shown: int = 4) -> Figure:
    """Patients with the most visits: grades that were seen, and the belief at every visit."""
    times = group(posterior, "constant_data")["times"].transpose("sequence", "time").values
    codes = group(posterior, "observed_data")["obs"].transpose("sequence", "time").values
    belief = group(posterior, "posterior_states")["filtered_probability"]
    probability = belief.transpose("sequence", "time", "state").values
    seen = np.where(np.isnan(codes), -1, codes).astype(int)
    changes = (np.diff(np.maximum(seen, 0), axis=1) < 0).sum(1)  # grades that fell: errors
    order = np.lexsort((-(~np.isnan(times)).sum(1), -changes))[:shown]
    figure, axes = plt.subplots(1, len(order), figsize=(12, 3), sharey=True, squeeze=False)
    shades = plt.get_cmap("viridis")(np.linspace(0.15, 0.9, 4))
    for axis, patient in zip(axes[0], order, strict=True):
        inside = ~np.isnan(times[patient])
        at = times[patient][inside]
        axis.stackplot(
            at, probability[patient][inside].T, colors=shades, labels=GRADES, step="post"
        )
        for grade, shade in enumerate(shades):
            here = seen[patient][inside] == grade
            axis.plot(at[here], np.full(here.sum(), 1.06), "o", color=shade, mec="black", ms=6)
        axis.set(xlabel="years", ylim=(0, 1.13))
    axes[0, 0].set_ylabel("p(state | visits so far)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle("Belief (areas) and what was seen (circles)")
    figure.tight_layout()
    return figure
