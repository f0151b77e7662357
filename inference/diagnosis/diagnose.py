"""One call that judges a fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require_count
from ..arviz_groups import ConvergenceWarning, Idata, prior_sensitivity
from ..checking.evidence_gap import evidence_gap
from ..checking.importance import importance, is_point
from ..checking.predictive_check import Statistic, predictive_check
from ..export.labels import aligned
from ..export.sample import sample_of
from ..export.to_arviz import to_arviz
from ..filters.slot import ExactFilter
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..guides.guide import BeliefGuide, Guide
from ..queries.batches import require_data
from . import checks
from .belief_calibration import BeliefCalibration, belief_calibration
from .pseudo_residuals import PseudoResiduals, pseudo_residuals
from .record import Check, Diagnosis


@boundary
def diagnose(
    result: Fit | NutsFit,
    data: Sequences,
    *,
    draws: int = 1000,
    replications: int = 400,
    statistics: Mapping[str, Statistic] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Judges a fit: did it arrive, can its posterior be relied on, does the model fit the data?

    - Of a point estimate: its gradient, and how many starts reached its height. Of a variational
      fit: what the last steps still gained, and Pareto k̂ of its draws. Of NUTS: r̂, effective
      sample sizes, divergences.
    - Of a posterior: how much the prior says, see ``prior_sensitivity``.
    - Of discrete states: the expected steps in the rarest one; whether the guide's beliefs are
      calibrated on simulated sequences; how far its bound is below the exact evidence.
    - Of the model, at the medians of the parameters (after NUTS, at their means): whether
      pseudo-residuals are uniform and independent, and where statistics of the data lie among
      those of replications.

    A check that passes does not prove the model. The thresholds stand in the table; those of this
    library's own choice are marked so. p-values are of data that the parameters were fitted to,
    which makes them somewhat too large.

    Args:
        result: the result of ``fit`` or ``nuts``.
        data: the sequences that it was fitted to.
        draws: draws of a guide's parameters, and of every observation for its residual.
        replications: of the data.
        statistics: name -> function of the observations, see ``predictive_check``.
        seed: of all draws; torch's global generator is left unchanged.

    Returns:
        The checks that apply, each with figure, verdict, thresholds and their source; why others
        do not apply; residuals, calibration and the table of statistics.

    Raises:
        ValueError: a bad argument, or data that the model cannot emit.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, diagnose, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> quakes = [13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14]
    >>> data = Sequences.from_arrays([quakes])
    >>> model = HiddenMarkovModel(states=2, emission="poisson").scaled_to(data)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> result = fit(model, guide, data, seed=0, progress=False)
    >>> found = diagnose(result, data, draws=200, replications=100)
    >>> [check.name for check in found.checks if check.verdict != "passes"]
    ['steps in the rarest state']
    >>> round(found["steps in the rarest state"].value), found["residuals uniform, p"].verdict
    (5, 'passes')
    """
    if not isinstance(result, Fit | NutsFit):
        raise ValueError(f"result: must be a Fit or a NutsFit, got {type(result).__name__}")
    require_data(data)
    require_count(draws, "draws", 25)
    require_count(replications, "replications", 20)
    data = result.model.names.read(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the table says the same
        idata = to_arviz(
            result,
            data,
            draws=draws,
            seed=seed,
            state_draws=25,
            predictive_draws=replications,
            prior_draws=0,
            steps=False,
        )
        model = fitted_model(result, data)
        found, left_out = _of_method(result, data, idata, draws, seed)
        if "log_prior" in idata:
            found.append(checks.prior(prior_sensitivity(idata)))
        residuals = _of_residuals(model, data, draws, seed, found, left_out)
        calibration = _of_states(result, model, data, seed, found, left_out)
        table = predictive_check(idata, statistics)
    found += checks.replicated(table.to_dict("index"))
    return Diagnosis(tuple(found), left_out, residuals, calibration, table)


def fitted_model(result: Fit | NutsFit, data: Sequences) -> Model:
    """Returns the model at the medians of a guide, or at the means of chains in one labelling."""
    if isinstance(result, Fit):
        return result.fitted
    sample, _ = aligned(result, data, sample_of(result, 1))
    return result.model.with_parameters(**{n: x.mean(0) for n, x in sample.values.items()})


def _of_method(
    result: Fit | NutsFit, data: Sequences, idata: Idata, draws: int, seed: int
) -> tuple[list[Check], dict[str, str]]:
    """How the fit ended, and whether its draws can be relied on."""
    left_out: dict[str, str] = {}
    if isinstance(result, NutsFit):
        if result.log_density.shape[0] < 2:
            left_out["largest r̂"] = "needs two chains at least"
            return [], left_out
        return checks.chains(result, idata), left_out
    found = [checks.ended(result)] if result.model.priors else []
    if not result.model.priors:
        left_out["gain of the last steps, nats"] = "all parameters are known"
    found += [check for check in [checks.starts(result)] if check is not None]
    if is_point(result.guide):
        left_out["k̂ of the parameters"] = "a point estimate has no spread"
    elif not result.model.exact:
        left_out["k̂ of the parameters"] = "needs exact inference"
    elif result.model.priors:
        found += checks.weights(importance(result, data, draws=draws, seed=seed))
    return found, left_out


def _of_residuals(
    model: Model,
    data: Sequences,
    draws: int,
    seed: int,
    found: list[Check],
    left_out: dict[str, str],
) -> PseudoResiduals | None:
    if not model.exact:
        left_out["residuals uniform, p"] = "needs exact inference"
        return None
    residuals = pseudo_residuals(model, data, draws=draws, seed=seed)
    found += checks.residual_checks(residuals)
    return residuals


def _of_states(
    result: Fit | NutsFit,
    model: Model,
    data: Sequences,
    seed: int,
    found: list[Check],
    left_out: dict[str, str],
) -> BeliefCalibration | None:
    """Visits, calibration and evidence gap."""
    if model.has_paths and model.exact and model.belief.nodes is None:
        found.append(checks.visits(model, data))
    if isinstance(result, NutsFit):
        left_out["evidence gap, nats a sequence"] = "NUTS sums the states out exactly"
        return None
    guide = result.guide
    if isinstance(guide, BeliefGuide) and isinstance(guide.filter, ExactFilter):
        left_out["evidence gap, nats a sequence"] = "the guide's filter is exact"
        return None
    if model.exact:
        found.append(checks.gap(evidence_gap(result, data)))
    else:
        left_out["evidence gap, nats a sequence"] = "needs exact inference"
    if not model.has_paths:
        left_out["calibration error of beliefs"] = "the states are continuous"
        return None
    if not _has_beliefs(guide, data):
        left_out["calibration error of beliefs"] = f"{type(guide).__name__} has no beliefs"
        return None
    calibration = belief_calibration(result, data, seed=seed)
    found.append(checks.calibrated(calibration))
    return calibration


def _has_beliefs(guide: Guide, data: Sequences) -> bool:
    """Whether the posterior of the guide holds a belief at every step."""
    with torch.no_grad():
        posterior = guide.posterior(guide.model.laws(guide.median(), data[:1]))
    return getattr(posterior, "log_beliefs", None) is not None
