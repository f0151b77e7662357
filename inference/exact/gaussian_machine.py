"""Recursions on Gaussian chains as machine code: kernels for :mod:`.gaussian_cpu`.

Kernels take NumPy arrays. Compiled on first use and kept on disk by numba. All kernels of this
family are in this file: numba renews the code on disk when this file changes, not when another
does.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]

# Sums may be reordered (that is what makes them fast); NaN and infinity keep their meaning.
_fast: Any = compiled(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


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
        _copy(upstream[n, 0], adjoint[n, 0])
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


# --- the Kalman filter ----------------------------------------------------------------------------
# A *chain* is what the gains of some sequences have in common: covariances depend on the matrices
# and on what was observed, not on the values. A *row* is a mean that is carried along a chain: of a
# sequence, of a direction of the diffuse initial law, or of a simulated sequence.
#
# A step stands for its observed elements: p of the F features, numbered 0 … p - 1. With predicted
# mean m and covariance P, C their loading and R their noise,
#     S = C P C' + R = L L',  e = L^-1 (y - C m - d),  M = L^-1 C P (p, D),
#     filtered mean m + M' e, filtered covariance P - M' M.
# No covariance is taken as a difference: with a *root* U of P = U' U, reflections turn the rows
# (R^1/2, 0), (U C', U) into (L', M), (0, root of the filtered covariance), and those of the
# filtered U, (Q^1/2, 0), (U A', U), into (V, X), (0, Y), where V is the root of the next P
# (Kaminski, Bryson & Schmidt 1971). So variances are never negative, and lose no digits beside
# larger ones. It takes longer than Joseph's form P - M' M = (I - K C) P (I - K C)' + K R K', which
# loses them where variances differ by orders alone.

LANES = 8
"""Rows of one chain that are worked on side by side."""

SETTLED = 2e-15
"""A predicted covariance that changes by less than this share of its scale is a steady state."""

SINGULAR = 1e-14
"""A variance below this share of what it was before other features were taken out is rounding."""

ROUNDED = 1e-28
"""The same for the recursion of roots, where rounding is some 1e-32 of a variance."""

GROUND = 1e-13
"""Least standard deviation of what a step adds where roots are inverted, as a share of the rest."""


class System(NamedTuple):
    """The chain's arrays, float64; the entry of sequence n and step t as above."""

    transition: Array
    """(N|1, T-1|1, D, D)"""
    offset: Array
    """(N|1, T-1|1, D)"""
    noise: Array
    """(N|1, T-1|1, D, D); for the recursion of roots its root, lower triangles"""
    loading: Array
    """(N|1, T|1, F, D)"""
    intercept: Array
    """(N|1, T|1, F)"""
    observation_noise: Array
    """(N|1, T|1, F, F)"""
    mask: Array
    """(N, T, F)"""


class Chains(NamedTuple):
    """The chains: a sequence whose matrices and mask each has, and its number of steps."""

    sequences: Array
    ends: Array


class Rows(NamedTuple):
    """The rows: values, what they belong to, where they end, and how they are laid in blocks."""

    values: Array
    """(V, T, F), of the first V rows; the others have neither values nor offset nor intercept."""
    sequences: Array
    """(rows,); whose offset and intercept a row has"""
    ends: Array
    """(rows,)"""
    chains: Array
    """(blocks,); the chain of a block"""
    blocks: Array
    """(blocks, LANES); the rows of a block, -1 where there is none"""


class Gains(NamedTuple):
    """What ``gains`` finds for a stretch of time; entry [g, at[g, t - start]] is that of step t."""

    at: Array
    """(G, S)"""
    predicted: Array
    """P (G, S, D, D)"""
    filtered: Array
    """(G, S, D, D)"""
    gain: Array
    """M (G, S, F, D)"""
    factor: Array
    """L (G, S, F, F)"""
    log_determinants: Array
    """log det S (G, S), by step"""
    least: Array
    """the least variance in S of each feature (G, F)"""
    most: Array
    """the greatest"""
    ahead: Array
    """V (G, S, D, D), upper triangular, V' V = A P A' + Q; this and the next two are of length 0
    where they are not asked for."""
    across: Array
    """X (G, S, D, D), V' X = A P, of the filtered P"""
    left: Array
    """Y (G, S, D, D), Y' Y = P - X' X: the covariance given the state after"""


@_fast
def _of(table: Array, n: int, t: int) -> Any:
    """The entry of sequence n and step t."""
    return table[min(n, len(table) - 1), min(t, table.shape[1] - 1)]


@_fast
def _observed(mask: Array, n: int, t: int, which: Array) -> int:
    """The number p of features observed at a step; which[:p] are their places."""
    p = 0
    for f in range(len(which)):
        if mask[n, t, f]:
            which[p] = f
            p += 1
    return p


@_fast
def _copy(x: Array, out: Array) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[i, j]


@_fast
def _clear(out: Array) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = 0


@_fast
def _product_turned(a: Array, b: Array, out: Array) -> None:
    """out = a' b."""
    _clear(out)
    for k in range(a.shape[0]):
        for i in range(out.shape[0]):
            x = a[k, i]
            for j in range(out.shape[1]):
                out[i, j] += x * b[k, j]


