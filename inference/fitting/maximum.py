"""The maximum of a landscape from several starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import cycle

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.randomness import seeded
from ..guides.coordinates import Coordinates
from .ascent import FINISHED, LOOSE, Ascent, ascend
from .climb import Climbs, Each, climb
from .landscape import Landscape, Prior, Recorded
from .parallel import Processes
from .start import Start, checked_start

SCREENED = 1000
"""Steps on which starts climb first, where the data are more than twice as long."""

KINDS = ("sticky", "frames", "sticky", "frames", "sticky", "prior")
"""Kinds of further starts of a chain, in turn: kinds that differ end in different maxima."""

KINDS_OF_SYMBOLS = ("sticky", "frames", "prior", "sticky", "prior", "prior")
"""The same for symbols: clusters hold all frames of a symbol, so that their starts are alike."""

_LEAVING = 0.02, 0.5
"""Probabilities of leaving a state of sticky starts."""

_SHAKEN = 1.0
"""Standard deviation of the noise on further starts of models without clusters, in units."""


def maximise(
    landscape: Recorded,
    model: Model,
    space: Coordinates,
    data: Sequences,
    *,
    prior: Prior,
    start: Start | Mapping[str, Tensor],
    starts: int,
    seed: int,
    steps: int,
    tolerance: float,
    each: Each | None = None,
) -> Ascent | None:
    """Climbs a landscape from several starts, see ``ascend``; None if no start has a density.

    Where the data are long, the starts climb on a part of them first, and the best go on.
    """
    part = data
    if starts > FINISHED and data.n_steps > 2 * SCREENED:
        part = data[: max(1, SCREENED // data.max_length)].head(SCREENED)
    points = torch.stack([*_starts(model, space, part, start, starts, seed)])
    if part is not data and len(points) > FINISHED:
        seen = Landscape(model, part, space, prior=prior, processes=Processes(None))
        found = climb(seen, points, bounded=space.scale_free, steps=steps, tolerance=10 * LOOSE)
        points = _best(found)
    return ascend(
        landscape,
        points,
        bounded=space.scale_free,
        steps=steps,
        tolerance=tolerance,
        each=each,
    )


def _best(found: Climbs) -> Tensor:
    """The highest points of different heights, where a few nats may still be made up."""
    rows: list[int] = []
    heights = found.heights.tolist()
    for row in found.heights.argsort(descending=True).tolist():
        near = heights[row] > (heights[rows[0]] - 10 if rows else -math.inf)
        if near and len(rows) < FINISHED and all(abs(heights[row] - heights[r]) > 1 for r in rows):
            rows.append(row)
    return found.points[rows or [0]]


def _starts(
    model: Model,
    space: Coordinates,
    sample: Sequences,
    start: Start | Mapping[str, Tensor],
    count: int,
    seed: int,
) -> Iterator[Tensor]:
    """Coordinates to start from: as the settings say, then others that differ."""
    yield torch.zeros(space.size, dtype=torch.float64)  # the coordinates are centred there
    if isinstance(start, Mapping):
        return  # the user says where
    clusters = type(model).start_from_frames is not Model.start_from_frames and not model.tied
    own_kinds = KINDS_OF_SYMBOLS if model.observations.codes else KINDS
    kinds = cycle(own_kinds if start in ("kmeans", "frames") and clusters else [start])
    for number, kind in zip(range(1, count), kinds, strict=False):
        own = seed + 7919 * number
        if kind == "kmeans":  # no clusters: noise about the first
            with seeded(own):
                noise = torch.randn(space.size, dtype=torch.float64)
            yield _SHAKEN * noise
            continue
        values = checked_start(model, sample, "prior" if kind == "prior" else "frames", own)
        yield space.at(_sticky(values, own) if kind == "sticky" else values)


def _sticky(values: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same values with states that are kept for some time, all equally likely at first."""
    table, first = values.get("transition"), values.get("initial")
    if table is None or table.ndim != 2 or table.shape[0] != table.shape[1]:
        return values
    size = len(table)
    with seeded(seed):
        low, high = (math.log(share) for share in _LEAVING)
        leaves = torch.empty((), dtype=torch.float64).uniform_(low, high).exp()
    unit = torch.eye(size, dtype=torch.float64)
    values = values | {"transition": (1 - leaves) * unit + leaves / size}
    if first is not None and first.shape == (size,):
        values["initial"] = torch.full_like(first, 1 / size)
    return values
