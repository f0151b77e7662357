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

from ...inference.arviz_groups import Idata, build, read, write
from ...inference.fitting import provenance
from ...inference.fitting.plain import plain
from ...models.data.storage import whole_file, write_json
from .folders import HTML, JSON, POSTERIOR, SOFTWARE, replaced
from .seeds import Figures, Seeded

__all__ = [
    "Array",
    "Outcome",
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
            letters, digits, "-" and "_". An earlier report stays then, and what was computed is
            beside it as `unfinished-posterior.nc`.
        OSError: the disk is full or cannot be written; names the file.
    """
    with replaced(folder) as staged:
        # First, so that one bad figure or a fault in drawing does not cost the computation.
        write(outcome.posterior, staged / POSTERIOR)
        report = {
            "experiment": experiment,
            "settings": plain(dataclasses.asdict(settings), "settings"),
            "figures": _checked(outcome.figures),
            "versions": versions(),
            "seconds": seconds,
        }
        drawings = draw(read(staged / POSTERIOR), report["figures"])
        for name, drawing in drawings.items():
            save_drawing(drawing, name, staged)
        write_text(staged / HTML, _html(report, title, type(settings), staged, list(drawings)))
        write_json(staged / JSON, report)


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
    with replaced(folder) as staged:
        for name, drawing in draw(report["figures"]).items():
            save_drawing(drawing, name, staged)
        write_json(staged / JSON, report)


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
    with whole_file(folder / f"{name}.png") as file:
        drawing.savefig(file, format="png", dpi=150, metadata={"Software": SOFTWARE})
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
    with whole_file(path) as file:
        file.write(f"{text}\n".encode())
