"""Readers of arrays, frames and text: padded tensors in the form of ``Sequences.from_tensors``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .padding import tensor

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = npt.NDArray[Any]


Padded = dict[str, Any]
"""Arguments of ``Sequences.from_tensors`` by name."""


# Arrays


def read_array(array: npt.ArrayLike, along: Mapping[str, npt.ArrayLike | None]) -> Padded:
    """Padded arrays: the values, and what ``along`` names beside them."""
    given = {name: data for name, data in along.items() if data is not None}
    arrays = {"values": as_numbers(array, "array")}
    arrays |= {name: as_numbers(data, name) for name, data in given.items()}
    return {name: torch.from_numpy(data.copy()) for name, data in arrays.items()}


def read_arrays(
    arrays: Iterable[npt.ArrayLike], along: Mapping[str, Iterable[npt.ArrayLike] | None]
) -> Padded:
    """One array (steps,) or (steps, columns) per sequence: the values, and ``along`` likewise."""
    flat, lengths = _joined(arrays, "arrays")
    given = {name: data for name, data in along.items() if data is not None}
    return {
        "values": _pad(flat, lengths),
        "lengths": torch.from_numpy(lengths),
        **{name: _pad(_joined(data, name, lengths)[0], lengths) for name, data in given.items()},
    }


def as_numbers(given: object, name: str) -> Array:
    """A numpy array of bool, int64 or floating numbers, or a ValueError that names the argument."""
    array: Array
    data: Any = given
    if isinstance(data, Tensor):
        data = tensor(data, name).cpu()
        array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
    elif np.ma.isMaskedArray(data):
        _require_exact(data.compressed(), name)
        array = np.ma.filled(data.astype(np.float64), np.nan)
    elif hasattr(data, "iloc"):
        if data.ndim == 1:
            array = _column(data, name)
        else:
            array = np.column_stack([_column(data[c], f"{name}[{c!r}]") for c in data.columns])
    else:
        try:
            array = np.asarray(data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a rectangular array of numbers; {error}") from error
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got dtype {array.dtype}")
    if kind == "f":
        native = array.dtype.newbyteorder("=") if size <= 8 else np.dtype(np.float64)
    elif kind == "b":
        native = array.dtype
    else:
        native = np.dtype(np.float64 if (kind, size) == ("u", 8) else np.int64)
        if native.kind == "f":
            _require_exact(array, name)
    converted: Array = array.astype(native, copy=False)
    return converted


def _joined(data: Any, name: str, like: Array | None = None) -> tuple[Array, Array]:
    """The arrays of all sequences end to end, (steps, columns), and their lengths."""
    table = hasattr(data, "iloc") or hasattr(data, "coords")
    if table or isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise ValueError(f"{name} must be a list of arrays; got {type(data).__name__}")
    items = [as_numbers(item, f"{name}[{n}]") for n, item in enumerate(data)]
    if not items or (like is not None and len(items) != len(like)):
        count = "at least one array" if like is None else f"{len(like)} arrays, one per sequence"
        raise ValueError(f"{name} must hold {count}; got {len(items)}")
    for n, item in enumerate(items):
        if item.ndim not in (1, 2) or 0 in item.shape:
            raise ValueError(
                f"{name}[{n}] must have shape (steps,) or (steps, columns), at least one step and "
                f"one column; got {item.shape}"
            )
        if like is not None and len(item) != like[n]:
            raise ValueError(f"{name}[{n}] must have {like[n]} steps; got {len(item)}")
        items[n] = item if item.ndim == 2 else item[:, None]
        if items[n].shape[1] != items[0].shape[1]:
            raise ValueError(
                f"{name} must all have the same number of columns; got {items[0].shape[1]} "
                f"in {name}[0] and {items[n].shape[1]} in {name}[{n}]"
            )
    if len({item.dtype for item in items}) > 1:  # whole numbers may become floating ones
        for n, item in enumerate(items):
            _require_exact(item, f"{name}[{n}]")
    return np.concatenate(items), np.array([len(item) for item in items])


def _pad(flat: Array, lengths: Array) -> Tensor:
    """Zero-padded (sequences, T, …) from the steps of all sequences end to end, (steps, …)."""
    within = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros((*within.shape, *flat.shape[1:]), flat.dtype)
    padded[within] = flat
    return torch.from_numpy(padded)


# Frames and labelled arrays


def read_frame(
    frame: pd.DataFrame,
    *,
    layout: str,
    sequence: Hashable | None,
    time: Hashable | None,
    columns: Hashable | Iterable[Hashable] | None,
    action: Hashable | None,
    reward: Hashable | None,
    inputs: Hashable | Iterable[Hashable] | None,
    lengths: npt.ArrayLike | None,
    codes: bool,
) -> Padded:
    """A frame in either layout of ``Sequences.from_frame``."""
    if not hasattr(frame, "iloc") or not hasattr(frame, "columns"):
        raise ValueError(f"frame must be a pandas DataFrame; got {type(frame).__name__}")
    if layout not in ("long", "wide"):
        raise ValueError(f"layout must be 'long' or 'wide'; got {layout!r}")
    wide = layout == "wide"
    absent: dict[str, Any] = {"lengths": lengths}
    if wide:
        absent = {"time": time, "action": action, "reward": reward, "inputs": inputs}
    for name, value in absent.items():
        if value is not None:
            raise ValueError(f"{name} has no meaning with layout={layout!r}; got {value!r}")
    chosen, extra = _listed(columns), _listed(inputs) or []
    named = [name for name in (sequence, time, action, reward, *extra) if name is not None]
    frame = _with_columns(frame, [*named, *(chosen or [])])
    if chosen is None:
        chosen = [name for name in frame.columns if name not in named]
    if not chosen:
        raise ValueError("columns must name at least one column; got none")
    if wide:
        return _read_wide(frame, sequence, chosen, lengths)
    return _read_long(frame, sequence, time, chosen, action, reward, extra, codes)


def _listed(names: Any) -> list[Hashable] | None:
    """Column labels as a list; a tuple is one label, as everywhere in pandas."""
    if names is None:
        return None
    single = isinstance(names, str | tuple) or not isinstance(names, Iterable)
    return [names] if single else list(names)


def _with_columns(frame: Any, names: list[Hashable]) -> Any:
    """The frame with the index levels among ``names`` as columns; each name must occur once."""
    levels = [n for n in names if n not in frame.columns and n in frame.index.names]
    if levels:
        frame = frame.reset_index(levels)
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"frame must have a column {name!r}; got {list(frame.columns)}")
        if names.count(name) > 1:
            raise ValueError(f"a column can play one role only; got {name!r} twice")
    if not frame.columns.is_unique:
        raise ValueError(f"columns of frame must be unique; got {list(frame.columns)}")
    if not len(frame):
        raise ValueError("frame must have at least one row; got none")
    return frame


def _read_long(
    frame: Any,
    sequence: Hashable | None,
    time: Hashable | None,
    columns: list[Hashable],
    action: Hashable | None,
    reward: Hashable | None,
    inputs: list[Hashable],
    codes: bool,
) -> Padded:
    group, labels = np.zeros(len(frame), np.int64), None
    if sequence is not None:
        group, labels = frame[sequence].factorize()
        _require_all(group >= 0, f"column {sequence!r}", "NaN")
    stamps = np.zeros(len(frame)) if time is None else _days(frame[time], f"column {time!r}")
    _require_all(~np.isnan(stamps), f"column {time!r}", "NaN")
    order = np.lexsort((stamps, group))
    lengths = np.bincount(group)

    def padded(name: Hashable) -> Tensor:
        return _pad(_column(frame[name], f"column {name!r}")[order], lengths)

    read: Padded = {"labels": labels, "lengths": torch.from_numpy(lengths)}
    first = frame[columns[0]]
    if codes and len(columns) == 1 and hasattr(first.dtype, "categories"):
        known = np.asarray(first.cat.codes)[order]
        read |= {"values": _pad(known, lengths), "mask": _pad(known >= 0, lengths)}
        read["symbols"] = first.cat.categories
    else:
        read["values"] = torch.stack([padded(name) for name in columns], dim=2)
    if not codes:
        read["features"] = columns
    if time is not None:
        read["times"] = _pad(stamps[order], lengths)
    if action is not None:
        read["actions"] = padded(action)
    if reward is not None:
        read["rewards"] = padded(reward)
    if inputs:
        read["inputs"] = torch.stack([padded(name) for name in inputs], dim=2)
        read["input_names"] = inputs
    return read


def _read_wide(
    frame: Any, sequence: Hashable | None, columns: list[Hashable], lengths: npt.ArrayLike | None
) -> Padded:
    labels = frame.index if sequence is None else frame[sequence]
    _require_all(~np.asarray(labels.isna()), "names of sequences", "NaN")
    steps = frame[columns].columns.infer_objects()
    timed = steps.dtype.kind in "iufMm"
    times = _days(steps, "column labels") if timed else None
    along = {"lengths": lengths, "times": times}
    return read_array(frame[columns], along) | {"labels": labels}


def read_xarray(
    array: xr.DataArray,
    *,
    sequence: str,
    time: str,
    feature: str,
    lengths: npt.ArrayLike | None,
    codes: bool,
) -> Padded:
    """A DataArray with dimension ``time`` and perhaps ``sequence`` and ``feature``."""
    dims = tuple(getattr(array, "dims", ()))
    known = hasattr(array, "to_numpy") and {time} <= set(dims) <= {sequence, time, feature}
    if not known:
        raise ValueError(
            f"array must be a DataArray with dimension {time!r} and none but {sequence!r}, "
            f"{time!r} and {feature!r}; got {type(array).__name__} with dimensions {dims}"
        )
    order = [name for name in (sequence, time, feature) if name in dims]
    numbers = as_numbers(array.transpose(*order).to_numpy(), "array")
    names = {dim: array.coords[dim].to_numpy() for dim in order if dim in array.coords}
    stamps = names.get(time)
    timed = stamps is not None and stamps.dtype.kind in "iufMm"
    times = _days(stamps, f"coordinate {time!r}") if timed else None
    read = read_array(
        numbers if sequence in dims else numbers[None], {"lengths": lengths, "times": times}
    )
    features = None if codes else names.get(feature)
    return read | {"labels": names.get(sequence), "features": features}


def _column(series: Any, name: str) -> Array:
    """A numeric pandas column; nullable ones become float64, with NaN for pd.NA."""
    if series.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got dtype {series.dtype}")
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series)
    if series.dtype.kind in "iu":
        _require_exact(series.dropna().to_numpy(dtype=f"{series.dtype.kind}8"), name)
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _days(stamps: Any, name: str) -> Array:
    """Numbers unchanged; datetimes in days since the first, timedeltas in days."""
    kind = stamps.dtype.kind
    if kind == "M" and not isinstance(stamps.dtype, np.dtype):  # with a time zone
        stamps = stamps.to_numpy(dtype="datetime64[ns]")
    numbers = np.asarray(stamps) if kind in "Mm" else _column(stamps, name)
    if kind not in "Mm":
        _require_exact(numbers, name, "the first time")
        return numbers.astype(np.float64)
    _require_all(~np.isnat(numbers), name, "NaT")
    spans = numbers - numbers.min() if kind == "M" else numbers
    return np.asarray(spans / np.timedelta64(1, "D"))


def _require_exact(numbers: Array, name: str, typical: str = "a typical value") -> None:
    """Raise ``ValueError`` if a whole number is lost when it becomes float64."""
    if numbers.dtype.kind not in "iu":
        return
    for number in numbers[np.abs(numbers.astype(np.float64)) >= 2.0**53].flat:
        if int(float(number)) != int(number):
            raise ValueError(
                f"{name} must be exact in float64, which few whole numbers beyond 2^53 are "
                f"(subtract {typical} from them); got {number}"
            )


def _require_all(there: Array, name: str, came: str) -> None:
    if not there.all():
        raise ValueError(f"{name} must not be missing; got {came} at row {there.argmin()}")


# Text


def read_text(
    strings: str | Iterable[str], alphabet: str | Sequence[str], *, unknown: str
) -> Padded:
    """One string a sequence, one character a step; codes are places in ``alphabet``."""
    symbols = tuple(alphabet)
    if not symbols or any(not isinstance(s, str) or len(s) != 1 for s in symbols):
        raise ValueError(f"alphabet must be single characters, at least one; got {alphabet!r}")
    if unknown not in ("error", "missing"):
        raise ValueError(f"unknown must be 'error' or 'missing'; got {unknown!r}")
    texts = [strings] if isinstance(strings, str) else list(strings)
    for n, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ValueError(f"strings[{n}] must be a string, not empty; got {text!r}")
    if not texts:
        raise ValueError("strings must hold at least one string; got none")
    points = [ord(symbol) for symbol in symbols]
    place = np.full(max(points) + 2, -1)  # the last entry stands for all characters beyond
    place[points] = np.arange(len(symbols))
    joined = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    flat = place[np.minimum(joined, len(place) - 1)]
    lengths = np.array([len(text) for text in texts])
    known = flat >= 0
    if unknown == "error" and not known.all():
        n, position = np.argwhere(_pad(~known, lengths).numpy())[0]
        raise ValueError(
            "strings must hold characters of the alphabet only; got "
            f"{texts[n][position]!r} at position {position} of strings[{n}] "
            "(unknown='missing' leaves such characters out)"
        )
    return {
        "values": _pad(flat, lengths),
        "mask": _pad(known, lengths),
        "lengths": torch.from_numpy(lengths),
    }
