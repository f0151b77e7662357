"""Pareto-smoothed importance sampling: how far weights can be relied on, and their mean.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25.
    Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEAST_WEIGHTS = 25
"""Fewest weights: a fifth of them is the tail, and a Pareto fit needs five points."""
_EQUAL = 1e-3  # a tail this narrow in log weights is float32 rounding as likely as not


def k_threshold(draws: int) -> float:
    """Largest Pareto k̂ at which importance weights of so many draws can be relied on.

        min(1 - 1 / log10 S, 0.7),   S = draws

    Args:
        draws: number of draws S.

    Raises:
        ValueError: fewer than two draws.

    Source: Vehtari et al. (2024).

    >>> from beliefzoo.inference.pareto import k_threshold
    >>> round(k_threshold(100), 2), k_threshold(100_000)
    (0.5, 0.7)
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2; got {draws}")
    return min(1.0 - 1.0 / math.log10(draws), 0.7)


def pareto_k(log_weights: ArrayLike) -> float:
    """Shape k̂ of the generalized Pareto tail of importance weights.

    For weights w_s = p(x_s) / q(x_s) of draws x_s from q, moments of w of order 1/k̂ and above
    are infinite: above 0.5 the variance, above 1 the mean. Compare with `k_threshold`.

    Args:
        log_weights: log w_s, any shape, at least 25 values, up to a constant. -inf is a weight of
            zero.

    Returns:
        k̂; 0 if the weights of the tail are equal to one part in a thousand, inf if the Pareto fit
        fails, as it does when too few weights differ from zero in float64.

    Raises:
        ValueError: too few weights, NaN, +inf, or no positive weight.

    >>> import numpy as np
    >>> from beliefzoo.inference.pareto import pareto_k
    >>> x = np.random.default_rng(0).normal(size=5000)  # from q = N(0, 1)
    >>> wide = -np.log(2) - x**2 / 8 + x**2 / 2  # p = N(0, 4), whose weights have no variance
    >>> pareto_k(np.zeros(100)), pareto_k(wide) > 0.5
    (0.0, True)
    """
    _, k = smooth(_weights(log_weights)[None], 1.0)
    return float(k[0])


def psis_log_mean(log_weights: ArrayLike) -> float:
    """Log of the mean importance weight, with Pareto-smoothed tail.

        log( 1/S Σ_s w̃_s ),   w̃ = w with its largest values replaced by quantiles of the fitted
                              Pareto tail, none above the largest w

    With log w_s = log p(x_s, y) - log q(x_s) this is the importance-corrected log evidence. It is
    reliable if `pareto_k` of the same weights is below `k_threshold`.

    Args:
        log_weights: as in `pareto_k`, but not up to a constant.

    Raises:
        ValueError: as `pareto_k`.

    >>> import numpy as np
    >>> from beliefzoo.inference.pareto import psis_log_mean
    >>> round(psis_log_mean(np.full(100, -3.0)), 6)
    -3.0
    """
    raw = _weights(log_weights)
    smoothed, k = smooth(raw[None], 1.0)
    body = np.argsort(raw, kind="stable")[-_tail_length(raw.size, 1.0) - 1]
    if math.isinf(k[0]) or math.isinf(raw[body]):  # not smoothed
        return float(log_sum_exp(raw[None])[0]) - math.log(raw.size)
    # Smoothing keeps the weights below the tail, so any of them gives the normalising constant.
    return float(raw[body] - smoothed[0, body]) - math.log(raw.size)


def _weights(log_weights: ArrayLike) -> NDArray[np.float64]:
    """Checked log weights, flat."""
    weights = np.asarray(log_weights, dtype=np.float64).ravel()
    if weights.size < LEAST_WEIGHTS:
        raise ValueError(f"log_weights must be at least {LEAST_WEIGHTS}; got {weights.size}")
    if np.isnan(weights).any() or np.isposinf(weights).any():
        raise ValueError("log_weights must be finite or -inf; got NaN or +inf")
    if np.isneginf(weights).all():
        raise ValueError("log_weights must hold a positive weight; all are -inf")
    return weights


def _tail_length(samples: int, efficiency: float) -> int:
    """Weights in the tail, the longer where the two majors round apart."""
    return math.ceil(min(samples / 5.0, 3.0 * math.sqrt(samples / efficiency)))


def smooth(
    log_weights: NDArray[np.float64], efficiency: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smoothed, normalised log weights and k̂ of each row, shape (rows, samples).

    Rows without a tail to fit keep their weights.
    """
    rows, samples = log_weights.shape
    tail = np.sort(log_weights, axis=1)[:, -_tail_length(samples, efficiency) - 1 :]
    k = np.full(rows, np.inf)
    normalised = log_weights - log_sum_exp(log_weights)[:, None]
    with np.errstate(invalid="ignore"):  # -inf - -inf where most weights are zero
        equal = tail[:, -1] - tail[:, 1] < _EQUAL
    k[equal] = 0.0
    # Below this the weight relative to the largest is zero in float64.
    fits = ~equal & (tail[:, 0] - tail[:, -1] > math.log(np.finfo(np.float64).tiny))
    for row in np.flatnonzero(fits):
        with np.errstate(all="ignore"):  # overflow on the way is harmless, the end is looked at
            smoothed, fitted = _psis(log_weights[row], tail.shape[1] - 1)
        if math.isfinite(fitted) and not np.isnan(smoothed).any():
            normalised[row], k[row] = smoothed, fitted
    return normalised, k


def _psis(log_weights: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], float]:
    """Normalised log weights of which up to ``most`` are the quantiles of their Pareto tail, and k̂.

    ArviZ has the same; loading it takes seconds, which no fit should wait for.
    """
    weights = log_weights - log_weights.max()
    order = np.argsort(weights, kind="stable")
    least = max(weights[order[-most - 1]], math.log(np.finfo(np.float64).tiny))
    tail = order[weights[order] > least]
    if len(tail) < 5:
        return weights, math.inf
    k, scale = _generalised_pareto(np.exp(weights[tail]) - math.exp(least))
    chance = (np.arange(len(tail)) + 0.5) / len(tail)
    excess = np.expm1(-k * np.log1p(-chance)) / k if k else -np.log1p(-chance)
    weights[tail] = np.minimum(np.log(scale * excess + math.exp(least)), 0)
    return weights - log_sum_exp(weights[None])[0], k


def _generalised_pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Shape k and scale of a generalised Pareto law of sorted excesses, by Zhang & Stephens (2009).

    The posterior mean of b = −k / scale on a grid; k is drawn to 1/2 as by ten observations.
    """
    n = len(excess)
    points = 30 + math.isqrt(n)
    quartile = excess[int(n / 4 + 0.5) - 1]
    b = 1 - np.sqrt(points / (np.arange(points) + 0.5))
    b = 1 / excess[-1] + b / (3 * quartile)
    shape = np.log1p(-b[:, None] * excess).mean(axis=1)
    log_likelihood = n * (np.log(-b / shape) - shape - 1)
    weight = 1 / np.exp(log_likelihood - log_likelihood[:, None]).sum(axis=1)
    weight[weight < 10 * np.finfo(np.float64).eps] = 0
    mean = float((weight * b).sum() / weight.sum())
    k = float(np.log1p(-mean * excess).mean())
    return (n * k + 5) / (n + 10), -k / mean


def log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sum of exponentials of each row, none of which is all -inf."""
    largest = values.max(axis=1)
    return np.asarray(largest + np.log(np.exp(values - largest[:, None]).sum(axis=1)))
