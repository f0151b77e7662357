"""The recursions on discrete chains as machine code: kernels for :mod:`.exact_compiled`.

Kernels take NumPy arrays and work on *rows*: one row is one sequence under one draw of the
parameters.

*Fast* kernels work with scaled probabilities. They are exact as long as no probability of a state
that can be reached falls below a floor (relative to its neighbours, hence whatever the length); a
row where one does is reported, and done again by kernels that keep logs. Those in turn multiply
probabilities where that is safe and add logs where it is not, as ``exact_kernels`` does in torch.

Compiled on first use and kept on disk by numba. All kernels are in this file: numba renews the code
on disk when this file changes, not when another does.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

Array = NDArray[Any]

# Sums may be reordered (that is what makes them fast); NaN and infinity keep their meaning.
_fast: Any = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)

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


# The intrinsics are called in compiled code without their first argument, hence the second names,
# of any type.


@intrinsic
def _from_integer(typing_context: Any, bits: Any) -> Any:
    out = types.float32 if bits == types.int32 else types.float64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return out(bits), generate


_from_bits: Any = _from_integer


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
        value = value * _from_bits(np.int32((np.int32(n) + 127) << 23))
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
        value = value * _from_bits((np.int64(n) + 1023) << 52)
        value = np.inf if x > 709.0 else value
        return 0.0 if x < low else value

    return exp_single if x == types.float32 else exp_double


@intrinsic
def _to_integer(typing_context: Any, x: Any) -> Any:
    out = types.int32 if x == types.float32 else types.int64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return out(x), generate


_to_bits: Any = _to_integer


def _log(x: Any) -> Any:
    """log of a normal number x > 0."""
    raise NotImplementedError("compiled code only")


@overload(_log, jit_options={"fastmath": {"contract"}})
def _log_overload(x: Any) -> Any:
    single = np.float32

    def log_single(x: Any) -> Any:
        bits = _to_bits(x)
        e = single((bits >> 23) - 126)
        m = _from_bits(np.int32((bits & 0x7FFFFF) | 0x3F000000))  # x = m 2^e, 0.5 <= m < 1
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


@_fast
def _times(p: Array, r: int, matrices: Array, m: int, out: Array, q: int) -> None:
    """out[q] = p[r] M. Eight rows of M at a time, so that ``out`` is read and written less."""
    size = out.shape[1]
    for j in range(size):
        out[q, j] = 0
    for block in range(size // 8):
        i = 8 * block
        a, b, c, d = p[r, i], p[r, i + 1], p[r, i + 2], p[r, i + 3]
        e, f, g, h = p[r, i + 4], p[r, i + 5], p[r, i + 6], p[r, i + 7]
        for j in range(size):
            first = a * matrices[m, i, j] + b * matrices[m, i + 1, j]
            second = c * matrices[m, i + 2, j] + d * matrices[m, i + 3, j]
            third = e * matrices[m, i + 4, j] + f * matrices[m, i + 5, j]
            fourth = g * matrices[m, i + 6, j] + h * matrices[m, i + 7, j]
            out[q, j] += (first + second) + (third + fourth)
    rest = 8 * (size // 8)
    if rest + 4 <= size:
        i = rest
        a, b, c, d = p[r, i], p[r, i + 1], p[r, i + 2], p[r, i + 3]
        for j in range(size):
            first = a * matrices[m, i, j] + b * matrices[m, i + 1, j]
            second = c * matrices[m, i + 2, j] + d * matrices[m, i + 3, j]
            out[q, j] += first + second
        rest += 4
    for i in range(rest, size):
        a = p[r, i]
        for j in range(size):
            out[q, j] += a * matrices[m, i, j]


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


@_fast
def _lost(ahead: Array, r: int, floor: float, held: Array, linked: Array) -> bool:
    """Whether a state that can be reached from a held one has a prediction below the floor."""
    for j in range(ahead.shape[1]):
        if ahead[r, j] < floor:
            for i in range(ahead.shape[1]):
                if linked[i, j] and held[r, i]:
                    return True
    return False


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
                    failed[row] |= _lost(ahead, 0, floor / scales[row, t - 1], held, linked[m])
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
                    failed[row] |= _lost(ahead, r, floor / scales[row, t - 1], held, linked[0])
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


@_fast
def _predict_in_logs(
    log_beliefs: Array,
    before: Array,
    matrices: Array,
    log_matrices: Array,
    m: int,
    floor: float,
    log_predicted: Array,
    t: int,
) -> None:
    """log_predicted[t] from log_beliefs[t - 1]; ``before`` is room for two rows."""
    states = log_beliefs.shape[1]
    for k in range(states):
        before[0, k] = _exp(log_beliefs[t - 1, k])
    _times(before, 0, matrices, m, log_predicted, t)
    for j in range(states):
        if log_predicted[t, j] < floor:
            for i in range(states):
                before[1, i] = log_beliefs[t - 1, i] + log_matrices[m, i, j]
            log_predicted[t, j] = _log_sum(before, 1)
        else:
            log_predicted[t, j] = math.log(log_predicted[t, j])


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
    before = np.empty((2, states), data.likelihood.dtype)
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
                _predict_in_logs(own, before, matrices, log_matrices, m, floor, ahead, t)
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
    log_matrices: Array,
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
    term = np.empty((1, states), log_beliefs.dtype)
    weights = np.empty((1, states), log_beliefs.dtype)
    behind = np.empty((1, states), log_beliefs.dtype)
    for place in range(len(rows)):
        row = rows[place]
        for t in range(log_messages.shape[1] - 1, lengths[row] - 2, -1):
            for k in range(states):
                log_messages[place, t, k] = 0
        for t in range(lengths[row] - 2, -1, -1):
            for k in range(states):
                if log_predicted[place, t + 1, k] == -np.inf:
                    ratio[0, k] = -np.inf
                else:
                    gain = log_beliefs[place, t + 1, k] - log_predicted[place, t + 1, k]
                    ratio[0, k] = gain + log_messages[place, t + 1, k]
            top = _top(ratio, 0)
            top = zero if top == -np.inf else top
            for k in range(states):
                ratio[0, k] -= top
                weights[0, k] = _exp(ratio[0, k])
            m = _matrix(steps, row, t)
            _times(weights, 0, transposed, m, behind, 0)
            for i in range(states):
                if behind[0, i] < floor:
                    for j in range(states):
                        term[0, j] = log_matrices[m, i, j] + ratio[0, j]
                    log_messages[place, t, i] = _log_sum(term, 0) + top
                else:
                    log_messages[place, t, i] = math.log(behind[0, i]) + top


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


# --- whole paths ----------------------------------------------------------------------------------


@_fast
def _best_before(
    best: Array, log_matrices: Array, m: int, ahead: Array, pointers: Array, t: int
) -> None:
    """ahead_j = max_i best_i + log P(i, j), and where the maximum is."""
    for j in range(len(ahead)):
        ahead[j] = -np.inf
        pointers[t, j] = 0
    for i in range(len(ahead)):
        score = best[0, i]
        for j in range(len(ahead)):
            x = score + log_matrices[m, i, j]
            better = x > ahead[j]
            ahead[j] = x if better else ahead[j]
            pointers[t, j] = i if better else pointers[t, j]


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
                    for k in range(len(sums)):
                        logits[0, k] += log_transposed[m, target, k]
                target = _draw(logits, uniform[draw, row, t], sums)
                impossible[row] |= target < 0
                paths[draw, row, t] = target