@_fast
def _product(a: Array, b: Array, out: Array) -> None:
    """out = a b."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = 0
        for k in range(a.shape[1]):
            x = a[i, k]
            for j in range(out.shape[1]):
                out[i, j] += x * b[k, j]


@_fast
def _divide(factor: Array, p: int, out: Array) -> None:
    """out[:p] = L^-1 out[:p]."""
    for i in range(p):
        for k in range(i):
            x = factor[i, k]
            for j in range(out.shape[1]):
                out[i, j] -= x * out[k, j]
        x = 1 / factor[i, i]
        for j in range(out.shape[1]):
            out[i, j] *= x


@_fast
def _divide_turned(factor: Array, p: int, out: Array) -> None:
    """out[:p] = L^-T out[:p]."""
    for i in range(p - 1, -1, -1):
        for k in range(i + 1, p):
            x = factor[k, i]
            for j in range(out.shape[1]):
                out[i, j] -= x * out[k, j]
        x = 1 / factor[i, i]
        for j in range(out.shape[1]):
            out[i, j] *= x


@_fast
def _cholesky(matrix: Array, p: int) -> int:
    """L in the lower triangle; the number of rows that were possible, p if all."""
    for i in range(p):
        whole = matrix[i, i]
        for k in range(i):
            total = matrix[i, k]
            for j in range(k):
                total -= matrix[i, j] * matrix[k, j]
            matrix[i, k] = total / matrix[k, k]
        pivot = whole
        for j in range(i):
            pivot -= matrix[i, j] * matrix[i, j]
        if not pivot > SINGULAR * whole or not pivot < np.inf:
            return i
        matrix[i, i] = math.sqrt(pivot)
    return p


@_fast
def _update(
    predicted: Array,
    loading: Array,
    noise: Array,
    which: Array,
    p: int,
    gain: Array,
    factor: Array,
) -> int:
    """M and L of one step; p, or which element has no variance left."""
    size = len(predicted)
    for i in range(p):
        f = which[i]
        for j in range(size):
            total = 0.0
            for k in range(size):
                total += loading[f, k] * predicted[k, j]
            gain[i, j] = total
        for k in range(i + 1):
            total = noise[f, which[k]]
            for j in range(size):
                total += gain[i, j] * loading[which[k], j]
            factor[i, k] = total
    possible: int = _cholesky(factor, p)
    if possible == p:
        _divide(factor, p, gain)
    return possible


@_fast
def _joseph(  # noqa: C901 - one sweep
    predicted: Array,
    loading: Array,
    noise: Array,
    which: Array,
    p: int,
    gain: Array,
    factor: Array,
    turned: Array,
    carried: Array,
    rest: Array,
    moved: Array,
    filtered: Array,
) -> None:
    """(I - K C) P (I - K C)' + K R K' with K = M' L^-1: what is left of P is not a difference.

    ``turned``, ``carried`` (F, D) and ``rest``, ``moved`` (D, D) are room.
    """
    size = len(predicted)
    for i in range(p):
        for j in range(size):
            turned[i, j] = gain[i, j]
    _divide_turned(factor, p, turned)  # K'
    for i in range(size):
        for j in range(size):
            rest[i, j] = 0
        rest[i, i] = 1
        for k in range(p):
            x, f = turned[k, i], which[k]
            for j in range(size):
                rest[i, j] -= x * loading[f, j]
    _product(rest, predicted, moved)
    for k in range(p):
        for j in range(size):
            carried[k, j] = 0
        for i in range(p):
            x = noise[which[k], which[i]]
            if x != 0:
                for j in range(size):
                    carried[k, j] += x * turned[i, j]
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for k in range(size):
                total += moved[i, k] * rest[j, k]
            for k in range(p):
                total += turned[k, i] * carried[k, j]
            filtered[i, j] = total
            filtered[j, i] = total


@_fast
def _predict(transition: Array, noise: Array, filtered: Array, moved: Array, out: Array) -> None:
    """out = A P A' + Q, symmetric to the bit."""
    size = len(out)
    _product(transition, filtered, moved)
    for i in range(size):
        for j in range(i + 1):
            total = 0.5 * (noise[i, j] + noise[j, i])
            for k in range(size):
                total += moved[i, k] * transition[j, k]
            out[i, j] = total
            out[j, i] = total


@_fast
def _root(matrix: Array, which: Array, p: int, out: Array) -> None:
    """Lower triangle L with L L' = M[which, which] of a positive semidefinite M, in out[:p, :p].

    Where a pivot is rounding, so is what is below it, and its column is zero.
    """
    for j in range(p):
        whole = matrix[which[j], which[j]]
        pivot = whole
        for k in range(j):
            pivot -= out[j, k] * out[j, k]
        flat = not pivot > SINGULAR * whole
        root = 0.0 if flat else math.sqrt(pivot)
        out[j, j] = root
        for i in range(j + 1, p):
            out[j, i] = 0
            total = matrix[which[i], which[j]]
            for k in range(j):
                total -= out[i, k] * out[j, k]
            out[i, j] = 0.0 if flat else total / root


@_fast
def _fold(above: Array, below: Array, pivots: int, width: int, line: Array) -> None:
    """Turns rows so that those ``below`` are zero in the first columns; sums of squares stay.

    By reflections, one for each of the first ``pivots`` columns, which take the rows below and one
    row of ``above``; the latter, upper triangular before, is so afterwards, with a diagonal that is
    not negative. The largest element is the pivot, so that small rows keep their digits (Powell &
    Reid 1969).
    """
    for k in range(pivots):
        square = 0.0
        for r in range(len(below)):
            square += below[r, k] * below[r, k]
        x = above[k, k]
        if x == 0 and square == 0:
            continue
        most = 0
        for r in range(1, len(below)):
            if abs(below[r, k]) > abs(below[most, k]):
                most = r
        norm = math.sqrt(x * x + square)
        if abs(below[most, k]) > x:
            x = below[most, k]
            for j in range(k, width):
                y = below[most, j]
                below[most, j] = above[k, j]
                above[k, j] = y
        signed = norm if x > 0 else -norm
        for j in range(k, width):
            line[j] = x * above[k, j]
        _add_rows(below, k, width, line)
        over, scale = 1 / norm, 1 / (norm * (norm + abs(x)))
        for j in range(k, width):
            total = line[j]
            line[j] = (total + signed * above[k, j]) * scale
            above[k, j] = total * over
        _take_rows(line, k, width, below)


