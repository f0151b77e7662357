"""What an experiment or a benchmark hands back, and the folder that it is written to.

A folder holds `posterior.nc`, one PNG a drawing, `report.html` for reading and `report.json` for
machines. Drawings are made from the posterior as read back from the file, so that the file alone
suffices to make them again. `report.json` comes last: where it is, the folder is complete. The
folder of a benchmark holds the drawings and `report.json` alone.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ...inference.arviz_groups import Idata, build, read, replacing, write
from ...inference.fitting import provenance
from ...inference.fitting.plain import plain
from .seeds import Figures, Seeded

__all__ = [
    "Array",
    "Outcome",
    "check_folder",
    "leaves",
    "plain",
    "readable",
    "record",
    "save_drawing",
    "setting_notes",
    "versions",
    "write_benchmark",
    "write_report",
    "write_text",
]

Array = npt.NDArray[np.float64]

_TEMPLATE = Path(__file__).parents[1] / "templates" / "report.html.j2"
_POSTERIOR, _HTML, _JSON = "posterior.nc", "report.html", "report.json"
_SOFTWARE = "beliefzoo"  # in the metadata of every PNG: tells ours from what a user put beside them


@dataclass(frozen=True)
class Outcome:
    """What `run` of an experiment returns.

    Attributes:
        figures: the results, named in plain words: finite numbers, strings, lists of these, and
            mappings of them to any depth.
        posterior: inference data (`beliefzoo.inference.arviz_groups.build`) with everything that
            `draw` needs.
    """

    figures: Mapping[str, Any]
    posterior: Idata


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that a report would damage, before anything is computed.

    Without ``force`` the folder must not exist. With it, the folder may be empty or hold the
    report of an earlier run, whose files are then replaced.

    Raises:
        ValueError: naming the folder and what is in the way.
    """
    if not folder.exists():
        parent = next(path for path in folder.absolute().parents if path.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise ValueError(f"out must lie where a folder can be made; {parent} does not allow it")
    elif not folder.is_dir():
        raise ValueError(f"out must be a folder; {folder} is a file")
    elif not force:
        raise ValueError(
            f"out must not exist yet; {folder} does (--force replaces the report of an earlier run)"
        )
    elif any(folder.iterdir()) and not _holds_report(folder):
        raise ValueError(
            f"out must be empty or hold the {_JSON} of an earlier run; {folder} holds other files"
        )


def leaves(figures: Figures, path: str = "") -> Iterator[tuple[str, object]]:
    """The values of nested figures with their dotted paths; a list counts as one value."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def setting_notes(settings: type) -> dict[str, str]:
    """Field name -> the string below the field in the source of a dataclass, on one line.

    A field that is inherited has the string of the class that it comes from.
    """
    notes = {}
    for owner in filter(dataclasses.is_dataclass, reversed(settings.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(note))),
                ):
                    notes[name] = " ".join(note.split())
    return notes


def record(
    settings: Seeded,
    groups: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, npt.ArrayLike] | None = None,
) -> Idata:
    """Inference data of a run, marked with the experiment's name, its settings and versions.

    Args:
        settings: the instance of the experiment's own ``Settings`` that it ran with.
        groups, dims, coords: see `beliefzoo.inference.arviz_groups.build`.
    """
    attrs = {
        "experiment": type(settings).__module__.rpartition(".")[2].replace("_", "-"),
        "seed": settings.seed,
        "settings": dataclasses.asdict(settings),
        "versions": versions(),
    }
    return build(groups, dims=dims, coords=coords, attrs=attrs)


def versions() -> dict[str, str]:
    """Versions of what computed a result, and the git commit if this file is under git."""
    commit = provenance.source_commit()
    return provenance.versions() | ({"commit": commit} if commit else {})


def write_report(
    folder: Path,
    *,
    experiment: str,
    title: str,
    settings: Seeded,
    outcome: Outcome,
    draw: Callable[[Idata, Figures], Mapping[str, Figure]],
    seconds: float,
) -> None:
    """Write the folder of one run, replacing the files of an earlier one.

    Args:
        folder: made if it is not there. See `check_folder`.
        experiment: name on the command line.
        title: heading of `report.html`.
        settings: the dataclass instance that the experiment ran with.
        outcome: what it returned.
        draw: (posterior read back from the file, figures) -> name -> drawing. The names become
            those of PNG files.
        seconds: wall time of the run.

    Raises:
        ValueError: if a figure is not finite or not plain, or the name of a drawing is not made of
            letters, digits, "-" and "_". `posterior.nc` is written by then, `report.json` is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files_of_earlier_run(folder):
        path.unlink()
    # First, so that one bad figure or a fault in drawing does not cost the computation.
    write(outcome.posterior, folder / _POSTERIOR)
    report = {
        "experiment": experiment,
        "settings": plain(dataclasses.asdict(settings), "settings"),
        "figures": _checked(outcome.figures),
        "versions": versions(),
        "seconds": seconds,
    }
    drawings = draw(read(folder / _POSTERIOR), report["figures"])
    for name, drawing in drawings.items():
        save_drawing(drawing, name, folder)
    write_text(folder / _HTML, _html(report, title, type(settings), folder, list(drawings)))
    _write_json(folder, report)


def write_benchmark(
    folder: Path,
    *,
    benchmark: str,
    settings: Seeded,
    figures: Figures,
    draw: Callable[[Figures], Mapping[str, Figure]],
    peers: Mapping[str, str],
    machine: Mapping[str, object],
    seconds: float,
) -> None:
    """Write the folder of one benchmark, replacing the files of an earlier one.

    Args:
        folder: made if it is not there. See `check_folder`.
        benchmark: name on the command line.
        settings: the dataclass instance that it ran with.
        figures: what it measured, as in `Outcome`.
        draw: figures -> name -> drawing, as in `write_report`.
        peers: versions of the packages that it compared with.
        machine: what it ran on.
        seconds: wall time of the run.

    Raises:
        ValueError: if a figure is not finite or not plain, or the name of a drawing is no file
            name. `report.json` is not written then.
    """
    report = {
        "benchmark": benchmark,
        "settings": plain(dataclasses.asdict(settings), "settings"),
        "figures": _checked(figures),
        "versions": versions() | dict(peers),
        "machine": plain(machine, "machine"),
        "seconds": seconds,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files_of_earlier_run(folder):
        path.unlink()
    for name, drawing in draw(report["figures"]).items():
        save_drawing(drawing, name, folder)
    _write_json(folder, report)


def _checked(figures: Figures) -> Any:
    """Figures as JSON can hold them, none of them missing."""
    converted = plain(figures, "figures")
    for name, value in leaves(converted):
        if value is None:
            raise ValueError(f"figures.{name} must be a number or a string; got None")
    return converted


def save_drawing(drawing: Figure, name: str, folder: Path) -> None:
    """Write one PNG and free the drawing.

    Raises:
        ValueError: for a name that is not made of letters, digits, "-" and "_".
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"drawings must have names of letters, digits, '-' and '_'; got {name!r}")
    if drawing.get_layout_engine() is None:
        drawing.set_layout_engine("constrained")
    with replacing(folder / f"{name}.png") as unfinished:
        drawing.savefig(unfinished, dpi=150, metadata={"Software": _SOFTWARE})
    plt.close(drawing)


def _html(report: Figures, title: str, settings: type, folder: Path, drawings: list[str]) -> str:
    """`report.html`, complete in itself: the drawings are inside."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    notes = setting_notes(settings)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        experiment=report["experiment"],
        seconds=report["seconds"],
        figures=[(path, readable(value)) for path, value in leaves(report["figures"])],
        settings=[
            (name, readable(value), notes.get(name, ""))
            for name, value in report["settings"].items()
        ],
        versions=list(report["versions"].items()),
        drawings=[
            (name, base64.b64encode((folder / f"{name}.png").read_bytes()).decode())
            for name in drawings
        ],
    )


def readable(value: object) -> str:
    """A figure for people: six significant digits."""
    if isinstance(value, list):
        return ", ".join(f"({readable(v)})" if isinstance(v, list) else readable(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a text and a line's end, atomically."""
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def _write_json(folder: Path, report: Figures) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / _JSON, text)


def _holds_report(folder: Path) -> bool:
    """Whether `report.json` there is one of ours."""
    try:
        report = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(report, dict) or not {"settings", "figures"} <= report.keys():
        return False
    return "experiment" in report or "benchmark" in report


def _files_of_earlier_run(folder: Path) -> list[Path]:
    """The report, which makes a folder complete, goes first."""
    if not _holds_report(folder):
        return []
    named = [folder / name for name in (_JSON, _HTML, _POSTERIOR)]
    return [path for path in named if path.exists()] + [
        path for path in folder.glob("*.png") if _is_ours(path)
    ]


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except OSError:
        return False
