"""Priors: order statistics that break the symmetry of states; which prior may replace which."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, constraints, transform_to
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    StickBreakingTransform,
)

from .boundary import boundary
from .checks import require

P = TypeVar("P", bound=Distribution)


@boundary
class Ordered(dist.TorchDistribution):
    r"""The distribution of K independent draws of ``base``, sorted in increasing order.

    .. math:: p(x) = K! \prod_k p_{base}(x_k) \quad\text{on}\quad x_1 \le x_2 \le \dots \le x_K

    As a prior it numbers the states by their size, so that the chains of a sampler and the draws of
    a guide cannot exchange labels. With ``column`` the draws are rows, sorted by one of their
    entries.

    Args:
        base: a distribution with event shape (K,) and independent, identical entries (for instance
            ``Gamma(2, .1).expand([K]).to_event(1)``), on the real line, the positive numbers, or
            the unit interval; with ``column`` of event shape (K, F) and independent, identical
            rows of such entries, or rows of probabilities.
        column: the entry of a row by which rows are sorted.

    Raises:
        ValueError: a base of another shape, or no such column.

    >>> import pyro.distributions as dist
    >>> import torch
    >>> prior = Ordered(dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    >>> prior.log_prob(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))  # only sorted values are possible
    tensor([-2.1447,    -inf])
    >>> probs = Ordered(dist.Dirichlet(torch.ones(2, 3)).to_event(1), column=0)
    >>> bool((probs.sample([50])[..., 0].diff() > 0).all())
    True
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: dist.TorchDistribution, column: int | None = None) -> None:
        shape = tuple(base.event_shape)
        require(
            len(shape) == (1 if column is None else 2),
            "Ordered",
            "base must have event shape (states,), one number per state; with a column it must be "
            "(states, entries)",
            f"event shape {shape}",
        )
        fits = column is None or (type(column) is int and 0 <= column < shape[-1])
        require(fits, "Ordered", f"column must be one of the {shape[-1]} entries", column)
        self.base = base
        self.column = column
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        entry = elementary(self.base.support)
        assert entry is not None
        return self._sorted(entry)

    @property
    def possible(self) -> constraints.Constraint:
        """The values that the parameter can have where it is known."""
        entry = elementary(possible_values(self.base))
        assert entry is not None
        return self._sorted(entry)

    def _sorted(self, entry: constraints.Constraint) -> constraints.Constraint:
        return IncreasingVector(entry) if self.column is None else SortedRows(entry, self.column)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Ordered:
        return Ordered(self.base.expand(batch_shape), self.column)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        drawn: Tensor = self.base.sample(torch.Size(sample_shape))
        if self.column is None:
            return drawn.sort(-1).values
        place = drawn[..., self.column].argsort(-1).unsqueeze(-1)
        return drawn.gather(-2, place.expand_as(drawn))

    def log_prob(self, value: Tensor) -> Tensor:
        sorted_by = value if self.column is None else value[..., self.column]
        inside = (sorted_by.diff(dim=-1) >= 0).all(-1)
        log_p = self.base.log_prob(value) + math.lgamma(sorted_by.shape[-1] + 1)
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


class SortedRows(constraints.Constraint):
    """Matrices whose rows increase in one column; ``entry`` is what entries or rows satisfy."""

    is_discrete = False
    event_dim = 2

    def __init__(self, entry: constraints.Constraint, column: int) -> None:
        self.entry, self.column = entry, column
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        fits = self.entry.check(value)
        if self.entry.event_dim == 0:
            fits = fits.all(-1)
        inside: Tensor = (value[..., self.column].diff(dim=-1) >= 0).all(-1) & fits.all(-1)
        return inside

    def __repr__(self) -> str:
        return f"SortedRows({self.entry}, column={self.column})"


@biject_to.register(IncreasingVector)
@transform_to.register(IncreasingVector)
def _increasing(constraint: IncreasingVector) -> ComposeTransform:
    """Reals -> increasing reals -> increasing entries, as torch's maps of reals increase."""
    entrywise = biject_to(constraint.entry)
    return ComposeTransform([dist.transforms.OrderedTransform(), entrywise])


@biject_to.register(SortedRows)
@transform_to.register(SortedRows)
def _sorted(constraint: SortedRows) -> Transform:
    if isinstance(constraint.entry, type(constraints.simplex)):
        return _SortedSimplices(constraint)
    return _SortedEntries(constraint)


