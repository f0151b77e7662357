"""Provenance of numbers: versions of the packages used, and the commit of the source."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__, models

_PACKAGES = {
    "beliefzoo": "beliefzoo",
    "torch": "torch",
    "pyro": "pyro-ppl",
    "arviz": "arviz",
    "numpy": "numpy",
}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **dict(_packages())}


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    return tuple((name, _version(package)) for name, package in _PACKAGES.items())


def _version(package: str) -> str:
    """Its version; "unknown" without metadata, which is no reason to lose what was computed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def source_commit() -> str | None:
    """Commit of the checkout that this file is part of; None outside of one.

    " with changes" is appended if tracked files differ from it.
    """
    source = Path(__file__).resolve()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(source.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    try:
        # An environment inside somebody's repository is not a checkout of this library.
        if git("ls-files", "--error-unmatch", source.name).returncode:
            return None
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except OSError:  # no git on this machine
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + (" with changes" if changed else "")


def code_version(*further: Path) -> str:
    """The library's version and a digest of the source of its models and inference.

    Equal versions mean equal code, in a checkout with changes too.

    Args:
        further: more files that results depend on.
    """
    folders = (Path(models.__file__).parent, Path(__file__).parents[1])
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    digest = hashlib.sha256()
    for path in (*files, *further):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return f"{__version__}+{digest.hexdigest()[:12]}"
