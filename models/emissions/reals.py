"""Emission families of real observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor

from ..checks import require, require_count, require_places, require_scales
from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..trajectories import safe_log
from .emission import (
    ClosedForm,
    Emission,
    Parameters,
    Priors,
    along_paths,
    feature_dims,
    group_means,
    group_spreads,
    in_blocks,
    over_time,
    per_feature,
    wide,
)
from .gamma_ratio import log_gamma_ratio
from .observations import Vectors

Setting = float | tuple[float, ...]
"""One number, or one per feature."""

_WIDEST = 3.0
"""Greatest standard deviation of the prior of a log scale."""

_FRAMES, _ENOUGH = 100_000, 10
"""Most frames whose quarters are measured, and how many a quarter needs at least."""


_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

_FOLLOWS = {"follows": "spread"}
"""Mark of a factor of ``spread`` that data set unless the user has set ``spread``."""


@dataclass(frozen=True)
class _Real(Emission):
    """Shared settings of the real families: the prior of means and scales.

    mean ~ Normal(location, reach · spread), scale ~ LogNormal(log(narrow · spread / 2), vague), per
    state and feature. ``location`` and ``spread`` are in the units of the data, the others are
    factors; ``scaled_to(data)`` sets them.
    """

    features: int = 1
    location: Setting = 0.0
    spread: Setting = 2.0
    reach: Setting = field(default=1.0, kw_only=True, metadata=_FOLLOWS)
    narrow: Setting = field(default=1.0, kw_only=True, metadata=_FOLLOWS)
    vague: Setting = field(default=1.0, kw_only=True, metadata=_FOLLOWS)

    def __post_init__(self) -> None:
        require_count(self.features, "features")
        require_places(self.location, self.features, "location", "feature")
        for argument in ("spread", "reach", "narrow", "vague"):
            require_scales(getattr(self, argument), self.features, argument, "feature")

    @property
    def scored_at_once(self) -> int:
        return self.features

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features)

    @property
    def ordering(self) -> str | None:
        return "mean"

    @property
    def predictor_scale(self) -> Tensor:
        return self._fill(self.spread, (self.features,))

    def _locations(self, *lead: int) -> dist.TorchDistribution:
        shape = (*lead, *per_feature(self.features))
        loc, spread, reach = (
            self._fill(x, shape) for x in (self.location, self.spread, self.reach)
        )
        prior: dist.TorchDistribution = dist.Normal(loc, reach * spread).to_event(len(shape))
        return prior

    def _scales(self, *lead: int) -> dist.TorchDistribution:
        shape = (*lead, *per_feature(self.features))
        spread, narrow, vague = (
            self._fill(x, shape) for x in (self.spread, self.narrow, self.vague)
        )
        centre = (narrow * spread / 2).log()
        prior: dist.TorchDistribution = dist.LogNormal(centre, vague).to_event(len(shape))
        return prior

    @staticmethod
    def _fill(value: float | tuple[float, ...], shape: tuple[int, ...]) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).expand(shape).clone()

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        centre = over_time(self.mean(parameters), 2)
        return torch.where(mask.unsqueeze(-2), y.to(centre.dtype).unsqueeze(-2) - centre, 0)

    def mean(self, parameters: Parameters) -> Tensor:
        return wide(parameters["mean"], self.features)

    def _residual(self, parameters: Parameters, y: Tensor, shift: Tensor | None) -> Tensor:
        """y − mean_k − shift, shape (…draws, N, T, K, F)."""
        mean = over_time(self.mean(parameters), 2)
        residual = y.to(mean.dtype).unsqueeze(-2) - mean
        return residual if shift is None else residual - shift

    def _means_along(self, parameters: Parameters, paths: Tensor, shift: Tensor | None) -> Tensor:
        """mean_k + shift of the states along the paths, (N, T, F)."""
        mean = self.mean(parameters)[paths]
        return mean if shift is None else mean + along_paths(shift, paths)

    def scaled_to(self, data: Sequences) -> Self:
        y, seen = data.values.double().flatten(0, 1), data.mask.flatten(0, 1)
        location, spread = overall_moments(y, seen)
        z = torch.where(seen, (y - location) / spread, torch.nan)
        # A rare state lies far out, and a state can be as narrow as some part of the data.
        reach = (z.abs().nan_to_num(0).amax(0) / 2).clamp_min(1)
        narrowest = _narrowest(z)
        return replace(
            self,
            location=tuple(location.tolist()),
            spread=tuple(spread.tolist()),
            reach=tuple(reach.tolist()),
            narrow=tuple((2 * narrowest.sqrt()).clamp_max(1).tolist()),
            vague=tuple((-0.5 * narrowest.log()).clamp(1, _WIDEST).tolist()),
        )

    def widened(self, factor: float) -> Self:
        reach = torch.as_tensor(self.reach, dtype=torch.float64).expand(self.features) * factor
        return replace(self, reach=tuple(reach.tolist()))


def _narrowest(z: Tensor) -> Tensor:
    """Least standard deviation (F,) of the quarters of the sorted frames (M, F); NaN is missing.

    It is 1 where quarters are too small to tell, and quarters without any variation do not count.
    """
    z = z[:: max(1, len(z) // _FRAMES)].sort(0).values
    count = (~z.isnan()).sum(0)
    quarter = 4 * torch.arange(len(z), device=z.device).unsqueeze(-1) // count.clamp_min(1)
    least = torch.ones_like(z[0])
    for part in range(4):
        own = torch.where(quarter == part, z, torch.nan)
        spread = (own - own.nanmean(0)).square().nanmean(0).sqrt()
        varies = (own - own.nan_to_num(-torch.inf).amax(0)).nan_to_num(0).amin(0) < 0
        enough = (quarter == part).sum(0) >= _ENOUGH
        least = torch.where(varies & enough, least.minimum(spread), least)
    return least


_FAR = 1e4
"""Distance of means, in standard deviations, up to which squares may be multiplied out: an error of
1e-8 nats in float64."""


def _log_normal(
    y: Tensor, mask: Tensor, mean: Tensor, scale: Tensor, shift: Tensor | None
) -> Tensor:
    """log N(y; mean + shift, scale²) summed over the observed features.

    ``y``, ``mask`` (N, T, F), ``mean``, ``scale`` (…draws, K, F), ``shift`` (…draws, N, T, 1|K, F)
    or None; returns (…draws, N, T, K). Without a shift it is one product of the powers of y with
    the coefficients of the quadratic, in float64, which avoids tensors of size (N, T, K, F).
    """
    mean, scale = torch.broadcast_tensors(mean, scale)  # either can be known, without draws
    centre = mean.detach().reshape(-1, mean.shape[-1]).mean(0)
    if shift is not None or bool(((mean - centre) / scale).abs().max() > _FAR):
        located, wider = over_time(mean, 2), over_time(scale, 2)

        def score(y: Tensor, mask: Tensor, shift: Tensor | None) -> Tensor:
            residual = y.to(mean.dtype).unsqueeze(-2) - located
            residual = residual if shift is None else residual - shift
            terms = -0.5 * (residual / wider).square() - wider.log() - 0.5 * math.log(2 * math.pi)
            return torch.where(mask.unsqueeze(-2), terms, 0).sum(-1)

        return in_blocks(score, y, mask, shift, mean.numel())
    precision, offset = scale.double().pow(-2), mean.double() - centre
    constant = 0.5 * (precision * offset.square() + math.log(2 * math.pi)) + scale.double().log()
    x, seen = y.double() - centre, mask.double()
    if bool(mask.all()):  # the constants of all features are one
        seen, constant = seen[..., :1], constant.sum(-1, keepdim=True)
    else:
        x = x * seen
    powers = torch.cat([x.square(), x, seen], -1)
    coefficients = torch.cat([-0.5 * precision, precision * offset, -constant], -1)
    return (powers @ coefficients.mT.unsqueeze(-3)).to(mean.dtype)


@dataclass(frozen=True)
class Gaussian(_Real):
    """Each state emits independent normal features: O_k(y) = Π_f N(y_f; mean[k, f], scale[k, f]²).

    Parameters ``mean`` and ``scale``, (K,) for one feature, otherwise (K, F), in the units of the
    data; mean ~ Normal(location, (reach · spread)²), scale ~ LogNormal(log(narrow · spread / 2),
    vague).

    Args:
        features: numbers per step F.
        location: prior mean of the means, one number or one per feature.
        spread: the scale of the data, likewise.
        reach, narrow, vague: the prior standard deviation of the means and twice the prior median
            of the scales, in units of ``spread``, and the prior standard deviation of log scales;
            ``scaled_to(data)`` sets all of these, so that neither states far from the others nor
            narrow ones contradict the prior.

    Raises:
        ValueError: no feature, or a location or spread out of range.

    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[8.1, 7.9, 12.2, 11.8, 8.0]])
    >>> family = HiddenMarkovModel(2, "gaussian").scaled_to(data).emission
    >>> [round(x, 2) for x in (*family.location, *family.spread)]
    [9.6, 1.96]
    """

    def priors(self, states: int) -> Priors:
        return {"mean": self._locations(states), "scale": self._scales(states)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {name: feature_dims(self.features) for name in ("mean", "scale")}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        mean, scale = self.mean(parameters), wide(parameters["scale"], self.features)
        return _log_normal(y, mask, mean, scale, shift)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        scale = wide(parameters["scale"], self.features)[paths]
        return self._means_along(parameters, paths, shift) + scale * torch.randn_like(scale)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        shape = (-1, *per_feature(self.features))
        mean, scale = group_means(y, mask, weight), group_spreads(y, mask, weight)
        return {"mean": mean.reshape(shape), "scale": scale.reshape(shape)}

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor:
        """x², x and whether it was observed, x in spreads from the location, (N, T, 3 F)."""
        location, spread = self._units
        x = torch.where(mask, (y.double() - location) / spread, 0)
        return torch.cat([x.square(), x, mask.double()], -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        location, spread = self._units
        scale = wide(parameters["scale"], self.features).double()
        mean = (self.mean(parameters).double() - location) / spread
        precision = (spread / scale).square()
        constant = 0.5 * (precision * mean.square() + math.log(2 * math.pi)) + scale.log()
        return torch.cat([-0.5 * precision, precision * mean, -constant], -1)

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        return (ClosedForm("normal", ("mean", "scale"), *self._units),)

    @property
    def _units(self) -> tuple[Tensor, Tensor]:
        return self._fill(self.location, (self.features,)), self._fill(
            self.spread, (self.features,)
        )


def _by_pattern(
    residual: Tensor, mask: Tensor, density: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Score vectors with missing features: one call per distinct pattern of missing features.

    ``residual`` (…draws, N, T, K, F), ``mask`` (N, T, F); ``density(residual, kept)`` gets
    (…draws, M, K, kept features) and the indices of these features, and returns (…draws, M, K).
    """
    flat = residual.flatten(-4, -3)
    rows = mask.flatten(0, 1)
    some, whole = rows.any(-1), rows.all(-1)
    if torch.equal(some, whole):  # steps are missing, if at all, as a whole
        scored = density(flat, torch.arange(rows.shape[-1], device=rows.device))
        out = torch.where(whole.unsqueeze(-1), scored, 0)
    else:
        patterns, member = rows.unique(dim=0, return_inverse=True)
        out = 0 * flat[..., 0]
        for number, pattern in enumerate(patterns):
            if pattern.any():
                place, kept = (member == number).nonzero()[:, 0], pattern.nonzero()[:, 0]
                part = flat.index_select(-3, place).index_select(-1, kept)
                scored = density(part, kept)
                # Axes of draws can come in with the density alone, where the mean is known.
                out = out.expand(*scored.shape[:-2], *out.shape[-2:])
                out = out.index_add(-2, place, scored)
    return out.reshape(*out.shape[:-2], *mask.shape[:2], out.shape[-1])


