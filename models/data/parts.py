"""Which sequences a part of the data holds, and their labels there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def positions(index: int | slice | Sequence[int] | Tensor | Array, n: int) -> Tensor:
    """Positions in 0..n-1 that ``index`` chooses, int64, at least one."""
    if isinstance(index, slice):
        chosen = np.arange(n)[index]
    else:
        if isinstance(index, tuple):
            raise ValueError(
                f"index must be one index, of sequences ({[*index]!r} is a list of them; part.head "
                f"takes steps); got {index!r}"
            )
        chosen = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if chosen.dtype == bool and chosen.shape == (n,):
            chosen = np.flatnonzero(chosen)
        elif chosen.size and (chosen.dtype.kind not in "iu" or chosen.ndim > 1):
            raise ValueError(
                f"index must be positions or {n} bools, one per sequence; "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
    if not chosen.size:
        raise ValueError(f"index must choose at least one of {n} sequences; got {index!r}")
    chosen = np.atleast_1d(chosen).astype(np.int64)
    if chosen.min() < -n or chosen.max() >= n:
        raise IndexError(f"index must lie in {-n}..{n - 1}; got {index!r}")
    return torch.from_numpy(chosen % n)


def distinct(labels: list[str]) -> tuple[str, ...]:
    """The labels, with " (2)", " (3)", … appended to repeated ones."""
    taken = set(labels)
    if len(taken) == len(labels):
        return tuple(labels)
    seen: dict[str, int] = {}
    for n, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            while (name := f"{label} ({seen[label]})") in taken:
                seen[label] += 1
            taken.add(name)
            labels[n] = name
    return tuple(labels)


def split_bounds(parts: Sequence[float] | Sequence[int], n: int) -> list[int]:
    """First positions of the parts among n shuffled sequences, and the end of the last."""
    sizes = np.asarray(parts)
    whole = sizes.dtype.kind in "iu"
    if sizes.ndim != 1 or not sizes.size or not (whole or sizes.dtype.kind == "f"):
        raise ValueError(f"parts must be a list of fractions or of counts; got {parts!r}")
    limit = n if whole else 1.0
    if not (sizes > 0).all() or not sizes.sum() <= limit * (1 + 1e-9):
        raise ValueError(
            f"parts must be positive and sum to at most {limit} "
            f"({'counts' if whole else 'fractions'} of {n} sequences); got {parts!r}"
        )
    ends = sizes.cumsum() if whole else np.rint(sizes.cumsum() * n)
    edges = [0, *(int(end) for end in ends)]
    if (np.diff(edges) < 1).any():
        raise ValueError(f"parts must each hold a sequence; got {parts!r} of {n} sequences")
    return edges
