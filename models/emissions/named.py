"""Families of one number by the parameters that people speak of: means, shapes, directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..checks import require, warn
from ..data.sequences import Sequences
from .arguments import Given, Setting
from .distribution import FromDistribution
from .gamma_ratio import log_gamma_ratio

Scaling = tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]

_POSITIVE = constraints.positive

TURNS = 4
"""Angles of more turns than these are taken for degrees."""


class GammaOfMean(dist.Gamma):
    """The gamma distribution with a mean and a shape."""

    arg_constraints: dict[str, Any] = {"mean": _POSITIVE, "shape": _POSITIVE}

    def __init__(self, mean: Tensor, shape: Tensor) -> None:
        super().__init__(shape, shape / mean, validate_args=False)


class ExponentialOfMean(dist.Exponential):
    """The exponential distribution with a mean."""

    arg_constraints: dict[str, Any] = {"mean": _POSITIVE}

    def __init__(self, mean: Tensor) -> None:
        super().__init__(1 / mean, validate_args=False)


class WeibullOfScale(dist.Weibull):
    """The Weibull distribution with a scale and a shape."""

    arg_constraints: dict[str, Any] = {"scale": _POSITIVE, "shape": _POSITIVE}

    def __init__(self, scale: Tensor, shape: Tensor) -> None:
        super().__init__(scale, shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of positive values, without the powers that torch takes."""
        ratio = value.log() - self.scale.log()
        k = self.concentration
        out: Tensor = k.log() - value.log() + k * ratio - (k * ratio).exp()
        return out


class BetaOfMean(dist.Beta):
    """The beta distribution with a mean and a precision."""

    arg_constraints: dict[str, Any] = {"mean": constraints.unit_interval, "precision": _POSITIVE}

    def __init__(self, mean: Tensor, precision: Tensor) -> None:
        super().__init__(mean * precision, (1 - mean) * precision, validate_args=False)


class Angles(dist.VonMises):
    """The von Mises distribution with its normaliser in full precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of angles in any turn."""
        c = self.concentration
        density = c * ((value - self.loc).cos() - 1) - torch.special.i0e(c).log()
        out: Tensor = density - math.log(2 * math.pi)
        return out


