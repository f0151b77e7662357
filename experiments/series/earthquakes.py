"""Earthquakes: Poisson HMMs of yearly counts, by maximum likelihood and full Bayes.

Major earthquakes a year, 1900 to 2006, the running example of Zucchini, MacDonald & Langrock.
Hidden Markov models with one to four states are fitted by maximum likelihood, beside the published
values, and compared by AIC, BIC and leave-one-out. With three states the posterior of all
parameters is sampled by NUTS, the states summed out, and every guide is measured against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed

from ...inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    LSTMFilter,
    NutsFit,
    compare,
    evidence_gap,
    fit,
    importance,
    information_criteria,
    log_evidence,
    loo,
    most_likely_states,
    predictive_check,
    smooth,
    to_arviz,
)
from ...inference.arviz_groups import Idata, group
from ...inference.guides.parameters import Uncertainty
from ...models import HiddenMarkovModel, Poisson, Sequences
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome
from ..command.seeds import Figures, above
from ..data.loaders import load_earthquakes
from ..parts.marks import QUANTILES
from .drawings.earthquakes import draw
from .parts import bayes

__all__ = ["SMOKE", "Settings", "draw", "run"]

PUBLISHED = {
    "stationary": {1: 391.9189, 2: 342.3183, 3: 329.4603, 4: 327.8316},
    "free": {1: 391.9189, 2: 341.8787, 3: 328.5275, 4: 326.6749},
}
"""−log L at the maximum by number of states, from runs of the book's own code.

With a free start and four states the published value is none of the maxima that 200 random starts
found; the best of these is 326.29. Hence misses below count only in the other direction.
"""

PUBLISHED_CRITERIA = {
    1: (785.84, 788.51),
    2: (692.6365, 703.3278),
    3: (676.9206, 700.9760),
    4: (687.6632, 730.4284),
}
"""AIC and BIC by number of states, stationary start."""

PRINTED: dict[str, dict[str, Any]] = {
    "stationary": {
        "rate": [13.14573, 19.72101, 29.71437],
        "transition": [
            [0.9546243, 0.0244426, 0.02093313],
            [0.04976679, 0.8993673, 0.05086592],
            [1.504e-09, 0.1966420, 0.80335799],
        ],
        "minus_log_likelihood": 329.46027,
    },
    "free": {
        "rate": [13.13374, 19.71312, 29.70964],
        "transition": [
            [0.9392937, 0.03209754, 0.02860881],
            [0.04040106, 0.90643731, 0.05316163],
            [0.0, 0.19025401, 0.80974599],
        ],
        "initial": [1.0, 0.0, 0.0],
        "minus_log_likelihood": 328.52748,
    },
}
"""Printed parameters of three states, and −log L at exactly these."""

REACH = {
    "minus_log_likelihood_above_published": 1e-2,
    "fixed_parameters_error": 1e-4,
    "nuts_r_hat": 1.01,
    "multivariate_mean_error_in_sd": 0.5,
}
"""What was to be reached, fixed before any run."""

LOO_NOTE = (
    "Every year is predicted from the years before it, with parameters informed by all other "
    "years, later ones too: this is leave-one-out of the one-step-ahead terms, not leave-future-out"
)


@dataclass(frozen=True)
class Settings(bayes.GuideSettings, bayes.NutsSettings):
    """Settings of the experiment."""

    seed: int = 0
    """Of starts, noise and chains."""
    largest: int = 4
    """Most states that are tried; the published table ends there."""
    steps: int = 400
    """Most steps of a climb to a maximum; two hundred suffice."""
    starts: int = 1000
    """Of a maximum-likelihood fit. Four states have many maxima: of 1200 starts with a stationary
    chain ten ended in the best, and one run of a hundred missed it."""
    typical: float = 20.0
    """Prior mean of a rate, the scale of the counts; rate ~ Gamma(2, 2 / typical)."""
    sticky: float = 2.0
    """Prior pseudo-counts on staying, beside one on every move: regimes last years."""
    replications: int = 400
    """Replicated series of the predictive check: its tails are then right to about .025."""


SMOKE: Mapping[str, object] = {
    **bayes.SMOKE_CHAINS,
    **bayes.SMOKE_GUIDES,
    "largest": 2,
    "steps": 3,
    "starts": 2,
    "replications": 10,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Maximum likelihood, then full Bayes with the number of states that the book prefers."""
    data = load_earthquakes()
    many = range(1, settings.largest + 1)
    states = min(3, settings.largest)
    side_by_side = Parallel(n_jobs=settings.jobs)  # every task takes one thread
    maxima = side_by_side(
        delayed(_maximum)(settings, data, m, start) for start in PUBLISHED for m in many
    )
    chains = bayes.sampled(
        settings, _bayes_model(settings, states), data, seed=settings.seed, target_accept=0.8
    )
    posterior = to_arviz(
        chains, data, seed=settings.seed, predictive_draws=settings.replications, prior_draws=0
    )
    judged = side_by_side(delayed(_beside)(settings, data, chains, name) for name in GUIDES)
    exported = side_by_side(delayed(_exported)(settings, data, m) for m in many)
    found = iter(maxima)
    figures: dict[str, Any] = {
        "reach": REACH,
        "maximum_likelihood": {
            f"{start}_start": {f"states{m}": next(found) for m in many} for start in PUBLISHED
        },
        "fixed_parameters": _at_printed(data),
        "nuts": _nuts_figures(posterior, chains),
        "variational": dict(zip(GUIDES, judged, strict=True)),
        "model_comparison": _comparison(dict(zip(many, exported, strict=True)), posterior),
        "predictive_check": _checked(posterior),
        "decoded": _decoded(data, posterior),
    }
    return Outcome({"not_reached": not_reached(figures), **figures}, posterior)


