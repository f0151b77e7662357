"""Clusters of frames, from which starting values are estimated."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def kmeans(
    sample: Array, x: Array, clusters: int, *, lloyd: bool = True, weight: Array | None = None
) -> Tensor:
    """Label frames by k-means of a sample of them.

    If the sample has fewer than ``clusters`` distinct frames, random frames get the remaining
    labels, so that no cluster is empty. Draws from torch's global generator.

    Args:
        sample: frames (M, D) that are clustered.
        x: frames (N, D) that are labelled, each with the nearest centre.
        clusters: K.
        lloyd: Lloyd's algorithm, the best of three runs; otherwise random frames are the centres.
        weight: of the frames of the sample, (M,).

    Returns:
        Labels 0 to K − 1, int64 (N,).

    References:
        Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information Theory 28.
    """
    rng = generator()
    distinct = np.unique(sample, axis=0)
    some = min(clusters, len(distinct))
    if lloyd:
        from sklearn.cluster import KMeans  # loaded when first needed
        from sklearn.exceptions import ConvergenceWarning

        fitted = KMeans(some, n_init=3, max_iter=50, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            # Frames that differ by rounding only can leave a cluster empty; see below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = fitted.fit(sample, sample_weight=weight).predict(x).astype(np.int64)
    else:
        centres = distinct[rng.permutation(len(distinct))[:some]]
        labels = _nearest(x, centres)
    spare = np.flatnonzero(np.bincount(labels, minlength=clusters) == 0)
    if len(spare):
        taken = rng.random(len(x)) < len(spare) / clusters
        labels[taken] = rng.choice(spare, taken.sum())
    return torch.from_numpy(labels)


def _nearest(x: Array, centres: Array) -> NDArray[np.int64]:
    """The nearest of the centres (K, D) for frames (N, D)."""
    best, labels = np.full(len(x), np.inf), np.zeros(len(x), dtype=np.int64)
    for k, centre in enumerate(centres):
        distance = np.square(x - centre).sum(-1)
        labels[distance < best] = k
        best = np.minimum(best, distance)
    return labels


def generator() -> np.random.Generator:
    """A generator of NumPy that is seeded by torch's global one."""
    return np.random.default_rng(int(torch.randint(2**31 - 1, ())))
