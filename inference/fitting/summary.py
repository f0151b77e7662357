"""A fit in a table: what was fitted, how it ended, and every parameter with its uncertainty."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...models import Sequences
from ...models.randomness import seeded
from ..guides.parameters import POINTS
from ..pareto import k_threshold
from .criteria import InformationCriteria, extent_of
from .points.ascent import ALIKE
from .points.direct import WEIGHTS
from .points.scalars import labels
from .standard_errors import StandardErrors

if TYPE_CHECKING:
    from .record import Fit

DRAWS = 4000
"""Draws of a posterior: medians and deviations are then within .02 standard deviations."""

SHOWN = 40
"""Parameters that are printed."""

LAST = 100
"""Losses whose mean is shown where each has noise."""


@dataclass(frozen=True)
class Estimate:
    """A line of a summary: one scalar.

    Attributes:
        name: parameter and place, such as ``rate[0]``.
        value: the point estimate, or the median of the posterior.
        error: its standard error, or the standard deviation of the posterior; NaN if there is none.
        low, high: ends of the interval; NaN if there is none.
        note: why there is none; otherwise "".

    >>> from beliefzoo.inference import Estimate
    >>> print(Estimate("rate[0]", 4.0, 1.0, 2.45, 6.53))
    rate[0]: 4 ± 1 [2.45, 6.53]
    """

    name: str
    value: float
    error: float
    low: float
    high: float
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.value:.5g} ({self.note})"
        value, low, high = self.shown
        return f"{self.name}: {value} ± {self.error:.3g} [{low}, {high}]"

    @property
    def shown(self) -> tuple[str, str, str]:
        """Value and ends of the interval, with five digits, or two more than the error leaves."""
        digits, size = 5, max(abs(self.low), abs(self.high))
        if 0 < self.error < math.inf and 0 < size < math.inf:
            digits = math.floor(math.log10(size)) - math.floor(math.log10(self.error)) + 2
            digits = min(max(digits, 5), sys.float_info.dig + 2)
        value, low, high = (f"{x:.{digits}g}" for x in (self.value, self.low, self.high))
        return value, low, high


@dataclass(frozen=True)
class Summary:
    """A fit in a table, as ``print`` shows it; made by ``Fit.summary``.

    Attributes:
        title: the model.
        facts: what was fitted and how it ended, as names and values.
        columns: what stands in the columns of the table.
        estimates: a line for every scalar of the unknown parameters.
        warnings: what was warned of at the end of the fit.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> data = Sequences.from_arrays([[3, 5, 4, 4]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> summary = fit(model, guide, data, progress=False).summary()
    >>> print(summary.estimates[0])
    rate[0]: 4 ± 1 [2.4505, 6.5292]
    >>> dict(summary.facts)["AIC"]
    '15.51'
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[str, str, str, str]
    estimates: tuple[Estimate, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        wide = max((len(name) for name, _ in self.facts), default=0)
        lines = [self.title, *(f"  {name:<{wide}}  {value}" for name, value in self.facts), ""]
        shown = self.estimates[:SHOWN]
        if shown:
            lines += _table(self.columns, shown)
        else:
            lines.append("all parameters are known")
        if left := len(self.estimates) - len(shown):
            lines.append(f"… and {left} more, in summary().estimates")
        if any(row.note == "needs data" for row in self.estimates):
            lines.append("standard errors need summary(data=…)")
        return "\n".join([*lines, *(f"warning: {said}" for said in self.warnings)])


Plain = str | bool | int | float | list[float] | list[str]


def ending(fit: Fit) -> dict[str, Plain]:
    """Returns how a fit ended, see ``Fit.ending``."""
    told: dict[str, Plain] = {"why_ended": fit.why_ended, "starts": len(fit.restart_bounds)}
    numbers = {
        "converged": fit.converged,
        "gradient_norm": fit.gradient_norm,
        "restarts_agreeing": fit.restarts_agreeing,
        "restarts_unbounded": fit.restarts_unbounded,
        "k_hat": fit.k_hat,
    }
    told |= {n: x for n, x in numbers.items() if x is not None and math.isfinite(x)}
    if len(fit.restart_bounds):
        told["restart_bounds"] = fit.restart_bounds.tolist()
    return told | ({"warnings": list(fit.warnings)} if fit.warnings else {})


def summarise(fit: Fit, level: float, data: Sequences | None, seed: int) -> Summary:
    """Returns the summary of a fit, see ``Fit.summary``."""
    point = fit.guide.uncertainty in POINTS
    if not fit.model.priors:
        rows: tuple[Estimate, ...] = ()
    elif point:
        rows = _of_point(fit, fit.standard_errors(level, data=data))
    else:
        rows = _of_posterior(fit, level, seed)
    percent = [f"{100 * end:.4g} %" for end in ((1 - level) / 2, (1 + level) / 2)]
    first = ("estimate", "std err") if point else ("median", "sd")
    if data is not None and fit.converged is not None:
        fit = replace(fit, extent=extent_of(fit.model, data, counted=True))
    facts = (*_size(fit), *_height(fit), *_ending(fit))
    return Summary(repr(fit.model), facts, (*first, percent[0], percent[1]), rows, fit.warnings)


def _table(columns: tuple[str, str, str, str], rows: tuple[Estimate, ...]) -> list[str]:
    """The lines of the table; where there is no interval, the reason stands in its place."""
    cells = []
    for row in rows:
        value, low, high = row.shown
        rest = [f"{row.error:.3g}", low, high]
        cells.append([row.name, value, *(["–", "", row.note] if row.note else rest)])
    first = max(len(row[0]) for row in cells)
    figures = [["", *columns], *(row for row in cells if row[2] != "–")]
    wide = [max(len(row[place]) for row in figures) for place in range(1, 5)]
    wide[0] = max(wide[0], *(len(row[1]) for row in cells))

    def line(name: str, *figures: str) -> str:
        aligned = (f"{x:>{size}}" for x, size in zip(figures, wide, strict=True))
        return "  ".join([f"{name:<{first}}", *aligned])

    return [line("", *columns), *(line(*row) for row in cells)]


def _of_point(fit: Fit, found: StandardErrors) -> tuple[Estimate, ...]:
    rows = []
    for name, values in found.estimates.items():
        names = labels(fit.model, name, values.shape)
        numbers = [
            x[name].flatten().tolist()
            for x in (found.estimates, found.errors, found.low, found.high)
        ]
        columns = zip(names, *numbers, found.reasons[name], strict=True)
        rows += [Estimate(*row) for row in columns]
    return tuple(rows)


def _of_posterior(fit: Fit, level: float, seed: int) -> tuple[Estimate, ...]:
    if not isinstance(level, float) or not 0 < level < 1:
        raise ValueError(f"level: must be a number in (0, 1), got {level!r}")
    with torch.no_grad(), seeded(seed):
        draws = fit.guide.draw_parameters(DRAWS).values
    ends = torch.tensor([0.5, (1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    rows = []
    for name, drawn in draws.items():
        each = drawn.double().reshape(DRAWS, -1)
        middle, low, high = each.quantile(ends, 0).tolist()
        names = labels(fit.model, name, drawn.shape[1:])
        spread = each.std(0).tolist()
        rows += [Estimate(*row) for row in zip(names, middle, spread, low, high, strict=True)]
    return tuple(rows)


def _size(fit: Fit) -> list[tuple[str, str]]:
    kind = {"ml": "maximum likelihood", "map": "maximum of the posterior density"}
    how = kind.get(fit.guide.uncertainty, f"posterior, {fit.guide.uncertainty}")
    guide = f"{type(fit.guide).__name__} with {type(fit.guide.filter).__name__}"
    facts = [("fitted by", f"{how if fit.model.priors else 'the filter alone'}, {guide}")]
    if (size := fit.extent) is not None:
        told = f"{size.sequences} sequence{'s' * (size.sequences > 1)}, {size.steps} steps"
        if size.observed not in (None, size.steps):
            told += f", of which {size.observed} observed"
        facts.append(("data", told))
        if size.parameters is not None:
            facts.append(("free parameters", str(size.parameters)))
    if units := fit.model.names.units:
        facts.append(("units", ", ".join(f"{name} in {unit}" for name, unit in units.items())))
    return facts


def _height(fit: Fit) -> list[tuple[str, str]]:
    """What was maximised, at the end, in nats."""
    size = fit.extent
    if size is None or not len(fit.losses):
        return []
    if fit.converged is None:  # by Adam: losses have noise, or are of the states before
        few = fit.losses[-LAST:]
        value = -float(few.mean()) * size.steps
        name = "bound" if fit.objective == "elbo" else f"objective ({fit.objective})"
        return [(name, f"{value:.2f} nats, the mean of the last {len(few)} steps")]
    height = -float(fit.losses[-1]) * size.steps
    if fit.guide.uncertainty == "map":
        with torch.no_grad():
            values = fit.guide.median()
            prior = sum(float(fit.model.priors[n].log_prob(x).sum()) for n, x in values.items())
        both = f"{height:.4f} nats, of which log p(y | θ) {height - prior:.4f}"
        return [("log p(y, θ)", both)]
    facts = [("log likelihood", f"{height:.4f} nats")]
    if size.parameters is not None and size.observed and fit.why_ended != "unbounded":
        found = InformationCriteria(height, size.parameters, size.observed)
        facts += [("AIC", f"{found.aic:.2f}"), ("BIC", f"{found.bic:.2f}")]
    return facts


def _ending(fit: Fit) -> list[tuple[str, str]]:
    told = f"{fit.why_ended or 'unknown'} after {len(fit.losses)} steps"
    if fit.converged is None:
        facts = [("ended", f"{told} of Adam")]
        if not math.isnan(fit.k_hat):
            limit = k_threshold(WEIGHTS)
            facts.append(("Pareto k̂", f"{fit.k_hat:.2f}, reliable up to {limit:.2f}"))
    else:
        told = f"{fit.why_ended} after {len(fit.losses) - 1} steps of L-BFGS"
        facts = [("ended", f"{told}, gradient {fit.gradient_norm:.1g} nats a unit")]
    if tried := len(fit.restart_bounds):
        reached = "" if fit.restarts_agreeing is None else f", {fit.restarts_agreeing} of them"
        word = f" within {ALIKE} nats of the best" if reached else ""
        facts.append(("starts", f"{tried}{reached}{word}"))
    if above := fit.restarts_unbounded:
        facts.append(("no bound", f"{above} of {tried} starts rose without end: a local maximum"))
    return facts
