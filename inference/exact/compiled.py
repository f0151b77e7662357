"""Machine code that numba keeps on disk, wherever there is a place for it.

Numba keeps it beside the source, or in the user's cache. Where neither can be written to (an
installation by somebody else, without a home, as in containers), this process takes a folder of the
user's own among the temporary files; without one, everything is compiled anew.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.sigutils import normalize_signature


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like ``numba.njit`` with these options, whose code is kept on disk.

    Functions named with an underscore are for compiled code alone: without the entry from Python
    (a call from there is a crash) they compile faster.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        inner = function.__name__.startswith("_")
        entries: Any = {"no_cfunc_wrapper": True, "no_cpython_wrapper": inner}
        made = njit(cache=_has_place(), **entries, **options)(function)
        _save_if_possible(made)
        _load_only_what_was_asked_for(made)
        _only_beside_the_same_callees(made)
        return made

    return decorate


@cache
def _has_place() -> bool:
    """Whether there is a place for code; takes one among the temporary files if need be."""

    def probe() -> None:
        """Is never compiled."""

    with contextlib.suppress(RuntimeError):  # numba: "no locator available"
        njit(cache=True)(probe)
        return True
    folder = _own_temporary_folder()
    if folder is not None:
        config.CACHE_DIR = os.fspath(folder)  # type: ignore[attr-defined]
    place = "not kept" if folder is None else f"kept in {folder}"
    warnings.warn(
        "beliefzoo: neither the package's folder nor the user's cache can be written to, so that "
        f"compiled code is {place}; set NUMBA_CACHE_DIR to a folder to keep it there",
        stacklevel=2,
    )
    return folder is not None


def _own_temporary_folder() -> Path | None:
    """A folder that nobody else can write to, since code is loaded from it; None without one."""
    try:
        owner = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir(), f"beliefzoo-numba-{owner}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        alone = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if own and (alone or os.name == "nt"):
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    except OSError:  # no temporary folder, or one that is full or belongs to somebody else
        return None
    return None


def _save_if_possible(made: Any) -> None:
    """Makes a full disk cost the saving of the code alone, and not the call that compiled it."""
    kept = getattr(made, "_cache", None)
    save = getattr(kept, "save_overload", None)
    if save is None:
        return

    def attempt(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            save(*arguments)

    kept.save_overload = attempt  # type: ignore[union-attr]


def _load_only_what_was_asked_for(made: Any) -> None:
    """Makes code that was compiled for other types than its index says be compiled anew.

    Two processes that compile a function at the same time, each for types of its own, can give
    their code the same name, of which the index keeps the types of the one and the file the code of
    the other. It would run, and read arrays of another layout.
    """
    kept = getattr(made, "_cache", None)
    load = getattr(kept, "load_overload", None)
    if load is None:
        return

    def attempt(signature: Any, context: Any) -> Any:
        found = load(signature, context)
        asked, _ = normalize_signature(signature)  # type: ignore[no-untyped-call]
        return found if found is None or tuple(found.signature.args) == tuple(asked) else None

    kept.load_overload = attempt  # type: ignore[union-attr]


def _only_beside_the_same_callees(made: Any) -> None:
    """Makes kept code count only while all machine code of the library is as it was.

    Numba looks at the file of a function alone, though functions of other files are part of its
    code: after a change there it would go on with the old ones, and give wrong numbers silently.
    """
    file = getattr(getattr(made, "_cache", None), "_cache_file", None)
    stamp = getattr(file, "_source_stamp", None)
    if stamp is not None:
        file._source_stamp = stamp, _all_machine_code()  # type: ignore[union-attr]


@cache
def _all_machine_code() -> int:
    """A checksum over all files with machine code."""
    root = Path(__file__).resolve().parent.parent
    contents = (path.read_bytes() for path in sorted(root.rglob("*_machine.py")))
    return functools.reduce(lambda total, content: zlib.crc32(content, total), contents, 0)
