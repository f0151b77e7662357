"""Judgements of draws: convergence, sensitivity to the prior, leave-one-out.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25.
    Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and likelihood
    sensitivity with power-scaling, Statistics and Computing 34.
    Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC, Statistics and Computing 27.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pareto import LEAST_WEIGHTS, k_threshold, log_sum_exp, smooth
from .groups import SAMPLES, Idata, arviz, datasets_of, group, is_arviz_1

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


class ConvergenceWarning(UserWarning):
    """Says that a fit may not have arrived, or that its posterior cannot be relied on.

    Of a point estimate: the steps were used up or no step gained anything, the likelihood has no
    maximum, or only one of several starts reached the best height; ``Fit.warnings`` keeps it.

    Args:
        message: what may be wrong, and what to try.

    >>> import warnings
    >>> from beliefzoo.inference import BeliefGuide, ConvergenceWarning, ExactFilter
    >>> from beliefzoo.inference import FitSettings, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson")
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     result = fit(model, guide, data, settings=FitSettings(steps=1), progress=False)
    >>> caught[0].category is ConvergenceWarning, str(caught[0].message)[:28]
    (True, 'fit: not converged, steps us')
    """

    def __init__(self, message: str) -> None:  # documented like all public names
        super().__init__(message)


@dataclass(frozen=True)
class LeaveOneOut:
    """Expected log predictive density (elpd) by Pareto-smoothed leave-one-out; made by :func:`loo`.

    Attributes:
        elpd: Σ_i log p(y_i | y_-i), nats.
        se: its standard error, from the variation over units; NaN for a single unit.
        p: effective number of parameters.
        unit: what is left out, for instance "sequence".
        draws: number of posterior draws.
        elpd_i: elpd of each unit, in the row-major order of the log-likelihood's dimensions,
            without padding.
        pareto_k: Pareto k̂ of each unit, in the same order.

    >>> import numpy as np
    >>> from beliefzoo.inference import LeaveOneOut
    >>> found = LeaveOneOut(
    ...     elpd=-20.0, se=2.0, p=1.5, unit="sequence", draws=1000,
    ...     elpd_i=np.array([-9.0, -11.0]), pareto_k=np.array([0.2, 0.9]),
    ... )
    >>> found.unreliable  # units whose k̂ is above 0.67
    1
    """

    elpd: float
    se: float
    p: float
    unit: str
    draws: int
    elpd_i: NDArray[np.float64] = field(repr=False)
    pareto_k: NDArray[np.float64] = field(repr=False)

    @property
    def unreliable(self) -> int:
        """Number of units whose k̂ is above `k_threshold`."""
        return int(np.sum(self.pareto_k > k_threshold(self.draws)))


@dataclass(frozen=True)
class Convergence:
    """Worst convergence diagnostics of Markov chains over all parameters; not for a guide's draws.

    Attributes:
        r_hat: largest rank-normalised split r̂; 1 if all chains agree, at most 1.01 is the usual
            requirement.
        ess_bulk: smallest effective sample size for means.
        ess_tail: smallest effective sample size for 5 % and 95 % quantiles.

    >>> from beliefzoo.inference import Convergence
    >>> found = Convergence(r_hat=1.003, ess_bulk=830.0, ess_tail=610.0)
    >>> found.r_hat < 1.01 and min(found.ess_bulk, found.ess_tail) > 400
    True
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float


