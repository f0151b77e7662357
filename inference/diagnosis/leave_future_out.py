"""Leave-future-out: how well a model that is fitted to the past predicts what comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import seeded
from ..export.sample import Sample
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..pareto import LEAST_WEIGHTS, k_threshold, log_sum_exp, smooth
from ..queries.batches import require_data
from .held_out import Simulation, rolled, step_table
from .scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PARAMETERS = 100
"""Draws of the parameters that a forecast is mixed of, at most."""

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
        scores: of the forecasts at every horizon from every time, if they were asked for.

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
    scores: Scores | None = field(default=None, repr=False)

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
        text = (
            f"leave-future-out, {ahead} ahead, {self.steps.size} times from {self.steps[0]} "
            f"known steps on\n  elpd  {self.elpd:.4f} ± {self.se:.4f} nats; {fits}{largest}"
        )
        return text if self.scores is None else f"{text}\n{self.scores}"

    def draw(self) -> Figure:
        """Returns a figure: the density along the times and, if there are scores, by horizon."""
        from .drawing import draw_backtest  # which loads matplotlib

        return draw_backtest(self)


@boundary
def leave_future_out(
    refit: Refit,
    data: Sequences,
    *,
    first: int,
    horizon: int = 1,
    threshold: float | None = None,
    draws: int = 1000,
    forecasts: int = 0,
    level: float = 0.9,
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

    With ``forecasts`` it is a backtest from a rolling origin: at every time the h steps are also
    forecast and scored one by one, see :func:`scores`; the law of the forecast is the mixture over
    weighted θ_s. The result of two models is compared by :func:`compare_forecasts`.

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
        forecasts: simulated continuations per time, of up to 100 of the θ_s; 0: no scores.
        level: probability of the central intervals that are scored.
        seed: of the draws.

    Returns:
        The density of every time, k̂, the times of the fits, and the scores.

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
    require_count(forecasts, "forecasts", 0)
    require(0 < level < 1, "level", "must be in (0, 1)", level)
    times = np.arange(first, longest - horizon + 1)
    elpd, k_hat, refits = np.empty(len(times)), np.full(len(times), np.nan), list[int]()
    fitted: _Fitted | None = None
    judged = list[Scores]()
    for place, t in enumerate(times.tolist()):
        weights = None if fitted is None else _carried(fitted.table, refits[-1], t, threshold)
        if fitted is None or weights is None:
            fitted = _fitted(refit(data.head(t)), data, draws, seed)
            refits.append(t)
            log_weights = np.zeros(len(fitted.table))
        else:
            log_weights, k_hat[place] = weights
        future = fitted.table[:, t : t + horizon].sum(1)
        elpd[place] = _log_sum(log_weights + future) - _log_sum(log_weights)
        if forecasts:
            values = fitted.resampled(log_weights, min(forecasts, MOST_PARAMETERS))
            how = Simulation(forecasts, level, seed + t)
            judged.append(rolled(fitted.result.model, values, data, (t, horizon), how))
    found = Scores.joined(judged) if judged else None
    return LeaveFutureOut(elpd, times, k_hat, tuple(refits), horizon, found)


class _Fitted(NamedTuple):
    """A fit, draws of its parameters, and log p(y_t | y_1 … y_{t-1}, θ_s) of all data, (S, T)."""

    result: Fit | NutsFit
    sample: Sample
    table: Array

    def resampled(self, log_weights: Array, count: int) -> list[dict[str, Tensor]]:
        """Evenly spaced draws in the measure of their weights; only one of equal ones."""
        if self.sample.constant:
            return [self.sample.at(torch.tensor(0))]
        mass = np.exp(log_weights - log_weights.max()).cumsum()
        order = np.searchsorted(mass / mass[-1], (np.arange(count) + 0.5) / count)
        return [self.sample.at(torch.tensor(int(row))) for row in order]


def _carried(
    table: Array, fitted_at: int, t: int, threshold: float | None
) -> tuple[Array, float] | None:
    """Log weights of the draws of the last fit at a later time, and k̂; None if a fit is due."""
    if len(table) < LEAST_WEIGHTS:  # a point estimate has no draws to weight
        return None
    seen = table[:, fitted_at:t].sum(1)
    if not np.isfinite(seen).any():  # impossible under every draw
        return None
    log_weights, k = smooth(seen[None], 1.0)
    limit = k_threshold(len(table)) if threshold is None else threshold
    return (log_weights[0], float(k[0])) if k[0] <= limit else None


def _log_sum(values: Array) -> float:
    """log Σ exp, also of impossible ones alone."""
    return float(log_sum_exp(values[None])[0]) if np.isfinite(values).any() else -math.inf


def _fitted(result: Fit | NutsFit, data: Sequences, draws: int, seed: int) -> _Fitted:
    with seeded(seed), torch.no_grad():
        sample, steps = step_table(result, data, draws)
    return _Fitted(result, sample, np.nansum(steps, 1))
