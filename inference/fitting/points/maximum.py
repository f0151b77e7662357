"""The maximum of a landscape from several starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ....models import Model, Sequences
from ....models.emissions.emission import Residuals
from ....models.emissions.observations import are_whole
from ....models.randomness import seeded
from ...guides.coordinates import Coordinates
from ..parallel import Processes
from ..start import Start, checked_starts
from .ascent import FINISHED, LOOSE, Ascent, ascend
from .climb import Climbs, Each, Machine, Prior, climb
from .landscape import Landscape, Recorded

STARTS = 20
"""Starts where they cost little: laws take many points at once, and long data are screened."""

MORE_STARTS = 40
"""Starts for three states or more, and for symbols, whose likelihoods have more maxima: with 20 a
fifth of 25 random cases of symbols ended too low, at a height on which several starts agreed."""

_FEW = 2
"""States up to which the fewer starts do."""

BATCHES = 3
"""Times that as many starts are tried while only one of all has reached the best height."""

SCREENED = 1000
"""Steps on which starts climb first, where the data are more than twice as long."""

MANY = 6
"""Times as many starts where the climbs are machine code and observations whole: of 60 random
chains each of counts and symbols 2 and 5 ended more than .1 nats below the best of 300 to 600
starts with 20 to 80 starts. Among reals more starts find more states that sit on a few values; of
120 random regressions on a lag, starts of the kinds below miss 4 with 40, 2 with 60, .4 with 120.
"""

EFFORT = 4e5
"""Steps × states² × starts that may be tried at first of mixtures and of labelled chains, which are
no machine code: about 3 s. Of 60 random chains of two normals a state 4, .8 and .3 end too low with
20, 60 and 120 starts of the kinds below; of 16 labelled ones the best of EM's starts 8."""

KINDS = ("sticky", "frames", "sticky", "frames", "sticky", "prior")
"""Kinds of further starts of a chain, in turn: kinds that differ end in different maxima."""

KINDS_OF_COUNTS = ("sticky", "prior", "frames", "prior")
"""The same for counts."""

KINDS_OF_SYMBOLS = ("sticky", "frames", "prior", "sticky", "prior", "prior")
"""The same for symbols: clusters hold all frames of a symbol, so that their starts are alike."""

KINDS_OF_PARTS = ("prior", "sticky", "prior", "prior")
"""The same for regressions on lags or inputs and for mixtures: clusters of frames tell their states
badly, which lie along lines, or hold components that are far apart."""

KINDS_OF_COUNTED = ("prior", "frames")
"""The same where the first start is the best that EM found."""

_LEAVING = 0.02, 0.5
"""Probabilities of leaving a state of sticky starts."""

_SHAKEN = 2.0
"""Standard deviation of the noise on further starts of models without clusters, in units: in 390
random series with trend and season, of which 30 starts show the maximum, 1.5 are missed by 4 starts
with noise of 1, .7 by 4 with 2, .13 by 8 with 2; 1.1 by 8 with 1."""


def number_of_starts(model: Model, steps: int, cheap: bool = False) -> int:
    """Starts that are tried: one where EM has compared several, few where each costs as much.

    Where climbs are ``cheap``, or over few ``steps``, more are tried.
    """
    paid = int(EFFORT / (max(steps, 1) * model.states**2))
    if model.m_step is not None:
        return 1 if model.actions else max(1, min(paid, MANY * STARTS))
    if not model.draws_together:
        return STARTS // 5 * (2 if steps <= SCREENED else 1)
    hard = model.has_paths and (model.states > _FEW or model.observations.codes)
    few = MORE_STARTS if hard else STARTS
    if not cheap:
        return min(max(few, paid), MANY * few) if _mixed(model) else few
    if are_whole(model.observations) or _lines(model):
        return MANY * few
    return 2 * MORE_STARTS if hard else STARTS


def _lines(model: Model) -> bool:
    """Whether states are regressions whose residuals are normal."""
    law: object = getattr(model, "emission", None)
    return isinstance(law, Residuals) and bool(law.squares())


def _kinds(model: Model) -> tuple[str, ...]:
    """Kinds of further starts of a chain."""
    if model.m_step is not None:
        return KINDS_OF_COUNTED
    if _lines(model) or _mixed(model):
        return KINDS_OF_PARTS
    if model.observations.codes:
        return KINDS_OF_SYMBOLS
    return KINDS_OF_COUNTS if are_whole(model.observations) else KINDS


def _mixed(model: Model) -> bool:
    """Whether states emit mixtures."""
    return any(dims[:2] == ("state", "component") for dims in model.parameter_dims().values())


