"""Drawings of `agent-beliefs`, from its figures and its posterior.nc."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

TITLES = {"tiger": "Tiger", "t_maze": "T-maze"}

_KINDS = {
    "relevant": ("tab:red", "what matters"),
    "place": ("tab:blue", "place in the corridor"),
    "irrelevant": ("tab:grey", "bystander"),
}

_SHARES = 0.2, 0.9995
"""Shares that are drawn; others at the edge."""

_ROWS = {
    "lstm_h_and_c": "agent's LSTM, h and c",
    "lstm_h": "agent's LSTM, h",
    "lstm_c": "agent's LSTM, c",
    "untrained_lstm_h_and_c": "untrained LSTM, h and c",
    "last_4_inputs": "last 4 inputs",
    "last_1_input": "last input",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """What is held in training, beside what is earned; what holds how much at the end."""
    return {
        "training": _draw_training(figures),
        "read_outs": _draw_readouts(figures),
        "episode": _draw_episode(posterior),
    }


def _draw_training(figures: Figures) -> Figure:
    figure, axes = plt.subplots(
        2, len(TITLES), figsize=(11, 6.4), sharex="col", layout="constrained"
    )
    for column, (name, title) in enumerate(TITLES.items()):
        points = figures[name]["training"]
        steps = np.array([int(point.split("_")[1]) for point in points])
        held, earned = axes[:, column]
        for kind, (color, label) in _KINDS.items():
            if kind in next(iter(points.values())):
                _band(
                    held, steps, [one[kind] for one in points.values()], "share_held", color, label
                )
        _band(earned, steps, list(points.values()), "return", "tab:green", "agent")
        best = figures[name]["return_of_the_best_policy"]
        without = figures[name]["return_without_memory"]
        earned.axhline(best, color="black", lw=1, label="best policy")
        earned.axhline(without, color="black", lw=1, ls=":", label="no memory")
        earned.set_ylim(without - 0.6 * (best - without), best + 0.3 * (best - without))
        held.set(title=title, yscale="logit", ylim=_SHARES)
        held.set_yticks([0.5, 0.9, 0.99, 0.999], ["50 %", "90 %", "99 %", "99.9 %"])
        held.minorticks_off()
        earned.set(xlabel="training steps")
        held.legend(frameon=False)
        earned.legend(frameon=False)
    axes[0, 0].set_ylabel("share of the belief's information held")
    axes[1, 0].set_ylabel("return")
    figure.suptitle("What the agent's LSTM holds of the exact belief (mean, 95 % over seeds)")
    return figure


def _band(axis: Any, x: Any, rows: list[Any], name: str, color: str, label: str) -> None:
    ends = np.array([row[f"{name}_interval"] for row in rows])
    value = np.array([row[name] for row in rows])
    if name == "share_held":
        ends, value = ends.clip(*_SHARES), value.clip(*_SHARES)
    axis.fill_between(x, ends[:, 0], ends[:, 1], color=color, alpha=0.2, lw=0)
    axis.plot(x, value, "o-", ms=3, color=color, label=label)


def _draw_readouts(figures: Figures) -> Figure:
    figure, axes = plt.subplots(1, len(TITLES), figsize=(11, 4), sharey=True, layout="constrained")
    place = np.arange(len(_ROWS))
    for (name, title), axis in zip(TITLES.items(), axes, strict=True):
        kinds = [kind for kind in _KINDS if kind in figures[name]["at_the_end"]]
        height = 0.8 / len(kinds)
        for number, kind in enumerate(kinds):
            color, label = _KINDS[kind]
            offset = (number - (len(kinds) - 1) / 2) * height
            rows = [figures[name]["at_the_end"][kind][row] for row in _ROWS]
            value = np.array([row["share_held"] for row in rows])
            ends = np.array([row["share_held_interval"] for row in rows])
            spread = np.abs(ends - value[:, None]).T
            axis.barh(
                place + offset,
                value,
                height * 0.95,
                color=color,
                xerr=spread,
                error_kw={"lw": 0.8},
                label=label,
            )
        axis.set(title=title, xlabel="share of the belief's information", xlim=(-0.05, 1.1))
        axis.axvline(1, color="black", lw=0.7)
    axes[0].set_yticks(place, list(_ROWS.values()))
    axes[0].invert_yaxis()
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Linear decoders of the exact belief on held-out episodes (95 % over seeds)")
    return figure


def _draw_episode(posterior: Idata) -> Figure:
    """The exact beliefs along one episode of the Tiger agent."""
    known = group(posterior, "constant_data")
    length = int(known["tiger_length"].values[0])
    belief = known["tiger_belief"].values[0, :length, 0]
    beside = known["tiger_belief_in_the_bystander"].values[0, :length]
    action = known["tiger_action"].values[0, :length]
    figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
    time = np.arange(length)
    axis.step(time, belief, where="mid", color=_KINDS["relevant"][0], label="tiger on the left")
    axis.step(time, beside, where="mid", color=_KINDS["irrelevant"][0], label="bystander is 1")
    for number, mark in ((1, "<"), (2, ">")):
        opened = time[action == number]
        side = "left" if number == 1 else "right"
        axis.plot(opened, belief[opened], mark, color="black", label=f"opens {side}")
    axis.set(xlabel="step", ylabel="exact belief", ylim=(-0.05, 1.05))
    axis.set_title("An episode of a trained agent of Tiger")
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure
