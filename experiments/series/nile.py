"""Nile: the local level of a river's flow, by maximum likelihood and full Bayes.

Yearly flow at Aswan, 1871 to 1970, the running example of Durbin & Koopman (2012, chapter 2). The
likelihood in its conventions, smoothed levels and diagnostics at published variances stand beside
the published figures; then the variances are estimated, and their posterior is sampled by NUTS,
the levels integrated out, with two variational guides measured against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    NutsFit,
    fit,
    importance,
    innovation_tests,
    log_evidence,
    smooth,
    standardised_innovations,
    step_log_likelihood,
    to_arviz,
)
from ...inference.arviz_groups import Idata, group
from ...inference.guides.parameters import Uncertainty
from ...models import LinearGaussianSSM, LocalLevel, Sequences
from ...models.randomness import one_thread
from ..command.report import Outcome
from ..command.seeds import Figures, above
from ..data.loaders import load_nile
from ..parts.marks import QUANTILES, name_rows, normal_band, quantile_row
from .parts import bayes

VARIANCES = {"observation_variance": 15099.0, "level_variance": 1469.1}
"""The maximum of the likelihood as printed by Durbin & Koopman."""

PUBLISHED = {
    "first_dropped": -632.5456,
    "exact_diffuse": -633.4646,
    "exact_diffuse_without_constant": -632.5456,
    "proper_1e7": -641.5856,
}
"""Log likelihoods at these variances.

The first level is flat and the first term left out; flat with all ½ log 2π; flat with one of them
left out, which is the same number here; or N(0, 10⁷).
"""

PUBLISHED_LEVELS = {
    "level_1871": 1111.668,
    "level_1970": 798.3703,
    "variance_1871": 4032.158,
    "variance_1970": 4032.158,
}
"""Smoothed levels and their variances."""

PUBLISHED_GAPS = {
    "log_likelihood": -380.57875,
    "level_1891": 990.0654,
    "level_1901": 893.7818,
    "variance_1901": 9715.005,
}
"""The same with 1891–1910 and 1931–1950 missing, by statsmodels with its approximate flat level.

That is N(0, 10⁶), whose first term is left out of the likelihood. With its exact flat level
statsmodels 0.14 has −381.50600.
"""

EXACT_GAPS = -381.5060013

PUBLISHED_DIAGNOSTICS = {
    "ljung_box": 8.84,
    "skewness": -0.03,
    "kurtosis": 3.09,
    "heteroskedasticity": 0.61,
}
"""Of the standardised innovations, 9 lags; Durbin & Koopman, section 2.12."""

REACH = {
    "log_likelihood_error": 1e-4,
    "level_error": 1e-3,
    "gap_error": 1e-3,
    "diagnostic_error": 1e-2,
    "variance_relative_error": 1e-3,
    "nuts_r_hat": 1.01,
    "multivariate_mean_error_in_sd": 0.5,
}
"""What was to be reached, fixed before any run."""

GAPS = (slice(20, 40), slice(60, 80))
"""Steps that are hidden: 1891–1910 and 1931–1950."""

GUIDES: dict[str, Uncertainty] = {
    "multivariate_normal": "multivariate",
    "independent_normal": "normal",
}


@dataclass(frozen=True)
class Settings(bayes.GuideSettings, bayes.NutsSettings):
    """Settings of the experiment."""

    seed: int = 0
    """Of starts, noise and chains."""
    steps: int = 400
    """Most steps of a climb to the maximum of the likelihood; some ten suffice."""
    bayes_particles: int = 4
    chain_draws: int = 500


SMOKE: Mapping[str, object] = {
    **bayes.SMOKE_CHAINS,
    **bayes.SMOKE_GUIDES,
    "steps": 3,
    "bayes_particles": 1,
    "draws": 30,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Published figures, maximum likelihood, and full Bayes beside NUTS."""
    data = load_nile()
    model = LinearGaussianSSM(LocalLevel()).scaled_to(data)
    chains = bayes.sampled(settings, model, data, seed=settings.seed)
    # A flat first level cannot be drawn from, hence no predictive draws.
    posterior = to_arviz(chains, data, seed=settings.seed, predictive_draws=0, prior_draws=0)
    side_by_side = Parallel(n_jobs=settings.jobs)  # every task takes one thread
    beside = side_by_side(delayed(_beside)(settings, data, chains, name) for name in GUIDES)
    figures: dict[str, Any] = {
        "reach": REACH,
        "likelihood": _likelihood(data),
        "smoothed": _smoothed(data),
        "missing_stretches": _with_gaps(data),
        "diagnostics": _diagnostics(data),
        "maximum_likelihood": _maximum(settings, model, data),
        "nuts": _nuts_figures(posterior, chains),
        "variational": dict(zip(GUIDES, beside, strict=True)),
        "series": _series(data),
    }
    return Outcome({"not_reached": not_reached(figures), **figures}, posterior)


