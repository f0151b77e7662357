"""Every experiment, run as from the shell in smoke mode."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from beliefzoo.experiments.command.catalogue import experiments, load
from beliefzoo.experiments.command.cli import main
from beliefzoo.experiments.command.report import setting_notes
from beliefzoo.inference.arviz_groups import group, read
from checkout import ROOT

READ_SHARED_DATA = {"co2-gaps", "grid-beliefs", "strings", "unemployment"}
WITHOUT_DRAWS = {
    "calibrated-posteriors",
    "coupled-nodes",
    "fits-in-any-unit",
    "gate-identity",
    "grid-beliefs",
    "held-out",
    "learned-too",
    "machine-of-an-lstm",
    "natural-gates",
    "own-models",
    "policy-reading",
    "random-chains",
    "reading-of-an-lstm",
    "relaxed-cell",
    "strings",
    "two-trainings",
    "written-gates",
}
"""What they save are figures over networks, fits or data sets, no draws of a posterior."""

NEEDS = {"agent-beliefs": "sb3_contrib"}
"""Packages of an extra."""
every_experiment = pytest.mark.parametrize("name", experiments())


def numbers(figures: Any) -> Iterator[float]:
    if isinstance(figures, dict):
        figures = list(figures.values())
    if isinstance(figures, list):
        for value in figures:
            yield from numbers(value)
    elif not isinstance(figures, str):
        yield figures


def test_every_module_of_the_folder_is_an_experiment() -> None:
    rooms = ("networks", "series", "decisions")
    files = [path for room in rooms for path in (ROOT / "experiments" / room).glob("*.py")]
    modules = {path.stem for path in files} - {"__init__"}
    assert {name.replace("-", "_") for name in experiments()} == modules


@every_experiment
def test_every_setting_says_why(name: str) -> None:
    settings = load(name).Settings
    assert settings.__dataclass_params__.frozen
    fields = {field.name: field for field in dataclasses.fields(settings)}
    assert set(setting_notes(settings)) == set(fields)
    assert fields["seed"].default == 0
    settings()  # no field without a default


@every_experiment
def test_smoke_run(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in READ_SHARED_DATA:
        monkeypatch.setenv("BELIEFZOO_DATA", str(request.getfixturevalue("shared_data")))
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="comes with an extra")
    folder, untitled, save = tmp_path / name, [], Figure.savefig

    def save_with_title(figure: Figure, path: Any, **options: Any) -> None:
        titles = [axis.get_title(place) for axis in figure.axes for place in ("center", "left")]
        if not figure.get_suptitle() and not any(titles):
            untitled.append(str(getattr(path, "name", path)))  # a path, or an open file
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", save_with_title)
    assert main(["run", name, "--smoke", "--out", str(folder)]) == 0
    assert not untitled
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {
        *("experiment", "settings", "figures", "versions", "seconds", "checksum")
    }
    assert report["experiment"] == name
    assert report["figures"]
    assert all(math.isfinite(number) for number in numbers(report["figures"]))
    saved = read(folder / "posterior.nc")  # draws of a posterior, or figures over networks
    without = name in WITHOUT_DRAWS
    assert group(saved, "runs" if without else "posterior").data_vars
    with pytest.raises(ValueError, match="must have a group"):
        group(saved, "posterior" if without else "runs")
    drawings = list(folder.glob("*.png"))
    assert drawings
    for drawing in drawings:
        pixels = imread(drawing)
        assert pixels.min() < pixels.max()  # something is drawn
    assert (folder / "report.html").stat().st_size > sum(path.stat().st_size for path in drawings)