@_fast
def _add_rows(rows: Array, k: int, width: int, line: Array) -> None:
    """line += Σ_r rows[r, k] rows[r], four rows at a time."""
    count = len(rows)
    whole = count - count % 4
    for r in range(0, whole, 4):
        a, b, c, d = rows[r, k], rows[r + 1, k], rows[r + 2, k], rows[r + 3, k]
        for j in range(k, width):
            line[j] += a * rows[r, j] + b * rows[r + 1, j] + c * rows[r + 2, j] + d * rows[r + 3, j]
    for r in range(whole, count):
        a = rows[r, k]
        for j in range(k, width):
            line[j] += a * rows[r, j]


@_fast
def _take_rows(line: Array, k: int, width: int, rows: Array) -> None:
    """rows[r] -= rows[r, k] line, and rows[r, k] = 0, four rows at a time."""
    count = len(rows)
    whole = count - count % 4
    for r in range(0, whole, 4):
        a, b, c, d = rows[r, k], rows[r + 1, k], rows[r + 2, k], rows[r + 3, k]
        for j in range(k, width):
            x = line[j]
            rows[r, j] -= a * x
            rows[r + 1, j] -= b * x
            rows[r + 2, j] -= c * x
            rows[r + 3, j] -= d * x
    for r in range(whole, count):
        a = rows[r, k]
        for j in range(k, width):
            rows[r, j] -= a * line[j]
    for r in range(count):
        rows[r, k] = 0


@_fast
def _lay_out(
    loading: Array,
    which: Array,
    p: int,
    root: Array,
    noise_root: Array,
    above: Array,
    below: Array,
    sizes: Array,
) -> None:
    """The rows (R^1/2, 0) in ``above`` and (U C', U) in ``below``; variances in ``sizes``."""
    size = len(root)
    for i in range(p):
        for j in range(p):
            above[i, j] = noise_root[j, i] if j >= i else 0.0
        for j in range(p, p + size):
            above[i, j] = 0
    for j in range(size):
        sizes[j] = 0
    for r in range(size):
        for i in range(p):
            f = which[i]
            total = 0.0
            for j in range(r, size):
                total += root[r, j] * loading[f, j]
            below[r, i] = total
        for j in range(size):
            x = root[r, j] if j >= r else 0.0
            below[r, p + j] = x
            sizes[j] += x * x


@_fast
def _update_root(
    loading: Array,
    noise: Array,
    which: Array,
    p: int,
    root: Array,
    gain: Array,
    factor: Array,
    above: Array,
    below: Array,
    sizes: Array,
    line: Array,
) -> int:
    """M and L of one step, and the root of the filtered covariance in below[:, p:]; p, or which
    element has no variance left.

    ``above`` (F, F + D) has the rows that become (L', M), ``sizes`` gets the predicted variances.
    """
    size = len(root)
    _root(noise, which, p, factor)
    _lay_out(loading, which, p, root, factor, above, below, sizes)
    _fold(above, below, p, p + size, line)
    for i in range(p):
        whole = 0.0
        for j in range(i + 1):
            whole += above[j, i] * above[j, i]
            factor[i, j] = above[j, i]
        pivot = above[i, i] * above[i, i]
        if not pivot > SINGULAR * whole or not pivot < np.inf:
            return i
        for j in range(size):
            gain[i, j] = above[i, p + j]
    if p:
        _forget(sizes, p, below)
    return p


@_fast
def _forget(before: Array, p: int, below: Array) -> None:
    """Nothing in place of what is only rounding in the root of the filtered covariance."""
    for j in range(len(before)):
        after = 0.0
        for r in range(len(before)):
            after += below[r, p + j] * below[r, p + j]
        if after <= ROUNDED * before[j]:
            for r in range(len(before)):
                below[r, p + j] = 0


@_fast
def _square(root: Array, first: int, triangular: bool, out: Array) -> None:
    """out = U' U of the columns of U from ``first`` on."""
    size = len(out)
    _clear(out)
    for r in range(len(root)):
        for i in range(r if triangular else 0, size):
            x = root[r, first + i]
            if x != 0:
                for j in range(i + 1):
                    out[i, j] += x * root[r, first + j]
    for i in range(size):
        for j in range(i):
            out[j, i] = out[i, j]


@_fast
def _predict_root(
    transition: Array,
    noise_root: Array,
    p: int,
    wide: bool,
    root: Array,
    sizes: Array,
    ahead: Array,
    left: Array,
    line: Array,
) -> None:
    """The rows (U A', U) below the root of Q, folded: U being root[:, p:].

    Then ``ahead`` is (V, X) and ``left`` (0, Y), X and Y with ``wide`` alone. For these V is
    inverted: in directions without variance its rounding errors would look like knowledge of other
    directions, if there were not a little noise above them.
    """
    size = len(transition)
    for i in range(size):
        for j in range(size):
            ahead[i, j] = noise_root[j, i] if j >= i else 0.0
        if wide:
            bound = 0.0
            for j in range(size):
                ahead[i, size + j] = 0
                bound += abs(transition[i, j]) * math.sqrt(sizes[j])
            ahead[i, i] = max(ahead[i, i], GROUND * bound)
    for r in range(size):
        for i in range(size):
            total = 0.0
            for j in range(size):
                total += root[r, p + j] * transition[i, j]
            left[r, i] = total
        if wide:
            for j in range(size):
                left[r, size + j] = root[r, p + j]
    _fold(ahead, left, size, 2 * size if wide else size, line)


@_fast
def _settled(ahead: Array, before: Array) -> bool:
    """Whether two covariances are equal up to rounding."""
    for i in range(len(ahead)):
        for j in range(i + 1):
            change = ahead[i, j] - before[i, j]
            scale = ahead[i, i] * ahead[j, j]
            if not change * change <= SETTLED * SETTLED * scale:
                return False
    return True


