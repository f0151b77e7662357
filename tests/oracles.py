"""The slowest obvious methods, in NumPy float64: what the library is measured against.

Imports nothing of ours. One chain at a time: ``log_initial`` (K,), ``log_transition`` (T-1, K, K),
``log_likelihood`` (T, K); a sum over all K^T paths wherever that can be afforded.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def all_paths(steps: int, states: int) -> Ints:
    """Every path, (K^T, T)."""
    return np.array(list(itertools.product(range(states), repeat=steps)), dtype=np.int64)


def log_joint(
    path: Ints, log_initial: Floats, log_transition: Floats, log_likelihood: Floats
) -> float:
    """log p(z_{1:T}, y_{1:T}), term by term."""
    total = log_initial[path[0]] + log_likelihood[0, path[0]]
    for t in range(1, len(path)):
        total += log_transition[t - 1, path[t - 1], path[t]] + log_likelihood[t, path[t]]
    return float(total)


class Posterior(NamedTuple):
    """All that the sum over paths tells."""

    log_evidence: float
    paths: Ints  # (K^T, T)
    probabilities: Floats  # (K^T,) of each path given the data
    marginals: Floats  # (T, K)
    pairs: Floats  # (T-1, K, K)
    best_log_joint: float


def log_joints(
    paths: Ints, log_initial: Floats, log_transition: Floats, log_likelihood: Floats
) -> Floats:
    """log p(z_{1:T}, y_{1:T}) of many paths (P, T), as ``log_joint``."""
    total = log_initial[paths[:, 0]] + log_likelihood[0, paths[:, 0]]
    for t in range(1, paths.shape[1]):
        before, now = paths[:, t - 1], paths[:, t]
        total = total + log_transition[t - 1, before, now] + log_likelihood[t, now]
    return np.asarray(total)


def path_marginals(paths: Ints, weights: Floats, states: int) -> tuple[Floats, Floats]:
    """Marginals (T, K) and pair marginals (T-1, K, K) of weighted paths."""
    steps = paths.shape[1]
    marginals = np.zeros((steps, states))
    pairs = np.zeros((steps - 1, states, states))
    for t in range(steps):
        np.add.at(marginals[t], paths[:, t], weights)
        if t > 0:
            np.add.at(pairs[t - 1], (paths[:, t - 1], paths[:, t]), weights)
    return marginals, pairs


def posterior(log_initial: Floats, log_transition: Floats, log_likelihood: Floats) -> Posterior:
    """Sum over all paths."""
    steps, states = log_likelihood.shape
    paths = all_paths(steps, states)
    joint = log_joints(paths, log_initial, log_transition, log_likelihood)
    evidence = float(logsumexp(joint))
    weights = np.exp(joint - evidence) if np.isfinite(evidence) else np.full(len(joint), np.nan)
    marginals, pairs = path_marginals(paths, weights, states)
    return Posterior(evidence, paths, weights, marginals, pairs, float(joint.max()))


def log_evidence(log_initial: Floats, log_transition: Floats, log_likelihood: Floats) -> float:
    """log p(y_{1:T}) by the sum over all paths."""
    return posterior(log_initial, log_transition, log_likelihood).log_evidence


def filter_beliefs(log_initial: Floats, log_transition: Floats, log_likelihood: Floats) -> Floats:
    """p(z_t | y_{1:t}) (T, K): the last marginal of every prefix."""
    return np.stack(
        [
            posterior(log_initial, log_transition[: t - 1], log_likelihood[:t]).marginals[-1]
            for t in range(1, len(log_likelihood) + 1)
        ]
    )


def log_increments(log_initial: Floats, log_transition: Floats, log_likelihood: Floats) -> Floats:
    """log p(y_t | y_{1:t-1}) (T,): differences of the evidence of prefixes."""
    prefixes = [
        log_evidence(log_initial, log_transition[: t - 1], log_likelihood[:t])
        for t in range(1, len(log_likelihood) + 1)
    ]
    return np.diff(prefixes, prepend=0.0)


def backward_law(log_transition: Floats, log_beliefs: Floats) -> tuple[Ints, Floats]:
    """All paths and the log q of each.

    q(z) = β_T(z_T) Π_t β_t(z_t) p(z_{t+1} | z_t) / Σ_i β_t(i) p(z_{t+1} | i).
    """
    steps, states = log_beliefs.shape
    paths = all_paths(steps, states)
    log_q = np.empty(len(paths))
    for i, path in enumerate(paths):
        log_q[i] = log_beliefs[-1, path[-1]]
        for t in range(steps - 1):
            column = log_beliefs[t] + log_transition[t, :, path[t + 1]]
            if column[path[t]] == -np.inf:  # not 0 / 0 where the next state cannot be reached
                log_q[i] = -np.inf
            else:
                log_q[i] += column[path[t]] - logsumexp(column)
    return paths, log_q


def elbo(
    log_initial: Floats, log_transition: Floats, log_likelihood: Floats, log_beliefs: Floats
) -> float:
    """E_q[log p(z, y) - log q(z)] over all paths, q the backward law of the beliefs."""
    paths, log_q = backward_law(log_transition, log_beliefs)
    joint = [log_joint(p, log_initial, log_transition, log_likelihood) for p in paths]
    return sum(float(np.exp(q) * (p - q)) for p, q in zip(joint, log_q, strict=True) if q > -np.inf)


def log_forward_backward(
    log_initial: Floats, log_transition: Floats, log_likelihood: Floats
) -> tuple[float, Floats, Floats]:
    """Evidence, log filter and log smoother (T, K) by the textbook loops, every sum in logs."""
    steps, states = log_likelihood.shape
    alpha, beta = np.empty((steps, states)), np.zeros((steps, states))
    alpha[0] = log_initial + log_likelihood[0]
    for t in range(1, steps):
        for j in range(states):
            alpha[t, j] = logsumexp(alpha[t - 1] + log_transition[t - 1, :, j])
        alpha[t] += log_likelihood[t]
    for t in range(steps - 2, -1, -1):
        for i in range(states):
            beta[t, i] = logsumexp(log_transition[t, i] + log_likelihood[t + 1] + beta[t + 1])
    evidence = float(logsumexp(alpha[-1]))
    log_filter = alpha - logsumexp(alpha, axis=1, keepdims=True)
    return evidence, log_filter, alpha + beta - evidence


def scaled_log_evidence(
    log_initial: Floats, log_transition: Floats, log_likelihood: Floats
) -> float:
    """The textbook forward loop with scaling, for long sequences of one (K, K) transition."""
    transition, likelihood = np.exp(log_transition), np.exp(log_likelihood)
    belief = np.exp(log_initial) * likelihood[0]
    total = np.log(belief.sum())
    for step in likelihood[1:]:
        belief = (belief / belief.sum()) @ transition * step
        total += np.log(belief.sum())
    return float(total)
