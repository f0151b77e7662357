"""What comes in is read as it is meant, or refused with the way out."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from beliefzoo.models import Gaussian, HiddenMarkovModel, Sequences, write_folder

Y = np.array([0.5, 1.5, 2.5])
DAYS = ["2026-03-01", "2026-03-02", "2026-03-05"]
STAMPS = pd.DatetimeIndex(DAYS)

# A column


@pytest.mark.parametrize(
    "read",
    [
        lambda: Sequences.from_array(Y[:, None]),
        lambda: Sequences.from_array([[0.5], [1.5], [2.5]]),
        lambda: Sequences.from_arrays(Y[:, None]),
        lambda: Sequences.from_arrays(torch.tensor(Y)[:, None]),
        lambda: Sequences.from_tensors(torch.tensor(Y)[:, None]),
        lambda: Sequences.from_tensors(torch.tensor([[0], [1]]), codes=True),
        lambda: Sequences.from_frame(pd.DataFrame({"y": Y}), layout="wide"),
        lambda: Sequences.from_text(["a", "b", "c"]),
    ],
)
def test_a_column_is_refused_with_both_readings(read: Callable[[], object]) -> None:
    with pytest.raises(
        ValueError, match=r"one sequence.*(2|3) sequences of one|each of the 3 rows"
    ):
        read()


def test_a_column_is_not_written_as_sequences(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"\[sequences\], a list of it alone\) or 3 sequences of one"
    ):
        write_folder(Y[:, None], tmp_path / "folder")


def test_both_readings_of_a_column_are_there() -> None:
    tensor = torch.tensor(Y)
    one = [
        Sequences.from_array(Y),
        Sequences.from_array(Y[None]),
        Sequences.from_arrays([Y[:, None]]),
        Sequences.from_frame(pd.DataFrame({"y": Y})),
        Sequences.from_frame(pd.DataFrame({"y": Y}), layout="wide", steps="rows"),
        Sequences.from_text("abc"),
    ]
    many = [
        Sequences.from_array(Y[:, None, None]),
        Sequences.from_array(Y[:, None], lengths=[1, 1, 1]),
        Sequences.from_arrays(list(Y[:, None])),
        Sequences.from_tensors(tensor[:, None, None]),
        Sequences.from_frame(pd.DataFrame({"y": Y}), layout="wide", steps="columns"),
        Sequences.from_xarray(xr.DataArray(Y[:, None], dims=("sequence", "time"))),
        Sequences.from_arrays([["a"], ["b"], ["c"]], codes=True),
    ]
    assert [data.lengths.tolist() for data in one] == [[3]] * len(one)
    assert [data.lengths.tolist() for data in many] == [[1, 1, 1]] * len(many)


# Wide frames

PRICES = pd.DataFrame({"AAA": [1.0, 2, 3], "BBB": [4.0, 5, 6]}, index=STAMPS)


@pytest.mark.parametrize("index", [STAMPS, STAMPS.to_period("D"), DAYS, [d.date() for d in STAMPS]])
def test_a_wide_frame_with_dates_in_its_rows_asks(index: Any) -> None:
    frame = PRICES.set_axis(pd.Index(index))
    with pytest.raises(
        ValueError, match=r"steps='columns' reads each of the 3 rows .* steps='rows'"
    ):
        Sequences.from_frame(frame, layout="wide")
    data = Sequences.from_frame(frame, layout="wide", steps="rows")
    assert data.labels == ("AAA", "BBB")
    assert data.values[..., 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.times is not None
    assert data.times.diff().tolist() == [[1, 3]] * 2
    by_row = Sequences.from_frame(frame, layout="wide", steps="columns")
    assert by_row.values[..., 0].tolist() == [[1, 4], [2, 5], [3, 6]]


def test_a_wide_frame_of_words_says_how_it_is_read() -> None:
    frame = pd.DataFrame({"first": [1.0, 2], "second": [3.0, 4]})
    with pytest.warns(UserWarning, match="steps='rows' .*Reading rows as sequences"):
        data = Sequences.from_frame(frame, layout="wide")
    assert data.values[..., 0].tolist() == [[1, 3], [2, 4]]
    years = pd.DataFrame({"FR": [1.0, 2], "DE": [3.0, 4]}, index=[1990, 1995])
    data = Sequences.from_frame(years, layout="wide", steps="rows")
    assert data.times is not None
    assert data.times.tolist() == [[1990, 1995]] * 2
    with pytest.raises(ValueError, match=r"array must be an array.*from_frame reads it"):
        Sequences.from_array(frame)


# Times


@pytest.mark.parametrize(
    "stamps",
    [
        STAMPS,
        STAMPS.tz_localize("Europe/Paris"),
        STAMPS.to_period("D"),
        pd.to_timedelta([3, 4, 7], "D"),
        pd.Index(DAYS),
        pd.Index([f"{day}T00:00:00Z" for day in DAYS]),
        pd.Index([datetime.date.fromisoformat(day) for day in DAYS], dtype=object),
    ],
    ids=lambda one: f"{type(one).__name__}-{one.dtype}",
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_dates_are_kept(stamps: Any, shuffled: bool) -> None:
    frame = pd.DataFrame({"y": Y}, index=stamps)
    column = pd.DataFrame({"y": Y, "when": stamps})
    if shuffled:
        frame, column = frame.iloc[[2, 0, 1]], column.iloc[[2, 0, 1]]
    for data in (Sequences.from_frame(frame), Sequences.from_frame(column, time="when")):
        assert data.times is not None
        assert (data.times - data.times[:, :1]).tolist() == [[0, 1, 4]]
        assert data.values.flatten().tolist() == Y.tolist()
        assert data.features == ("y",)


def test_dates_of_several_sequences_in_the_index() -> None:
    index = pd.MultiIndex.from_arrays([list("aab"), STAMPS], names=["who", None])
    frame = pd.DataFrame({"y": Y}, index=index)
    data = Sequences.from_frame(frame, sequence="who")
    assert data.times is not None
    assert data.times.tolist() == [[0, 1], [4, 4]]
    with pytest.raises(ValueError, match=r"levels of the index .* got levels \['who', None\]"):
        Sequences.from_frame(frame)


@pytest.mark.parametrize(
    "times",
    [
        [np.array(DAYS, "datetime64[D]"), np.array(["2026-03-11T12"], "datetime64[h]")],
        [DAYS, ["2026-03-11 12:00"]],
        [STAMPS, pd.DatetimeIndex(["2026-03-11 12:00"])],
        [list(STAMPS.date), [datetime.datetime(2026, 3, 11, 12)]],
        [pd.Series(STAMPS), pd.Series(pd.to_datetime(["2026-03-11 12:00"]))],
    ],
    ids=["datetime64", "strings", "index", "objects", "series"],
)
def test_dates_handed_over_as_times(times: Any) -> None:
    data = Sequences.from_arrays([Y, [1.0]], times=times)
    assert data.times is not None
    assert data.times.tolist() == [[0, 1, 4], [10.5] * 3]
    one = Sequences.from_array(Y, times=times[0])
    assert one.times is not None
    assert one.times.tolist() == [[0, 1, 4]]


def test_columns_with_dates_keep_them() -> None:
    series = pd.Series(Y, STAMPS)
    for data in (Sequences.from_arrays([series]), Sequences.from_array(series)):
        assert data.times is not None
        assert data.times.tolist() == [[0, 1, 4]]


def test_stamps_that_cannot_be_read_are_named() -> None:
    for wrong, message in (
        ([["2026-03-01", "2026-13-01", "x"]], r"times\[0\] must hold dates; got '2026-13-01'"),
        ([["now", "then", "never"]], r"times\[0\] must hold numbers or dates .*; got 'now'"),
        ([[1, 2, object]], r"times\[0\] must hold numbers"),
        ([[DAYS[0], DAYS[1], DAYS[2] + "T00:00Z"]], r"must all have a time zone or none; got both"),
    ):
        with pytest.raises(ValueError, match=message):
            Sequences.from_arrays([Y], times=wrong)
    with pytest.raises(ValueError, match="times must be finite"):
        Sequences.from_arrays([Y], times=[np.array([DAYS[0], "NaT", DAYS[2]], "datetime64[D]")])


# Gaps


def test_gaps_are_filled_on_request() -> None:
    frame = pd.DataFrame({"y": Y}, index=STAMPS)
    data = Sequences.from_frame(frame)
    with pytest.warns(UserWarning, match=r"steps that are 1 to 3 apart .*data\.filled"):
        HiddenMarkovModel(1, Gaussian()).check(data)
    assert "times 0 to 4, steps 1 to 3 apart" in data.summary()
    full = data.filled()
    assert "times 0 to 4\n" in full.summary()
    assert full.times is not None
    assert full.times.tolist() == [[0, 1, 2, 3, 4]]
    expected = frame.asfreq("D")["y"].to_numpy()
    np.testing.assert_array_equal(full.arrays()[0][:, 0], expected)
    HiddenMarkovModel(1, Gaussian()).check(full)  # warnings are errors
    months = pd.PeriodIndex(["2026-01", "2026-02", "2026-05"], freq="M")
    monthly = Sequences.from_frame(frame.set_axis(months)).filled()
    assert monthly.mask.flatten().tolist() == [True, True, False, False, True]


def test_filling_agrees_with_a_loop() -> None:
    generator = np.random.default_rng(0)
    places = [np.sort(generator.choice(30, n, replace=False)) for n in (1, 5, 12)]
    values = [generator.normal(size=(len(p), 2)) for p in places]
    data = Sequences.from_arrays(values, times=[7 + 0.25 * p for p in places])
    full = data.filled(0.25)
    for n, (place, value) in enumerate(zip(places, values, strict=True)):
        length = place[-1] - place[0] + 1
        expected = np.full((length, 2), np.nan)
        for p, row in zip(place, value, strict=True):
            expected[p - place[0]] = row
        np.testing.assert_array_equal(full.arrays()[n], expected)
        assert full.times is not None
        own = full.times[n, :length].numpy()
        np.testing.assert_allclose(own, 7 + 0.25 * np.arange(place[0], place[-1] + 1))
    assert dataclasses.replace(full).n_observed == data.n_observed  # it is checked again


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sequences.from_array(Y).filled(), "times must be there"),
        (lambda: Sequences.from_array(Y, times=[0, 1, 2.5]).filled(), r"grid of gap 1 .* got 2.5"),
        (lambda: Sequences.from_array(Y, times=[0, 0, 1]).filled(), "got 0.0 twice in sequence 0"),
        (lambda: Sequences.from_array(Y, times=[0, 1, 9]).filled(0), "every must be a number > 0"),
        (lambda: Sequences.from_array(Y, times=[0, 1, 9e9]).filled(), "at most 1000 steps"),
        (
            lambda: Sequences.from_array(Y, times=[0, 1, 9], actions=[0, 1, 0]).filled(),
            "actions must be known at every step",
        ),
    ],
)
def test_gaps_that_cannot_be_filled(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# Symbols and what is missing

WORDS = ["rain", None, "sun"]


@pytest.mark.parametrize(
    "read",
    [
        lambda **k: Sequences.from_arrays([WORDS], **k),
        lambda **k: Sequences.from_arrays([np.array(WORDS, object)], **k),
        lambda **k: Sequences.from_arrays([pd.Series(WORDS)], **k),
        lambda **k: Sequences.from_arrays([pd.Series(WORDS, dtype="category")], **k),
        lambda **k: Sequences.from_array(WORDS, **k),
        lambda **k: Sequences.from_array([WORDS], **k),
        lambda **k: Sequences.from_frame(pd.DataFrame({"w": WORDS}), **k),
        lambda **k: Sequences.from_frame(pd.DataFrame({"w": WORDS}, dtype="string"), **k),
        lambda **k: Sequences.from_frame(pd.DataFrame({"w": WORDS}, dtype="category"), **k),
        lambda **k: Sequences.from_frame(pd.DataFrame([WORDS]), layout="wide", **k),
        lambda **k: Sequences.from_xarray(xr.DataArray(np.array(WORDS, object), dims="time"), **k),
    ],
)
def test_strings_are_symbols(read: Callable[..., Sequences]) -> None:
    data = read(codes=True)
    assert data.symbols == ("rain", "sun")
    assert data.values.tolist() == [[0, 0, 1]]
    assert data.mask.tolist() == [[True, False, True]]
    named = read(codes=True, symbols=["sun", "snow", "rain"])
    assert named.symbols == ("sun", "snow", "rain")
    assert named.values.tolist() == [[2, 0, 0]]
    with pytest.raises(ValueError, match=r"among \('sun', 'snow'\); got 'rain'"):
        read(codes=True, symbols=["sun", "snow"])
    with pytest.raises(ValueError, match=r"must hold numbers; got .*codes=True"):
        read()


@pytest.mark.parametrize(
    "read",
    [
        lambda y: Sequences.from_arrays([y]),
        lambda y: Sequences.from_array([y]),
        lambda y: Sequences.from_frame(pd.DataFrame({"y": pd.Series(y, dtype=object)})),
    ],
)
def test_none_is_missing(read: Callable[[list[object]], Sequences]) -> None:
    for gap in (None, float("nan"), pd.NA):
        data = read([1.5, gap, True])
        assert data.mask.flatten().tolist() == [True, False, True]
        assert data.values.flatten().tolist() == [1.5, 0, 1]
    with pytest.raises(ValueError, match=r"must be exact in float64.*got 9007199254740993"):
        read([1.5, None, 2**53 + 1])
    with pytest.raises(ValueError, match=r"must hold numbers; got 1j"):
        read([1.5, None, 1j])


@pytest.mark.parametrize("gap", [None, float("nan"), pd.NA])
def test_gaps_beside_strings_are_no_strings(gap: object) -> None:
    """NumPy makes "nan" of NaN in a list of strings, and "1" of 1."""
    for data in (
        Sequences.from_arrays([["a", gap, "b"]], codes=True),
        Sequences.from_array([["a", gap, "b"]], codes=True),
    ):
        assert data.symbols == ("a", "b")
        assert data.mask.tolist() == [[True, False, True]]
    with pytest.raises(ValueError, match=r"must hold strings, as it has one; got 1$"):
        Sequences.from_arrays([["a", 1, gap]], codes=True)
    with pytest.raises(ValueError, match="times must be finite; got nan in sequence 0"):
        Sequences.from_arrays([[1.0, 2.0]], times=[["2020-01-01", float("nan")]])


# Tensors of every kind

KINDS = [
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16),
]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_tensors_of_every_type_are_read_exactly(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    expected = [[0, 1, 1], [1, 0, 1]]
    for data in (Sequences.from_tensors(values), Sequences.from_array(values)):
        assert data.values[..., 0].tolist() == expected
    for data in (Sequences.from_tensors(values, codes=True), Sequences.from_arrays(values)):
        assert data.codes().tolist() == expected
    one = Sequences.from_tensors(torch.ones(2, 3), actions=values, rewards=values, inputs=values)
    assert one.actions is not None
    assert one.rewards is not None
    assert one.actions.tolist() == one.rewards.tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), r"dense tensor; got torch.sparse_coo \(to_dense"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)] * 2), r"got a nested one .*unbind\(\)"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
            r"got a quantised tensor, torch.quint8 \(dequantize\(\)",
        ),
        (lambda: torch.ones(3, device="meta"), "hold numbers; got none"),
        (
            lambda: torch.tensor([2**64 - 1], dtype=torch.uint64),
            "below 2.63; got 18446744073709551",
        ),
        (lambda: torch.ones(3) * 1j, "real torch.Tensor; got torch.complex64"),
    ],
    ids=["sparse", "nested", "quantised", "meta", "uint64", "complex"],
)
@pytest.mark.filterwarnings("ignore:.*(prototype|quantize)")
@pytest.mark.parametrize("argument", ["values", "mask", "times", "inputs", "lengths"])
def test_other_tensors_are_named(
    values: Callable[[], torch.Tensor], message: str, argument: str
) -> None:
    given = {"values": torch.ones(1, 3), argument: values()}
    with pytest.raises(ValueError, match=f"^{argument} must .*{message}"):
        Sequences.from_tensors(**given)


@pytest.mark.parametrize(
    "value",
    [
        [1j, 1.0],
        np.array([1 + 2j, 1]),
        torch.tensor([1 + 2j, 1]),
        ["1", "2"],
        torch.eye(2).to_sparse(),
    ],
)
def test_parameters_must_be_real(value: Any) -> None:
    model = HiddenMarkovModel(2, Gaussian())
    with pytest.raises(ValueError, match=r"^mean.*(needs|must)"):
        model.with_parameters(mean=value)


def test_inputs_may_be_dropped_and_replaced() -> None:
    data = Sequences.from_arrays([Y], inputs=[Y], input_names=["rain"])
    assert data.input_names == ("rain",)
    assert dataclasses.replace(data, inputs=None).input_names == ()
    assert data.without("inputs").input_names == ()
    with pytest.raises(ValueError, match="input_names must be 1 names; got 2"):
        Sequences.from_arrays([Y], inputs=[Y], input_names=["rain", "sun"])
    with pytest.raises(ValueError, match="'rewards' or 'inputs'; got 'lengths'"):
        data.without("lengths")  # type: ignore[arg-type]


def test_columns_of_several_kinds_are_named() -> None:
    frame = pd.DataFrame({"when": STAMPS, "span": pd.to_timedelta([1, 2, 3], "D"), "y": Y})
    for columns in (["when", "span"], ["when", "y"], ["span", "y"]):
        with pytest.raises(ValueError, match=r"^array must hold numbers; got "):
            Sequences.from_frame(frame, layout="wide", columns=columns, steps="columns")
        with pytest.raises(ValueError, match=r"^arrays\[0\] must hold numbers; got "):
            Sequences.from_arrays([frame[columns].set_axis([0, 1, 2])])
