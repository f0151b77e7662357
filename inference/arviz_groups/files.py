"""NetCDF files of inference data, whole or not at all, with a checksum at their end."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .groups import Idata, assemble, datasets_of, tree_of

if TYPE_CHECKING:
    import xarray as xr

_ROOM = 2**16  # bytes: a disk with less room is full
_SEAL = re.compile(rb"beliefzoo netcdf ([0-9a-f]{64})\n")
_SEAL_SIZE = 82

_ESCAPED = "escaped"
"""Attribute of a variable whose strings a file holds with the backslashes of Python's literals."""

_NOT_IN_FILES = re.compile("[\0\ud800-\udfff]")
"""NetCDF's strings end at a zero, and its UTF-8 has no lone surrogates."""


def write(idata: Idata, path: str | os.PathLike[str]) -> None:
    """Writes a NetCDF file, completely or not at all, replacing an existing one.

    Numbers are compressed without loss and have checksums. Either ArviZ major version reads the
    file; `read` alone gives back labels with zeros or lone surrogates, which a NetCDF file cannot
    hold as they are.

    Args:
        idata: what to write.
        path: the file.

    Raises:
        ValueError: the folder of `path` does not exist.
        OSError: the disk is full; names the file.

    >>> import pathlib, tempfile
    >>> from beliefzoo.inference import arviz_groups, write
    >>> idata = arviz_groups.build({"posterior": {"rate": [[4.1, 3.9]]}}, dims={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(idata, f"{folder}/posterior.nc")
    ...     [path.name for path in pathlib.Path(folder).iterdir()]
    ['posterior.nc']
    """
    encoding = {
        f"/{name}": {
            str(key): {"zlib": True, "complevel": 1, "fletcher32": True}  # a checksum of HDF5
            for key, variable in dataset.variables.items()
            if variable.dtype.kind in "biuf" and variable.ndim > 0
        }
        for name, dataset in datasets_of(idata).items()
    }
    tree = tree_of({name: _escaped(one) for name, one in datasets_of(idata).items()}, idata.attrs)
    with replacing(path) as unfinished:
        tree.to_netcdf(unfinished, engine="netcdf4", format="NETCDF4", encoding=encoding)
        _seal(unfinished)


def read(path: str | os.PathLike[str]) -> Idata:
    """Reads a NetCDF file written by `write` or by ArviZ of either major version, into memory.

    Args:
        path: the file.

    Returns:
        `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (1.x).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not NetCDF or is incomplete.

    >>> import tempfile
    >>> from beliefzoo.inference import arviz_groups, read, write
    >>> idata = arviz_groups.build({"observed_data": {"obs": [1, 2, 3]}}, dims={"obs": ["time"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(idata, f"{folder}/data.nc")
    ...     again = read(f"{folder}/data.nc")
    >>> arviz_groups.group(again, "observed_data")["obs"].values.tolist()
    [1, 2, 3]
    """
    import xarray as xr

    if not _path(path).is_file():
        raise FileNotFoundError(f"path must be a NetCDF file; there is none at {path}")
    _require_seal(_path(path))
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            nodes = tree.children.items()
            datasets = {name: _unescaped(node.to_dataset().load()) for name, node in nodes}
            return assemble(datasets, tree.attrs)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"path must be a complete NetCDF file; {path}: {error}") from error


def _seal(path: Path) -> None:
    """Append the checksum of a file, which HDF5 does not read, to it."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(b"beliefzoo netcdf %b\n" % digest.encode())


def _require_seal(path: Path) -> None:
    """Raise ``ValueError`` for a file that ends in the checksum of other bytes: HDF5 may crash."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_SIZE))
        left, sealed = file.tell(), _SEAL.fullmatch(file.read())
        if sealed is None:  # written by ArviZ
            return
        file.seek(0)
        digest = hashlib.sha256()
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != sealed[1]:
        raise ValueError(f"path must be a complete NetCDF file; {path}: other bytes than written")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that is moved onto it when the block ends without error.

    A reader of `path` sees the old file or the new one, never a part of either; after an error
    the old file stays and the temporary one is gone.

    Raises:
        ValueError: if the folder of `path` does not exist.
    """
    target = _path(path)
    if not target.parent.is_dir():
        raise ValueError(f"path must lie in an existing folder; {target.parent} is none")
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as folder:
        # A folder of its own: the file inside is made with the user's usual permissions.
        unfinished = Path(folder) / target.name
        try:
            yield unfinished
            os.replace(unfinished, target)
        except (OSError, RuntimeError) as error:  # HDF5 does not say why it cannot write
            if shutil.disk_usage(target.parent).free < _ROOM:
                said = os.strerror(errno.ENOSPC)
                raise OSError(errno.ENOSPC, said, os.fspath(target)) from error
            raise


def _path(given: str | os.PathLike[str]) -> Path:
    """The path; ``ValueError`` for what is none."""
    if not isinstance(given, str | os.PathLike) or "\0" in str(given):
        raise ValueError(f"path: must be a path, got {given!r}")
    return Path(given)


def _escaped(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with strings that a file can hold."""

    def unheld(variable: xr.Variable) -> bool:
        text = variable.dtype.kind == "U"
        return text and bool(_NOT_IN_FILES.search("".join(variable.values.flat)))

    names = [name for name, variable in dataset.variables.items() if unheld(variable)]
    return _recoded(
        dataset, names, lambda text: text.encode("unicode_escape").decode("ascii"), True
    )


def _unescaped(dataset: xr.Dataset) -> xr.Dataset:
    """What `_escaped` was given."""
    names = [name for name, variable in dataset.variables.items() if _ESCAPED in variable.attrs]
    return _recoded(
        dataset, names, lambda text: text.encode("ascii").decode("unicode_escape"), False
    )


def _recoded(
    dataset: xr.Dataset, names: Sequence[Any], recode: Callable[[str], str], escaped: bool
) -> xr.Dataset:
    variables = {}
    for name in names:
        old = dataset.variables[name]
        texts = np.array([recode(str(text)) for text in old.values.flat]).reshape(old.shape)
        attrs = {key: value for key, value in old.attrs.items() if key != _ESCAPED}
        variables[name] = old.dims, texts, attrs | ({_ESCAPED: 1} if escaped else {})
    return dataset.assign(variables)
