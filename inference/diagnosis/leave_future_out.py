"""Leave-future-out: how well a model that is fitted to the past predicts what comes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ..arviz_groups import ConvergenceWarning, group
from ..export.to_arviz import to_arviz
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..pareto import LEAST_WEIGHTS, k_threshold, log_sum_exp, smooth
from ..queries.batches import require_data

Refit = Callable[[Sequences], Fit | NutsFit]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class LeaveFutureOut:
    """Log predictive density of the future given the past; made by :func:`leave_future_out`.

    Attributes:
        elpd_t: log p(y_{t+1} … y_{t+h} | y_1 … y_t), summed over the sequences, for every t, nats.
        steps: the times t, numbers of steps that were known.
        k_hat: Pareto k̂ of the weights at every t; NaN right after a fit, which needs none.
        refits: the times t at which the model was fitted.
        horizon: h.

    >>> import numpy as np
    >>> from beliefzoo.inference import LeaveFutureOut
    >>> print(LeaveFutureOut(
    ...     elpd_t=np.array([-2.0, -3.0]), steps=np.array([10, 11]),
    ...     k_hat=np.array([np.nan, 0.2]), refits=(10,), horizon=1,
    ... ))
    leave-future-out, 1 step ahead, 2 times from 10 known steps on
      elpd  -5.0000 ± 1.0000 nats; 1 fit, largest k̂ 0.20
    """

    elpd_t: Array
    steps: NDArray[np.int64]
    k_hat: Array = field(repr=False)
    refits: tuple[int, ...]
    horizon: int

    @property
    def elpd(self) -> float:
        """The sum over all times, nats. With a horizon above 1 a step counts several times."""
        return float(self.elpd_t.sum())

    @property
    def se(self) -> float:
        """Its standard error, were the times independent; NaN for a single one."""
        size = self.elpd_t.size
        return math.sqrt(size) * float(self.elpd_t.std(ddof=1)) if size > 1 else math.nan

    def __str__(self) -> str:
        ahead = "1 step" if self.horizon == 1 else f"{self.horizon} steps"
        fits = "1 fit" if len(self.refits) == 1 else f"{len(self.refits)} fits"
        known = self.k_hat[~np.isnan(self.k_hat)]
        largest = f", largest k̂ {known.max():.2f}" if known.size else ""
        return (
            f"leave-future-out, {ahead} ahead, {self.steps.size} times from {self.steps[0]} "
            f"known steps on\n  elpd  {self.elpd:.4f} ± {self.se:.4f} nats; {fits}{largest}"
        )


@boundary
def leave_future_out(
    refit: Refit,
    data: Sequences,
    *,
    first: int,
    horizon: int = 1,
    threshold: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> LeaveFutureOut:
    r"""Computes how well fits to the past predict what comes, over all times from ``first`` on.

    .. math::
        \mathrm{elpd} = \sum_t \log p(y_{t+1} \dots y_{t+h} \mid y_1 \dots y_t)
        = \sum_t \log \frac{\sum_s w_s\, p(y_{t+1} \dots y_{t+h} \mid y_1 \dots y_t, \theta_s)}
        {\sum_s w_s}

    The draws θ_s are of a fit to the first steps; the weights w_s = p(y of the steps since the fit
    | …, θ_s), smoothed by Pareto, carry them on until their k̂ is above the threshold; then the
    model is fitted again.

    Args:
        refit: takes the first steps of the data and returns the result of ``fit`` (of a posterior
            or a point estimate, whose draws are all the same and which is fitted at every time) or
            of ``nuts``.
        data: sequences that run along the same steps; a step beyond the length of one counts 0.
        first: steps that the first fit knows.
        horizon: steps h that are predicted together.
        threshold: largest k̂ to go on with; None: min(1 − 1 / log10 S, 0.7); −∞
            fits at every time.
        draws: draws S of a guide's parameters; of NUTS all are used.
        seed: of the draws.

    Returns:
        The density of every time, k̂, and the times of the fits.

    Raises:
        ValueError: a bad argument, or a model without exact inference.

    Source: Bürkner, Gabry & Vehtari (2020).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit
    >>> from beliefzoo.inference import leave_future_out
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[3, 5, 4, 4, 6, 2, 5, 3, 4, 5, 4, 3, 5, 4]])
    >>> def refit(past):
    ...     model = HiddenMarkovModel(1, "poisson").scaled_to(past)
    ...     guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    ...     settings = FitSettings(steps=150, parameter_learning_rate=0.1)
    ...     return fit(model, guide, past, settings=settings, progress=False)
    >>> found = leave_future_out(refit, data, first=6, draws=200)
    >>> found.steps.tolist(), found.refits, -16 < found.elpd < -12
    ([6, 7, 8, 9, 10, 11, 12, 13], (6,), True)
    """
    require_data(data)
    require(callable(refit), "refit", "must be a function of Sequences", type(refit).__name__)
    for name, value in (("first", first), ("horizon", horizon), ("draws", draws)):
        require_count(value, name)
    longest = data.max_length
    room = first + horizon <= longest
    require(room, "first", f"must leave {horizon} of {longest} steps to predict", first)
    times = np.arange(first, longest - horizon + 1)
    elpd, k_hat, refits = np.empty(len(times)), np.full(len(times), np.nan), list[int]()
    table = np.empty((0, longest))
    for place, t in enumerate(times):
        weights = _carried(table, refits, int(t), threshold)
        if weights is None:
            table = _by_step(refit(data.head(int(t))), data, draws, seed)
            refits.append(int(t))
            log_weights = np.zeros(len(table))
        else:
            log_weights, k_hat[place] = weights
        future = table[:, t : t + horizon].sum(1)
        elpd[place] = _log_sum(log_weights + future) - _log_sum(log_weights)
    return LeaveFutureOut(elpd, times, k_hat, tuple(refits), horizon)


def _carried(
    table: Array, refits: list[int], t: int, threshold: float | None
) -> tuple[Array, float] | None:
    """Log weights of the draws of the last fit at a later time, and k̂; None if a fit is due."""
    if not refits or len(table) < LEAST_WEIGHTS:  # a point estimate has no draws to weight
        return None
    log_weights, k = smooth(table[:, refits[-1] : t].sum(1)[None], 1.0)
    limit = k_threshold(len(table)) if threshold is None else threshold
    return (log_weights[0], float(k[0])) if k[0] <= limit else None


def _log_sum(values: Array) -> float:
    return float(log_sum_exp(values[None])[0])


def _by_step(result: Fit | NutsFit, data: Sequences, draws: int, seed: int) -> Array:
    """log p(y_t | y_1 … y_{t-1}, θ_s) of all data, summed over the sequences, (S, T)."""
    if not isinstance(result, Fit | NutsFit):
        raise ValueError(f"refit: must return a Fit or a NutsFit, got {type(result).__name__}")
    if not result.model.exact:
        raise ValueError(f"refit: needs a model with exact inference, got {result.model}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        idata = to_arviz(
            result,
            data,
            draws=draws,
            seed=seed,
            state_draws=1,
            predictive_draws=0,
            prior_draws=0,
            steps=True,
            relabel=False,
        )
    steps = group(idata, "sample_stats")["step_log_likelihood"]
    table = np.asarray(steps.transpose("chain", "draw", "sequence", "time"), dtype=np.float64)
    out: Array = np.nan_to_num(table.reshape(-1, *table.shape[2:]), nan=0.0).sum(1)
    return out
