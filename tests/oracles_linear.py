"""Linear-Gaussian models the slow way, in NumPy float64: one sequence, the joint law written out.

Imports nothing of ours. Matrices are given for every step: A, b, Q (T-1, …), C, d, R (T, …).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad_vec
from scipy.linalg import block_diag, expm, solve_discrete_lyapunov
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


# --- with a flat first state: z_1 = N(m, P) + flat δ, δ flat


class Given(NamedTuple):
    """Laws given observations: of δ, if there are any, and of states and observations given δ."""

    mean: Floats
    covariance: Floats
    states: int
    determined: bool  # by the observations; without flat directions True


def flat_effects(x: Matrices, flat: Floats) -> Floats:
    """How all states and all observations depend on δ, (T D + T F, q)."""
    row, rows = flat, []
    for t in range(len(x.c)):
        row = row if t == 0 else x.a[t - 1] @ row
        rows.append(row)
    return np.concatenate([*rows, *(c @ row for c, row in zip(x.c, rows, strict=True))])


def given(x: Matrices, flat: Floats, y: Floats) -> Given:
    """Mean and covariance of all states and all observations, given the observed ones of y."""
    law, effect = joint(x), flat_effects(x, flat)
    seen = ~np.isnan(y.reshape(-1))
    at = law.states + np.flatnonzero(seen)
    own = law.covariance[np.ix_(at, at)]
    gain = np.linalg.solve(own, law.covariance[at]).T if len(at) else np.zeros((len(effect), 0))
    rest = y.reshape(-1)[seen] - law.mean[at]
    mean, covariance = law.mean + gain @ rest, law.covariance - gain @ law.covariance[at]
    if not flat.shape[1]:
        return Given(mean, covariance, law.states, True)
    determined = np.linalg.matrix_rank(effect[at], tol=1e-9) == flat.shape[1]
    if determined:
        weighted = np.linalg.solve(own, effect[at]).T
        variance = np.linalg.inv(weighted @ effect[at])
        left = effect - gain @ effect[at]
        mean = mean + left @ variance @ weighted @ rest
        covariance = covariance + left @ variance @ left.T
    return Given(mean, covariance, law.states, bool(determined))


# --- components of one series, by the textbook: first state, moves, how the series reads it


class Component(NamedTuple):
    """Matrices that are the same at every step."""

    m: Floats
    p: Floats
    flat: Floats
    a: Floats
    b: Floats
    q: Floats
    c: Floats  # (F, D)


def begun(a: Floats, q: Floats, c: Floats, variance: float | None) -> Component:
    """With a first state that is flat, or N(0, variance I)."""
    size = len(a)
    flat = np.eye(size) if variance is None else np.zeros((size, 0))
    return Component(
        np.zeros(size), (variance or 0.0) * np.eye(size), flat, a, np.zeros(size), q, c[None]
    )


def level(variance: float, initial: float | None) -> Component:
    """μ' = μ + N(0, variance)."""
    return begun(np.eye(1), np.array([[variance]]), np.ones(1), initial)


def trend(of_level: float, of_slope: float, initial: float | None) -> Component:
    """μ' = μ + β + N(0, of_level), β' = β + N(0, of_slope)."""
    a = np.array([[1.0, 1.0], [0.0, 1.0]])
    return begun(a, np.diag([of_level, of_slope]), np.array([1.0, 0.0]), initial)


def dummies(period: int, variance: float, initial: float | None) -> Component:
    """γ' = −(γ and the period − 2 before it) + N(0, variance)."""
    a = np.eye(period - 1, k=-1)
    a[0] = -1
    q = np.zeros_like(a)
    q[0, 0] = variance
    return begun(a, q, np.eye(period - 1)[0], initial)


def waves(period: float, count: int, variance: float, initial: float | None) -> Component:
    """Pairs that turn by 2πj / period; the second of a harmonic of half the period has no role."""
    size = 2 * count - (2 * count == period)
    a = np.zeros((2 * count, 2 * count))
    for j in range(count):
        angle = 2 * np.pi * (j + 1) / period
        turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        a[2 * j : 2 * j + 2, 2 * j : 2 * j + 2] = turn
    c = np.tile([1.0, 0.0], count)[:size]
    return begun(a[:size, :size], variance * np.eye(size), c, initial)


def stationary(a: Floats, b: Floats, q: Floats, c: Floats) -> Component:
    """A law that the moves leave unchanged: P = Σ Aⁱ Q A'ⁱ, by the discrete Lyapunov equation."""
    m = np.linalg.solve(np.eye(len(a)) - a, b)
    return Component(m, solve_discrete_lyapunov(a, q), np.zeros((len(a), 0)), a, b, q, c)


def autoregression(coefficient: Floats, variance: float) -> Component:
    """x' = Σ φ_j x_{1−j} + N(0, variance)."""
    a = np.eye(len(coefficient), k=-1)
    a[0] = coefficient
    q = np.zeros_like(a)
    q[0, 0] = variance
    return stationary(a, np.zeros(len(a)), q, np.eye(len(a))[:1])


def cycle(damping: float, frequency: float, variance: float) -> Component:
    """A damped turn by the frequency."""
    cosine, sine = np.cos(frequency), np.sin(frequency)
    a = damping * np.array([[cosine, sine], [-sine, cosine]])
    return stationary(a, np.zeros(2), variance * np.eye(2), np.eye(2)[:1])


def added(parts: Sequence[Component]) -> Component:
    """Independent states whose observations add up."""
    vectors = (np.concatenate([part[i] for part in parts]) for i in (0, 4))
    blocks = [block_diag(*(part[i] for part in parts)) for i in (1, 2, 3, 5)]
    c = np.concatenate([part.c for part in parts], 1)
    m, b = vectors
    return Component(m, blocks[0], blocks[1], blocks[2], b, blocks[3], c)


def over_steps(one: Component, d: Floats, r: Floats) -> Matrices:
    """The same at each of the steps of d (T, F); r (F, F)."""
    steps = len(d)

    def alike(part: Floats, count: int) -> Floats:
        return np.broadcast_to(part, (count, *part.shape))

    moves = (alike(part, steps - 1) for part in (one.a, one.b, one.q))
    return Matrices(one.m, one.p, *moves, alike(one.c, steps), d, alike(r, steps))
