"""Posterior predictive checks: statistics of the data compared with those of replications."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.boundary import boundary
from ..arviz_groups import Idata, group

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[Any]
Statistic = Callable[[Array], float]


@boundary
def predictive_check(idata: Idata, statistics: Mapping[str, Statistic] | None = None) -> DataFrame:
    r"""Compares statistics of the observations with those of their replications.

    .. math:: \text{tail} = P(T(y^{rep}) > T(y)) + \tfrac12 P(T(y^{rep}) = T(y))

    A tail near 0 or 1 is a feature of the data that the model misses. Its Monte Carlo error is at
    most about 0.5 / √replications. Since the data are used twice, it is not uniform under a true
    model but too close to 1/2.

    Args:
        idata: the result of ``to_arviz``, with replications.
        statistics: name -> function of one array (sequence, time[, feature]), NaN where nothing was
            observed (replications have the same gaps), returning one number. Default: mean,
            variance and lag-1 autocorrelation (one row per feature); for symbols the entropy of
            their frequencies, the share of the most frequent one, and the share of repeats.

    Returns:
        A pandas DataFrame, one row per statistic: ``observed``; ``mean``, ``sd``, ``low`` and
        ``high`` (5 % and 95 % quantiles) of the replications; ``tail``. Replications whose
        statistic is NaN are left out; ``tail`` is NaN if none is left, or if the observed
        statistic is NaN.

    Raises:
        ValueError: no replications, or a statistic that does not return one number.

    Source: Rubin (1984).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings
    >>> from beliefzoo.inference import fit, predictive_check, to_arviz
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[3, 4, 2, 5, 4, 3], [4, 4, 3, 2, 6, 30]])
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    >>> result = fit(model, guide, data, settings=FitSettings(steps=20), seed=0, progress=False)
    >>> idata = to_arviz(result, data, draws=50, seed=0)
    >>> table = predictive_check(idata, {"largest": lambda y: float(y.max())})
    >>> table.loc["largest", ["observed", "tail"]].tolist()  # the model never gives a 30
    [30.0, 0.0]
    """
    import xarray as xr

    observed = np.asarray(group(idata, "observed_data")["obs"], dtype=np.float64)
    drawn = np.asarray(group(idata, "posterior_predictive")["obs"], dtype=np.float64)
    replicas = np.where(np.isnan(observed), np.nan, drawn.reshape(-1, *observed.shape))
    if statistics is None:
        codes = idata.attrs.get("observations") == "codes"
        coords = group(idata, "observed_data").coords
        names = [str(name) for name in coords["feature"].values] if "feature" in coords else []
        statistics = _OF_SYMBOLS if codes else _of_numbers(names)
    rows = {name: _row(name, function, observed, replicas) for name, function in statistics.items()}
    columns = {column: ("statistic", [row[column] for row in rows.values()]) for column in _COLUMNS}
    return xr.Dataset(columns, coords={"statistic": list(rows)}).to_dataframe()


_COLUMNS = ("observed", "mean", "sd", "low", "high", "tail")


def _row(name: str, function: Statistic, observed: Array, replicas: Array) -> dict[str, float]:
    seen = _number(name, function(observed))
    found = np.array([_number(name, function(replica)) for replica in replicas])
    found = found[~np.isnan(found)]
    if not found.size:
        return dict.fromkeys(_COLUMNS, np.nan) | {"observed": seen}
    tail = float(np.mean(found > seen) + 0.5 * np.mean(found == seen))
    return {
        "observed": seen,
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)) if found.size > 1 else np.nan,
        "low": float(np.quantile(found, 0.05)),
        "high": float(np.quantile(found, 0.95)),
        "tail": np.nan if np.isnan(seen) else tail,
    }


def _number(name: str, value: Any) -> float:
    if np.ndim(value) != 0:
        raise ValueError(
            f"statistics[{name!r}]: must return one number, got an array of shape {np.shape(value)}"
        )
    return float(value)


def _of_numbers(features: list[str]) -> dict[str, Statistic]:
    """Mean, variance and lag-1 autocorrelation, of every feature where there are several."""
    plain: dict[str, Statistic] = {
        "mean": _mean,
        "variance": _variance,
        "lag-1 autocorrelation": _autocorrelation,
    }
    if not features:
        return plain
    return {
        f"{name}[{feature}]": _on_feature(function, place)
        for name, function in plain.items()
        for place, feature in enumerate(features)
    }


def _on_feature(function: Statistic, place: int) -> Statistic:
    return lambda y: function(y[..., place])


def _mean(y: Array) -> float:
    seen = y[~np.isnan(y)]
    return float(seen.mean()) if seen.size else np.nan


def _variance(y: Array) -> float:
    seen = y[~np.isnan(y)]
    return float(seen.var()) if seen.size else np.nan


def _autocorrelation(y: Array) -> float:
    """Mean product of neighbours' deviations from the overall mean, divided by the variance."""
    deviation = y - _mean(y)
    products = deviation[:, 1:] * deviation[:, :-1]
    return _mean(products) / variance if (variance := _variance(y)) > 0 else np.nan


def _shares(y: Array) -> Array:
    counts = np.unique(y[~np.isnan(y)], return_counts=True)[1]
    return np.asarray(counts / counts.sum())


def _entropy(y: Array) -> float:
    """Entropy of the frequencies of the symbols, nats."""
    shares = _shares(y)
    return float(-(shares * np.log(shares)).sum())


def _most_frequent(y: Array) -> float:
    return float(_shares(y).max())


def _repeats(y: Array) -> float:
    """Share of neighbours that are the same symbol."""
    pairs = ~np.isnan(y[:, 1:]) & ~np.isnan(y[:, :-1])
    return float((y[:, 1:] == y[:, :-1])[pairs].mean()) if pairs.any() else np.nan


_OF_SYMBOLS: dict[str, Statistic] = {
    "entropy": _entropy,
    "share of the most frequent": _most_frequent,
    "share of repeats": _repeats,
}
