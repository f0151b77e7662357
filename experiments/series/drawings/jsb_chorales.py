"""Drawings of the experiment `jsb-chorales`."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ....inference.arviz_groups import Idata, group
from ...command.seeds import Figures
from ..parts.pitches import PITCHES

LABELS = {
    "hmm_256_states": "HMM, 256 states (exact)",
    "hmm_1024_states": "HMM, 1024 states (exact)",
    "autoregressive_hmm": "autoregressive HMM (exact)",
    "deep": "deep Markov model, bound",
}


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """All figures beside the published ones, the way there, and a piece with replications."""
    return {
        "table": _draw_table(figures),
        "training": _draw_training(figures["training"]),
        "pieces": _draw_pieces(posterior, figures["exported"]),
    }


def _draw_table(figures: Figures) -> Figure:
    rows: list[tuple[str, float, str]] = []
    for name, row in figures["nats_per_frame"].items():
        rows.append((LABELS[name], row["test"]["bound_frame_weighted"], "tab:red"))
        if "importance_weighted_frame_weighted" in row["test"]:
            for kind in ("importance_weighted", "particle_filter"):
                value = row["test"][f"{kind}_frame_weighted"]
                label = f"deep Markov model, {kind.replace('_', ' ')}"
                rows.append((label, value, "tab:orange"))
    rows += [(n, value, "tab:grey") for n, value in figures["published_nats_per_frame"].items()]
    for name, value in figures["baselines_nats_per_frame"].items():
        rows.append((name.replace("_", " "), value, "lightgrey"))
    rows.sort(key=lambda row: row[1])
    figure, axis = plt.subplots(figsize=(10, 0.32 * len(rows) + 1))
    axis.barh([row[0] for row in rows], [row[1] for row in rows], color=[row[2] for row in rows])
    for place, (_, value, _) in enumerate(rows):
        axis.annotate(
            f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center"
        )
    axis.set(xlabel="nats per frame on the test split", xlim=(0, 1.1 * max(r[1] for r in rows)))
    axis.set_title("Lower is better. Bounds, estimates and exact\nvalues are different quantities")
    axis.invert_yaxis()
    return figure


def _draw_training(training: Figures) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for name, row in training.items():
        axis.plot(row["step"], row["validation_nats_per_frame"], ".-", label=LABELS[name])
    axis.set(xlabel="step", ylabel="nats per frame", xscale="log", title="Validation split")
    axis.legend(frameon=False)
    return figure


def _draw_pieces(posterior: Idata, exported: str) -> Figure:
    """A test piece, and replications of it: pieces of that length that the model makes up."""
    observed = group(posterior, "observed_data")["obs"].isel(sequence=0)
    seen = observed.transpose("time", "feature").values
    length = int(np.isfinite(seen).all(-1).sum())
    replicas = group(posterior, "posterior_predictive")["obs"].isel(sequence=0, chain=0)
    made = replicas.transpose("draw", "time", "feature").values[:2, :length]
    figure, axes = plt.subplots(3, 1, figsize=(9, 6), sharex=True, sharey=True)
    name = LABELS[exported].removesuffix(", bound").removesuffix(" (exact)")
    titles = ("a test piece", f"made up by the model ({name})", "and another")
    used = np.flatnonzero(np.concatenate([seen[:length], *made]).any(0))
    low, high = (used.min(), used.max()) if used.size else (0, PITCHES - 1)
    for axis, roll, title in zip(axes, (seen[:length], *made), titles, strict=False):
        axis.imshow(roll.T, origin="lower", aspect="auto", cmap="Greys", interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=9)
        axis.set(ylabel="key of the piano", ylim=(low - 2, high + 2))
    axes[-1].set_xlabel("frame")
    return figure
