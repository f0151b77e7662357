"""Entries of arrays of objects: numbers, symbols, stamps of time, and what stands for a gap."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from . import padding

Array = npt.NDArray[Any]

_ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?)?Z?")


def unmixed(given: object) -> Array:
    """An array; of objects where strings stand beside others, of which NumPy makes strings too.

    NaN would become the string "nan".
    """
    array = np.asarray(given)
    listed = array.dtype.kind in "US" and not hasattr(given, "dtype")
    return np.asarray(given, object) if listed else array


def is_missing(value: object) -> bool:
    """Whether an entry stands for a missing value: None, NaN, pd.NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating | Decimal) and value != value


def missing(objects: Array) -> Array:
    """Where entries are missing, bool in the shape of the array."""
    flat = np.fromiter((is_missing(value) for value in objects.flat), bool, objects.size)
    return flat.reshape(objects.shape)


def numbers_of(objects: Array, name: str) -> Array:
    """Numbers that came as objects, NaN where one is missing; int64 or bool if all are.

    Raises:
        ValueError: another entry, or a whole number that a float64 does not hold.
    """
    gone = missing(objects)
    kept = objects[~gone]
    for value in kept:
        if not isinstance(value, Real | Decimal | np.bool_):
            hint = ""
            if isinstance(value, str):
                hint = " (codes=True reads strings as symbols)"
            elif isinstance(value, datetime.date | np.datetime64):
                hint = " (times=… and the time=… of from_frame take dates)"
            raise ValueError(f"{name} must hold numbers; got {value!r}{hint}")
        if isinstance(value, Integral) and not _is_exact(int(value)):
            raise ValueError(
                f"{name} must be exact in float64, which few whole numbers beyond 2^53 are "
                f"(subtract a typical value from them); got {value}"
            )
    if not gone.any() and all(isinstance(value, bool | np.bool_) for value in kept):
        return objects.astype(bool)
    made = np.full(objects.shape, np.nan)
    made[~gone] = [float(value) for value in kept]
    return made


def _is_exact(number: int) -> bool:
    return number.bit_length() < 1000 and int(float(number)) == number


def is_text(array: Array) -> bool:
    """Whether an array holds strings, beside missing values."""
    if array.dtype.kind != "O":
        return array.dtype.kind == "U" and array.size > 0
    return any(isinstance(value, str) for value in array.flat)


def codes_of(
    arrays: list[Array], names: list[str], symbols: Iterable[object] | None
) -> tuple[list[Array], tuple[str, ...]]:
    """Codes of strings, NaN where one is missing, and their symbols.

    Args:
        arrays: of strings and missing values.
        names: of the arrays, for messages.
        symbols: in the order of the codes; all strings that occur, sorted, if None.

    Raises:
        ValueError: an entry that is no string, or not among the symbols.
    """
    there = [~missing(array) for array in arrays]
    for array, seen, name in zip(arrays, there, names, strict=True):
        for value in array[seen]:
            if not isinstance(value, str):
                raise ValueError(f"{name} must hold strings, as it has one; got {value!r}")
    if symbols is None:
        met = {str(v) for array, seen in zip(arrays, there, strict=True) for v in array[seen]}
        known = tuple(sorted(met))
    else:
        known = padding.names(symbols, "symbols")
    place = {symbol: float(code) for code, symbol in enumerate(known)}
    made = []
    for array, seen, name in zip(arrays, there, names, strict=True):
        for value in array[seen]:
            if value not in place:
                raise ValueError(f"{name} must hold symbols among {known}; got {str(value)!r}")
        codes = np.full(array.shape, np.nan)
        codes[seen] = [place[value] for value in array[seen]]
        made.append(codes)
    return made, known


def dates_of(array: Array, name: str) -> Array:
    """ISO strings, dates and datetimes as datetime64 of UTC.

    Raises:
        ValueError: another entry, or a part with a time zone and a part without.
    """
    flat = [_date(value, name) for value in array.flat]
    zoned = {aware for _, aware in flat}
    if len(zoned) > 1:
        raise ValueError(f"{name} must all have a time zone or none; got both")
    return np.array([date for date, _ in flat], "datetime64[us]").reshape(array.shape)


def are_dates(array: Array) -> bool:
    """Whether an array holds nothing but dates and times of days, also as ISO strings."""
    if array.dtype.kind == "M":
        return True
    if not array.size or array.dtype.kind not in "OU":
        return False
    return all(
        isinstance(v, datetime.date) or (isinstance(v, str) and bool(_ISO.fullmatch(v)))
        for v in array.flat
    )


def _date(value: object, name: str) -> tuple[np.datetime64, bool]:
    """A point of time, and whether it came with a time zone."""
    if isinstance(value, str) and _ISO.fullmatch(value):
        try:
            return np.datetime64(value.removesuffix("Z"), "us"), value.endswith("Z")
        except ValueError as error:
            raise ValueError(f"{name} must hold dates; got {value!r}") from error
    if isinstance(value, datetime.datetime) and not is_missing(value):
        aware = value.tzinfo is not None
        plain = value.astimezone(datetime.UTC).replace(tzinfo=None) if aware else value
        return np.datetime64(plain, "us"), aware
    if isinstance(value, datetime.date) and not is_missing(value):
        return np.datetime64(value, "us"), False
    raise ValueError(
        f"{name} must hold numbers or dates (as datetime64, or ISO strings such as 2026-03-31); "
        f"got {value!r}"
    )
