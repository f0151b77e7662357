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

from checkout import ROOT

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
        ("from .checks import require", {"beliefzoo.models.checks"}),
        ("from .. import inference", {"beliefzoo", "beliefzoo.inference"}),
        ("from ..inference.fitting import loop", {"beliefzoo.inference.fitting.loop"}),
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


WINGS = {
    "models": (
        ("checks", "boundary", "randomness", "beliefs", "clusters", "trajectories"),
        ("data",),
        ("emissions",),
        ("priors", "model"),
        ("chains",),
        ("continuous", "decisions"),
        ("descriptions",),
        ("persistence",),
    ),
    "inference": (
        ("pareto",),
        ("arviz_groups",),
        ("exact",),
        ("queries",),
        ("filters",),
        ("guides",),
        ("fitting",),
        ("checking",),
        ("export",),
        ("diagnosis",),
        ("networks",),
        ("machines",),
        ("decisions",),
    ),
}
"""The wings of each house, in the order of imports: from left to right and never back. What stands
in one pair of brackets is side by side: folders there know nothing of each other."""

FULLEST = 30  # files in one folder


def wing_of(name: str, house: str) -> tuple[int, str] | None:
    """Place and name of the wing that a dotted name belongs to; None if it is none of the house."""
    parts = name.split(".")
    if parts[:2] != ["beliefzoo", house]:
        return None
    for place, side_by_side in enumerate(WINGS[house]):
        if len(parts) > 2 and parts[2] in side_by_side:
            return place, parts[2]
    return len(WINGS[house]), "the face"  # beliefzoo.models itself, or a name on it


@pytest.mark.parametrize("house", WINGS)
def test_every_file_belongs_to_a_wing(house: str) -> None:
    named = {wing for side_by_side in WINGS[house] for wing in side_by_side}
    there = {path.relative_to(ROOT / house).parts[0] for path in (ROOT / house).rglob("*.py")}
    assert {part.removesuffix(".py") for part in there} - {"__init__"} == named


@files("models/**/*.py")
def test_models_import_wings_before_theirs_only(path: Path) -> None:
    assert not imports_that_run_back(path, "models")


@files("inference/**/*.py")
def test_inference_imports_wings_before_its_own_only(path: Path) -> None:
    assert not imports_that_run_back(path, "inference")


def imports_that_run_back(path: Path, house: str) -> set[str]:
    """What a file imports from wings to the right of its own, or from beside it."""
    own = wing_of(f"{package_of(path)}.{path.stem}", house)
    assert own is not None
    if path == ROOT / house / "__init__.py":
        return set()
    alone = (ROOT / house / own[1]).is_dir()  # files of a wing without a folder see each other
    back = set()
    for name in among(imports_of(path), f"beliefzoo.{house}"):
        wing = wing_of(name, house)
        # `from .. import x` names the package beside x; the package alone brings nothing.
        if wing is None or name == f"beliefzoo.{house}":
            continue
        if wing[0] > own[0] or (wing[0] == own[0] and alone and wing[1] != own[1]):
            back.add(name)
    return back


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for root in (*FOLDERS, "tests") for path in (ROOT / root).rglob("*.py")}
    crowded = {
        path_id(folder): number
        for folder in folders
        if (number := len(list(folder.glob("*.py")))) > FULLEST
    }
    assert not crowded


@files("inference/**/*.py")
def test_inference_does_not_import_experiments(path: Path) -> None:
    assert not among(imports_of(path), "beliefzoo.experiments")


@files("inference/exact/*.py")
def test_exact_inference_knows_tensors_alone(path: Path) -> None:
    assert not among(imports_of(path), "pyro", "beliefzoo.models")


@every_file
def test_arviz_is_imported_in_one_file(path: Path) -> None:
    if path != ROOT / "inference" / "arviz_groups" / "groups.py":
        assert not among(imports_of(path), *ARVIZ)


@files("inference/arviz_groups/*.py")
def test_the_arviz_files_need_numpy_and_arviz_alone(path: Path) -> None:
    """They are also run where neither torch nor this package is installed."""
    outside = {
        name for name in imports_of(path) if name.split(".")[0] not in sys.stdlib_module_names
    }
    own = ("beliefzoo.inference.pareto", "beliefzoo.inference.arviz_groups")
    assert outside == among(outside, "numpy", "xarray", *own, *ARVIZ)
    beside = top_level_imports(ROOT / "inference" / "pareto.py")
    assert not among(beside, "torch", "pyro", "beliefzoo")


@every_file
def test_gymnasium_is_loaded_on_demand_only(path: Path) -> None:
    """It comes with an extra; whoever wants environments imports their modules."""
    if not path.name.startswith("gymnasium_"):
        environments = {
            f"{package_of(own)}.{own.stem}"
            for own in (ROOT / "inference/decisions").glob("gymnasium_*.py")
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


ON_DEMAND = (
    *("numba", "llvmlite", "sklearn", "joblib", "threadpoolctl", "scipy", "pandas", "xarray"),
    *("matplotlib", "netCDF4", "gymnasium", *ARVIZ),
)
"""What takes long to load and many callers never need: loaded in the function that does."""


def test_the_faces_load_torch_and_pyro_alone() -> None:
    check = "import sys, beliefzoo.models, beliefzoo.inference; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", check]
    run = subprocess.run(command, check=True, cwd=ROOT / "src", capture_output=True, text=True)
    assert not set(ON_DEMAND) & set(run.stdout.split())
