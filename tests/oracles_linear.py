"""Linear-Gaussian models the slow way, in NumPy float64: one sequence, the joint law written out.

Imports nothing of ours. Matrices are given for every step: A, b, Q (T-1, …), C, d, R (T, …).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad_vec
from scipy.linalg import expm
from scipy.stats import multivariate_normal

Floats = NDArray[np.float64]


class Joint(NamedTuple):
    """Mean and covariance of (z_1 … z_T, y_1 … y_T), laid end to end."""

    mean: Floats
    covariance: Floats
    states: int  # T D, where the observations begin


class Matrices(NamedTuple):
    """z_1 ~ N(m, P), z_{t+1} = A z_t + b + N(0, Q), y_t = C z_t + d + N(0, R)."""

    m: Floats
    p: Floats
    a: Floats
    b: Floats
    q: Floats
    c: Floats
    d: Floats
    r: Floats


def joint(x: Matrices) -> Joint:
    """Every trajectory is a linear map of the independent noises: that map, row by row."""
    steps, features, size = x.c.shape
    noises = [x.p, *x.q, *x.r]
    widths = [len(noise) for noise in noises]
    starts = np.concatenate([[0], np.cumsum(widths)])
    total = int(starts[-1])
    spread = np.zeros((total, total))
    for start, noise in zip(starts, noises, strict=False):
        spread[start : start + len(noise), start : start + len(noise)] = noise
    rows, means = [], []
    row, mean = np.zeros((size, total)), x.m
    row[:, :size] = np.eye(size)
    for t in range(steps):
        if t:
            row, mean = x.a[t - 1] @ row, x.a[t - 1] @ mean + x.b[t - 1]
            row[:, starts[t] : starts[t] + size] += np.eye(size)
        rows.append(row.copy())
        means.append(mean)
    seen = []
    for t in range(steps):
        y = x.c[t] @ rows[t]
        y[:, starts[steps + t] : starts[steps + t] + features] += np.eye(features)
        seen.append(y)
        means.append(x.c[t] @ means[t] + x.d[t])
    everything = np.concatenate([*rows, *seen])
    return Joint(np.concatenate(means), everything @ spread @ everything.T, steps * size)


def log_density(value: Floats, mean: Floats, covariance: Floats) -> float:
    """log N(value; mean, covariance); 0 for nothing."""
    if not len(value):
        return 0.0
    return float(multivariate_normal(mean, covariance).logpdf(value))


def log_evidence(x: Matrices, y: Floats) -> float:
    """log p(y) of y (T, F), NaN where missing."""
    law, flat = joint(x), y.reshape(-1)
    at = law.states + np.flatnonzero(~np.isnan(flat))
    return log_density(flat[~np.isnan(flat)], law.mean[at], law.covariance[np.ix_(at, at)])


def smoothed(x: Matrices, y: Floats) -> tuple[Floats, Floats]:
    """Mean (T, D) and covariance (T, D, D) of the states given all of y."""
    steps, _, size = x.c.shape
    law, flat = joint(x), y.reshape(-1)
    seen = ~np.isnan(flat)
    at = law.states + np.flatnonzero(seen)
    all_states = np.arange(law.states)
    gain = np.linalg.solve(law.covariance[np.ix_(at, at)], law.covariance[np.ix_(at, all_states)]).T
    mean = law.mean[: law.states] + gain @ (flat[seen] - law.mean[at])
    spread = law.covariance[: law.states, : law.states]
    spread = spread - gain @ law.covariance[np.ix_(at, all_states)]
    blocks = [spread[t * size : (t + 1) * size, t * size : (t + 1) * size] for t in range(steps)]
    return mean.reshape(steps, size), np.array(blocks)


def filtered(x: Matrices, y: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of z_t given y_1 … y_t: the last of the smoother of every prefix."""
    means, spreads = [], []
    for t in range(1, len(y) + 1):
        cut = Matrices(
            x.m, x.p, x.a[: t - 1], x.b[: t - 1], x.q[: t - 1], x.c[:t], x.d[:t], x.r[:t]
        )
        mean, spread = smoothed(cut, y[:t])
        means.append(mean[-1])
        spreads.append(spread[-1])
    return np.array(means), np.array(spreads)


def diffuse_log_evidence(x: Matrices, flat: Floats, y: Floats) -> float:
    """log p(y) with z_1 = N(m, P) + flat δ, δ flat with density (2π)^{-1/2} a direction.

    The integral over δ of the joint density, by its precision in δ: no limit is taken.
    """
    law, seen = joint(x), ~np.isnan(y.reshape(-1))
    at = law.states + np.flatnonzero(seen)
    effect = np.zeros((len(y) * y.shape[1], flat.shape[1]))
    row = flat
    for t in range(len(y)):
        row = row if t == 0 else x.a[t - 1] @ row
        effect[t * y.shape[1] : (t + 1) * y.shape[1]] = x.c[t] @ row
    effect = effect[seen]
    residual = y.reshape(-1)[seen] - law.mean[at]
    inverse = np.linalg.inv(law.covariance[np.ix_(at, at)])
    precision = effect.T @ inverse @ effect
    best = np.linalg.solve(precision, effect.T @ inverse @ residual)
    rest = residual - effect @ best
    constant = len(residual) * np.log(2 * np.pi)
    log_det = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(precision)[1]
    return float(-0.5 * (rest @ inverse @ rest + log_det + constant))


def discretised(f: Floats, c: Floats, s: Floats, gap: float) -> tuple[Floats, Floats, Floats]:
    """e^{FΔ}, ∫ e^{Fs} c ds and ∫ e^{Fs} S e^{F's} ds by numerical integration."""

    def shift(u: float) -> Floats:
        return np.asarray(expm(f * u) @ c)

    def spread(u: float) -> Floats:
        return np.asarray(expm(f * u) @ s @ expm(f * u).T)

    options = {"epsabs": 1e-13, "epsrel": 1e-12}
    b, _ = quad_vec(shift, 0, gap, **options)
    q, _ = quad_vec(spread, 0, gap, **options)
    return np.asarray(expm(f * gap)), b, q
