"""Point estimates of models with exact evidence: what is maximised, and from where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.data.folders import Data
from ...models.emissions.identified import unconstrained_size
from ...models.randomness import seeded
from ..guides.coordinates import Coordinates
from ..guides.guide import BeliefGuide, Guide
from ..guides.parameters import POINTS
from ..queries.evidence import log_evidence
from .ascent import CURVED, FINISHED, LOOSE, Ascent, ascend, curvature_at
from .climb import Climbs, Each, climb
from .draws import batches, blocks
from .endings import doubts
from .minibatches import SMALLEST_SPLIT
from .parallel import Processes
from .settings import FitSettings
from .start import Start, starting_values

NUMBERS = 2**21
"""Numbers over sequences, time and states in one table (16 MiB)."""

STARTS = 20
"""Starts where they cost little: laws take many points at once, and long data are screened."""

STARTS_OF_SYMBOLS = 40
"""Starts for symbols, whose likelihood has more maxima: with 20 like those of numbers a fifth of 25
random cases ended too low, at a height on which several starts agreed."""

SCREENED = 1000
"""Steps on which starts climb first, where the data are more than twice as long."""

LARGEST = 2000
"""Parameters up to which a point estimate is found by L-BFGS on all data."""

HEAVIEST = 5e8
"""Steps × states² up to which it is."""

WEIGHTS = 250
"""Draws of a normal posterior whose weights say whether it can be trusted."""

HEAVY = 2e9
"""Steps × states² × draws up to which they are computed at the end of every fit."""

LEAST_CURVATURE = 0.1
"""A normal posterior starts no wider than by this curvature, nats per unit²."""

KINDS = ("sticky", "frames", "sticky", "frames", "sticky", "prior")
"""Kinds of further starts of a chain, in turn: kinds that differ end in different maxima."""

KINDS_OF_SYMBOLS = ("sticky", "frames", "prior", "sticky", "prior", "prior")
"""The same for symbols: clusters hold all frames of a symbol, so that their starts are alike."""

_LEAVING = 0.02, 0.5
"""Probabilities of leaving a state of sticky starts."""

_SHAKEN = 1.0
"""Standard deviation of the noise on further starts of models without clusters, in units."""


def work(model: Model, data: Sequences) -> float:
    """What one evaluation costs, in steps × states²."""
    return data.n_steps * float(model.states**2 + 8)


def number_of_starts(model: Model) -> int:
    """Starts that are tried: one where EM has compared several, few where each costs the same."""
    if model.m_step is not None:
        return 1
    if not model.draws_together:
        return STARTS // 5
    return STARTS_OF_SYMBOLS if model.observations.codes else STARTS


def is_exact(guide: Guide) -> TypeGuard[BeliefGuide]:
    """Whether the bound of a guide is the exact evidence."""
    return isinstance(guide, BeliefGuide) and guide.exact and guide.model.exact


def is_direct(
    guide: Guide, data: Data, objective: str, settings: FitSettings, heldout: Data | None
) -> bool:
    """Whether a fit is a point estimate that L-BFGS finds on all data.

    Raises:
        ValueError: the settings ask for L-BFGS where it cannot be used.
    """
    exact = is_exact(guide)
    point = bool(guide.model.priors) and guide.uncertainty in POINTS and objective == "elbo"
    split = bool(settings.holdout) and len(data) >= SMALLEST_SPLIT
    whole = isinstance(data, Sequences) and heldout is None and not split
    if settings.method == "lbfgs" and not (exact and point and whole):
        raise ValueError(
            "settings.method: 'lbfgs' needs a BeliefGuide with ExactFilter, parameters='ml' or "
            "'map', objective='elbo', data in memory and none held out; got "
            f"{type(guide).__name__}, {guide.uncertainty!r}, {objective!r}, "
            f"settings.holdout={settings.holdout}"
        )
    if settings.method != "auto" or not (exact and point and whole):
        return settings.method == "lbfgs"
    assert isinstance(data, Sequences)  # whole
    few = unconstrained_size(guide.model.priors) <= LARGEST
    return few and work(guide.model, data) <= HEAVIEST


class Recorded:
    """A landscape that keeps what it was asked, so that an interrupted climb can be walked again.

    Args:
        landscape: what is asked.
        known: answers of an earlier run, in order.
        each: called after every new answer.
    """

    def __init__(
        self, landscape: Landscape, known: Sequence[Tensor], each: Callable[[], None]
    ) -> None:
        self._landscape, self.answers, self._each = landscape, list(known), each
        self._asked = 0

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return heights (M,) and gradients (M, P) at points (M, P)."""
        if self._asked == len(self.answers):
            heights, gradients = self._landscape(points)
            self.answers.append(torch.cat([heights.unsqueeze(-1), gradients], -1))
            self._each()
        self._asked += 1
        answer = self.answers[self._asked - 1]
        return answer[:, 0].clone(), answer[:, 1:].clone()


