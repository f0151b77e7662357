"""Linear-Gaussian laws for the tests, and the dense normal laws of whole sequences beside them.

The dense laws are NumPy float64 and import nothing of ours: a quadratic function of all states of a
sequence, −½ z'Λz + η'z + c, added up term by term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beliefzoo.models import Sequences


@dataclass(frozen=True)
class LawsOf:
    """Tensors of a linear-Gaussian model, with densities by the textbook loop."""

    data: Sequences
    initial_mean: Tensor
    initial_covariance: Tensor
    diffuse: Tensor
    transition: Tensor
    offset: Tensor
    noise: Tensor
    loading: Tensor
    intercept: Tensor
    observation_noise: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.data.lengths

    @property
    def values(self) -> Tensor:
        return self.data.values

    @property
    def mask(self) -> Tensor:
        return self.data.mask

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        totals = []
        for n, length in enumerate(self.lengths.tolist()):
            first = self.initial_mean[min(n, len(self.initial_mean) - 1)]
            start = self.initial_covariance[min(n, len(self.initial_covariance) - 1)]
            total = normal(paths[..., n, 0, :] - first, start)
            for t in range(1, length):
                a, b, q = (
                    torch.as_tensor(at(self, name, n, t - 1))
                    for name in ("transition", "offset", "noise")
                )
                total = total + normal(paths[..., n, t, :] - paths[..., n, t - 1, :] @ a.T - b, q)
            totals.append(total)
        return torch.stack(totals, -1)

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        totals = []
        for n, length in enumerate(self.lengths.tolist()):
            total = torch.zeros(paths.shape[:-3], dtype=torch.float64)
            for t in range(length):
                c, d, r = (
                    torch.as_tensor(at(self, name, n, t))
                    for name in ("loading", "intercept", "observation_noise")
                )
                seen = self.mask[n, t]
                residual = self.values[n, t] - d - paths[..., n, t, :] @ c.T
                if bool(seen.any()):
                    total = total + normal(residual[..., seen], r[seen][:, seen])
            totals.append(total)
        return torch.stack(totals, -1)


def at(laws: Any, name: str, n: int, t: int) -> np.ndarray:
    """One matrix or vector."""
    tensor = getattr(laws, name)
    row = tensor[min(n, len(tensor) - 1)]
    return row[min(t, len(row) - 1)].detach().numpy()


def normal(residual: Tensor, covariance: Tensor) -> Tensor:
    zero = torch.zeros(residual.shape[-1], dtype=residual.dtype)
    law = torch.distributions.MultivariateNormal(zero, covariance, validate_args=False)
    return law.log_prob(residual)


def random_covariance(*shape: int, size: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(*shape, size, size, generator=generator, dtype=torch.float64)
    return root @ root.mT / size + 0.3 * torch.eye(size, dtype=torch.float64)


def random_laws(
    lengths=(6, 3, 1), size=2, features=3, *, varying=True, missing=True, seed=0
) -> LawsOf:
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
    return LawsOf(
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


def dense_chain(laws: LawsOf, n: int, out: Quadratic) -> Quadratic:
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


def dense_joint(laws: LawsOf, n: int) -> Quadratic:
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


def textbook_filter(laws: LawsOf) -> tuple[Tensor, Tensor, Tensor]:
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
