"""Unemployment: three structural models of a quarterly rate, beside their published likelihoods.

The rate of the United States, 1959 to 2009. A local level, a local linear trend and a smooth trend
are evaluated at the variances that R's KFAS found, in both conventions of the diffuse likelihood,
and then fitted by maximum likelihood; the posterior of the smooth trend's variances is sampled by
NUTS, the states integrated out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import forecast, innovation_tests, log_evidence, smooth, to_arviz
from ...inference.arviz_groups import Idata, group
from ...models import LinearGaussianSSM, LocalLevel, LocalLinearTrend, Sequences
from ...models.continuous.dynamics import Dynamics
from ...models.randomness import one_thread
from ..command.report import Outcome
from ..command.seeds import Figures, above
from ..data.loaders import load_unemployment
from ..parts.marks import QUANTILES, forecast_bands, normal_band
from .parts import bayes
from .parts.maximum import maximum

LAWS: dict[str, Dynamics] = {
    "local_level": LocalLevel(),
    "local_linear_trend": LocalLinearTrend(),
    "smooth_trend": LocalLinearTrend(smooth=True),
}

VARIANCES: dict[str, dict[str, float]] = {
    "local_level": {
        "observation_variance": 4.256647886e-06,
        "level_variance": 0.1182078808,
    },
    "local_linear_trend": {
        "observation_variance": 1.339852549e-06,
        "level_variance": 0.01008704925,
        "slope_variance": 0.0609176081,
    },
    "smooth_trend": {
        "observation_variance": 0.0008824099,
        "slope_variance": 0.0753064234,
    },
}
"""Estimates of R's KFAS, from the tests of statsmodels."""

PUBLISHED = {
    "local_level": {"with_all_constants": -71.89136, "kfas": -70.97242557},
    "local_linear_trend": {"with_all_constants": -32.99428, "kfas": -31.15640107},
    "smooth_trend": {"with_all_constants": -33.76049, "kfas": -31.92261408},
}
"""Log likelihoods at these. KFAS leaves out ½ log 2π once per flat direction."""

REACH = {
    "log_likelihood_error": 1e-4,
    "maximum_below_published": 1e-3,
    "nuts_r_hat": 1.01,
}
"""What was to be reached, fixed before any run."""


@dataclass(frozen=True)
class Settings(bayes.NutsSettings):
    """Settings of the experiment."""

    seed: int = 0
    """Of chains and simulations."""
    iterations: int = 200
    """Most iterations of L-BFGS; two or three variances need some thirty."""
    ahead: int = 12
    """Quarters that are forecast in the figure."""