def convergence(idata: Idata) -> Convergence:
    """Computes r̂ and effective sample sizes of the Markov chains in the group ``posterior``.

    Args:
        idata: with at least two chains of four draws each.

    Returns:
        The worst figures over all parameters.

    Raises:
        ValueError: fewer than two chains, four draws each, or no parameter that varies.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, convergence
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> def r_hat(draws):
    ...     idata = arviz_groups.build({"posterior": {"rate": draws}}, dims={})
    ...     return round(convergence(idata).r_hat, 1)
    >>> r_hat(draws), r_hat(draws + [[0.0], [0.0], [0.0], [5.0]])  # one chain elsewhere
    (1.0, 1.5)
    """
    posterior = group(idata, "posterior")
    chains, draws = (posterior.sizes.get(name, 0) for name in ("chain", "draw"))
    if chains < 2 or draws < 4:
        raise ValueError(
            f"idata: convergence needs at least 2 chains of 4 draws, got {chains} of {draws}"
        )
    worst: list[tuple[float, float, float]] = []
    for variable in posterior.data_vars.values():
        table = np.asarray(variable.transpose("chain", "draw", ...), dtype=np.float64)
        for scalar in np.moveaxis(table.reshape(chains, draws, -1), -1, 0):
            if np.ptp(scalar) > 0:  # a constant, such as a zero in a matrix, converged long ago
                worst.append(
                    (
                        float(arviz().rhat(scalar)),
                        float(arviz().ess(scalar, method="bulk")),
                        # 1.x asks for the quantiles; these are the defaults of 0.x.
                        float(arviz().ess(scalar, method="tail", prob=(0.05, 0.95))),
                    )
                )
    if not worst:
        raise ValueError("idata: convergence needs a parameter that varies, got constants alone")
    r_hat, bulk, tail = zip(*worst, strict=True)
    return Convergence(max(r_hat), min(bulk), min(tail))


def prior_sensitivity(idata: Idata) -> Any:
    """Tells how far the posterior moves when the prior, or the likelihood, counts a little more.

    The draws are weighted by p(θ)^(α−1), or p(y | θ)^(α−1), with α = .99 and 1.01; the sensitivity
    is the cumulative Jensen–Shannon distance of the weighted law of a number from its own, a
    doubling of α. Above .05 in both columns prior and data may contradict each other; above it in
    the prior alone, the data say little.

    Args:
        idata: the result of ``to_arviz``, of a fit whose parameters have a spread.

    Returns:
        A pandas DataFrame, one row per number that varies, columns ``prior`` and ``likelihood``.

    Raises:
        ValueError: no log prior or log-likelihood of draws, as for point estimates.

    Source: Kallioinen, Paananen, Bürkner & Vehtari (2024).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, prior_sensitivity
    >>> mean = np.random.default_rng(0).normal(5, 0.7, size=(1, 4000))  # of N(0, 1) and N(10, 1)
    >>> idata = arviz_groups.build(
    ...     {
    ...         "posterior": {"mean": mean},
    ...         "log_prior": {"joint": -(mean**2) / 2},
    ...         "log_likelihood": {"obs": -((10 - mean) ** 2) / 2},
    ...     },
    ...     dims={},
    ... )
    >>> (prior_sensitivity(idata) > 0.05).loc["mean"].tolist()
    [True, True]
    """
    import xarray as xr

    for needed in ("log_prior", "log_likelihood"):
        group(idata, needed)
    new, parts = is_arviz_1(), ("prior", "likelihood")
    with np.errstate(invalid="ignore"):  # of numbers that do not vary, which are left out
        found = [
            arviz().psense(idata, group=part) if new else arviz().psens(idata, component=part)
            for part in parts
        ]
    rows: dict[str, list[float]] = {}
    for name, variable in group(idata, "posterior").data_vars.items():
        spread = variable.std(SAMPLES)
        for place in np.ndindex(*spread.shape):
            if float(spread.values[place]) > 0:
                at = [str(spread[dim].values[i]) for dim, i in zip(spread.dims, place, strict=True)]
                label = f"{name}[{', '.join(at)}]" if at else str(name)
                rows[label] = [float(each[name].values[place]) for each in found]
    columns = zip(parts, zip(*rows.values(), strict=True), strict=True)
    data = {part: ("number", list(values)) for part, values in columns}
    return xr.Dataset(data, coords={"number": list(rows)}).to_dataframe()


