"""Normal features whose means are linear in inputs and earlier observations, as residuals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .emission import ClosedForm, Parameters, closed_forms, wide
from .reals import Gaussian


class Lines(NamedTuple):
    r"""Statistics and coefficients of residuals, see ``Residuals``.

    .. math::
        r_{tkf} = \frac{1}{\sigma_{kf}} \Big(y_{tf} - m_{kf} - B_{kf} u_t
        - \sum_{l,e} A_{klfe} (y_{t-l,e} - m_{ke}) \Big)

    Columns are whether each feature was observed, then for each feature those of its residual:
    itself, 1, the inputs, and of every lag each feature and whether it was observed: without, the
    lag counts as one at the mean. Features are in spreads from their location, and all columns of
    a missing feature are zero.

    Args:
        form: the form of the Gaussian.
        inputs, lags: how many.
    """

    form: ClosedForm
    inputs: int
    lags: int

    @property
    def features(self) -> int:
        """Number of features F."""
        return len(self.form.unit)

    @property
    def width(self) -> int:
        """Number of columns of a residual."""
        return 2 + self.inputs + 2 * self.lags * self.features

    def squares(self) -> tuple[tuple[int, int], ...]:
        """First column and end of the residual of every feature."""
        first = (self.features + f * self.width for f in range(self.features))
        return tuple((begin, begin + self.width) for begin in first)

    def statistics(self, y: Tensor, mask: Tensor, inputs: Tensor | None) -> Tensor:
        """Return s of observations y, mask (N, T, F) and inputs (N, T, U): (N, T, J) float64."""
        seen = mask.double()
        x = torch.where(mask, (y.double() - self.form.location) / self.form.unit, 0)
        both = torch.stack([x, seen], -1).flatten(-2)
        columns = [torch.ones_like(x[..., :1])]
        if self.inputs:
            assert inputs is not None  # data without them were refused
            columns.append(inputs.double())
        for lag in range(1, self.lags + 1):
            moved = torch.zeros_like(both)
            moved[:, lag:] = both[:, :-lag]
            columns.append(moved)
        shared = torch.cat(columns, -1)
        own = (
            torch.cat([x[..., f, None], seen[..., f, None] * shared], -1)
            for f in range(self.features)
        )
        return torch.cat([seen, *own], -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """Return c, (…draws, K, J) float64."""
        unit = self.form.unit
        mean, scale = (wide(parameters[n], self.features).double() for n in self.form.parameters)
        mean = (mean - self.form.location) / unit
        weights = [mean.unsqueeze(-1)]  # of every column in each feature, (…, K, F, columns)
        if self.inputs:
            weights.append(parameters["input_weight"].double() / unit.unsqueeze(-1))
        if self.lags:
            lags = parameters["lag_weight"].double() * unit / unit.unsqueeze(-1)
            lags = lags.transpose(-3, -2)  # (…, K, F, L, E)
            both = torch.broadcast_tensors(lags, -lags * mean[..., None, None, :])
            weights.append(torch.stack(both, -1).flatten(-3))
        lead = torch.broadcast_shapes(scale.shape, *(part.shape[:-1] for part in weights))
        columns = [scale.new_ones(*lead, 1)]
        columns += (-part.expand(*lead, part.shape[-1]) for part in weights)
        squared = torch.cat(columns, -1) * (unit / scale).unsqueeze(-1)
        constant = -scale.log().expand(lead) - 0.5 * math.log(2 * math.pi)
        return torch.cat([constant, squared.flatten(-2)], -1)


def lines_of(base: object, inputs: int, lags: int) -> Lines | None:
    """The residuals of a Gaussian with so many inputs and lags; None for another family."""
    if type(base) is not Gaussian:  # a class of one's own may differ
        return None
    (form,) = closed_forms(base)
    return Lines(form, inputs, lags)
