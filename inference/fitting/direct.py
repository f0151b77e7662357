"""Point estimates of models with exact evidence: what is maximised, from where, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.randomness import seeded
from ..guides.coordinates import Coordinates
from ..queries.evidence import log_evidence
from .ascent import Ascent, ascend
from .parallel import Processes
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

_SHAKEN = 1.0
"""Standard deviation of the noise on further starts of models without clusters, in units."""


def work(model: Model, data: Sequences) -> float:
    """What one evaluation costs, in steps × states²."""
    return data.n_steps * float(model.states**2 + 8)


def number_of_starts(model: Model, data: Sequences) -> int:
    """Starts that the cost of the data allows."""
    return int(min(max(WORK / work(model, data), FEWEST_STARTS), MOST_STARTS))


class Landscape:
    """log p(y | θ) of all sequences, plus log p(θ) if the prior counts, over the coordinates.

    Args:
        model: the model, with exact evidence.
        data: all sequences.
        coordinates: the coordinates.
        prior: whether the prior counts.
        processes: processes that share the work.
    """

    def __init__(
        self,
        model: Model,
        data: Sequences,
        coordinates: Coordinates,
        *,
        prior: bool,
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
        if self._prior:
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
        return found + self._of_prior(points)[1] if self._prior else found

    def _of(self, v: Tensor, part: Sequences) -> tuple[Tensor, Tensor]:
        v = v.detach().requires_grad_()
        laws = self.model.laws(self.coordinates.values(v), part)
        value = log_evidence(laws).sum()
        (gradient,) = torch.autograd.grad(value, v)
        return value.detach(), gradient

    def _of_prior(self, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v.detach().requires_grad_()
        priors = self.model.priors
        values = self.coordinates.values(v)
        value = torch.stack([priors[n].log_prob(x).sum() for n, x in values.items()]).sum()
        (gradient,) = torch.autograd.grad(value, v)
        return value.detach(), gradient


def maximise(
    landscape: Landscape,
    sample: Sequences,
    *,
    start: Start | dict[str, Tensor],
    starts: int,
    seed: int,
    steps: int,
    tolerance: float,
    each: Callable[[Tensor, float], None] | None = None,
) -> Ascent | None:
    """Climbs a landscape from several starts, see ``ascend``; None if no start has a density."""
    space = landscape.coordinates
    return ascend(
        landscape,
        landscape.gradients,
        _starts(landscape.model, space, sample, start, starts, seed),
        bounded=space.scale_free,
        steps=steps,
        tolerance=tolerance,
        each=each,
    )


def _starts(
    model: Model,
    space: Coordinates,
    sample: Sequences,
    start: Start | dict[str, Tensor],
    count: int,
    seed: int,
) -> Iterator[Tensor]:
    """Coordinates to start from: as the settings say, then others that differ."""
    yield torch.zeros(space.size, dtype=torch.float64)  # the coordinates are centred there
    clustered = start in ("kmeans", "frames") and model.has_paths and not model.tied
    for number in range(1, count):
        own = seed + 7919 * number
        kind: Start = "prior" if start == "prior" else "frames"
        if start == "prior" or clustered:
            yield space.at(starting_values(model, sample, kind, seed=own))
            continue
        with seeded(own):
            yield _SHAKEN * torch.randn(space.size, dtype=torch.float64)