SMOKE: Mapping[str, object] = {
    **bayes.SMOKE_CHAINS,
    "iterations": 2,
    "ahead": 2,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Published likelihoods, maxima, and the posterior of the smooth trend."""
    data = load_unemployment()
    smooth_trend = LinearGaussianSSM(LAWS["smooth_trend"]).scaled_to(data)
    chains = bayes.sampled(settings, smooth_trend, data, seed=settings.seed)
    # A flat first state cannot be drawn from, hence no predictive draws.
    posterior = to_arviz(chains, data, seed=settings.seed, predictive_draws=0, prior_draws=0)
    maxima = {name: _maximum(settings, name, data) for name in LAWS}
    figures: dict[str, Any] = {
        "reach": REACH,
        "likelihood": {name: _likelihood(name, data) for name in LAWS},
        "maximum_likelihood": maxima,
        "smooth_trend_by_nuts": {
            **bayes.chain_figures(posterior, chains),
            "quantiles": {
                name: np.quantile(draws.numpy(), QUANTILES).tolist()
                for name, draws in chains.draws.items()
            },
        },
        "series": {name: _series(settings, name, data) for name in LAWS},
    }
    return Outcome({"not_reached": not_reached(figures), **figures}, posterior)


def not_reached(figures: Figures) -> list[str]:
    """What fell short of `REACH`, in words; nothing if the list is empty."""
    found = {
        "log_likelihood_error": {
            f"{name}, {convention}": row["error"]
            for name, rows in figures["likelihood"].items()
            for convention, row in rows.items()
        },
        "maximum_below_published": {
            name: row["below_published"] for name, row in figures["maximum_likelihood"].items()
        },
        "nuts_r_hat": {"smooth trend": figures["smooth_trend_by_nuts"]["r_hat_largest"]},
    }
    return above(found, REACH)


def _known(name: str) -> LinearGaussianSSM:
    return LinearGaussianSSM(LAWS[name]).with_parameters(**VARIANCES[name])


def _likelihood(name: str, data: Sequences) -> dict[str, dict[str, float]]:
    whole = float(log_evidence(_known(name), data))
    flat = LAWS[name].states  # every component starts flat
    found = {"with_all_constants": whole, "kfas": whole + 0.5 * flat * math.log(2 * math.pi)}
    return {
        convention: {
            "value": value,
            "published": PUBLISHED[name][convention],
            "error": abs(value - PUBLISHED[name][convention]),
        }
        for convention, value in found.items()
    }


def _maximum(settings: Settings, name: str, data: Sequences) -> dict[str, Any]:
    """The maximum over the logs of the variances, by L-BFGS with the analytic gradient."""
    model = LinearGaussianSSM(LAWS[name]).scaled_to(data)
    best = maximum(
        model,
        data,
        bounds=(math.log(1e-8), None),
        maxiter=settings.iterations,
        ftol=1e-14,
        gtol=1e-7,
    )
    known = {key: float(value) for key, value in best.values.items()}
    tested = innovation_tests(model.with_parameters(**known), data)
    published = PUBLISHED[name]["with_all_constants"]
    return {
        "log_likelihood": best.log_likelihood,
        "below_published": published - best.log_likelihood,
        "variances": known,
        "published_variances": VARIANCES[name],
        "iterations": best.iterations,
        "ljung_box_9": float(tested.ljung_box),
        "skewness": float(tested.skewness),
        "kurtosis": float(tested.kurtosis),
    }


def _series(settings: Settings, name: str, data: Sequences) -> dict[str, Any]:
    """Smoothed states and forecasts at the published variances."""
    model = _known(name)
    found = smooth(model, data)
    ahead = forecast(model, data, settings.ahead, draws=1, seed=settings.seed)
    sd = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    out: dict[str, Any] = {
        "forecast": ahead.mean[0, :, 0].tolist(),
        "forecast_quantiles": {str(q): ahead.quantile(q)[0, :, 0].tolist() for q in QUANTILES},
    }
    for place, component in enumerate(model.components):
        out[component] = found.mean[0, :, place].tolist()
        out[f"{component}_sd"] = sd[0, :, place].tolist()
    return out


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Forecasts of the three models, the slope of the trends."""
    return {
        "forecasts": _draw_forecasts(posterior, figures),
        "slopes": _draw_slopes(posterior, figures),
    }


def _draw_forecasts(posterior: Idata, figures: Figures) -> Figure:
    rate = group(posterior, "observed_data")["obs"].isel(sequence=0).squeeze().values
    years = group(posterior, "constant_data")["times"].isel(sequence=0).values
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    recent = years >= 1995
    for axis, (name, series) in zip(axes, figures["series"].items(), strict=True):
        ahead = years[-1] + 0.25 * np.arange(1, len(series["forecast"]) + 1)
        axis.plot(years[recent], rate[recent], "k-", lw=1, label="seen")
        forecast_bands(axis, ahead, series["forecast_quantiles"])
        axis.plot(ahead, series["forecast"], color="tab:orange", label="forecast, 50 and 90 %")
        found = figures["likelihood"][name]["with_all_constants"]["value"]
        axis.set(title=f"{name.replace('_', ' ')}, log L {found:.2f}", xlabel="year")
        axis.set_xticks(range(1995, int(years[-1]) + 2, 5))
    axes[0].set(ylabel="unemployed, %", ylim=(-10, 30))
    axes[0].legend(frameon=False, loc="upper left")
    return figure


def _draw_slopes(posterior: Idata, figures: Figures) -> Figure:
    years = group(posterior, "constant_data")["times"].isel(sequence=0).values
    figure, axis = plt.subplots(figsize=(9, 3.2))
    colors = {"local_linear_trend": "tab:blue", "smooth_trend": "tab:green"}
    for name, color in colors.items():
        series = figures["series"][name]
        slope = series["slope"]
        normal_band(axis, years, slope, series["slope_sd"], color, alpha=0.2)
        axis.plot(years, slope, color=color, label=f"{name.replace('_', ' ')}, 90 %")
    axis.axhline(0, color="grey", lw=0.7)
    axis.set(xlabel="year", ylabel="slope, points a quarter", xlim=(years[0], years[-1]))
    axis.set_title("Slope of the trends, given all quarters")
    axis.legend(frameon=False)
    return figure
