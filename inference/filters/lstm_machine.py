"""The recursion of an LSTM cell and its gradient as machine code, one sequence after the other.

Compiled on first use and kept on disk by numba.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Sums may be reordered; NaN and infinity keep their meaning.
_fast: Any = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


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
    reads = np.empty(wide, told.dtype)
    for n in range(begin, end):
        for t in range(steps):
            for j in range(wide):
                reads[j] = told[n, t, j]
            if t > 0:
                for k in range(size):
                    before = outputs[n, t - 1, k]
                    for j in range(wide):
                        reads[j] += turned[k, j] * before
            for j in range(size):
                i = one / (one + math.exp(-reads[j]))
                f = one / (one + math.exp(-reads[size + j]))
                g = math.tanh(reads[2 * size + j])
                o = one / (one + math.exp(-reads[3 * size + j]))
                c = i * g
                if t > 0:
                    c += f * cells[n, t - 1, j]
                gates[n, t, j] = i
                gates[n, t, size + j] = f
                gates[n, t, 2 * size + j] = g
                gates[n, t, 3 * size + j] = o
                cells[n, t, j] = c
                outputs[n, t, j] = o * math.tanh(c)


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
    onward = np.empty(size, gates.dtype)  # to h and c of the step before
    kept = np.empty(size, gates.dtype)
    for n in range(begin, end):
        onward[:] = 0
        kept[:] = 0
        for t in range(steps - 1, -1, -1):
            for j in range(size):
                i, f = gates[n, t, j], gates[n, t, size + j]
                g, o = gates[n, t, 2 * size + j], gates[n, t, 3 * size + j]
                to_h, to_c = onward[j], kept[j]
                if to_outputs.size > 0:
                    to_h += to_outputs[n, t, j]
                if to_cells.size > 0:
                    to_c += to_cells[n, t, j]
                seen = math.tanh(cells[n, t, j])
                to_c += to_h * o * (one - seen * seen)
                before = cells[n, t - 1, j] if t > 0 else 0 * one
                to_i, to_f, to_g, to_o = to_c * g, to_c * before, to_c * i, to_h * seen
                if to_gates.size > 0:
                    to_i += to_gates[n, t, j]
                    to_f += to_gates[n, t, size + j]
                    to_g += to_gates[n, t, 2 * size + j]
                    to_o += to_gates[n, t, 3 * size + j]
                to_told[n, t, j] = to_i * i * (one - i)
                to_told[n, t, size + j] = to_f * f * (one - f)
                to_told[n, t, 2 * size + j] = to_g * (one - g * g)
                to_told[n, t, 3 * size + j] = to_o * o * (one - o)
                kept[j] = to_c * f
                onward[j] = 0
            for row in range(wide):
                share = to_told[n, t, row]
                for k in range(size):
                    onward[k] += weight[row, k] * share
