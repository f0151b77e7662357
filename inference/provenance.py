"""Where numbers come from: versions of what they depend on, and the commit of the source."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = {
    "beliefzoo": "beliefzoo",
    "torch": "torch",
    "pyro": "pyro-ppl",
    "arviz": "arviz",
    "numpy": "numpy",
}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {name: version(package) for name, package in _PACKAGES.items()}
    return {"python": platform.python_version(), **found}


def source_commit() -> str | None:
    """Commit of the checkout that this file is part of, None outside of one.

    Followed by " with changes" where tracked files differ from it.
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