def not_reached(figures: Figures) -> list[str]:
    """What fell short of `REACH`, in words; nothing if the list is empty."""
    ml = figures["maximum_likelihood"]
    found = {
        "minus_log_likelihood_above_published": {
            f"{start}, {states}": row["above_published"]
            for start, rows in ml.items()
            for states, row in rows.items()
        },
        "fixed_parameters_error": {
            start: row["error"] for start, row in figures["fixed_parameters"].items()
        },
        "nuts_r_hat": {"all parameters": figures["nuts"]["r_hat_largest"]},
        "multivariate_mean_error_in_sd": {
            "exact filter": figures["variational"]["multivariate_normal_exact_filter"][
                "mean_error_in_sd_largest"
            ]
        },
    }
    return above(found, REACH)


def _at_printed(data: Sequences) -> dict[str, dict[str, float]]:
    found = {}
    for start, printed in PRINTED.items():
        values = {name: value for name, value in printed.items() if name != "minus_log_likelihood"}
        model = HiddenMarkovModel(3, "poisson", initial=start).with_parameters(**values)
        got = -float(log_evidence(model, data))
        published = float(printed["minus_log_likelihood"])
        found[f"{start}_start"] = {
            "minus_log_likelihood": got,
            "published": published,
            "error": abs(got - published),
        }
    return found


@one_thread()
def _maximum(settings: Settings, data: Sequences, states: int, start: str) -> dict[str, Any]:
    """The best of many climbs."""
    model = HiddenMarkovModel(states, Poisson(typical=settings.typical), initial=start)
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    how = FitSettings(steps=settings.steps, start="frames", restarts=settings.starts)
    result = fit(model, guide, data, settings=how, seed=settings.seed, progress=False)
    found = information_criteria(result, data)
    published = PUBLISHED[start][states]
    figures = {
        "minus_log_likelihood": -found.log_likelihood,
        "published": published,
        "above_published": -found.log_likelihood - published,
        "aic": found.aic,
        "bic": found.bic,
        "rate": sorted(result.fitted.known["rate"].reshape(-1).tolist()),
        "starts_that_reached_it": result.restarts_agreeing,
        "converged": result.converged,
        "warnings": list(result.warnings),
    }
    if start == "stationary":
        figures["aic_published"], figures["bic_published"] = PUBLISHED_CRITERIA[states]
    return figures


def _bayes_model(settings: Settings, states: int) -> HiddenMarkovModel:
    return HiddenMarkovModel(
        states,
        Poisson(typical=settings.typical, shape=2.0),
        initial="stationary",
        sticky=settings.sticky,
        ordered=states > 1,
    )


