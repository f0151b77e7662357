"""The recursion of an LSTM cell and its gradient as machine code, one sequence after the other.

Compiled on first use and kept on disk by numba.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exact.chains_machine import exp
from ..exact.compiled import compiled

Array = NDArray[Any]

# Sums may be reordered; NaN and infinity keep their meaning.
_options: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
_fast: Any = compiled(**_options)
_inlined: Any = compiled(**_options, inline="always")


@_inlined
def _tanh(x: Any, one: Any) -> Any:
    """tanh of x by exp, which loops over units turn into vector instructions.

    Near zero, where a difference would lose digits, by Lambert's continued fraction: at .3 its
    error is below 1e-18.
    """
    z = x * x
    top = x * (one * 135135 + z * (one * 17325 + z * (one * 378 + z)))
    near = top / (one * 135135 + z * (one * 62370 + z * (one * 3150 + z * (one * 28))))
    far = one - (one + one) / (one + exp(x + x))
    return near if abs(x) < one * 0.3 else far


@_inlined
def _add(sums: Array, terms: Array, n: int, t: int) -> None:
    """sums += terms[n, t], unless the terms are empty."""
    if terms.size > 0:
        for j in range(len(sums)):
            sums[j] += terms[n, t, j]


@_fast
def forward(
    begin: int, end: int, told: Array, turned: Array, gates: Array, cells: Array, outputs: Array
) -> None:
    """Gates i, f, g, o, cells and outputs of sequences begin … end − 1.

    ``told`` is W x + b, (N, T, 4 H), ``turned`` the transpose of U, (H, 4 H).
    """
    steps, wide = told.shape[1], told.shape[2]
    size = wide // 4
    one = told.dtype.type(1)
    reads, empty = np.empty(wide, told.dtype), np.zeros(size, told.dtype)
    for n in range(begin, end):
        for t in range(steps):
            for j in range(wide):
                reads[j] = told[n, t, j]
            if t > 0:
                for k in range(size):
                    before = outputs[n, t - 1, k]
                    for j in range(wide):
                        reads[j] += turned[k, j] * before
            gate, cell = gates[n, t], cells[n, t]
            before = cells[n, t - 1] if t > 0 else empty
            for j in range(2 * size):
                gate[j] = one / (one + exp(-reads[j]))
            for j in range(2 * size, 3 * size):
                gate[j] = _tanh(reads[j], one)
            for j in range(3 * size, wide):
                gate[j] = one / (one + exp(-reads[j]))
            for j in range(size):
                c = gate[j] * gate[2 * size + j]
                c += gate[size + j] * before[j]
                cell[j] = c
                outputs[n, t, j] = gate[3 * size + j] * _tanh(c, one)


@_fast
def backward(
    begin: int,
    end: int,
    weight: Array,
    gates: Array,
    cells: Array,
    to_gates: Array,
    to_cells: Array,
    to_outputs: Array,
    to_told: Array,
) -> None:
    """The gradient of W x + b from those of gates, cells and outputs (empty where there is none).

    ``weight`` is U, (4 H, H).
    """
    steps, wide = gates.shape[1], gates.shape[2]
    size = wide // 4
    one = gates.dtype.type(1)
    onward = np.empty(size, gates.dtype)  # to h of the step before
    kept = np.empty(size, gates.dtype)  # and to its c
    empty = np.zeros(size, gates.dtype)
    for n in range(begin, end):
        onward[:] = 0
        kept[:] = 0
        for t in range(steps - 1, -1, -1):
            gate, cell, told = gates[n, t], cells[n, t], to_told[n, t]
            before = cells[n, t - 1] if t > 0 else empty
            _add(onward, to_outputs, n, t)
            _add(kept, to_cells, n, t)
            for j in range(size):
                seen, to_h = _tanh(cell[j], one), onward[j]
                to_c = kept[j] + to_h * gate[3 * size + j] * (one - seen * seen)
                told[j] = to_c * gate[2 * size + j]
                told[size + j] = to_c * before[j]
                told[2 * size + j] = to_c * gate[j]
                told[3 * size + j] = to_h * seen
                kept[j] = to_c * gate[size + j]
            _add(told, to_gates, n, t)
            for j in range(wide):
                g = gate[j]
                tanh = 2 * size <= j < 3 * size
                told[j] *= one - g * g if tanh else g * (one - g)
            onward[:] = 0
            for row in range(wide):
                share = told[row]
                for k in range(size):
                    onward[k] += weight[row, k] * share