@_fast
def _same_mask(mask: Array, n: int, t: int) -> bool:
    """Whether the same features are observed at steps t - 1 and t."""
    for f in range(mask.shape[2]):  # noqa: SIM110 - compiled
        if mask[n, t, f] != mask[n, t - 1, f]:
            return False
    return True


@_fast
def gains(
    share: Array,
    system: System,
    chains: Chains,
    start: int,
    stop: int,
    constant: bool,
    ahead: Array,
    out: Gains,
    failed: Array,
) -> None:
    """Gains of the chains ``share`` from step ``start`` to ``stop``.

    ``ahead`` (G, D, D) is the predicted covariance of the first step, and afterwards that of the
    step behind the last. Where the matrices do not change in time (``constant``) and the same
    features are observed as before, a predicted covariance that is the last one up to rounding
    leads to the same gains ever after, up to the rounding errors that the recursion makes itself:
    both are of order ε / (1 - ρ), ρ being the rate at which it converges. So they are taken over.

    ``failed`` (G, 2) gets the step and feature without variance, if any.
    """
    size, features = ahead.shape[1], system.mask.shape[2]
    which = np.empty(features, np.int64)
    turned, carried = np.empty((features, size)), np.empty((features, size))
    rest, moved = np.empty((size, size)), np.empty((size, size))
    for g in share:
        n, now = chains.sequences[g], ahead[g]
        last, steady = -1, False  # the last entry made
        for t in range(start, min(stop, chains.ends[g])):
            same = constant and t > start and _same_mask(system.mask, n, t)
            steady = same and (steady or _settled(now, out.predicted[g, last]))
            if steady:
                out.at[g, t - start] = last
                out.log_determinants[g, t - start] = out.log_determinants[g, t - start - 1]
                continue
            last += 1
            out.at[g, t - start] = last
            _copy(now, out.predicted[g, last])
            p = _observed(system.mask, n, t, which)
            gain, factor, after = out.gain[g, last], out.factor[g, last], out.filtered[g, last]
            loading, noise = _of(system.loading, n, t), _of(system.observation_noise, n, t)
            possible = _update(now, loading, noise, which, p, gain, factor)
            if possible < p:
                failed[g, 0], failed[g, 1] = t, which[possible]
                break
            if p:
                part = turned, carried, rest, moved
                _joseph(now, loading, noise, which, p, gain, factor, *part, after)
            else:
                _copy(now, after)
            found = _log_determinant(factor, which, p, out.least[g], out.most[g])
            out.log_determinants[g, t - start] = found
            if t + 1 < system.mask.shape[1]:
                _predict(_of(system.transition, n, t), _of(system.noise, n, t), after, rest, now)


@_fast
def gains_of_roots(
    share: Array,
    system: System,
    chains: Chains,
    start: int,
    stop: int,
    constant: bool,
    ahead: Array,
    out: Gains,
    failed: Array,
) -> None:
    """The same by the recursion of roots; ``ahead`` has roots of covariances, upper triangular."""
    size, features, steps = ahead.shape[1], system.mask.shape[2], system.mask.shape[1]
    which, now = np.empty(features, np.int64), np.empty((size, size))
    above, below = np.empty((features, features + size)), np.empty((size, features + size))
    beyond, left = np.empty((size, 2 * size)), np.empty((size, 2 * size))
    sizes, line = np.empty(size), np.empty(2 * size + features)
    wide = len(out.ahead) > 0
    for g in share:
        n, root = chains.sequences[g], ahead[g]
        _square(root, 0, True, now)
        last, steady = -1, False
        for t in range(start, min(stop, chains.ends[g])):
            same = constant and t > start and _same_mask(system.mask, n, t)
            steady = same and (steady or _settled(now, out.predicted[g, last]))
            if steady:
                out.at[g, t - start] = last
                out.log_determinants[g, t - start] = out.log_determinants[g, t - start - 1]
                continue
            last += 1
            out.at[g, t - start] = last
            _copy(now, out.predicted[g, last])
            p = _observed(system.mask, n, t, which)
            factor, room = out.factor[g, last], (above, below, sizes, line)
            law = _of(system.loading, n, t), _of(system.observation_noise, n, t)
            possible = _update_root(*law, which, p, root, out.gain[g, last], factor, *room)
            if possible < p:
                failed[g, 0], failed[g, 1] = t, which[possible]
                break
            _square(below, p, False, out.filtered[g, last])
            found = _log_determinant(factor, which, p, out.least[g], out.most[g])
            out.log_determinants[g, t - start] = found
            if t + 1 < steps:
                moves = _of(system.transition, n, t), _of(system.noise, n, t)
                _predict_root(*moves, p, wide, below, sizes, beyond, left, line)
                _copy_columns(beyond, 0, root)
                _square(root, 0, True, now)
            if wide:
                followed = t + 1 < steps
                _keep(followed, beyond, 0, out.ahead[g, last])
                _keep(followed, beyond, size, out.across[g, last])
                _copy_columns(
                    left if followed else below, size if followed else p, out.left[g, last]
                )


@_fast
def _keep(followed: bool, x: Array, first: int, out: Array) -> None:
    """out = columns of x from ``first`` on; zero at the last step, which has no other after it."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[i, first + j] if followed else 0.0


@_fast
def _log_determinant(factor: Array, which: Array, p: int, least: Array, most: Array) -> float:
    """log det L L'; the variances are taken note of."""
    total = 0.0
    for i in range(p):
        total += math.log(factor[i, i])
        variance = 0.0
        for k in range(i + 1):
            variance += factor[i, k] * factor[i, k]
        f = which[i]
        least[f] = min(least[f], variance)
        most[f] = max(most[f], variance)
    return 2 * total


