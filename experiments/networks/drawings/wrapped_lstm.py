"""Drawings of the experiment wrapped-lstm."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_GATES = (("f", "staying"), ("i", "surprise"), ("i", "information_gain"))
"""Pairs of a gate and what it might follow that are drawn."""


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Evidence by size, what is held of the belief, samples, gates, the belief along a sentence."""
    sizes = [int(name.split("_")[0]) for name in figures["models"] if name.endswith("_states")]
    return {
        "evidence": _draw_evidence(figures, sizes),
        "held": _draw_held(figures, sizes),
        "samples": _draw_samples(figures, sizes),
        "gates": _draw_gates(figures, sizes),
        "belief": _draw_belief(posterior),
    }


def _line(axis: Any, figures: Figures, sizes: list[int], path: str, **style: Any) -> None:
    """A figure of every model by its size, with intervals."""
    value, ends = [], []
    for states in sizes:
        place: Any = figures["models"][f"{states}_states"]
        *outer, last = path.split(".")
        for key in outer:
            place = place[key]
        value.append(place[last])
        ends.append(place[f"{last}_interval"])
    spread = np.abs(np.asarray(ends) - np.asarray(value)[:, None]).T
    axis.errorbar(sizes, value, yerr=spread, capsize=2, **style)


def _by_size(axis: Any, sizes: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xlabel("states of the model")


def _draw_evidence(figures: Figures, sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    alone = "evidence_per_step_of_the_same_model_fitted_without_the_lstm"
    _line(left, figures, sizes, alone, color="0.5", marker="s", label="evidence, fitted alone")
    _line(
        left,
        figures,
        sizes,
        "evidence_per_step",
        color="k",
        marker="o",
        label="evidence, fitted around the LSTM",
    )
    _line(
        left,
        figures,
        sizes,
        "elbo_per_step",
        color="tab:red",
        marker="o",
        label="ELBO with the LSTM as filter",
    )
    own = figures["lstm_log_probability_per_step"]
    left.axhline(own, color="tab:blue", lw=1, label="the LSTM itself")
    base = figures["baselines"]["evidence_per_step"]
    for name, style in (("letter_pairs", "--"), ("one_state", ":")):
        left.axhline(base[name], color="0.4", ls=style, lw=1, label=name.replace("_", " "))
    left.set(ylabel="nats per letter", title="Held-out text")
    left.set_ylim(top=left.get_ylim()[1] + 0.35)
    left.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
    _line(
        right, figures, sizes, "gap_per_step", color="tab:red", marker="o", label="evidence − ELBO"
    )
    _line(
        right,
        figures,
        sizes,
        "kl_filter_per_step",
        color="tab:purple",
        marker="o",
        label="KL(exact filter ‖ belief of the LSTM)",
    )
    _line(
        right,
        figures,
        sizes,
        "update_error_per_step",
        color="tab:green",
        marker="o",
        label="update error of a step",
    )
    right.set(ylabel="nats per letter", title="What the LSTM lacks for being the filter")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        _by_size(axis, sizes)
    return figure


_READ = {
    "LSTM_hc": ("LSTM, h and c", "tab:red", "o"),
    "LSTM_h": ("LSTM, h", "tab:orange", "o"),
    "LSTM_c": ("LSTM, c", "tab:pink", "o"),
    "untrained_LSTM_hc": ("untrained LSTM, h and c", "0.3", "s"),
    "last_2_inputs": ("last 2 letters", "0.5", "^"),
    "last_1_input": ("last letter", "0.7", "v"),
    "next_symbol_probabilities": ("exact next-letter probabilities", "tab:blue", "D"),
}


def _draw_held(figures: Figures, sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, (label, color, marker) in _READ.items():
        style = {"color": color, "marker": marker, "ms": 4, "lw": 1, "label": label}
        _line(left, figures, sizes, f"read_outs.{name}.decoder_kl", **style)
        _line(right, figures, sizes, f"read_outs.{name}.r_squared", **style)
    _line(
        left,
        figures,
        sizes,
        "read_outs.LSTM_hc.information",
        color="k",
        ls=":",
        label="all there is to know",
    )
    left.set(yscale="log", ylabel="decoder KL, nats per letter", title="What a decoder misses")
    right.set(ylabel="R² of the belief", title="What a linear read-out finds", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=8)
    left.legend(frameon=False, fontsize=7, loc="lower right")
    for axis in (left, right):
        _by_size(axis, sizes)
    return figure


def _draw_samples(figures: Figures, sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    lengths = [1, 2, 3, 4]
    rivals = figures["baselines"]["samples_beside_those_of_the_lstm"]
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
    rows = {
        f"{size} states": (figures["models"][f"{size}_states"]["samples"], shade, "-")
        for size, shade in zip(sizes, shades, strict=True)
    }
    rows |= {
        "one state": (rivals["one_state"], "0.6", ":"),
        "letter pairs": (rivals["letter_pairs"], "0.4", "--"),
        "held-out text": (rivals["text_held_out"], "magenta", "-"),
    }
    for label, (found, color, style) in rows.items():
        value = [found[f"{n}_grams"]["jensen_shannon"] for n in lengths]
        left.plot(lengths, value, marker="o", ms=4, color=color, ls=style, label=label)
    floor = [rivals["text_held_out"][f"{n}_grams"]["jensen_shannon_floor"] for n in lengths]
    left.plot(lengths, floor, color="k", lw=3, alpha=0.3, label="floor: halves of one set")
    left.set_xticks(lengths)
    left.set(yscale="log", xlabel="n", ylabel="Jensen-Shannon divergence, nats")
    left.set_title("n-grams: samples of the LSTM against those of…")
    left.legend(frameon=False, fontsize=7)
    lags = range(1, 11)

    def information(found: Figures, whose: str = "") -> list[float]:
        table = found[f"mutual_information_by_lag{whose}"]
        return [max(table[f"lag_{lag}"], 1e-4) for lag in lags]

    for label, (found, color, style) in rows.items():
        whose = "_of_model" if label.endswith("states") else ""
        right.plot(lags, information(found, whose), color=color, ls=style, lw=1, label=label)
    whole = figures["models"][f"{sizes[0]}_states"]["samples"]
    right.plot(lags, information(whole, "_of_lstm"), color="tab:red", lw=2, label="LSTM")
    right.set(yscale="log", xlabel="letters apart", ylabel="mutual information, nats")
    right.set_title("Memory of the samples (bias of counting taken off)")
    right.legend(frameon=False, fontsize=7)
    return figure


def _draw_gates(figures: Figures, sizes: list[int]) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
    for (gate, quantity), axis in zip(_GATES, axes, strict=True):
        for whose, label, color in (
            ("gates", "LSTM", "tab:red"),
            ("gates_of_the_untrained_network", "untrained", "0.5"),
        ):
            path = f"{whose}.{gate}.{quantity}"
            _line(
                axis,
                figures,
                sizes,
                f"{path}.absolute_correlation",
                color=color,
                marker="o",
                label=f"{label}, best unit: |correlation|",
            )
            _line(
                axis,
                figures,
                sizes,
                f"{path}.all_units_r_squared",
                color=color,
                marker="^",
                ls=":",
                label=f"{label}, all units: R²",
            )
        axis.set(title=f"gate {gate} and {quantity.replace('_', ' ')}", ylim=(0, 1.02))
        _by_size(axis, sizes)
    axes[0].set_ylabel("|correlation|, R²")
    axes[0].legend(frameon=False, fontsize=7, loc="upper right")
    return figure


def _draw_belief(posterior: Idata, letters: int = 64) -> Figure:
    states = group(posterior, "posterior_states")
    codes = group(posterior, "observed_data")["obs"].isel(sequence=0).values.astype(int)[:letters]
    names = [str(s) for s in group(posterior, "posterior")["symbol"].values]
    figure, axes = plt.subplots(2, 1, figsize=(11, 4.4), sharex=True, layout="constrained")
    rows = {"exact filter": "filtered_probability", "belief read off the LSTM": "guide_belief"}
    for (title, variable), axis in zip(rows.items(), axes, strict=True):
        table = states[variable].isel(sequence=0).transpose("state", "time").values[:, :letters]
        image = axis.imshow(table, aspect="auto", cmap="magma", vmin=0, vmax=1)
        axis.set(title=title, ylabel="state")
    axes[1].set_xticks(range(len(codes)), [names[code] for code in codes])
    axes[1].set_xlabel("letters of a held-out sentence")
    figure.colorbar(image, ax=axes, label="probability given the letters so far")
    return figure