def maximise(
    landscape: Recorded,
    model: Model,
    space: Coordinates,
    data: Sequences,
    *,
    prior: Prior,
    start: Start | Mapping[str, Tensor],
    starts: int | None,
    seed: int,
    steps: int,
    tolerance: float,
    each: Each | None = None,
) -> Ascent | None:
    """Climbs a landscape from several starts, see ``ascend``; None if no start has a density.

    Where the data are long, the starts climb on a part of them first, and the best go on. Without
    a number of ``starts`` there are as many as the model asks for, and as many again while only one
    of them has reached the best height and no slow one rose above it, without end.
    """
    cheap = isinstance(landscape, Machine) and landscape.climbs
    count = starts or number_of_starts(model, data.n_steps, cheap)
    part = data
    if count > FINISHED and data.n_steps > 2 * SCREENED:
        part = data[: max(1, SCREENED // data.max_length)].head(SCREENED)
    batches = 1 if starts or count < FINISHED or part is not data else BATCHES
    best: Ascent | None = None
    for batch in range(batches):
        sent = _starts(model, space, part, start, range(batch * count, (batch + 1) * count), seed)
        if not len(sent):  # the user says where
            break
        if part is not data and len(sent) > FINISHED:
            seen = Landscape(model, part, space, prior=prior, processes=Processes(None))
            found = climb(seen, sent, bounded=space.scale_free, steps=steps, tolerance=10 * LOOSE)
            sent = _best(found)
        ended = ascend(
            landscape,
            sent,
            bounded=space.scale_free,
            steps=steps,
            tolerance=tolerance,
            each=each,
        )
        best = _higher(best, ended)
        if best is None or best.agreeing > 1 or best.why == "unbounded":
            break
        if best.above and not cheap:  # laws take their time where states sit on few values
            break
    return best


def _higher(one: Ascent | None, other: Ascent | None) -> Ascent | None:
    """The better of two, with the heights of both."""
    if one is None or other is None:
        return one or other
    best = min(one, other, key=lambda each: (each.why == "unbounded", -each.value))
    return replace(best, heights=tuple(sorted((*one.heights, *other.heights), reverse=True)))


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
    numbers: range,
    seed: int,
) -> Tensor:
    """Coordinates (M, P) to start from: as the settings say, then others that differ."""
    points = torch.zeros(len(numbers), space.size, dtype=torch.float64)
    if isinstance(start, Mapping):
        return points[: int(0 in numbers)]  # the coordinates are centred there
    clusters = type(model).start_from_frames is not Model.start_from_frames and not model.tied
    kinds = _kinds(model) if start in ("kmeans", "frames") and clusters else [start]
    every = ["" if n == 0 else kinds[(n - 1) % len(kinds)] for n in numbers]
    own = seed + 7919 * (numbers.start + 1)
    if "kmeans" in every:  # no clusters: noise about the first
        with seeded(own):
            noise = torch.randn(points.shape, dtype=torch.float64)
        return noise * torch.tensor([[_SHAKEN * (kind != "")] for kind in every])
    drawn = [row for row, kind in enumerate(every) if kind == "prior"]
    if drawn:
        points[drawn] = space.at(checked_starts(model, sample, "prior", own, len(drawn)))
    estimated = [row for row, kind in enumerate(every) if kind in ("frames", "sticky")]
    if estimated:
        values = checked_starts(model, sample, "frames", own + 1, len(estimated), em=False)
        sticky = torch.tensor([every[row] == "sticky" for row in estimated])
        points[estimated] = space.at(_sticky(values, sticky, own))
    return points


def _sticky(values: dict[str, Tensor], rows: Tensor, seed: int) -> dict[str, Tensor]:
    """The same starts (M, …), of which those in some rows keep states for some time and have all
    states equally likely at first."""
    table, first = values.get("transition"), values.get("initial")
    if table is None or table.ndim != 3 or table.shape[1] != table.shape[2]:
        return values
    size = table.shape[1]
    with seeded(seed):
        low, high = (math.log(share) for share in _LEAVING)
        leaves = torch.empty(len(table), 1, 1, dtype=torch.float64).uniform_(low, high).exp()
    unit = torch.eye(size, dtype=torch.float64)
    kept = (1 - leaves) * unit + leaves / size
    values = values | {"transition": torch.where(rows[:, None, None], kept, table)}
    if first is not None and first.shape == (len(rows), size):
        values["initial"] = torch.where(rows[:, None], 1 / size, first)
    return values
