"""Arguments of a distribution: which it has, where each lies, and what is said of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import lazy_property

from ..checks import is_number, require
from .observations import bounds_of, requirement


@dataclass(frozen=True)
class Interval:
    """The open interval that a parameter lies in."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def constraint(self) -> constraints.Constraint:
        """The interval as a constraint of torch."""
        made: constraints.Constraint = constraints.real
        if math.isfinite(self.low) and math.isfinite(self.high):
            made = constraints.interval(self.low, self.high)
        elif math.isfinite(self.low):
            made = constraints.greater_than(self.low)
        elif math.isfinite(self.high):
            made = constraints.less_than(self.high)
        return made

    def __repr__(self) -> str:
        names = {
            (-math.inf, math.inf): "real",
            (0.0, math.inf): "positive",
            (0.0, 1.0): "unit_interval",
        }
        return names.get((self.low, self.high), f"interval({self.low:g}, {self.high:g})")


@dataclass(frozen=True)
class Prior:
    """A prior of one number: a class of distributions, and what the prior is made with."""

    family: type[Distribution]
    arguments: tuple[tuple[str, float | tuple[float, ...]], ...]

    @property
    def law(self) -> Any:
        """The distribution, of Pyro."""
        family: Callable[..., Distribution] = self.family
        return family(
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in self.arguments}
        )

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value:g}" for name, value in self.arguments)
        return f"{self.family.__name__}({arguments})"


Setting = float | tuple[float, ...] | Interval | Prior
"""What is said of an argument: its value (or one a feature), where it lies, or its prior."""

Scaling = tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
"""Middle and width of the priors of parameters, by name."""

Given = float | npt.ArrayLike | Tensor | constraints.Constraint | Distribution | Interval | Prior
"""What a user says of an argument."""


