"""A line ``.. wing:: FACE WING …`` of a page becomes the reference of the names of these wings."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .names import Public, public_names, said_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx


_LITERAL = re.compile(r"\||(?<=\w)_(?!\w)|(?<!\S)\*\*(?=\w)")


def expanded(app: Sphinx, page: str, source: list[str]) -> None:
    """Replaces the lines of a page, before it is parsed."""
    lines = source[0].split("\n")
    if any(line.startswith(".. wing:: ") for line in lines):
        source[0] = "\n".join(_written(line) for line in lines)


def anchored(app: Sphinx, page: str, source: list[str]) -> None:
    """Turns anchors in headings, as README pages have them, into targets."""
    source[0] = re.sub(r'^(#+ .*?) *<a id="([\w-]+)"></a>$', r"(\2)=\n\1", source[0], flags=re.M)


def _written(line: str) -> str:
    if not line.startswith(".. wing:: "):
        return line
    face, *wings = line.removeprefix(".. wing:: ").split()
    names = [x for x in public_names() if x.face == face and x.wing in wings]
    names.sort(key=lambda public: public.name.lower())
    table = [
        "",
        f".. currentmodule:: beliefzoo.{face}",
        "",
        ".. autosummary::",
        "   :nosignatures:",
    ]
    table += ["", *(f"   {public.name}" for public in names if not _alias(public)), ""]
    return "\n".join([*table, *(text for public in names for text in _documented(public))])


def _thing(public: Public) -> object:
    return getattr(import_module(f"beliefzoo.{public.face}"), public.name)


def _alias(public: Public) -> bool:
    thing = _thing(public)
    return not (inspect.isclass(thing) or inspect.isroutine(thing))


def _documented(public: Public) -> list[str]:
    thing = _thing(public)
    if _alias(public):
        value = str(thing).replace("typing.", "")
        return [f".. py:data:: {public.name}", "", f"   {said_of(public)} ``{value}``", ""]
    if inspect.isclass(thing):
        return [f".. autoclass:: {public.name}", "   :members:", ""]
    return [f".. autofunction:: {public.name}", ""]


def as_text(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Escapes what docstrings mean literally: ``|``, and ``_`` at the end of a word."""
    literal = False
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped and not line.startswith(" "):
            literal = False
        if stripped.startswith((">>>", "...", ".. math::")) or literal:
            literal = True
            continue
        parts = line.split("``")
        parts[::2] = [_LITERAL.sub(r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def hidden(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: Any
) -> bool | None:
    """Leaves out fields of named tuples, which the list of attributes describes."""
    return True if type(thing).__name__ == "_tuplegetter" else None
