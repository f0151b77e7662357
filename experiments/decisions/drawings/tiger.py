"""What ``tiger`` draws: bounds of the plan, beliefs beside the exact one, what they earn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures

_COLORS = {"lstm": "tab:red", "gru": "tab:orange", "elman": "tab:blue"}
_NAMES = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman"}
_ACTIONS = ("listen", "open left", "open right")


def planning(posterior: Idata, value: float) -> Figure:
    """The bounds on the value of the best policy while it was computed."""
    known = group(posterior, "constant_data")
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    seconds = known["planning_seconds"].values
    for name, color in (("lower", "tab:blue"), ("upper", "tab:red")):
        axis.step(
            seconds, known[f"planning_{name}"], where="post", color=color, label=f"{name} bound"
        )
    axis.axhline(value, color="black", lw=0.8, ls="--", label=f"closed form {value:.4f}")
    axis.set(
        xlabel="seconds of planning",
        ylabel="value at the start",
        title="Bounds on the value of the best policy",
    )
    axis.legend(frameon=False)
    return figure


def beliefs(posterior: Idata, networks: Sequence[str]) -> Figure:
    """Belief in the left door against the net number of growls from the left, all fits."""
    known = group(posterior, "constant_data")
    net = known["net_growls"].values
    counts = np.arange(max(-3, net.min()), min(3, net.max()) + 1)
    figure, axes = plt.subplots(
        1, len(networks), figsize=(3.4 * len(networks), 3.3), sharey=True, layout="constrained"
    )
    for axis, name in zip(np.atleast_1d(axes), networks, strict=True):
        own = known[f"{name}_belief"].values
        for n in counts:
            points = own[:, net == n].ravel()
            at = n + np.linspace(-0.25, 0.25, len(points))
            axis.plot(at, points, ".", ms=2, alpha=0.3, color=_COLORS[name])
            exact = known["exact_belief"].values[net == n]
            if len(exact):
                axis.plot([n - 0.35, n + 0.35], [exact.mean()] * 2, "k-", lw=1.5)
        axis.plot([], [], ".", color=_COLORS[name], label=f"{_NAMES[name]}, a dot a step")
        axis.plot([], [], "k-", lw=1.5, label="exact")
        axis.set(xlabel="net growls from the left", title=_NAMES[name], xticks=counts)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    np.atleast_1d(axes)[0].set_ylabel("belief in the tiger on the left")
    return figure


def episode(posterior: Idata, networks: Sequence[str]) -> Figure:
    """The beginning of one episode: belief, growls and openings."""
    known = group(posterior, "constant_data").isel(episode=0)
    known = known.isel(step=slice(0, 40))
    step = known["step"].values
    figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
    axis.plot(step, known["exact_belief"], color="black", lw=4, alpha=0.3, label="exact belief")
    for name in networks:
        own = known[f"{name}_belief"].values[0]
        axis.plot(step, own, lw=1, color=_COLORS[name], label=_NAMES[name])
    growl = known["growl"].values
    growls = (0, 1.06, "<", "tab:purple"), (1, -0.06, ">", "tab:brown")
    for (side, place, mark, color), word in zip(growls, ("left", "right"), strict=True):
        at = step[growl == side]
        axis.plot(at, np.full(len(at), place), mark, color=color, ms=4, label=f"growl {word}")
    for action, style in ((1, ":"), (2, "-")):
        for number, place in enumerate(step[known["action_taken"].values == action]):
            label = _ACTIONS[action].replace("open", "opens") if number == 0 else None
            axis.axvline(place, color="tab:green", lw=0.8, ls=style, label=label)
    axis.set(
        xlabel="step",
        ylabel="belief in the tiger on the left",
        ylim=(-0.12, 1.12),
        title="Beginning of an episode",
    )
    figure.legend(frameon=False, fontsize=8, ncols=8, loc="outside lower center")
    return figure


def returns(figures: Figures, networks: Sequence[str]) -> Figure:
    """What the plan earns with every belief."""
    rows: list[tuple[str, float, list[float] | None]] = []
    exact = figures["exact_belief"]
    rows.append(("exact belief", exact["return"], exact["return_interval"]))
    for name in networks:
        own = figures[name]["belief_guide"]
        rows.append((f"{_NAMES[name]}'s belief", own["return"], own["return_interval"]))
    rows.append(("QMDP, exact belief", figures["qmdp_on_the_exact_belief"]["return"], None))
    rows.append(("listening for ever", figures["listening_for_ever"]["return"], None))
    rows.append(("no memory", figures["no_memory"]["return"], None))
    rows.append(("untrained LSTM's belief", figures["untrained_lstm"]["return"], None))
    rows.append(("random actions", figures["random_actions"]["return"], None))
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for place, (name, value, interval) in enumerate(reversed(rows)):
        axis.plot(value, place, "o", color="tab:red" if "belief" in name else "0.4", ms=4)
        if interval is not None:
            label = "95 % interval" if place == len(rows) - 1 else None
            axis.plot(interval, [place, place], color="tab:red", lw=1.5, label=label)
        axis.annotate(
            f"{value:.2f}", (value, place), (6, 4), textcoords="offset points", fontsize=8
        )
    axis.axvline(figures["closed_form"], color="black", lw=0.8, ls="--", label="best value")
    axis.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axis.set(xlabel="discounted return", xscale="symlog", title="What each belief earns")
    axis.legend(frameon=False)
    return figure
