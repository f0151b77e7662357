"""Switching linear models by the slowest obvious methods; NumPy float64, nothing of ours.

One sequence at a time. Given a regime path, states and observations are one long Gaussian vector
whose mean and covariance are written out; the evidence is a sum over all K^T paths.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

Floats = NDArray[np.float64]


class Switching(NamedTuple):
    """Parameters, emissions with an axis of regimes."""

    initial: Floats  # (K,)
    transition: Floats  # (K, K)
    dynamics: Floats  # (K, D, D)
    drift: Floats  # (K, D)
    noise: Floats  # (K, D, D)
    initial_mean: Floats  # (D,)
    initial_covariance: Floats  # (D, D)
    loading: Floats  # (K, F, D)
    intercept: Floats  # (K, F)
    observation_noise: Floats  # (K, F, F)


def states_given(model: Switching, path: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Mean (T D) and covariance (T D, T D) of the states along a regime path."""
    size = len(model.initial_mean)
    mean, covariance = model.initial_mean, model.initial_covariance
    for regime in path[1:]:
        a = model.dynamics[regime]
        last = slice(len(mean) - size, len(mean))
        cross = a @ covariance[last]
        own = a @ covariance[last, last] @ a.T + model.noise[regime]
        mean = np.concatenate([mean, a @ mean[last] + model.drift[regime]])
        covariance = np.block([[covariance, cross.T], [cross, own]])
    return mean, covariance


def emission_given(model: Switching, path: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Loading (T F, T D), intercept (T F) and noise (T F, T F) along a path."""
    features, size = model.loading.shape[1:]
    steps = len(path)
    loading = np.zeros((steps * features, steps * size))
    noise = np.zeros((steps * features, steps * features))
    for t, k in enumerate(path):
        rows = slice(t * features, (t + 1) * features)
        loading[rows, t * size : (t + 1) * size] = model.loading[k]
        noise[rows, rows] = model.observation_noise[k]
    return loading, np.concatenate([model.intercept[k] for k in path]), noise


def log_evidence_given(model: Switching, path: tuple[int, ...], y: Floats) -> float:
    """log p(y | s); y (T, F), NaN where missing."""
    mean, covariance = states_given(model, path)
    loading, intercept, noise = emission_given(model, path)
    seen = ~np.isnan(y.flatten())
    if not seen.any():
        return 0.0
    law = multivariate_normal(
        (loading @ mean + intercept)[seen],
        (loading @ covariance @ loading.T + noise)[np.ix_(seen, seen)],
    )
    return float(law.logpdf(y.flatten()[seen]))


def smoothed_given(model: Switching, path: tuple[int, ...], y: Floats) -> tuple[Floats, Floats]:
    """Mean (T D) and covariance (T D, T D) of the states given path and observations."""
    mean, covariance = states_given(model, path)
    loading, intercept, noise = emission_given(model, path)
    seen = ~np.isnan(y.flatten())
    loading, noise = loading[seen], noise[np.ix_(seen, seen)]
    gain = covariance @ loading.T @ np.linalg.inv(loading @ covariance @ loading.T + noise)
    error = y.flatten()[seen] - loading @ mean - intercept[seen]
    return mean + gain @ error, covariance - gain @ loading @ covariance


def log_path(model: Switching, path: tuple[int, ...]) -> float:
    """log p(s)."""
    total = np.log(model.initial[path[0]])
    for before, after in itertools.pairwise(path):
        total += np.log(model.transition[before, after])
    return float(total)


class Enumerated(NamedTuple):
    """What the sum over all paths tells."""

    log_evidence: float
    paths: list[tuple[int, ...]]
    log_joint: Floats  # log p(y, s) of every path
    log_given: Floats  # log p(y | s) of every path
    regimes: Floats  # p(s_t | y), (T, K)


def enumerated(model: Switching, y: Floats) -> Enumerated:
    """The sum over all K^T regime paths."""
    count = len(model.initial)
    paths = list(itertools.product(range(count), repeat=len(y)))
    given = np.array([log_evidence_given(model, path, y) for path in paths])
    joint = given + np.array([log_path(model, path) for path in paths])
    evidence = float(logsumexp(joint))
    regimes = np.zeros((len(y), count))
    for path, weight in zip(paths, np.exp(joint - evidence), strict=True):
        for t, k in enumerate(path):
            regimes[t, k] += weight
    return Enumerated(evidence, paths, joint, given, regimes)


def log_mixed(model: Switching, weight: Floats, y: Floats) -> float:
    """log ∫ exp(Σ_t Σ_k w_tk (log N_k(z_t | z_{t-1}) + log O_k(y_t))) p(z_1) dz of weights (T, K).

    The exponent is a quadratic form in the whole state vector: assembled, and integrated.
    """
    steps, count = weight.shape
    size = len(model.initial_mean)
    precision = np.zeros((steps * size, steps * size))
    linear = np.zeros(steps * size)
    constant = 0.0

    def add(rows: Floats, target: Floats, covariance: Floats, share: float) -> None:
        """Add share · log N(target; rows z, covariance)."""
        nonlocal precision, linear, constant
        inverse = np.linalg.inv(covariance)
        precision = precision + share * rows.T @ inverse @ rows
        linear = linear + share * rows.T @ inverse @ target
        log_scale = np.linalg.slogdet(2 * np.pi * covariance)[1]
        constant -= 0.5 * share * (target @ inverse @ target + log_scale)

    eye = np.eye(steps * size)
    add(eye[:size], model.initial_mean, model.initial_covariance, 1.0)
    for t in range(steps):
        here = eye[t * size : (t + 1) * size]
        seen = ~np.isnan(y[t])
        for k in range(count):
            if t:
                before = eye[(t - 1) * size : t * size]
                rows = here - model.dynamics[k] @ before
                add(rows, model.drift[k], model.noise[k], weight[t, k])
            if seen.any():
                noise = model.observation_noise[k][np.ix_(seen, seen)]
                target = y[t][seen] - model.intercept[k][seen]
                add(model.loading[k][seen] @ here, target, noise, weight[t, k])
    mode = np.linalg.solve(precision, linear)
    log_det = np.linalg.slogdet(precision / (2 * np.pi))[1]
    return float(constant + 0.5 * linear @ mode - 0.5 * log_det)