def loo(idata: Idata, unit: str = "sequence") -> LeaveOneOut:
    """Pareto-smoothed leave-one-out over the units of one log-likelihood variable.

        elpd = Σ_i log Σ_s w̃_is p(y_i | θ_s) / Σ_s w̃_is,   w_is = 1 / p(y_i | θ_s)

    Args:
        idata: with the group `log_likelihood`.
        unit: what to leave out: the last dimension of the variable to use, of `log_likelihood` or,
            if none there ends in it, of the variables of `sample_stats` whose names end in
            "log_likelihood". `"sequence"` leaves out whole sequences. `"time"` uses the variable of
            log p(y_t | y_<t, θ) and leaves out one such factor at a time; later factors still
            condition on y_t. Units that are NaN in every draw are padding and are left out.

    Returns:
        A `LeaveOneOut`. A `ConvergenceWarning` counts the units whose k̂ cannot be relied on.

    Raises:
        ValueError: not exactly one such variable ends in `unit`, fewer than 25 draws, or a
            log-likelihood that is +inf, NaN in some draws only, or -inf.

    Source: Vehtari, Gelman & Gabry (2017); Vehtari et al. (2024).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, loo
    >>> values = np.random.default_rng(0).normal(-10.0, 0.1, size=(4, 250, 8))
    >>> idata = arviz_groups.build(
    ...     {"log_likelihood": {"obs": values}}, dims={"obs": ["sequence"]}
    ... )
    >>> found = loo(idata)
    >>> round(found.elpd), found.unreliable
    (-80, 0)
    """
    draws = _unit_log_likelihood(idata, unit)
    samples = draws.shape[1]
    if samples < LEAST_WEIGHTS:
        raise ValueError(f"idata must hold at least {LEAST_WEIGHTS} draws; got {samples}")
    if not np.isfinite(draws).all():
        bad = int(np.argmin(np.isfinite(draws).all(1)))
        raise ValueError(
            f"log_likelihood over {unit!r} must be finite, or NaN in all draws of a padded unit; "
            f"unit {bad} holds {draws[bad][~np.isfinite(draws[bad])][0]}"
        )
    weights, k = smooth(-draws, _relative_efficiency(idata, draws))
    elpd_i = log_sum_exp(weights + draws)
    limit = k_threshold(samples)
    if (bad := int((k > limit).sum())) > 0:
        warnings.warn(
            f"loo: the values of {bad} of {len(k)} units cannot be relied on: k̂ up to "
            f"{k.max():.2f}, above {limit:.2f}; matched_loo moves the draws, more draws help, and "
            "fits without these units are exact",
            ConvergenceWarning,
            stacklevel=2,
        )
    in_sample = log_sum_exp(draws) - math.log(samples)
    return LeaveOneOut(
        elpd=float(elpd_i.sum()),
        se=_standard_error(elpd_i),
        p=float((in_sample - elpd_i).sum()),
        unit=unit,
        draws=samples,
        elpd_i=elpd_i,
        pareto_k=k,
    )


def compare(models: Mapping[str, Idata], unit: str = "sequence") -> Any:
    """Compares models of the same data by leave-one-out, best first.

    Args:
        models: name -> inference data with `log_likelihood`; also `observed_data` if present, which
            must be the same for all.
        unit: as in `loo`.

    Returns:
        A pandas DataFrame, one row per model, with the columns `elpd`, `se`, `difference` (elpd
        minus that of the best, so ≤ 0), `se_difference` (from the differences of each unit; NaN for
        a single unit), `p` and `worst_k`. A difference of less than about 4 nats, or of few
        standard errors, does not separate models.

    Raises:
        ValueError: as in `loo`, for no model at all, and for models of different data.

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, compare
    >>> noise = np.random.default_rng(0).normal(0, 0.1, size=(4, 250, 8))
    >>> models = {
    ...     f"{k} states": arviz_groups.build(
    ...         {"log_likelihood": {"obs": mean + noise}}, dims={"obs": ["sequence"]}
    ...     )
    ...     for k, mean in ((1, -12.0), (2, -10.0))
    ... }
    >>> compare(models)["difference"].round(2).to_dict()
    {'2 states': 0.0, '1 states': -16.0}
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"models must name at least one model; got {models!r}")
    results = {name: loo(idata, unit) for name, idata in models.items()}
    first = next(iter(models))
    for name in models:
        ours, theirs = results[first].elpd_i.size, results[name].elpd_i.size
        if ours != theirs:
            raise ValueError(
                f"models must share their data; {first!r} has {ours} units of {unit!r}, "
                f"{name!r} has {theirs}"
            )
        if not _same_observations(models[first], models[name]):
            raise ValueError(f"models must share their data; {name!r} and {first!r} do not")
    order = sorted(results, key=lambda name: -results[name].elpd)
    gaps = [results[name].elpd_i - results[order[0]].elpd_i for name in order]
    columns = {
        "elpd": [results[name].elpd for name in order],
        "se": [results[name].se for name in order],
        "difference": [gap.sum() for gap in gaps],
        "se_difference": [_standard_error(gap) for gap in gaps],
        "p": [results[name].p for name in order],
        "worst_k": [results[name].pareto_k.max() for name in order],
    }
    rows = {name: ("model", values) for name, values in columns.items()}
    import xarray as xr

    return xr.Dataset(rows, coords={"model": order}).to_dataframe()


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the sum of independent values."""
    return math.sqrt(values.size) * float(values.std(ddof=1)) if values.size > 1 else math.nan