@_fast
def _copy_columns(x: Array, first: int, out: Array) -> None:
    """out = columns of x from ``first`` on."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[i, first + j]


@_fast
def _innovate(
    values: Array,
    members: Array,
    ends: Array,
    sequences: Array,
    t: int,
    loading: Array,
    intercept: Array,
    which: Array,
    p: int,
    mean: Array,
    out: Array,
) -> None:
    """out[:p] = y - C m - d, zero for rows that have ended."""
    size = len(mean)
    step = min(t, intercept.shape[1] - 1)
    for i in range(p):
        f = which[i]
        for lane in range(LANES):
            out[i, lane] = 0
        for j in range(size):
            x = loading[f, j]
            for lane in range(LANES):
                out[i, lane] -= x * mean[j, lane]
        for lane in range(LANES):
            r = members[lane]
            if r < 0 or t >= ends[r]:
                out[i, lane] = 0
            elif r < len(values):
                n = min(sequences[r], len(intercept) - 1)
                out[i, lane] += values[r, t, f] - intercept[n, step, f]


@_fast
def _add_gain(gain: Array, p: int, e: Array, out: Array) -> None:
    """out += M' e."""
    for i in range(p):
        for j in range(len(out)):
            x = gain[i, j]
            for lane in range(LANES):
                out[j, lane] += x * e[i, lane]


@_fast
def _add_gain_turned(gain: Array, p: int, sign: float, mean: Array, out: Array) -> None:
    """out[:p] += sign M mean."""
    for i in range(p):
        for j in range(len(mean)):
            x = sign * gain[i, j]
            for lane in range(LANES):
                out[i, lane] += x * mean[j, lane]


@_fast
def _add_loading(loading: Array, which: Array, p: int, sign: float, e: Array, out: Array) -> None:
    """out += sign C' e."""
    for i in range(p):
        f = which[i]
        for j in range(len(out)):
            x = sign * loading[f, j]
            for lane in range(LANES):
                out[j, lane] += x * e[i, lane]


@_fast
def _resume(table: Array, members: Array, out: Array) -> None:
    """out[:, lane] = table[row of the lane], 0 where there is none."""
    for lane in range(LANES):
        r = members[lane]
        for i in range(len(out)):
            out[i, lane] = table[r, i] if r >= 0 else 0.0


@_fast
def _leave(mean: Array, members: Array, table: Array) -> None:
    """table[row of the lane] = mean[:, lane]."""
    for lane in range(LANES):
        r = members[lane]
        if r >= 0:
            for i in range(len(mean)):
                table[r, i] = mean[i, lane]


@_fast
def _load(table: Array, rows: Array, t: int, out: Array) -> None:
    """out[:, lane] = table[row of the lane, t]."""
    for lane in range(LANES):
        r = rows[lane]
        for i in range(len(out)):
            out[i, lane] = table[r, t, i] if r >= 0 else 0.0


@_fast
def _store(mean: Array, members: Array, ends: Array, t: int, table: Array) -> None:
    """table[row of the lane, t] = mean[:, lane], of rows that have not ended."""
    for lane in range(LANES):
        r = members[lane]
        if r >= 0 and t < ends[r]:
            for i in range(len(mean)):
                table[r, t, i] = mean[i, lane]


@_fast
def _store_observed(
    whitened: Array, members: Array, ends: Array, t: int, which: Array, p: int, table: Array
) -> None:
    """The same for the observed elements, and rows that are in the table."""
    for lane in range(LANES):
        r = members[lane]
        if 0 <= r < len(table) and t < ends[r]:
            for i in range(p):
                table[r, t, which[i]] = whitened[i, lane]


@_fast
def _last_of(members: Array, ends: Array) -> int:
    """The number of steps of the longest row of a block."""
    last = 0
    for lane in range(LANES):
        r = members[lane]
        if r >= 0:
            last = max(last, ends[r])
    return last


@_fast
def means(
    begin: int,
    end: int,
    system: System,
    chains: Chains,
    rows: Rows,
    start: int,
    stop: int,
    at: Array,
    gain: Array,
    factor: Array,
    ahead: Array,
    whitened: Array,
    predicted: Array,
    filtered: Array,
) -> None:
    """Whitened innovations, predicted and filtered means of the blocks ``begin`` … ``end``.

    ``at``, ``gain``, ``factor`` are those of ``Gains``.
    ``ahead`` (rows, D) is the predicted mean of the first step, and afterwards that of the step
    behind the last. ``filtered`` is of length 0 where it is not asked for.
    """
    size, features = ahead.shape[1], system.mask.shape[2]
    which = np.empty(features, np.int64)
    now, after = np.empty((size, LANES)), np.empty((size, LANES))
    e = np.empty((features, LANES))
    values, ends, sequences = rows.values, rows.ends, rows.sequences
    for block in range(begin, end):
        g = rows.chains[block]
        n, members = chains.sequences[g], rows.blocks[block]
        _resume(ahead, members, now)
        for t in range(start, min(stop, _last_of(members, ends))):
            u = at[g, t - start]
            _store(now, members, ends, t, predicted)
            p = _observed(system.mask, n, t, which)
            law = _of(system.loading, n, t), system.intercept
            _innovate(values, members, ends, sequences, t, *law, which, p, now, e)
            _divide(factor[g, u], p, e)
            _store_observed(e, members, ends, t, which, p, whitened)
            _copy(now, after)
            _add_gain(gain[g, u], p, e, after)
            if len(filtered):
                _store(after, members, ends, t, filtered)
            if t + 1 < system.mask.shape[1]:
                _product(_of(system.transition, n, t), after, now)
                _add_offset(system.offset, members, sequences, len(values), t, now)
        _leave(now, members, ahead)


