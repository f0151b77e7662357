"""Folders of reports: checked before anything is computed, and replaced as a whole.

A report is written into a hidden folder inside its own, which is renamed when everything is there;
then its files take the places of the old ones. Whatever kills the writer, the next command finds
the old report or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

POSTERIOR, HTML, JSON = "posterior.nc", "report.html", "report.json"

SOFTWARE = "beliefzoo"
"""In the metadata of every PNG: tells ours from what a user put beside them."""

_UNFINISHED = ".unfinished-report-"
_COMPLETE = ".complete-report"
_SPARED = f"unfinished-{POSTERIOR}"


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that a report would damage, before anything is computed.

    Without ``force`` the folder must not exist. With it, the folder may be empty or hold the
    report of an earlier run, whose files are then replaced. What a run left there that was killed
    while it wrote is brought to an end, or removed.

    Raises:
        ValueError: naming the folder and what is in the way.
    """
    if folder.is_dir():
        _recover(folder)
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
    elif not os.access(folder, os.W_OK):
        raise ValueError(f"out must be a folder that can be written to; {folder} is not")
    elif {path.name for path in folder.iterdir()} - {_SPARED} and not _holds_report(folder):
        raise ValueError(
            f"out must be empty or hold the {JSON} of an earlier run; {folder} holds other files"
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A folder to write a report into, which replaces an earlier one when the block ends.

    After an error the earlier report stays, with the posterior of the new one beside it if that was
    written. What else lies in the folder is left alone.

    Args:
        folder: made if it is not there. See `check_folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    folder.mkdir(exist_ok=True)
    staged = folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        staged.mkdir()
        yield staged
        staged.rename(folder / _COMPLETE)
    except BaseException:
        if (staged / POSTERIOR).exists():
            (staged / POSTERIOR).replace(folder / _SPARED)
        shutil.rmtree(staged, ignore_errors=True)
        _remove_if_empty(folder)
        raise
    _settle(folder)


def _recover(folder: Path) -> None:
    """Brings to an end, or removes, what a killed writer left; an empty folder too."""
    left = list(folder.glob(f"{_UNFINISHED}*"))
    for staged in left:
        shutil.rmtree(staged, ignore_errors=True)
    if (folder / _COMPLETE).is_dir():
        _settle(folder)
    if left:
        _remove_if_empty(folder)


def _settle(folder: Path) -> None:
    """Moves a complete report into place; may be done again after any of its steps.

    `report.json` marks where it stands: the old one goes when all else of the old report is gone,
    the new one comes when all else of the new report is there.
    """
    complete = folder / _COMPLETE
    if (complete / JSON).exists():
        for path in _files_of_earlier_run(folder):
            path.unlink(missing_ok=True)
    for path in sorted(complete.iterdir(), key=lambda path: path.name == JSON):
        path.replace(folder / path.name)
    complete.rmdir()
    (folder / _SPARED).unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _holds_report(folder: Path) -> bool:
    """Whether `report.json` there is one of ours."""
    try:
        report = json.loads((folder / JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(report, dict) or not {"settings", "figures"} <= report.keys():
        return False
    return "experiment" in report or "benchmark" in report


def _files_of_earlier_run(folder: Path) -> list[Path]:
    """The report, which marks a folder as one of ours, comes last."""
    if not _holds_report(folder):
        return []
    drawings = [path for path in folder.glob("*.png") if _is_ours(path)]
    return [*drawings, *(folder / name for name in (HTML, POSTERIOR, JSON))]


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False
