"""The public names of the library, each with the wing that it comes from."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FACES = ("models", "inference")


class Public(NamedTuple):
    """A name on a face.

    Attributes:
        face: ``"models"`` or ``"inference"``.
        wing: the folder that it comes from, ``"ground"`` for modules beside the folders.
        name: as it is imported.
        module: where it is defined, a dotted path below the face.
    """

    face: str
    wing: str
    name: str
    module: str

    @property
    def path(self) -> str:
        """What it is imported from, with the name."""
        return f"beliefzoo.{self.face}.{self.name}"


def public_names() -> list[Public]:
    """All names that the faces import from the wings, read from their source without importing."""
    return [public for face in FACES for public in _of_face(face)]


def _of_face(face: str) -> list[Public]:
    tree = ast.parse((ROOT / face / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    found = [
        Public(face, _wing(node.module or "", face), alias.asname or alias.name, node.module or "")
        for node in imports
        for alias in node.names
    ]
    return sorted(found, key=lambda public: (public.wing, public.name))


def _wing(module: str, face: str) -> str:
    first = module.split(".")[0]
    return first if (ROOT / face / first).is_dir() else "ground"


def said_of(public: Public) -> str:
    """The text below the assignment of a name, which has no docstring of its own."""
    path = ROOT.joinpath(public.face, *public.module.split(".")).with_suffix(".py")
    lines = ast.parse(path.read_text(encoding="utf-8")).body
    for assigned, text in pairwise(lines):
        targets = assigned.targets if isinstance(assigned, ast.Assign) else []
        named = any(isinstance(x, ast.Name) and x.id == public.name for x in targets)
        if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            return str(text.value.value)
    raise ValueError(f"{public.path}: needs a text below its assignment in {path}, got none")


def pages() -> dict[tuple[str, str], str]:
    """(face, wing) -> the page that documents it, for each ``.. wing::`` line of the reference."""
    found = {}
    for page in sorted((ROOT / "docs/reference").glob("*.rst")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. wing:: "):
                face, *wings = line.removeprefix(".. wing:: ").split()
                found |= {(face, wing): page.stem for wing in wings}
    return found