class NegativeBinomialOfMean(dist.NegativeBinomial):
    """The negative binomial distribution with a mean and a size."""

    arg_constraints: dict[str, Any] = {"mean": _POSITIVE, "size": _POSITIVE}

    def __init__(self, mean: Tensor, size: Tensor) -> None:
        super().__init__(size, logits=mean.log() - size.log(), validate_args=False)
        self._mean = mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of counts, with all digits also where it is nearly Poisson."""
        size, mean = self.total_count, self._mean
        ways = log_gamma_ratio(size, value) - torch.lgamma(value + 1)
        out: Tensor = ways + torch.xlogy(value, mean) - (size + value) * torch.log1p(mean / size)
        return out


@dataclass(frozen=True, init=False, repr=False)
class _Named(FromDistribution):
    """A ``FromDistribution`` of one distribution, under a name of its own."""

    law: ClassVar[type[Distribution]]

    def __init__(
        self,
        features: int = 1,
        *,
        family: Callable[..., Distribution] | None = None,
        settings: tuple[tuple[str, Setting], ...] = (),
        scaling: Scaling = (),
        **arguments: Given,
    ) -> None:
        own = family is None or family is self.law
        require(own, "family", f"must be that of {type(self).__name__}", repr(family))
        _require_listed(settings, 2, "settings")
        _require_listed(scaling, 3, "scaling")
        super().__init__(self.law, features, settings=settings, scaling=scaling, **arguments)

    def __repr__(self) -> str:
        size = [f"features={self.features}"] if self.features > 1 else []
        told = [f"{name}={value}" for name, value in self.settings]
        return f"{self._name}({', '.join([*size, *told])})"

    @property
    def _name(self) -> str:
        return type(self).__name__


def _require_listed(given: object, size: int, argument: str) -> None:
    """Raise ``ValueError`` unless it lists tuples of a size that begin with a name."""
    listed = isinstance(given, tuple | list) and all(
        isinstance(one, tuple | list) and len(one) == size and isinstance(one[0], str)
        for one in given
    )
    requirement = f"must list tuples of a parameter and {size - 1} setting(s) of it"
    require(listed, argument, requirement, repr(given))


class Gamma(_Named):
    r"""Each state emits independent positive numbers of a gamma distribution.

    .. math:: O_k(y) = \prod_f \frac{(a/m)^a}{\Gamma(a)}\, y_f^{a-1} e^{-a y_f / m}
        \text{ at } m = mean_{kf}, a = shape_{kf}

    Parameters ``mean``, in the unit of the data, and ``shape``, (K,) for one feature, otherwise
    (K, F); the standard deviation is mean / √shape. Priors, missing elements and settings are those
    of ``FromDistribution``: ``Gamma(shape=2.0)`` fixes the shape. The states are sorted by the
    mean, and a ``Regression`` acts on its logarithm.

    Args:
        features: numbers per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``mean`` and ``shape``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[1.0], [5.0]]])
    >>> values = {"mean": torch.tensor([1.0, 5.0]), "shape": torch.tensor([2.0, 8.0])}
    >>> Gamma().score(values, y, mask=y > 0).argmax(-1)
    tensor([[0, 1]])
    """

    law = GammaOfMean


class Exponential(_Named):
    r"""Each state emits independent waiting times: O_k(y) = Π_f exp(−y_f / mean_kf) / mean_kf.

    Parameter ``mean``, in the unit of the data, (K,) for one feature, otherwise (K, F). Priors,
    missing elements and settings are those of ``FromDistribution``; a ``Regression`` acts on the
    logarithm of the mean.

    Args:
        features: numbers per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``mean``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[0.0]]])
    >>> Exponential().score({"mean": torch.tensor([0.5, 4.0])}, y, mask=y == 0).exp()
    tensor([[[2.0000, 0.2500]]])
    """

    law = ExponentialOfMean


class Weibull(_Named):
    r"""Each state emits independent positive numbers of a Weibull distribution.

    .. math:: O_k(y) = \prod_f \frac{a}{s} \left(\frac{y_f}{s}\right)^{a-1} e^{-(y_f / s)^a}
        \text{ at } s = scale_{kf}, a = shape_{kf}

    Parameters ``scale``, in the unit of the data, and ``shape``, (K,) for one feature, otherwise
    (K, F); the scale is the quantile at 1 − 1/e. Priors, missing elements and settings are those of
    ``FromDistribution``. The states are sorted by the scale, and a ``Regression`` acts on its
    logarithm (accelerated failure times).

    Args:
        features: numbers per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``scale`` and ``shape``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[1.0]]])
    >>> values = {"scale": torch.tensor([1.0]), "shape": torch.tensor([2.0])}
    >>> Weibull().score(values, y, mask=y > 0).exp()  # 2 / e
    tensor([[[0.7358]]])
    """

    law = WeibullOfScale
    ordering = "scale"


class LogNormal(_Named):
    r"""Each state emits independent positive numbers: log y_f ~ N(loc_kf, scale_kf²).

    Parameters ``loc`` and ``scale``, of the logarithm, (K,) for one feature, otherwise (K, F).
    Priors, missing elements and settings are those of ``FromDistribution``. The states are sorted
    by ``loc``, and a ``Regression`` acts on it.

    Args:
        features: numbers per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``loc`` and ``scale``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> LogNormal().mean({"loc": torch.tensor([0.0]), "scale": torch.tensor([1.0])})  # √e
    tensor([[1.6487]])
    """

    law = dist.LogNormal


class Beta(_Named):
    r"""Each state emits independent shares in (0, 1) of a beta distribution.

    .. math:: O_k(y) = \prod_f Beta(y_f;\ m n, (1 - m) n)
        \text{ at } m = mean_{kf}, n = precision_{kf}

    Parameters ``mean``, in (0, 1), and ``precision``, (K,) for one feature, otherwise (K, F); the
    variance is mean (1 − mean) / (1 + precision). Priors, missing elements and settings are those
    of ``FromDistribution``. The states are sorted by the mean, and a ``Regression`` acts on its
    log odds (Ferrari & Cribari-Neto 2004, Journal of Applied Statistics 31).

    Args:
        features: numbers per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``mean`` and ``precision``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[0.2]]])
    >>> values = {"mean": torch.tensor([0.5]), "precision": torch.tensor([2.0])}
    >>> Beta().score(values, y, mask=y > 0).exp()  # uniform
    tensor([[[1.]]])
    """

    law = BetaOfMean


class VonMises(_Named):
    r"""Each state emits independent angles: O_k(y) = Π_f exp(c cos(y_f − loc)) / (2π I_0(c)).

    Parameters ``loc``, the mean direction in radians, and ``concentration`` c, (K,) for one
    feature, otherwise (K, F). Priors, missing elements and settings are those of
    ``FromDistribution``. Angles may be given in any turn; of many turns, which may be degrees, a
    model warns. The states are sorted by ``loc``, and a
    ``Regression`` acts on it; ``mean`` is the mean direction.

    Args:
        features: angles per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``loc`` and ``concentration``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[3.0], [3.0 + 2 * torch.pi]]])
    >>> values = {"loc": torch.tensor([3.0]), "concentration": torch.tensor([1.0])}
    >>> VonMises().score(values, y, mask=y > 0).flatten()
    tensor([-1.0738, -1.0738])
    """

    law = Angles

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` if the data are no angles; warn if they look like degrees."""
        super().check(data)
        most = float(data.values.abs().max())
        if most > TURNS * 2 * math.pi:
            warn(
                f"data: VonMises takes angles in radians, got {most:g}, more than {TURNS} turns; "
                "numpy.deg2rad makes radians of degrees, and % (2 * numpy.pi) takes turns off"
            )


class NegativeBinomial(_Named):
    r"""Each state emits independent counts that vary more than those of a Poisson distribution.

    .. math:: O_k(y) = \prod_f \binom{y_f + r - 1}{y_f}
        \left(\frac{m}{m + r}\right)^{y_f} \left(\frac{r}{m + r}\right)^{r}
        \text{ at } m = mean_{kf}, r = size_{kf}

    Parameters ``mean`` and ``size``, (K,) for one feature, otherwise (K, F); the variance is
    mean + mean² / size, and a large size is nearly a Poisson distribution. Priors, missing elements
    and settings are those of ``FromDistribution``. The states are sorted by the mean, and a
    ``Regression`` acts on its logarithm.

    Args:
        features: counts per step F.
        family, settings, scaling: as a saved family has them.
        **arguments: settings of ``mean`` and ``size``, as for ``FromDistribution``.

    Raises:
        ValueError: no feature, or a setting that cannot be.

    >>> import torch
    >>> y = torch.tensor([[[0.0]]])
    >>> values = {"mean": torch.tensor([1.0]), "size": torch.tensor([1.0])}
    >>> NegativeBinomial().score(values, y, mask=y == 0).exp()  # geometric
    tensor([[[0.5000]]])
    """

    law = NegativeBinomialOfMean
