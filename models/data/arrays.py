"""Arrays, tensors and columns of frames as numpy arrays of numbers or objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import cells
from .padding import tensor

Array = npt.NDArray[Any]


def as_array(given: object, name: str) -> Array:
    """A numpy array of numbers or objects, or a ValueError that names the argument."""
    data: Any = given
    if isinstance(data, Tensor):
        data = tensor(data, name).cpu()
        array: Array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        return array
    if np.ma.isMaskedArray(data):
        if data.dtype.kind not in "biuf":
            return np.ma.filled(data.astype(object), None)
        require_exact(data.compressed(), name)
        return np.ma.filled(data.astype(np.float64), np.nan)
    if hasattr(data, "iloc"):
        if data.ndim == 1:
            return _column(data, name)
        places = range(len(data.columns))
        columns = [_column(data.iloc[:, c], f"{name}[{data.columns[c]!r}]") for c in places]
        kinds = {"n" if column.dtype.kind in "biuf" else column.dtype.kind for column in columns}
        if len(kinds) > 1:  # dates beside numbers, or beside spans
            columns = [column.astype(object) for column in columns]
        return np.column_stack(columns) if columns else np.empty((len(data), 0))
    try:
        return cells.unmixed(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a rectangular array of numbers; {error}") from error


def as_numbers(given: object, name: str) -> Array:
    """A numpy array of bool, int64 or floating numbers, or a ValueError that names the argument."""
    array = as_array(given, name)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "O":
        return cells.numbers_of(array, name)
    if kind not in "biuf":
        hint = " (codes=True reads strings as symbols)" if kind == "U" else ""
        hint = " (times=… and the time=… of from_frame take dates)" if kind in "mM" else hint
        raise ValueError(f"{name} must hold numbers; got dtype {array.dtype}{hint}")
    if kind == "f":
        native = array.dtype.newbyteorder("=") if size <= 8 else np.dtype(np.float64)
    elif kind == "b":
        native = array.dtype
    else:
        native = np.dtype(np.float64 if (kind, size) == ("u", 8) else np.int64)
        if native.kind == "f":
            require_exact(array, name)
    converted: Array = array.astype(native, copy=False)
    return converted


def _column(series: Any, name: str) -> Array:
    """A pandas column; nullable numbers become float64, with NaN for pd.NA, others objects."""
    if series.dtype.kind not in "biuf":
        if series.dtype.kind in "mMc":
            return np.asarray(series.to_numpy())
        return np.asarray(series.to_numpy(dtype=object))
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series)
    if series.dtype.kind in "iu":
        require_exact(series.dropna().to_numpy(dtype=f"{series.dtype.kind}8"), name)
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def require_exact(numbers: Array, name: str, typical: str = "a typical value") -> None:
    """Raise ``ValueError`` if a whole number is lost when it becomes float64."""
    if numbers.dtype.kind not in "iu":
        return
    for number in numbers[np.abs(numbers.astype(np.float64)) >= 2.0**53].flat:
        if int(float(number)) != int(number):
            raise ValueError(
                f"{name} must be exact in float64, which few whole numbers beyond 2^53 are "
                f"(subtract {typical} from them); got {number}"
            )
