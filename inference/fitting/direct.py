"""Point estimates of models with exact evidence: what is maximised, and from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .ascent import Ascent, ascend, curvature_at
from .draws import batches, blocks
from .parallel import Processes
from .settings import FitSettings
from .start import Start, starting_values

NUMBERS = 2**21
"""Numbers over sequences, time and states in one table (16 MiB)."""

WORK = 3e6
"""Steps × states² that are worth another start: small problems get many, large ones few."""

MOST_STARTS, FEWEST_STARTS = 20, 2

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

_SHAKEN = 1.0
"""Standard deviation of the noise on further starts of models without clusters, in units."""


def work(model: Model, data: Sequences) -> float:
    """What one evaluation costs, in steps × states²."""
    return data.n_steps * float(model.states**2 + 8)


def number_of_starts(model: Model, data: Sequences) -> int:
    """Starts that the cost of the data allows; one where EM has compared several already."""
    if model.m_step is not None:
        return 1
    return int(min(max(WORK / work(model, data), FEWEST_STARTS), MOST_STARTS))


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
    whole = isinstance(data, Sequences) and heldout is None
    if settings.method == "lbfgs" and not (exact and point and whole):
        raise ValueError(
            "settings.method: 'lbfgs' needs a BeliefGuide with ExactFilter, parameters='ml' or "
            "'map', objective='elbo', data in memory and none held out; got "
            f"{type(guide).__name__}, {guide.uncertainty!r}, {objective!r}"
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

    def __call__(self, v: Tensor) -> tuple[float, Tensor]:
        """Return height and gradient."""

        def ask() -> Tensor:
            value, gradient = self._landscape(v)
            return torch.cat([gradient.new_tensor([value]), gradient])

        found = self._next(ask)
        return float(found[0]), found[1:]

    def gradients(self, points: Tensor) -> Tensor:
        """Return the gradients (M, P) at many points."""
        return self._next(lambda: self._landscape.gradients(points))

    def _next(self, ask: Callable[[], Tensor]) -> Tensor:
        if self._asked == len(self.answers):
            try:
                answer = ask()
            except (ValueError, RuntimeError, ArithmeticError):  # singular at the edge
                answer = torch.tensor([torch.nan, torch.nan], dtype=torch.float64)
            self.answers.append(answer)
            self._each()
        self._asked += 1
        return self.answers[self._asked - 1]


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

    def __call__(self, v: Tensor) -> tuple[float, Tensor]:
        """Return the height (nats) and its gradient at coordinates (P,)."""
        total, slope = torch.zeros((), dtype=torch.float64), torch.zeros_like(v)
        for part in self._parts:
            value, gradient = self._of(v, part)
            total, slope = total + value * self._weight, slope + gradient * self._weight
        joined = self._processes.mean(torch.cat([total.reshape(1), slope]))
        total, slope = joined[0], joined[1:]
        if self._prior != "none":
            value, gradient = self._of_prior(v)
            total, slope = total + value, slope + gradient
        return float(total), slope

    def gradients(self, points: Tensor) -> Tensor:
        """Return the gradients (M, P) at many points (M, P)."""
        if not self.model.draws_together or self._processes.size > 1:
            return torch.stack([self(point)[1] for point in points])
        found = torch.zeros_like(points)
        for part in self._parts:
            size = max(1, NUMBERS // (self._per_sequence * len(part)))
            rows = [self._of(some, part)[1] for some in points.split(size)]
            found = found + torch.cat(rows)
        return found if self._prior == "none" else found + self._of_prior(points)[1]

    def _of(self, v: Tensor, part: Sequences) -> tuple[Tensor, Tensor]:
        v = v.detach().requires_grad_()
        laws = self.model.laws(self.coordinates.values(v), part)
        value = log_evidence(laws).sum()
        (gradient,) = torch.autograd.grad(value, v)
        return value.detach(), gradient

    def _of_prior(self, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v.detach().requires_grad_()
        priors, space = self.model.priors, self.coordinates
        values = space.values(v)
        value = torch.stack([priors[n].log_prob(x).sum() for n, x in values.items()]).sum()
        if self._prior == "coordinates":
            value = value + sum(x.sum() for x in space.log_jacobians(v, values).values())
        (gradient,) = torch.autograd.grad(value, v)
        return value.detach(), gradient


def maximise(
    landscape: Recorded,
    model: Model,
    space: Coordinates,
    sample: Sequences,
    *,
    start: Start | Mapping[str, Tensor],
    starts: int,
    seed: int,
    steps: int,
    tolerance: float,
    each: Callable[[Tensor, float], None] | None = None,
) -> Ascent | None:
    """Climbs a landscape from several starts, see ``ascend``; None if no start has a density."""
    return ascend(
        landscape,
        landscape.gradients,
        _starts(model, space, sample, start, starts, seed),
        bounded=space.scale_free,
        steps=steps,
        tolerance=tolerance,
        each=each,
    )


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
    clustered = start in ("kmeans", "frames") and clusters
    for number in range(1, count):
        own = seed + 7919 * number
        kind: Start = "prior" if start == "prior" else "frames"
        if start == "prior" or clustered:
            yield space.at(starting_values(model, sample, kind, seed=own))
            continue
        with seeded(own):
            yield _SHAKEN * torch.randn(space.size, dtype=torch.float64)


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
    return curvature_at(seen.gradients, posterior.mean.detach())


class Laplace(NamedTuple):
    """The normal law at the maximum of a posterior of the coordinates."""

    values: dict[str, Tensor]
    """Parameters at the maximum."""
    widths: Tensor
    """Standard deviations of the coordinates given all others, (P,)."""
    covariance: Tensor
    """Covariance of the coordinates divided by these widths, (P, P)."""


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
        start=settings.start,
        starts=settings.restarts or number_of_starts(model, data),
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
    return Laplace(space.values(found.point), widths, torch.linalg.inv(whitened))


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
