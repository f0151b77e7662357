"""The record of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...models import Model, Sequences
from ..guides.guide import Guide, parameters_of
from ..guides.parameters import POINTS
from .criteria import Extent
from .objectives import Objective
from .points.ascent import ALIKE
from .points.direct import (
    curvature_of,
)
from .settings import FitSettings
from .standard_errors import StandardErrors, standard_errors
from .summary import Plain, Summary, ending, summarise


@dataclass(frozen=True)
class Fit:
    """Result of a fit: the fitted guide, and the record of how it came about; made by :func:`fit`.

    The guide is in the best state that the fit found, see ``FitSettings``. ``print`` shows the
    summary.

    Attributes:
        model: the model that was fitted.
        guide: the fitted guide.
        objective, settings, seed: arguments of the fit.
        losses: loss at the state before each step, nats per observed time step; of L-BFGS, those of
            the climb that led to the result, the last state included.
        evaluations: (evaluations, 2): step, and bound on the held-out sequences at the medians of
            the parameters, nats per time step.
        restart_bounds: bound of every start that was tried, nats per time step.
        why_ended: what ended the fit.
        converged: whether a point estimate by L-BFGS is within ``settings.tolerance`` of a maximum;
            None for fits by Adam, which a count of steps or held-out sequences end.
        gradient_norm: largest element of the gradient at the end, nats per unit of a coordinate;
            NaN for fits by Adam.
        k_hat: Pareto k̂ of the posterior of the parameters, the states summed out exactly: up to
            0.58 its draws can be corrected by weighting; NaN for point estimates, without exact
            inference, and where it would take long.
        curvature: of a point estimate by L-BFGS, minus the second derivatives of what it maximises,
            (P, P), in the guide's coordinates; None otherwise, and for many parameters.
        seconds: duration.
        versions: versions of Python and of the packages used.
        extent: numbers of training sequences, steps and free parameters; None if not recorded.
        warnings: what ``fit`` warned of at the end of a point estimate.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson", ordered=True)
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="map")
    >>> result = fit(model, guide, data, seed=0, progress=False)
    >>> result.converged, sorted(result.fitted.known)
    (True, ['initial', 'rate', 'transition'])
    """

    model: Model
    guide: Guide
    objective: Objective
    settings: FitSettings
    seed: int
    losses: Tensor
    evaluations: Tensor
    restart_bounds: Tensor
    seconds: float
    versions: Mapping[str, str]
    k_hat: float = math.nan
    why_ended: str = ""
    converged: bool | None = None
    gradient_norm: float = math.nan
    curvature: Tensor | None = None
    extent: Extent | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Fit({self.model!r}, {type(self.guide).__name__}, parameters="
            f"{self.guide.uncertainty!r}, why_ended={self.why_ended!r})"
        )

    def __str__(self) -> str:
        return str(self.summary())

    @property
    def restarts_agreeing(self) -> int | None:
        """Starts that reached the height of a point estimate by L-BFGS; otherwise None.

        Those that rose above it, without end, are not among them.
        """
        if self.converged is None or self.extent is None:
            return None
        apart = (self.restart_bounds + self.losses[-1]).abs() * self.extent.steps
        return int((apart < ALIKE).sum())

    @property
    def restarts_unbounded(self) -> int | None:
        """Starts that rose above a point estimate by L-BFGS, without end; otherwise None.

        If there are any, what is maximised has no bound, and the estimate is a local maximum: among
        reals a state that sits on a single value has any likelihood.
        """
        if self.converged is None or self.extent is None:
            return None
        above = (self.restart_bounds + self.losses[-1]) * self.extent.steps
        return int((above >= ALIKE).sum())

    def standard_errors(
        self, level: float = 0.95, *, data: Sequences | None = None
    ) -> StandardErrors:
        """Computes standard errors and intervals of a point estimate, see ``StandardErrors``.

        Args:
            level: probability of the intervals.
            data: the training data, where the fit has no ``curvature``: with more than 60
                parameters, and by Adam. It is then computed, by two gradients a parameter.

        Raises:
            ValueError: a fit of a posterior, whose draws have a spread, or of known parameters;
                data where the evidence is not exact.
        """
        posterior = self.guide.parameter_posterior
        if posterior is None or self.guide.uncertainty not in POINTS:
            came = "known parameters" if posterior is None else repr(self.guide.uncertainty)
            raise ValueError(
                f"fit: standard errors are of estimates by parameters='ml' or 'map', got {came}"
            )
        curvature = self.curvature
        if curvature is None and data is not None and self.why_ended != "unbounded":
            curvature = curvature_of(self.guide, data)
        return standard_errors(
            self.model,
            posterior.coordinates,
            posterior.mean,
            curvature,
            why_none="unbounded" if self.why_ended == "unbounded" else "needs data",
            tolerance=self.settings.tolerance,
            level=level,
        )

    def summary(
        self, level: float = 0.95, *, data: Sequences | None = None, seed: int = 0
    ) -> Summary:
        """Returns a table: what was fitted, how it ended, and every parameter with an interval.

        Point estimates have standard errors, see ``standard_errors``, posteriors the median, the
        standard deviation and the quantiles of independent draws.

        Args:
            level: probability of the intervals.
            data: the training data, for standard errors and criteria of large models; see
                ``standard_errors``.
            seed: of the draws.
        """
        return summarise(self, level, data, seed)

    @property
    def ending(self) -> dict[str, Plain]:
        """How the fit ended, as plain values for a report; what does not apply is left out."""
        return ending(self)

    @property
    def fitted(self) -> Model:
        """The model with its parameters known, at the posterior medians."""
        return parameters_of(self.guide)


class Ending(NamedTuple):
    """How a fit ended, as its record says; without arguments, by Adam."""

    why: str = ""
    converged: bool | None = None
    gradient_norm: float = math.nan
    curvature: Tensor | None = None
    warnings: tuple[str, ...] = ()


class NonFiniteLossError(ArithmeticError):
    """Raised when a loss or gradient is not finite.

    Args:
        message: names the step, the site and the sequence.
        last_good: the fit just before; its guide can be saved and examined.

    >>> from beliefzoo.inference import NonFiniteLossError
    >>> issubclass(NonFiniteLossError, ArithmeticError)
    True
    """

    def __init__(self, message: str, last_good: Fit) -> None:
        super().__init__(message)
        self.last_good = last_good
