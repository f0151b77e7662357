"""Gaps between times, and regular grids with missing steps in them."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .sequences import Sequences

_OFF = 1e-6
"""Share of a gap by which a time may lie beside the grid."""

_MOST = 1000
"""Steps of the grid for each one of the data: more are taken for a mistaken unit."""


UNEVEN = 0.2
"""Share of the typical gap between steps by which gaps differ that are not even; months do less."""


def uneven_gaps(data: Sequences) -> tuple[float, float] | None:
    """Return the least and the largest gap between steps; None if they are even, or there are no
    times.
    """
    if data.times is None:
        return None
    gaps = data.times.diff(dim=1)[data.step_mask[:, 1:]]
    if not len(gaps):
        return None
    typical = gaps.median()
    even = bool(((gaps - typical).abs() <= UNEVEN * typical).all())
    return None if even else (float(gaps.min()), float(gaps.max()))


def on_grid(data: Sequences, every: float | None) -> dict[str, Tensor]:
    """Values, mask, times, lengths, … of the data on a regular grid, see ``Sequences.filled``."""
    places, gap = _places(data, every)
    longest = int(places.max()) + 1
    if longest * len(data) > _MOST * data.n_steps:
        raise ValueError(
            f"every must be a gap with at most {_MOST} steps of the grid for each of the data; got "
            f"{gap:g}, by which {data.n_steps} steps would become {longest * len(data)}"
        )
    rows = torch.arange(len(data), device=places.device).unsqueeze(1).expand_as(places)
    inside = data.step_mask
    lengths = places.gather(1, data.lengths.unsqueeze(1) - 1).squeeze(1) + 1
    if longest == data.max_length and bool((lengths == data.lengths).all()):
        return {}
    beside = [name for name in ("actions", "rewards", "inputs") if getattr(data, name) is not None]
    if beside:
        raise ValueError(
            f"{beside[0]} must be known at every step of the grid, or left out by "
            f"data.without({beside[0]!r}); got gaps in the times"
        )
    made = {}
    for name in ("values", "mask"):
        own = getattr(data, name)
        wide = own.new_zeros(len(data), longest, *own.shape[2:])
        wide[rows[inside], places[inside]] = own[inside]
        made[name] = wide
    assert data.times is not None  # it has places
    steps = torch.arange(longest, device=places.device).minimum(lengths.unsqueeze(1) - 1)
    times = data.times[:, :1] + gap * steps
    times[rows[inside], places[inside]] = data.times[inside]
    last = data.times[:, -1:]  # of the padding too
    return {**made, "times": torch.minimum(times, last), "lengths": lengths}


def _places(data: Sequences, every: float | None) -> tuple[Tensor, float]:
    """The place of every step on the grid of its sequence, and the gap of the grid."""
    if data.times is None:
        raise ValueError("times must be there for a grid of times; got none")
    gaps, inside = data.times.diff(dim=1), data.step_mask
    positive = gaps[inside[:, 1:] & (gaps > 0)]
    if every is None:
        gap = float(positive.min()) if len(positive) else 1.0
    elif isinstance(every, Real) and not isinstance(every, bool) and 0 < every < torch.inf:
        gap = float(every)
    else:
        raise ValueError(f"every must be a number > 0, or None; got {every!r}")
    exact = (data.times - data.times[:, :1]) / gap
    places = exact.round()
    off = ((exact - places).abs() > _OFF) & inside
    for n, t in off.nonzero()[:1].tolist():
        raise ValueError(
            f"times must lie on a grid of gap {gap:g} from the first one of their sequence; got "
            f"{float(data.times[n, t])!r} in sequence {n} ({data.labels[n]!r}), step {t}, after "
            f"{float(data.times[n, 0])!r}"
        )
    shared = (places.diff(dim=1) < 1) & inside[:, 1:]
    for n, t in shared.nonzero()[:1].tolist():
        raise ValueError(
            "times must differ from step to step for a grid; got "
            f"{float(data.times[n, t + 1])!r} twice in sequence {n} ({data.labels[n]!r})"
        )
    return places.clamp_max(2**52).long(), gap
