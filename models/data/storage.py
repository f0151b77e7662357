"""Files with a checksum: written completely or not at all, and read without unpickling.

A file of tensors is a line with the checksum, followed by what ``torch.save`` makes; a file of JSON
holds it as its last entry. Whatever is damaged is refused by a ``ValueError`` that names the file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

import torch

Form = Mapping[str, type | tuple[type, ...]]
"""Entries that a file must have, and of which types they are."""

_ROOM = 2**16
"""Bytes: a disk with less room is full."""

_SEAL = re.compile(rb"beliefzoo ([a-z]+) ([0-9a-f]{64})")
_OPEN = "0" * 64
"""Stands for the checksum of a JSON file while it is computed."""


def write_tensors(path: str | os.PathLike[str], content: Mapping[str, object], kind: str) -> Path:
    """Write tensors and plain values, completely or not at all.

    Args:
        path: the file.
        content: its entries.
        kind: what they are together, in a word.

    Raises:
        ValueError: no existing folder.
        OSError: the disk is full or cannot be written; names the file.
    """
    held = io.BytesIO()  # torch's writer does not say why it cannot write
    torch.save(dict(content), held)
    with held.getbuffer() as body, whole_file(path) as file:
        file.write(f"beliefzoo {kind} {hashlib.sha256(body).hexdigest()}\n".encode())
        file.write(body)
    return Path(path)


def read_tensors(path: str | os.PathLike[str], form: Form, kind: str) -> dict[str, Any]:
    """Read what ``write_tensors`` wrote, without unpickling; it must be of the kind and the form.

    Raises:
        ValueError: a missing or damaged file, or one of something else; names the file.
    """
    name, raw = _bytes_of(path)
    head, _, body = raw.partition(b"\n")
    sealed = _SEAL.fullmatch(head)
    if sealed is None:
        older = ", as one of an earlier version (save it again with this one)"
        raise ValueError(
            f"path: needs a whole file written by beliefzoo, got {name!r}, which does not begin "
            f"with its checksum{older if raw.startswith(b'PK') else ''}"
        )
    found, checksum = (part.decode() for part in sealed.groups())
    if found != kind:
        raise ValueError(f"path: needs a {kind} written by beliefzoo, got {name!r} with a {found}")
    if checksum != hashlib.sha256(body).hexdigest():
        raise _damaged(name)
    with reading(path, "a file of tensors"):
        content = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    return require_form(content, form, name)


def write_json(path: str | os.PathLike[str], content: Mapping[str, object]) -> Path:
    """Write plain values as JSON, indented for people, completely or not at all.

    Raises:
        ValueError: no existing folder, or a value that JSON cannot hold.
        OSError: the disk is full or cannot be written; names the file.
    """
    text = sealed_json(content)
    with whole_file(path) as file:
        file.write(text)
    return Path(path)


def sealed_json(content: Mapping[str, object]) -> bytes:
    """The text of a JSON file, with its checksum."""
    plain = {**content, "checksum": _OPEN}
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _sealed(text.encode())


def read_json(path: str | os.PathLike[str], form: Form) -> dict[str, Any]:
    """Read what ``write_json`` wrote; it must have the form.

    Raises:
        ValueError: a missing or damaged file, or one of something else; names the file.
    """
    name, raw = _bytes_of(path)
    with reading(path, "JSON"):
        content = json.loads(raw.decode())
    told = require_form(content, {"checksum": str}, name).pop("checksum")
    # The last of that text: there may be such words in the content.
    before, mark, after = raw.rpartition(told.encode())
    if len(told) != len(_OPEN) or not mark or _sealed(before + _OPEN.encode() + after) != raw:
        raise _damaged(name)
    return require_form(content, form, name)


def _sealed(text: bytes) -> bytes:
    """A text that ends in an open checksum, with the checksum of it."""
    before, mark, after = text.rpartition(_OPEN.encode())
    return before + hashlib.sha256(before + mark + after).hexdigest().encode() + after


@contextmanager
def whole_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path`` that is moved onto it when the block ends without error.

    A reader of ``path`` sees the old file or the new one, never a part of either; after an error
    the old file stays and the new one is gone.

    Raises:
        ValueError: no existing folder.
        OSError: the disk is full or cannot be written; names the file.
    """
    target = Path(_name_of(path))
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"path: needs a file in an existing folder, got {os.fspath(path)!r}")
    # Beside the target, so that it can be renamed onto it; not from tempfile, whose files nobody
    # but their owner may read.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(target)
    except BaseException as error:
        code = _why_not_written(error, target.parent)
        temporary.unlink(missing_ok=True)
        if code is not None:
            raise OSError(code, os.strerror(code), os.fspath(path)) from error
        raise


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete.

    Raises:
        ValueError: no existing folder.
        OSError: the disk is full or cannot be written; names the file.
    """
    with whole_path(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _why_not_written(error: BaseException, folder: Path) -> int | None:
    """The system's number of an error in writing; libraries may have kept that of a full disk."""
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return error.errno
    full = isinstance(error, OSError | RuntimeError) and shutil.disk_usage(folder).free < _ROOM
    return errno.ENOSPC if full else None


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what a process left that was killed while it wrote the file of that name, or any."""
    wanted = "*" if name is None else glob.escape(name)
    digits = "[0-9a-f]" * 32
    for left in folder.glob(f".{wanted}.{digits}"):
        left.unlink(missing_ok=True)


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever a file's content makes go wrong into a ``ValueError`` that names the file.

    Args:
        path: the file.
        what: it should hold.
    """
    name = os.fspath(path)
    try:
        yield
    except Exception as error:  # classes that a file names may raise anything
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError | JSONDecodeError):
            said = str(error) if repr(name) in str(error) else f"{error} (in {name!r})"
            raise ValueError(said) from error
        raise ValueError(
            f"path: needs a whole description of {what}, got {name!r}, which lacks or distorts it "
            f"({type(error).__name__}: {error})"
        ) from error


def require_form(content: object, form: Form, name: str) -> dict[str, Any]:
    """The content of a file, if it has these entries of these types.

    Raises:
        ValueError: naming the file.
    """
    if not isinstance(content, dict) or not set(form) <= set(content):
        have = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"path: needs a file with {sorted(form)}, got {name!r} with {have}")
    for entry, kinds in form.items():
        value = content[entry]
        fits = isinstance(value, kinds) and not (isinstance(value, bool) and kinds in (int, float))
        if not fits:
            wanted = kinds if isinstance(kinds, tuple) else (kinds,)
            raise ValueError(
                f"path: needs a file whose {entry!r} is of type "
                f"{' or '.join(kind.__name__ for kind in wanted)}, got {name!r} with {value!r:.99}"
            )
    return content


def _name_of(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ValueError(f"path: must be the name of a file, got {path!r}")
    return os.fspath(path)


def _bytes_of(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    name = _name_of(path)
    if not Path(name).is_file():
        raise ValueError(f"path: needs an existing file, got {name!r}")
    return name, Path(name).read_bytes()


def _damaged(name: str) -> ValueError:
    return ValueError(
        f"path: needs a whole file written by beliefzoo, got {name!r}, whose content does not have "
        "its checksum: it is damaged or was changed"
    )