@_fast
def _add_offset(
    offset: Array, members: Array, sequences: Array, valued: int, t: int, out: Array
) -> None:
    """out += b of the rows that have values, the first ``valued``."""
    step = min(t, offset.shape[1] - 1)
    for lane in range(LANES):
        r = members[lane]
        if 0 <= r < valued:
            n = min(sequences[r], len(offset) - 1)
            for i in range(len(out)):
                out[i, lane] += offset[n, step, i]


# --- the gradient of the whitened innovations -----------------------------------------------------


class Adjoints(NamedTuple):
    """Gradients that are added to; of length 0 where one is not asked for."""

    transition: Array
    offset: Array
    noise: Array
    loading: Array
    intercept: Array
    observation_noise: Array
    values: Array


@_fast
def _add_pairs(
    sign: float, a: Array, places: Array, count: int, b: Array, width: int, out: Array
) -> None:
    """out[places[:count], :width] += sign Σ_lanes a b'."""
    for i in range(count):
        for j in range(width):
            total = 0.0
            for lane in range(LANES):
                total += a[i, lane] * b[j, lane]
            out[places[i], j] += sign * total


@_fast
def _add_lanes(
    sign: float,
    x: Array,
    places: Array,
    count: int,
    members: Array,
    ends: Array,
    sequences: Array,
    valued: int,
    t: int,
    out: Array,
) -> None:
    """out[sequence of the lane's row, t, places[:count]] += sign x[:count, lane], of rows that have
    values, the first ``valued``, and have not ended."""
    step = min(t, out.shape[1] - 1)
    for lane in range(LANES):
        r = members[lane]
        if 0 <= r < valued and t < ends[r]:
            owner = min(sequences[r], len(out) - 1)
            for i in range(count):
                out[owner, step, places[i]] += sign * x[i, lane]


@_fast
def means_gradient(
    begin: int,
    end: int,
    system: System,
    chains: Chains,
    rows: Rows,
    start: int,
    stop: int,
    at: Array,
    gain: Array,
    factor: Array,
    whitened: Array,
    predicted: Array,
    upstream: Array,
    carry: Array,
    first_chain: int,
    to_gain: Array,
    to_factor: Array,
    out: Adjoints,
) -> None:
    """The adjoint of ``means``, from the last step back; ``at``, ``gain``, ``factor`` as there.

    ``upstream`` (rows, T, F) is the gradient in the whitened innovations; ``carry`` (rows, D) that
    in the predicted means of step ``stop``, and afterwards of step ``start``. ``to_gain`` (·, S, F,
    D) gets Σ e μ' and ``to_factor`` (·, S, F, F) Σ v e' of the rows of each chain from
    ``first_chain`` on, with the adjoints μ of the filtered means and v = L^-T (adjoint of e).
    """
    size, features = carry.shape[1], system.mask.shape[2]
    which = np.empty(features, np.int64)
    ahead, after = np.empty((size, LANES)), np.empty((size, LANES))
    before = np.empty((size, LANES))
    e, v = np.empty((features, LANES)), np.empty((features, LANES))
    ends, every = rows.ends, np.arange(max(size, features))
    for block in range(begin, end):
        g = rows.chains[block]
        n, members = chains.sequences[g], rows.blocks[block]
        lanes = members, ends, rows.sequences, len(rows.values)
        _resume(carry, members, ahead)
        for t in range(min(stop, _last_of(members, ends)) - 1, start - 1, -1):
            u, p = at[g, t - start], _observed(system.mask, n, t, which)
            own = gain[g, u]
            _load_observed(whitened, members, ends, t, which, p, e)
            _load_observed(upstream, members, ends, t, which, p, v)
            _load(predicted, members, t, before)
            # From the adjoint of the next prediction A (m + M' e) + b to that of the filtered mean.
            if t + 1 < system.mask.shape[1]:
                if len(out.transition):
                    _copy(before, after)
                    _add_gain(own, p, e, after)
                    _add_pairs(1.0, ahead, every, size, after, size, _of(out.transition, n, t))
                if len(out.offset):
                    _add_lanes(1.0, ahead, every, size, *lanes, t, out.offset)
                _product_turned(_of(system.transition, n, t), ahead, after)
            else:
                _clear(after)
            _add_gain_turned(own, p, 1.0, after, v)
            _divide_turned(factor[g, u], p, v)
            _add_pairs(1.0, e, every, p, after, size, to_gain[g - first_chain, t - start])
            _add_pairs(1.0, v, every, p, e, p, to_factor[g - first_chain, t - start])
            # From the adjoint v of y - C m - d to loading, intercept and values.
            if len(out.loading):
                _add_pairs(-1.0, v, which, p, before, size, _of(out.loading, n, t))
            if len(out.intercept):
                _add_lanes(-1.0, v, which, p, *lanes, t, out.intercept)
            if len(out.values):
                _store_observed(v, members, ends, t, which, p, out.values)
            _copy(after, ahead)
            _add_loading(_of(system.loading, n, t), which, p, -1.0, v, ahead)
        _leave(ahead, members, carry)


@_fast
def _load_observed(
    table: Array, members: Array, ends: Array, t: int, which: Array, p: int, out: Array
) -> None:
    """out[:p, lane] = the observed elements of table[row of the lane, t], 0 beyond its end."""
    for lane in range(LANES):
        r = members[lane]
        inside = r >= 0 and t < ends[r]
        for i in range(p):
            out[i, lane] = table[r, t, which[i]] if inside else 0.0


