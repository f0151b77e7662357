"""Stamps of time as numbers: datetimes, dates, periods, spans and ISO strings."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from . import cells
from .arrays import as_array, as_numbers

Array = npt.NDArray[Any]

_NEVER = np.datetime64("NaT", "us")
"""A missing stamp; NumPy deprecates those without a unit."""


def stamps_of(given: Any, name: str) -> Array:
    """Stamps as datetime64, timedelta64 or numbers, in the shape in which they came.

    Periods become their numbers, whole ones since 1970 in their own unit. Missing ones are NaT or
    NaN.

    Raises:
        ValueError: entries that are no stamps.
    """
    if hasattr(given, "iloc") and given.ndim == 2:
        given = as_array(given, name)
    dtype = getattr(given, "dtype", None)
    if _is_period(dtype):
        numbers = np.asarray(given.astype("int64"), np.int64)
        gone = np.asarray(given.isna())
        return np.where(gone, np.nan, numbers) if gone.any() else numbers
    if getattr(dtype, "kind", None) == "M" and not isinstance(dtype, np.dtype):  # of a time zone
        given = given.to_numpy(dtype="datetime64[ns]")
    if not hasattr(given, "iloc") and not isinstance(given, Tensor):
        try:
            given = cells.unmixed(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be a rectangular array of times; {error}") from error
    kind = getattr(given.dtype, "kind", "")
    if kind in "OU" and kind:
        array = np.asarray(given, object)
        there = ~cells.missing(array)
        if isinstance(next(iter(array[there]), 0), str | datetime.date | np.datetime64):
            dates = np.full(array.shape, _NEVER)
            dates[there] = cells.dates_of(array[there], name)
            return dates
        return cells.numbers_of(array, name)
    return np.asarray(given) if kind in "Mm" and kind else as_numbers(given, name)


def days(stamps: list[Array], names: list[str]) -> list[Array]:
    """Numbers unchanged; datetimes in days since the first of all, timedeltas in days.

    Raises:
        ValueError: stamps of several kinds.
    """
    kinds = {one.dtype.kind for one in stamps}
    if not kinds & {"M", "m"}:
        return stamps
    if len(kinds) > 1:
        shown = ", ".join(sorted({str(one.dtype) for one in stamps}))
        raise ValueError(f"{names[0]} must all be of one kind; got {shown}")
    if kinds == {"M"}:
        met = [one[~np.isnat(one)] for one in stamps]
        first = min((one.min() for one in met if one.size), default=_NEVER)
        stamps = [one - first for one in stamps]
    return [np.asarray(one / np.timedelta64(1, "D")) for one in stamps]


def of_index(index: Any) -> Any | None:
    """The stamps of a pandas index of dates, periods or spans; None if it is none."""
    if getattr(index, "nlevels", 1) > 1:
        return None
    if _is_period(index.dtype) or index.dtype.kind in "Mm":
        return index
    if index.dtype.kind == "O" and cells.are_dates(np.asarray(index, object)):
        return index
    return None


def _is_period(dtype: object) -> bool:
    return str(dtype).startswith("period[")
