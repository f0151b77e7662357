"""Refusal of bad input in one sentence: the argument, the requirement, and what came."""

from __future__ import annotations

import re
import sys
import warnings
from math import isfinite
from numbers import Integral, Real
from os import PathLike
from typing import Literal, TypeGuard

import torch
from torch import Tensor

Impossible = Literal["raise", "missing"]
"""What is done with an observation of probability 0 given those before it."""


def require_choice(value: object, argument: str, choices: tuple[object, ...]) -> None:
    """Raise ``ValueError`` unless the value is one of the choices."""
    fits = any(value is each or (type(value) is type(each) and value == each) for each in choices)
    require(fits, argument, f"must be {' or '.join(map(repr, choices))}", repr(value))


def impossible_observation(place: str, came: object) -> ValueError:
    """Return the error for an observation of probability 0 given those before it."""
    return ValueError(
        "data: needs observations of positive probability given those before them "
        f"(impossible='missing' leaves such ones out); {place}, got {came}"
    )


def require(condition: bool, argument: str, requirement: str, came: object) -> None:
    """Raise ``ValueError`` with the argument, the requirement and what came, unless the condition
    holds.
    """
    if not condition:
        raise ValueError(f"{argument}: {requirement}, got {came}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_count(value: object, argument: str, least: int = 1, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless the value is a whole number >= ``least``, or None if allowed."""
    if optional and value is None:
        return
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    requirement = f"must be a whole number >= {least}" + " or None" * optional
    require(whole and int(value) >= least, argument, requirement, repr(value))  # type: ignore[call-overload]
    few = int(value) < 2**31  # type: ignore[call-overload]
    require(few, argument, "must be below 2^31, which no memory holds", repr(value))


def require_jobs(value: object, argument: str) -> None:
    """Raise ``ValueError`` unless joblib takes it for a number of workers."""
    fits = isinstance(value, Integral) and not isinstance(value, bool) and value != 0
    requirement = "must be a whole number other than 0 (-1: all cores)"
    require(fits and abs(int(value)) < 2**31, argument, requirement, repr(value))  # type: ignore[call-overload]


def require_seed(value: object, argument: str = "seed", *, optional: bool = True) -> None:
    """Raise ``ValueError`` unless it is a seed of torch's generators, or None if allowed."""
    if optional and value is None:
        return
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    requirement = "must be a whole number from −2^63 to 2^64 − 1" + " or None" * optional
    fits = whole and -(2**63) <= int(value) < 2**64  # type: ignore[call-overload]
    require(fits, argument, requirement, repr(value))


def require_flag(value: object, argument: str, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless the value is True or False, or None if allowed."""
    fits = isinstance(value, bool) or (optional and value is None)
    require(fits, argument, "must be True or False" + " or None" * optional, repr(value))


def require_finite(value: object, argument: str) -> None:
    """Raise ``ValueError`` unless the value is a finite number."""
    fits = is_number(value) and isfinite(value)
    require(fits, argument, "must be a finite number", repr(value))


def require_positive(value: object, argument: str, *, zero: bool = False) -> None:
    """Raise ``ValueError`` unless the value is a finite number > 0, or >= 0 with ``zero``."""
    fits = is_number(value) and isfinite(value) and (value > 0 or (zero and value == 0))
    require(fits, argument, f"must be a finite number >{'=' * zero} 0", repr(value))


def require_scales(value: object, size: int, argument: str, each: str) -> None:
    """Raise ``ValueError`` unless the value is one number > 0, or a tuple of one per ``each``."""
    given = value if isinstance(value, tuple | list) else (value,)
    wanted = f"needs one number or one per {each} ({size})"
    require(len(given) in (1, size), argument, wanted, f"{len(given)} numbers")
    for one in given:
        require_positive(one, argument)


def require_places(value: object, size: int, argument: str, each: str) -> None:
    """Raise ``ValueError`` unless it is one finite number, or a tuple of one per ``each``."""
    given = value if isinstance(value, tuple | list) else (value,)
    wanted = f"needs one number or one per {each} ({size})"
    require(len(given) in (1, size), argument, wanted, f"{len(given)} numbers")
    for one in given:
        require_finite(one, argument)


def require_path(value: object, argument: str = "path") -> None:
    """Raise ``ValueError`` unless the value is a path that an operating system can take."""
    fits = isinstance(value, str | PathLike) and "\0" not in str(value)
    require(fits, argument, "must be a path", repr(value))


def require_share(value: object, argument: str, *, inside: bool = False) -> None:
    """Raise ``ValueError`` unless the value is in [0, 1], or in (0, 1) if ``inside``."""
    fits = is_number(value) and (0 < value < 1 if inside else 0 <= value <= 1)
    require(fits, argument, f"must be in {'(0, 1)' if inside else '[0, 1]'}", repr(value))


def require_last(value: object, size: int, argument: str) -> None:
    """Raise ``ValueError`` unless the value is a tensor with this size of the last axis."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    require(
        isinstance(value, Tensor) and value.ndim > 0 and value.shape[-1] == size,
        argument,
        f"needs a tensor with {size} entries along the last axis",
        shape,
    )


def require_alike(**tensors: Tensor) -> None:
    """Raise ``ValueError`` unless all are tables of the shape of the first."""
    (first, like), *others = tensors.items()
    require(like.ndim == 2, first, "needs two axes", tuple(like.shape))
    for name, one in others:
        shape = tuple(like.shape)
        require(tuple(one.shape) == shape, name, f"needs the shape {shape} of {first}", one.shape)


def require_mask(value: Tensor, argument: str) -> None:
    """Raise ``ValueError`` unless it is a tensor of True and False."""
    require(value.dtype == torch.bool, argument, "must be a tensor of bool", value.dtype)


_MANY_DIGITS = re.compile(r"(?<![\w.])\d+\.\d{5,}(?:e[+-]?\d+)?")


def brief(value: object) -> str:
    """Return the ``repr`` of a value with its numbers cut to five digits."""
    return _MANY_DIGITS.sub(lambda found: f"{float(found[0]):.5g}", repr(value))


_LIBRARY = tuple(f"{__name__.partition('.')[0]}.{wing}." for wing in ("models", "inference"))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn the caller of the library: the first line outside of it is the one that is shown."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_LIBRARY):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