@_fast
def _factor_adjoint(factor: Array, p: int, to_factor: Array, out: Array) -> None:
    """The adjoint of S = L L' from that of L (Murray 2016): L^-T Φ(L' L̄) L^-1, symmetric.

    ``to_factor`` is taken as room.
    """
    for i in range(p):
        for j in range(i + 1):
            total = 0.0
            for k in range(i, p):
                total += factor[k, i] * to_factor[k, j]
            out[i, j] = 0.5 * total if i == j else total
            if i != j:
                out[j, i] = 0
    _divide_turned(factor, p, out)
    for i in range(p):
        for j in range(p):
            to_factor[j, i] = out[i, j]
    _divide_turned(factor, p, to_factor)
    for i in range(p):
        for j in range(i + 1):
            x = 0.5 * (to_factor[i, j] + to_factor[j, i])
            out[i, j] = x
            out[j, i] = x


@_fast
def gains_gradient(
    share: Array,
    system: System,
    chains: Chains,
    start: int,
    stop: int,
    found: Gains,
    to_gain: Array,
    to_factor: Array,
    upstream: Array,
    carry: Array,
    out: Adjoints,
) -> None:
    """The adjoint of ``gains``, from the last step back.

    ``to_gain`` and ``to_factor`` as from ``means_gradient`` (taken as room), ``upstream`` (G, T)
    the gradient in log det S; ``carry`` (G, D, D) that in the predicted covariance of step
    ``stop``, and afterwards of step ``start``. Taken of the covariances rather than of their roots.
    """
    size, features = carry.shape[1], system.mask.shape[2]
    which = np.empty(features, np.int64)
    after, moved = np.empty((size, size)), np.empty((size, size))
    twice, small = np.empty((features, size)), np.empty((features, features))
    for g in share:
        n, ahead = chains.sequences[g], carry[g]
        for t in range(min(stop, chains.ends[g]) - 1, start - 1, -1):
            u = found.at[g, t - start]
            if t + 1 < chains.ends[g]:
                transition = _of(system.transition, n, t)
                _product(ahead, transition, moved)
                _product_turned(transition, moved, after)
                if len(out.transition):
                    _add_product(2.0, moved, found.filtered[g, u], _of(out.transition, n, t))
                if len(out.noise):
                    _add(ahead, _of(out.noise, n, t))
            else:
                _clear(after)
            p = _observed(system.mask, n, t, which)
            a, b, weight = to_gain[g, t - start], to_factor[g, t - start], upstream[g, t]
            _update_adjoint(found.gain[g, u], found.factor[g, u], p, a, b, weight, after, small)
            # From the adjoints of C P and S = C P C' + R to R, C, and P, added to ``after``.
            loading = _of(system.loading, n, t)
            _of_products(loading, which, p, a, b, twice)
            if len(out.observation_noise):
                _add_observed(b, which, p, _of(out.observation_noise, n, t))
            if len(out.loading):
                _add_lines(twice, which, p, found.predicted[g, u], _of(out.loading, n, t))
            _add_symmetric(loading, which, p, a, after)
            _copy(after, ahead)


@_fast
def _add(x: Array, out: Array) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += x[i, j]


@_fast
def _add_product(scale: float, a: Array, b: Array, out: Array) -> None:
    """out += scale a b."""
    for i in range(out.shape[0]):
        for k in range(a.shape[1]):
            x = scale * a[i, k]
            for j in range(out.shape[1]):
                out[i, j] += x * b[k, j]


@_fast
def _update_adjoint(
    gain: Array,
    factor: Array,
    p: int,
    to_gain: Array,
    to_factor: Array,
    weight: float,
    after: Array,
    small: Array,
) -> None:
    """From the adjoints of M, L and P - M' M: that of C P in to_gain, of S in to_factor.

    ``small`` (F, F) is room.
    """
    size = len(after)
    for i in range(p):
        for j in range(size):
            total = 0.0
            for k in range(size):
                total += gain[i, k] * after[k, j]
            to_gain[i, j] -= 2 * total
    _divide_turned(factor, p, to_gain)
    for i in range(p):
        for k in range(i + 1):
            total = to_factor[i, k]
            for j in range(size):
                total += to_gain[i, j] * gain[k, j]
            to_factor[i, k] = -total
        to_factor[i, i] += 2 * weight / factor[i, i]
    _factor_adjoint(factor, p, to_factor, small)
    for i in range(p):
        for k in range(p):
            to_factor[i, k] = small[i, k]


@_fast
def _of_products(
    loading: Array, which: Array, p: int, to_product: Array, to_square: Array, twice: Array
) -> None:
    """Adds the adjoint of S, times C, to that of C P; ``twice`` adds it twice."""
    for i in range(p):
        for j in range(loading.shape[1]):
            total = 0.0
            for k in range(p):
                total += to_square[i, k] * loading[which[k], j]
            twice[i, j] = to_product[i, j] + 2 * total
            to_product[i, j] += total


@_fast
def _add_observed(x: Array, which: Array, p: int, out: Array) -> None:
    """out[which, which] += x."""
    for i in range(p):
        for k in range(p):
            out[which[i], which[k]] += x[i, k]


@_fast
def _add_lines(a: Array, which: Array, p: int, b: Array, out: Array) -> None:
    """out[which] += a b."""
    for i in range(p):
        f = which[i]
        for k in range(len(b)):
            x = a[i, k]
            for j in range(len(b)):
                out[f, j] += x * b[k, j]


@_fast
def _add_symmetric(loading: Array, which: Array, p: int, to_product: Array, out: Array) -> None:
    """The symmetric part of out + 2 C' to_product."""
    for i in range(len(out)):
        for j in range(i + 1):
            total = out[i, j] + out[j, i]
            for k in range(p):
                f = which[k]
                total += loading[f, i] * to_product[k, j] + loading[f, j] * to_product[k, i]
            out[i, j] = 0.5 * total
            out[j, i] = 0.5 * total


