"""Priors: order statistics that break the symmetry of states; which prior may replace which."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, constraints, transform_to
from torch.distributions.transforms import AffineTransform, ComposeTransform

P = TypeVar("P", bound=Distribution)


class Ordered(dist.TorchDistribution):
    r"""The distribution of K independent draws of ``base``, sorted in increasing order.

    .. math:: p(x) = K! \prod_k p_{base}(x_k) \quad\text{on}\quad x_1 \le x_2 \le \dots \le x_K

    As a prior it numbers the states by their size, so that the chains of a sampler and the draws of
    a guide cannot exchange labels.

    Args:
        base: a distribution with event shape (K,) and independent, identical entries (for instance
            ``Gamma(2, .1).expand([K]).to_event(1)``), on the real line, the positive numbers, or
            the unit interval.

    Raises:
        ValueError: a base of another shape.

    >>> import pyro.distributions as dist
    >>> import torch
    >>> prior = Ordered(dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    >>> prior.log_prob(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))  # only sorted values are possible
    tensor([-2.1447,    -inf])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: dist.TorchDistribution) -> None:
        if len(base.event_shape) != 1:
            raise ValueError(
                "Ordered: base must have event shape (states,), one number per state; "
                f"got event shape {tuple(base.event_shape)}"
            )
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        entry = elementary(self.base.support)
        assert entry is not None
        return IncreasingVector(entry)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Ordered:
        return Ordered(self.base.expand(batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape)).sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value.diff(dim=-1) >= 0).all(-1)
        log_p = self.base.log_prob(value) + math.lgamma(value.shape[-1] + 1)
        return torch.where(inside, log_p, -math.inf)


class AtLeast(dist.TransformedDistribution):
    r"""The distribution of ``least`` + x, with x > 0 of the law ``base``.

    As a prior of a scale it keeps a likelihood finite that has no bound where the scale goes to 0.
    Where the law of x is zero at 0, the highest posterior density is above the bound, not on it.
    The bound is one of estimates: known values, and other priors, may go below.

    Args:
        base: a distribution of positive numbers.
        least: the bound, > 0.

    >>> import pyro.distributions as dist
    >>> import torch
    >>> prior = AtLeast(dist.LogNormal(0.0, 1.0), 0.5)
    >>> prior.log_prob(torch.tensor(1.5)), prior.support
    (tensor(-0.9189), GreaterThan(lower_bound=0.5))
    """

    def __init__(self, base: dist.TorchDistribution, least: float) -> None:
        self.least = float(least)
        super().__init__(base, AffineTransform(self.least, 1.0), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.greater_than(self.least)

    @property
    def possible(self) -> constraints.Constraint:
        """The values that the parameter can have where it is known."""
        return support_of(self.base_dist)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> AtLeast:
        return AtLeast(self.base_dist.expand(batch_shape), self.least)


class IncreasingVector(constraints.Constraint):
    """Vectors with increasing entries, each of which satisfies ``entry``."""

    is_discrete = False
    event_dim = 1

    def __init__(self, entry: constraints.Constraint) -> None:
        self.entry = entry
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = (value.diff(dim=-1) >= 0).all(-1) & self.entry.check(value).all(-1)
        return inside

    def __repr__(self) -> str:
        return f"IncreasingVector({self.entry})"


@biject_to.register(IncreasingVector)
@transform_to.register(IncreasingVector)
def _increasing(constraint: IncreasingVector) -> ComposeTransform:
    """Reals -> increasing reals -> increasing entries, as torch's maps of reals increase."""
    entrywise = biject_to(constraint.entry)
    return ComposeTransform([dist.transforms.OrderedTransform(), entrywise])


def elementary(constraint: constraints.Constraint | None) -> constraints.Constraint | None:
    """The constraint inside all layers of ``independent``."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def within(inner: constraints.Constraint | None, outer: constraints.Constraint | None) -> bool:
    """Whether all values that satisfy ``inner`` satisfy ``outer``; event shapes must be equal."""
    inner, outer = elementary(inner), elementary(outer)
    if isinstance(outer, IncreasingVector):
        return isinstance(inner, IncreasingVector) and within(inner.entry, outer.entry)
    if isinstance(inner, IncreasingVector):
        return within(inner.entry, outer)
    if isinstance(outer, type(constraints.simplex) | type(constraints.corr_cholesky)):
        return isinstance(inner, type(outer))
    small, large = _bounds(inner), _bounds(outer)
    if small is None or large is None:
        return False
    return small[0] >= large[0] and small[1] <= large[1]


def _bounds(constraint: Any) -> tuple[float, float] | None:
    """The ends of an interval of reals; None for any other constraint."""
    if isinstance(constraint, type(constraints.real) | type(constraints.real_vector)):
        return -math.inf, math.inf
    ends = [getattr(constraint, name, None) for name in ("lower_bound", "upper_bound")]
    if ends == [None, None] or constraint.is_discrete:
        return None
    low, high = (torch.as_tensor(math.nan if end is None else end) for end in ends)
    return float(low.nan_to_num(-math.inf).min()), float(high.nan_to_num(math.inf).max())


def possible_values(prior: dist.TorchDistribution) -> constraints.Constraint:
    """The values that a parameter with this prior of its own can have; often its support."""
    values: constraints.Constraint = getattr(prior, "possible", None) or support_of(prior)
    return values


def in_double(prior: P) -> P:
    """A copy of a distribution with float64 numbers."""
    twin = copy.deepcopy(prior)
    _to_double(twin, set())
    return twin


def _to_double(part: Any, met: set[int]) -> None:
    if id(part) in met:  # a transform and its inverse hold each other
        return
    met.add(id(part))
    for name, value in vars(part).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            vars(part)[name] = value.double()
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, Distribution | Transform):
                _to_double(inner, met)
    if isinstance(part, Distribution):
        part._validate_args = False


def support_of(prior: dist.TorchDistribution) -> constraints.Constraint:
    """The support of a prior, as a constraint: the type that torch declares allows None."""
    support: constraints.Constraint | None = prior.support
    assert support is not None
    return support
