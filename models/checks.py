"""Refusal of bad input in one sentence: the argument, the requirement, and what came."""

from __future__ import annotations

import re
from numbers import Integral, Real
from typing import Literal

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


def require_count(value: object, argument: str, least: int = 1) -> None:
    """Raise ``ValueError`` unless the value is a whole number >= ``least``."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(
        whole and int(value) >= least,  # type: ignore[call-overload]
        argument,
        f"must be a whole number >= {least}",
        repr(value),
    )


def require_positive(value: object, argument: str) -> None:
    """Raise ``ValueError`` unless the value is a finite number > 0."""
    number = float(value) if isinstance(value, Real) else float("nan")
    require(0 < number < float("inf"), argument, "must be a finite number > 0", repr(value))


def require_scales(value: object, size: int, argument: str, each: str) -> None:
    """Raise ``ValueError`` unless the value is one number > 0, or a tuple of one per ``each``."""
    given = value if isinstance(value, tuple | list) else (value,)
    wanted = f"needs one number or one per {each} ({size})"
    require(len(given) in (1, size), argument, wanted, f"{len(given)} numbers")
    for one in given:
        require_positive(one, argument)


def require_share(value: object, argument: str) -> None:
    """Raise ``ValueError`` unless the value is a number from 0 to 1."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    fits = number and 0 <= float(value) <= 1  # type: ignore[arg-type]
    require(fits, argument, "must be in [0, 1]", repr(value))


def require_last(value: object, size: int, argument: str) -> None:
    """Raise ``ValueError`` unless the value is a tensor with this size of the last axis."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    require(
        isinstance(value, Tensor) and value.ndim > 0 and value.shape[-1] == size,
        argument,
        f"needs a tensor with {size} entries along the last axis",
        shape,
    )


_MANY_DIGITS = re.compile(r"(?<![\w.])\d+\.\d{5,}(?:e[+-]?\d+)?")


def brief(value: object) -> str:
    """Return the ``repr`` of a value with its numbers cut to five digits."""
    return _MANY_DIGITS.sub(lambda found: f"{float(found[0]):.5g}", repr(value))
