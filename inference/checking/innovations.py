"""Whether one-step predictions of a linear-Gaussian model leave anything to be predicted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import LinearGaussianSSM, Sequences
from ..queries.linear import standardised_innovations


class InnovationTests(NamedTuple):
    """Statistics of the standardised innovations, (N, F) each; see :func:`innovation_tests`."""

    ljung_box: Tensor
    """Q(lags) = n (n + 2) Σ_k ρ_k² / (n − k); chi-squared with ``lags`` degrees of freedom."""
    skewness: Tensor
    """Third standardised moment; N(0, 6 / n)."""
    kurtosis: Tensor
    """Fourth standardised moment; N(3, 24 / n)."""
    heteroskedasticity: Tensor
    """H(h) = squares of the last h over squares of the first h, h = n / 3; F(h, h)."""
    used: Tensor
    """Innovations n of each series, int64."""


def innovation_tests(model: LinearGaussianSSM, data: Sequences, lags: int = 9) -> InnovationTests:
    """Diagnostics of Durbin & Koopman (2012, section 2.12), with their laws under the model.

    The laws hold at known parameters and for many observations. Innovations that are missing, or
    that went into the flat directions of the first state, are left out; the others move together.

    Raises:
        ValueError: a parameter that is not known, or a series of fewer than ``lags`` + 3
            innovations.
    """
    all_of_them = standardised_innovations(model, data)
    rows = []
    for n, series in enumerate(all_of_them.unbind(0)):
        for f, column in enumerate(series.unbind(-1)):
            kept = column[~column.isnan()].double()
            if len(kept) < lags + 3:
                raise ValueError(
                    f"data: tests at {lags} lags need {lags + 3} innovations at least, got "
                    f"{len(kept)} in sequence {n} ({data.labels[n]!r}), feature {f}"
                )
            rows.append(torch.stack(_statistics(kept, lags)))
    table = torch.stack(rows).reshape(*all_of_them.shape[::2], 4)
    used = (~all_of_them.isnan()).sum(1)
    box, skewness, kurtosis, heteroskedasticity = table.unbind(-1)
    return InnovationTests(box, skewness, kurtosis, heteroskedasticity, used)


def _statistics(e: Tensor, lags: int) -> list[Tensor]:
    n, centred = len(e), e - e.mean()
    square = centred.square().sum()
    lag = torch.arange(1, lags + 1, dtype=e.dtype)
    products = [(centred[k:] * centred[:-k]).sum() for k in range(1, lags + 1)]
    box = n * (n + 2) * ((torch.stack(products) / square).square() / (n - lag)).sum()
    spread, third = square / n, round(n / 3)
    return [
        box,
        centred.pow(3).mean() / spread**1.5,
        centred.pow(4).mean() / spread**2,
        e[-third:].square().sum() / e[:third].square().sum(),
    ]
