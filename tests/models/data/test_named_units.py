"""Units of columns: read with the data, kept by what is derived and fitted, and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    fit,
    load_fit,
    log_evidence,
    save_fit,
    to_arviz,
)
from beliefzoo.models import HiddenMarkovModel, Sequences, load_model, save_model

UNITS = {"rt": "ms", "day": "days"}


def frame() -> pd.DataFrame:
    """Response times by day, with an input."""
    return pd.DataFrame(
        {"rat": list("aaabb"), "day": [1, 2, 3, 1, 2], "rt": [200.0, 215, 198, 300, 100]}
    ).assign(dose=[0.1, 0.2, 0.1, 0.0, 0.3])


def read(**options: Any) -> Sequences:
    return Sequences.from_frame(frame(), sequence="rat", columns="rt", **options)


@pytest.fixture(scope="module")
def fitted() -> Any:
    model = HiddenMarkovModel(1, "gaussian")
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    settings = FitSettings(steps=2)
    return fit(model, guide, read(units={"rt": "ms"}), settings=settings, progress=False)


def test_units_come_with_columns() -> None:
    data = read(time="day", inputs="dose", units={**UNITS, "dose": "mg"})
    assert data.units == {"rt": "ms", "time": "days", "dose": "mg"}
    assert "rt (ms)" in data.summary()
    assert "1 to 3 days" in data.summary()
    assert "dose (mg)" in data.summary()
    assert "units={'rt': 'ms'" in repr(data)
    assert read().units == {}
    assert "units" not in repr(read())


def test_units_come_from_attributes() -> None:
    """A frame's may be of columns that are not read; an array's are of all features."""
    own = frame()
    own.attrs["units"] = {**UNITS, "weight": "g"}
    assert Sequences.from_frame(own, sequence="rat", columns="rt").units == {"rt": "ms"}
    assert Sequences.from_frame(own, sequence="rat", columns="rt", units={}).units == {}
    array = xr.DataArray(np.ones((3, 2)), dims=("time", "feature"), attrs={"units": "K"})
    array = array.assign_coords(feature=["inside", "outside"])
    assert Sequences.from_xarray(array).units == {"inside": "K", "outside": "K"}


def test_units_of_parts() -> None:
    rows = [[[1.0, 2.0], [3.0, 4.0]]] * 3
    named: dict[str, Any] = {"features": ["rt", "size"], "units": {"rt": "ms", "size": "mm"}}
    data = Sequences.from_arrays(rows, **named, times=[[0, 1]] * 3)
    assert data.select("size").units == {"size": "mm"}
    assert data[1].units == data.head(1).units == data.filled().units == named["units"]
    timed = Sequences.from_array(np.ones((3, 2)), times=[0, 1], units={"time": "s"})
    assert timed.without("times").units == {}


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"speed": "m/s"}, "units must be of 'rt'; got 'speed'"),
        ({"rt": 3}, "units must be text; got 3 of 'rt'"),
        ({"rt": ""}, "units must be text; got '' of 'rt'"),
        ("ms", "units must be a mapping of columns to units; got str"),
        ({"day": "days"}, "units must be of 'rt'; got 'day'"),  # it is not read
    ],
)
def test_bad_units(units: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(units=units)


def test_a_fit_refuses_data_in_another_unit(fitted: Any, tmp_path: Path) -> None:
    """By everything that was made of it; data without units are read as they are."""
    seconds = read(units={"rt": "s"})
    save_fit(fitted, tmp_path / "fit.pt")
    save_model(fitted.fitted, tmp_path / "model.pt")
    known = [fitted.fitted, load_fit(tmp_path / "fit.pt").fitted, load_model(tmp_path / "model.pt")]
    for model in known:
        with pytest.raises(ValueError, match=r"data\.units: must be 'ms' for 'rt', .* got 's'"):
            log_evidence(model, seconds)
        wanted = log_evidence(model, read(units={"rt": "ms"}))
        np.testing.assert_array_equal(log_evidence(model, read()), wanted)


def test_units_are_shown(fitted: Any) -> None:
    assert "rt in ms" in str(fitted.summary())
    assert fitted.fitted.sample(1, 2, seed=0).data.units == {"rt": "ms"}
    idata = to_arviz(fitted, read(units={"rt": "ms"}), draws=30, state_draws=2)
    assert json.loads(idata.attrs["units"]) == {"rt": "ms"}
