"""Compiled code where nothing can be written: installed by another user, without a home."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

from beliefzoo.inference.exact import compiled

ELSEWHERE = """
import beliefzoo.inference
import beliefzoo.inference.exact.chains_machine
import beliefzoo.inference.exact.gaussian_machine
"""

RIGHTS = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    # As a user who may read everything, but not write: tests may lie where only root can look.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def may_change_user() -> bool:
    if shutil.which("setpriv") is None or not hasattr(os, "getuid") or os.getuid() != 0:
        return False
    return subprocess.run([*RIGHTS, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_change_user(), reason="needs root, to become another user")
def test_import_as_a_user_without_a_home(tmp_path: Path) -> None:
    """One warning, and the folder for the code belongs to that user alone."""
    place = tmp_path / "temporary"
    place.mkdir()
    place.chmod(0o1777)
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    environment |= {"HOME": "/nonexistent", "TMPDIR": os.fspath(place), "PYTHONWARNINGS": "default"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*RIGHTS, sys.executable, "-c", ELSEWHERE],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("neither the package's folder nor the user's cache can be") == 1
    (folder,) = place.glob("beliefzoo-numba-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == 65534


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Numba finds no place; the temporary folder is returned."""

    def refuse(*_: object, cache: bool = False, **__: object):
        if cache and not config.CACHE_DIR:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled, "njit", refuse)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: os.fspath(tmp_path))
    compiled._has_place.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def forget():
    yield
    compiled._has_place.cache_clear()


def test_code_goes_to_a_temporary_folder_with_one_warning(nowhere: Path) -> None:
    with pytest.warns(UserWarning, match=r"is kept in .*beliefzoo-numba-\d+; set NUMBA_CACHE"):
        assert compiled.compiled()(abs) is abs
    assert compiled.compiled()(abs) is abs  # further warnings would be errors
    assert Path(config.CACHE_DIR).parent == nowhere


@pytest.mark.parametrize("obstacle", ["open", "file", "link"])
def test_a_folder_that_others_could_fill_is_not_used(nowhere: Path, obstacle: str) -> None:
    """Code is loaded from there."""
    folder = nowhere / f"beliefzoo-numba-{os.getuid()}"
    if obstacle == "file":
        folder.write_text("mine")
    elif obstacle == "link":
        (nowhere / "theirs").mkdir()
        folder.symlink_to(nowhere / "theirs")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.warns(UserWarning, match="compiled code is not kept; set NUMBA_CACHE_DIR"):
        assert compiled.compiled()(abs) is abs
    assert config.CACHE_DIR == ""


def test_a_full_disk_costs_the_saving_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled.compiled()(lambda x: x + 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(made._cache), "_save_overload", full)
    assert made(2) == 3


def package_with(folder: Path, **files: str) -> Path:
    """A package ``exact`` of compiled functions, beside a copy of what compiles them."""
    place = folder / "exact"
    place.mkdir()
    shutil.copy(compiled.__file__, place / "compiled.py")
    (folder / "__init__.py").touch()
    (place / "__init__.py").touch()
    for name, code in files.items():
        (place / f"{name}.py").write_text("from .compiled import compiled\n" + code)
    return place


def printed(folder: Path, code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env=os.environ | {"PYTHONPATH": os.fspath(folder)},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout.split()


def test_code_is_made_anew_when_a_function_that_it_calls_has_changed(tmp_path: Path) -> None:
    """It lies in another file, of which numba alone takes no notice."""
    inner = "@compiled()\ndef _inner():\n    return {}\n"
    outer = "from .inner_machine import _inner\n@compiled()\ndef outer():\n    return _inner()\n"
    place = package_with(tmp_path, inner_machine=inner.format(1), outer_machine=outer)
    call = "from exact.outer_machine import outer; print(outer())"
    assert printed(tmp_path, call) == ["1"]
    (place / "inner_machine.py").write_text("from .compiled import compiled\n" + inner.format(2))
    assert printed(tmp_path, call) == ["2"]


def test_code_of_other_types_is_not_taken(tmp_path: Path) -> None:
    """As two processes leave it behind that compile the same function at the same time: the name of
    the code for every second number, and in its file the code for all numbers in turn."""
    code = "@compiled()\ndef total(x):\n    found = 0.0\n    for i in range(len(x)):\n"
    place = package_with(tmp_path, sums_machine=code + "        found += x[i]\n    return found\n")
    call = "import numpy as np; from exact.sums_machine import total; x = np.arange(6.0); "
    assert printed(tmp_path, call + "print(total(x), total(x[::2]))") == ["15.0", "6.0"]
    one, two = sorted(place.rglob("*.nbc"))
    for taken, other in ((one, two), (two, one)):
        kept = other.read_bytes()
        other.write_bytes(taken.read_bytes())
        assert printed(tmp_path, call + "print(total(x), total(x[::2]))") == ["15.0", "6.0"]
        other.write_bytes(kept)
