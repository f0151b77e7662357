"""The evidence of linear-Gaussian chains with one feature, and its derivatives by the noises, as
machine code.

The filter treats flat directions of the first state exactly, P = P* + κ P∞ with κ → ∞ (Koopman
1997; Durbin & Koopman 2012, 5.2), and the derivatives are the smoothed disturbances and their
precisions (Koopman & Shephard 1992). Compiled on first use and kept on disk by numba; loops over
entries, as expressions of whole arrays take many times as long to compile.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
_fast: Any = compiled(nogil=True, error_model="numpy", fastmath={"contract", "nsz"})

LOG_2PI = math.log(2 * math.pi)

_SOUND, _NOTHING = 1e-6, 1e-11
"""Shares of its first size from which on a flat direction is seen by an observation, and up to
which it is not; between them rounding might decide."""

_WIDE = 1e10
"""Ratio of the variances of predictions up to which no digits are lost."""


@_fast
def _moved(matrix: Array, by: Array, back: bool, room: Array) -> None:
    """A symmetric matrix becomes by matrix by', or by' matrix by on the way back."""
    d = len(by)
    for i in range(d):
        for j in range(d):
            room[i, j] = 0.0
        for k in range(d):
            factor = by[k, i] if back else by[i, k]
            if factor != 0.0:
                for j in range(d):
                    room[i, j] += factor * matrix[k, j]
    for i in range(d):
        for j in range(i + 1):
            total = 0.0
            for k in range(d):
                total += room[i, k] * (by[k, j] if back else by[j, k])
            matrix[i, j] = total
            matrix[j, i] = total


@_fast
def _turned(x: Array, by: Array, back: bool, room: Array) -> None:
    """x becomes by x, or by' x on the way back."""
    d = len(x)
    for i in range(d):
        room[i] = 0.0
        for k in range(d):
            room[i] += (by[k, i] if back else by[i, k]) * x[k]
    for i in range(d):
        x[i] = room[i]


@_fast
def _dot(x: Array, y: Array) -> float:
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@_fast
def _seen(p: Array, loading: Array, out: Array) -> float:
    """out = P z; returns z' P z."""
    total = 0.0
    for i in range(len(loading)):
        out[i] = 0.0
        for j in range(len(loading)):
            out[i] += p[i, j] * loading[j]
        total += loading[i] * out[i]
    return total


@_fast
def _predicted(
    a: Array,
    matrices: tuple[Array, Array],
    law: tuple[Array, Array, Array],
    flat: bool,
    room: tuple[Array, Array],
) -> None:
    """The state one step later; P∞ stays as it is where nothing is flat any more."""
    by, shift, noise = law
    p, infinite = matrices
    _turned(a, by, False, room[0])
    _moved(p, by, False, room[1])
    for i in range(len(a)):
        a[i] += shift[i]
        for j in range(len(a)):
            p[i, j] += noise[i, j]
    if flat:
        _moved(infinite, by, False, room[1])


@_fast
def _from_flat(flat: Array, infinite: Array) -> float:
    """P∞ = flat flat'; returns its trace."""
    trace = 0.0
    for i in range(len(flat)):
        for j in range(len(flat)):
            infinite[i, j] = _dot(flat[i], flat[j])
        trace += infinite[i, i]
    return trace


@_fast
def _determined(p: Array, infinite: Array, k: Array, pz: Array, iz: Array, f: float) -> None:
    """P* and P∞ given an observation that determines a flat direction; k = P∞ z / z' P∞ z."""
    for i in range(len(k)):
        for j in range(len(k)):
            p[i, j] += k[i] * k[j] * f - k[i] * pz[j] - pz[i] * k[j]
            infinite[i, j] -= k[i] * iz[j]


