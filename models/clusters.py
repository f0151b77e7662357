"""Clusters of frames, from which starting values are estimated."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def kmeans(sample: Array, x: Array, clusters: int, *, weight: Array | None = None) -> Tensor:
    """Label frames by k-means of a sample of them, the best of three runs.

    If the sample has fewer than ``clusters`` distinct frames, random frames get the remaining
    labels, so that no cluster is empty. Draws from torch's global generator.

    Args:
        sample: frames (M, D) that are clustered.
        x: frames (N, D) that are labelled, each with the nearest centre.
        clusters: K.
        weight: of the frames of the sample, (M,).

    Returns:
        Labels 0 to K − 1, int64 (N,).

    References:
        Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information Theory 28.
    """
    from sklearn.cluster import KMeans  # loaded when first needed
    from sklearn.exceptions import ConvergenceWarning

    rng = generator()
    some = min(clusters, len(np.unique(sample, axis=0)))
    fitted = KMeans(some, n_init=3, max_iter=50, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        # Frames that differ by rounding only can leave a cluster empty; see below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = fitted.fit(sample, sample_weight=weight).predict(x).astype(np.int64)
    return torch.from_numpy(_none_empty(labels, clusters, rng))


def at_random(sample: Array, x: Array, clusters: int, count: int) -> Tensor:
    """Label frames several times, each time by the nearest of random centres.

    Args:
        sample: frames (M, D), the centres are some of them.
        x, clusters: as for ``kmeans``.
        count: number of times.

    Returns:
        Labels 0 to K − 1, int64 (count, N).
    """
    rng = generator()
    distinct = np.unique(sample, axis=0)
    some = rng.random((count, len(distinct))).argsort(-1)[:, :clusters]
    best, labels = np.full((count, len(x)), np.inf), np.zeros((count, len(x)), dtype=np.int64)
    for k in range(some.shape[1]):
        distance = np.square(x - distinct[some[:, k], None]).sum(-1)
        labels[distance < best] = k
        best = np.minimum(best, distance)
    return torch.from_numpy(np.stack([_none_empty(own, clusters, rng) for own in labels]))


def _none_empty(
    labels: NDArray[np.int64], clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels (N,) of which random ones were replaced by those that no frame has."""
    spare = np.flatnonzero(np.bincount(labels, minlength=clusters) == 0)
    if len(spare):
        taken = rng.random(len(labels)) < len(spare) / clusters
        labels[taken] = rng.choice(spare, taken.sum())
    return labels


def generator() -> np.random.Generator:
    """A generator of NumPy that is seeded by torch's global one."""
    return np.random.default_rng(int(torch.randint(2**31 - 1, ())))
