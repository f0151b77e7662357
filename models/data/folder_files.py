"""Files of a ``SequenceFolder``: their headers, what lies beside them, and the names of columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .sequences import Sequences
from .storage import read_json, write_json

Array = npt.NDArray[Any]

ALONG = ("times", "actions", "rewards", "inputs")
_BESIDE = ("lengths", *ALONG)

_NAMES = "beliefzoo.json"
_FORM: dict[str, type | tuple[type, ...]] = {
    "codes": bool,
    "features": list,
    "symbols": (list, type(None)),
    "input_names": list,
    "units": dict,
}


class Header(NamedTuple):
    """Type, shape and place of the numbers, as the header of a file gives them."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int
    size: int
    """Bytes of the file, header and numbers."""

    @property
    def steps(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return 1 if len(self.shape) == 1 else self.shape[1]

    @property
    def kind(self) -> str:
        """``"whole"``, or the name of a floating type."""
        return self.dtype.newbyteorder("=").name if self.dtype.kind == "f" else "whole"


def write_names(folder: Path, data: Sequences | None) -> None:
    """Write whether the data are codes, and the names and units of columns; None: of codes."""
    named: dict[str, object] = {
        "codes": True,
        "features": ["code"],
        "symbols": None,
        "input_names": [],
        "units": {},
    }
    if data is not None:
        named = {
            "codes": data.is_codes,
            "features": list(data.features),
            "symbols": None if data.symbols is None else list(data.symbols),
            "input_names": list(data.input_names),
            "units": dict(data.units),
        }
    write_json(folder / _NAMES, named)


def read_names(folder: Path) -> Mapping[str, Any]:
    """What ``write_names`` wrote; empty where there is no such file.

    Raises:
        ValueError: it is damaged, or a link out of the folder.
    """
    if not (folder / _NAMES).exists():
        return {}
    require_inside(folder, [_NAMES])
    return read_json(folder / _NAMES, _FORM)


def named_files(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Sorted names of the files with values, and which kinds of ``ALONG`` lie beside them."""
    found = {file.name for file in path.glob("*.npy") if not file.name.startswith(".")}
    beside = {file for file in found if file.removesuffix(".npy").endswith(_suffixes())}
    names = sorted(file.removesuffix(".npy") for file in found - beside)
    if not names:
        raise ValueError(f"path must be a folder of .npy files; got none in {os.fspath(path)!r}")
    require_inside(path, sorted(found))
    for file in sorted(beside):
        if f"{file.removesuffix('.npy').rpartition('.')[0]}.npy" not in found:
            raise ValueError(
                f"path: {file!r} must lie beside the file that it belongs to; got none"
            )
    parts = tuple(part for part in ALONG if any(f"{name}.{part}.npy" in found for name in names))
    for part in parts:
        for name in names:
            if f"{name}.{part}.npy" not in found:
                raise ValueError(
                    f"path: all files or none must have {part} beside them; "
                    f"got no {f'{name}.{part}.npy'!r}"
                )
    return names, parts


def _suffixes() -> tuple[str, ...]:
    return tuple(f".{part}" for part in _BESIDE)


def require_inside(folder: Path, names: Iterable[str]) -> None:
    """Raise ``ValueError`` for a file that is a link out of its folder."""
    inside = folder.resolve()
    for name in names:
        file = folder / name
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            raise ValueError(
                f"path: {name!r} must lie in the folder itself; got a link to "
                f"{os.fspath(file.resolve())!r}"
            )


def _mapped(path: Path) -> np.memmap[Any, Any]:
    """Map the numbers of a file into memory without reading them."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(
            f"path: {path.name!r} must be a whole .npy file of numbers ({error})"
        ) from error
    size, told = path.stat().st_size, mapped.offset + mapped.nbytes
    if size != told:
        raise ValueError(f"path: {path.name!r} must have {told} bytes by its header; got {size}")
    return mapped


def header_of(path: Path, part: str) -> Header:
    """The header of a file of values, or of what lies beside it.

    Raises:
        ValueError: anything but a whole ``.npy`` file of numbers with a fitting shape.
    """
    mapped = _mapped(path)
    wide = part in ("values", "inputs")
    if mapped.ndim not in ((1, 2) if wide else (1,)) or 0 in mapped.shape:
        shape = "(steps,) or (steps, columns)" if wide else "(steps,)"
        raise ValueError(
            f"path: {path.name!r} must have shape {shape}, no size 0; got {mapped.shape}"
        )
    if mapped.dtype.kind not in "biuf":
        raise ValueError(f"path: {path.name!r} must hold numbers; got dtype {mapped.dtype}")
    order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
    size = mapped.offset + mapped.nbytes
    return Header(mapped.dtype, mapped.shape, order, mapped.offset, size)


def lengths_of(path: Path, steps: int) -> Array:
    """The lengths of the sequences in a file of so many steps.

    Raises:
        ValueError: a damaged file, or other numbers than lengths that sum to the steps.
    """
    mapped = _mapped(path)
    whole = mapped.ndim == 1 and mapped.dtype.kind in "iu" and len(mapped) > 0
    if not whole or mapped.min() < 1 or mapped.sum() != steps:
        told = f"sum {mapped.sum()}" if whole else f"{mapped.dtype} of shape {mapped.shape}"
        raise ValueError(
            f"path: {path.name!r} must hold whole numbers >= 1 that sum to {steps}, the rows of "
            f"the file beside it; got {told}"
        )
    return np.array(mapped, dtype=np.int64)
