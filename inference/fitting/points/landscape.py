"""The function of the coordinates that a point estimate maximises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ....models import Model, Sequences
from ...guides.coordinates import Coordinates
from ...queries.evidence import log_evidence
from ...queries.linear import evidences, require_linear
from ..parallel import Processes
from .affine import Affine
from .climb import Climbers, Prior
from .closed import Closed
from .densities import Density
from .families import Products
from .maps import Array, Maps

if TYPE_CHECKING:
    from ..no_u_turn_machine import Chain

NUMBERS = 2**21
"""Numbers over sequences, time and states in one table (16 MiB)."""


class Recorded:
    """A landscape that keeps what it was asked, so that an interrupted climb can be walked again.

    Args:
        landscape: what is asked.
        known: answers of an earlier run, in order.
        each: called after every new answer with the number of evaluations of a climb in it.
    """

    def __init__(
        self, landscape: Landscape, known: Sequence[Tensor], each: Callable[[int], None]
    ) -> None:
        self._landscape, self.answers, self._each = landscape, list(known), each
        self._asked = 0

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return heights (M,) and gradients (M, P) at points (M, P)."""

        def ask() -> Tensor:
            heights, gradients = self._landscape(points)
            return torch.cat([heights.unsqueeze(-1), gradients], -1)

        answer = self._answer(ask, 1)
        return answer[:, 0].clone(), answer[:, 1:].clone()

    @property
    def climbs(self) -> bool:
        """Whether climbs on it are machine code."""
        return self._landscape.climbs

    def advance(
        self, climbers: Climbers, reach: Tensor, steps: int, tolerance: float
    ) -> tuple[Climbers, Array]:
        """The same climbers later, see ``Machine``."""

        def ask() -> Tensor:
            found, trace = self._landscape.advance(climbers, reach, steps, tolerance)
            return torch.from_numpy(np.concatenate([found.rows, trace.T], -1))

        answer = self._answer(ask, steps).numpy()
        width = climbers.rows.shape[1]
        rows, trace = answer[:, :width].copy(), answer[:, width:].T.copy()
        return climbers._replace(rows=rows), trace

    def _answer(self, ask: Callable[[], Tensor], evaluations: int) -> Tensor:
        if self._asked == len(self.answers):
            self.answers.append(ask())
            self._each(evaluations)
        self._asked += 1
        return self.answers[self._asked - 1]


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
        alone = processes.size == 1
        centre = coordinates.values(torch.zeros(coordinates.size, dtype=torch.float64))
        self._maps = Maps(coordinates)
        self._short: Products | Affine | None = None
        if alone:
            self._short = Products.of(model, own, centre) or Affine.of(model, own, self._maps)
        density = Density.of(model.priors, coordinates, prior)
        self._density = None if density is not None and density.volume else density
        self._closed: Closed | None = None
        if isinstance(self._short, Products):
            self._closed = Closed.of(self._short, coordinates, prior, density)
        self._together = model.draws_together or self._one_series(own)
        self._per_sequence = own.max_length * max(model.scored_at_once, model.states)
        size = max(1, NUMBERS // self._per_sequence)
        self._parts = [own] if size >= len(own) else list(own.batches(size))

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return heights (M,) and gradients (M, P) at points (M, P); −inf and 0 without a value."""
        if self._short is None:
            return self._in_laws(points)
        try:
            if self._closed is not None:
                heights, gradients = map(torch.from_numpy, self._closed.at(points.numpy()))
            else:
                heights, gradients = self._by(self._short, points)
        except ValueError:  # one of the points has no law
            return self._in_laws(points)
        rows = ~(heights.isfinite() & gradients.isfinite().all(-1))
        if bool(rows.any()):
            heights[rows], gradients[rows] = self._in_laws(points[rows])
        return heights, gradients

    @property
    def climbs(self) -> bool:
        """Whether climbs on it are machine code."""
        return self._closed is not None

    def advance(
        self, climbers: Climbers, reach: Tensor, steps: int, tolerance: float
    ) -> tuple[Climbers, Array]:
        """The climbers after so many more evaluations, at most, and their heights (S, M)."""
        assert self._closed is not None  # it climbs
        return self._closed.advance(climbers, reach.numpy(), steps, tolerance)

    def walk(self, chains: Sequence[Chain], until: int) -> None:
        """Moves chains on in machine code, see ``Closed``."""
        assert self._closed is not None  # it climbs
        self._closed.walk(chains, until)

    def visits(self, point: Tensor) -> Tensor | None:
        """Expected visits of the states (K,) at a point (P,); None if there is no machine code."""
        found = None if self._closed is None else self._closed.visits(point.double().numpy())
        return None if found is None else torch.from_numpy(found)

    def _by(self, short: Products | Affine, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same without laws; not finite where that cannot tell."""
        with np.errstate(all="ignore"):  # of points that are asked again
            values = self._maps.values(points.numpy())
            heights, slopes = short.at(values)
            if self._density is not None:
                own, more = self._density.at(values)
                heights = heights + own
                slopes = {name: slopes.get(name, 0.0) + x for name, x in more.items()}
            found = torch.from_numpy(heights), torch.from_numpy(self._maps.back(slopes))
        if self._prior == "none" or self._density is not None:
            return found
        prior = self._of_prior(points)
        return found[0] + prior[:, 0], found[1] + prior[:, 1:]

    def _in_laws(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the laws of the model, whatever they are."""
        one = len(points) == 1
        found = self._tried(points) if one or self._together else None
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
        value = self._evidence(v, part)
        (gradient,) = torch.autograd.grad(value.sum(), v)
        return torch.cat([value.detach().unsqueeze(-1), gradient], -1)

    def _evidence(self, v: Tensor, part: Sequences) -> Tensor:
        """Evidence of some sequences at points (M, P), (M,)."""
        if self.model.draws_together and len(v) > 1:
            return log_evidence(self.model.laws(self.coordinates.values(v), part)).sum(-1)
        # Models that take no axis of draws, and a single point, which needs none.
        laws = [self.model.laws(self.coordinates.values(one), part) for one in v]
        if len(laws) == 1:
            return log_evidence(laws[0]).sum(-1, keepdim=True)
        return evidences([require_linear(one) for one in laws])

    def _one_series(self, data: Sequences) -> bool:
        """Whether the laws are linear ones of a single series."""
        if len(data) > 1 or self.model.has_paths or not self.model.exact:
            return False
        with torch.no_grad():
            centre = torch.zeros(self.coordinates.size, dtype=torch.float64)
            try:
                laws = self.model.laws(self.coordinates.values(centre), data)
            except ValueError:  # there are none at the centre, as where states drift away
                return False
        return laws.linear is not None

    def _of_prior(self, points: Tensor) -> Tensor:
        """Log prior at points (M, P), and its gradients: (M, 1 + P)."""
        v = points.detach().requires_grad_()
        value = self._log_prior(v, self.coordinates.values(v))
        (gradient,) = torch.autograd.grad(value.sum(), v)
        return torch.cat([value.detach().unsqueeze(-1), gradient], -1)

    def _log_prior(self, v: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Log prior at points (M, P), (M,)."""
        priors = self.model.priors
        parts = [priors[name].log_prob(x) for name, x in values.items()]
        if self._prior == "coordinates":
            parts += self.coordinates.log_jacobians(v, values).values()
        return torch.stack(parts).sum(0)
