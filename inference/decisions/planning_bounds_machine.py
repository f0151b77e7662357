"""Upper bounds of a POMDP's values as machine code: the sawtooth from many sparse points.

Kernels loop over ``Points``, the points of ``planning_bounds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exact.compiled import compiled

if TYPE_CHECKING:
    from .planning_bounds import Points

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

_compiled: Any = compiled(nogil=True, error_model="numpy")


@_compiled
def drop_from(belief: Array, point: int, points: Points, known: float) -> float:
    """What the sawtooth from one point takes off what the corners give, min b / b_p times its gain;
    ``known`` if it is less than that."""
    gain: float = points.gains[point]
    ratio, enough = 1.0, known / gain
    for entry in range(points.starts[point], points.starts[point + 1]):
        ratio = min(ratio, belief[points.states[entry]] / points.shares[entry])
        if ratio <= enough:
            return known
    return ratio * gain


@_compiled
def sawtooth(beliefs: Array, latest: Numbers, since: int, points: Points, drops: Array) -> None:
    """Lower the drops (n,) by the points numbered ``since`` or later."""
    for row in range(len(beliefs)):
        for state in range(len(latest)):
            if beliefs[row, state] == 0:
                continue
            point = latest[state]
            while point >= since:
                if points.gains[point] < drops[row]:
                    drops[row] = drop_from(beliefs[row], point, points, drops[row])
                point = points.earlier[point]


@_compiled
def drop_idle(count: int, points: Points, latest: Numbers) -> int:
    """Drop the points at which others give as much, link the rest; how many these are."""
    belief, drop = np.zeros((1, len(latest))), np.zeros(1)
    for point in range(count):
        span = slice(points.starts[point], points.starts[point + 1])
        gain = points.gains[point]
        if gain < 0:
            belief[0, points.states[span]] = points.shares[span]
            points.gains[point] = np.inf  # not to be compared with itself
            drop[0] = start = gain * (1 - 1e-12)
            sawtooth(belief, latest, 0, points, drop)
            points.gains[point] = gain if drop[0] == start else np.inf
            belief[0, points.states[span]] = 0.0
    latest[:] = -1
    left = 0
    for point in range(count):
        if points.gains[point] < 0:
            span = slice(points.starts[point], points.starts[point + 1])
            likeliest = points.states[span][points.shares[span].argmax()]
            points.earlier[point], latest[likeliest] = latest[likeliest], point
            left += 1
        else:
            points.values[point] = points.gains[point] = np.inf
    return left


@_compiled
def against_corners(count: int, points: Points, corners: Array) -> None:
    """Renew what points gain on corners that were lowered."""
    for point in range(count):
        level = 0.0
        for entry in range(points.starts[point], points.starts[point + 1]):
            level += points.shares[entry] * corners[points.states[entry]]
        points.gains[point] = points.values[point] - level
