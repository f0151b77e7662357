"""Held out: do Pareto-smoothed densities of data that a fit has not seen agree with exact ones?

Leave-future-out carries the draws of a few fits on by weights, leave-one-out takes one observation
out by weights. Here both stand beside the posterior of exactly the data that they stand for, at
every time and without every observation, by importance sampling with many draws from a wide
Student law: what fitting again everywhere would give. Three series: 107 counts of earthquakes (two
states), the Nile (local level), and the last years of weekly CO2 (smooth trend, season and an
autoregression), whose fits are variational, since chains would take hours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import biject_to

from ...inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    NutsFit,
    fit,
    leave_future_out,
    loo,
    step_log_likelihood,
    to_arviz,
)
from ...inference.arviz_groups import ConvergenceWarning, Idata, group
from ...inference.diagnosis.matched_loo import Student
from ...inference.pareto import log_sum_exp
from ...models import (
    Autoregressive,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    Model,
    Poisson,
    Seasonal,
    Sequences,
)
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome, record
from ..command.seeds import Figures, Repeated, above, each_seed, stream
from ..data.loaders import load_co2, load_earthquakes, load_nile
from .parts import bayes

__all__ = ["SMOKE", "Settings", "draw", "run"]

Array = NDArray[np.float64]

REACH = {"standard_errors_off": 2.0}
"""Of the mean over the seeds, in Monte Carlo standard errors of one run; fixed before any run."""

SERIES = "earthquakes", "nile", "co2"

WIDER = 1.5
"""Scale of the Student law that exact densities are weighted from, over the covariance of
posteriors of the first steps and of all, put together."""

_NO_TAIL = 10.0
"""Shown for a k̂ that is infinite: no Pareto law fits the tail."""

_BATCHES = 20
"""Of draws, by which the error of an exact density is told."""


@dataclass(frozen=True)
class Settings(Repeated, bayes.NutsSettings):
    """Settings of the experiment."""

    series: tuple[str, ...] = SERIES
    """Which series."""
    seeds: int = 3
    chains: int = 2
    warmup: int = 150
    chain_draws: int = 400
    bayes_steps: int = 400
    """Steps of variational fits."""
    bayes_particles: int = 2
    """Draws of the parameters per step."""
    known: float = 0.6
    """Share of a series that the first fit knows."""
    co2_weeks: int = 156
    """Last weeks of CO2 that are read: three years; all 2284 would take days."""
    exact_draws: int = 20_000
    """Draws that exact densities are weighted from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.series or not set(self.series) <= set(SERIES):
            raise ValueError(f"series: needs some of {list(SERIES)}, got {self.series}")


