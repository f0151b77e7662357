"""Recursions on Gaussian chains as machine code: kernels for :mod:`.exact_gaussian_compiled`.

Kernels take NumPy arrays. Compiled on first use and kept on disk by numba. All kernels of this
family are in this file: numba renews the code on disk when this file changes, not when another
does.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Sums may be reordered (that is what makes them fast); NaN and infinity keep their meaning.
_fast: Any = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


# --- linear sweeps --------------------------------------------------------------------------------
# The entry of sequence n and step t in an array with shared axes is (min(n, rows), min(t, steps)),
# the greatest index of either axis.


@_fast
def sweep_back(rows: Array, gain: Array, shift: Array, lengths: Array, paths: Array) -> None:
    """x_t = G_t x_{t+1} + c_t of the sequences ``rows``, from the last step that is in ``paths``.

    ``shift`` (S, N, T-1, D), ``paths`` (S, N, T, D), ``gain`` (N|1, T-1|1, D, D).
    """
    size = paths.shape[3]
    own, each = len(gain) - 1, gain.shape[1] - 1
    for n in rows:
        for s in range(len(paths)):
            for t in range(lengths[n] - 2, -1, -1):
                g = gain[min(n, own), min(t, each)]
                for i in range(size):
                    total = shift[s, n, t, i]
                    for j in range(size):
                        total += g[i, j] * paths[s, n, t + 1, j]
                    paths[s, n, t, i] = total


@_fast
def sweep_back_gradient(
    rows: Array,
    gain: Array,
    lengths: Array,
    paths: Array,
    upstream: Array,
    adjoint: Array,
    to_gain: Array,
) -> None:
    """μ_t = upstream_t + G_{t-1}' μ_{t-1} (S, N, T, D), and Σ_s μ_t x_{t+1}' added to ``to_gain``.

    ``to_gain`` (N|1, T-1|1, D, D); of length 0 where it is not asked for.
    """
    size = paths.shape[3]
    own, each = len(gain) - 1, gain.shape[1] - 1
    for n in rows:
        for s in range(len(paths)):
            for i in range(size):
                adjoint[s, n, 0, i] = upstream[s, n, 0, i]
            for t in range(lengths[n] - 1):
                g = gain[min(n, own), min(t, each)]
                for i in range(size):
                    adjoint[s, n, t + 1, i] = upstream[s, n, t + 1, i]
                for j in range(size):
                    a = adjoint[s, n, t, j]
                    for i in range(size):
                        adjoint[s, n, t + 1, i] += g[j, i] * a
                if len(to_gain):
                    out = to_gain[min(n, own), min(t, each)]
                    for i in range(size):
                        for j in range(size):
                            out[i, j] += adjoint[s, n, t, i] * paths[s, n, t + 1, j]


@_fast
def _sandwich(g: Array, s: Array, room: Array, out: Array) -> None:
    """out += g s g'."""
    size = len(out)
    for i in range(size):
        for j in range(size):
            room[i, j] = 0
        for k in range(size):
            a = g[i, k]
            for j in range(size):
                room[i, j] += a * s[k, j]
    for i in range(size):
        for j in range(size):
            total = out.dtype.type(0)
            for k in range(size):
                total += room[i, k] * g[j, k]
            out[i, j] += total


@_fast
def sweep_covariances(
    rows: Array, gain: Array, noise: Array, lengths: Array, covariances: Array
) -> None:
    """S_t = G_t S_{t+1} G_t' + W_t, from the last step that is in ``covariances`` (N, T, D, D)."""
    size = covariances.shape[3]
    own, each = len(gain) - 1, gain.shape[1] - 1
    noisy, noisy_each = len(noise) - 1, noise.shape[1] - 1
    room = np.empty((size, size), covariances.dtype)
    for n in rows:
        for t in range(lengths[n] - 2, -1, -1):
            w = noise[min(n, noisy), min(t, noisy_each)]
            for i in range(size):
                for j in range(size):
                    covariances[n, t, i, j] = w[i, j]
            g = gain[min(n, own), min(t, each)]
            _sandwich(g, covariances[n, t + 1], room, covariances[n, t])


@_fast
def sweep_covariances_gradient(
    rows: Array,
    gain: Array,
    lengths: Array,
    covariances: Array,
    upstream: Array,
    adjoint: Array,
    to_gain: Array,
) -> None:
    """B_{t+1} = upstream_{t+1} + G_t' B_t G_t, and B G S' + B' G S added to ``to_gain``."""
    size = covariances.shape[3]
    own, each = len(gain) - 1, gain.shape[1] - 1
    room = np.empty((size, size), covariances.dtype)
    turned = np.empty((size, size), covariances.dtype)
    for n in rows:
        adjoint[n, 0] = upstream[n, 0]
        for t in range(lengths[n] - 1):
            g = gain[min(n, own), min(t, each)]
            for i in range(size):
                for j in range(size):
                    turned[i, j] = g[j, i]
                    adjoint[n, t + 1, i, j] = upstream[n, t + 1, i, j]
            b, s = adjoint[n, t], covariances[n, t + 1]
            _sandwich(turned, b, room, adjoint[n, t + 1])
            if len(to_gain):
                out = to_gain[min(n, own), min(t, each)]
                _add_triple(b, g, s.T, room, out)
                _add_triple(b.T, g, s, room, out)


@_fast
def _add_triple(a: Array, b: Array, c: Array, room: Array, out: Array) -> None:
    """out += a b c."""
    size = len(out)
    for i in range(size):
        for j in range(size):
            room[i, j] = 0
        for k in range(size):
            x = a[i, k]
            for j in range(size):
                room[i, j] += x * b[k, j]
    for i in range(size):
        for k in range(size):
            x = room[i, k]
            for j in range(size):
                out[i, j] += x * c[k, j]
