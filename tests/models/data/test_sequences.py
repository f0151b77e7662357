"""The container against loops that fill and read it one entry at a time."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beliefzoo.models.data.sequences import Sequences

Array = npt.NDArray[Any]
NAN, INF = math.nan, math.inf


def numbers(missing: bool = True) -> st.SearchStrategy[float]:
    finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
    return finite | st.just(NAN) if missing else finite


@st.composite
def ragged(draw: st.DrawFn, missing: bool = True) -> list[Array]:
    """1 to 5 arrays of 1 to 6 steps and 1 to 3 features, at least one number observed."""
    features = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    row = st.lists(numbers(missing), min_size=features, max_size=features)
    arrays = [np.array(draw(st.lists(row, min_size=n, max_size=n))) for n in lengths]
    arrays[0][0, 0] = draw(numbers(missing=False))
    return arrays


def assert_same(one: Sequences, other: Sequences, names: bool = True) -> None:
    for field in dataclasses.fields(Sequences):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b), field.name
        elif names or a is None:
            assert a == b, field.name


def small() -> Sequences:
    """Three sequences of lengths 2, 4, 1 with everything that a sequence can carry."""
    return Sequences.from_arrays(
        [[[1.0, NAN], [2.0, 3.0]], [[4.0, 5.0]] * 3 + [[NAN, NAN]], [[6.0, 7.0]]],
        times=[[0.0, 1.5], [1.0, 2.0, 2.0, 5.0], [3.0]],
        actions=[[0, 1], [2, 0, 1, 1], [0]],
        inputs=[[0.5, 1.5], [1.0, 2.0, 3.0, 4.0], [9.0]],
        labels=["a", "b", "c"],
        features=["x", "y"],
    )


# Reading data in


@given(arrays=ragged())
@settings(deadline=None)
def test_padding_mask_and_lengths_agree_with_a_loop(arrays: list[Array]) -> None:
    data = Sequences.from_arrays(arrays)
    longest = max(len(a) for a in arrays)
    assert data.values.shape == (len(arrays), longest, arrays[0].shape[1])
    observed = 0
    for n, array in enumerate(arrays):
        assert data.lengths[n] == len(array)
        for t in range(longest):
            assert data.step_mask[n, t] == (t < len(array))
            there = [t < len(array) and not math.isnan(x) for x in array[min(t, len(array) - 1)]]
            assert data.mask[n, t].tolist() == there
            assert data.observed_steps[n, t] == any(there)
            for f, seen in enumerate(there):
                assert data.values[n, t, f] == (array[t, f] if seen else 0)
            observed += sum(there)
    assert data.n_observed == observed
    assert data.n_steps == sum(len(a) for a in arrays)
    assert (len(data), data.n_sequences, data.max_length) == (len(arrays), len(arrays), longest)
    assert data.n_features == arrays[0].shape[1]


@given(arrays=ragged())
@settings(deadline=None)
def test_arrays_round_trip(arrays: list[Array]) -> None:
    data = Sequences.from_arrays(arrays)
    back = data.arrays()
    assert len(back) == len(arrays)
    for one, other in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same(data, Sequences.from_arrays(back))


@given(codes=st.lists(st.lists(st.none() | st.integers(0, 9), min_size=1), min_size=1, max_size=4))
@settings(deadline=None)
def test_codes_round_trip(codes: list[list[int | None]]) -> None:
    codes[0][0] = 3
    arrays = [np.array([NAN if c is None else c for c in one], dtype=float) for one in codes]
    data = Sequences.from_arrays(arrays, codes=True)
    assert data.is_codes
    assert data.values.dtype == torch.int64
    assert data.values.shape == data.mask.shape == (len(codes), max(map(len, codes)))
    assert data.features == ("code",)
    assert data.n_features == 1
    complete = all(c is not None for one in codes for c in one)
    for one, other in zip(arrays, data.arrays(), strict=True):
        assert other.dtype == (np.int64 if complete else np.float64)
        np.testing.assert_array_equal(one, other)
    assert_same(data, Sequences.from_arrays(data.arrays(), codes=True))
    assert torch.equal(data.codes(), data.values)
    assert torch.equal(Sequences.from_arrays(arrays).codes(), data.values)


@given(arrays=ragged(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_every_constructor_reads_the_same_data(arrays: list[Array], seed: int) -> None:
    n, t, f = len(arrays), max(len(a) for a in arrays), arrays[0].shape[1]
    names = [f"s{i}" for i in range(n)]
    data = Sequences.from_arrays(
        arrays, times=[np.arange(len(a)) for a in arrays], labels=names, features=range(f)
    )
    padded = np.full((n, t, f), 1e30)  # whatever lies in the padding is void
    rows = []
    for i, array in enumerate(arrays):
        padded[i, : len(array)] = array
        rows += [{"id": names[i], "step": s, **dict(enumerate(x))} for s, x in enumerate(array)]
    lengths = [len(a) for a in arrays]
    time, kwargs = np.arange(t), {"labels": names}
    assert_same(data, Sequences.from_array(padded, lengths, times=time, **kwargs))
    tensors = torch.tensor(padded), None, torch.tensor(lengths)
    assert_same(data, Sequences.from_tensors(*tensors, times=torch.tensor(time), **kwargs))

    order = np.random.default_rng(seed).permutation(len(rows))
    frame = pd.DataFrame(rows).iloc[order]
    long = Sequences.from_frame(frame, sequence="id", time="step")
    appearance = list(dict.fromkeys(frame["id"]))
    assert long.labels == tuple(appearance)
    assert_same(data, long[[appearance.index(name) for name in names]])

    coords = {"who": names, "step": time, "channel": [str(i) for i in range(f)]}
    array = xr.DataArray(padded, coords, dims=("who", "step", "channel"))
    dims = {"sequence": "who", "time": "step", "feature": "channel"}
    turned = array.transpose("channel", "step", "who")
    assert_same(data, Sequences.from_xarray(turned, lengths=lengths, **dims))

    first = Sequences.from_arrays([a[:, :1] for a in arrays]) if f > 1 else data
    wide = pd.DataFrame(padded[..., 0], index=names)
    read = Sequences.from_frame(wide, layout="wide", lengths=lengths)
    assert torch.equal(read.values, first.values)
    assert torch.equal(read.mask, first.mask)
    assert torch.equal(read.times, data.times)  # type: ignore[arg-type]
    assert read.labels == tuple(names)


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        (np.float32, torch.float32),
        (np.float64, torch.float64),
        (np.float16, torch.float16),
        (np.dtype(">f8"), torch.float64),
        (np.longdouble, torch.float64),
        (np.int8, torch.float32),
        (np.uint16, torch.float32),
        (np.bool_, torch.float32),
    ],
)
def test_floats_keep_their_precision_and_whole_numbers_take_the_default(
    given_dtype: Any, kept: torch.dtype
) -> None:
    array = np.array([[1, 0], [1, 1]], dtype=given_dtype)
    for data in (Sequences.from_arrays(list(array)), Sequences.from_array(array)):
        assert data.values.dtype == kept
        assert data.values[..., 0].tolist() == [[1, 0], [1, 1]]
    torch.set_default_dtype(torch.float64)
    assert Sequences.from_array([[1, 2]]).values.dtype == torch.float64
    assert Sequences.from_tensors(torch.ones(2, 2, dtype=torch.bfloat16)).arrays()[0].sum() == 2


def test_shapes_of_one_array() -> None:
    numbers = np.arange(6.0)
    assert Sequences.from_array(numbers).values.shape == (1, 6, 1)
    assert Sequences.from_array(numbers.reshape(2, 3)).values.shape == (2, 3, 1)
    assert Sequences.from_array(numbers.reshape(1, 2, 3)).values.shape == (1, 2, 3)
    assert Sequences.from_arrays(numbers.reshape(2, 3)).values.shape == (2, 3, 1)
    assert Sequences.from_array(numbers.reshape(2, 3, 1), codes=True).values.shape == (2, 3)
    one = Sequences.from_array(numbers, times=numbers, inputs=numbers[:, None] * [1, 2])
    assert one.inputs is not None
    assert one.inputs.shape == (1, 6, 2)
    view = numbers[::-1]
    view.flags.writeable = False
    assert Sequences.from_array(view).values.flatten().tolist() == [5, 4, 3, 2, 1, 0]


def test_data_are_copied() -> None:
    array, tensor = np.ones((2, 3)), torch.ones(2, 3)
    lengths, times = torch.tensor([3, 2]), torch.zeros(2, 3, dtype=torch.float64)
    kept = [
        Sequences.from_array(array),
        Sequences.from_arrays(list(array)),
        Sequences.from_tensors(tensor, lengths=lengths, times=times),
    ]
    array[:], tensor[:], lengths[:], times[:] = 7, 7, 1, 7
    assert all(data.values.max() == 1 for data in kept)
    assert kept[-1].lengths.tolist() == [3, 2]
    assert kept[-1].times is not None
    assert kept[-1].times.max() == 0


def test_mask_and_nan_both_mean_missing_and_hide_whatever_stands_there() -> None:
    values = torch.tensor([[[1.0, INF], [NAN, 2.0]], [[3.0, 4.0], [-INF, NAN]]])
    mask = torch.tensor([[[True, False], [True, True]], [[True, True], [False, False]]])
    data = Sequences.from_tensors(values, mask)
    assert data.mask.tolist() == [[[True, False], [False, True]], [[True, True], [False, False]]]
    assert data.values.tolist() == [[[1, 0], [0, 2]], [[3, 4], [0, 0]]]
    steps = Sequences.from_array([[[1.0, 2.0], [3.0, 4.0]]], mask=[[False, True]])
    assert steps.observed_steps.tolist() == [[False, True]]
    masked = Sequences.from_array(np.ma.masked_array([1, 2, 3], [False, True, False]))
    assert masked.mask.flatten().tolist() == [True, False, True]
    series = [pd.Series([1, 2]), pd.Series(pd.array([3, None, 5], dtype="Int64"))]
    np.testing.assert_array_equal(Sequences.from_arrays(series).arrays()[1][:, 0], [3, NAN, 5])


def test_one_sequence_without_observations_is_allowed() -> None:
    data = Sequences.from_arrays([[1.0, 2.0], [NAN, NAN, NAN]])
    assert data[1].n_observed == 0
    assert data[1].n_steps == 3
    assert "100 % missing" in data[1].summary()


def test_padding_of_what_goes_along() -> None:
    data = small()
    assert data.times is not None
    assert data.actions is not None
    assert data.inputs is not None
    assert data.times.tolist() == [[0, 1.5, 1.5, 1.5], [1, 2, 2, 5], [3, 3, 3, 3]]
    assert data.actions.tolist() == [[0, 1, 0, 0], [2, 0, 1, 1], [0, 0, 0, 0]]
    assert data.inputs[..., 0].tolist() == [[0.5, 1.5, 0, 0], [1, 2, 3, 4], [9, 0, 0, 0]]


# Frames


def test_long_frame_with_every_role() -> None:
    frame = pd.DataFrame(
        {
            "who": ["b", "a", "b", "a", "b"],
            "when": [2, 1, 0, 0, 1],
            "x": [2.0, 11.0, 0.0, 10.0, NAN],
            "n": pd.array([1, 2, None, 4, 5], dtype="Int64"),
            "a": [2, 1, 0, 0, 1],
            "u": [0.2, 0.1, 0.0, 0.0, 0.1],
        }
    )
    roles: dict[str, Any] = {"sequence": "who", "time": "when", "action": "a", "inputs": "u"}
    data = Sequences.from_frame(frame, **roles)
    assert data.labels == ("b", "a")
    assert data.features == ("x", "n")
    np.testing.assert_array_equal(data.arrays()[0], [[0.0, NAN], [NAN, 5.0], [2.0, 1.0]])
    np.testing.assert_array_equal(data.arrays()[1], [[10.0, 4.0], [11.0, 2.0]])
    assert data.times is not None
    assert data.actions is not None
    assert data.inputs is not None
    assert data.times.tolist() == [[0, 1, 2], [0, 1, 1]]
    assert data.actions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert data.inputs.shape == (2, 3, 1)
    assert_same(data, Sequences.from_frame(frame.set_index(["who", "when"]), **roles))
    chosen = Sequences.from_frame(frame, columns="n")
    assert chosen.labels == ("0",)
    assert chosen.times is None
    assert chosen.arrays()[0][:, 0].tolist()[3:] == [4, 5]


def test_columns_of_different_types_meet_in_one() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [True, False], "c": [0.5, NAN]})
    np.testing.assert_array_equal(
        Sequences.from_frame(frame).arrays()[0], [[1, 1, 0.5], [2, 0, NAN]]
    )


def test_rows_of_equal_time_keep_their_order() -> None:
    frame = pd.DataFrame({"t": [1, 0, 1, 0] * 8, "x": np.arange(32.0)})
    values = Sequences.from_frame(frame, time="t").arrays()[0][:, 0]
    expected = [x for t in (0, 1) for x in range(32) if [1, 0, 1, 0][x % 4] == t]
    assert values.tolist() == expected


@pytest.mark.parametrize("zone", [None, "America/Toronto"])
def test_datetimes_become_days_since_the_first_of_the_data_set(zone: str | None) -> None:
    stamps = pd.DatetimeIndex(["2020-01-02T12", "2020-01-01T00", "2020-01-04T00"], tz=zone)
    frame = pd.DataFrame({"id": [1, 2, 1], "t": stamps, "x": [1.0, 2.0, 3.0]})
    data = Sequences.from_frame(frame, sequence="id", time="t")
    assert data.labels == ("1", "2")
    assert data.times is not None
    assert data.times.tolist() == [[1.5, 3.0], [0.0, 0.0]]
    wide = pd.DataFrame([[1.0, 2.0]], columns=pd.DatetimeIndex(stamps[[1, 0]]))
    times = Sequences.from_frame(wide, layout="wide").times
    assert times is not None
    assert times.tolist() == [[0.0, 1.5]]
    spans = pd.DataFrame({"t": pd.to_timedelta(["36h", "12h"]), "x": [1.0, 2.0]})
    times = Sequences.from_frame(spans, time="t").times
    assert times is not None
    assert times.tolist() == [[0.5, 1.5]]


def test_categorical_column_brings_its_symbols() -> None:
    frame = pd.DataFrame({"x": pd.Series(["rain", None, "dry", "rain"], dtype="category")})
    data = Sequences.from_frame(frame, codes=True)
    assert data.symbols == ("dry", "rain")
    np.testing.assert_array_equal(data.arrays()[0], [1, NAN, 0, 1])


def test_nullable_integer_codes() -> None:
    frame = pd.DataFrame({"x": pd.array([2, None, 0], dtype="Int64")})
    data = Sequences.from_frame(frame, codes=True, symbols=["a", "b", "c"])
    assert data.mask.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.uint8, torch.uint16, torch.int8, torch.int32],
)
def test_codes_of_every_number_type(dtype: torch.dtype) -> None:
    data = Sequences.from_tensors(torch.tensor([[0, 2, 1]], dtype=dtype), codes=True)
    assert data.values.tolist() == [[0, 2, 1]]
    if dtype.is_floating_point:
        with pytest.raises(ValueError, match="got inf"):
            Sequences.from_tensors(torch.tensor([[0, INF]], dtype=dtype), codes=True)


def test_wide_frame_names_and_columns() -> None:
    frame = pd.DataFrame({"id": ["u", "v"], "w1": [1, 2], "w2": [3, 4], "note": ["", ""]})
    wide = {"layout": "wide", "columns": ["w2", "w1"]}
    data = Sequences.from_frame(frame, **wide, sequence="id", steps="columns")
    assert data.labels == ("u", "v")
    assert data.times is None
    assert data.values[..., 0].tolist() == [[3, 1], [4, 2]]


def test_xarray_without_coordinates_or_sequence() -> None:
    data = Sequences.from_xarray(
        xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("time", "feature"))
    )
    assert data.values.shape == (1, 3, 2)
    assert data.times is None
    dated = xr.DataArray(
        [[1, 2]], {"time": pd.to_datetime(["2020-01-01", "2020-01-03"])}, ("sequence", "time")
    )
    times = Sequences.from_xarray(dated, codes=True).times
    assert times is not None
    assert times.tolist() == [[0.0, 2.0]]


# Text


@given(strings=st.lists(st.text("ab \U0001f600", min_size=1), min_size=1, max_size=4))
@settings(deadline=None)
def test_text_round_trip(strings: list[str]) -> None:
    assume(len(strings) == 1 or max(map(len, strings)) > 1)
    data = Sequences.from_text(strings, alphabet=" ab\U0001f600")
    symbols = data.symbols
    assert symbols == (" ", "a", "b", "\U0001f600")
    assert ["".join(symbols[c] for c in array) for array in data.arrays()] == strings


@given(strings=st.lists(st.text(min_size=1), min_size=1, max_size=4))
@settings(deadline=None)
def test_unknown_characters_are_missing_or_refused(strings: list[str]) -> None:
    strings[0] += "b"
    data = Sequences.from_text(strings, alphabet="ba", unknown="missing")
    for text, array in zip(strings, data.arrays(), strict=True):
        np.testing.assert_array_equal(array, [{"b": 0, "a": 1}.get(c, NAN) for c in text])
    place = [
        (n, i, c) for n, text in enumerate(strings) for i, c in enumerate(text) if c not in "ab"
    ]
    if place:
        n, i, character = place[0]
        with pytest.raises(ValueError, match=r"alphabet") as error:
            Sequences.from_text(strings, alphabet="ba")
        assert f"{character!r} at position {i} of strings[{n}]" in str(error.value)


def test_single_string_is_one_sequence() -> None:
    assert Sequences.from_text("to be").codes().tolist() == [[19, 14, 26, 1, 4]]


# Bad input


FRAME = pd.DataFrame({"id": [1, 1], "t": [0, 1], "x": [1.0, 2.0], "name": ["p", "q"]})
BAD: dict[str, tuple[Any, str]] = {
    "empty batch": (lambda: Sequences.from_arrays([]), "arrays must hold at least one array"),
    "zero length": (lambda: Sequences.from_arrays([[1.0], []]), r"arrays\[1\].*at least one step"),
    "scalar items": (lambda: Sequences.from_arrays([1.0, 2.0]), r"arrays\[0\].*got \(\)"),
    "rank 3 item": (lambda: Sequences.from_arrays([np.ones((1, 2, 3))]), r"got \(1, 2, 3\)"),
    "feature counts": (
        lambda: Sequences.from_arrays([np.ones((2, 2)), np.ones((2, 3))]),
        r"columns; got 2 in arrays\[0\] and 3 in arrays\[1\]",
    ),
    "objects": (
        lambda: Sequences.from_arrays([[1.0], [object]]),
        r"arrays\[1\].*numbers; got <class",
    ),
    "words": (lambda: Sequences.from_arrays([["a", "b"]]), r"arrays\[0\] must hold numbers"),
    "complex": (lambda: Sequences.from_array([1j]), "complex128"),
    "complex tensor": (lambda: Sequences.from_tensors(torch.ones(2) * 1j), "complex64"),
    "array for tensor": (lambda: Sequences.from_tensors(np.ones(3)), "torch.Tensor; got ndarray"),
    "ragged array": (lambda: Sequences.from_array([[1.0, 2.0], [3.0]]), "rectangular"),
    "frame as list": (lambda: Sequences.from_arrays(FRAME), "list of arrays; got DataFrame"),
    "rank 4": (lambda: Sequences.from_array(np.ones((1, 1, 1, 1))), r"got \(1, 1, 1, 1\)"),
    "no features": (lambda: Sequences.from_array(np.ones((2, 3, 0))), r"got \(2, 3, 0\)"),
    "no sequences": (lambda: Sequences.from_array(np.ones((0, 3))), r"got \(0, 3\)"),
    "all missing": (lambda: Sequences.from_arrays([[NAN], [NAN, NAN]]), "all are missing"),
    "all masked": (
        lambda: Sequences.from_array([1.0, 2.0], mask=[False, False]),
        "all are missing",
    ),
    "label count": (lambda: Sequences.from_arrays([[1.0]] * 2, labels=["p"]), "2 names; got 1"),
    "infinite": (
        lambda: Sequences.from_arrays([[[1.0, 2.0]], [[3.0, 4.0], [5.0, -INF]]], labels=["p", "q"]),
        r"finite.*got -inf in sequence 1 \('q'\), step 1, feature 1",
    ),
    "lengths beyond": (
        lambda: Sequences.from_array(np.ones((2, 3)), [3, 4]),
        r"lengths must lie in 1\.\.3.*got 4 for sequence 1",
    ),
    "length 0": (lambda: Sequences.from_array(np.ones((2, 3)), [0, 1]), "got 0 for sequence 0"),
    "lengths count": (lambda: Sequences.from_array(np.ones((2, 3)), [3]), r"shape \(2,\)"),
    "lengths float": (lambda: Sequences.from_array(np.ones((2, 3)), [3.0, 3.0]), "float64"),
    "mask shape": (
        lambda: Sequences.from_array(np.ones((2, 3)), mask=np.ones((3, 2), bool)),
        r"mask must be bool of shape \(2, 3, 1\) or \(2, 3\)",
    ),
    "mask dtype": (lambda: Sequences.from_array(np.ones((1, 3)), mask=[[1, 0, 1]]), "int64"),
    "negative code": (
        lambda: Sequences.from_arrays([[0, 1, -1]], codes=True),
        "codes must be whole numbers.*got -1 in sequence 0, step 2",
    ),
    "fractional code": (lambda: Sequences.from_arrays([[0, 1.5]], codes=True), "got 1.5"),
    "infinite code": (lambda: Sequences.from_arrays([[0, INF]], codes=True), "got inf"),
    "code without symbol": (
        lambda: Sequences.from_arrays([[0, 3]], codes=True, symbols=["a", "b", "c"]),
        "below 3, the number of symbols; got 3",
    ),
    "codes of two features": (
        lambda: Sequences.from_array(np.ones((1, 2, 2)), codes=True),
        "got 2 features",
    ),
    "symbols of numbers": (lambda: Sequences.from_arrays([[1.0]], symbols=["a"]), "symbols name"),
    "symbols twice": (
        lambda: Sequences.from_arrays([[1]], codes=True, symbols=["a", "a"]),
        "symbols must all be different; got 'a'",
    ),
    "labels twice": (lambda: Sequences.from_arrays([[1.0]] * 2, labels=[1, "1"]), "different"),
    "labels as a string": (
        lambda: Sequences.from_arrays([[1.0]] * 2, labels="ab"),
        "list of names",
    ),
    "feature names": (
        lambda: Sequences.from_arrays([[1.0]], features=["a", "b"]),
        "1 names; got 2",
    ),
    "times falling": (
        lambda: Sequences.from_arrays([[1.0, 2.0]], times=[[1, 0]]),
        "times must not decrease in a sequence; got 0.0 in sequence 0",
    ),
    "times missing": (
        lambda: Sequences.from_arrays([[1.0]], times=[[NAN]]),
        "times must be finite",
    ),
    "times length": (
        lambda: Sequences.from_arrays([[1.0, 2.0]], times=[[0.0]]),
        r"times\[0\] must have 2 steps; got 1",
    ),
    "times count": (lambda: Sequences.from_arrays([[1.0]], times=[[0], [0]]), "1 arrays.*got 2"),
    "times rank": (
        lambda: Sequences.from_array(np.ones((2, 3)), times=np.ones((2, 3, 2))),
        r"times must have shape \(2, 3\)",
    ),
    "negative action": (lambda: Sequences.from_arrays([[1.0]], actions=[[-1]]), "actions.*got -1"),
    "missing action": (lambda: Sequences.from_arrays([[1.0]], actions=[[NAN]]), "actions.*got nan"),
    "fractional action": (lambda: Sequences.from_arrays([[1.0]], actions=[[0.5]]), "got 0.5"),
    "missing input": (lambda: Sequences.from_arrays([[1.0]], inputs=[[NAN]]), "inputs must be fin"),
    "input shape": (
        lambda: Sequences.from_array(np.ones((2, 3)), inputs=np.ones((3, 2))),
        r"inputs must have shape \(2, 3\) or \(2, 3, 'U'\)",
    ),
    "not a frame": (lambda: Sequences.from_frame([1]), "pandas DataFrame; got list"),
    "layout": (lambda: Sequences.from_frame(FRAME, layout="tall"), "'long' or 'wide'; got 'tall'"),
    "absent column": (lambda: Sequences.from_frame(FRAME, time="T"), "column 'T'; got"),
    "column of words": (
        lambda: Sequences.from_frame(FRAME, sequence="id", time="t"),
        r"'name' must hold numbers; got 'p' \(.*\['name'\].map\({'p': 0, 'q': 1}\); codes=True",
    ),
    "time of words": (
        lambda: Sequences.from_frame(FRAME, time="name", columns="x"),
        "column 'name' must hold numbers",
    ),
    "two roles": (lambda: Sequences.from_frame(FRAME, time="t", columns="t"), "one role only"),
    "same columns": (
        lambda: Sequences.from_frame(pd.DataFrame([[1, 2]], columns=["x", "x"])),
        "must be unique",
    ),
    "no columns": (lambda: Sequences.from_frame(FRAME, columns=[]), "at least one column"),
    "no rows": (lambda: Sequences.from_frame(FRAME[:0], columns="x"), "at least one row"),
    "no sequence": (
        lambda: Sequences.from_frame(FRAME.assign(id=[1, NAN]), sequence="id", columns="x"),
        "column 'id' must not be missing; got NaN at row 1",
    ),
    "no time": (
        lambda: Sequences.from_frame(FRAME.assign(t=[NAN, 1]), time="t", columns="x"),
        "column 't' must not be missing; got NaN at row 0",
    ),
    "no datetime": (
        lambda: Sequences.from_frame(
            FRAME.assign(t=pd.to_datetime(["2020-01-01", None])), time="t", columns="x"
        ),
        "got NaT at row 1",
    ),
    "lengths of a long frame": (
        lambda: Sequences.from_frame(FRAME, columns="x", lengths=[2]),
        "lengths has no meaning with layout='long'",
    ),
    "time of a wide frame": (
        lambda: Sequences.from_frame(FRAME, layout="wide", time="t", columns="x"),
        "time has no meaning with layout='wide'",
    ),
    "categories": (
        lambda: Sequences.from_frame(FRAME.astype({"name": "category"}), columns=["x", "name"]),
        r"'name' must hold numbers; got 'p' \(.*\['name'\].map\({'p': 0, 'q': 1}\); codes=True",
    ),
    "not a DataArray": (lambda: Sequences.from_xarray(np.ones(3)), "got ndarray with dimensions"),
    "foreign dimension": (
        lambda: Sequences.from_xarray(xr.DataArray(np.ones((1, 2)), dims=("time", "site"))),
        r"got DataArray with dimensions \('time', 'site'\)",
    ),
    "unsorted coordinate": (
        lambda: Sequences.from_xarray(xr.DataArray([1.0, 2.0], {"time": [2, 1]}, ("time",))),
        "times must not decrease",
    ),
    "character": (
        lambda: Sequences.from_text(["ok", "not OK"]),
        r"got 'O' at position 4 of strings\[1\]",
    ),
    "first character": (
        lambda: Sequences.from_text(["ok", "?"]),
        r"got '\?' at position 0 of strings\[1\]",
    ),
    "empty string": (lambda: Sequences.from_text(["a", ""]), r"strings\[1\].*got ''"),
    "no strings": (lambda: Sequences.from_text([]), "at least one string"),
    "not strings": (lambda: Sequences.from_text([1]), r"strings\[0\].*got 1"),
    "alphabet": (lambda: Sequences.from_text(["a"], alphabet=["ab"]), "single characters"),
    "alphabet twice": (lambda: Sequences.from_text(["a"], alphabet="aa"), "symbols must all be"),
    "unknown": (lambda: Sequences.from_text(["a"], unknown="skip"), "'error' or 'missing'"),
    "several features to codes": (lambda: small().codes(), "single feature; got 2"),
    "numbers to codes": (
        lambda: Sequences.from_arrays([[1, 2.5]]).codes(),
        "got 2.5 in sequence 0",
    ),
    "integer dtype": (lambda: small().to(dtype=torch.int64), "floating type; got torch.int64"),
    "overflow": (
        lambda: Sequences.from_arrays([[1e300]]).to(dtype=torch.float32),
        "values must be finite.*got inf",
    ),
    "batch size": (lambda: small().batches(0), "size must be .* at least 1; got 0"),
    "seed for generator": (
        lambda: small().batches(1, generator=0),
        "torch.Generator or None; got 0",
    ),
    "empty index": (lambda: small()[[]], "at least one of 3 sequences"),
    "short bools": (lambda: small()[torch.tensor([True, False])], "3 bools"),
    "index of words": (lambda: small()[["a"]], "positions or 3 bools"),
    "split beyond": (lambda: small().split([2, 2], seed=0), "sum to at most 3"),
    "fractions beyond": (lambda: small().split([0.8, 0.4], seed=0), "sum to at most 1"),
    "negative fraction": (lambda: small().split([1.2, -0.2], seed=0), "must be positive"),
    "fraction nan": (lambda: small().split([NAN], seed=0), "must be positive"),
    "empty part": (lambda: small().split([0.9, 0.1], seed=0), "each hold a sequence"),
    "split by one number": (lambda: small().split(0.5, seed=0), "list of fractions or of counts"),
    "split by bools": (lambda: small().split([True], seed=0), "list of fractions or of counts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    build, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        build()


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "values rank": ({"values": torch.ones(3, 4)}, "values must be floating"),
    "values dtype": ({"values": torch.ones(3, 4, 2, dtype=torch.int64)}, "values must be floating"),
    "values none": ({"values": None}, "values must be a real torch.Tensor"),
    "mask": ({"mask": torch.ones(3, 4, dtype=torch.bool)}, "mask must be torch.bool of shape"),
    "mask beyond": ({"lengths": torch.tensor([1, 4, 1])}, "False beyond lengths; got True"),
    "under the mask": ({"values": torch.ones(3, 4, 2)}, "values must be 0 where mask is False"),
    "lengths dtype": ({"lengths": torch.ones(3, dtype=torch.int32)}, "lengths must be torch.int64"),
    "lengths": ({"lengths": torch.tensor([2, 5, 1])}, r"lie in 1\.\.4.*got 5 for sequence 1"),
    "times": ({"times": torch.zeros(3, 4)}, "times must be torch.float64"),
    "actions": ({"actions": torch.full((3, 4), -1)}, "actions must be 0, 1, 2"),
    "inputs": ({"inputs": torch.zeros(3, 4)}, "inputs must be floating"),
    "inputs shape": ({"inputs": torch.zeros(3, 5, 1)}, r"of shape \(3, 4, 1\)"),
    "labels": ({"labels": ("a", "b", "a")}, "labels must all be different; got 'a'"),
    "symbols": ({"symbols": ("a",)}, "symbols name integer codes"),
    "device": ({"actions": torch.zeros(3, 4, device="meta")}, "actions must be on cpu"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_plain_constructor_checks_every_field(case: str) -> None:
    fields, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small(), **fields)


def test_plain_constructor_of_codes_checks_range() -> None:
    codes = torch.tensor([[0, 2]])
    mask, lengths = torch.ones(1, 2, dtype=torch.bool), torch.tensor([2])
    data = Sequences(values=codes, mask=mask, lengths=lengths)
    assert data.labels == ("0",)
    assert data.features == ("code",)
    with pytest.raises(ValueError, match="codes must be 0, 1, 2"):
        dataclasses.replace(data, values=-codes)


# Parts


@given(arrays=ragged(), picks=st.lists(st.integers(-5, 4), min_size=1, max_size=6))
@settings(deadline=None)
def test_index_agrees_with_picking_arrays(arrays: list[Array], picks: list[int]) -> None:
    data = Sequences.from_arrays(arrays)
    picks = [p for p in picks if -len(arrays) <= p < len(arrays)] or [0]
    chosen = [arrays[p] for p in picks]
    expected = Sequences.from_arrays(chosen) if np.isfinite(np.concatenate(chosen)).any() else None
    for index in (picks, torch.tensor(picks), np.array(picks)):
        part = data[index]
        assert part.max_length == max(len(a) for a in chosen)
        for one, other in zip(chosen, part.arrays(), strict=True):
            np.testing.assert_array_equal(one, other)
        if expected is not None:
            assert_same(expected, part, names=False)
        assert len(set(part.labels)) == len(picks)
    dataclasses.replace(part)  # a part passes the checks of the whole


def test_kinds_of_index() -> None:
    data = small()
    assert data[1].labels == data[-2].labels == data[torch.tensor(1)].labels == ("b",)
    assert data[0].max_length == 2
    assert data[1:].labels == ("b", "c")
    assert data[::-1].labels == ("c", "b", "a")
    assert data[data.lengths < 3].labels == data[[True, False, True]].labels == ("a", "c")
    assert data[[0, 2, 0, 0]].labels == ("a", "c", "a (2)", "a (3)")
    assert data[[0, 0]][[0, 0, 1]].labels == ("a", "a (3)", "a (2)")
    assert [one.labels for one in data] == [("a",), ("b",), ("c",)]
    part = data[[2, 0]]
    assert part.times is not None
    assert part.times.tolist() == [[3, 3], [0, 1.5]]
    assert part.inputs is not None
    assert part.inputs.shape == (2, 2, 1)
    for index in (3, -4, [0, 3]):
        with pytest.raises(IndexError, match=r"-3\.\.2"):
            data[index]


@given(n=st.integers(1, 20), size=st.integers(1, 25), seed=st.none() | st.integers(0, 100))
@settings(deadline=None)
def test_batches_hold_every_sequence_once(n: int, size: int, seed: int | None) -> None:
    data = Sequences.from_arrays([np.full(1 + (3 * i) % 7, float(i)) for i in range(n)])

    def labels() -> list[tuple[str, ...]]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        batches = list(data.batches(size, generator=generator))
        assert all(b.max_length == b.lengths.max() for b in batches)
        assert all(b.values[i, 0, 0] == float(b.labels[i]) for b in batches for i in range(len(b)))
        return [b.labels for b in batches]

    first = labels()
    assert [len(b) for b in first] == [size] * (n // size) + ([n % size] if n % size else [])
    flat = [label for batch in first for label in batch]
    assert sorted(flat) == sorted(data.labels)
    assert flat == list(data.labels) or seed is not None
    assert labels() == first


def test_generator_goes_on_between_epochs() -> None:
    data = Sequences.from_array(np.arange(50.0)[:, None, None])
    generator = torch.Generator().manual_seed(0)
    first, second = (next(data.batches(50, generator=generator)).labels for _ in range(2))
    assert first != second


@given(n=st.integers(1, 40), cuts=st.lists(st.integers(1, 10), min_size=1, max_size=4))
@settings(deadline=None)
def test_split_by_counts_and_by_fractions(n: int, cuts: list[int]) -> None:
    n = max(n, sum(cuts))
    data = Sequences.from_array(np.arange(float(n))[:, None, None])
    parts = data.split(cuts, seed=1)
    assert [len(p) for p in parts] == cuts
    labels = [int(label) for part in parts for label in part.labels]
    assert len(set(labels)) == sum(cuts)
    for part in parts:
        assert [int(label) for label in part.labels] == part.values.flatten().tolist()
        assert list(part.labels) == sorted(part.labels, key=int)
    again = data.split([c / n for c in cuts], seed=1)
    assert [p.labels for p in again] == [p.labels for p in parts]


def test_split_depends_on_the_seed_and_leaves_nothing_out() -> None:
    data = Sequences.from_array(np.arange(100.0)[:, None, None])
    train, test = data.split([0.7, 0.3], seed=0)
    assert sorted(train.labels + test.labels) == sorted(data.labels)
    assert data.split([0.7, 0.3], seed=0)[0].labels == train.labels
    assert data.split([0.7, 0.3], seed=1)[0].labels != train.labels
    assert len(data.split([0.7, 0.2, 0.1], seed=0)[2]) == 10


# Conversions


def test_immutable_and_pickles() -> None:
    data = small()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.values = torch.zeros(1)  # type: ignore[misc]
    for twin in (pickle.loads(pickle.dumps(data)), copy.copy(data), copy.deepcopy(data)):
        assert_same(data, twin)
    assert data != copy.copy(data)  # compared by identity, hence usable as a key
    assert len({data, data}) == 1


def test_a_part_does_not_drag_the_whole_along() -> None:
    data = Sequences.from_array(np.zeros((1000, 50)))
    assert len(pickle.dumps(data[:2])) < 10_000


def test_to_changes_floating_numbers_only() -> None:
    data = small().to(dtype=torch.float32)
    assert data.values.dtype == torch.float32
    assert data.inputs is not None
    assert data.inputs.dtype == torch.float32
    assert data.times is not None
    assert data.times.dtype == torch.float64
    assert_same(data, small().to("cpu", torch.float32))
    assert_same(data, small().to(torch.float32))
    assert_same(small(), small().to("cpu"))
    codes = Sequences.from_text("abc")
    assert_same(codes, codes.to(dtype=torch.float16))
    assert small().to("meta").mask.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu_all_is_the_same() -> None:
    data = small()
    there = data.to("cuda")
    assert_same(data[[2, 0]], there[[2, 0]].to("cpu"))
    assert there.summary() == data.summary()
    assert [b.labels for b in there.batches(2)] == [("a", "b"), ("c",)]
    values = torch.ones(2, 3, device="cuda")
    built = Sequences.from_tensors(values, lengths=torch.tensor([3, 1]))
    assert built.mask.is_cuda
    assert built.lengths.is_cuda


def test_summary_and_repr() -> None:
    data = small()
    assert repr(data) == (
        "Sequences(n_sequences=3, max_length=4, n_features=2, n_steps=7, n_observed=11, float64)"
    )
    lines = data.summary().splitlines()
    assert lines[0] == "3 sequences, 7 steps; length min 1, median 2, max 4"
    assert lines[1] == "2 features, 21.4 % missing"
    assert lines[2:5] == ["times 0 to 5, steps 0 to 3 apart", "3 actions", "1 inputs"]
    x = [1, 2, 4, 4, 4, 6]
    row = lines[6].split()
    assert row[0] == "x"
    assert [float(cell) for cell in row[1:5]] == [3.5, float(f"{np.std(x):.4g}"), 1, 6]
    assert row[5:] == ["14.3", "%"]
    text = Sequences.from_text(["a bb"]).summary()
    assert text.endswith("3 codes met: 'b' 50 %, 'a' 25 %, ' ' 25 %")
    assert (
        Sequences.from_array([10**15], codes=True)
        .summary()
        .endswith("1 codes met: 1000000000000000 100 %")
    )
    assert repr(Sequences.from_text("ab")).endswith("codes)")


def test_summary_of_many_features_and_of_one_never_seen() -> None:
    array = np.ones((2, 3, 20))
    array[..., 0] = NAN
    lines = Sequences.from_array(array).summary().splitlines()
    assert lines[3].split() == ["0", "-", "-", "-", "-", "100", "%"]
    assert lines[-1] == "… and 8 more features"


# Whole numbers that floating ones do not have


def test_whole_numbers_come_in_exactly() -> None:
    """In float32 these three are one number, 1 500 000 000."""
    given = np.array([1_500_000_001, 1_500_000_050, 1_500_000_090])
    for data in (
        Sequences.from_arrays([given], inputs=[given]),
        Sequences.from_array(given[None], inputs=given[None]),
        Sequences.from_tensors(torch.from_numpy(given), inputs=torch.from_numpy(given)),
        Sequences.from_frame(pd.DataFrame({"y": given, "u": given}), columns="y", inputs="u"),
    ):
        assert data.inputs is not None
        assert data.values.flatten().tolist() == given.tolist()
        assert data.inputs.flatten().tolist() == given.tolist()
    assert Sequences.from_arrays([[1, 2**24]]).values.dtype == torch.float32


def test_times_in_nanoseconds_are_exact_or_refused() -> None:
    first = 1_700_000_000 * 10**9
    seconds = np.array([first, first + 10**9, first + 3 * 10**9])
    data = Sequences.from_array(np.ones((1, 3)), times=seconds)
    assert data.times is not None
    assert [int(time) for time in data.times[0]] == seconds.tolist()
    near = np.array([first, first + 1, first + 3])
    assert Sequences.from_array(np.ones((1, 3)), times=near - first).times is not None
    with pytest.raises(ValueError, match=r"times must be exact .*subtract the first time"):
        Sequences.from_array(np.ones((1, 3)), times=near)
    with pytest.raises(ValueError, match=r"'t' must be exact .*subtract the first time"):
        Sequences.from_frame(pd.DataFrame({"t": near, "y": [1.0, 2, 3]}), time="t")


LOST = 2**53 + 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Sequences.from_arrays([[1, LOST]]), "values"),
        (lambda: Sequences.from_arrays([[1.5], [LOST]]), r"arrays\[1\]"),
        (lambda: Sequences.from_array(np.array([[1, 2**64 - 1]], np.uint64)), "array"),
        (lambda: Sequences.from_array(np.ma.masked_equal([[0, LOST]], 0)), "array"),
        (lambda: Sequences.from_arrays([[1.5]], inputs=[[-LOST]]), "inputs"),
        (lambda: Sequences.from_arrays([[1.5]], rewards=[[LOST]]), "rewards"),
        (
            lambda: Sequences.from_frame(pd.DataFrame({"y": pd.array([LOST, None], "Int64")})),
            "column 'y'",
        ),
    ],
)
def test_whole_numbers_that_float64_does_not_have_are_refused(
    make: Callable[[], Sequences], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be exact in float64.*; got -?\d+"):
        make()


def test_whole_numbers_beyond_a_length_do_not_matter() -> None:
    given = torch.tensor([[1, 2, LOST], [3, 4, 5]])
    data = Sequences.from_tensors(given, lengths=torch.tensor([2, 3]), times=given)
    assert data.values.dtype == torch.float32