class _SortedEntries(Transform):
    """Reals (K, F) -> matrices with one increasing column, entry by entry."""

    bijective = True
    domain = constraints.independent(constraints.real, 2)

    def __init__(self, rows: SortedRows) -> None:
        self.rows = self.codomain = rows
        super().__init__()

    def _parts(self) -> tuple[Transform, Transform]:
        return biject_to(IncreasingVector(self.rows.entry)), biject_to(self.rows.entry)

    def _joined(self, column: Tensor, rest: Tensor) -> Tensor:
        here = torch.arange(rest.shape[-1], device=rest.device) == self.rows.column
        return torch.where(here, column.unsqueeze(-1), rest)

    def _call(self, x: Tensor) -> Tensor:
        increasing, entrywise = self._parts()
        return self._joined(increasing(x[..., self.rows.column]), entrywise(x))

    def _inverse(self, y: Tensor) -> Tensor:
        increasing, entrywise = self._parts()
        return self._joined(increasing.inv(y[..., self.rows.column]), entrywise.inv(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        increasing, entrywise = self._parts()
        column = self.rows.column
        own = increasing.log_abs_det_jacobian(x[..., column], y[..., column])
        # What the entries of the column would have by themselves is left out.
        rest = entrywise.log_abs_det_jacobian(x, entrywise(x))
        total: Tensor = own + rest.sum((-1, -2)) - rest[..., column].sum(-1)
        return total


class _SortedSimplices(Transform):
    """Reals (K, V − 1) -> rows of V probabilities of which one column increases.

    The first real of every row gives the probability in the column, the others share the rest.
    """

    bijective = True
    domain = constraints.independent(constraints.real, 2)

    def __init__(self, rows: SortedRows) -> None:
        self.rows = self.codomain = rows
        super().__init__()

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] - 1])

    @property
    def _increasing(self) -> Transform:
        increasing: Transform = biject_to(IncreasingVector(constraints.unit_interval))
        return increasing

    def _call(self, x: Tensor) -> Tensor:
        chosen = self._increasing(x[..., 0]).unsqueeze(-1)
        others = (1 - chosen) * StickBreakingTransform()(x[..., 1:])
        column = self.rows.column
        return torch.cat([others[..., :column], chosen, others[..., column:]], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        column = self.rows.column
        others = torch.cat([y[..., :column], y[..., column + 1 :]], -1)
        others = others / others.sum(-1, keepdim=True)
        first = self._increasing.inv(y[..., column]).unsqueeze(-1)
        return torch.cat([first, StickBreakingTransform().inv(others)], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        chosen, sticks = y[..., self.rows.column], StickBreakingTransform()
        own = self._increasing.log_abs_det_jacobian(x[..., 0], chosen)
        shares = sticks.log_abs_det_jacobian(x[..., 1:], sticks(x[..., 1:]))
        total: Tensor = own + (shares + (x.shape[-1] - 1) * (-chosen).log1p()).sum(-1)
        return total


def elementary(constraint: constraints.Constraint | None) -> constraints.Constraint | None:
    """The constraint inside all layers of ``independent``."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def within(inner: constraints.Constraint | None, outer: constraints.Constraint | None) -> bool:
    """Whether all values that satisfy ``inner`` satisfy ``outer``; event shapes must be equal."""
    inner, outer = elementary(inner), elementary(outer)
    if isinstance(outer, SortedRows):
        if not isinstance(inner, SortedRows) or inner.column != outer.column:
            return False
        return within(inner.entry, outer.entry)
    if isinstance(inner, SortedRows):
        return within(inner.entry, outer)
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


_Real = type(constraints.real) | type(constraints.real_vector)


def has_unit(prior: dist.TorchDistribution) -> Tensor:
    """Which unconstrained numbers of a parameter with this prior have a unit, bool.

    Real numbers have; logarithms and logits have not, nor have the logarithms of the gaps between
    ordered numbers.
    """
    shape = biject_to(support_of(prior)).inverse_shape(prior.event_shape)
    support = elementary(prior.support)
    unit = torch.zeros(shape, dtype=torch.bool)
    if isinstance(support, _Real):
        unit = ~unit
    elif isinstance(support, IncreasingVector) and isinstance(elementary(support.entry), _Real):
        unit[0] = True
    elif isinstance(support, SortedRows) and isinstance(elementary(support.entry), _Real):
        unit = ~unit
        unit[1:, support.column] = False
    return unit


def unit_of(prior: dist.TorchDistribution) -> Tensor:
    """The unit of every unconstrained number of a parameter with this prior, float64.

    It is the standard deviation of the prior where there is a unit, otherwise 1, and also where the
    prior has no standard deviation.
    """
    own = has_unit(prior)
    one = torch.ones(own.shape, dtype=torch.float64)
    if not bool(own.any()):
        return one
    spread = (prior.base if isinstance(prior, Ordered) else prior).stddev.double()
    return torch.where(own & spread.isfinite() & (spread > 0), spread, one)


# Settings of priors: a user's own stay, others follow the data


def settled(own: Any, scaled: Any, default: Any) -> Any:
    """Return a setting as it is for a fit: the user's own, or that on the scale of the data.

    Args:
        own: the setting as it is: a number, a law with settings, or a tuple of laws.
        scaled: the same on the scale of the data.
        default: its default.
    """
    if dataclasses.is_dataclass(own) and not isinstance(own, type) and type(own) is type(scaled):
        defaults = defaults_of(type(own))
        names = [field.name for field in dataclasses.fields(own) if field.init]
        kept = {
            name: settled(getattr(own, name), getattr(scaled, name), defaults.get(name))
            for name in names
        }
        for field in dataclasses.fields(own):
            leader = field.metadata.get("follows")
            if leader and not _same(getattr(own, leader), defaults[leader]):
                kept[field.name] = getattr(own, field.name)  # the user has said what it refers to
        if all(kept[name] is getattr(scaled, name) for name in names):
            return scaled
        return dataclasses.replace(scaled, **kept)
    if isinstance(own, tuple) and any(map(dataclasses.is_dataclass, own)):
        return tuple(settled(one, new, None) for one, new in zip(own, scaled, strict=True))
    return scaled if _same(own, default) else own


def defaults_of(kind: Any) -> dict[str, Any]:
    """Default values of the arguments of a class, by name."""
    found = inspect.signature(kind).parameters.values()
    return {one.name: one.default for one in found if one.default is not one.empty}


def _same(own: Any, default: Any) -> bool:
    """Whether a setting is its default; one number stands for one a feature."""
    if own is default:
        return True
    try:
        here, there = (np.asarray(x, dtype=np.float64) for x in (own, default))
    except (TypeError, ValueError):
        return bool(own == default)
    return bool(here.size and there.size and (here == there).all())