def _unit_log_likelihood(idata: Idata, unit: str) -> NDArray[np.float64]:
    """Log-likelihoods as (units, draws), padding left out."""
    variable = _ending_in(unit, group(idata, "log_likelihood"), idata).transpose(..., *SAMPLES)
    samples = variable.sizes["chain"] * variable.sizes["draw"]
    draws = np.asarray(variable.values, dtype=np.float64).reshape(-1, samples)
    kept = draws[~np.isnan(draws).all(axis=1)]
    if not kept.size:
        raise ValueError(f"log_likelihood over {unit!r} must have a unit that is not NaN")
    return kept


def _ending_in(unit: str, dataset: xr.Dataset, idata: Idata) -> xr.DataArray:
    """The one variable of log-likelihoods whose last dimension is `unit`."""
    import xarray as xr

    rest = datasets_of(idata).get("sample_stats", xr.Dataset())
    spare = rest[[name for name in rest.data_vars if str(name).endswith("log_likelihood")]]
    found: dict[str, tuple[str, ...]] = {}
    for place in (dataset, spare):
        ending = {str(name): tuple(map(str, v.dims)) for name, v in place.data_vars.items()}
        names = [name for name, dims in ending.items() if dims and dims[-1] == unit]
        if len(names) == 1:
            return place[names[0]]
        found |= ending
        if names:
            break
    raise ValueError(
        f"unit must be the last dimension of one variable of log_likelihood; got {unit!r}, "
        f"and the variables are {found}"
    )


def _relative_efficiency(idata: Idata, draws: NDArray[np.float64]) -> float:
    """Effective over actual draws of the likelihoods p(y_i | θ_s), averaged over units.

    It only sets the length of the tail, so two hundred units are enough to judge it by. Draws of
    one chain count as independent, as in ArviZ.
    """
    import xarray as xr

    sizes = group(idata, "log_likelihood").sizes
    chains, samples = sizes["chain"], draws.shape[1]
    if chains == 1:
        return 1.0
    chosen = draws[np.unique(np.linspace(0, len(draws) - 1, 200).astype(int))]
    chosen = chosen[np.ptp(chosen, axis=1) > 0]
    if not chosen.size:
        return 1.0
    likelihood = np.exp(chosen - chosen.max(axis=1, keepdims=True)).reshape(
        -1, chains, sizes["draw"]
    )
    dataset = xr.Dataset({"likelihood": (("unit", *SAMPLES), likelihood)})
    effective = np.asarray(arviz().ess(dataset, method="mean")["likelihood"])
    effective = effective[np.isfinite(effective)]
    if not effective.size:
        return 1.0
    return float(np.clip(effective.mean() / samples, 1.0 / samples, 1.0))


def _same_observations(one: Idata, other: Idata) -> bool:
    """Whether the observed data are equal; missing ones do not differ."""
    ours, theirs = datasets_of(one).get("observed_data"), datasets_of(other).get("observed_data")
    return ours is None or theirs is None or bool(ours.equals(theirs))
