"""Leave-one-out where its weights fail: the draws are moved to where the posterior goes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import MultivariateNormal, biject_to

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import seeded
from ..arviz_groups import ConvergenceWarning
from ..arviz_groups.judgements import LeaveOneOut
from ..export import continuous as export_continuous
from ..export import discrete as export_discrete
from ..export.sample import Sample, sample_of
from ..fitting.draws import log_prior
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..pareto import LEAST_WEIGHTS, k_threshold, log_sum_exp, smooth
from ..queries.batches import require_data

Array = NDArray[np.float64]

MOVES = 10
"""Of one kind and one unit, at most; some three suffice."""


@boundary
def matched_loo(
    result: Fit | NutsFit, data: Sequences, *, draws: int = 1000, seed: int = 0
) -> LeaveOneOut:
    r"""Computes leave-one-out, with moment matching of the units whose Pareto k̂ is too high.

    .. math::
        \mathrm{elpd}_i = \log \frac{\sum_s w_{is}\, p(y_i \mid \theta_{is})}{\sum_s w_{is}},
        \qquad w_{is} = \frac{p(\theta_{is}) \prod_{j \ne i} p(y_j \mid \theta_{is})}
        {q_i(\theta_{is})}

    The draws are of q_i = q, the posterior, or of a Student law of 5 degrees of freedom with the
    moments of a guide, whose error the weights correct. Where k̂ of the weights is above
    min(1 − 1 / log10 S, 0.7), an affine map T_i of the unconstrained parameters gives the draws the
    weighted mean, then the weighted variances, then the covariance, as long as k̂ falls; then half
    of the draws are moved, and q_i is the mixture of q and of the law that T_i makes of it.

    Args:
        result: of ``fit`` with a posterior of the parameters, or of ``nuts``.
        data: the sequences that were fitted. Of several, sequences are left out; of a single one,
            as in :func:`loo`, one factor p(y_t | y_1 … y_{t-1}, θ) at a time.
        draws: draws S of a guide's parameters; of NUTS all are used.
        seed: of the draws.

    Returns:
        A `LeaveOneOut`. A `ConvergenceWarning` counts the units whose k̂ is still too high.

    Raises:
        ValueError: a point estimate, fewer than 25 draws, or a model without exact inference.

    A low k̂ does not tell of a mode of the posterior without a unit that no draw has come near.

    Source: Paananen, Piironen, Bürkner & Vehtari (2021).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit, matched_loo
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[3, 5, 4, 4, 6, 2, 5, 25, 4, 5, 4, 3, 5, 4]])
    >>> model = HiddenMarkovModel(1, "poisson").scaled_to(data)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    >>> settings = FitSettings(steps=300, parameter_learning_rate=0.1)
    >>> result = fit(model, guide, data, settings=settings, progress=False)
    >>> found = matched_loo(result, data)
    >>> found.unreliable, int(found.elpd_i.argmin())
    (0, 7)
    """
    require(isinstance(result, Fit | NutsFit), "result", "must be a fit", type(result).__name__)
    require_data(data)
    require_count(draws, "draws", LEAST_WEIGHTS)
    model = result.model
    require(model.exact, "result", "needs a model with exact inference", model)
    model.check_values(data)
    data = model.names.read(data)
    with seeded(seed), torch.no_grad():
        sample = sample_of(result, draws)
        require(not sample.constant, "result", "needs a posterior with a spread", "a point")
        enough = sample.total >= LEAST_WEIGHTS
        require(enough, "result", f"needs at least {LEAST_WEIGHTS} draws", sample.total)
        units = _Units(result, data, sample)
        start = units.place(units.free)
        found = [_left_out(units, start, i) for i in range(start.terms.shape[1])]
    elpd_i, k = (np.array(column) for column in zip(*found, strict=True))
    limit = k_threshold(sample.total)
    if (bad := int((k > limit).sum())) > 0:
        warnings.warn(
            f"matched_loo: the values of {bad} of {len(k)} units cannot be relied on: k̂ up to "
            f"{k.max():.2f}, above {limit:.2f}; more draws help, and fits without these units are "
            "exact",
            ConvergenceWarning,
            stacklevel=2,
        )
    whole = smooth((start.log_joint - start.log_q)[None], 1.0)[0]
    in_sample = log_sum_exp(whole + start.terms.T)
    size = len(k)
    return LeaveOneOut(
        elpd=float(elpd_i.sum()),
        se=math.sqrt(size) * float(elpd_i.std(ddof=1)) if size > 1 else math.nan,
        p=float((in_sample - elpd_i).sum()),
        unit="sequence" if len(data) > 1 else "time",
        draws=sample.total,
        elpd_i=elpd_i,
        pareto_k=k,
    )


class _Place(NamedTuple):
    """Draws in unconstrained coordinates, and densities there."""

    free: Array
    """(S, P)."""
    log_joint: Array
    """log p(θ) + log p(y | θ) with the volume of the coordinates, (S,)."""
    terms: Array
    """log p(y_i | …, θ) of every unit, (S, units)."""
    log_q: Array
    """log density of the law that draws are of before they are moved, (S,)."""


class _Units:
    """The joint density of a model in unconstrained coordinates, and its terms by unit."""

    def __init__(self, result: Fit | NutsFit, data: Sequences, sample: Sample) -> None:
        self._result, self._data, self._sample = result, data, sample
        priors = result.model.priors
        self._maps = {name: biject_to(prior.support) for name, prior in priors.items()}
        parts = {name: self._maps[name].inv(value) for name, value in sample.values.items()}
        self._shapes = {name: part.shape[1:] for name, part in parts.items()}
        joint = torch.cat([part.reshape(sample.total, -1) for part in parts.values()], 1)
        self._student = None if isinstance(result, NutsFit) else Student.like(joint)
        if self._student is not None:
            joint = self._student.draw(sample.total)
        self.free: Array = joint.numpy()

    def place(self, free: Array) -> _Place:
        """The densities at points."""
        model, count = self._result.model, len(free)
        points = torch.from_numpy(free)
        values, volume = self._values(points)
        prior = log_prior(model, values, count)
        sample = replace(
            self._sample, values=values, chains=1, draws=count, log_prior=prior, log_q=None
        )
        kind: Any = export_discrete if model.has_paths else export_continuous
        total, steps = kind.evidence(self._result, self._data, sample, False)
        terms = total if len(self._data) > 1 else steps[:, 0]
        terms = terms[:, ~np.isnan(terms).all(0)]
        log_joint = (prior + volume).numpy() + terms.sum(1)
        log_q = log_joint if self._student is None else self._student.log_density(points).numpy()
        return _Place(free, log_joint, terms, log_q)

    def _values(self, free: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Parameters, and the log of the volume that a unit of the coordinates takes."""
        values, place = {}, 0
        volume = torch.zeros(len(free), dtype=torch.float64)
        for name, shape in self._shapes.items():
            own = free[:, place : place + shape.numel()].reshape(-1, *shape)
            place += shape.numel()
            values[name] = self._maps[name](own)
            change = self._maps[name].log_abs_det_jacobian(own, values[name])
            volume = volume + change.reshape(len(free), -1).sum(1)
        return values, volume


