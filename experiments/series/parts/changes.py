"""Changes of regime: where a path has them, and how many that were marked it finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOLERANCE = 10
"""Frames by which a change may be missed: a quarter of a behaviour's mean length (42 frames). Fixed
in advance; figures of other tolerances are beside it."""

TOLERANCES = tuple(range(21))


def changes(path: Sequence[int]) -> list[int]:
    """Steps whose regime differs from that before."""
    return (np.flatnonzero(np.diff(path)) + 1).tolist()


def matched(found: Sequence[int], marked: Sequence[int], tolerance: int) -> int:
    """Pairs of a found and a marked change at most ``tolerance`` apart, each in one pair at most.

    As many as there can be: the earliest of both that fit belong together.
    """
    ours, theirs = sorted(found), sorted(marked)
    pairs = i = j = 0
    while i < len(ours) and j < len(theirs):
        if abs(ours[i] - theirs[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif ours[i] < theirs[j]:
            i += 1
        else:
            j += 1
    return pairs


def _f1(found: Sequence[list[int]], marked: Sequence[list[int]], tolerance: int) -> float:
    """Of all dances together: 2 · pairs / (found + marked)."""
    pairs = sum(matched(*one, tolerance) for one in zip(found, marked, strict=True))
    return 2 * pairs / max(1, sum(map(len, found)) + sum(map(len, marked)))


def scores(found: Sequence[list[int]], marked: Sequence[list[int]]) -> dict[str, object]:
    """F1, precision and recall of the changes of all dances together."""
    pairs = sum(matched(*one, TOLERANCE) for one in zip(found, marked, strict=True))
    count, wanted = sum(map(len, found)), sum(map(len, marked))
    return {
        "f1": _f1(found, marked, TOLERANCE),
        "precision": pairs / max(1, count),
        "recall": pairs / max(1, wanted),
        "found_changes": count,
        "f1_by_tolerance": [_f1(found, marked, tolerance) for tolerance in TOLERANCES],
    }
