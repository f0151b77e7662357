"""CO2 with gaps: a structural model of weekly values fills gaps and forecasts two years.

Carbon dioxide at Mauna Loa, weekly, 1958 to 2001, 59 weeks missing. A trend, a yearly season of a
few harmonics and, in most candidates, an autoregression are fitted by maximum likelihood to
the years before the last four; the candidate that predicts the next two best is fitted again, and
the last two years judge it: the coverage of its intervals at several horizons beside two naive
forecasts. Gaps that are made in the data on purpose judge how it fills those that came with them.

The last two years are not quite untouched: a first set of candidates was judged on them, and the
trends with an autoregression were added after its long forecasts had been seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    components,
    fit,
    forecast,
    innovation_tests,
    predict,
    smooth,
    step_log_likelihood,
    to_arviz,
)
from ...inference.arviz_groups import Idata
from ...models import Autoregressive, LinearGaussianSSM, LocalLinearTrend, Seasonal, Sequences
from ...models.continuous.dynamics import Dynamics
from ...models.randomness import one_thread
from ..command.report import Outcome
from ..command.seeds import Figures, above
from ..data.loaders import load_co2
from .drawings.co2_gaps import draw
from .parts.maximum import Floats, maximum

__all__ = ["SMOKE", "Settings", "draw", "run"]

YEAR = 365.25 / 7
"""Weeks a year."""

LEVELS = (0.5, 0.9)
"""Of the intervals whose coverage is counted."""

REACH = {"coverage_error_points": 5.0, "gap_coverage_error_points": 5.0}
"""What was to be reached, fixed before any run: |coverage − level| in points.

One week ahead on the last two years, at each level; and of the values hidden on purpose.
"""

BANDS = (0.05, 0.25, 0.75, 0.95)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of the weeks that are hidden, and of the variational fit."""
    held_out: int = 104
    """Last weeks, which nothing is fitted to: two years. As many before them choose the model."""
    harmonics: tuple[int, ...] = (2, 3, 4)
    """Candidates: harmonics of the season; the yearly curve has little above the fourth."""
    horizons: tuple[int, ...] = (1, 4, 13, 26, 52, 104)
    """Weeks ahead at which coverage is counted, all origins together."""
    every: int = 17
    """Weeks between the origins of the forecasts whose coverage all years tell: a third of a year,
    and a little less, so that the origins go through the seasons."""
    years_before: int = 20
    """Years before the last two in which these origins lie: enough of them to count."""
    hidden_stretches: int = 60
    """Stretches that are hidden on purpose, of 1 to 8 weeks like those that came with the data."""
    iterations: int = 100
    """Most iterations of L-BFGS; some forty suffice."""
    last: int = 0
    """Only the last so many weeks are read; 0 for all."""
    bayes_steps: int = 100
    """Gradient steps of the variational posterior, from the maximum on."""
    draws: int = 50
    """Draws of it that are saved, each with a trajectory."""