SMOKE: Mapping[str, object] = {
    **bayes.SMOKE_CHAINS,
    "series": ("earthquakes", "nile"),
    "seeds": 1,
    "chain_draws": 20,
    "bayes_steps": 5,
    "known": 0.97,
    "exact_draws": 60,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Densities by weighted draws of every series and seed, beside exact ones."""
    found = each_seed(_judged, settings, [(name,) for name in settings.series])
    figures, runs = dict[str, Any](), dict[str, Any]()
    for name in settings.series:
        exact, smoothed = _exact(settings, name), found[name,]
        figures[name] = {
            kind: _agreement([one[kind] for one in smoothed], exact[kind])
            for kind in ("leave_future_out", "leave_one_out")
        }
        figures[name] |= {
            "times_predicted": len(exact["leave_future_out"].terms),
            "fits_by_seed": [one["fits"] for one in smoothed],
            "largest_k_hat": min(max(one["k_hat"] for one in smoothed), _NO_TAIL),
            "exact_effective_draws": exact["effective"],
        }
        errors = [one["leave_future_out"] - exact["leave_future_out"].terms for one in smoothed]
        runs[name] = np.stack(errors)
    dims = {name: ("run", f"{name}_time") for name in runs}
    posterior = record(settings, {"runs": runs}, dims=dims)
    return Outcome({"not_reached": not_reached(figures), "reach": REACH, **figures}, posterior)


def not_reached(figures: Figures) -> list[str]:
    """What fell short of `REACH`, in words; nothing if the list is empty."""
    off = {
        f"{name}, {kind}": found[kind]["standard_errors_off"]
        for name, found in figures.items()
        if name in SERIES
        for kind in ("leave_future_out", "leave_one_out")
    }
    return above({"standard_errors_off": off}, REACH)


# --- by weighted draws


class Case(NamedTuple):
    """A series, a model with priors from its first steps, and how it is fitted."""

    data: Sequences
    model: Model
    first: int
    refit: Callable[[Sequences, int], Fit | NutsFit]


def case(settings: Settings, name: str) -> Case:
    """The series of a name."""
    if name == "co2":
        whole = load_co2().without("times")
        data = whole.after(whole.max_length - settings.co2_weeks)
    else:
        data = load_nile() if name == "nile" else load_earthquakes()
    first = round(settings.known * data.max_length)
    model: Model
    if name == "earthquakes":
        model = HiddenMarkovModel(
            2, Poisson(typical=20.0, shape=2.0), initial="stationary", ordered=True
        )
    elif name == "nile":
        model = LinearGaussianSSM(LocalLevel()).scaled_to(data.head(first))
    else:
        dynamics = LocalLinearTrend(smooth=True) + Seasonal(52.18, harmonics=2) + Autoregressive(1)
        model = LinearGaussianSSM(dynamics).scaled_to(data.head(first))

    def refit(past: Sequences, seed: int) -> Fit | NutsFit:
        if name == "co2":
            return _variational(settings, model, past, seed)
        return bayes.sampled(settings, model, past, seed=seed)

    return Case(data, model, first, refit)


def _variational(settings: Settings, model: Model, past: Sequences, seed: int) -> Fit:
    guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
    how = FitSettings(steps=settings.bayes_steps, particles=settings.bayes_particles, patience=None)
    return fit(model, guide, past, settings=how, seed=seed, progress=False)


def _judged(settings: Settings, name: str, number: int) -> dict[str, Any]:
    """Terms of leave-future-out and of leave-one-out from fits of one seed."""
    data, _, first, refit = case(settings, name)
    seed = stream(settings, SERIES.index(name), number) % 2**30  # chains take no larger ones
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what they lead to is shown
        found = leave_future_out(lambda past: refit(past, seed), data, first=first, seed=seed)
        whole = refit(data, seed + 1)
        idata = to_arviz(whole, data, seed=seed, predictive_draws=0, prior_draws=0)
        left_out = loo(idata, unit="time")
    return {
        "leave_future_out": found.elpd_t,
        "leave_one_out": left_out.elpd_i,
        "fits": len(found.refits),
        "k_hat": float(max(np.nanmax(found.k_hat, initial=0.0), left_out.pareto_k.max())),
    }


# --- exact


class Exact(NamedTuple):
    """Terms of a density, and the standard error of their sum."""

    terms: Array
    error: float


def _exact(settings: Settings, name: str) -> dict[str, Any]:
    """The same from the posterior of exactly the data that each term conditions on."""
    data, model, first, _ = case(settings, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a proposal need not be right
        known = data.head(first), data
        guides = [_variational(settings, model, part, settings.seed).guide for part in known]
    with seeded(stream(settings, SERIES.index(name), 99)), torch.no_grad():
        drawn = [guide.draw_parameters(1000)[0] for guide in guides]
        proposal = {name: torch.cat([each[name] for each in drawn]) for name in drawn[0]}
        return exact_terms(model, data, first, proposal, settings.exact_draws)


def exact_terms(
    model: Model, data: Sequences, first: int, posterior: Mapping[str, Tensor], draws: int
) -> dict[str, Any]:
    """Exact densities of one series by weighted draws. Uses torch's global generator.

    Args:
        model: with the unknown parameters.
        data: the series.
        first: steps that the first prediction knows.
        posterior: draws of the parameters given about these steps and given all, by which the
            proposal is made.
        draws: weighted draws.
    """
    log_weight, values = _wide(model, posterior, draws)
    steps = np.empty((draws, data.max_length))
    for s in range(draws):
        known = model.with_parameters(**{name: value[s] for name, value in values.items()})
        steps[s] = step_log_likelihood(known, data)[0].numpy()
    after = np.cumsum(np.column_stack([log_weight, steps]), 1)  # column t: log weight given t steps
    seen = data.observed_steps[0].numpy()
    times = np.arange(first, data.max_length)
    ahead = _sums(after[:, times + 1], after[:, times])
    one = _sums(np.repeat(after[:, -1:], seen.sum(), 1), after[:, -1:] - steps[:, seen])
    last = np.exp(2 * _log_sums(after[:, -1:]) - _log_sums(2 * after[:, -1:]))
    return {"leave_future_out": ahead, "leave_one_out": one, "effective": float(last[0])}


def _sums(above: Array, below: Array) -> Exact:
    """log Σ_s exp(above) − log Σ_s exp(below) of every column, with the error of their sum."""
    rows = np.arange(len(above)) % _BATCHES
    without = [
        float((_log_sums(above[rows != b]) - _log_sums(below[rows != b])).sum())
        for b in range(_BATCHES)
    ]
    error = math.sqrt(_BATCHES - 1) * float(np.std(without))  # the jackknife's
    return Exact(_log_sums(above) - _log_sums(below), error)


def _log_sums(columns: Array) -> Array:
    return log_sum_exp(columns.T)


def _wide(
    model: Model, posterior: Mapping[str, Tensor], draws: int
) -> tuple[Array, dict[str, Tensor]]:
    """Parameters from a Student law wider than a posterior, and log prior less log density."""
    maps = {name: biject_to(prior.support) for name, prior in model.priors.items()}
    free = {name: maps[name].inv(value.double()) for name, value in posterior.items()}
    joint = torch.cat([value.reshape(len(value), -1) for value in free.values()], 1)
    wide = Student.like(joint, wider=WIDER)
    z = wide.draw(draws)
    log_weight = -wide.log_density(z)
    values, place = {}, 0
    for name, value in free.items():
        count = value[0].numel()
        own = z[:, place : place + count].reshape(draws, *value.shape[1:])
        values[name], place = maps[name](own), place + count
        volume = maps[name].log_abs_det_jacobian(own, values[name])
        log_weight = log_weight + volume.reshape(draws, -1).sum(1)
        log_weight = log_weight + model.priors[name].log_prob(values[name])
    return log_weight.numpy(), values


def _agreement(runs: list[Array], exact: Exact) -> dict[str, Any]:
    """Sums of the seeds beside the exact one, and their distance in standard errors."""
    sums = [float(terms.sum()) for terms in runs]
    noise = math.hypot(float(np.std(sums, ddof=1)) if len(sums) > 1 else 0.0, exact.error)
    off = abs(float(np.mean(sums)) - float(exact.terms.sum()))
    return {
        "by_seed": sums,
        "exact": float(exact.terms.sum()),
        "error_of_exact": exact.error,
        "standard_error_of_one_run": noise,
        "standard_errors_off": off / noise,
        "standard_error_over_times": math.sqrt(len(exact.terms)) * float(exact.terms.std(ddof=1)),
    }


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Errors of leave-future-out along every series."""
    found = group(posterior, "runs")
    figure, axes = plt.subplots(1, len(found.data_vars), figsize=(12, 3.4), squeeze=False)
    for axis, (name, errors) in zip(axes[0], found.data_vars.items(), strict=True):
        for seed, row in enumerate(errors.values):
            axis.plot(row, lw=0.8, label=f"seed {seed}")
        axis.legend(frameon=False, ncols=3, fontsize=8)
        axis.axhline(0, color="black", lw=0.8)
        exact = figures[str(name)]["leave_future_out"]["exact"]
        axis.set(title=f"{name}, exact sum {exact:.1f} nats", xlabel="steps predicted")
    axes[0, 0].set(ylabel="log density of a step, run − exact (nats)")
    return {"leave_future_out": figure}
