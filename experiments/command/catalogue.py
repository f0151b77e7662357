"""The catalogue of experiments and benchmarks: found by their place alone.

An experiment is a module of one of the rooms of `experiments/` (`networks`, `series`, `decisions`)
that defines

- a docstring, whose first line is its title;
- `Settings`, a frozen dataclass with `seed: int = 0` and, below each field, a string that says
  what it is and why it has its default;
- `SMOKE`, replacements of fields with which a run takes seconds;
- `run(settings) -> Outcome` (`experiments.report`);
- `draw(posterior, figures) -> dict[str, Figure]`.

Its name on the command line is that of the module with dashes. Nothing needs registering.

A benchmark is a module of the subpackage `benchmarks` that defines a docstring, `Settings` with
`seed` and `threads`, and `SMOKE` in the same way, and

- `run(settings) -> dict`, figures named in plain words;
- `draw(figures) -> dict[str, Figure]`;
- `table(figures) -> str`, what the terminal shows at the end.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

import tyro

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...inference.arviz_groups import Idata
    from .report import Outcome

_EXPERIMENTS = __package__.rpartition(".")[0]
_ROOMS = tuple(f"{_EXPERIMENTS}.{room}" for room in ("networks", "series", "decisions"))
_BENCHMARKS = (f"{_EXPERIMENTS}.benchmarks",)


class Experiment(Protocol):
    """What a module must define to be an experiment."""

    Settings: type[Any]
    SMOKE: Mapping[str, object]
    run: Callable[[Any], Outcome]
    draw: Callable[[Idata, Mapping[str, Any]], Mapping[str, Figure]]


class Benchmark(Protocol):
    """What a module must define to be a benchmark."""

    Settings: type[Any]
    SMOKE: Mapping[str, object]
    run: Callable[[Any], Mapping[str, Any]]
    draw: Callable[[Mapping[str, Any]], Mapping[str, Figure]]
    table: Callable[[Mapping[str, Any]], str]


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # --force without a --no-force


def experiments() -> dict[str, str]:
    """Names of the experiments and their titles, without importing any of them.

    Raises:
        ValueError: for a module without docstring.
    """
    return {name: title for name, (_, title) in _found(_ROOMS).items()}


def benchmarks() -> dict[str, str]:
    """Names of the benchmarks and their titles, without importing any of them.

    Raises:
        ValueError: for a module without docstring.
    """
    return {name: title for name, (_, title) in _found(_BENCHMARKS).items()}


def _found(packages: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Module and title of each name, sorted by name."""
    found = {}
    for package in packages:
        for module in pkgutil.iter_modules(import_module(package).__path__):
            if module.ispkg:
                continue
            spec = module.module_finder.find_spec(module.name, None)
            source = Path(spec.origin) if spec and spec.origin else None
            docstring = _docstring(source.read_bytes()) if source else None
            if not docstring:
                raise ValueError(f"{module.name} must begin with a docstring that gives its title")
            title = docstring.splitlines()[0].rstrip(".")
            found[module.name.replace("_", "-")] = (f"{package}.{module.name}", title)
    return dict(sorted(found.items()))


@lru_cache  # a process that is asked again, for the next job or test, reads but does not parse
def _docstring(source: bytes) -> str | None:
    return ast.get_docstring(ast.parse(source))


def load(name: str) -> Experiment:
    """Import an experiment by its name on the command line.

    Raises:
        ValueError: if there is none of that name, or its module lacks a part.
    """
    module = _import(_ROOMS, name)
    _check_module(module, f"experiment {name}", ("run", "draw"), ("seed",))
    return cast(Experiment, module)


def load_benchmark(name: str) -> Benchmark:
    """Import a benchmark by its name on the command line.

    Raises:
        ValueError: if there is none of that name, or its module lacks a part.
    """
    module = _import(_BENCHMARKS, name)
    _check_module(module, f"benchmark {name}", ("run", "draw", "table"), ("seed", "threads"))
    return cast(Benchmark, module)


def _import(packages: Sequence[str], name: str) -> ModuleType:
    known = _found(packages)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"NAME must be one of {', '.join(known) or '(none)'}; got {name!r}{hint}")
    module, _ = known[name]
    return import_module(module)


def _check_module(
    module: Any, what: str, functions: Sequence[str], needed_fields: Sequence[str]
) -> None:
    """Raise ``ValueError`` unless the module has what the command line uses."""
    parts = ("Settings", "SMOKE", *functions)
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        raise ValueError(f"{what} must define {', '.join(missing)}")
    name = what.partition(" ")[2]
    if not dataclasses.is_dataclass(module.Settings):
        raise ValueError(f"Settings of {name} must be a dataclass; got {module.Settings!r}")
    fields = {field.name for field in dataclasses.fields(module.Settings)}
    for needed in needed_fields:
        if needed not in fields:
            raise ValueError(f"Settings of {name} must have a field {needed}; got {sorted(fields)}")
    if not set(module.SMOKE) <= fields:
        raise ValueError(f"SMOKE of {name} must replace fields of Settings; got {module.SMOKE}")


def printable(text: str) -> str:
    """Return the text, with bytes of arguments that are no UTF-8 written out.

    >>> printable("runs/caf\\udce9")
    'runs/caf\\\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()