SMOKE: Mapping[str, object] = {
    "held_out": 20,
    "harmonics": (1,),
    "horizons": (1, 8),
    "every": 40,
    "years_before": 2,
    "hidden_stretches": 4,
    "iterations": 2,
    "last": 300,
    "bayes_steps": 1,
    "draws": 3,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Choose a model, judge its forecasts on the last two years and its filling of gaps."""
    whole = load_co2()
    if settings.last:
        whole = whole.after(whole.max_length - settings.last)
    end = whole.max_length - settings.held_out
    candidates = {
        name: _candidate(settings, dynamics, whole, end - settings.held_out)
        for name, dynamics in _dynamics(settings).items()
    }
    chosen = max(candidates, key=lambda name: candidates[name]["validation_nats_per_week"])
    train = whole.head(end)
    model, log_likelihood = _maximum(settings, _dynamics(settings)[chosen], train)
    posterior, seconds = _posterior(settings, model, train)
    tested = innovation_tests(model, train)
    figures: dict[str, Any] = {
        "reach": REACH,
        "missing_weeks": int((~whole.mask).sum()),
        "candidates": candidates,
        "chosen": chosen,
        "parameters": {name: v.reshape(-1).tolist() for name, v in model.known.items()},
        "log_likelihood": log_likelihood,
        "innovations": {
            "ljung_box_9": float(tested.ljung_box),
            "kurtosis": float(tested.kurtosis),
            "heteroskedasticity": float(tested.heteroskedasticity),
        },
        "one_week_ahead": _one_week_ahead(model, whole, end),
        "held_out_from_its_beginning": _from_beginning(settings, model, whole, end),
        "all_origins": _all_origins(settings, model, whole, end),
        "hidden_on_purpose": _hidden(settings, model, train),
        "variational_seconds": seconds,
        "series": _series(settings, model, whole, end),
    }
    return Outcome({"not_reached": not_reached(figures), **figures}, posterior)


def not_reached(figures: Figures) -> list[str]:
    """What fell short of `REACH`, in words; nothing if the list is empty."""
    found = {
        "coverage_error_points": figures["one_week_ahead"]["model"]["coverage"],
        "gap_coverage_error_points": figures["hidden_on_purpose"]["model"]["coverage"],
    }
    points_off = {
        name: {f"{level} % intervals": abs(points - float(level)) for level, points in rows.items()}
        for name, rows in found.items()
    }
    return above(points_off, REACH)


def _dynamics(settings: Settings) -> dict[str, Dynamics]:
    out: dict[str, Dynamics] = {}
    for number in settings.harmonics:
        season = Seasonal(YEAR, harmonics=number)
        for kind, trend in (
            ("wandering", LocalLinearTrend() + season),
            ("wandering, AR(1)", LocalLinearTrend() + season + Autoregressive(1)),
            ("smooth, AR(1)", LocalLinearTrend(smooth=True) + season + Autoregressive(1)),
        ):
            out[f"{kind}, {number} harmonics"] = trend
    return out


# Fits


def _candidate(
    settings: Settings, dynamics: Dynamics, whole: Sequences, end: int
) -> dict[str, Any]:
    """Fitted to the weeks before ``end``, scored on the ``held_out`` weeks from there on."""
    model, log_likelihood = _maximum(settings, dynamics, whole.head(end))
    told = whole.head(end + settings.held_out)
    steps = step_log_likelihood(model, told)[0, end:]
    return {
        "log_likelihood": log_likelihood,
        "validation_nats_per_week": float(steps.sum() / told.mask[0, end:].sum()),
    }


def _maximum(
    settings: Settings, dynamics: Dynamics, data: Sequences
) -> tuple[LinearGaussianSSM, float]:
    """The model at the maximum of its likelihood, by L-BFGS with the analytic gradient."""
    model = LinearGaussianSSM(dynamics).scaled_to(data)
    best = maximum(model, data, maxiter=settings.iterations)
    return model.with_parameters(**best.values), best.log_likelihood


def _posterior(
    settings: Settings, model: LinearGaussianSSM, data: Sequences
) -> tuple[Idata, float]:
    """A multivariate normal posterior of the parameters, states integrated out."""
    free = LinearGaussianSSM(model.dynamics, emission=model.emission)
    guide = BeliefGuide(free, ExactFilter(), parameters="multivariate")
    how = FitSettings(
        steps=settings.bayes_steps, particles=1, start=dict(model.known), patience=None
    )
    result = fit(free, guide, data, settings=how, seed=settings.seed, progress=False)
    # A flat first state cannot be drawn from, hence no predictive draws.
    idata = to_arviz(
        result,
        data,
        draws=settings.draws,
        seed=settings.seed,
        predictive_draws=0,
        prior_draws=0,
    )
    return idata, result.seconds


# Forecasts


def _judged(y: Floats, mean: Floats, sd: Floats) -> dict[str, Any]:
    """Errors, and coverage in points, of normal forecasts of what was seen; NaN is left out."""
    seen = ~np.isnan(y)
    z = (y[seen] - mean[seen]) / sd[seen]
    halves = {level: float(torch.special.ndtri(torch.tensor(0.5 + level / 2))) for level in LEVELS}
    return {
        "coverage": {
            f"{100 * level:g}": 100 * float((np.abs(z) < half).mean())
            for level, half in halves.items()
        },
        "root_mean_square_error": float(np.sqrt(np.mean((y - mean)[seen] ** 2))),
        "mean_sd": float(sd[seen].mean()),
        "nats_per_week": float(np.mean(-0.5 * z**2 - np.log(sd[seen]) - 0.5 * np.log(2 * np.pi))),
        "weeks": int(seen.sum()),
    }


def _seen(data: Sequences) -> Floats:
    return np.asarray(data.arrays()[0][:, 0], dtype=np.float64)


def _naive(y: Floats, end: int, horizon: int) -> tuple[Floats, Floats]:
    """Seasonal naive forecasts of all weeks, ``horizon`` ahead, and their standard deviation.

    The value of the same week in the last year known, and the mean growth a year; the errors that
    this made before ``end`` give the standard deviation.
    """
    year = round(YEAR)
    lag = year * int(np.ceil(horizon / year))
    mean = np.full_like(y, np.nan)
    mean[lag:] = y[:-lag]
    growth = np.nanmean((y - mean)[:end])
    mean = mean + growth
    return mean, np.full_like(y, np.nanstd((y - mean)[:end]))


def _last_value(y: Floats, end: int) -> tuple[Floats, Floats]:
    """The last week that was seen as the forecast of the next."""
    mean = np.full_like(y, np.nan)
    known = np.nan
    for week, value in enumerate(y):
        mean[week] = known
        known = known if np.isnan(value) else value
    return mean, np.full_like(y, np.nanstd((y - mean)[:end]))


def _observed(model: LinearGaussianSSM, states: Any) -> tuple[Floats, Floats]:
    """Means and standard deviations of the observations, given those of the states."""
    loading = model.dynamics.loading
    assert loading is not None  # structural
    spread = (states.covariance @ loading[0] @ loading[0])[0]
    sd = (spread + model.known["observation_variance"]).sqrt().numpy()
    return (states.mean @ loading[0])[0].numpy(), sd


def _one_week_ahead(model: LinearGaussianSSM, whole: Sequences, end: int) -> dict[str, Any]:
    """Of the last weeks, each predicted from all before it; parameters from before them."""
    y = _seen(whole)
    mean, sd = _observed(model, predict(model, whole))
    out = {"model": _judged(y[end:], mean[end:], sd[end:])}
    for name, (guess, width) in {
        "last_value": _last_value(y, end),
        "seasonal_naive": _naive(y, end, 1),
    }.items():
        kept = np.where(np.isnan(guess[end:]), np.nan, y[end:])
        out[name] = _judged(kept, guess[end:], width[end:])
    return out


def _from_beginning(
    settings: Settings, model: LinearGaussianSSM, whole: Sequences, end: int
) -> dict[str, Any]:
    """The last weeks at once, from the last week before them; its errors go together."""
    y = _seen(whole)
    ahead = forecast(model, whole.head(end), settings.held_out, draws=1, seed=settings.seed)
    mean, sd = ahead.mean[0, :, 0].numpy(), ahead.variance[0, :, 0].sqrt().numpy()
    guess, width = _naive(y, end, settings.held_out)
    kept = np.where(np.isnan(guess[end:]), np.nan, y[end:])
    return {
        "model": _judged(y[end:], mean, sd),
        "seasonal_naive": _judged(kept, guess[end:], width[end:]),
    }


def _all_origins(
    settings: Settings, model: LinearGaussianSSM, whole: Sequences, end: int
) -> dict[str, Any]:
    """Coverage at every horizon over origins of many years; only the states are forecast anew."""
    y, farthest = _seen(whole), max(settings.horizons)
    begin = max(settings.every, end - round(settings.years_before * YEAR))
    origins = np.arange(begin, whole.max_length - farthest, settings.every)
    if not len(origins):
        origins = np.array([whole.max_length - farthest])
    copies = whole[[0] * len(origins)]
    cut = Sequences.from_tensors(copies.values, copies.mask, torch.from_numpy(origins))
    ahead = forecast(model, cut, farthest, draws=1, seed=settings.seed)
    out = {}
    for horizon in settings.horizons:
        mean = ahead.mean[:, horizon - 1, 0].numpy()
        sd = ahead.variance[:, horizon - 1, 0].sqrt().numpy()
        guess, width = _naive(y, end, horizon)
        weeks = origins + horizon - 1
        kept = np.where(np.isnan(guess[weeks]), np.nan, y[weeks])
        out[f"{horizon}_weeks"] = {
            "model": _judged(y[weeks], mean, sd),
            "seasonal_naive": _judged(kept, guess[weeks], width[weeks]),
        }
    return out


# Gaps


def _hidden(settings: Settings, model: LinearGaussianSSM, train: Sequences) -> dict[str, Any]:
    """Weeks that were seen are hidden, and filled in from all others."""
    rng = np.random.default_rng(settings.seed)
    y = _seen(train)
    hide = np.zeros(len(y), dtype=bool)
    for _ in range(settings.hidden_stretches):
        first = int(rng.integers(8, len(y) - 16))
        hide[first : first + int(rng.integers(1, 9))] = True
    left = np.where(hide, np.nan, y)
    fewer = Sequences.from_arrays([left])
    mean, sd = _observed(model, smooth(model, fewer))
    weeks = np.arange(len(y))
    known = ~np.isnan(left)
    line = np.interp(weeks, weeks[known], left[known])
    truth = np.where(hide, y, np.nan)
    linear = np.abs(line - truth)[~np.isnan(truth)]
    return {
        "model": _judged(truth, mean, sd),
        "linear_interpolation": {"root_mean_square_error": float(np.sqrt(np.mean(linear**2)))},
    }


def _series(
    settings: Settings, model: LinearGaussianSSM, whole: Sequences, end: int
) -> dict[str, Any]:
    """What the figures show: values, components, the forecast and the filled gaps."""
    train = whole.head(end)
    ahead = forecast(model, train, settings.held_out, draws=1, seed=settings.seed)
    found = components(model, train)
    signal = torch.stack([part.mean for part in found.values()]).sum(0)[0]
    assert whole.times is not None
    return {
        "year": (1958 + (whole.times[0] + 87) / 365.25).tolist(),
        "missing": (~whole.mask[0, :, 0]).nonzero()[:, 0].tolist(),
        "values": torch.where(whole.mask, whole.values, 0)[0, :, 0].tolist(),
        "filled": signal.tolist(),
        "components": {name: part.mean[0].tolist() for name, part in found.items()},
        "components_sd": {name: part.variance[0].sqrt().tolist() for name, part in found.items()},
        "forecast": ahead.mean[0, :, 0].tolist(),
        "forecast_quantiles": {str(q): ahead.quantile(q)[0, :, 0].tolist() for q in BANDS},
    }