def _nuts_figures(posterior: Idata, chains: NutsFit) -> dict[str, Any]:
    rate = chains.draws["rate"].flatten(0, 1)
    return {
        **bayes.chain_figures(posterior, chains),
        "rate_mean": rate.mean(0).tolist(),
        "rate_sd": rate.std(0).tolist(),
    }


def _checked(posterior: Idata) -> dict[str, dict[str, float]]:
    columns = ("observed", "mean", "sd", "tail")
    return {
        str(name): {column: float(row[column]) for column in columns}
        for name, row in predictive_check(posterior).iterrows()
    }


GUIDES: dict[str, tuple[Uncertainty, bool]] = {
    "multivariate_normal_exact_filter": ("multivariate", False),
    "independent_normal_exact_filter": ("normal", False),
    "multivariate_normal_lstm": ("multivariate", True),
}
"""Posterior of the parameters, and whether an LSTM takes the place of the exact filter."""


def _variational(
    settings: Settings, data: Sequences, states: int, uncertainty: Uncertainty, recurrent: bool
) -> Fit:
    model = _bayes_model(settings, states)
    # Beliefs must follow the parameters while these are uncertain: the LSTM reads log O_k(y_t).
    with seeded(settings.seed):  # the network's weights
        filter = LSTMFilter(16, reads="likelihoods") if recurrent else ExactFilter()
        guide = BeliefGuide(model, filter, parameters=uncertainty)
    how = settings.variational()
    return fit(model, guide, data, settings=how, seed=settings.seed, progress=False)


@one_thread()
def _beside(settings: Settings, data: Sequences, chains: NutsFit, name: str) -> dict[str, Any]:
    """A guide beside NUTS."""
    result = _variational(settings, data, chains.model.states, *GUIDES[name])
    exported = group(
        to_arviz(result, data, draws=settings.draws, seed=settings.seed, predictive_draws=0),
        "posterior",
    )
    drawn = {name: torch.as_tensor(exported[name].values[0]) for name in chains.draws}
    judged = importance(result, data, draws=settings.draws, seed=settings.seed)
    return {
        **bayes.beside(chains.draws, drawn),
        "elbo": judged.elbo,
        "importance_corrected_log_evidence": judged.log_evidence,
        "k_hat_parameters": judged.k_hat_parameters,
        "k_hat_joint": judged.k_hat_joint,
        "k_hat_threshold": judged.threshold,
        "evidence_gap_per_step_at_median": evidence_gap(result, data).gap_per_step,
        "rate_quantiles": np.quantile(exported["rate"].values[0], QUANTILES, axis=0).tolist(),
        "ending": result.ending,
        "seconds": result.seconds,
    }


@one_thread()
def _exported(settings: Settings, data: Sequences, states: int) -> Idata:
    result = _variational(settings, data, states, "multivariate", False)
    return to_arviz(result, data, draws=settings.draws, seed=settings.seed, predictive_draws=0)


def _comparison(exported: Mapping[int, Idata], sampled: Idata) -> dict[str, Any]:
    """LOO by a multivariate guide for every number of states, and by NUTS for one."""
    table = compare({f"states{states}": idata for states, idata in exported.items()}, unit="time")
    rows: dict[str, Any] = {
        str(name): {str(column): float(value) for column, value in row.items()}
        for name, row in table.iterrows()
    }
    gold = loo(sampled, unit="time")
    states = group(sampled, "posterior").sizes["state"]
    rows[f"states{states}_by_nuts"] = {"elpd": gold.elpd, "se": gold.se, "p": gold.p}
    return {"note": LOO_NOTE, **rows}


def _decoded(data: Sequences, posterior: Idata) -> dict[str, Any]:
    """States at the posterior mean: the path of Viterbi, and where the smoother disagrees."""
    known = group(posterior, "posterior").mean(("chain", "draw"))
    states = known.sizes["state"]
    model = HiddenMarkovModel(states, "poisson", initial="stationary").with_parameters(
        rate=known["rate"].values, transition=known["transition"].values
    )
    path = most_likely_states(model, data).states[0]
    smoothed = smooth(model, data)[0].argmax(-1)
    return {
        "most_likely_path": path.tolist(),
        "years_in_each_state": torch.bincount(path, minlength=states).tolist(),
        "years_where_smoother_differs": int((path != smoothed).sum()),
    }
