"""The shape of the code: who may import whom, and what must not exist.

Read from the syntax trees, so that imports inside functions and under TYPE_CHECKING count too.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("models", "inference", "experiments")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ARVIZ = ("arviz", "arviz_base", "arviz_stats", "arviz_plots")
LONGEST_FUNCTION = 60  # lines of code


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute dotted names that the imports below ``tree`` may load, seen from ``package``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join((outer if node.level else []) + ([node.module] if node.module else []))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    return set(imported(ast.parse(path.read_text(encoding="utf-8")), package_of(path)))


def package_of(path: Path) -> str:
    return ".".join(("beliefzoo", *path.relative_to(ROOT).parent.parts))


def among(names: set[str], *roots: str) -> set[str]:
    """The names that are one of ``roots`` or lie below one."""
    return {name for name in names if any(f"{name}.".startswith(f"{root}.") for root in roots)}


def top_level_imports(path: Path) -> set[str]:
    """Names loaded when the module itself is loaded, function bodies left out."""
    package, names = package_of(path), set[str]()
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names |= set(imported(statement, package))
    return names


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: str) -> int:
    """Lines of a function with code on them: no docstring, no comment, no blank line."""
    first = function.body[0]
    docstring: range = range(0)
    if ast.get_docstring(function) is not None:
        docstring = range(first.lineno, (first.end_lineno or first.lineno) + 1)
    span = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines & set(span) - set(docstring))


def path_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_file = pytest.mark.parametrize("path", FILES, ids=path_id)


def files(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", sorted(ROOT.glob(pattern)), ids=path_id)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("from .sequences import Sequences", {"beliefzoo.models.sequences"}),
        ("from .. import inference", {"beliefzoo", "beliefzoo.inference"}),
        ("from ..inference.fit import fit", {"beliefzoo.inference.fit"}),
        ("def f():\n    from arviz import loo", {"arviz"}),
        ("if TYPE_CHECKING:\n    import pandas", {"pandas"}),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    assert expected <= set(imported(ast.parse(source), "beliefzoo.models"))


def test_function_length_counts_code_alone() -> None:
    source = (
        'def f(x):\n    """Doc\n\n    string."""\n    # why\n\n    return (\n        x\n    )\n'
    )
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert code_lines(function, source) == 4  # def, return (, x, )


def test_the_folders_hold_code() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FOLDERS)


@files("models/**/*.py")
def test_models_import_neither_inference_nor_experiments(path: Path) -> None:
    forbidden = ("beliefzoo.inference", "beliefzoo.experiments")
    assert not among(imports_of(path), *forbidden)


@files("models/**/*.py")
def test_models_load_pandas_and_xarray_on_demand_only(path: Path) -> None:
    assert not among(top_level_imports(path), "pandas", "xarray", "matplotlib")


@files("inference/**/*.py")
def test_inference_does_not_import_experiments(path: Path) -> None:
    assert not among(imports_of(path), "beliefzoo.experiments")


@files("inference/exact*.py")
def test_exact_inference_knows_tensors_alone(path: Path) -> None:
    assert not among(imports_of(path), "pyro", "beliefzoo.models")


@every_file
def test_arviz_is_imported_in_one_file(path: Path) -> None:
    if path != ROOT / "inference" / "arviz_groups.py":
        assert not among(imports_of(path), *ARVIZ)


@files("inference/arviz_groups.py")
def test_the_arviz_file_needs_numpy_and_arviz_alone(path: Path) -> None:
    """It is also run where neither torch nor this package is installed."""
    outside = {
        name for name in imports_of(path) if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert outside == among(outside, "numpy", "xarray", *ARVIZ)


@every_file
def test_gymnasium_is_loaded_on_demand_only(path: Path) -> None:
    """It comes with an extra; whoever wants environments imports their modules."""
    if not path.name.startswith("gymnasium_"):
        environments = {
            f"beliefzoo.inference.{own.stem}" for own in (ROOT / "inference").glob("gymnasium_*.py")
        }
        optional = ("gymnasium", "sb3_contrib", "stable_baselines3", *environments)
        assert not among(top_level_imports(path), *optional)


@every_file
def test_no_module_is_named_for_nothing_in_particular(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    empty = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert not {part.strip("_") for part in parts} & empty


@every_file
def test_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    long = {
        f"{node.name} (line {node.lineno}): {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
        and (lines := code_lines(node, source)) > LONGEST_FUNCTION
    }
    assert not long


def test_the_top_level_package_is_light() -> None:
    check = "import sys, beliefzoo; sys.exit(bool({'torch', 'pyro', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT / "src", timeout=60)
