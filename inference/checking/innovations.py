"""Tests of whether the one-step prediction errors of a linear-Gaussian model are white noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models import LinearGaussianSSM, Sequences
from ...models.boundary import boundary
from ...models.checks import require_count
from ..queries.linear import standardised_innovations

_PRINTED = 10
"""Series whose tests are printed."""


class InnovationTests(NamedTuple):
    """Statistics of the standardised innovations, (N, F) each; made by :func:`innovation_tests`.

    ``print`` shows them with their p-values.

    Attributes:
        ljung_box: Q(lags) = n (n + 2) Σ_k ρ_k² / (n − k); chi-squared with ``lags`` degrees of
            freedom.
        skewness: third standardised moment; N(0, 6 / n).
        kurtosis: fourth standardised moment; N(3, 24 / n).
        heteroskedasticity: H(h) = sum of squares of the last h over that of the first h, h = n / 3;
            F(h, h).
        used: number of innovations n of each series, int64.
        lags: number of autocorrelations in ``ljung_box``.
        labels: names of the N sequences.
        features: names of the F features.

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
    lags: int = 9
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def p_values(self) -> dict[str, Tensor]:
        """Returns name -> p-value (N, F) of the statistics if the innovations are white noise.

        Large values of ``ljung_box`` count; the other tests have two sides.
        """
        from scipy import stats

        box, skewness, kurtosis, ratio, n = (np.asarray(table) for table in self[:5])
        third = np.round(n / 3)
        below = stats.f(third, third).cdf(ratio)
        found = {
            "ljung_box": stats.chi2(self.lags).sf(box),
            "skewness": 2 * stats.norm.sf(abs(skewness) / np.sqrt(6 / n)),
            "kurtosis": 2 * stats.norm.sf(abs(kurtosis - 3) / np.sqrt(24 / n)),
            "heteroskedasticity": 2 * np.minimum(below, 1 - below),
        }
        return {name: torch.as_tensor(values) for name, values in found.items()}

    def __str__(self) -> str:
        names = f"Ljung-Box, {self.lags} lags", "skewness", "kurtosis", "heteroskedasticity"
        p_values = self.p_values()
        lines = []
        places = list(np.ndindex(*self.used.shape))
        for n, f in places[:_PRINTED]:
            place = [str(n) if not self.labels else self.labels[n]]
            place += [str(f) if not self.features else self.features[f]] * (self.used.shape[1] > 1)
            lines.append(f"{', '.join(place)}: {self.used[n, f]} innovations")
            for name, key in zip(names, p_values, strict=True):
                value, p = float(getattr(self, key)[n, f]), float(p_values[key][n, f])
                lines.append(f"  {name:<20}{value:>10.4g}   p = {p:.3g}")
        left = len(places) - _PRINTED
        return "\n".join([*lines, f"and {left} more series"] if left > 0 else lines)


@boundary
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
    >>> print(found)
    0: 13 innovations
      Ljung-Box, 4 lags        7.588   p = 0.108
      skewness              -0.08203   p = 0.904
      kurtosis                 2.386   p = 0.651
      heteroskedasticity       1.511   p = 0.699
    """
    require_count(lags, "lags")
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
    statistics = box, skewness, kurtosis, heteroskedasticity, used
    return InnovationTests(*statistics, lags, data.labels, data.features)


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
