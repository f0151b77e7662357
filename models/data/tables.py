"""Readers of arrays, frames and text: padded tensors in the form of ``Sequences.from_tensors``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..checks import warn
from . import cells, padding
from .arrays import as_array, as_numbers, require_exact
from .padding import tensor
from .stamps import days, of_index, stamps_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = npt.NDArray[Any]


Padded = dict[str, Any]
"""Arguments of ``Sequences.from_tensors`` by name."""


# Arrays


def read_array(
    array: npt.ArrayLike,
    along: Mapping[str, npt.ArrayLike | None],
    *,
    codes: bool = False,
    symbols: Iterable[object] | None = None,
) -> Padded:
    """Padded arrays: the values, and what ``along`` names beside them."""
    if getattr(array, "ndim", None) == 2 and hasattr(array, "iloc"):
        raise ValueError(
            "array must be an array, whose rows are sequences; got a DataFrame: from_frame reads "
            "it, layout='wide' as one sequence a row or a column"
        )
    given = {name: data for name, data in along.items() if data is not None}
    if "times" not in given and (index := _stamps_of_index([array])):
        given["times"] = index[0]
    (values,), named = _symbols([as_array(array, "array")], ["array"], codes, symbols)
    read: Padded = {"values": as_numbers(values, "array")}
    for name, data in given.items():
        numbers = days([stamps_of(data, name)], [name])[0] if name == "times" else data
        read[name] = as_numbers(numbers, name)
    return {name: torch.from_numpy(data.copy()) for name, data in read.items()} | named


def read_arrays(
    arrays: Iterable[npt.ArrayLike],
    along: Mapping[str, Iterable[npt.ArrayLike] | None],
    *,
    codes: bool = False,
    symbols: Iterable[object] | None = None,
) -> Padded:
    """One array (steps,) or (steps, columns) per sequence: the values, and ``along`` likewise."""
    items = _items(arrays, "arrays")
    given = {name: data for name, data in along.items() if data is not None}
    if "times" not in given and (index := _stamps_of_index(items)):
        given["times"] = index
    names = [f"arrays[{n}]" for n in range(len(items))]
    read, named = _symbols(
        [as_array(item, name) for item, name in zip(items, names, strict=True)],
        names,
        codes,
        symbols,
    )
    flat, lengths = _joined(read, "arrays")
    if "times" in given:
        stamps = _items(given["times"], "times")
        names = [f"times[{n}]" for n in range(len(stamps))]
        given["times"] = days([stamps_of(*one) for one in zip(stamps, names, strict=True)], names)
    return {
        "values": _pad(flat, lengths),
        "lengths": torch.from_numpy(lengths),
        **{name: _pad(_joined(data, name, lengths)[0], lengths) for name, data in given.items()},
        **named,
    }


def _items(data: Any, name: str) -> list[Any]:
    """The arrays of all sequences, of an iterable of them."""
    table = hasattr(data, "iloc") or hasattr(data, "coords")
    if table or isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise ValueError(f"{name} must be a list of arrays; got {type(data).__name__}")
    require_no_column(data, name)
    try:
        return list(data)
    except TypeError as error:
        raise ValueError(f"{name} must be a list of arrays; got a single number") from error


def require_no_column(data: object, name: str) -> None:
    """Raise ``ValueError`` for an array (n, 1), n > 1, in place of a list of arrays."""
    data = tensor(data, name) if isinstance(data, Tensor) else data
    shape = tuple(getattr(data, "shape", ()))
    if len(shape) == 2 and shape[1] == 1 < shape[0]:
        raise ValueError(
            f"{name} must be a list of arrays, one per sequence; got an array of shape {shape}, "
            f"which can be one sequence of {shape[0]} steps ([{name}], a list of it alone) or "
            f"{shape[0]} sequences of one step (list({name}))"
        )


def _stamps_of_index(items: list[Any]) -> list[Any] | None:
    """The stamps of the index of all of these columns and frames; None if any has none."""
    found = [of_index(item.index) if hasattr(item, "iloc") else None for item in items]
    return found if found and all(one is not None for one in found) else None


def _symbols(
    arrays: list[Array], names: list[str], codes: bool, symbols: Iterable[object] | None
) -> tuple[list[Array], Padded]:
    """The arrays with codes in place of strings, and the symbols that were found."""
    if not codes or not any(cells.is_text(array) for array in arrays):
        return arrays, {}
    read, known = cells.codes_of(arrays, names, symbols)
    return read, {"symbols": known}


def _joined(data: Any, name: str, like: Array | None = None) -> tuple[Array, Array]:
    """The arrays of all sequences end to end, (steps, columns), and their lengths."""
    items = [as_numbers(item, f"{name}[{n}]") for n, item in enumerate(_items(data, name))]
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
            require_exact(item, f"{name}[{n}]")
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
    steps: str | None,
    codes: bool,
    symbols: Iterable[object] | None,
) -> Padded:
    """A frame in either layout of ``Sequences.from_frame``."""
    if hasattr(frame, "to_frame") and getattr(frame, "ndim", 0) == 1 and hasattr(frame, "iloc"):
        frame = frame.to_frame()
    if not hasattr(frame, "iloc") or not hasattr(frame, "columns"):
        raise ValueError(f"frame must be a pandas DataFrame; got {type(frame).__name__}")
    _require_choice(layout, ("long", "wide"), "layout")
    if steps is not None:
        _require_choice(steps, ("columns", "rows"), "steps")
    wide = layout == "wide"
    absent: dict[str, Any] = {"lengths": lengths, "steps": steps}
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
        return _read_wide(frame, sequence, chosen, lengths, steps, codes, symbols)
    return _read_long(frame, sequence, time, chosen, action, reward, extra, codes, symbols)


def units_of_frame(
    frame: Any,
    units: object,
    layout: str,
    time: Hashable | None,
    action: Hashable | None,
    reward: Hashable | None,
    read: Padded,
) -> dict[str, Any] | None:
    """Units by the names that columns have in the data; ``None`` if there are none.

    Those of the frame's own attributes may be of columns that are left out.
    """
    own = units is None
    if own:
        units = getattr(frame, "attrs", {}).get("units")
        if layout == "wide" or not isinstance(units, Mapping):
            return None
    if not isinstance(units, Mapping):
        raise ValueError(f"units must be a mapping of columns to units; got {type(units).__name__}")
    known = {*(read.get("features") or ()), *(read.get("input_names") or ())}
    named = {
        "time" if name == time and time is not None else str(name): units[name] for name in units
    }
    if own:
        known |= {"time"} if read.get("times") is not None else set()
        return {name: unit for name, unit in named.items() if name in known}
    return named


def _listed(names: Any) -> list[Hashable] | None:
    """Column labels as a list; a tuple is one label, as everywhere in pandas."""
    if names is None:
        return None
    single = isinstance(names, str | bytes | tuple) or not isinstance(names, Iterable)
    single = single or getattr(names, "ndim", 1) == 0
    return [names] if single else list(names)


def _with_columns(frame: Any, names: list[Hashable]) -> Any:
    """The frame with the index levels among ``names`` as columns; each name must occur once."""
    for name in names:
        if not isinstance(name, Hashable):
            raise ValueError(f"a column must be named by a label; got {name!r}")
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
    symbols: Iterable[object] | None,
) -> Padded:
    group, labels = np.zeros(len(frame), np.int64), None
    if sequence is not None:
        group, labels = frame[sequence].factorize()
        _require_all(group >= 0, f"column {sequence!r}", "NaN")
    stamps = _times_of(frame, sequence, time)
    order = np.lexsort((np.zeros(len(frame)) if stamps is None else stamps, group))
    lengths = np.bincount(group)

    def padded(name: Hashable) -> Tensor:
        _require_no_text(frame[name], name, codes)
        return _pad(as_numbers(frame[name], f"column {name!r}")[order], lengths)

    read: Padded = {"labels": labels, "lengths": torch.from_numpy(lengths)}
    coded = None
    if codes and len(columns) == 1:
        coded, found = _column_of_symbols(frame[columns[0]], f"column {columns[0]!r}", symbols)
        read |= found
    if coded is not None:
        read["values"] = _pad(coded[order], lengths)
    else:
        read["values"] = torch.stack([padded(name) for name in columns], dim=2)
    if not codes:
        read["features"] = columns
    if stamps is not None:
        read["times"] = _pad(stamps[order], lengths)
    if action is not None:
        read["actions"] = padded(action)
    if reward is not None:
        read["rewards"] = padded(reward)
    if inputs:
        read["inputs"] = torch.stack([padded(name) for name in inputs], dim=2)
        read["input_names"] = inputs
    return read


def _require_no_text(column: Any, name: Hashable, codes: bool) -> None:
    """Raise ``ValueError`` for symbols as strings or categories, with the readings there are."""
    known = getattr(column.dtype, "categories", None)
    met = as_array(column, f"column {name!r}") if known is None else np.array(known, object)
    if not cells.is_text(met):
        return
    text = [str(one) for one in met if isinstance(one, str)]
    text = sorted({*text}) if known is None else text
    shown = text[:3]
    codes_of = ", ".join(f"{one!r}: {code}" for code, one in enumerate(shown))
    more = ", …" * (len(text) > len(shown))
    alone = "" if codes else "; codes=True reads a column alone as symbols"
    raise ValueError(
        f"column {name!r} must hold numbers; got {shown[0]!r} (symbols beside numbers are codes: "
        f"frame[{name!r}].map({{{codes_of}{more}}}){alone})"
    )


def _times_of(frame: Any, sequence: Hashable | None, time: Hashable | None) -> Array | None:
    """The times of the rows of a long frame, from a column or the index; None if there are none."""
    if time is not None:
        return _days(frame[time], f"column {time!r}")
    levels = [frame.index.get_level_values(n) for n in range(frame.index.nlevels)]
    stamps = [found for level in levels if (found := of_index(level)) is not None]
    if len(levels) > 1 and (sequence is None or len(stamps) != 1):
        raise ValueError(
            "sequence and time must be named among the levels of the index (or drop them with "
            f"reset_index(drop=True)); got levels {list(frame.index.names)} without a role"
        )
    return _days(stamps[0], "index") if stamps else None


def _column_of_symbols(
    column: Any, name: str, symbols: Iterable[object] | None
) -> tuple[Array | None, Padded]:
    """Codes of a column of categories or strings, and its symbols; None for numbers."""
    categories = getattr(column.dtype, "categories", None)
    known = None if symbols is None else padding.names(symbols, "symbols")
    if categories is not None:
        known = tuple(map(str, categories)) if known is None else known
        text = np.array([str(one) for one in categories], object)
        place = np.asarray(column.cat.codes)
        objects = np.full(len(place), None, object)
        objects[place >= 0] = text[place[place >= 0]]
    else:
        objects = as_array(column, name)
        if not cells.is_text(objects):
            return None, {}
    (read,), found = cells.codes_of([objects], [name], known)
    return read, {"symbols": found}


def _read_wide(
    frame: Any,
    sequence: Hashable | None,
    columns: list[Hashable],
    lengths: npt.ArrayLike | None,
    steps: str | None,
    codes: bool,
    symbols: Iterable[object] | None,
) -> Padded:
    rows = frame.index if sequence is None else frame[sequence]
    rows = rows.to_flat_index() if getattr(rows, "nlevels", 1) > 1 else rows
    table = frame.iloc[:, [frame.columns.get_loc(column) for column in columns]]
    header = table.columns.infer_objects()
    if steps == "rows" and sequence is not None:
        raise ValueError(f"sequence has no meaning with steps='rows'; got {sequence!r}")
    if steps is None and lengths is None:
        _require_orientation(rows, header)
    values = as_array(table, "frame")
    labels, along = (header, rows) if steps == "rows" else (rows, header)
    values = values.T if steps == "rows" else values
    _require_all(~np.asarray(labels.isna()), "names of sequences", "NaN")
    plain = steps == "rows" and type(along).__name__ == "RangeIndex"
    timed = of_index(along) is not None or (along.dtype.kind in "iuf" and not plain)
    times = _days(along, "labels of steps") if timed else None
    beside = {"lengths": lengths, "times": times}
    return read_array(values[..., None], beside, codes=codes, symbols=symbols) | {"labels": labels}


def _require_orientation(rows: Any, header: Any) -> None:
    """Ask which way a wide frame lies if its labels do not tell."""
    count = len(rows)
    ways = (
        f"steps='columns' reads each of the {count} rows as a sequence, steps='rows' each of the "
        f"{len(header)} columns"
    )
    if len(header) == 1 < count:
        raise ValueError(
            f"steps must be given for a single column; {ways}; got None (layout='long' reads the "
            "column as one sequence too)"
        )
    labels = rows if hasattr(rows, "nlevels") else rows.array
    dated = getattr(labels, "nlevels", 1) == 1 and of_index(labels) is not None
    if dated:
        raise ValueError(
            f"steps must be given for a frame whose rows have dates; {ways}; got None and "
            f"{rows[0] if hasattr(rows, 'nlevels') else rows.iloc[0]} as first row"
        )
    if of_index(header) is None and header.dtype.kind not in "iuf":
        warn(
            f"from_frame: a wide frame whose columns are neither numbers nor dates; {ways}. "
            "Reading rows as sequences",
        )


def read_xarray(
    array: xr.DataArray,
    *,
    sequence: str,
    time: str,
    feature: str,
    lengths: npt.ArrayLike | None,
    codes: bool,
    symbols: Iterable[object] | None,
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
    numbers = as_array(array.transpose(*order).to_numpy(), "array")
    names = {dim: array.coords[dim].to_numpy() for dim in order if dim in array.coords}
    stamps = names.get(time)
    timed = stamps is not None and (stamps.dtype.kind in "iufMm" or cells.are_dates(stamps))
    times = _days(stamps, f"coordinate {time!r}") if timed else None
    whole = numbers if sequence in dims else numbers[None]
    whole = whole if feature in dims else whole[..., None]
    beside = {"lengths": lengths, "times": times}
    read = read_array(whole, beside, codes=codes, symbols=symbols)
    features = None if codes else names.get(feature)
    return read | {"labels": names.get(sequence), "features": features}


def _days(stamps: Any, name: str) -> Array:
    """Numbers unchanged; datetimes in days since the first, timedeltas in days."""
    read = stamps_of(stamps, name)
    (numbers,) = days([read], [name])
    require_exact(numbers, name, "the first time")
    numbers = numbers.astype(np.float64)
    _require_all(~np.isnan(numbers), name, "NaT" if read.dtype.kind in "Mm" else "NaN")
    return numbers


def _require_choice(value: object, choices: tuple[str, str], name: str) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}; got {value!r}")


def _require_all(there: Array, name: str, came: str) -> None:
    if not there.all():
        raise ValueError(f"{name} must not be missing; got {came} at row {there.argmin()}")


# Text


def read_text(
    strings: str | Iterable[str], alphabet: str | Sequence[str], *, unknown: str
) -> Padded:
    """One string a sequence, one character a step; codes are places in ``alphabet``."""
    symbols = tuple(alphabet) if isinstance(alphabet, Iterable) else ()
    if not symbols or any(not isinstance(s, str) or len(s) != 1 for s in symbols):
        raise ValueError(f"alphabet must be single characters, at least one; got {alphabet!r}")
    _require_choice(unknown, ("error", "missing"), "unknown")
    if isinstance(strings, bytes) or not isinstance(strings, Iterable):
        raise ValueError(f"strings must be a string or a list of strings; got {strings!r}")
    texts = [strings] if isinstance(strings, str) else list(strings)
    for n, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ValueError(f"strings[{n}] must be a string, not empty; got {text!r}")
    if not texts:
        raise ValueError("strings must hold at least one string; got none")
    if len(texts) > 1 and max(map(len, texts)) == 1:
        raise ValueError(
            f"strings must be sequences; got {len(texts)} single characters, which can be one "
            f'sequence of {len(texts)} steps ("".join(strings)) or {len(texts)} sequences of one '
            "step ([[one] for one in strings] in from_arrays with codes=True, symbols=alphabet)"
        )
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
