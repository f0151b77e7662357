"""Pseudo-residuals: where each observation lies in the law that the model predicted for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from ...models import Model, Sequences, TrajectoryLaws
from ...models.boundary import boundary
from ...models.checks import require_count
from ...models.randomness import seeded
from ...models.trajectories import invert
from ..queries.answers import predict
from ..queries.batches import require_data, require_model
from ..queries.kinds import inexact
from ..queries.linear import standardised_innovations

_SEQUENCES = 256
"""Sequences that observations are drawn for at once."""

_NUMBERS = 2**21
"""Draws that are compared to the observations at once."""

FEWEST = 8
"""Fewest residuals, or pairs of them, that are tested."""


class _DrawsEach(Protocol):
    """The method of discrete laws that pseudo-residuals need."""

    def draw_each(self, paths: Tensor) -> Tensor:
        """Draws the observation of every step of paths (N, T), given the data before it."""


@dataclass(frozen=True)
class PseudoResiduals:
    r"""Places of the observations in their one-step predictive laws; by :func:`pseudo_residuals`.

    .. math::
        u_t = P(Y_t < y_t \mid y_1 \dots y_{t-1}) + v_t P(Y_t = y_t \mid y_1 \dots y_{t-1}),
        \qquad v_t \sim U(0, 1)

    Under the true model they are independent and uniform, for discrete observations too.

    Attributes:
        pit: u (N, T, F) float64; NaN where nothing was observed or nothing could be predicted.
        labels: names of the sequences.
        features: names of the features; empty for one.

    Source: Dunn & Smyth (1996); Zucchini, MacDonald & Langrock (2016), section 6.2.

    >>> import torch
    >>> from beliefzoo.inference import PseudoResiduals
    >>> found = PseudoResiduals(torch.linspace(0.01, 0.99, 50).reshape(1, 50, 1))
    >>> found.normal[0, 24].item() < 0 < found.normal[0, 25].item()
    True
    >>> p = found.tests(lags=3)  # evenly spread, but each follows from the one before
    >>> bool(p["uniform"] > 0.9), bool(p["independent"] < 1e-6)
    (True, True)
    """

    pit: Tensor
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = field(default=())

    @property
    def normal(self) -> Tensor:
        """The residuals Φ⁻¹(u), standard normal under the true model, (N, T, F)."""
        out: Tensor = torch.special.ndtri(self.pit)
        return out

    def tests(self, lags: int | None = None) -> dict[str, Tensor]:
        """Returns p-values (F,) of the hypotheses that the residuals are uniform and independent.

        ``"uniform"``: Kolmogorov and Smirnov's test of all residuals of a feature.
        ``"independent"``: Q = Σ_k z_k², z_k = Σ e_t e_{t+k} / √(Σ e_t² e_{t+k}²) of the normal
        residuals e, which is χ² with as many degrees of freedom as lags. Parameters that were
        fitted to the same data make both somewhat too large. NaN with fewer than 8 residuals.

        Args:
            lags: number of lags; None: ten, or a fifth of the longest sequence.
        """
        from scipy import stats

        lags = max(1, min(10, self.pit.shape[1] // 5)) if lags is None else lags
        require_count(lags, "lags")
        uniform, independent = [], []
        for u, e in zip(self.pit.unbind(-1), self.normal.unbind(-1), strict=True):
            seen = u[~u.isnan()].numpy()
            enough = len(seen) >= FEWEST
            uniform.append(stats.kstest(seen, "uniform").pvalue if enough else math.nan)
            scores = [_lagged(e, lag) for lag in range(1, lags + 1)]
            scores = [score for score in scores if not math.isnan(score)]
            total = sum(score**2 for score in scores)
            independent.append(stats.chi2(len(scores)).sf(total) if scores else math.nan)
        return {
            "uniform": torch.tensor(uniform, dtype=torch.float64),
            "independent": torch.tensor(independent, dtype=torch.float64),
        }


def _lagged(e: Tensor, lag: int) -> float:
    """Standardised sum of the products of residuals (N, T) that lie so many steps apart."""
    products = (e[:, lag:] * e[:, :-lag]).flatten()
    products = products[~products.isnan()]
    if len(products) < FEWEST:
        return math.nan
    return float(products.sum() / products.square().sum().sqrt())


@boundary
def pseudo_residuals(
    model: Model, data: Sequences, *, draws: int = 1000, seed: int = 0
) -> PseudoResiduals:
    """Computes where each observation lies in the law that the model predicted for it.

    Of linear-Gaussian models exactly, Φ of the standardised innovation, the features of a step one
    after the other. Of chains from draws of p(y_t | y_1 … y_{t-1}): the rank of y_t among them,
    with ties and the space between neighbours filled at random, so that the law of u is exactly
    uniform under the model whatever the number of draws; each feature by itself. Symbols are taken
    in the order of their codes.

    Args:
        model: a model with exact inference and known parameters, such as ``Fit.fitted``.
        data: N sequences of at most T steps and F features.
        draws: draws of each observation, S: u has a resolution of 1 / (S + 1).
        seed: of the draws; torch's global generator is left unchanged.

    Returns:
        The residuals, with tests of whether they are uniform and independent.

    Raises:
        ValueError: an unknown parameter, data that the model cannot emit, or a model without exact
            inference.

    Source: Dunn & Smyth (1996); Zucchini, MacDonald & Langrock (2016), section 6.2.

    >>> from beliefzoo.inference import pseudo_residuals
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 9.0]
    ... )
    >>> data = model.sample(4, 100, seed=0).data
    >>> wrong = model.with_parameters(**{**model.known, "rate": [4.0, 9.0]})
    >>> [
    ...     bool((pseudo_residuals(each, data).tests()["uniform"] > 0.001).all())
    ...     for each in (model, wrong)
    ... ]
    [True, False]
    """
    require_model(model)
    require_data(data)
    require_count(draws, "draws")
    data = model.names.read(data)
    if not model.exact:
        raise inexact(model)
    features = data.features if data.n_features > 1 else ()
    if not model.has_paths:
        innovations = standardised_innovations(model, data)  # type: ignore[arg-type]  # is linear
        return PseudoResiduals(torch.special.ndtr(innovations), data.labels, features)
    chance = predict(model, data).double().cumsum(-1)
    with seeded(seed), torch.no_grad():
        parts = []
        for first in range(0, len(data), _SEQUENCES):
            rows = slice(first, first + _SEQUENCES)
            parts.append(_ranked(model, data[rows], chance[rows], draws))
    steps = max(part.shape[1] for part in parts)
    wide = [
        torch.nn.functional.pad(part, (0, 0, 0, steps - part.shape[1]), value=math.nan)
        for part in parts
    ]
    return PseudoResiduals(torch.cat(wide), data.labels, features)


def _ranked(model: Model, data: Sequences, chance: Tensor, draws: int) -> Tensor:
    """Randomised ranks of the observations among draws, (N, T, F)."""
    y, mask = model.observations.read(data)
    y, mask = (part if part.ndim == 3 else part.unsqueeze(-1) for part in (y.double(), mask))
    chance = chance[:, : y.shape[1]]
    below, ties = torch.zeros_like(y), torch.zeros_like(y)
    block = max(1, _NUMBERS // max(1, y.numel() * model.states))
    left = draws
    while left:
        now = min(block, left)
        copies = torch.arange(len(data)).repeat(now)
        laws: TrajectoryLaws = model.laws({}, data[copies])
        paths = invert(chance[copies], torch.rand(*chance[copies].shape[:2], 1).to(chance))
        drawn = cast(_DrawsEach, laws).draw_each(paths).double().reshape(now, *y.shape)
        below += (drawn < y).sum(0)
        ties += (drawn == y).sum(0)
        left -= now
    u = (below + torch.rand(y.shape).to(y) * (ties + 1)) / (draws + 1)
    return u.masked_fill(~mask.expand_as(u), math.nan)
