"""The words: what every public name says of itself, and where docstrings may point."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from checkout import ROOT

DOCUMENTED = ("beliefzoo.models", "beliefzoo.inference")
"""Faces, or wings of them, whose public names are documented in full."""


def exported(place: str) -> Iterator[tuple[str, object]]:
    """Classes and functions on the face that ``place`` is or belongs to, defined below it."""
    face = importlib.import_module(".".join(place.split(".")[:2]))
    for name in face.__all__:
        thing = getattr(face, name)
        below = f"{thing.__module__}.".startswith(f"{place}.") if callable(thing) else False
        if below and (inspect.isclass(thing) or inspect.isfunction(thing)):
            yield name, thing


def arguments(thing: object) -> set[str]:
    """Arguments that a user calls it with: a Protocol or an abstract class is not called."""
    if inspect.isclass(thing) and (
        getattr(thing, "_is_protocol", False) or inspect.isabstract(thing)
    ):
        return set()
    own = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    # A module of torch without a constructor of its own has *args, **kwargs, and takes none.
    return {x.name for x in own if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)}


def described(words: str) -> set[str]:
    """Names before a colon in the list of arguments or attributes."""
    lists = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", f"{words}\n", re.M)
    lines = [line for part in lists for line in re.findall(r"^    ([\w, ]+):", part, re.M)]
    return {name.strip() for line in lines for name in line.split(",")}


def lacks(thing: object) -> list[str]:
    """What the docstring of a class or function does not have."""
    words = thing.__doc__ or ""
    missing = []
    if ">>>" not in words:
        missing.append("an example")
    if len([line for line in words.splitlines() if line.strip()]) < 3:
        missing.append("more than a line")
    # Arguments that a class inherits may be described where they come from.
    places = getattr(thing, "__mro__", (thing,))
    named = set().union(*(described(inspect.cleandoc(place.__doc__ or "")) for place in places))
    if unnamed := arguments(thing) - named:
        missing.append(f"arguments {sorted(unnamed)}")
    if inspect.isfunction(thing):
        returned = inspect.signature(thing).return_annotation
        if returned not in (None, "None") and "Returns:" not in words:
            missing.append("Returns")
    return missing


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_what_lacks_is_seen() -> None:
    class Said(Protocol):
        """One line."""

    def half_said(number: int, times: int) -> int:
        """Return the product of two numbers.

        Args:
            number: any.

        >>> half_said(1, 1)
        1
        """
        return number * times

    assert lacks(Said) == ["an example", "more than a line"]
    assert lacks(half_said) == ["arguments ['times']", "Returns"]


@pytest.mark.parametrize("place", DOCUMENTED)
def test_public_names_say_what_a_user_needs(place: str) -> None:
    things = dict(exported(place))
    assert things
    assert not {name: missing for name, thing in things.items() if (missing := lacks(thing))}


@pytest.mark.parametrize("place", DOCUMENTED)
def test_docstrings_point_to_the_repository_alone(place: str) -> None:
    folder = ROOT.joinpath(*place.split(".")[1:])
    elsewhere = re.compile(r"\b(SCIENCE|DESIGN|LOOKUP)\b")
    pointing = {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*.py")
        for words in docstrings(path)
        if elsewhere.search(words)
    }
    assert not pointing