# --- the smoother ---------------------------------------------------------------------------------
# Given the state after it, a state has covariance Y' Y and moves along with X' V^-T, so that from
# the root W of the smoothed covariance after it the rows Y and W V^-1 X are a root of its own: no
# variance is a difference. W V^-1 is a contraction: what is known later is never less.


@_fast
def smooth_covariances(
    share: Array,
    chains: Chains,
    found: Gains,
    constant: bool,
    smoothed: Array,
    crossed: Array,
) -> None:
    """Smoothed covariances (G, T, D, D), and Cov(z_t, z_{t+1}) (G, T-1, D, D) if it has length.

    ``constant`` as for ``gains``: while these stay the same, the smoothed covariances settle.
    """
    size = smoothed.shape[3]
    root, rows = np.empty((size, size)), np.empty((2 * size, size))
    part, line = np.empty((size, size)), np.empty(size)
    for g in share:
        steady = False
        end = chains.ends[g]
        for t in range(end - 1, -1, -1):
            u = found.at[g, t]
            same = constant and t + 2 < end
            same = same and u == found.at[g, t + 1] and u == found.at[g, t + 2]
            steady = same and (steady or _settled(smoothed[g, t + 1], smoothed[g, t + 2]))
            if steady:
                _copy(smoothed[g, t + 1], smoothed[g, t])
                if len(crossed):
                    _copy(crossed[g, t + 1], crossed[g, t])
                continue
            _copy(found.left[g, u], rows[:size])
            if t + 1 < end:
                _shrink(root, found.ahead[g, u], part)
                _product(part, found.across[g, u], rows[size:])
                if len(crossed):
                    _product_turned(rows[size:], root, crossed[g, t])
            else:
                _copy(found.across[g, u], rows[size:])
            _clear(root)
            _fold(root, rows, size, size, line)
            _square(root, 0, True, smoothed[g, t])


@_fast
def _shrink(root: Array, ahead: Array, out: Array) -> None:
    """out = W V^-1 of upper triangles; zero in directions in which V has no variance."""
    size = len(out)
    for i in range(size):
        for j in range(size):
            out[i, j] = root[i, j] if j >= i else 0.0
        for k in range(i, size):
            x = 0.0 if ahead[k, k] == 0 else out[i, k] / ahead[k, k]
            out[i, k] = x
            for j in range(k + 1, size):
                out[i, j] -= x * ahead[k, j]


@_fast
def smooth_means(
    begin: int,
    end: int,
    rows: Rows,
    found: Gains,
    predicted: Array,
    filtered: Array,
    smoothed: Array,
) -> None:
    """Smoothed means (rows, T, D) of the blocks ``begin`` … ``end``."""
    size = smoothed.shape[2]
    here, ahead = np.empty((size, LANES)), np.empty((size, LANES))
    for block in range(begin, end):
        g = rows.chains[block]
        members = rows.blocks[block]
        last = _last_of(members, rows.ends)
        for t in range(last - 1, -1, -1):
            u = found.at[g, t]
            _load(filtered, members, t, here)
            if t + 1 < last:
                _surprise(smoothed, predicted, members, rows.ends, t + 1, ahead)
                _divide_root(found.ahead[g, u], ahead)
                across = found.across[g, u]
                for k in range(size):
                    for i in range(size):
                        x = across[k, i]
                        for lane in range(LANES):
                            here[i, lane] += x * ahead[k, lane]
            _store(here, members, rows.ends, t, smoothed)


@_fast
def _surprise(
    smoothed: Array, predicted: Array, members: Array, ends: Array, t: int, out: Array
) -> None:
    """out = smoothed - predicted mean of a step, zero for rows that have ended."""
    for lane in range(LANES):
        r = members[lane]
        inside = r >= 0 and t < ends[r]
        for i in range(len(out)):
            out[i, lane] = smoothed[r, t, i] - predicted[r, t, i] if inside else 0.0


@_fast
def _divide_root(root: Array, out: Array) -> None:
    """out = V'^-1 out of an upper triangle; zero in directions in which it has no variance."""
    for i in range(len(out)):
        for k in range(i):
            x = root[k, i]
            for lane in range(LANES):
                out[i, lane] -= x * out[k, lane]
        x = 0.0 if root[i, i] == 0 else 1 / root[i, i]
        for lane in range(LANES):
            out[i, lane] *= x


# --- what a covariance must be --------------------------------------------------------------------


@_fast
def first_indefinite(matrices: Array, tolerance: float) -> int:
    """The first of (M, D, D) that is not symmetric and positive semidefinite; -1 if none.

    By elimination: a pivot that is zero up to rounding must leave nothing in its column.
    """
    size = matrices.shape[1]
    rest = np.empty((size, size))
    for m in range(len(matrices)):
        given = matrices[m]
        for i in range(size):
            for j in range(i + 1):
                scale = math.sqrt(abs(given[i, i] * given[j, j]))
                if not abs(given[i, j] - given[j, i]) <= tolerance * scale:
                    return m
                rest[i, j] = 0.5 * (given[i, j] + given[j, i])
        for j in range(size):
            own = given[j, j]
            if not rest[j, j] >= -tolerance * abs(own) or not own < np.inf:
                return m
            flat = rest[j, j] <= tolerance * own
            for i in range(j + 1, size):
                if flat:
                    limit = 4 * math.sqrt(tolerance * abs(own * given[i, i]))
                    if not abs(rest[i, j]) <= limit:
                        return m
                    continue
                x = rest[i, j] / rest[j, j]
                for k in range(j + 1, i + 1):
                    rest[i, k] -= x * rest[k, j]
    return -1


@_fast
def semidefinite_factors(matrices: Array, factors: Array) -> None:
    """Lower triangles L with L L' = M of positive semidefinite (M, D, D); see ``_root``."""
    every = np.arange(matrices.shape[1])
    for m in range(len(matrices)):
        _root(matrices[m], every, len(every), factors[m])
