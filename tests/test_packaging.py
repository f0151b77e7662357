"""Wheel and sdist hold what they should, and the wheel works where only it is installed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from checkout import ROOT

FOLDERS = ("models", "inference", "experiments")
NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "tests")


class Build(NamedTuple):
    """Wheels built from the checkout and from the sdist of the checkout."""

    from_tree: Path
    from_sdist: Path


class Environment(NamedTuple):
    """Scripts of an environment with the wheel installed, and an empty folder to run them in."""

    scripts: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> str:
        """Standard output of a command of the environment; fails with its standard error."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.scripts / command), *arguments],
            cwd=self.folder,
            env=inherited | {"MPLBACKEND": "Agg", "PYTHONNOUSERSITE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def build(tree: Path, out: Path, *options: str) -> Path:
    """Build as the Makefile does, without isolation and so without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options]
    done = subprocess.run([*command, str(tree)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def expected_files() -> set[str]:
    """All modules of the root folders, their data and templates, the top level and py.typed."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    inside += [*ROOT.glob("experiments/data/*.csv"), *ROOT.glob("*/**/templates/*.html.j2")]
    return {
        "beliefzoo/__init__.py",
        "beliefzoo/py.typed",
        *(f"beliefzoo/{path.relative_to(ROOT).as_posix()}" for path in inside),
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    # A copy, because setuptools leaves build/ and an egg-info behind in the tree that it builds.
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    from_sdist = build(tree, folder / "dist")  # the default: an sdist, and the wheel out of it
    return Build(build(tree, folder / "direct", "--wheel"), from_sdist)


@pytest.fixture(scope="module")
def installed(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    base = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    scripts = Path(sysconfig.get_path("scripts", "venv", vars=base))
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    install = ["install", "--quiet", "--no-deps", "--no-index", str(built.from_sdist)]
    subprocess.run([*pip, *install], check=True, timeout=300)
    # The dependencies are borrowed by path from the environment of the tests. Its own .pth files,
    # an editable install of the checkout among them, are not read this way.
    host = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site = Path(sysconfig.get_path("purelib", "venv", vars=base))
    (site / "dependencies.pth").write_text("\n".join(sorted(host)) + "\n")
    (folder / "empty").mkdir()
    return Environment(scripts, folder / "empty")


def test_wheel_holds_every_module_and_nothing_else(built: Build) -> None:
    names = {name for name in contents(built.from_tree) if ".dist-info/" not in name}
    assert names == expected_files()


def test_wheel_carries_the_licence(built: Build) -> None:
    (licence,) = (
        text for name, text in contents(built.from_tree).items() if name.endswith("/LICENSE")
    )
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_sdist_builds_the_same_wheel(built: Build) -> None:
    assert contents(built.from_sdist) == contents(built.from_tree)


def test_the_installed_wheel_is_what_is_imported(installed: Environment) -> None:
    where = installed.run("python", "-c", "import beliefzoo.models as m; print(m.__file__)")
    assert Path(where.strip()).is_relative_to(installed.scripts.parent)
    version = installed.run("python", "-c", "import beliefzoo; print(beliefzoo.__version__)")
    assert version.strip() == project()["version"]


def test_readme_example_runs_from_the_wheel(installed: Environment) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert example is not None, "README.md must hold an example in a ```python block"
    installed.run("python", "-c", example.group(1))


def test_command_line_runs_from_the_wheel(installed: Environment) -> None:
    assert "usage" in installed.run("beliefzoo", "--help").lower()


def test_constraints_pin_every_dependency_to_a_version_that_is_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    dependencies, extras = project()["dependencies"], project()["optional-dependencies"]
    for declared in sum((extras[name] for name in ("test", "check", "docs")), dependencies):
        requirement = Requirement(declared)
        pinned = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), declared
        assert "+" not in pinned, f"{declared} is pinned to a local version, {pinned}"


def test_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project()['version']}\n" in citation