def setting(name: str, given: Given) -> Setting:
    """What is said of the argument ``name``, as a value that can be compared and saved."""
    if isinstance(given, Interval | Prior):
        return given
    if isinstance(given, Distribution):
        return _prior(name, given)
    if isinstance(given, constraints.Constraint):
        interval = interval_of(given)
        if interval is None:
            raise ValueError(f"{name}: needs a constraint on single real numbers, got {given}")
        return interval
    try:
        none = isinstance(given, str | bool | np.bool_)
        numbers = np.asarray(np.nan if none else given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    fits = numbers.ndim < 2 and numbers.size > 0 and bool(np.isfinite(numbers).all())
    require(
        fits,
        name,
        "needs a finite number (or one a feature), a constraint or a distribution",
        repr(given),
    )
    return float(numbers) if numbers.ndim == 0 else tuple(numbers.tolist())


def settings_of(given: object) -> dict[str, Setting]:
    """Settings by name, of pairs (name, setting) or a mapping.

    Raises:
        ValueError: anything else, or a setting that is none.
    """
    pairs: Any = given.items() if isinstance(given, Mapping) else given
    listed = isinstance(pairs, Collection) and not isinstance(pairs, str)
    fits = listed and all(_is_row(pair, 2) for pair in pairs)
    require(fits, "settings", "must be pairs such as (('df', 4.0),)", repr(given))
    return {name: setting(name, value) for name, value in pairs}


def scaling_of(given: object, features: int) -> Scaling:
    """Triples (parameter, c, w), with one finite c and one w > 0 per feature.

    Raises:
        ValueError: anything else.
    """
    rows: Any = given
    fits = isinstance(rows, tuple | list) and all(_is_row(row, 3) for row in rows)
    require(fits, "scaling", "must be triples such as (('loc', (0.0,), (1.0,)),)", repr(given))
    made = []
    for name, *both in rows:
        for one, positive in zip(both, (False, True), strict=True):
            fits = isinstance(one, tuple | list) and len(one) in (1, features)
            fits = fits and all(
                is_number(x) and math.isfinite(x) and (x > 0 or not positive) for x in one
            )
            wanted = f"needs {'numbers > 0' if positive else 'finite numbers'} for {name!r}, one"
            require(fits, "scaling", f"{wanted} or one a feature ({features})", repr(one))
        made.append((name, *(tuple(map(float, one)) for one in both)))
    return tuple(made)


def _is_row(value: object, size: int) -> bool:
    """Whether it is a tuple or list of so many, the first of which is a name."""
    return isinstance(value, tuple | list) and len(value) == size and isinstance(value[0], str)


def _prior(name: str, given: Distribution) -> Prior:
    kind = type(given)
    simple = tuple(given.event_shape) == tuple(given.batch_shape) == ()
    arguments = {}
    for argument in inspect.signature(kind).parameters:
        derived = isinstance(inspect.getattr_static(kind, argument, None), lazy_property)
        if argument == "validate_args" or (derived and argument not in vars(given)):
            continue
        value = getattr(given, argument, None)
        simple = simple and isinstance(value, Tensor | Real) and torch.as_tensor(value).numel() == 1
        arguments[argument] = float(value) if simple else math.nan  # type: ignore[arg-type]
    own = simple and interval_of(given.support) is not None and hasattr(given, "to_event")
    require(
        own,
        name,
        "needs a prior of one real number, a distribution of pyro.distributions without axes that "
        "has its arguments as attributes",
        repr(given),
    )
    return Prior(kind, tuple(arguments.items()))


def interval_of(constraint: Any) -> Interval | None:
    """The open interval of a constraint on single real numbers; None for any other."""
    if constraint is None or constraints.is_dependent(constraint):
        return None
    if constraint.event_dim or constraint.is_discrete:
        return None
    low, high = bounds_of(constraint)
    if low.numel() > 1 or high.numel() > 1:
        return None
    unbounded = bool(low.isinf() & high.isinf())
    if unbounded and not isinstance(constraint, type(constraints.real)):
        return None
    return Interval(float(low), float(high))


def arguments_of(
    family: Callable[..., Distribution], name: str, settings: Mapping[str, Setting]
) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """What is said of the arguments of a family: those that are needed, and those that may be left.

    Raises:
        ValueError: a setting of no argument, or an argument of which nothing is known.
    """
    supports = getattr(family, "arg_constraints", None)
    supports = supports if isinstance(supports, Mapping) else {}
    signature = dict(inspect.signature(family).parameters)
    signature.pop("validate_args", None)
    own = {
        argument: parameter.default
        for argument, parameter in signature.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    unknown = sorted(set(settings) - set(own))
    require(
        not unknown or len(own) < len(signature), "family", f"{name} takes {list(own)}", unknown
    )
    needed, optional = dict[str, Setting](), dict[str, Setting]()
    for argument, default in own.items():
        support = supports.get(argument)
        interval = interval_of(support)
        if argument in settings:
            _check(argument, settings[argument], support, interval)
            needed[argument] = settings[argument]
        elif interval is not None:
            (optional if default is None else needed)[argument] = interval
        elif default is inspect.Parameter.empty:
            raise ValueError(f"{argument}: {_missing(name, support)}")
    return needed | {argument: settings[argument] for argument in unknown}, optional


def _check(name: str, said: Setting, support: Any, interval: Interval | None) -> None:
    """Raise ``ValueError`` unless what is said of an argument keeps it where it lies."""
    if isinstance(said, float | tuple):
        known = support is not None and not constraints.is_dependent(support)
        inside = not known or bool(support.check(torch.as_tensor(said)).all())
        require(inside, name, f"needs {requirement(support)}", said)
    elif interval is not None:
        own = said if isinstance(said, Interval) else interval_of(said.law.support)
        inside = own is not None and own.low >= interval.low and own.high <= interval.high
        require(inside, name, f"needs to lie in {interval}", said)


VECTORS = "see FullGaussian, LowRankGaussian, Categorical, Multinomial, or derive from Emission"
"""Ways out for whoever wants a distribution of vectors."""


def _missing(name: str, support: Any) -> str:
    """What has to be said of an argument."""
    known = support is not None and not constraints.is_dependent(support)
    if known and support.event_dim:
        return f"needs to be one number a state and feature ({VECTORS}), got {support} of {name}"
    if known and support.is_discrete:
        return f"needs a value, since whole numbers cannot be fitted, got none for {name}"
    return f"needs a value, a constraint or a prior: {name} does not say where it lies, got none"
