"""The figure of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from .record import Diagnosis
from .scores import Score

if TYPE_CHECKING:
    from .leave_future_out import LeaveFutureOut

_LAGS = 15
_KOLMOGOROV = 1.3581
"""95 % quantile of √n times the largest distance of an empirical distribution from its law."""


def draw(diagnosis: Diagnosis) -> Figure:
    """Returns panels of what the diagnosis has: uniformity, autocorrelation, calibration."""
    residuals, calibration = diagnosis.residuals, diagnosis.calibration
    count = 2 * (residuals is not None) + (calibration is not None)
    figure = Figure(figsize=(4 * max(count, 1), 3.4), layout="constrained")
    axes = iter(np.ravel(figure.subplots(1, max(count, 1))))
    if not count:
        next(axes).text(0.5, 0.5, "no residuals and no beliefs", ha="center")
    if residuals is not None:
        names = residuals.features or ("",)
        _draw_uniformity(next(axes), residuals.pit, names)
        _draw_autocorrelation(next(axes), residuals.normal, names)
    if calibration is not None:
        axis = next(axes)
        axis.plot([0, 1], [0, 1], color="grey", lw=0.8, label="calibrated")
        axis.errorbar(
            calibration.probability,
            calibration.frequency,
            yerr=1.96 * calibration.standard_error,
            fmt="o",
            ms=4,
            label="beliefs, 95 % interval",
        )
        axis.set(
            title="States of simulated sequences",
            xlabel="probability of a state",
            ylabel="how often it is there",
        )
        axis.legend(frameon=False)
    return figure


def draw_backtest(found: LeaveFutureOut) -> Figure:
    """Returns the density along the times, and from scores loss and coverage by horizon."""
    scores = found.scores
    figure = Figure(figsize=(12 if scores else 4.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 3 if scores else 1, squeeze=False)[0]
    axes[0].plot(found.steps, found.elpd_t, ".-", lw=0.8)
    again = np.isin(found.steps, found.refits)
    axes[0].plot(found.steps[again], found.elpd_t[again], "o", mfc="none", label="fitted here")
    axes[0].set(title="The future given the past", xlabel="steps known", ylabel="log density, nats")
    axes[0].legend(frameon=False)
    if scores is None:
        return figure
    ahead = np.arange(1, found.horizon + 1)
    loss: Score = "brier" if np.isnan(scores.crps).all() else "crps"
    for place, name in enumerate(scores.features):
        mean, error = scores.mean(loss)[:, place], scores.standard_error(loss)[:, place]
        axes[1].errorbar(ahead, mean, yerr=1.96 * error, fmt="o-", ms=4, label=name)
        axes[2].plot(ahead, scores.coverage()[:, place], "o-", ms=4, label=name)
    axes[2].axhline(scores.level, color="grey", lw=0.8)
    title = "Loss by horizon, 95 % interval"
    axes[1].set(title=title, xlabel="steps ahead", ylabel=f"{loss}; the lower the better")
    title = f"How often {100 * scores.level:.0f} % intervals hold"
    axes[2].set(title=title, xlabel="steps ahead", ylabel="share", ylim=(0, 1.03))
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    if len(scores.features) > 1:
        axes[1].legend(frameon=False)
    return figure


def _draw_uniformity(axis: Any, pit: torch.Tensor, names: tuple[str, ...]) -> None:
    """The empirical distribution of the residuals less that of the uniform law."""
    fewest = None
    for values, name in zip(pit.unbind(-1), names, strict=True):
        u = np.sort(values[~values.isnan()].numpy())
        if not len(u):
            continue
        fewest = min(fewest or len(u), len(u))
        axis.step(u, np.arange(1, len(u) + 1) / len(u) - u, where="post", label=name or "data")
    if fewest:
        edge = _KOLMOGOROV / np.sqrt(fewest)
        axis.axhspan(-edge, edge, color="grey", alpha=0.2, label="95 % of a true model")
    axis.set(
        title="Are the residuals uniform?",
        xlabel="place in the predictive law",
        ylabel="distribution less uniform",
        xlim=(0, 1),
    )
    axis.legend(frameon=False)


def _draw_autocorrelation(axis: Any, normal: torch.Tensor, names: tuple[str, ...]) -> None:
    """Autocorrelations of the normal residuals, pooled over the sequences."""
    lags = min(_LAGS, normal.shape[1] - 1)
    pairs = 0
    for place, (e, name) in enumerate(zip(normal.unbind(-1), names, strict=True)):
        heights = []
        for lag in range(1, lags + 1):
            products = (e[:, lag:] * e[:, :-lag]).flatten()
            products = products[~products.isnan()]
            heights.append(float(products.mean()) if len(products) else np.nan)
            pairs = max(pairs, len(products))
        at = np.arange(1, lags + 1) + 0.1 * place
        axis.vlines(at, 0, heights, color=f"C{place % 10}", lw=3, label=name or "data")
    if pairs:
        edge = 1.96 / np.sqrt(pairs)
        axis.axhspan(-edge, edge, color="grey", alpha=0.2, label="95 % of a true model, each")
    axis.axhline(0, color="black", lw=0.8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(title="Are they independent?", xlabel="lag, steps", ylabel="autocorrelation")
    axis.legend(frameon=False)