@dataclass(frozen=True)
class Student:
    """A Student law, by which the posterior of a guide is spread out."""

    law: MultivariateNormal
    freedom: float = 5.0

    @classmethod
    def like(cls, draws: Tensor, wider: float = 1.0) -> Student:
        """The one with the mean of draws (S, P), and as scale so many times their covariance."""
        covariance = draws.T.cov().reshape(draws.shape[1], -1)
        return cls(MultivariateNormal(draws.mean(0), wider * covariance))

    def draw(self, count: int) -> Tensor:
        """Draws (count, P). Uses torch's global generator."""
        mixing = torch.distributions.Chi2(self.law.mean.new_tensor(self.freedom))
        scale = (self.freedom / mixing.sample((count, 1))).sqrt()
        return self.law.mean + (self.law.sample((count,)) - self.law.mean) * scale

    def log_density(self, points: Tensor) -> Tensor:
        """The log density at points (S, P), up to a constant."""
        factor, away = self.law.scale_tril, (points - self.law.mean).T
        square = torch.linalg.solve_triangular(factor, away, upper=False).square().sum(0)
        out: Tensor = -(self.freedom + len(factor)) / 2 * (square / self.freedom).log1p()
        return out


def _left_out(units: _Units, start: _Place, unit: int) -> tuple[float, float]:
    """log p(y_i | the other units), and k̂ of its weights."""
    # The volume of an affine map is the same for all draws and cancels.
    weights, k = _weights(start, start.log_q, unit)
    limit, place = k_threshold(len(weights)), start
    for matched in (_mean, _variances, _covariance):
        for _ in range(MOVES):
            if k <= limit or not np.isfinite(weights).any():
                break
            moved = units.place(matched(place.free, np.exp(weights)))
            after, lower = _weights(moved, start.log_q, unit)
            if not lower < k:
                break
            place, weights, k = moved, after, lower
    if place is not start:
        mixed, log_q = _mixed(units, start, place)
        weights, k = _weights(mixed, log_q, unit)
        before = _weights(start, start.log_q, unit)
        place = mixed if k < before[1] else start
        weights, k = (weights, k) if place is mixed else before
    return float(log_sum_exp((weights + place.terms[:, unit])[None])[0]), k


