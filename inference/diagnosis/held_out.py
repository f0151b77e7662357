"""Densities and forecasts of data that a fit has not seen, under draws of its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.checks import require
from ..export import continuous as export_continuous
from ..export import discrete as export_discrete
from ..export.sample import Array, Sample, sample_of
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..queries.answers import forecast
from ..queries.batches import quantile
from ..queries.chains import Forecast
from ..queries.linear import LinearForecast
from ..queries.outlook import Outlook
from .scores import Scores, scores


def require_fit(result: object) -> Fit | NutsFit:
    """Returns the result of a refit.

    Raises:
        ValueError: it is no fit, or its model has no exact inference.
    """
    fit = isinstance(result, Fit | NutsFit)
    require(fit, "refit", "must return a Fit or a NutsFit", type(result).__name__)
    found = cast(Fit | NutsFit, result)
    require(found.model.exact, "refit", "needs a model with exact inference", found.model)
    return found


def step_table(result: Fit | NutsFit, data: Sequences, draws: int) -> tuple[Sample, Array]:
    """Draws of the parameters, and log p(y_t | y_1 … y_{t-1}, θ_s) of other data, (S, N, T).

    NaN where nothing was observed. Uses torch's global generator.
    """
    require_fit(result)
    result.model.check_values(data)
    data = result.model.names.read(data)
    sample = sample_of(result, draws)
    kind: Any = export_discrete if result.model.has_paths else export_continuous
    _, steps = kind.evidence(result, data, sample, True)
    return sample, steps


@dataclass(frozen=True)
class Mixture:
    """Forecasts under several draws of the parameters, of equal weight, as one."""

    parts: Sequence[Forecast | LinearForecast]

    @property
    def outlook(self) -> Outlook:
        """Of their mixture."""
        first = self.parts[0].outlook
        assert first is not None  # made by `forecast`
        known = first.density is not None
        return replace(first, density=self._density if known else None)

    def _density(self, observed: Sequences) -> Tensor:
        found = [part.outlook.density(observed) for part in self.parts]  # type: ignore[union-attr, misc]
        return torch.stack(found).logsumexp(0) - math.log(len(found))

    @property
    def mean(self) -> Tensor | None:
        """Expected observations, as of one forecast."""
        means = [part.mean for part in self.parts if part.mean is not None]
        return torch.stack(means).mean(0) if means else None

    @property
    def symbols(self) -> dict[str, Tensor]:
        """Chances of symbols beside other columns."""
        parts = [getattr(part, "symbols", {}) for part in self.parts]
        return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    @property
    def draws(self) -> Tensor:
        """Continuations of all, (S, N, H[, F])."""
        return torch.cat([part.draws for part in self.parts])

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles of the draws."""
        return quantile(self.draws, q)


class Simulation(NamedTuple):
    """How forecasts are simulated and scored."""

    draws: int
    """Continuations, of all parameters together."""
    level: float
    """Of the interval that is scored."""
    seed: int


def rolled(
    model: Model,
    parameters: Sequence[Mapping[str, Tensor]],
    data: Sequences,
    window: tuple[int, int],
    how: Simulation,
) -> Scores:
    """Scores of the forecast of h steps after the first t, mixed over draws of the parameters.

    Args:
        model: with the unknown parameters.
        parameters: draws of these.
        data: of which sequences with t + h steps count; the others are NaN.
        window: t and h.
        how: to simulate.
    """
    t, horizon = window
    rows = data.lengths >= t + horizon
    whole = data[rows]
    came = whole.after(t).head(horizon)
    inputs = came.inputs if model.inputs else None
    times = came.times if model.timed else None
    actions = came.actions if model.actions else None
    each = math.ceil(how.draws / len(parameters))
    parts = []
    for seed, values in enumerate(parameters, how.seed):
        known = model.with_parameters(**values)
        parts.append(
            forecast(
                known,
                whole.head(t),
                horizon,
                draws=each,
                inputs=inputs,
                times=times,
                actions=actions,
                seed=seed,
            )
        )
    found = scores(parts[0] if len(parts) == 1 else Mixture(parts), came, level=how.level)
    return found.among(rows.numpy())
