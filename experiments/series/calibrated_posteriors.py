"""Calibrated posteriors: do draws and intervals cover the truth as often as they say?

For each model, parameters are drawn from its prior, data from the model at these parameters, and
the parameters inferred again: by NUTS, and by a guide with a joint normal law of the coordinates.
If the posterior is right, the rank of the truth among its draws is uniform, for every parameter and
for the log likelihood. Two spoiled methods stand beside: draws of NUTS that are narrowed to .7
around their mean, and NUTS under another prior than that of the truth. Priors are the defaults for
data of order one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import (
    BeliefGuide,
    Calibration,
    ExactFilter,
    Fit,
    NutsFit,
    calibrate,
    fit,
    nuts,
)
from ...inference.arviz_groups import Idata, group
from ...models import (
    Gaussian,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    Model,
    Ordered,
    Regression,
    Seasonal,
    Sequences,
)
from ...models.randomness import one_thread
from ..command.report import Outcome, record
from ..command.seeds import Figures, Resumable, against, at_least
from ..parts.training import Units

__all__ = ["SMOKE", "Settings", "draw", "run"]

STEPS = 60
"""Of each series."""

LEVEL = 0.9
"""Of the intervals whose coverage is reported."""

ALARM = 0.05
"""p-values times the number of quantities and members below which a member is not calibrated."""

REACH = {
    "nuts_not_calibrated": ("<=", 0),
    "nuts_coverage_off": ("<=", 0.03),
    "normal_coverage_off": ("<=", 0.03),
    "spoiled_and_flagged": (">=", 2),
}
"""Members; how far the mean coverage of a member's 90 % intervals is from .9, at most; spoiled
methods. Fixed before any run."""

NARROWED = 0.7
"""Of the widths of the first spoiled method."""


def _reals() -> Sequences:
    return Sequences.from_arrays([np.random.default_rng(0).normal(size=STEPS)])


def _counts() -> Sequences:
    return Sequences.from_arrays([np.random.default_rng(0).poisson(6.0, STEPS).astype(float)])


def _bits() -> Sequences:
    return Sequences.from_arrays([np.random.default_rng(0).integers(0, 2, STEPS).astype(float)])


def _season() -> LinearGaussianSSM:
    parts = LocalLinearTrend(initial_variance=1.0) + Seasonal(period=4, initial_variance=1.0)
    return LinearGaussianSSM(parts)


MEMBERS: Mapping[str, Callable[[], tuple[Model, Sequences]]] = {
    "counts": lambda: (HiddenMarkovModel(2, "poisson", ordered=True), _counts()),
    "counts of three states": lambda: (HiddenMarkovModel(3, "poisson", ordered=True), _counts()),
    "reals": lambda: (HiddenMarkovModel(2, "gaussian", ordered=True), _reals()),
    "bits": lambda: (HiddenMarkovModel(2, "bernoulli", ordered=True), _bits()),
    "stationary reals": lambda: (
        HiddenMarkovModel(2, "gaussian", ordered=True, initial="stationary"),
        _reals(),
    ),
    "autoregressive states": lambda: (
        HiddenMarkovModel(2, Regression(Gaussian(), lags=1), ordered=True),
        _reals(),
    ),
    "local level": lambda: (LinearGaussianSSM(LocalLevel(initial_variance=1.0)), _reals()),
    "trend and season": lambda: (_season(), _reals()),
}


@dataclass(frozen=True)
class Settings(Resumable, Units):
    """Settings of the experiment."""

    seed: int = 0
    """Of everything: truths, data, starts, draws."""
    members: tuple[str, ...] = tuple(MEMBERS)
    """Models; their states are ordered, so that the prior tells them apart."""
    methods: tuple[str, ...] = ("nuts", "normal")
    """Of inference."""
    replications: int = 200
    """Truths and data of each member: a coverage of .9 is known to .021."""
    draws: int = 99
    """Of each posterior among which the truth has its rank."""
    chains: int = 4
    """Of NUTS: a single one may stay in the mode of the posterior where it starts."""
    chain_draws: int = 300
    """Of each of them, after as many of warm-up; evenly spaced ones are taken."""
    jobs: int = 1
    """Replications at the same time. The numbers do not depend on it."""

    def __post_init__(self) -> None:
        at_least(2, self, "replications", "draws")
        at_least(1, self, "chains", "chain_draws")
        for name, known in (("members", tuple(MEMBERS)), ("methods", tuple(METHODS))):
            given = getattr(self, name)
            if not given or not set(given) <= set(known):
                raise ValueError(f"{name}: needs some of {list(known)}, got {given}")


SMOKE: Mapping[str, object] = {
    "members": ("counts", "local level"),
    "methods": ("nuts",),
    "replications": 4,
    "draws": 9,
    "chain_draws": 10,
}


def by_nuts(how: Settings, model: Model, data: Sequences, seed: int) -> NutsFit:
    """All draws of its chains."""
    return nuts(
        model,
        data,
        chains=how.chains,
        draws=how.chain_draws,
        warmup=how.chain_draws,
        seed=seed,
        progress=False,
    )


def by_normal(how: Settings, model: Model, data: Sequences, seed: int) -> Fit:
    """A joint normal law of the coordinates, at the defaults of ``fit``."""
    del how
    guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
    return fit(model, guide, data, seed=seed, progress=False)


def narrowed(how: Settings, model: Model, data: Sequences, seed: int) -> NutsFit:
    """Draws of NUTS nearer to their mean."""
    found = by_nuts(how, model, data, seed)
    means = {name: x.mean((0, 1)) for name, x in found.draws.items()}
    draws = {name: means[name] + NARROWED * (x - means[name]) for name, x in found.draws.items()}
    return replace(found, draws=draws)


def under_another_prior(how: Settings, model: Model, data: Sequences, seed: int) -> NutsFit:
    """NUTS with rates that are thought to be near ten."""
    prior = dist.Gamma(torch.full((2,), 20.0), torch.full((2,), 2.0)).to_event(1)
    other = HiddenMarkovModel(2, "poisson", priors={"rate": Ordered(prior)})
    return by_nuts(how, other, data, seed)


METHODS: Mapping[str, Callable[..., Fit | NutsFit]] = {"nuts": by_nuts, "normal": by_normal}
SPOILED: Mapping[str, Callable[..., NutsFit]] = {
    "narrowed": narrowed,
    "another prior": under_another_prior,
}
"""On the member "counts"."""


def calibration(
    settings: Settings, member: str, method: str, how: Callable[..., Fit | NutsFit]
) -> Calibration:
    """Ranks of one member and method."""
    print(f"{member}: {method}", flush=True)
    model, like = MEMBERS[member]()
    with one_thread():
        return calibrate(
            partial(how, settings),
            model.adapted_to(like),
            like,
            replications=settings.replications,
            draws=settings.draws,
            folder=settings.kept or None,
            name=f"{member} {method} {settings.chains} {settings.chain_draws}",
            workers=settings.jobs,
            seed=settings.seed,
        )


def judged(found: Calibration, members: int) -> dict[str, Any]:
    """Coverage, and the quantities that are flagged among those of all members."""
    covered = found.coverage(LEVEL)
    p = found.p_values() * len(found.names) * members
    flagged = [name for name, value in zip(found.names, p, strict=True) if value < ALARM]
    return {
        "replications": len(found.ranks),
        "failures": len(found.failures),
        "coverage_of_90_percent": float(covered.mean()),
        "coverage_smallest": float(covered.min()),
        "coverage_largest": float(covered.max()),
        "p_smallest_times_quantities_and_members": float(min(p.min(), 1.0)),
        "flagged": flagged,
        "coverage_by_quantity": dict(zip(found.names, covered.tolist(), strict=True)),
    }


def run(settings: Settings) -> Outcome:
    """Calibrate every member by every method, and the spoiled ones."""
    ranks: dict[str, Calibration] = {}
    figures: dict[str, Any] = {"by_method": {}, "spoiled": {}}
    for method in settings.methods:
        by_member = {}
        for member in settings.members:
            found = calibration(settings, member, method, METHODS[method])
            ranks[f"{method}, {member}"] = found
            by_member[member] = judged(found, len(settings.members))
        figures["by_method"][method] = by_member
        figures[f"{method}_not_calibrated"] = sum(bool(x["flagged"]) for x in by_member.values())
        off = [abs(x["coverage_of_90_percent"] - LEVEL) for x in by_member.values()]
        figures[f"{method}_coverage_off"] = max(off)
    for name, how in SPOILED.items():
        found = calibration(settings, "counts", name, how)
        ranks[f"{name}, counts"] = found
        figures["spoiled"][name] = judged(found, 1)
    figures["spoiled_and_flagged"] = sum(bool(x["flagged"]) for x in figures["spoiled"].values())
    reach = {name: bar for name, bar in REACH.items() if name in figures}
    return Outcome(against(figures, reach), _saved(settings, ranks))


def _saved(settings: Settings, ranks: Mapping[str, Calibration]) -> Idata:
    """Ranks divided by their largest, by case and quantity; NaN where a replication failed."""
    labels = [f"{case}, {name}" for case, found in ranks.items() for name in found.names]
    shares = np.full((len(labels), settings.replications), np.nan)
    row = 0
    for found in ranks.values():
        for column in found.ranks.T:
            shares[row, : len(column)] = (column + 0.5) / (found.draws + 1)
            row += 1
    return record(
        settings,
        {"runs": {"rank": shares}},
        dims={"rank": ("quantity", "replication")},
        coords={"quantity": labels},
    )


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """How far the distribution of ranks is from a uniform one, a panel a method."""
    ranks = group(posterior, "runs")["rank"]
    labels = [str(label) for label in ranks["quantity"].values]
    methods = list(dict.fromkeys(label.split(", ")[0] for label in labels))
    figure, axes = plt.subplots(
        1, len(methods), figsize=(3.2 * len(methods), 3.4), sharey=True, layout="constrained"
    )
    for axis, method in zip(np.atleast_1d(axes), methods, strict=True):
        for label, row in zip(labels, ranks.values, strict=True):
            if not label.startswith(f"{method}, "):
                continue
            place = np.sort(row[np.isfinite(row)])
            above = (np.arange(len(place)) + 1) / len(place) - place
            axis.plot(place, above, color="tab:blue", lw=0.8, alpha=0.5)
        band = 1.36 / np.sqrt(ranks.shape[1])
        axis.axhspan(-band, band, color="0.9", zorder=0)
        axis.set(title=method, xlabel="rank of the truth")
    np.atleast_1d(axes)[0].set_ylabel("share of ranks below − uniform")
    figure.suptitle(
        "Ranks of true values among posterior draws (grey: 95 % of uniform ones stay inside)",
        fontsize=10,
    )
    return {"ranks": figure}