def _weights(place: _Place, log_q: Array, unit: int) -> tuple[Array, float]:
    """Smoothed log weights of the draws without a unit, and k̂."""
    raw = place.log_joint - place.terms[:, unit] - log_q
    raw = np.where(np.isfinite(raw), raw, -np.inf)
    if not np.isfinite(raw).any():
        return raw, math.inf
    weights, k = smooth(raw[None], 1.0)
    return weights[0], float(k[0])


def _mixed(units: _Units, start: _Place, moved: _Place) -> tuple[_Place, Array]:
    """Every second draw moved, the others not, and the log density of this mixture."""
    linear = np.linalg.lstsq(start.free - start.free.mean(0), moved.free - moved.free.mean(0))[0]
    back = (start.free - moved.free.mean(0)) @ np.linalg.inv(linear) + start.free.mean(0)
    volume = np.linalg.slogdet(linear)[1]
    kept = np.arange(len(back)) % 2 == 0
    parts = [
        np.where(kept.reshape(-1, *[1] * (one.ndim - 1)), one, other)
        for one, other in zip(start, moved, strict=True)
    ]
    place = _Place(*parts)
    # A draw that was not moved may come from a point that is moved there, and the other way round.
    before = start.log_q.copy()
    before[kept] = units.place(back[kept]).log_q
    return place, np.logaddexp(place.log_q, before - volume)


def _mean(free: Array, weights: Array) -> Array:
    return np.asarray(free + weights @ free - free.mean(0))


def _variances(free: Array, weights: Array) -> Array:
    mean = weights @ free
    wanted = weights @ (free - mean) ** 2
    return np.asarray(mean + (free - free.mean(0)) * np.sqrt(wanted / free.var(0)))


def _covariance(free: Array, weights: Array) -> Array:
    mean = weights @ free
    wanted = (free - mean).T @ (weights[:, None] * (free - mean))
    now = np.cov(free.T, bias=True).reshape(wanted.shape)
    try:
        root, own = np.linalg.cholesky(wanted), np.linalg.cholesky(now)
    except np.linalg.LinAlgError:  # few draws have the weight
        return free
    return np.asarray(mean + np.linalg.solve(own, (free - free.mean(0)).T).T @ root.T)