def not_reached(figures: Figures) -> list[str]:
    """What fell short of `REACH`, in words; nothing if the list is empty."""
    rows = {
        "log_likelihood_error": figures["likelihood"],
        "level_error": figures["smoothed"],
        "gap_error": figures["missing_stretches"],
        "diagnostic_error": figures["diagnostics"],
    }
    found = {
        reach: {name: row["error"] for name, row in table.items()} for reach, table in rows.items()
    }
    found["variance_relative_error"] = {
        name: row["relative_error"]
        for name, row in figures["maximum_likelihood"]["variances"].items()
    }
    found["nuts_r_hat"] = {"all parameters": figures["nuts"]["r_hat_largest"]}
    multivariate = figures["variational"]["multivariate_normal"]
    found["multivariate_mean_error_in_sd"] = {
        "all parameters": multivariate["mean_error_in_sd_largest"]
    }
    return above(found, REACH)


def _known(dynamics: LocalLevel | None = None) -> LinearGaussianSSM:
    return LinearGaussianSSM(dynamics or LocalLevel()).with_parameters(**VARIANCES)


def _beside_published(
    found: Mapping[str, float], published: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    return {
        name: {"value": value, "published": published[name], "error": abs(value - published[name])}
        for name, value in found.items()
    }


def _likelihood(data: Sequences) -> dict[str, dict[str, float]]:
    exact = float(log_evidence(_known(), data))
    steps = step_log_likelihood(_known(), data)
    found = {
        "first_dropped": float(steps[0, 1:].sum()),
        "exact_diffuse": exact,
        "exact_diffuse_without_constant": exact + 0.5 * math.log(2 * math.pi),
        "proper_1e7": float(log_evidence(_known(LocalLevel(initial_variance=1e7)), data)),
    }
    return _beside_published(found, PUBLISHED)


def _smoothed(data: Sequences) -> dict[str, dict[str, float]]:
    found = smooth(_known(), data)
    level, variance = found.mean[0, :, 0].tolist(), found.covariance[0, :, 0, 0].tolist()
    values = (level[0], level[-1], variance[0], variance[-1])
    return _beside_published(dict(zip(PUBLISHED_LEVELS, values, strict=True)), PUBLISHED_LEVELS)


def _hidden(data: Sequences) -> Sequences:
    """The flows without two stretches of twenty years."""
    assert data.times is not None
    mask = data.mask.clone()
    for gap in GAPS:
        mask[:, gap] = False
    return Sequences.from_tensors(data.values.double(), mask, times=data.times)


def _with_gaps(data: Sequences) -> dict[str, dict[str, float]]:
    fewer, wide = _hidden(data), _known(LocalLevel(initial_variance=1e6))
    found = smooth(wide, fewer)
    values = {
        "log_likelihood": float(step_log_likelihood(wide, fewer)[0, 1:].sum()),
        "level_1891": float(found.mean[0, 20, 0]),
        "level_1901": float(found.mean[0, 30, 0]),
        "variance_1901": float(found.covariance[0, 30, 0, 0]),
    }
    exact = {"exact_diffuse_log_likelihood": float(log_evidence(_known(), fewer))}
    return {
        **_beside_published(values, PUBLISHED_GAPS),
        **_beside_published(exact, {"exact_diffuse_log_likelihood": EXACT_GAPS}),
    }


def _diagnostics(data: Sequences) -> dict[str, dict[str, float]]:
    tested = innovation_tests(_known(), data)
    found = {name: float(getattr(tested, name)) for name in PUBLISHED_DIAGNOSTICS}
    return _beside_published(found, PUBLISHED_DIAGNOSTICS)


def _maximum(settings: Settings, model: LinearGaussianSSM, data: Sequences) -> dict[str, Any]:
    how = FitSettings(steps=settings.steps, tolerance=1e-8)  # six digits of the variances
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    result = fit(model, guide, data, settings=how, seed=settings.seed, progress=False)
    known = {name: float(value) for name, value in result.fitted.known.items()}
    return {
        "log_likelihood": float(log_evidence(model.with_parameters(**known), data)),
        "variances": {
            name: {
                "value": known[name],
                "published": published,
                "relative_error": abs(known[name] / published - 1),
            }
            for name, published in VARIANCES.items()
        },
        "ending": result.ending,
        "warnings": list(result.warnings),
        "seconds": result.seconds,
    }


def _nuts_figures(posterior: Idata, chains: NutsFit) -> dict[str, Any]:
    quantiles = {
        name: np.quantile(draws.numpy(), QUANTILES).tolist() for name, draws in chains.draws.items()
    }
    return {**bayes.chain_figures(posterior, chains), "quantiles": quantiles}


@one_thread()
def _beside(settings: Settings, data: Sequences, chains: NutsFit, name: str) -> dict[str, Any]:
    """A guide beside NUTS, on the logs of the variances: in units of its sd, ratios of sds."""
    guide = BeliefGuide(chains.model, ExactFilter(), parameters=GUIDES[name])
    how = settings.variational()
    result = fit(chains.model, guide, data, settings=how, seed=settings.seed, progress=False)
    exported = to_arviz(
        result, data, draws=settings.draws, seed=settings.seed, predictive_draws=0, prior_draws=0
    )
    drawn = {name: values.values[0] for name, values in group(exported, "posterior").items()}
    logs = {name: torch.as_tensor(drawn[name]).log() for name in chains.draws}
    judged = importance(result, data, draws=settings.draws, seed=settings.seed)
    return {
        **bayes.beside(
            {name: gold.log() for name, gold in chains.draws.items()}, logs, correction=0
        ),
        "elbo": judged.elbo,
        "importance_corrected_log_evidence": judged.log_evidence,
        "k_hat_parameters": judged.k_hat_parameters,
        "k_hat_threshold": judged.threshold,
        "quantiles": {name: np.quantile(drawn[name], QUANTILES).tolist() for name in chains.draws},
        "ending": result.ending,
        "seconds": result.seconds,
    }


def _series(data: Sequences) -> dict[str, list[float]]:
    """Level and standard deviation of every year with and without the gaps, and innovations."""
    whole, fewer = smooth(_known(), data), smooth(_known(), _hidden(data))
    innovations = standardised_innovations(_known(), data)[0, 1:, 0]
    return {
        "level": whole.mean[0, :, 0].tolist(),
        "level_sd": whole.covariance[0, :, 0, 0].sqrt().tolist(),
        "level_with_gaps": fewer.mean[0, :, 0].tolist(),
        "level_with_gaps_sd": fewer.covariance[0, :, 0, 0].sqrt().tolist(),
        "innovations": innovations.tolist(),
    }


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The level with and without gaps, the posterior of the variances, the innovations."""
    return {
        "level": _draw_level(posterior, figures),
        "variances": _draw_variances(posterior, figures),
        "innovations": _draw_innovations(posterior, figures),
    }


def _draw_level(posterior: Idata, figures: Figures) -> Figure:
    flows = group(posterior, "observed_data")["obs"].isel(sequence=0).squeeze().values
    years = group(posterior, "constant_data")["times"].isel(sequence=0).values
    hidden = np.zeros(len(years), dtype=bool)
    for gap in GAPS:
        hidden[gap] = True
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, sharey=True)
    titles = "all flows", "two stretches of twenty years hidden"
    for axis, key, title in zip(axes, ("level", "level_with_gaps"), titles, strict=True):
        seen = ~hidden if key == "level_with_gaps" else np.ones_like(hidden)
        level = figures["series"][key]
        normal_band(axis, years, level, figures["series"][f"{key}_sd"], "tab:blue", alpha=0.25)
        axis.plot(years, level, color="tab:blue", label="level given all that was seen, 90 %")
        axis.plot(years[seen], flows[seen], "k.", ms=4, label="flow")
        axis.plot(years[~seen], flows[~seen], ".", color="lightgrey", ms=4, label="hidden")
        axis.set(ylabel="10⁸ m³ a year", title=title)
    axes[1].legend(frameon=False, loc="upper right", ncols=3)
    axes[1].set(xlabel="year", xlim=(years[0], years[-1]))
    return figure


def _draw_variances(posterior: Idata, figures: Figures) -> Figure:
    """Densities by NUTS; under them median, 50 % and 90 % interval of NUTS and of the guides."""
    drawn = group(posterior, "posterior")
    titles = {"observation_variance": "noise variance", "level_variance": "level variance"}
    figure, axes = plt.subplots(2, 2, figsize=(9, 4.6), sharex="col", height_ratios=(3, 2))
    labels = {"multivariate_normal": "multivariate normal", "independent_normal": "independent"}
    for (name, title), (top, bottom) in zip(titles.items(), axes.T, strict=True):
        values = drawn[name].values.reshape(-1)
        low, high = np.quantile(values, (0.002, 0.998))
        bins = np.geomspace(low, high, 50)
        top.hist(values, bins=bins, color="tab:blue", alpha=0.6, label="NUTS")
        published = VARIANCES[name]
        top.axvline(published, color="black", lw=1, label="maximum likelihood")
        top.set(title=title, yticks=[], xscale="log")
        top.margins(y=0.2)
        rows = {"NUTS": figures["nuts"]["quantiles"][name]}
        for guide, label in labels.items():
            rows[label] = figures["variational"][guide]["quantiles"][name]
        for place, quantiles in enumerate(rows.values()):
            quantile_row(bottom, place, quantiles, "tab:blue")
        name_rows(bottom, list(rows))
        bottom.set(xlabel="10¹⁶ m⁶ (median, 50 % and 90 % interval)")
        decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.log10(high))
        steps = (1, 1.5, 2, 3, 5) if high < 5 * low else (1, 3)
        ticks = [f * d for d in decades for f in steps if low <= f * d <= high]
        bottom.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        bottom.set_xticks([], minor=True)
    axes[0, 0].legend(frameon=False)
    return figure


def _draw_innovations(posterior: Idata, figures: Figures) -> Figure:
    years = group(posterior, "constant_data")["times"].isel(sequence=0).values[1:]
    e = np.asarray(figures["series"]["innovations"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(2, 1))
    left.axhspan(-1.96, 1.96, color="whitesmoke", label="95 % if white noise")
    left.plot(years, e, "k.-", lw=0.7, ms=4)
    left.set(xlabel="year", ylabel="standardised innovation", title="Innovations")
    left.legend(frameon=False)
    centred = e - e.mean()
    lags = np.arange(1, 16)
    correlation = [(centred[k:] * centred[:-k]).sum() / (centred**2).sum() for k in lags]
    width = 1.96 / math.sqrt(len(e))
    right.axhspan(-width, width, color="whitesmoke")
    right.vlines(lags, 0, correlation, color="black")
    right.set(xlabel="lag, years", ylim=(-0.5, 0.5), title="Autocorrelation")
    return figure
