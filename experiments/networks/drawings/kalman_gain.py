"""What ``kalman_gain`` draws: gates beside the gain, and how far beliefs are from the filter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

CHANGING_TITLES = ("missing_observations", "noise_that_changes")


def gains(posterior: Idata, figures: Figures, ratios: Mapping[str, float]) -> Figure:
    """Forget gates of the first seed over y, beside 1 − K."""
    known = group(posterior, "constant_data")
    figure, axes = plt.subplots(1, len(ratios), figsize=(12, 3.6), layout="constrained")
    for axis, (title, ratio) in zip(axes, ratios.items(), strict=True):
        y = known[f"{title}_exact_y"].values[:, 1:].ravel()
        keep = 1 - figures[title]["constructed"]["gain"]
        axis.axhline(keep, color="black", lw=4, alpha=0.3, label="1 − K, and written weights")
        for name, color in (("lstm_of_one_unit", "tab:blue"), ("linear_cell", "tab:red")):
            gate = known[f"{title}_{name}_f"].values[:, 1:].ravel()
            label = f"{_words(name)}: {figures[title][name]['distance_from_gain']:.3f}"
            axis.plot(y[::20], gate[::20], ".", ms=2, color=color, label=label)
        axis.set(title=f"Q / R = {ratio:g}", xlabel="y (standard deviations of its noise)")
        axis.set_ylim(keep - 0.15, keep + 0.15)
        axis.legend(frameon=False, fontsize=7, title="mean |f − (1 − K)|", title_fontsize=7)
    axes[0].set_ylabel("forget gate f")
    return figure


def ratios(posterior: Idata, figures: Figures, cells: Sequence[str]) -> Figure:
    """Logits of input gates of the first seed over the log signal-to-noise ratio."""
    known = group(posterior, "constant_data")
    figure, axes = plt.subplots(2, len(cells), figsize=(8, 6.4), sharex="row", layout="constrained")
    for row, title in zip(axes, CHANGING_TITLES, strict=True):
        seen = known[f"{title}_exact_seen"].values > 0
        noise, predicted = (
            known[f"{title}_exact_{name}"].values for name in ("noise", "predicted")
        )
        ratio = np.log(predicted / noise)[seen]
        for axis, name in zip(row, cells, strict=True):
            gate = known[f"{title}_{name}_i"].values[seen]
            logit = np.log(gate / (1 - gate))
            axis.plot(ratio[::5], logit[::5], ".", ms=1.5, alpha=0.4, color="tab:red")
            ends = np.quantile(ratio, [0, 1])
            axis.plot(ends, ends, "k-", lw=0.7)
            found = figures[title][name]["gate_r_squared"]
            axis.set_title(
                f"{title.replace('_', ' ')}\n{_words(name)}, R² = {found:.4f}", fontsize=9
            )
            axis.set_xlabel("log P⁻ / R")
        row[0].set_ylabel("logit of the input gate")
    return figure


def errors(figures: Figures, ratios: Mapping[str, float]) -> Figure:
    """KL of every belief from the filter's, one dot a seed."""
    titles = (*ratios, *CHANGING_TITLES)
    kinds: tuple[str, ...] = ("untrained_lstm_of_one_unit", "last_observation", "best_fixed_gain")
    kinds += ("elman_of_one_unit", "lstm_of_one_unit", "linear_cell")
    kinds += ("lstm_of_one_unit_by_the_elbo", "linear_cell_by_the_elbo")
    kinds += ("linear_cell_with_counting_units",)
    figure, axis = plt.subplots(figsize=(10, 4.2), layout="constrained")
    for number, kind in enumerate(kinds):
        for place, title in enumerate(titles):
            own = figures[title].get(kind)
            if own is None:
                continue
            path = "kl_filter_per_step"
            values = own.get(f"{path}_by_seed", [own[path]])
            at = place + 0.08 * (number - (len(kinds) - 1) / 2)
            axis.plot([at] * len(values), values, "o", ms=4, color=f"C{number}")
        axis.plot([], [], "o", color=f"C{number}", label=_words(kind))
    names = [f"Q / R = {ratio:g}" for ratio in ratios.values()]
    names += [_words(title) for title in CHANGING_TITLES]
    axis.set_xticks(range(len(titles)), names, fontsize=8)
    axis.set(yscale="log", ylabel="KL(filter ‖ belief), nats a step")
    axis.set_title("One dot a seed; beliefs with the filter's own variance", fontsize=9)
    figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ").replace("lstm", "LSTM").replace("elman", "Elman")
