"""Tests of whether the one-step prediction errors of a linear-Gaussian model are white noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import LinearGaussianSSM, Sequences
from ..queries.linear import standardised_innovations


class InnovationTests(NamedTuple):
    """Statistics of the standardised innovations, (N, F) each; made by :func:`innovation_tests`.

    Attributes:
        ljung_box: Q(lags) = n (n + 2) Σ_k ρ_k² / (n − k); chi-squared with ``lags`` degrees of
            freedom.
        skewness: third standardised moment; N(0, 6 / n).
        kurtosis: fourth standardised moment; N(3, 24 / n).
        heteroskedasticity: H(h) = sum of squares of the last h over that of the first h, h = n / 3;
            F(h, h).
        used: number of innovations n of each series, int64.

    >>> from beliefzoo.inference import innovation_tests
    >>> from beliefzoo.models import LinearDynamics, LinearGaussianSSM
    >>> model = LinearGaussianSSM(LinearDynamics(1)).with_parameters(
    ...     initial_mean=[0.0], initial_variance=[1.0], transition=[[0.9]], process_variance=[1.0],
    ...     loading=[[1.0]], intercept=0.0, observation_variance=1.0,
    ... )
    >>> found = innovation_tests(model, model.sample(2, 50, seed=0).data)
    >>> found.used.flatten().tolist(), found.skewness.shape
    ([50, 50], torch.Size([2, 1]))
    """

    ljung_box: Tensor
    skewness: Tensor
    kurtosis: Tensor
    heteroskedasticity: Tensor
    used: Tensor


def innovation_tests(model: LinearGaussianSSM, data: Sequences, lags: int = 9) -> InnovationTests:
    """Tests the standardised innovations for autocorrelation, non-normality, changing variance.

    The null distributions hold at known parameters and for many observations. Innovations that are
    missing, or that determine the flat directions of the first state, are left out, and the others
    close up.

    Args:
        model: with known parameters.
        data: N series of F features.
        lags: number of autocorrelations in the Ljung-Box statistic.

    Returns:
        The statistics, whose fields say their null distributions.

    Raises:
        ValueError: an unknown parameter, or a series of fewer than ``lags`` + 3 innovations.

    Source: Durbin & Koopman (2012), section 2.12.

    >>> from beliefzoo.inference import innovation_tests
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> nile = [1120.0, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994]
    >>> data = Sequences.from_arrays([nile])
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=15098.5, level_variance=1469.2
    ... )
    >>> found = innovation_tests(model, data, lags=4)
    >>> round(found.ljung_box.item(), 3), found.used.item()  # .95 quantile of χ²(4): 9.488
    (7.588, 13)
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