Prior = Literal["none", "parameters", "coordinates"]


class Landscape:
    """log p(y | θ) of all sequences, plus the log prior if it counts, over the coordinates v.

    Args:
        model: the model, with exact evidence.
        data: all sequences.
        coordinates: the coordinates.
        prior: that of the parameters, log p(θ), whose maximum is the point estimate "map"; that of
            the coordinates, log p(v), whose maximum lies inside the support; or none.
        processes: processes that share the work.
    """

    def __init__(
        self,
        model: Model,
        data: Sequences,
        coordinates: Coordinates,
        *,
        prior: Prior,
        processes: Processes,
    ) -> None:
        self.model, self.coordinates = model, coordinates
        self._prior, self._processes = prior, processes
        rows, self._weight = processes.part(len(data))
        own = data[rows] if processes.size > 1 else data
        self._per_sequence = own.max_length * max(model.scored_at_once, model.states)
        size = max(1, NUMBERS // self._per_sequence)
        self._parts = [own] if size >= len(own) else list(own.batches(size))

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return heights (M,) and gradients (M, P) at points (M, P); −inf and 0 without a value."""
        one = len(points) == 1
        found = self._tried(points) if one or self.model.draws_together else None
        if found is not None or one:
            return found or self._without(points)
        # One of them has no value, or the laws take one at a time.
        each = [self._tried(point) or self._without(point) for point in points.split(1)]
        return torch.cat([one[0] for one in each]), torch.cat([one[1] for one in each])

    def _tried(self, points: Tensor) -> tuple[Tensor, Tensor] | None:
        """Heights and gradients; None if a matrix is singular at one of the points."""
        try:
            return self._sum(points)
        except (ValueError, RuntimeError, ArithmeticError):
            return None

    @staticmethod
    def _without(points: Tensor) -> tuple[Tensor, Tensor]:
        return points.new_full((len(points),), -torch.inf), torch.zeros_like(points)

    def _sum(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over all sequences, and the prior."""
        total = torch.zeros(len(points), 1 + points.shape[1], dtype=torch.float64)
        for part in self._parts:
            size = max(1, NUMBERS // (self._per_sequence * len(part)))
            rows = [self._of(some, part) for some in points.split(size)]
            total = total + self._weight * torch.cat(rows)
        total = self._processes.mean(total)
        if self._prior != "none":
            total = total + self._of_prior(points)
        fine = total.isfinite().all(-1)
        heights = torch.where(fine, total[:, 0], -torch.inf)
        return heights, torch.where(fine.unsqueeze(-1), total[:, 1:], 0)

    def _of(self, points: Tensor, part: Sequences) -> Tensor:
        """Evidence of some sequences at points (M, P), and its gradients: (M, 1 + P)."""
        v = points.detach().requires_grad_()
        # A single point needs no axis of draws, which not all models take.
        at = v if self.model.draws_together and len(points) > 1 else v.squeeze(0)
        laws = self.model.laws(self.coordinates.values(at), part)
        value = log_evidence(laws).sum(-1).reshape(len(points))
        (gradient,) = torch.autograd.grad(value.sum(), v)
        return torch.cat([value.detach().unsqueeze(-1), gradient], -1)

    def _of_prior(self, points: Tensor) -> Tensor:
        """Log prior at points (M, P), and its gradients: (M, 1 + P)."""
        v = points.detach().requires_grad_()
        priors, space = self.model.priors, self.coordinates
        values = space.values(v)
        value = torch.stack([priors[n].log_prob(x) for n, x in values.items()]).sum(0)
        if self._prior == "coordinates":
            value = value + torch.stack([*space.log_jacobians(v, values).values()]).sum(0)
        (gradient,) = torch.autograd.grad(value.sum(), v)
        return torch.cat([value.detach().unsqueeze(-1), gradient], -1)


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
        values = starting_values(model, sample, "prior" if kind == "prior" else "frames", seed=own)
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


def curvature_of(guide: Guide, data: Sequences) -> Tensor | None:
    """The curvature (P, P) of what a point estimate maximises, where it is; None if not finite.

    Raises:
        ValueError: a guide without exact evidence, or data that the model cannot emit.
    """
    posterior = guide.parameter_posterior
    if posterior is None or not is_exact(guide):
        raise ValueError(
            "data: the curvature is computed of the exact evidence, which needs a BeliefGuide with "
            f"ExactFilter, got {type(guide).__name__} with {type(guide.filter).__name__}"
        )
    guide.model.check_values(data)
    prior: Prior = "parameters" if guide.uncertainty == "map" else "none"
    space = posterior.coordinates
    seen = Landscape(guide.model, data, space, prior=prior, processes=Processes(None))
    return curvature_at(seen, posterior.mean.detach())


class Laplace(NamedTuple):
    """The normal law at the maximum of a posterior of the coordinates."""

    values: dict[str, Tensor]
    """Parameters at the maximum."""
    widths: Tensor
    """Standard deviations of the coordinates given all others, (P,)."""
    covariance: Tensor
    """Covariance of the coordinates divided by these widths, (P, P)."""
    doubts: tuple[str, ...]
    """What its user must know of how it was found."""


def laplace(
    guide: BeliefGuide, data: Sequences, settings: FitSettings, seed: int
) -> Laplace | None:
    """The normal law with mode and curvature of the exact posterior, to start a fit from.

    None if the curvature was not computed: there are many parameters, or no start has a density.
    """
    model = guide.model
    first = starting_values(model, data, settings.start, seed=seed)
    space = Coordinates(model.priors, model.units, first)
    alone = Processes(None)
    seen = Landscape(model, data, space, prior="coordinates", processes=alone)
    found = maximise(
        Recorded(seen, [], lambda: None),
        model,
        space,
        data,
        prior="coordinates",
        start=settings.start,
        starts=settings.restarts or number_of_starts(model),
        seed=seed,
        steps=settings.steps,
        tolerance=settings.tolerance,
    )
    if found is None or found.curvature is None:
        return None
    curvature, vectors = torch.linalg.eigh(found.curvature)
    curvature = curvature.clamp_min(LEAST_CURVATURE)
    precision = vectors @ (curvature.unsqueeze(-1) * vectors.mT)
    widths = precision.diagonal().rsqrt()
    whitened = widths.unsqueeze(-1) * precision * widths
    said = doubts(found, model, space)
    return Laplace(space.values(found.point), widths, torch.linalg.inv(whitened), said)


def covariance_of(guide: Guide, data: Sequences) -> Tensor | None:
    """Covariance (P, P) of the coordinates by the curvature of the exact posterior where the guide
    is; None for many parameters, or if it is not finite.
    """
    model, posterior = guide.model, guide.parameter_posterior
    assert posterior is not None  # there are unknown parameters
    if posterior.coordinates.size > CURVED:
        return None
    space, alone = posterior.coordinates, Processes(None)
    seen = Landscape(model, data, space, prior="coordinates", processes=alone)
    curvature = curvature_at(seen, posterior.mean.detach())
    if curvature is None:
        return None
    sizes, vectors = torch.linalg.eigh(curvature)
    found: Tensor = (vectors / sizes.clamp_min(1.0)) @ vectors.mT  # no wider than a unit
    return found


def weights_of(guide: Guide, data: Sequences, seed: int) -> Tensor | None:
    """log p(y, θ) − log q(θ) of draws of the parameters, (draws,) nats; None if it would take long.

    The states are summed out exactly.
    """
    model = guide.model
    if work(model, data) * WEIGHTS > HEAVY:
        return None
    with seeded(seed), torch.no_grad():
        values, log_prior, log_q = guide.draw_parameters(WEIGHTS)
        evidence = torch.zeros(WEIGHTS, dtype=torch.float64)
        for _, batch in batches(model, data):
            for block in blocks(model, batch, values, WEIGHTS):
                evidence[block.place] += log_evidence(block.laws).sum(-1)
    return evidence + log_prior - log_q
