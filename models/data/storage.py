"""Files of tensors: written completely or not at all, and read without unpickling."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


def write_tensors(path: str | os.PathLike[str], content: Mapping[str, object]) -> Path:
    """Write tensors and plain values with ``torch.save``, completely or not at all."""
    with whole_file(path) as file:
        torch.save(content, file)
    return Path(path)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete."""
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"path: needs a file in an existing folder, got {os.fspath(path)!r}")
    # Beside the target, so that it can be renamed onto it; not from tempfile, whose files nobody
    # but their owner may read.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_tensors(path: str | os.PathLike[str], keys: set[str]) -> dict[str, Any]:
    """Read what ``write_tensors`` wrote, without unpickling; it must have ``keys``."""
    name = os.fspath(path)
    if not Path(path).is_file():
        raise ValueError(f"path: needs an existing file, got {name!r}")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for truncated and foreign files
        raise ValueError(
            f"path: needs a whole file written by beliefzoo, got {name!r}, which cannot be read "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not keys <= set(content):
        have = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"path: needs a file with {sorted(keys)}, got {name!r} with {have}")
    return content
