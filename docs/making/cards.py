"""The cards of the zoo: one page a member, whose first lines are its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ZOO = Path(__file__).resolve().parents[1] / "zoo"

FIELDS = ("member", "state", "time", "outputs", "use", "program", "priors", "exact", "reference")
"""What a record says: the public name, then sentences in MyST."""

TITLES = {
    "use": "When to use it",
    "state": "Hidden state",
    "time": "Time",
    "outputs": "Outputs",
    "priors": "Priors",
    "exact": "Inference",
    "reference": "Reference",
}


def records() -> dict[str, dict[str, Any]]:
    """The record of every page of the zoo, by the name of the page."""
    paths = sorted(path for path in ZOO.glob("*.md") if path.stem != "index")
    return {path.stem: record_of(path.read_text(encoding="utf-8"), path.name) for path in paths}


def record_of(text: str, name: str) -> dict[str, Any]:
    """The record of a page.

    Raises:
        ValueError: a field that is absent or empty.
    """
    front = text.split("---\n")[1] if text.startswith("---\n") else ""
    record = (yaml.safe_load(front) or {}).get("card", {})
    absent = [field for field in FIELDS if not record.get(field)]
    if absent:
        raise ValueError(f"docs/zoo/{name}: a card needs {list(FIELDS)}, got none of {absent}")
    return dict(record)
