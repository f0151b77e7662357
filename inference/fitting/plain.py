"""Conversion of values to plain JSON types."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: object, path: str) -> Any:
    """Converts a value to what JSON can hold; NumPy scalars, tuples and paths are converted.

    Args:
        value: the value.
        path: its name in error messages.

    Raises:
        ValueError: names the path of a value that is NaN, infinite, or of another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} must be finite, since JSON has no other numbers; got {value}")
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} must have strings as keys; got {key!r}")
        return {key: plain(item, f"{path}.{key}") for key, item in value.items()}
    raise ValueError(
        f"{path} must be a number, string, list or mapping; got {type(value).__name__}"
    )
