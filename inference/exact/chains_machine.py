"""The recursions on discrete chains as machine code: kernels for :mod:`.chains_cpu`.

Kernels take NumPy arrays and work on *rows*: one row is one sequence under one draw of the
parameters.

A matrix is an entry of an array (M, K, K), or has a structure: ``Bands``, ``Entries``, ``Stages``.
What is done with it is an overload on that type; everything else is written once.

*Fast* kernels work with scaled probabilities. They are exact as long as no probability of a state
that can be reached falls below a floor (relative to its neighbours, hence whatever the length); a
row where one does is reported, and done again by kernels that keep logs. Those in turn multiply
probabilities where that is safe and add logs where it is not, as ``chains_torch`` does in torch.

Compiled on first use and kept on disk by numba. All kernels are in this file: numba renews the code
on disk when this file changes, not when another does.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]

# Sums may be reordered (that is what makes them fast); NaN and infinity keep their meaning.
_fast: Any = compiled(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})

GROUP = 16
"""Rows in one product of the grouped kernels."""

CHUNK = 64
"""Steps whose likelihoods are made at once."""

LANES = 8
"""Rows side by side in the kernels for few states."""


class Steps(NamedTuple):
    """Which matrix drives row b from t to t + 1: ``first_of[b]`` and as many further on as
    ``stride * t``, or ``choice[b % N, t]`` where there are choices (N, T-1)."""

    first_of: Array
    stride: int
    choice: Array


class Bands(NamedTuple):
    """A matrix of diagonals: values[w, i] = M(i, i + offsets[w]), in logs or not."""

    values: Array
    offsets: Array
    room: Array
    """(2, K)"""


class Entries(NamedTuple):
    """The entries of a matrix by column: M(sources[e], j) for e in starts[j] … starts[j+1] - 1."""

    values: Array
    starts: Array
    sources: Array
    room: Array
    """(2, the greater of K and the number of entries)"""


class Stages(NamedTuple):
    """A product of matrices, each along one axis of the states.

    Row f of ``table`` is (rows, columns, rest, begin): the states are a table (rows, rest), whose
    first axis is multiplied by the matrix (rows, columns) that begins at values[begin] and becomes
    the last, (rest, columns). So all loops are over neighbours in memory, and a Kronecker product
    ends with its axes in their order.
    """

    values: Array
    table: Array
    room: Array
    """(3, widest table)"""


class Data(NamedTuple):
    """Log-likelihoods (·, T, K) and initial laws (·, K) in logs, and which of them a row has."""

    likelihood: Array
    source: Array
    lengths: Array
    log_initial: Array
    initial_of: Array


@_fast
def _matrix(steps: Steps, row: int, t: int) -> Any:
    if len(steps.choice):
        return steps.first_of[row] + steps.choice[row % len(steps.choice), t]
    return steps.first_of[row] + steps.stride * t


# --- elementary functions -------------------------------------------------------------------------
# exp by range reduction and a polynomial (Cody & Waite 1980, coefficients of Cephes for float32 and
# of Taylor's series for float64): within 2 units in the last place, and the compiler makes vector
# instructions of it, which it cannot of a call of the C library.


_SAME_BITS: dict[Any, Any] = {
    types.int32: types.float32,
    types.int64: types.float64,
    types.float32: types.int32,
    types.float64: types.int64,
}


@intrinsic
def _reinterpret(typing_context: Any, x: Any) -> Any:
    out = _SAME_BITS[x]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return out(x), generate


_recast: Any = _reinterpret  # compiled code calls it without the first argument


def _exp(x: Any) -> Any:
    """exp of x, 0 below the least normal number, inf above the greatest."""
    raise NotImplementedError("compiled code only")


@overload(_exp, jit_options={"fastmath": {"contract"}})
def _exp_overload(x: Any) -> Any:
    single = np.float32

    def exp_single(x: Any) -> Any:
        low = single(-87.0)
        y = low if x < low else x
        n = np.floor(y * single(1.44269504088896341) + single(0.5))
        r = y - n * single(0.693359375)
        r = r + n * single(2.12194440e-4)
        p = single(1.9875691500e-4)
        p = p * r + single(1.3981999507e-3)
        p = p * r + single(8.3334519073e-3)
        p = p * r + single(4.1665795894e-2)
        p = p * r + single(1.6666665459e-1)
        p = p * r + single(5.0000001201e-1)
        value = p * r * r + r + single(1)
        value = value * _recast(np.int32((np.int32(n) + 127) << 23))
        value = single(np.inf) if x > single(88.0) else value
        return single(0) if x < low else value

    def exp_double(x: Any) -> Any:
        low = -708.0
        y = low if x < low else x
        n = np.floor(y * 1.44269504088896341 + 0.5)
        r = y - n * 6.93145751953125e-1
        r = r - n * 1.42860682030941723212e-6
        p = 1 / 6227020800.0
        p = p * r + 1 / 479001600.0
        p = p * r + 1 / 39916800.0
        p = p * r + 1 / 3628800.0
        p = p * r + 1 / 362880.0
        p = p * r + 1 / 40320.0
        p = p * r + 1 / 5040.0
        p = p * r + 1 / 720.0
        p = p * r + 1 / 120.0
        p = p * r + 1 / 24.0
        p = p * r + 1 / 6.0
        p = p * r + 0.5
        value = p * r * r + r + 1.0
        value = value * _recast((np.int64(n) + 1023) << 52)
        value = np.inf if x > 709.0 else value
        return 0.0 if x < low else value

    return exp_single if x == types.float32 else exp_double


exp: Any = _exp
"""The same for kernels of other files."""


def _log(x: Any) -> Any:
    """log of a normal number x > 0."""
    raise NotImplementedError("compiled code only")


@overload(_log, jit_options={"fastmath": {"contract"}})
def _log_overload(x: Any) -> Any:
    single = np.float32

    def log_single(x: Any) -> Any:
        bits = _recast(x)
        e = single((bits >> 23) - 126)
        m = _recast(np.int32((bits & 0x7FFFFF) | 0x3F000000))  # x = m 2^e, 0.5 <= m < 1
        low = m < single(0.707106781186547524)
        e = e - single(1) if low else e
        r = m + m - single(1) if low else m - single(1)
        z = r * r
        p = single(7.0376836292e-2)
        p = p * r - single(1.1514610310e-1)
        p = p * r + single(1.1676998740e-1)
        p = p * r - single(1.2420140846e-1)
        p = p * r + single(1.4249322787e-1)
        p = p * r - single(1.6668057665e-1)
        p = p * r + single(2.0000714765e-1)
        p = p * r - single(2.4999993993e-1)
        p = p * r + single(3.3333331174e-1)
        y = r * z * p - single(2.12194440e-4) * e - single(0.5) * z
        return r + y + single(0.693359375) * e

    def log_double(x: Any) -> Any:
        return math.log(x)

    return log_single if x == types.float32 else log_double


def _structure(matrices: Any) -> Any:
    """Seen from the compiler: the kind of structure of a matrix, None for an array."""
    return getattr(matrices, "instance_class", None)


_overload: Any = partial(
    overload,
    jit_options={
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    },
)


def _times(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> Any:
    """out[q] = p[r] M."""
    raise NotImplementedError("compiled code only")


@_overload(_times)
def _times_overload(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> Any:
    def in_bands(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> None:
        size = out.shape[1]
        for j in range(size):
            out[q, j] = 0
        for w in range(len(matrices.offsets)):
            o = matrices.offsets[w]
            before, after = p[r, max(0, -o) : size - max(0, o)], out[q, max(0, o) :]
            values = matrices.values[w, max(0, -o) :]
            for i in range(len(before)):
                after[i] += before[i] * values[i]

    def in_entries(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> None:
        for j in range(out.shape[1]):
            total = out.dtype.type(0)
            for e in range(matrices.starts[j], matrices.starts[j + 1]):
                total += p[r, matrices.sources[e]] * matrices.values[e]
            out[q, j] = total

    def in_stages(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> None:
        last = len(matrices.table) - 1
        for f in range(last + 1):
            source = p[r] if f == 0 else matrices.room[f % 2]
            target = out[q] if f == last else matrices.room[(f + 1) % 2]
            stage, room = matrices.table[f], matrices.room[2]
            _times_along(source, matrices.values, stage, room, target)

    chosen = {Bands: in_bands, Entries: in_entries, Stages: in_stages}
    return chosen.get(_structure(matrices), _times_dense)


def _times_dense(p: Any, r: Any, matrices: Any, m: Any, out: Any, q: Any) -> None:
    """Eight rows of M at a time, so that ``out`` is read and written less."""
    count, size = matrices.shape[1:]
    for j in range(size):
        out[q, j] = 0
    for block in range(count // 8):
        i = 8 * block
        a, b, c, d = p[r, i], p[r, i + 1], p[r, i + 2], p[r, i + 3]
        e, f, g, h = p[r, i + 4], p[r, i + 5], p[r, i + 6], p[r, i + 7]
        for j in range(size):
            first = a * matrices[m, i, j] + b * matrices[m, i + 1, j]
            second = c * matrices[m, i + 2, j] + d * matrices[m, i + 3, j]
            third = e * matrices[m, i + 4, j] + f * matrices[m, i + 5, j]
            fourth = g * matrices[m, i + 6, j] + h * matrices[m, i + 7, j]
            out[q, j] += (first + second) + (third + fourth)
    rest = 8 * (count // 8)
    if rest + 4 <= count:
        i = rest
        a, b, c, d = p[r, i], p[r, i + 1], p[r, i + 2], p[r, i + 3]
        for j in range(size):
            first = a * matrices[m, i, j] + b * matrices[m, i + 1, j]
            second = c * matrices[m, i + 2, j] + d * matrices[m, i + 3, j]
            out[q, j] += first + second
        rest += 4
    for i in range(rest, count):
        a = p[r, i]
        for j in range(size):
            out[q, j] += a * matrices[m, i, j]


_rows_times: Any = _fast(_times_dense)


@_fast
def _times_along(source: Array, values: Array, stage: Array, room: Array, target: Array) -> None:
    """One stage of a product; see ``Stages``. The inner loop runs along the longer axis."""
    rows, columns, rest, begin = stage
    matrix = values[begin : begin + rows * columns].reshape(1, rows, columns)
    before = source[: rows * rest].reshape(1, rows, rest)
    after = target[: rest * columns].reshape(rest, columns)
    if rest <= columns:
        for c in range(rest):
            _rows_times(before[0].T, c, matrix, 0, after, c)
        return
    turned = room[: rest * columns].reshape(columns, rest)
    for j in range(columns):
        _rows_times(matrix[0].T, j, before, 0, turned, j)
    for c in range(rest):
        for j in range(columns):
            after[c, j] = turned[j, c]


@_fast
def _top(table: Array, t: int) -> Any:
    """The greatest of table[t]."""
    top = table[t, 0]
    for k in range(1, table.shape[1]):
        x = table[t, k]
        top = x if x > top else top
    return top


@_fast
def _log_sum(table: Array, t: int) -> Any:
    """log Σ_k exp table[t, k]."""
    top = _top(table, t)
    if top == -np.inf:
        return top
    total = table.dtype.type(0)
    for k in range(table.shape[1]):
        total += _exp(table[t, k] - top)
    return top + math.log(total)


# --- fast kernels: scaled probabilities -----------------------------------------------------------


@_fast
def _likelihoods(table: Array, begin: int, end: int, scaled: Array, tops: Array) -> None:
    """scaled[t - begin] = O(y_t) / max O and tops = log max O of steps begin … end.

    Many steps at once: a loop over four states is too short for vector instructions. A step that no
    state can explain gets ones, and -inf.
    """
    states = table.shape[1]
    for t in range(begin, end):
        top = _top(table, t)
        tops[t - begin] = top
        if top == -np.inf:
            for k in range(states):
                scaled[t - begin, k] = 0
        else:
            for k in range(states):
                scaled[t - begin, k] = table[t, k] - top
    flat = scaled.reshape(-1)
    for place in range((end - begin) * states):
        flat[place] = _exp(flat[place])


@_fast
def _absorb(scaled: Array, c: int, ahead: Array, r: int, beliefs: Array, t: int) -> Any:
    """beliefs[t] = ahead[r] scaled[c] / Σ; returns the sum."""
    states = ahead.shape[1]
    total = scaled.dtype.type(0)
    for k in range(states):
        x = ahead[r, k] * scaled[c, k]
        ahead[r, k] = x
        total += x
    scale = 1 / total
    for k in range(states):
        beliefs[t, k] = ahead[r, k] * scale
    return total


@_fast
def _hold(ahead: Array, r: int, table: Array, t: int, held: Array) -> None:
    """Mark the states that the belief of step t can hold, however small its probability."""
    for k in range(held.shape[1]):
        held[r, k] = ahead[r, k] > 0 and table[t, k] > -np.inf


def _lost(ahead: Any, r: Any, floor: Any, held: Any, linked: Any, m: Any) -> Any:
    """Whether a state that can be reached from a held one has a prediction below the floor."""
    raise NotImplementedError("compiled code only")


@_overload(_lost)
def _lost_overload(ahead: Any, r: Any, floor: Any, held: Any, linked: Any, m: Any) -> Any:
    def dense(ahead: Any, r: Any, floor: Any, held: Any, linked: Any, m: Any) -> bool:
        for j in range(ahead.shape[1]):
            if ahead[r, j] < floor:
                for i in range(ahead.shape[1]):
                    if linked[m, i, j] and held[r, i]:
                        return True
        return False

    def structured(ahead: Any, r: Any, floor: Any, held: Any, linked: Any, m: Any) -> bool:
        small = False
        for j in range(ahead.shape[1]):
            small |= ahead[r, j] < floor
        if not small:
            return False
        reach = np.empty((2, ahead.shape[1]), ahead.dtype)
        for i in range(ahead.shape[1]):
            reach[0, i] = held[r, i]
        _times(reach, 0, linked, m, reach, 1)
        lost = False
        for j in range(ahead.shape[1]):
            lost |= ahead[r, j] < floor and reach[1, j] > 0
        return lost

    return dense if _structure(linked) is None else structured


@_fast
def _start(ahead: Array, r: int, data: Data, row: int, held: Array) -> None:
    """The first prediction, and the states that the first belief can hold."""
    source = data.initial_of[row]
    for k in range(ahead.shape[1]):
        ahead[r, k] = _exp(data.log_initial[source, k])
        seen = data.likelihood[data.source[row], 0, k] > -np.inf
        held[r, k] = seen and data.log_initial[source, k] > -np.inf


@_fast
def forward(
    rows: Array,
    data: Data,
    matrices: Array,
    linked: Array,
    steps: Steps,
    floor: float,
    beliefs: Array,
    scales: Array,
    totals: Array,
    failed: Array,
) -> None:
    """Filtered beliefs, their scales Σ_j π_t(j) O_j / max O, and the evidence of every row.

    Beliefs rounded to zero are less than tiny / scale. A prediction that is ``floor / scale`` or
    more is exact without them; where there are transitions that lead to less, ``linked`` (matrices
    > 0 in logs) tells which predictions to look at, and is empty otherwise.
    """
    ahead = np.empty((1, data.likelihood.shape[2]), data.likelihood.dtype)
    held = np.empty(ahead.shape, np.bool_)
    scaled = np.empty((CHUNK, data.likelihood.shape[2]), data.likelihood.dtype)
    tops = np.empty(CHUNK, data.likelihood.dtype)
    for row in rows:
        table, own = data.likelihood[data.source[row]], beliefs[row]
        logs, product = 0.0, 1.0
        for t in range(data.lengths[row]):
            c = t % CHUNK
            if c == 0:
                _likelihoods(table, t, min(t + CHUNK, data.lengths[row]), scaled, tops)
            if t == 0:
                _start(ahead, 0, data, row, held)
            else:
                m = _matrix(steps, row, t - 1)
                _times(own, t - 1, matrices, m, ahead, 0)
                if len(linked):
                    failed[row] |= _lost(ahead, 0, floor / scales[row, t - 1], held, linked, m)
                    _hold(ahead, 0, table, t, held)
            total = _absorb(scaled, c, ahead, 0, own, t)
            if total < floor or tops[c] == -np.inf:
                failed[row] = True
            scales[row, t] = total
            logs += tops[c]
            product *= total  # one logarithm for many factors
            if product < 1e-30 or product > 1e30:
                logs += math.log(product)
                product = 1.0
        totals[row] = logs + math.log(product)


@_fast
def forward_grouped(
    rows: Array,
    data: Data,
    matrices: Array,
    linked: Array,
    steps: Steps,
    floor: float,
    beliefs: Array,
    scales: Array,
    totals: Array,
    failed: Array,
) -> None:
    """``forward`` for rows of falling length that share a matrix: one product for many of them."""
    size = min(GROUP, len(rows))
    before = np.empty((size, data.likelihood.shape[2]), data.likelihood.dtype)
    ahead = np.empty((size, data.likelihood.shape[2]), data.likelihood.dtype)
    held = np.empty(ahead.shape, np.bool_)
    scaled = np.empty((1, data.likelihood.shape[2]), data.likelihood.dtype)
    tops = np.empty(1, data.likelihood.dtype)
    for start in range(0, len(rows), size):
        active = min(size, len(rows) - start)
        for t in range(data.lengths[rows[start]]):
            while data.lengths[rows[start + active - 1]] <= t:
                active -= 1
            if t > 0:
                np.dot(before[:active], matrices[0], ahead[:active])
            for r in range(active):
                row = rows[start + r]
                table = data.likelihood[data.source[row]]
                if t == 0:
                    totals[row] = 0
                    _start(ahead, r, data, row, held)
                elif len(linked):
                    failed[row] |= _lost(ahead, r, floor / scales[row, t - 1], held, linked, 0)
                    _hold(ahead, r, table, t, held)
                _likelihoods(table, t, t + 1, scaled, tops)
                total = _absorb(scaled, 0, ahead, r, beliefs[row], t)
                if total < floor or tops[0] == -np.inf:
                    failed[row] = True
                scales[row, t] = total
                totals[row] += tops[0] + math.log(total)
                for k in range(ahead.shape[1]):
                    before[r, k] = beliefs[row, t, k]


@_fast
def _weigh(scaled: Array, c: int, messages: Array, t: int, weights: Array, r: int) -> None:
    """weights[r] ∝ scaled[c] messages[t]."""
    total = scaled.dtype.type(0)
    for k in range(scaled.shape[1]):
        x = scaled[c, k] * messages[t, k]
        weights[r, k] = x
        total += x
    scale = 1 / total if total > 0 else total
    for k in range(scaled.shape[1]):
        weights[r, k] *= scale


@_fast
def messages(
    rows: Array,
    data: Data,
    transposed: Array,
    steps: Steps,
    last: Array,
    messages: Array,
) -> None:
    """p(y_{t+1:T} | z_t) up to a factor per step. Needs no beliefs: may run beside the filter.

    ``last``, (rows, states), takes the place of the ones at the last step, unless it is empty.
    """
    weights = np.empty((1, data.likelihood.shape[2]), data.likelihood.dtype)
    scaled = np.empty((CHUNK, data.likelihood.shape[2]), data.likelihood.dtype)
    tops = np.empty(CHUNK, data.likelihood.dtype)
    for row in rows:
        table, own = data.likelihood[data.source[row]], messages[row]
        end = data.lengths[row] - 1
        for k in range(own.shape[1]):
            own[end, k] = last[row, k] if len(last) else 1
        for t in range(end - 1, -1, -1):
            c = (t + 1) % CHUNK
            if t == end - 1 or c == CHUNK - 1:
                _likelihoods(table, t + 1 - c, t + 2, scaled, tops)
            _weigh(scaled, c, own, t + 1, weights, 0)
            m = _matrix(steps, row, t)
            _times(weights, 0, transposed, m, own, t)


@_fast
def messages_grouped(
    rows: Array,
    data: Data,
    transposed: Array,
    steps: Steps,
    last: Array,
    messages: Array,
) -> None:
    """``messages`` for rows of falling length that share a matrix."""
    size = min(GROUP, len(rows))
    weights = np.empty((size, data.likelihood.shape[2]), data.likelihood.dtype)
    behind = np.empty((size, data.likelihood.shape[2]), data.likelihood.dtype)
    scaled = np.empty((1, data.likelihood.shape[2]), data.likelihood.dtype)
    tops = np.empty(1, data.likelihood.dtype)
    for start in range(0, len(rows), size):
        joined = min(size, len(rows) - start)
        for r in range(joined):
            row = rows[start + r]
            for k in range(messages.shape[2]):
                messages[row, data.lengths[row] - 1, k] = last[row, k] if len(last) else 1
        active = 0
        for t in range(data.lengths[rows[start]] - 2, -1, -1):
            while active < joined and data.lengths[rows[start + active]] > t + 1:
                active += 1
            for r in range(active):
                row = rows[start + r]
                _likelihoods(data.likelihood[data.source[row]], t + 1, t + 2, scaled, tops)
                _weigh(scaled, 0, messages[row], t + 1, weights, r)
            np.dot(weights[:active], transposed[0], behind[:active])
            for r in range(active):
                for k in range(messages.shape[2]):
                    messages[rows[start + r], t, k] = behind[r, k]


@_fast
def _clear(array: Array, row: int, t: int) -> None:
    for k in range(array.shape[2]):
        array[row, t, k] = 0


@_fast
def combine(
    begin: int,
    end: int,
    data: Data,
    gradient: Array,
    floor: float,
    beliefs: Array,
    scales: Array,
    messages: Array,
    marginals: Array,
    weights: Array,
    failed: Array,
) -> None:
    """Posterior marginals, and what the expected transitions want, of steps begin … end.

    Steps are counted through all rows. With b the beliefs, m the messages, s = Σ_z b_t m_t:
    marginals are b_t m_t / s; b_{t-1}(i) P(i, j) w_t(j) is the probability of the move i → j for
    the weights w_t(j) = O_j m_t(j) / (scale_t s). Both are multiplied by the row's gradient.
    """
    length, states = beliefs.shape[1:]
    scaled = np.empty((CHUNK, states), data.likelihood.dtype)
    tops = np.empty(CHUNK, data.likelihood.dtype)
    place = begin
    while place < end:
        row, start = place // length, place % length
        stop = min(length, start + CHUNK, start + end - place)
        place += stop - start
        inside = min(stop, data.lengths[row])
        if weights.size and start < inside:
            _likelihoods(data.likelihood[data.source[row]], start, inside, scaled, tops)
        for t in range(start, inside):
            total = beliefs.dtype.type(0)
            for k in range(states):
                total += beliefs[row, t, k] * messages[row, t, k]
            if total * scales[row, t] < floor:
                failed[row] = True
            share = gradient[row] / total
            for k in range(states):
                marginals[row, t, k] = beliefs[row, t, k] * messages[row, t, k] * share
            if weights.size:
                share = share / scales[row, t] if t > 0 else beliefs.dtype.type(0)
                for k in range(states):
                    weights[row, t, k] = scaled[t - start, k] * messages[row, t, k] * share
        for t in range(max(start, inside), stop):
            _clear(marginals, row, t)
            _clear(beliefs, row, t)
            if weights.size:
                _clear(weights, row, t)


@_fast
def pairs(
    begin: int,
    end: int,
    rows: Array,
    steps: Steps,
    lengths: Array,
    beliefs: Array,
    weights: Array,
    sums: Array,
) -> None:
    """Σ b_t(i) w_{t+1}(j) over the steps of each matrix, for states i from ``begin`` to ``end``.

    Threads differ in i, so that none adds to a number of another's.
    """
    states = beliefs.shape[2]
    for row in rows:
        for t in range(lengths[row] - 1):
            m = _matrix(steps, row, t)
            for i in range(begin, end):
                belief = beliefs[row, t, i]
                for j in range(states):
                    sums[m, i, j] += belief * weights[row, t + 1, j]


# With few states a row is too short for vector instructions, and its steps wait for one another.
# The next two kernels work on blocks of rows instead, (state, lane), where the lanes beyond the end
# of their sequence see likelihoods of one. They need one matrix for all, without small entries, so
# that only an impossible observation can make a row fail.


@_fast
def _lane_likelihoods(
    rows: Array, data: Data, begin: int, end: int, scaled: Array, tops: Array
) -> None:
    """``_likelihoods`` of a block of rows: scaled (step, state, lane), tops (step, lane)."""
    states = scaled.shape[1]
    for lane in range(LANES):
        row = rows[min(lane, len(rows) - 1)]
        table = data.likelihood[data.source[row]]
        inside = min(max(data.lengths[row], begin), end)
        for t in range(begin, inside):
            top = _top(table, t)
            tops[t - begin, lane] = top
            for k in range(states):
                x = table[t, k] - top
                scaled[t - begin, k, lane] = scaled.dtype.type(0) if top == -np.inf else x
        for t in range(inside, end):
            tops[t - begin, lane] = 0
            for k in range(states):
                scaled[t - begin, k, lane] = 0
    flat = scaled.reshape(-1)
    for place in range((end - begin) * states * LANES):
        flat[place] = _exp(flat[place])


@_fast
def _lane_times(p: Array, matrix: Array, out: Array) -> None:
    """out[j, lane] = Σ_i p[i, lane] M[i, j], the sums of the eight lanes in one register."""
    for j in range(p.shape[0]):
        a = b = c = d = e = f = g = h = p.dtype.type(0)
        for i in range(p.shape[0]):
            x = matrix[i, j]
            a += x * p[i, 0]
            b += x * p[i, 1]
            c += x * p[i, 2]
            d += x * p[i, 3]
            e += x * p[i, 4]
            f += x * p[i, 5]
            g += x * p[i, 6]
            h += x * p[i, 7]
        out[j, 0], out[j, 1], out[j, 2], out[j, 3] = a, b, c, d
        out[j, 4], out[j, 5], out[j, 6], out[j, 7] = e, f, g, h


@_fast
def forward_lanes(  # noqa: C901 - one sweep
    first: int,
    last: int,
    order: Array,
    data: Data,
    matrix: Array,
    least: float,
    beliefs: Array,
    scales: Array,
    totals: Array,
    failed: Array,
) -> None:
    """``forward`` for blocks ``first`` … ``last`` of ``LANES`` rows by falling length.

    ``beliefs`` (block, step, state, lane) and ``scales`` (block, step, lane).
    """
    states = data.likelihood.shape[2]
    scaled = np.empty((CHUNK, states, LANES), data.likelihood.dtype)
    tops = np.empty((CHUNK, LANES), data.likelihood.dtype)
    ahead = np.empty((states, LANES), data.likelihood.dtype)
    total = np.empty(LANES, data.likelihood.dtype)
    logs, products = np.empty(LANES), np.empty(LANES)
    low = np.empty(LANES, np.bool_)
    for block in range(first, last):
        rows = order[LANES * block : LANES * (block + 1)]
        own, norm = beliefs[block], scales[block]
        length = data.lengths[rows[0]]
        logs[:] = 0
        products[:] = 1
        low[:] = False
        for t in range(length):
            c = t % CHUNK
            if c == 0:
                _lane_likelihoods(rows, data, t, min(t + CHUNK, length), scaled, tops)
            if t == 0:
                for lane in range(LANES):
                    source = data.initial_of[rows[min(lane, len(rows) - 1)]]
                    for k in range(states):
                        ahead[k, lane] = _exp(data.log_initial[source, k])
            else:
                _lane_times(own[t - 1], matrix, ahead)
            total[:] = 0
            for k in range(states):
                for lane in range(LANES):
                    x = ahead[k, lane] * scaled[c, k, lane]
                    ahead[k, lane] = x
                    total[lane] += x
            for lane in range(LANES):
                norm[t, lane] = total[lane]
                low[lane] |= total[lane] < least
                logs[lane] += tops[c, lane]
                products[lane] *= total[lane]
                total[lane] = 1 / total[lane]
            for k in range(states):
                for lane in range(LANES):
                    own[t, k, lane] = ahead[k, lane] * total[lane]
            if products.min() < 1e-30 or products.max() > 1e30 or t + 1 == length:
                for lane in range(LANES):
                    logs[lane] += math.log(products[lane])
                    products[lane] = 1
        for lane in range(len(rows)):
            totals[rows[lane]] = logs[lane]
            failed[rows[lane]] = low[lane] or logs[lane] == -np.inf


@_fast
def backward_lanes(  # noqa: C901 - one sweep
    first: int,
    last: int,
    order: Array,
    data: Data,
    transposed: Array,
    gradient: Array,
    beliefs: Array,
    scales: Array,
    marginals: Array,
    sums: Array,
) -> None:
    """Messages and marginals of the blocks, and Σ b_t(i) w_{t+1}(j) of each in ``sums``.

    ``marginals`` (row, step, state) and ``sums`` (block, state, state) or empty, as in ``combine``
    times the gradient of the row.
    """
    states = data.likelihood.shape[2]
    scaled = np.empty((CHUNK, states, LANES), data.likelihood.dtype)
    tops = np.empty((CHUNK, LANES), data.likelihood.dtype)
    message = np.empty((states, LANES), data.likelihood.dtype)
    weights = np.empty((states, LANES), data.likelihood.dtype)
    share = np.empty(LANES, data.likelihood.dtype)
    given = np.empty(LANES, data.likelihood.dtype)
    pairs = np.empty((states, states, LANES), data.likelihood.dtype)
    for block in range(first, last):
        rows = order[LANES * block : LANES * (block + 1)]
        own, norm = beliefs[block], scales[block]
        length = data.lengths[rows[0]]
        message[:] = 1
        pairs[:] = 0
        for lane in range(LANES):
            given[lane] = gradient[rows[lane]] if lane < len(rows) else 0
        for t in range(length - 1, -1, -1):
            c = t % CHUNK
            if t == length - 1 or c == CHUNK - 1:
                _lane_likelihoods(rows, data, t - c, t + 1, scaled, tops)
            share[:] = 0
            for k in range(states):
                for lane in range(LANES):
                    weights[k, lane] = own[t, k, lane] * message[k, lane]
                    share[lane] += weights[k, lane]
            for lane in range(LANES):
                share[lane] = 1 / share[lane]
            for lane in range(len(rows)):
                if t < data.lengths[rows[lane]]:
                    factor = share[lane] * given[lane]
                    for k in range(states):
                        marginals[rows[lane], t, k] = weights[k, lane] * factor
            if t == 0:
                break
            for lane in range(LANES):
                share[lane] /= norm[t, lane]
            for k in range(states):
                for lane in range(LANES):
                    weights[k, lane] = scaled[c, k, lane] * message[k, lane] * share[lane]
            _lane_times(weights, transposed, message)
            if sums.size:
                _lane_pairs(rows, data.lengths, t, own[t - 1], weights, given, pairs)
                if c == 0 or t == 1:
                    _lane_sums(pairs, sums[block])
        for lane in range(len(rows)):
            _clear_from(marginals, rows[lane], data.lengths[rows[lane]])


@_fast
def _lane_pairs(
    rows: Array,
    lengths: Array,
    t: int,
    before: Array,
    weights: Array,
    given: Array,
    pairs: Array,
) -> None:
    """Add before(i) weights(j) of the lanes that are not beyond their end; spends the weights."""
    states = before.shape[0]
    for lane in range(LANES):
        inside = lane < len(rows) and t < lengths[rows[min(lane, len(rows) - 1)]]
        factor = given[lane] if inside else before.dtype.type(0)
        for k in range(states):
            weights[k, lane] *= factor
    for i in range(states):
        for j in range(states):
            for lane in range(LANES):
                pairs[i, j, lane] += before[i, lane] * weights[j, lane]


@_fast
def _lane_sums(pairs: Array, sums: Array) -> None:
    """Move the sums of some steps to float64."""
    for i in range(pairs.shape[0]):
        for j in range(pairs.shape[1]):
            for lane in range(LANES):
                sums[i, j] += pairs[i, j, lane]
                pairs[i, j, lane] = 0


@_fast
def _probabilities(table: Array, begin: int, end: int, out: Array) -> None:
    """out[t - begin] = exp table[t] of steps begin … end."""
    flat = out.reshape(-1)
    place = 0
    for t in range(begin, end):
        for k in range(table.shape[1]):
            flat[place] = table[t, k]
            place += 1
    for place in range((end - begin) * table.shape[1]):
        flat[place] = _exp(flat[place])


@_fast
def join(
    rows: Array,
    matrices: Array,
    transposed: Array,
    steps: Steps,
    lengths: Array,
    log_beliefs: Array,
    predicted: Array,
    marginals: Array,
) -> None:
    """Any beliefs β joined by the backward kernel: π_{t+1} = β_t P_t, and the marginals m.

    m_T = β_T, m_t(i) = β_t(i) Σ_j P(i, j) m_{t+1}(j) / π_{t+1}(j); zero beyond the length. π_1 is
    left as it is. For matrices without small entries.
    """
    states = log_beliefs.shape[2]
    weights = np.empty((1, states), log_beliefs.dtype)
    behind = np.empty((1, states), log_beliefs.dtype)
    for row in rows:
        own, ahead, table = marginals[row], predicted[row], log_beliefs[row]
        length = lengths[row]
        for start in range(0, length, CHUNK):
            stop = min(start + CHUNK, length)
            _probabilities(table, start, stop, own[start:stop])
        for t in range(length - 1):
            _times(own, t, matrices, _matrix(steps, row, t), ahead, t + 1)
        for t in range(length, own.shape[0]):
            _clear(marginals, row, t)
            for k in range(states):
                ahead[t, k] = 1
        for t in range(length - 2, -1, -1):
            for k in range(states):
                weights[0, k] = own[t + 1, k] / ahead[t + 1, k]
            _times(weights, 0, transposed, _matrix(steps, row, t), behind, 0)
            for k in range(states):
                own[t, k] *= behind[0, k]


@_fast
def _clear_from(array: Array, row: int, begin: int) -> None:
    for t in range(begin, array.shape[1]):
        _clear(array, row, t)


@_fast
def join_gradient(  # noqa: C901 - one sweep
    rows: Array,
    matrices: Array,
    transposed: Array,
    steps: Steps,
    lengths: Array,
    log_beliefs: Array,
    predicted: Array,
    marginals: Array,
    to_predicted: Array,
    to_marginals: Array,
    to_beliefs: Array,
    before: Array,
    after: Array,
) -> None:
    """Gradient of ``join`` in log β, given those in log π and in m.

    With a_t = g_t + c_t and c_{t+1}(j) = Σ_i a_t(i) β_t(i) P(i, j) / π_{t+1}(j), the part of the
    marginals is a m to log β and −c m to log π. What then goes to π, v, goes on to log β as
    β_t(i) Σ_j P(i, j) v_{t+1}(j). The gradient in P is the sum over steps, and over the two entries
    of ``before`` and ``after``, of before_t(i) after_{t+1}(j).
    """
    states = log_beliefs.shape[2]
    beliefs = np.empty((CHUNK, states), log_beliefs.dtype)
    one = np.empty((1, states), log_beliefs.dtype)
    carried = np.zeros((1, states), log_beliefs.dtype)
    share = np.empty((1, states), log_beliefs.dtype)
    behind = np.empty((1, states), log_beliefs.dtype)
    for row in rows:
        length = lengths[row]
        _clear_from(to_beliefs, row, length)
        for part in range(len(before)):
            _clear_from(before[part], row, length - 1)
            _clear_from(after[part], row, length)
            _clear(after[part], row, 0)
        carried[:] = 0
        table, own, ahead = log_beliefs[row], marginals[row], predicted[row]
        given, direct, out = to_predicted[row], to_marginals[row], to_beliefs[row]
        for t in range(length):
            c = t % CHUNK
            if c == 0:
                _probabilities(table, t, min(t + CHUNK, length), beliefs)
            for k in range(states):
                # A state without mass has no effect; its gradient may be NaN (as that of m log m).
                adjoint = (direct[t, k] if own[t, k] > 0 else 0) + carried[0, k]
                out[t, k] = adjoint * own[t, k]
                one[0, k] = adjoint * beliefs[c, k]
            if t + 1 == length:
                break
            m = _matrix(steps, row, t)
            _times(one, 0, matrices, m, carried, 0)
            if len(before):
                for k in range(states):
                    before[0, row, t, k] = beliefs[c, k]
                    before[1, row, t, k] = one[0, k]
            for k in range(states):
                inverse = 1 / ahead[t + 1, k]
                share[0, k] = own[t + 1, k] * inverse
                carried[0, k] *= inverse
                one[0, k] = given[t + 1, k] * inverse - carried[0, k] * share[0, k]
            if len(after):
                for k in range(states):
                    after[0, row, t + 1, k] = one[0, k]
                    after[1, row, t + 1, k] = share[0, k]
            _times(one, 0, transposed, m, behind, 0)
            for k in range(states):
                out[t, k] += beliefs[c, k] * behind[0, k]


@_fast
def residuals(
    rows: Array,
    data: Data,
    log_beliefs: Array,
    predicted: Array,
    marginals: Array,
    table: Array,
    bounds: Array,
) -> None:
    """log π + log O − log β where m > 0, else 0, and their mean Σ m (log π + log O − log β)."""
    states = log_beliefs.shape[2]
    for row in rows:
        own, ahead, out = marginals[row], predicted[row], table[row]
        seen, beliefs = data.likelihood[data.source[row]], log_beliefs[row]
        bound = 0.0
        for k in range(states):
            residual = data.log_initial[data.initial_of[row], k] + seen[0, k] - beliefs[0, k]
            out[0, k] = residual if own[0, k] > 0 else 0
            bound += own[0, k] * out[0, k]
        for start in range(1, data.lengths[row], CHUNK):
            part = own.dtype.type(0)  # short sums in the data's precision, long ones in float64
            for t in range(start, min(start + CHUNK, data.lengths[row])):
                for k in range(states):
                    residual = _log(ahead[t, k]) + seen[t, k] - beliefs[t, k]
                    residual = residual if own[t, k] > 0 else 0
                    out[t, k] = residual
                    part += own[t, k] * residual
            bound += part
        bounds[row] = bound
        for t in range(data.lengths[row], out.shape[0]):
            _clear(table, row, t)


# --- careful kernels: logs ------------------------------------------------------------------------


def _times_in_logs(
    logs: Any, r: Any, room: Any, law: Any, log_law: Any, m: Any, floor: Any, out: Any, q: Any
) -> Any:
    """out[q] = log Σ_i exp(x_i + log M(i, ·)) of x = logs[r] whose maximum is about 0.

    ``law`` and ``log_law`` hold M; ``room`` is for a row.
    """
    raise NotImplementedError("compiled code only")


@_overload(_times_in_logs)
def _times_in_logs_overload(
    logs: Any, r: Any, room: Any, law: Any, log_law: Any, m: Any, floor: Any, out: Any, q: Any
) -> Any:
    def dense(
        logs: Any, r: Any, room: Any, law: Any, log_law: Any, m: Any, floor: Any, out: Any, q: Any
    ) -> None:
        states = out.shape[1]
        for k in range(states):
            room[0, k] = _exp(logs[r, k])
        _times(room, 0, law, m, out, q)
        low = False
        for j in range(states):
            low |= out[q, j] < floor
        if low:
            _largest_terms(logs, r, log_law, m, room)
        for j in range(states):
            if out[q, j] < floor:
                out[q, j] = _log_sum_into(logs, r, log_law, m, j, room[0, j])
            else:
                out[q, j] = math.log(out[q, j])

    def structured(
        logs: Any, r: Any, room: Any, law: Any, log_law: Any, m: Any, floor: Any, out: Any, q: Any
    ) -> None:
        for k in range(out.shape[1]):
            room[0, k] = _exp(logs[r, k])
        _times(room, 0, law, m, out, q)
        safe = True
        for j in range(out.shape[1]):
            safe &= out[q, j] >= floor
        if safe:
            for j in range(out.shape[1]):
                out[q, j] = _log(out[q, j])
        else:
            _log_times(logs, r, log_law, out, q)

    return dense if _structure(log_law) is None else structured


@_fast
def _largest_terms(logs: Array, r: int, log_law: Array, m: int, tops: Array) -> None:
    """tops[0] = max_i x_i + log M(i, ·) of x = logs[r]: −inf where nothing leads to.

    Row by row, as M lies in memory; states without mass lead nowhere.
    """
    states = log_law.shape[2]
    for j in range(states):
        tops[0, j] = -np.inf
    for i in range(states):
        x = logs[r, i]
        if x > -np.inf:
            for j in range(states):
                y = x + log_law[m, i, j]
                tops[0, j] = y if y > tops[0, j] else tops[0, j]


@_fast
def _log_sum_into(logs: Array, r: int, log_law: Array, m: int, j: int, top: Any) -> Any:
    """log Σ_i exp(x_i + log M(i, j)), whose largest term is known."""
    if top == -np.inf:
        return top
    total = log_law.dtype.type(0)
    for i in range(log_law.shape[1]):
        total += _exp(logs[r, i] + log_law[m, i, j] - top)
    return top + math.log(total)


def _log_times(logs: Any, r: Any, log_law: Any, out: Any, q: Any) -> Any:
    """out[q] = log Σ_i exp(logs[r, i] + log M(i, ·)), all in logs; for a structure only."""
    raise NotImplementedError("compiled code only")


def _log_times_in_bands(logs: Any, r: Any, log_law: Any, out: Any, q: Any) -> None:
    size = out.shape[1]
    for j in range(size):
        out[q, j] = -np.inf
        log_law.room[0, j] = 0
    for w in range(len(log_law.offsets)):
        o = log_law.offsets[w]
        before, after = logs[r, max(0, -o) : size - max(0, o)], out[q, max(0, o) :]
        values = log_law.values[w, max(0, -o) :]
        for i in range(len(before)):
            x = before[i] + values[i]
            after[i] = x if x > after[i] else after[i]
    lowest = np.finfo(out.dtype).min
    for w in range(len(log_law.offsets)):
        o = log_law.offsets[w]
        before, after = logs[r, max(0, -o) : size - max(0, o)], out[q, max(0, o) :]
        values, sums = log_law.values[w, max(0, -o) :], log_law.room[0, max(0, o) :]
        for i in range(len(before)):
            top = after[i] if after[i] > lowest else lowest
            sums[i] += _exp(before[i] + values[i] - top)
    _add_logs(log_law.room[0], out[q], size)


def _log_times_in_entries(logs: Any, r: Any, log_law: Any, out: Any, q: Any) -> None:
    # The exponentials of all entries in one loop, which the compiler makes vector instructions of.
    lowest = np.finfo(out.dtype).min
    terms, sums = log_law.room[0], log_law.room[1]
    for j in range(out.shape[1]):
        top = out.dtype.type(-np.inf)
        for e in range(log_law.starts[j], log_law.starts[j + 1]):
            terms[e] = logs[r, log_law.sources[e]] + log_law.values[e]
            top = terms[e] if terms[e] > top else top
        out[q, j] = top
        for e in range(log_law.starts[j], log_law.starts[j + 1]):
            terms[e] -= top if top > lowest else lowest
    for e in range(len(log_law.values)):
        terms[e] = _exp(terms[e])
    for j in range(out.shape[1]):
        sums[j] = 0
        for e in range(log_law.starts[j], log_law.starts[j + 1]):
            sums[j] += terms[e]
    _add_logs(sums, out[q], out.shape[1])


def _log_times_in_stages(logs: Any, r: Any, log_law: Any, out: Any, q: Any) -> None:
    last = len(log_law.table) - 1
    for f in range(last + 1):
        source = logs[r] if f == 0 else log_law.room[f % 2]
        target = out[q] if f == last else log_law.room[(f + 1) % 2]
        _log_times_along(source, log_law.values, log_law.table[f], log_law.room[2], target)


@_overload(_log_times)
def _log_times_overload(logs: Any, r: Any, log_law: Any, out: Any, q: Any) -> Any:
    chosen = {
        Bands: _log_times_in_bands,
        Entries: _log_times_in_entries,
        Stages: _log_times_in_stages,
    }
    return chosen[_structure(log_law)]


@_fast
def _add_logs(sums: Array, tops: Array, size: int) -> None:
    """tops + log sums into tops, where there is anything in the sums."""
    lowest = np.finfo(tops.dtype).min
    for j in range(size):
        top = tops[j] if tops[j] > lowest else lowest
        total = sums[j] if math.isnan(sums[j]) else top + _log(sums[j])
        tops[j] = tops[j] if sums[j] == 0 else total


@_fast
def _log_times_along(
    source: Array, values: Array, stage: Array, sums: Array, target: Array
) -> None:
    """One stage of a product in logs; see ``Stages``."""
    rows, columns, rest, begin = stage
    matrix = values[begin : begin + rows * columns].reshape(rows, columns)
    before = source[: rows * rest].reshape(rows, rest)
    after = target[: rest * columns].reshape(rest, columns)
    lowest = np.finfo(values.dtype).min
    for c in range(rest):
        for j in range(columns):
            after[c, j] = -np.inf
            sums[j] = 0
        for i in range(rows):
            x = before[i, c]
            for j in range(columns):
                y = x + matrix[i, j]
                after[c, j] = y if y > after[c, j] else after[c, j]
        for i in range(rows):
            x = before[i, c]
            for j in range(columns):
                top = after[c, j] if after[c, j] > lowest else lowest
                sums[j] += _exp(x + matrix[i, j] - top)
        _add_logs(sums, after[c], columns)


@_fast
def forward_in_logs(
    rows: Array,
    data: Data,
    matrices: Array,
    log_matrices: Array,
    steps: Steps,
    floor: float,
    log_beliefs: Array,
    log_predicted: Array,
    increments: Array,
) -> None:
    """The filter with its logs. ``rows`` number the entries of the outputs, in their order."""
    states = data.likelihood.shape[2]
    room = np.empty((1, states), data.likelihood.dtype)
    joint = np.empty((1, states), data.likelihood.dtype)
    for place in range(len(rows)):
        row = rows[place]
        source = data.source[row]
        own, ahead = log_beliefs[place], log_predicted[place]
        for t in range(log_beliefs.shape[1]):
            if t == 0:
                for k in range(states):
                    ahead[t, k] = data.log_initial[data.initial_of[row], k]
            else:
                m = _matrix(steps, row, t - 1)
                _times_in_logs(own, t - 1, room, matrices, log_matrices, m, floor, ahead, t)
            if t >= data.lengths[row]:
                increments[place, t] = 0
                for k in range(states):
                    own[t, k] = own[t - 1, k]
                continue
            for k in range(states):
                joint[0, k] = ahead[t, k] + data.likelihood[source, t, k]
            total = _log_sum(joint, 0)
            increments[place, t] = total
            for k in range(states):  # an impossible observation counts as missing
                own[t, k] = ahead[t, k] if total == -np.inf else joint[0, k] - total


@_fast
def messages_in_logs(
    rows: Array,
    transposed: Array,
    log_transposed: Array,
    steps: Steps,
    lengths: Array,
    floor: float,
    log_beliefs: Array,
    log_predicted: Array,
    log_messages: Array,
) -> None:
    """log s_t, s_t = P_t (s_{t+1} b_{t+1} / π_{t+1}), 0 from the last step on."""
    states = log_beliefs.shape[2]
    zero = log_beliefs.dtype.type(0)
    ratio = np.empty((1, states), log_beliefs.dtype)
    room = np.empty((1, states), log_beliefs.dtype)
    for place in range(len(rows)):
        row = rows[place]
        own = log_messages[place]
        for t in range(log_messages.shape[1] - 1, lengths[row] - 2, -1):
            for k in range(states):
                own[t, k] = 0
        for t in range(lengths[row] - 2, -1, -1):
            for k in range(states):
                if log_predicted[place, t + 1, k] == -np.inf:
                    ratio[0, k] = -np.inf
                else:
                    gain = log_beliefs[place, t + 1, k] - log_predicted[place, t + 1, k]
                    ratio[0, k] = gain + own[t + 1, k]
            top = _top(ratio, 0)
            top = zero if top == -np.inf else top
            for k in range(states):
                ratio[0, k] -= top
            m = _matrix(steps, row, t)
            _times_in_logs(ratio, 0, room, transposed, log_transposed, m, floor, own, t)
            for k in range(states):
                own[t, k] += top


@_fast
def marginals(
    rows: Array,
    transposed: Array,
    log_matrices: Array,
    steps: Steps,
    lengths: Array,
    log_floor: float,
    given: bool,
    log_beliefs: Array,
    log_predicted: Array,
    after: Array,
    marginals: Array,
) -> None:
    """m_T = b_T, m_t(i) = b_t(i) Σ_j P(i, j) m_{t+1}(j) / π_{t+1}(j); zero beyond the length.

    If ``given``, ``after`` (rows, states) takes the place of b_T.
    """
    states = log_beliefs.shape[2]
    weights = np.empty((1, states), log_beliefs.dtype)
    behind = np.empty((1, states), log_beliefs.dtype)
    for place in range(len(rows)):
        row = rows[place]
        last = lengths[row] - 1
        for t in range(last + 1, marginals.shape[1]):
            for k in range(states):
                marginals[place, t, k] = 0
        for k in range(states):
            belief = _exp(log_beliefs[place, last, k])
            marginals[place, last, k] = after[place, k] if given else belief
        for t in range(last - 1, -1, -1):
            small = False
            for k in range(states):
                low = log_predicted[place, t + 1, k] < log_floor
                small = small or low
                inverse = _exp(-log_predicted[place, t + 1, k])
                weights[0, k] = 0 if low else marginals[place, t + 1, k] * inverse
            m = _matrix(steps, row, t)
            _times(weights, 0, transposed, m, behind, 0)
            for k in range(states):
                marginals[place, t, k] = behind[0, k] * _exp(log_beliefs[place, t, k])
            if not small:
                continue
            for j in range(states):
                mass = marginals[place, t + 1, j]
                total = log_predicted[place, t + 1, j]
                if mass > 0 and total < log_floor and total > -np.inf:
                    for i in range(states):
                        term = log_beliefs[place, t, i] + log_matrices[m, i, j] - total
                        marginals[place, t, i] += mass * _exp(term)


@_fast
def adjoints(
    rows: Array,
    matrices: Array,
    log_matrices: Array,
    steps: Steps,
    lengths: Array,
    log_floor: float,
    log_beliefs: Array,
    log_predicted: Array,
    gradient: Array,
    carried: Array,
) -> None:
    """c_1 = 0, c_{t+1}(j) = Σ_i (g_t(i) + c_t(i)) b_t(i) P(i, j) / π_{t+1}(j)."""
    states = log_beliefs.shape[2]
    before = np.empty((1, states), log_beliefs.dtype)
    ahead = np.empty((1, states), log_beliefs.dtype)
    for place in range(len(rows)):
        row = rows[place]
        for k in range(states):
            carried[place, 0, k] = 0
        for t in range(1, lengths[row]):
            for k in range(states):
                adjoint = gradient[place, t - 1, k] + carried[place, t - 1, k]
                before[0, k] = adjoint * _exp(log_beliefs[place, t - 1, k])
            m = _matrix(steps, row, t - 1)
            _times(before, 0, matrices, m, ahead, 0)
            for j in range(states):
                total = log_predicted[place, t, j]
                if total >= log_floor:
                    carried[place, t, j] = ahead[0, j] * _exp(-total)
                    continue
                mean = log_beliefs.dtype.type(0)
                if total > -np.inf:
                    for i in range(states):
                        term = log_beliefs[place, t - 1, i] + log_matrices[m, i, j] - total
                        adjoint = gradient[place, t - 1, i] + carried[place, t - 1, i]
                        mean += adjoint * _exp(term)
                carried[place, t, j] = mean
        for t in range(lengths[row], carried.shape[1]):
            for k in range(states):
                carried[place, t, k] = 0


@_fast
def pairs_in_logs(
    rows: Array,
    log_matrices: Array,
    steps: Steps,
    lengths: Array,
    log_beliefs: Array,
    log_predicted: Array,
    marginals: Array,
    sums: Array,
) -> None:
    """Σ b_t(i) P(i, j) m_{t+1}(j) / π_{t+1}(j) over the steps of each matrix."""
    states = log_beliefs.shape[2]
    for place in range(len(rows)):
        row = rows[place]
        for t in range(lengths[row] - 1):
            m = _matrix(steps, row, t)
            for i in range(states):
                for j in range(states):
                    after = marginals[place, t + 1, j]
                    if after != 0:
                        term = log_beliefs[place, t, i] + log_matrices[m, i, j]
                        sums[m, i, j] += after * _exp(term - log_predicted[place, t + 1, j])


@_fast
def uses_in_logs(
    rows: Array,
    log_law: Any,
    lengths: Array,
    log_beliefs: Array,
    log_predicted: Array,
    marginals: Array,
    sums: Array,
) -> None:
    """Expected uses of every number in ``log_law``, weighted as the marginals are."""
    for place in range(len(rows)):
        own, ahead = log_beliefs[place], log_predicted[place]
        for t in range(lengths[rows[place]] - 1):
            _count_uses(own[t], log_law, ahead[t + 1], marginals[place, t + 1], sums)


def _count_uses(before: Any, log_law: Any, ahead: Any, after: Any, sums: Any) -> Any:
    """sums += exp(x_i + log M(i, j) - y_j) v_j, x and y the logs before and ahead, v after.

    In stages the states between are summed out likewise, from the last stage back.
    """
    raise NotImplementedError("compiled code only")


@_overload(_count_uses)
def _count_uses_overload(before: Any, log_law: Any, ahead: Any, after: Any, sums: Any) -> Any:
    def in_bands(before: Any, log_law: Any, ahead: Any, after: Any, sums: Any) -> None:
        size = len(before)
        lowest = np.finfo(before.dtype).min
        for w in range(len(log_law.offsets)):
            o = log_law.offsets[w]
            logs, values = before[max(0, -o) : size - max(0, o)], log_law.values[w, max(0, -o) :]
            totals, weights = ahead[max(0, o) :], after[max(0, o) :]
            uses = sums[w, max(0, -o) :]
            for i in range(len(logs)):
                top = totals[i] if totals[i] > lowest else lowest
                uses[i] += weights[i] * _exp(logs[i] + values[i] - top)

    def in_entries(before: Any, log_law: Any, ahead: Any, after: Any, sums: Any) -> None:
        lowest = np.finfo(before.dtype).min
        terms, weights = log_law.room[0], log_law.room[1]
        for j in range(len(before)):
            top = ahead[j] if ahead[j] > lowest else lowest
            for e in range(log_law.starts[j], log_law.starts[j + 1]):
                terms[e] = before[log_law.sources[e]] + log_law.values[e] - top
                weights[e] = after[j]
        for e in range(len(log_law.values)):
            sums[e] += weights[e] * _exp(terms[e])

    def in_stages(before: Any, log_law: Any, ahead: Any, after: Any, sums: Any) -> None:
        last = len(log_law.table) - 1
        logs = np.empty((last + 2, log_law.room.shape[1]), before.dtype)
        logs[0, : len(before)] = before
        for f in range(last + 1):
            stage = log_law.table[f]
            _log_times_along(logs[f], log_law.values, stage, log_law.room[2], logs[f + 1])
        log_law.room[(last + 1) % 2, : len(after)] = after
        for f in range(last, -1, -1):
            back, on = log_law.room[f % 2], log_law.room[(f + 1) % 2]
            _count_along(logs[f], log_law.values, log_law.table[f], logs[f + 1], on, back, sums)

    chosen = {Bands: in_bands, Entries: in_entries, Stages: in_stages}
    return chosen[_structure(log_law)]


@_fast
def _count_along(
    before: Array,
    values: Array,
    stage: Array,
    ahead: Array,
    after: Array,
    back: Array,
    sums: Array,
) -> None:
    """One stage of ``_count_uses``; ``back`` becomes the weights of the states before it."""
    rows, columns, rest, begin = stage
    matrix = values[begin : begin + rows * columns].reshape(rows, columns)
    uses = sums[begin : begin + rows * columns].reshape(rows, columns)
    logs = before[: rows * rest].reshape(rows, rest)
    weights = after[: rest * columns].reshape(rest, columns)
    totals = ahead[: rest * columns].reshape(rest, columns)
    own = back[: rows * rest].reshape(rows, rest)
    share = np.empty(columns, values.dtype)
    lowest = np.finfo(values.dtype).min
    for i in range(rows):
        for c in range(rest):
            x = logs[i, c]
            total = values.dtype.type(0)
            for j in range(columns):
                top = totals[c, j] if totals[c, j] > lowest else lowest
                share[j] = weights[c, j] * _exp(x + matrix[i, j] - top)
                total += share[j]
            for j in range(columns):
                uses[i, j] += share[j]
            own[i, c] = total


@_fast
def stage_pairs(
    begin: int,
    end: int,
    lengths: Array,
    matrices: Stages,
    beliefs: Array,
    weights: Array,
    sums: Array,
) -> None:
    """Derivatives of Σ_t <b_t M_1 … M_F, w_{t+1}> in the M_f, of sequences ``begin`` to ``end``."""
    last = len(matrices.table) - 1
    products = np.empty((last + 1, matrices.room.shape[1]), beliefs.dtype)
    turned = np.empty(matrices.room.shape[1], beliefs.dtype)
    for row in range(begin, end):
        for t in range(lengths[row] - 1):
            for f in range(last):
                before = beliefs[row, t] if f == 0 else products[f]
                stage, room = matrices.table[f], matrices.room[2]
                _times_along(before, matrices.values, stage, room, products[f + 1])
            for f in range(last, -1, -1):
                before = beliefs[row, t] if f == 0 else products[f]
                after = weights[row, t + 1] if f == last else matrices.room[(f + 1) % 2]
                back = matrices.room[f % 2]
                stage = matrices.table[f]
                _pairs_along(before, matrices.values, stage, after, turned, back, sums, f > 0)


@_fast
def _pairs_along(
    before: Array,
    values: Array,
    stage: Array,
    after: Array,
    turned: Array,
    back: Array,
    sums: Array,
    further: bool,
) -> None:
    """One stage of ``stage_pairs``; if ``further``, ``back`` becomes the weights before it."""
    rows, columns, rest, begin = stage
    matrix = values[begin : begin + rows * columns].reshape(rows, columns)
    pairs = sums[begin : begin + rows * columns].reshape(rows, columns)
    own = before[: rows * rest].reshape(rows, rest)
    ahead = after[: rest * columns].reshape(1, rest, columns)
    sums_of_step = np.empty((1, columns), values.dtype)
    for i in range(rows):
        _rows_times(own, i, ahead, 0, sums_of_step, 0)
        for j in range(columns):
            pairs[i, j] += sums_of_step[0, j]
    if not further:
        return
    weights = turned[: columns * rest].reshape(1, columns, rest)
    for c in range(rest):
        for j in range(columns):
            weights[0, j, c] = ahead[0, c, j]
    earlier = back[: rows * rest].reshape(rows, rest)
    for i in range(rows):
        _rows_times(matrix, i, weights, 0, earlier, i)


@_fast
def entry_pairs(
    begin: int,
    end: int,
    lengths: Array,
    sources: Array,
    targets: Array,
    beliefs: Array,
    weights: Array,
    sums: Array,
) -> None:
    """Σ b_t(i) w_{t+1}(j) over all steps of the entries (i, j) from ``begin`` to ``end``."""
    for row in range(len(lengths)):
        for t in range(lengths[row] - 1):
            for e in range(begin, end):
                sums[e] += beliefs[row, t, sources[e]] * weights[row, t + 1, targets[e]]


@_fast
def band_pairs(
    begin: int,
    end: int,
    lengths: Array,
    offsets: Array,
    beliefs: Array,
    weights: Array,
    sums: Array,
) -> None:
    """Σ b_t(i) w_{t+1}(i + offset) over all steps, for states i from ``begin`` to ``end``."""
    size = beliefs.shape[2]
    for row in range(len(lengths)):
        for t in range(lengths[row] - 1):
            for w in range(len(offsets)):
                o = offsets[w]
                first, last = max(begin, -o), min(end, size - o)
                before, after = beliefs[row, t, first:last], weights[row, t + 1, first + o :]
                uses = sums[w, first:last]
                for i in range(len(before)):
                    uses[i] += before[i] * after[i]


# --- whole paths ----------------------------------------------------------------------------------


def _best_before(best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any) -> Any:
    """ahead_j = max_i best_i + log P(i, j), and where the maximum is."""
    raise NotImplementedError("compiled code only")


def _best_before_dense(best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any) -> None:
    for j in range(len(ahead)):
        ahead[j] = -np.inf
        pointers[t, j] = 0
    for i in range(len(ahead)):
        score = best[0, i]
        for j in range(len(ahead)):
            x = score + log_law[m, i, j]
            better = x > ahead[j]
            ahead[j] = x if better else ahead[j]
            pointers[t, j] = i if better else pointers[t, j]


def _best_before_in_bands(
    best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any
) -> None:
    size = len(ahead)
    for j in range(size):
        ahead[j] = -np.inf
        pointers[t, j] = 0
    for w in range(len(log_law.offsets)):
        o = log_law.offsets[w]
        for i in range(max(0, -o), min(size, size - o)):
            x = best[0, i] + log_law.values[w, i]
            better = x > ahead[i + o]
            ahead[i + o] = x if better else ahead[i + o]
            pointers[t, i + o] = i if better else pointers[t, i + o]


def _best_before_in_entries(
    best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any
) -> None:
    for j in range(len(ahead)):
        ahead[j] = -np.inf
        pointers[t, j] = 0
        for e in range(log_law.starts[j], log_law.starts[j + 1]):
            x = best[0, log_law.sources[e]] + log_law.values[e]
            if x > ahead[j]:
                ahead[j] = x
                pointers[t, j] = log_law.sources[e]


def _best_before_in_stages(
    best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any
) -> None:
    # The axes one after the other: in the end a pointer holds the state before all of them.
    last = len(log_law.table) - 1
    origins = np.empty((2, len(ahead)), np.int32)
    for k in range(len(ahead)):
        origins[0, k] = k
    for f in range(last + 1):
        source = best[0] if f == 0 else log_law.room[f % 2]
        target = ahead if f == last else log_law.room[(f + 1) % 2]
        into = pointers[t] if f == last else origins[(f + 1) % 2]
        _best_along(source, log_law.values, log_law.table[f], target, origins[f % 2], into)


@_overload(_best_before)
def _best_before_overload(
    best: Any, log_law: Any, m: Any, ahead: Any, pointers: Any, t: Any
) -> Any:
    chosen = {
        Bands: _best_before_in_bands,
        Entries: _best_before_in_entries,
        Stages: _best_before_in_stages,
    }
    return chosen.get(_structure(log_law), _best_before_dense)


@_fast
def _best_along(
    source: Array, values: Array, stage: Array, target: Array, origins: Array, into: Array
) -> None:
    """One stage of the greatest sum; ``origins`` of the states before it are handed on."""
    rows, columns, rest, begin = stage
    for c in range(rest):
        for j in range(columns):
            end = c * columns + j
            target[end] = -np.inf
            into[end] = 0
            for i in range(rows):
                x = source[i * rest + c] + values[begin + i * columns + j]
                if x > target[end]:
                    target[end] = x
                    into[end] = origins[i * rest + c]


@_fast
def best_paths(
    rows: Array,
    data: Data,
    log_matrices: Array,
    steps: Steps,
    paths: Array,
    log_joint: Array,
) -> None:
    """Viterbi. Scores are relative to the best so far, the rest is summed in float64."""
    length, states = data.likelihood.shape[1:]
    pointers = np.empty((length, states), np.int32)
    best = np.empty((1, states), data.likelihood.dtype)
    ahead = np.empty(states, data.likelihood.dtype)
    for row in rows:
        source = data.source[row]
        total = 0.0
        for k in range(states):
            best[0, k] = data.log_initial[data.initial_of[row], k] + data.likelihood[source, 0, k]
        for t in range(1, data.lengths[row]):
            top = _top(best, 0)
            if top > -np.inf:
                total += top
                for k in range(states):
                    best[0, k] -= top
            m = _matrix(steps, row, t - 1)
            _best_before(best, log_matrices, m, ahead, pointers, t)
            for j in range(states):
                best[0, j] = ahead[j] + data.likelihood[source, t, j]
        state = 0
        for k in range(1, states):
            if best[0, k] > best[0, state]:
                state = k
        log_joint[row] = total + best[0, state]
        for t in range(data.lengths[row], length):
            paths[row, t] = 0
        for t in range(data.lengths[row] - 1, 0, -1):
            paths[row, t] = state
            state = pointers[t, state]
        paths[row, 0] = state


@_fast
def _draw(logits: Array, uniform: float, sums: Array) -> int:
    """The state at which the cumulated law passes ``uniform``; -1 if all are impossible."""
    top = _top(logits, 0)
    if top == -np.inf:
        return -1
    total = 0.0
    state = 0
    for k in range(len(sums)):
        weight = _exp(logits[0, k] - top)
        total += weight
        sums[k] = total
        if weight > 0:
            state = k  # the last that can be drawn, whatever the rounding
    if not total > 0:
        return -1
    for k in range(len(sums) - 1, -1, -1):
        if sums[k] > uniform * total:
            state = k
    return state


def _add_column(logits: Any, log_transposed: Any, m: Any, j: Any) -> Any:
    """logits[0] += log M(·, j), from the transpose of M."""
    raise NotImplementedError("compiled code only")


@_overload(_add_column)
def _add_column_overload(logits: Any, log_transposed: Any, m: Any, j: Any) -> Any:
    def dense(logits: Any, log_transposed: Any, m: Any, j: Any) -> None:
        for k in range(logits.shape[1]):
            logits[0, k] += log_transposed[m, j, k]

    def structured(logits: Any, log_transposed: Any, m: Any, j: Any) -> None:
        column = np.full((2, logits.shape[1]), -np.inf, logits.dtype)
        column[0, j] = 0
        _log_times(column, 0, log_transposed, column, 1)
        for k in range(logits.shape[1]):
            logits[0, k] += column[1, k]

    return dense if _structure(log_transposed) is None else structured


@_fast
def draw_paths(
    rows: Array,
    log_transposed: Array,
    steps: Steps,
    lengths: Array,
    log_beliefs: Array,
    uniform: Array,
    paths: Array,
    impossible: Array,
) -> None:
    """Draws of z_T ~ b_T, z_t ~ b_t(z) P(z, z_{t+1}), by inversion at ``uniform`` (n, rows, T)."""
    logits = np.empty((1, log_beliefs.shape[2]), log_beliefs.dtype)
    sums = np.empty(log_beliefs.shape[2])
    for row in rows:
        for draw in range(len(uniform)):
            target = -1
            for t in range(log_beliefs.shape[1] - 1, -1, -1):
                if t >= lengths[row]:
                    paths[draw, row, t] = 0
                    continue
                for k in range(len(sums)):
                    logits[0, k] = log_beliefs[row, t, k]
                if target >= 0:
                    m = _matrix(steps, row, t)
                    _add_column(logits, log_transposed, m, target)
                target = _draw(logits, uniform[draw, row, t], sums)
                impossible[row] |= target < 0
                paths[draw, row, t] = target
