"""Linear-Gaussian laws for the tests, and the dense normal laws of whole sequences beside them.

The dense laws are NumPy float64 and import nothing of ours: a quadratic function of all states of a
sequence, −½ z'Λz + η'z + c, added up term by term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from beliefzoo.models import LinearLaws, Sequences


def at(laws: Any, name: str, n: int, t: int) -> np.ndarray:
    """One matrix or vector."""
    tensor = getattr(laws, name)
    row = tensor[min(n, len(tensor) - 1)]
    return row[min(t, len(row) - 1)].detach().numpy()


def random_covariance(*shape: int, size: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(*shape, size, size, generator=generator, dtype=torch.float64)
    return root @ root.mT / size + 0.3 * torch.eye(size, dtype=torch.float64)


def random_laws(
    lengths=(6, 3, 1), size=2, features=3, *, varying=True, missing=True, seed=0
) -> LinearLaws:
    """Random matrices, per sequence and step if ``varying``; ragged, with missing elements."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    count, steps = len(lengths), max(lengths)
    n, t, before = (count, steps, steps - 1) if varying else (1, 1, 1)
    values = randn(count, steps, features)
    if missing:
        values[torch.rand(values.shape, generator=g) < 0.25] = torch.nan
        values[0, 1 % steps] = torch.nan
    for row, length in enumerate(lengths):
        values[row, length:] = torch.nan
        values[row, 0, 0] = 0.5
    arrays = [values[row, :length].numpy() for row, length in enumerate(lengths)]
    return LinearLaws(
        data=Sequences.from_arrays(arrays).to(torch.float64),
        initial_mean=randn(n, size),
        initial_covariance=random_covariance(n, size=size, generator=g),
        diffuse=torch.zeros(size, 0, dtype=torch.float64),
        transition=0.7 * randn(n, before, size, size),
        offset=0.3 * randn(n, before, size),
        noise=random_covariance(n, before, size=size, generator=g),
        loading=randn(n, t, features, size),
        intercept=randn(n, t, features),
        observation_noise=random_covariance(n, t, size=features, generator=g),
        parameters={},
    )


class Quadratic:
    """−½ z'Λz + η'z + c on the states of a whole sequence, z of L × D numbers."""

    def __init__(self, numbers: int) -> None:
        self.precision = np.zeros((numbers, numbers))
        self.linear = np.zeros(numbers)
        self.constant = 0.0

    def add_normal(self, matrix: np.ndarray, value: np.ndarray, covariance: np.ndarray, sign=1.0):
        """± log N(value; matrix z, covariance)."""
        inverse = np.linalg.inv(covariance)
        self.precision += sign * matrix.T @ inverse @ matrix
        self.linear += sign * matrix.T @ inverse @ value
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        self.constant += sign * (-0.5 * value @ inverse @ value - 0.5 * log_det)
        return self

    def log_integral(self) -> float:
        """log ∫ exp."""
        log_det = np.linalg.slogdet(self.precision / (2 * np.pi))[1]
        half = 0.5 * self.linear @ np.linalg.solve(self.precision, self.linear)
        return float(self.constant + half - 0.5 * log_det)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        covariance = np.linalg.inv(self.precision)
        return covariance @ self.linear, covariance

    def expected(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """Expectation under a normal law of z."""
        trace = np.trace(self.precision @ covariance)
        form = mean @ self.precision @ mean
        return float(self.constant + self.linear @ mean - 0.5 * (form + trace))


def picker(t: int, length: int, size: int) -> np.ndarray:
    """The matrix that takes z_t out of all states."""
    return np.eye(length * size)[t * size : (t + 1) * size]


def dense_chain(laws: LinearLaws, n: int, out: Quadratic) -> Quadratic:
    """Adds log p(z) of sequence n."""
    length, size = int(laws.lengths[n]), laws.initial_mean.shape[-1]
    mean = laws.initial_mean[min(n, len(laws.initial_mean) - 1)].numpy()
    start = laws.initial_covariance[min(n, len(laws.initial_covariance) - 1)].numpy()
    out.add_normal(picker(0, length, size), mean, start)
    for t in range(1, length):
        a, b, q = (at(laws, name, n, t - 1) for name in ("transition", "offset", "noise"))
        move = picker(t, length, size) - a @ picker(t - 1, length, size)
        out.add_normal(move, b, q)
    return out


def dense_joint(laws: LinearLaws, n: int) -> Quadratic:
    """log p(z, y) of sequence n."""
    length, size = int(laws.lengths[n]), laws.initial_mean.shape[-1]
    out = dense_chain(laws, n, Quadratic(length * size))
    for t in range(length):
        c, d, r = (at(laws, name, n, t) for name in ("loading", "intercept", "observation_noise"))
        seen = laws.mask[n, t].numpy()
        if seen.any():
            value = (laws.values[n, t].numpy() - d)[seen]
            out.add_normal(c[seen] @ picker(t, length, size), value, r[np.ix_(seen, seen)])
    return out


def textbook_filter(laws: LinearLaws) -> tuple[Tensor, Tensor, Tensor]:
    """Kalman's filter by the textbook loop: means, covariances, and the evidence (N,)."""
    count, steps, size = len(laws.data), laws.data.max_length, laws.initial_mean.shape[-1]
    means, covariances = np.zeros((count, steps, size)), np.zeros((count, steps, size, size))
    covariances[:] = np.eye(size)
    evidence = np.zeros(count)
    for n, length in enumerate(laws.lengths.tolist()):
        m = laws.initial_mean[min(n, len(laws.initial_mean) - 1)].numpy()
        v = laws.initial_covariance[min(n, len(laws.initial_covariance) - 1)].numpy()
        for t in range(length):
            if t:
                a, b, q = (at(laws, name, n, t - 1) for name in ("transition", "offset", "noise"))
                m, v = a @ m + b, a @ v @ a.T + q
            c, d, r = (
                at(laws, name, n, t) for name in ("loading", "intercept", "observation_noise")
            )
            seen = laws.mask[n, t].numpy()
            if seen.any():
                c, r = c[seen], r[np.ix_(seen, seen)]
                off = laws.values[n, t].numpy()[seen] - d[seen] - c @ m
                s = c @ v @ c.T + r
                gain = v @ c.T @ np.linalg.inv(s)
                evidence[n] -= 0.5 * off @ np.linalg.solve(s, off)
                evidence[n] -= 0.5 * np.linalg.slogdet(2 * np.pi * s)[1]
                m, v = m + gain @ off, v - gain @ s @ gain.T
            means[n, t], covariances[n, t] = m, v
    return torch.tensor(means), torch.tensor(covariances), torch.tensor(evidence)