@_fast
def _filtered(
    law: tuple[Array, ...],
    noises: tuple[Array, Array, Array],
    flat: Array,
    y: Array,
    seen: Flags,
    kept: tuple[Array, Array, Array, Flags],
) -> float:
    """The filter of one point; log p(y), or −∞ where another recursion is to be asked."""
    transition, offset, loading, intercept, mean = law
    first, noise, observed = noises
    gains, innovations, variances, exact = kept
    d = len(mean)
    a, p, infinite = mean.copy(), first.copy(), np.empty((d, d))
    pz, iz, room = np.empty(d), np.empty(d), (np.empty(d), np.empty((d, d)))
    rank, size = flat.shape[1], _from_flat(flat, infinite)
    total, least, most = 0.0, np.inf, 0.0
    for t in range(len(y)):
        if t > 0:
            s = t - 1
            moves = transition[min(s, len(transition) - 1)], offset[min(s, len(offset) - 1)]
            own = moves[0], moves[1], noise[min(s, len(noise) - 1)]
            _predicted(a, (p, infinite), own, rank > 0, room)
        if not seen[t]:
            continue
        z = loading[min(t, len(loading) - 1)]
        v, squared = y[t] - intercept[min(t, len(intercept) - 1)] - _dot(z, a), _dot(z, z)
        f = _seen(p, z, pz) + observed[min(t, len(observed) - 1)]
        share = _seen(infinite, z, iz) if rank > 0 else 0.0
        innovations[t] = v
        exact[t] = share > _SOUND * size * squared
        if exact[t]:
            total -= 0.5 * (math.log(share) + LOG_2PI)
            for i in range(d):
                gains[t, i] = iz[i] / share
            _determined(p, infinite, gains[t], pz, iz, f)
            rank -= 1
        else:
            if share > _NOTHING * size * squared or not f > 0.0:
                return -np.inf
            variances[t], least, most = f, min(least, f), max(most, f)
            total -= 0.5 * (math.log(f) + LOG_2PI + v * v / f)
            for i in range(d):
                gains[t, i] = pz[i] / f
                for j in range(d):
                    p[i, j] -= gains[t, i] * pz[j]
        for i in range(d):
            a[i] += gains[t, i] * v
    return total if rank == 0 and most <= _WIDE * least else -np.inf


@_fast
def _smoothed(
    law: tuple[Array, ...],
    seen: Flags,
    kept: tuple[Array, Array, Array, Flags],
    found: tuple[Array, Array, Array],
) -> None:
    """Adds the derivatives by the noises of one point to ``found``: ½ (r r' − N), and by the first
    covariance."""
    transition, _, loading, _, _ = law
    gains, innovations, variances, exact = kept
    to_first, to_noise, to_observed = found
    d = gains.shape[1]
    r, n = np.zeros(d), np.zeros((d, d))
    room, nk = (np.empty(d), np.empty((d, d))), np.empty(d)
    for t in range(len(gains) - 1, -1, -1):
        if seen[t]:
            z, k = loading[min(t, len(loading) - 1)], gains[t]
            kr = 0.0
            knk = _seen(n, k, nk)
            for i in range(d):
                kr += k[i] * r[i]
            own, precision = 0.0, 0.0
            if not exact[t]:
                own, precision = innovations[t] / variances[t], 1.0 / variances[t]
            u, w = own - kr, precision + knk
            to_observed[min(t, len(to_observed) - 1)] += 0.5 * (u * u - w)
            for i in range(d):
                r[i] += z[i] * u
                for j in range(d):
                    n[i, j] += z[i] * z[j] * w - z[i] * nk[j] - nk[i] * z[j]
        sums = to_first if t == 0 else to_noise[min(t - 1, len(to_noise) - 1)]
        for i in range(d):
            for j in range(d):
                sums[i, j] += 0.5 * (r[i] * r[j] - n[i, j])
        if t > 0:
            by = transition[min(t - 1, len(transition) - 1)]
            _turned(r, by, True, room[0])
            _moved(n, by, True, room[1])


@_fast
def slopes(
    law: tuple[Array, ...],
    noises: tuple[Array, Array, Array],
    flat: Array,
    y: Array,
    seen: Flags,
    evidence: Array,
    found: tuple[Array, Array, Array],
) -> None:
    """Log evidence of one series at M points, and its derivatives by the noises.

    Args:
        law: A (T−1|1, D, D), b (T−1|1, D), C (T|1, D), d (T|1,), μ (D,).
        noises: P (M, D, D), Q (M, T−1|1, D, D), R (M, T|1).
        flat: the flat directions (D, q).
        y: the series (T,).
        seen: which steps are observed.
        evidence: is filled with log p(y), (M,); −∞ where digits would be lost.
        found: gets the derivatives, shapes as ``noises``.
    """
    steps, d = len(y), len(flat)
    kept = np.empty((steps, d)), np.empty(steps), np.empty(steps), np.zeros(steps, np.bool_)
    for m in range(len(evidence)):
        own = noises[0][m], noises[1][m], noises[2][m]
        evidence[m] = _filtered(law, own, flat, y, seen, kept)
        if evidence[m] > -np.inf:
            _smoothed(law, seen, kept, (found[0][m], found[1][m], found[2][m]))