@dataclass(frozen=True)
class FullGaussian(_Real):
    """Each state emits correlated normal features: O_k(y) = N(y; mean[k], Σ_k).

    Parameters ``mean`` (K, F), ``scale`` (K, F) and ``correlation_factor`` (K, F, F), the Cholesky
    factor C of the correlations with an LKJ(1) prior: Σ_k = diag(scale) C C' diag(scale). Known
    values may be given as ``covariance`` (K, F, F). Missing features are integrated out exactly.

    Args:
        features: numbers per step F >= 2.
        location: prior mean of the means, one number or one per feature.
        spread: the scale of the data, likewise.
        reach, narrow, vague: the prior standard deviation of the means and twice the prior median
            of the scales, in units of ``spread``, and the prior standard deviation of log scales;
            ``scaled_to(data)`` sets all of these, so that neither states far from the others nor
            narrow ones contradict the prior.

    Raises:
        ValueError: fewer than two features, or a location or spread out of range.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(1, FullGaussian(features=2)).with_parameters(
    ...     mean=[[0, 0]], covariance=[[[4, 1], [1, 1]]]
    ... )
    >>> model.known["scale"]
    tensor([[2., 1.]], dtype=torch.float64)
    """

    features: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.features, "features", 2)

    def priors(self, states: int) -> Priors:
        correlation = dist.LKJCholesky(self.features, 1.0).expand([states]).to_event(1)
        return {
            "mean": self._locations(states),
            "scale": self._scales(states),
            "correlation_factor": correlation,
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean": ("state", "feature"),
            "scale": ("state", "feature"),
            "correlation_factor": ("state", "feature", "feature_from"),
        }

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        factor = _factor(parameters)

        def density(residual: Tensor, kept: Tensor) -> Tensor:
            tril = factor
            if len(kept) < self.features:
                rows = factor.index_select(-2, kept)
                tril = torch.linalg.cholesky(rows @ rows.mT)
            law = dist.MultivariateNormal(
                torch.zeros_like(tril[..., 0]).unsqueeze(-3),
                scale_tril=tril.unsqueeze(-4),
                validate_args=False,
            )
            out: Tensor = law.log_prob(residual)
            return out

        def score(y: Tensor, mask: Tensor, shift: Tensor | None) -> Tensor:
            return _by_pattern(self._residual(parameters, y, shift), mask, density)

        return in_blocks(score, y, mask, shift, parameters["mean"].numel())

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        mean = self._means_along(parameters, paths, shift)
        noise = torch.randn_like(mean).unsqueeze(-1)
        return mean + (_factor(parameters)[paths] @ noise).squeeze(-1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        unit = torch.eye(self.features, dtype=weight.dtype)
        return {
            "mean": group_means(y, mask, weight),
            "scale": group_spreads(y, mask, weight),
            "correlation_factor": unit.repeat(weight.shape[1], 1, 1),
        }

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate ``covariance`` (K, F, F) to ``scale`` and ``correlation_factor``."""
        out = dict(values)
        if "covariance" not in out:
            return out
        covariance = out.pop("covariance")
        both = sorted({"scale", "correlation_factor"} & set(out))
        require(not both, "covariance", "stands for scale and correlation_factor", f"{both} too")
        size = self.features
        fits = covariance.ndim == 3 and covariance.shape[1:] == (size, size)
        came = f"shape {tuple(covariance.shape)}"
        require(fits, "covariance", f"needs shape (states, {size}, {size})", came)
        factor, info = torch.linalg.cholesky_ex(covariance)
        symmetric = torch.allclose(covariance, covariance.mT, rtol=1e-6, atol=0)
        require(
            symmetric and not bool(info.any()),
            "covariance",
            "needs symmetric positive definite matrices",
            covariance.tolist(),
        )
        out["scale"] = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        out["correlation_factor"] = factor / out["scale"].unsqueeze(-1)
        return out


def _factor(parameters: Parameters) -> Tensor:
    """Cholesky factor of the covariance, (…draws, K, F, F)."""
    return parameters["scale"].unsqueeze(-1) * parameters["correlation_factor"]


@dataclass(frozen=True)
class LowRankGaussian(_Real):
    """Each state emits many features with few common factors.

        O_k(y) = N(y; mean[k], W_k W_k' + diag(scale[k]²))

    Parameters ``mean`` and ``scale`` (K, F) and ``loading`` W (K, F, rank), which is determined up
    to a rotation of its columns. The cost is linear in F (Woodbury identity). Missing features are
    integrated out exactly.

    Args:
        features: numbers per step F >= 2.
        location: prior mean of the means, one number or one per feature.
        spread: the scale of the data, likewise.
        reach, narrow, vague: the prior standard deviation of the means and twice the prior median
            of the scales, in units of ``spread``, and the prior standard deviation of log scales;
            ``scaled_to(data)`` sets all of these, so that neither states far from the others nor
            narrow ones contradict the prior.
        rank: number of common factors, fewer than F.

    Raises:
        ValueError: a rank that is not between 1 and F − 1, or a location or spread out of range.

    >>> family = LowRankGaussian(features=100, rank=5)
    >>> {name: tuple(prior.event_shape) for name, prior in family.priors(states=2).items()}
    {'mean': (2, 100), 'scale': (2, 100), 'loading': (2, 100, 5)}
    """

    features: int = 2
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.rank, "rank")
        require(
            self.rank < self.features,
            "rank",
            f"LowRankGaussian(features={self.features}) needs rank < features",
            self.rank,
        )

    def priors(self, states: int) -> Priors:
        spread = self._fill(self.spread, (self.features,)).unsqueeze(-1)
        loading = dist.Normal(0.0, spread.expand(states, self.features, self.rank) / 2)
        return {
            "mean": self._locations(states),
            "scale": self._scales(states),
            "loading": loading.to_event(3),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean": ("state", "feature"),
            "scale": ("state", "feature"),
            "loading": ("state", "feature", "factor"),
        }

    def redundant(self, priors: Priors, states: int) -> int:
        """Count the rotations of the factors, and what exceeds the entries of a covariance."""
        del states
        if "loading" not in priors:
            return 0
        size = self.features * self.rank
        shown = size - self.rank * (self.rank - 1) // 2
        if "scale" in priors:
            size += self.features
            entries = self.features * (self.features + 1) // 2
            shown = min(shown + self.features, entries)
        laws = priors["loading"].event_shape.numel() // (self.features * self.rank)
        return laws * (size - shown)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        loading, scale = parameters["loading"], parameters["scale"]

        def density(residual: Tensor, kept: Tensor) -> Tensor:
            variance = scale.index_select(-1, kept).square().unsqueeze(-3)
            law = dist.LowRankMultivariateNormal(
                torch.zeros_like(variance),
                loading.index_select(-2, kept).unsqueeze(-4),
                variance,
                validate_args=False,
            )
            out: Tensor = law.log_prob(residual)
            return out

        def score(y: Tensor, mask: Tensor, shift: Tensor | None) -> Tensor:
            return _by_pattern(self._residual(parameters, y, shift), mask, density)

        return in_blocks(score, y, mask, shift, parameters["mean"].numel())

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        mean = self._means_along(parameters, paths, shift)
        factors = torch.randn(*paths.shape, self.rank, 1, dtype=mean.dtype)
        common = (parameters["loading"][paths] @ factors).squeeze(-1)
        return mean + common + parameters["scale"][paths] * torch.randn_like(mean)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        spread = group_spreads(y, mask, weight)
        # Loadings of zero are a saddle point: start from small distinct directions.
        angle = torch.arange(self.features * self.rank, dtype=spread.dtype).reshape(-1, self.rank)
        return {
            "mean": group_means(y, mask, weight),
            "scale": spread * math.sqrt(0.9),
            "loading": spread.unsqueeze(-1) * (1.7 * angle + 1).sin() * math.sqrt(0.1 / self.rank),
        }


@dataclass(frozen=True)
class StudentT(_Real):
    """Each state emits heavy-tailed features: O_k(y) = Π_f t(y_f; freedom, mean, scale) at [k, f].

    Parameters ``mean``, ``scale`` and ``freedom``, (K,) for one feature, otherwise (K, F).
    freedom ~ Gamma(2, 0.1), the prior of Juárez & Steel (2010).

    Args:
        features: numbers per step F.
        location: prior mean of the means, one number or one per feature.
        spread: the scale of the data, likewise.
        reach, narrow, vague: the prior standard deviation of the means and twice the prior median
            of the scales, in units of ``spread``, and the prior standard deviation of log scales;
            ``scaled_to(data)`` sets all of these, so that neither states far from the others nor
            narrow ones contradict the prior.

    Raises:
        ValueError: no feature, or a location or spread out of range.

    >>> import torch
    >>> from beliefzoo.models import Gaussian
    >>> values = {"mean": torch.zeros(1), "scale": torch.ones(1), "freedom": torch.full((1,), 3.0)}
    >>> outlier = torch.tensor([[[8.0]]])
    >>> for family in (Gaussian(), StudentT()):
    ...     print(round(family.score(values, outlier, mask=outlier > 0).item(), 1))
    -32.9
    -7.2
    """

    def priors(self, states: int) -> Priors:
        shape = (states, *per_feature(self.features))
        freedom = dist.Gamma(torch.full(shape, 2.0), 0.1).to_event(len(shape))
        return {
            "mean": self._locations(states),
            "scale": self._scales(states),
            "freedom": freedom,
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {name: feature_dims(self.features) for name in ("mean", "scale", "freedom")}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        scale = over_time(wide(parameters["scale"], self.features), 2)
        freedom = over_time(wide(parameters["freedom"], self.features), 2)
        constant = log_gamma_ratio(freedom / 2, 0.5) - scale.log() - _HALF_LOG_2PI

        def score(y: Tensor, mask: Tensor, shift: Tensor | None) -> Tensor:
            distance = (self._residual(parameters, y, shift) / scale).square()
            density = constant - 0.5 * (freedom + 1) * torch.log1p(distance / freedom)
            return torch.where(mask.unsqueeze(-2), density, 0).sum(-1)

        return in_blocks(score, y, mask, shift, parameters["mean"].numel())

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        scale = wide(parameters["scale"], self.features)[paths]
        freedom = wide(parameters["freedom"], self.features)[paths]
        noise: Tensor = dist.StudentT(freedom, 0.0, scale, validate_args=False).sample()
        return self._means_along(parameters, paths, shift) + noise

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        shape = (-1, *per_feature(self.features))
        mean, scale = group_means(y, mask, weight), group_spreads(y, mask, weight)
        return {
            "mean": mean.reshape(shape),
            "scale": 0.8 * scale.reshape(shape),
            "freedom": torch.full_like(scale, 10.0).reshape(shape),
        }


@dataclass(frozen=True)
class GaussianMixture(_Real):
    """Each state emits a mixture of normal distributions.

        O_k(y) = Σ_m weight[k, m] Π_f N(y_f; mean[k, m, f], scale[k, m, f]²)

    Parameters ``weight`` (K, M) with rows ~ Dirichlet(1, …), ``mean`` and ``scale``, (K, M) for one
    feature, otherwise (K, M, F).

    Args:
        features: numbers per step F.
        location: prior mean of the means, one number or one per feature.
        spread: the scale of the data, likewise.
        reach, narrow, vague: the prior standard deviation of the means and twice the prior median
            of the scales, in units of ``spread``, and the prior standard deviation of log scales;
            ``scaled_to(data)`` sets all of these, so that neither states far from the others nor
            narrow ones contradict the prior.
        components: number of components M >= 2.

    Raises:
        ValueError: fewer than two components, or a location or spread out of range.

    >>> import torch
    >>> family = GaussianMixture(components=2)
    >>> values = {"weight": torch.tensor([[0.25, 0.75]]), "mean": torch.tensor([[-1.0, 1.0]])}
    >>> family.mean(values)  # of the only state
    tensor([[0.5000]])
    """

    components: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.components, "components", 2)

    @property
    def scored_at_once(self) -> int:
        return self.features * self.components

    @property
    def ordering(self) -> str | None:
        return None  # components have no order of their own

    def priors(self, states: int) -> Priors:
        return {
            "weight": dist.Dirichlet(torch.ones(states, self.components)).to_event(1),
            "mean": self._locations(states, self.components),
            "scale": self._scales(states, self.components),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        located = feature_dims(self.features, "component")
        return {"weight": ("state", "component"), "mean": located, "scale": located}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        mean, scale = (wide(parameters[n], self.features) for n in ("mean", "scale"))
        if shift is not None and shift.shape[-2] > 1:
            shift = shift.repeat_interleave(self.components, -2)
        flat = _log_normal(y, mask, mean.flatten(-3, -2), scale.flatten(-3, -2), shift)
        joint = flat.unflatten(-1, mean.shape[-3:-1])
        mixed = (joint + over_time(safe_log(parameters["weight"]), 2)).logsumexp(-1)
        # Exactly zero where nothing was observed, not the rounding of a sum of weights.
        return torch.where(mask.any(-1, keepdim=True), mixed, 0)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        member = dist.Categorical(parameters["weight"][paths], validate_args=False).sample()
        mean, scale = (wide(parameters[n], self.features)[paths, member] for n in ("mean", "scale"))
        located = mean if shift is None else mean + along_paths(shift, paths)
        return located + scale * torch.randn_like(scale)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        mean, scale = group_means(y, mask, weight), group_spreads(y, mask, weight)
        # Components start side by side, a spread apart, around the mean of their state.
        place = torch.linspace(-0.7, 0.7, self.components, dtype=mean.dtype).reshape(-1, 1)
        shape = (-1, self.components, *per_feature(self.features))
        spread = scale.unsqueeze(1).expand(-1, self.components, -1)
        return {
            "weight": weight.new_full((weight.shape[1], self.components), 1 / self.components),
            "mean": (mean.unsqueeze(1) + place * spread).reshape(shape),
            "scale": (0.7 * spread).reshape(shape),
        }

    def mean(self, parameters: Parameters) -> Tensor:
        located = wide(parameters["mean"], self.features)
        return (parameters["weight"].unsqueeze(-1) * located).sum(-2)
