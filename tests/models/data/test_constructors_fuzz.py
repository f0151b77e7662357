"""Constructors of ``Sequences`` with hostile arguments: data, or a ``ValueError``, nothing else.

``BELIEFZOO_FUZZ`` multiplies the number of cases. A case is known by its number, which the message
of a failure gives: ``call(number)`` repeats it.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from beliefzoo.models import Sequences
from fuzzing import TIMES

CASES = 600 * TIMES
PARTS = 2

INF, NAN = float("inf"), float("nan")
DAY = datetime.date(2026, 3, 1)
HUGE = 2**70

Pick = random.Random
Maker = Callable[[Pick], Any]


def scalar(pick: Pick) -> Any:
    return pick.choice(
        [
            *(0, 1, 2, -1, 0.5, 1.0, -0.0, 1e300, 5e-324, INF, -INF, NAN, None, True, HUGE),
            *(2**53 + 1, 1j, "a", "b", "", "1.5", "2026-03-01", "2026-13-45", b"x", Fraction(1, 3)),
            *(Decimal("0.1"), Decimal("NaN"), Decimal("Infinity"), DAY, pd.NA, pd.NaT, np.nan),
            *(np.datetime64("NaT", "us"), np.float32(2), np.int8(3), object(), [], {}),
            *(pd.Timestamp("2026-03-01", tz="UTC"), pd.Period("2026-03", "M")),
            datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC),
        ]
    )


def size(pick: Pick) -> int:
    return pick.choice([0, 1, 1, 2, 2, 3, 3, 3, 4])


def numpy_array(pick: Pick) -> Any:
    shape = tuple(size(pick) for _ in range(pick.choice([0, 1, 1, 2, 2, 2, 3, 3, 4])))
    dtype = pick.choice(
        [
            "?",
            "b",
            "B",
            "h",
            "H",
            "i",
            "I",
            "l",
            "L",
            "q",
            "Q",
            "e",
            "f",
            "d",
            "g",
            "F",
            "D",
            ">f8",
            ">i4",
            "O",
            "O",
            "U2",
            "U2",
            "S1",
            "M8[D]",
            "M8[ns]",
            "m8[h]",
        ]
    )
    generator = np.random.default_rng(pick.randrange(2**32))
    numbers = generator.integers(0, 4, shape)
    if dtype == "O":
        entry = pick.choice([scalar, lambda p: p.choice([1, 2.0, None]), lambda p: p.choice("ab")])
        made = np.empty(shape, object)
        for place in np.ndindex(shape):
            made[place] = entry(pick)
        return made
    with np.errstate(all="ignore"):
        made = numbers.astype(dtype)
    if made.dtype.kind == "f" and made.size and pick.random() < 0.4:
        made.flat[pick.randrange(made.size)] = pick.choice([NAN, NAN, INF])
    if pick.random() < 0.05:
        return np.ma.masked_array(made, generator.random(shape) < 0.3)
    return made


ODD: list[Maker] = [
    lambda p: torch.eye(3).to_sparse(),
    lambda p: torch.eye(3).to_sparse_csr(),
    lambda p: torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.quint8),
    lambda p: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    lambda p: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    lambda p: torch.ones(3, 2, device="meta"),
    lambda p: torch.ones(3, 2, dtype=torch.complex64),
    lambda p: torch.ones(3, 2, dtype=torch.complex64).imag,
    lambda p: torch.tensor([2**64 - 1], dtype=torch.uint64),
    lambda p: torch.nn.Parameter(torch.ones(2, 3)),
    lambda p: torch.ones(2, 3).expand(2, 3)[:, :0],
]
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16),
    *(torch.bfloat16, torch.float32, torch.float64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def tensor(pick: Pick) -> Any:
    if pick.random() < 0.15:
        return pick.choice(ODD)(pick)
    shape = tuple(size(pick) for _ in range(pick.choice([0, 1, 1, 2, 2, 2, 3, 3, 4])))
    generator = torch.Generator().manual_seed(pick.randrange(2**32))
    made = torch.randint(0, 4, shape, generator=generator).to(pick.choice(DTYPES))
    if made.dtype in (torch.float32, torch.float64) and made.numel() and pick.random() < 0.4:
        made.view(-1)[pick.randrange(made.numel())] = pick.choice([NAN, NAN, INF])
    return made


def series(pick: Pick) -> Any:
    n = pick.choice([0, 1, 2, 3, 4, 4, 4])
    numbers = [pick.randrange(3) for _ in range(n)]
    return pick.choice(
        [
            lambda: pd.Series(numbers),
            lambda: pd.Series(numbers, dtype="Int64").mask(pd.Series(numbers) == 1),
            lambda: pd.Series([(True, None, False)[k] for k in numbers], dtype="boolean"),
            lambda: pd.Series(numbers, dtype="UInt8"),
            lambda: pd.Series(numbers, dtype="category"),
            lambda: pd.Series([*map(str, numbers)], dtype="category"),
            lambda: pd.Series([*map(str, numbers)], dtype="string"),
            lambda: pd.Series([("a", None, "b")[k] for k in numbers], dtype=object),
            lambda: pd.Series([scalar(pick) for _ in numbers], dtype=object),
            lambda: pd.Series(pd.to_datetime("2026-03-01") + pd.to_timedelta(numbers, "D")),
            lambda: pd.Series(pd.date_range("2026-03-01", periods=n, tz="Europe/Paris")),
            lambda: pd.Series(pd.period_range("2026-03", periods=n, freq="M")),
            lambda: pd.Series(pd.to_timedelta(numbers, "h")),
            lambda: pd.Series([DAY + datetime.timedelta(k) for k in numbers], dtype=object),
            lambda: pd.Series([f"2026-03-0{k + 1}" for k in numbers]),
            lambda: pd.Series(numbers, dtype=complex),
            lambda: pd.Series(numbers, dtype=pd.SparseDtype(float, 0.0)),
            lambda: pd.Series(pd.interval_range(0, n)),
        ]
    )()


def index(pick: Pick, n: int) -> Any:
    return pick.choice(
        [
            *(lambda: pd.RangeIndex(n),) * 4,
            lambda: pd.date_range("2026-03-01", periods=n),
            lambda: pd.period_range("2026-03", periods=n, freq="M", name="month"),
            lambda: pd.Index([f"2026-03-0{k + 1}" for k in range(n)]),
            lambda: pd.Index([NAN] * n),
            lambda: pd.DatetimeIndex([pd.NaT] * n),
            lambda: pd.MultiIndex.from_arrays([["u"] * n, range(n)], names=["id", "step"]),
            lambda: pd.MultiIndex.from_arrays([["u"] * n, range(n)], names=["id", "id"]),
            lambda: pd.MultiIndex.from_arrays(
                [["u"] * n, pd.date_range("2026-03-01", periods=n)], names=["id", None]
            ),
        ]
    )()


def frame(pick: Pick) -> Any:
    n = pick.choice([0, 1, 2, 3, 4])
    names: list[Any] = ["x", "id", "t", 3, ("a", 1), None, pd.Timestamp("2026-03-01"), "x", 0, 1]
    pick.shuffle(names)
    columns = [series(pick).reindex(range(n)) for _ in range(pick.choice([0, 1, 2, 3]))]
    made = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(n))
    made.columns = pick.choice(
        [
            *(lambda: pd.Index(names[: len(columns)], dtype=object),) * 3,
            lambda: pd.date_range("2026-03-01", periods=len(columns)),
            lambda: pd.RangeIndex(len(columns)),
        ]
    )()
    made.index = index(pick, n)
    return made


def nested(pick: Pick) -> Any:
    entries = pick.choice([scalar, lambda p: p.choice([0, 1, 2.5, NAN]), lambda p: p.choice("ab")])
    return [
        [entries(pick) for _ in range(size(pick))] if pick.random() < 0.9 else scalar(pick)
        for _ in range(size(pick))
    ]


def labelled(pick: Pick) -> Any:
    array = numpy_array(pick)
    dims = pick.choice([["sequence", "time", "feature"], ["time", "feature"], ["time"], ["a", "b"]])
    dims = [*dims, "p", "q", "r", "s"][: array.ndim]
    coords = {}
    if pick.random() < 0.5 and dims:
        name = pick.choice(dims)
        long = array.shape[dims.index(name)]
        coords[name] = pick.choice(
            [
                np.arange(long),
                [f"2026-03-0{k + 1}" for k in range(long)],
                [DAY] * long,
                ["a"] * long,
            ]
        )
    return xr.DataArray(np.asarray(array), coords, dims)


def anything(pick: Pick) -> Any:
    return pick.choice(
        [
            *(numpy_array, numpy_array, tensor, tensor, series, frame, nested, nested, scalar),
            *(lambda p: [numpy_array(p) for _ in range(size(p))],) * 3,
            *(lambda p: [tensor(p) for _ in range(size(p))],) * 2,
            lambda p: [series(p) for _ in range(size(p))],
            lambda p: (k for k in nested(p)),
            *(labelled, lambda p: range(3), lambda p: {"x": [1]}, lambda p: Sequences),
            lambda p: memoryview(b"abc"),
        ]
    )(pick)


def name(pick: Pick) -> Any:
    known = [
        "x",
        "id",
        "t",
        3,
        ("a", 1),
        "nobody",
        None,
        ["x"],
        ["id", "t"],
        "step",
        {},
        0,
        slice(1),
    ]
    return pick.choice([*known, scalar(pick)])


def names(pick: Pick) -> Any:
    return pick.choice([["a", "b"], "ab", ("a",), range(3), ["a", "a"], scalar(pick), [None, 1]])


def text(pick: Pick) -> Any:
    return pick.choice(["ab", ["ab", "b"], ["a", "b"], [], "", ["ab", 1], "\ud800", scalar(pick)])


PER_STEP = dict.fromkeys(["times", "actions", "rewards", "inputs"], anything)
NAMES = dict.fromkeys(["labels", "features", "symbols", "input_names"], names)
CODES: dict[str, Maker] = {"codes": lambda p: p.random() < 0.5}
ARGUMENTS: dict[str, tuple[list[Maker], dict[str, Maker]]] = {
    "from_arrays": ([anything], {**PER_STEP, **NAMES, **CODES}),
    "from_array": (
        [anything],
        {**PER_STEP, **NAMES, **CODES, "lengths": anything, "mask": anything},
    ),
    "from_tensors": (
        [tensor],
        {**dict.fromkeys([*PER_STEP, "mask", "lengths"], tensor), **NAMES, **CODES},
    ),
    "from_frame": (
        [lambda p: frame(p) if p.random() < 0.9 else anything(p)],
        {
            **dict.fromkeys(["sequence", "time", "columns", "action", "reward", "inputs"], name),
            "layout": lambda p: p.choice(["wide", "wide", "long", "tall", None]),
            "steps": lambda p: p.choice(["rows", "columns", "both"]),
            "lengths": anything,
            "symbols": names,
            **CODES,
        },
    ),
    "from_xarray": (
        [lambda p: labelled(p) if p.random() < 0.9 else anything(p)],
        {
            **dict.fromkeys(
                ["sequence", "time", "feature"], lambda p: p.choice(["a", "b", "p", 3])
            ),
            "lengths": anything,
            "symbols": names,
            **CODES,
        },
    ),
    "from_text": ([text], {"alphabet": text, "unknown": scalar, "labels": names}),
    "": ([], {**dict.fromkeys(["values", "mask", "lengths", *PER_STEP], tensor), **NAMES}),
}


def call(number: int) -> Sequences | None:
    """The data of a case, checked; None if it is refused."""
    pick = random.Random(number)
    constructor = pick.choice([*ARGUMENTS])
    firsts, options = ARGUMENTS[constructor]
    kept = 0.15 if firsts else 0.5
    named = {key: make(pick) for key, make in options.items() if pick.random() < kept}
    if not firsts:
        named = {**{key: tensor(pick) for key in ("values", "mask", "lengths")}, **named}
    build = getattr(Sequences, constructor) if constructor else Sequences
    try:
        data: Sequences = build(*(make(pick) for make in firsts), **named)
    except ValueError:
        return None
    assert dataclasses.replace(data).n_observed > 0 or not constructor
    assert len(data.arrays()) == len(data.labels) == len(data.lengths)
    data.summary()
    return data


@pytest.mark.cases(CASES // PARTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_constructors_read_or_refuse(part: int) -> None:
    read = 0
    for number in range(part, CASES, PARTS):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "from_frame: a wide frame", UserWarning)
            warnings.filterwarnings("ignore", message=".*nested tensors is in prototype")
            warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)|.*quantize")
            try:
                read += call(number) is not None
            except Exception as error:
                raise AssertionError(f"case {number} ends otherwise: {error!r}") from error
    assert read > 0.02 * CASES / PARTS
