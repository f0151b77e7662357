"""Data larger than memory: a folder of files, of which a few sequences are read at a time."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require_path
from . import padding, tables
from .arrays import as_numbers
from .folder_files import (
    ALONG,
    header_of,
    lengths_of,
    named_files,
    read_names,
    require_inside,
    write_names,
)
from .parts import distinct, positions, split_bounds
from .sequences import Sequences

Array = npt.NDArray[Any]

_AT_ONCE = 2**22
"""Numbers, padding included, that a pass over all files holds in memory."""

_BLOCK = 1024
"""Bytes at the beginning, in the middle and at the end of a file that a fingerprint reads."""

_HASHED = 2**30
"""Bytes up to which it reads everything, which takes a second or two."""


@boundary
class SequenceFolder:
    """N sequences in a folder of ``.npy`` files, read from disk when they are needed.

    A file ``NAME.npy`` holds one sequence, (steps,) or (steps, features), NaN = missing. If a file
    ``NAME.lengths.npy`` of whole numbers lies beside it, it holds one sequence per length, end to
    end along the first axis; ``write_folder`` writes this form, which suits many short sequences.
    ``NAME.times.npy``, ``NAME.actions.npy``, ``NAME.rewards.npy`` and ``NAME.inputs.npy``, beside
    all files or none, hold one row per step. Hidden files and other kinds of files are ignored. The
    sequences are sorted by name; each is labelled NAME, or NAME[0], NAME[1], …

    Indexing, ``batches`` and ``sample`` return ``Sequences``, built as by
    ``Sequences.from_arrays``: whole numbers in torch's default floating type unless ``codes=True``,
    floating values in their precision. Opening the folder reads the headers and lengths of all
    files and keeps none of them mapped: the memory needed grows with the number of sequences (24
    bytes each), not with their sizes.

    A file ``beliefzoo.json``, which ``write_folder`` writes beside the data of ``Sequences``, says
    whether they are codes, and names and units; what is given here replaces it.

    Args:
        path: the folder.
        codes: the values are categories 0, 1, 2, …, of any whole type (floating with NaN where
            some are missing). None: as ``beliefzoo.json`` says, or numbers.
        features: names of the features.
        symbols: names of the codes.
        input_names: names of the input columns.
        units: of features, input columns and ``"time"``, by their names, as text.

    Raises:
        ValueError: there is no such folder or no such file in it; or, naming the file, one is a
            link out of the folder, is not a whole ``.npy`` file of numbers (nothing is ever
            unpickled), has another size than its header says, is empty, or does not agree with the
            others in its features, its type or the files beside it. When values are read: infinite
            values or invalid codes.

    >>> import tempfile
    >>> from beliefzoo.models import write_folder
    >>> with tempfile.TemporaryDirectory() as place:
    ...     data = SequenceFolder(write_folder([[0.1, 0.4], [0.2], [0.7, 0.5]], place))
    ...     print(len(data), data.n_steps, [len(batch) for batch in data.batches(2)])
    3 5 [2, 1]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codes: bool | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
        input_names: Iterable[object] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        require_path(path)
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"path must be a folder; got {os.fspath(path)!r}")
        known = read_names(self.path)
        self.is_codes: bool = known.get("codes", False) if codes is None else codes
        if symbols is not None and not self.is_codes:
            raise ValueError("symbols name integer codes; needs codes=True")
        self._names, self._parts = named_files(self.path)
        self._headers = [
            {part: header_of(self._file(name, part), part) for part in ("values", *self._parts)}
            for name in self._names
        ]
        self.n_features = self._agreed()
        self._index()
        if self.is_codes != known.get("codes", self.is_codes):
            known = {}  # read as something else: the names are of other things
        self._name({"features": features, "symbols": symbols, "input_names": input_names}, known)
        self.units = self._units_of(units, known.get("units", {}))
        self._checks: tuple[Callable[[Sequences], None], ...] = ()

    # Opening

    def _name(self, given: Mapping[str, Iterable[object] | None], known: Mapping[str, Any]) -> None:
        """Name features, symbols and input columns as given, or else as known, or else 0, 1, …"""
        features, symbols, inputs = (
            known.get(name) if one is None else one for name, one in given.items()
        )
        plain = ("code",) if self.is_codes else range(self.n_features)
        columns = self._headers[0]["inputs"].columns if "inputs" in self._parts else 0
        self.features = padding.names(() if features is None else features, "features", plain)
        self.symbols = None if symbols is None else padding.names(symbols, "symbols")
        named = () if inputs is None else inputs
        self.input_names = padding.names(named, "input_names", range(columns))

    def _units_of(self, given: object, known: Mapping[str, str]) -> dict[str, str]:
        have = (*self.features, *self.input_names, *(("time",) * ("times" in self._parts)))
        if given is None:  # columns that were renamed have lost theirs
            return {name: unit for name, unit in known.items() if name in have}
        return padding.units(given, have)

    def _file(self, name: str, part: str) -> Path:
        return self.path / (f"{name}.npy" if part == "values" else f"{name}.{part}.npy")

    def _agreed(self) -> int:
        """Number of features of all files, after a check that the files agree."""
        first = self._headers[0]
        for name, header in zip(self._names, self._headers, strict=True):
            for part, own in header.items():
                file = self._file(name, part).name
                if own.steps != header["values"].steps:
                    raise ValueError(
                        f"path: {file!r} must have {header['values'].steps} rows, as "
                        f"{name + '.npy'!r}; got {own.steps}"
                    )
                if own.columns != first[part].columns:
                    raise ValueError(
                        f"path: all files must have the same number of columns; got "
                        f"{first[part].columns} in {self._file(self._names[0], part).name!r} and "
                        f"{own.columns} in {file!r}"
                    )
                # Whole numbers become codes or times whatever their type is.
                free = part in ("times", "actions", "rewards") or (
                    part == "values" and self.is_codes
                )
                if own.kind != first[part].kind and not free:
                    raise ValueError(
                        f"path: all files must be of the same type; got {first[part].kind} numbers "
                        f"in {self._file(self._names[0], part).name!r} and {own.kind} in {file!r}"
                    )
        if self.is_codes and first["values"].columns != 1:
            raise ValueError(
                f"path: codes must have one feature; got {first['values'].columns} columns in "
                f"{self._names[0] + '.npy'!r}"
            )
        return first["values"].columns

    def _index(self) -> None:
        """Find the file, first row, number of rows and place in its file of every sequence."""
        lengths = []
        for name, header in zip(self._names, self._headers, strict=True):
            beside = self._file(name, "lengths")
            if beside.exists():
                lengths.append(lengths_of(beside, header["values"].steps))
            else:
                lengths.append(np.array([header["values"].steps]))
        counts = [len(one) for one in lengths]
        self._length = np.concatenate(lengths)
        self._in_file = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._begin = np.concatenate([one.cumsum() - one for one in lengths])
        self._place = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        self._packed = [self._file(name, "lengths").exists() for name in self._names]

    # Sizes

    def __len__(self) -> int:
        return len(self._length)

    @property
    def n_sequences(self) -> int:
        """Number of sequences N."""
        return len(self)

    @property
    def lengths(self) -> Tensor:
        """Number of steps of every sequence, (N,) int64."""
        return torch.from_numpy(self._length.copy())

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the sequences: the file's name, with the place in it if it holds several."""
        return tuple(self._label(n) for n in range(len(self)))

    @property
    def max_length(self) -> int:
        """Number of steps of the longest sequence."""
        return int(self._length.max())

    @property
    def n_steps(self) -> int:
        """Number of steps of all sequences."""
        return int(self._length.sum())

    def _label(self, n: int) -> str:
        file = int(self._in_file[n])
        return f"{self._names[file]}[{self._place[n]}]" if self._packed[file] else self._names[file]

    def __repr__(self) -> str:
        kind = "codes" if self.is_codes else "numbers"
        units = f", units={self.units}" if self.units else ""
        return (
            f"SequenceFolder({os.fspath(self.path)!r}, n_sequences={len(self)}, "
            f"max_length={self.max_length}, n_features={self.n_features}, "
            f"n_steps={self.n_steps}, {kind}{units})"
        )

    # Parts

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | Array) -> Sequences:
        """Read the chosen sequences from disk; ``index`` as for ``Sequences``."""
        chosen = positions(index, len(self)).numpy()
        try:
            return self._read(chosen)
        except ValueError as error:
            raise ValueError(f"{self._culprit(chosen)!r}: {error}") from error

    def __iter__(self) -> Iterator[Sequences]:
        return (self[n] for n in range(len(self)))

    def _read(self, chosen: Array) -> Sequences:
        names = ("values", *self._parts)
        arrays: dict[str, list[Array]] = {part: [np.empty(0)] * len(chosen) for part in names}
        opened, mapped = -1, dict[str, Array]()
        for n in np.argsort(self._in_file[chosen], kind="stable"):
            one = chosen[n]
            if self._in_file[one] != opened:
                opened = self._in_file[one]
                mapped = {part: self._mapped(opened, part) for part in names}
            rows = slice(self._begin[one], self._begin[one] + self._length[one])
            for part in names:
                arrays[part][n] = np.array(mapped[part][rows])
        read = tables.read_arrays(arrays.pop("values"), {p: arrays.get(p) for p in ALONG})
        along = {part: read.get(part) for part in ALONG}
        fields: dict[str, Any] = padding.canonical(
            read["values"], None, read["lengths"], along, codes=self.is_codes, blank=True
        )
        data = Sequences(
            **fields,
            labels=distinct([self._label(n) for n in chosen]),
            features=self.features,
            symbols=self.symbols,
            input_names=self.input_names,
            units=self.units,
        )
        for check in self._checks:
            check(data)
        return data

    def _mapped(self, file: int, part: str) -> Array:
        path, header = self._file(self._names[file], part), self._headers[file][part]
        require_inside(self.path, [path.name])  # it may have become one since
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ValueError(f"path: {path.name!r} cannot be read any more ({error})") from error
        if size != header.size:
            raise ValueError(
                f"path: {path.name!r} has changed, it had {header.size} bytes when the folder was "
                f"opened; got {size}"
            )
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, header.order)

    def _culprit(self, chosen: Array) -> str:
        """Name of the file of the first sequence that cannot be read by itself."""
        for one in chosen:
            try:
                self._read(one[None])
            except ValueError:
                return f"{self._names[self._in_file[one]]}.npy"
        return os.fspath(self.path)

    def _view(self, chosen: Array) -> SequenceFolder:
        part = copy.copy(self)
        for name in ("_length", "_in_file", "_begin", "_place"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def split(
        self, parts: Sequence[float] | Sequence[int], *, seed: int
    ) -> tuple[SequenceFolder, ...]:
        """Split at random into disjoint parts, the same as ``Sequences.split`` makes.

        Nothing is read: each part is the same folder with fewer sequences.

        Args:
            parts: fractions or numbers of sequences, as for ``Sequences.split``.
            seed: seed of the shuffle.

        Returns:
            The parts.

        Raises:
            ValueError: other ``parts``, or a part would be empty.
        """
        bounds = split_bounds(parts, len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).numpy()
        return tuple(self._view(np.sort(order[low:high])) for low, high in pairwise(bounds))

    def batches(
        self, size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[Sequences]:
        """Iterate once over all sequences, reading ``size`` at a time (fewer in the last batch).

        Args:
            size: sequences per batch.
            generator: shuffles the sequences; in order if None. The batches are those of
                ``Sequences.batches``.

        Returns:
            An iterator of batches.

        Raises:
            ValueError: a size that is no whole number >= 1.
        """
        _need_count(size, "size")
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator, device=generator.device)
        return (self[chosen] for chosen in order.split(int(size)))

    def sample(self, n: int = 4096, *, seed: int = 0, numbers: int = 2**24) -> Sequences:
        """Read randomly chosen sequences, for what needs only some of the data.

        Args:
            n: largest number of sequences.
            seed: seed of the choice.
            numbers: largest size, padding included (2^24 numbers are 64 MB in float32); one
                sequence is always read.

        Returns:
            The sequences, in the order of the folder.

        Raises:
            ValueError: n is no whole number >= 1.
        """
        _need_count(n, "n")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).numpy()
        order = order[: int(n)]
        padded = np.maximum.accumulate(self._length[order]) * np.arange(1, len(order) + 1)
        fitting = int((padded * self.n_features <= numbers).sum())
        return self[np.sort(order[: max(1, fitting)])]

    def pieces(self) -> Iterator[Sequences]:
        """Iterate once over all sequences, in order, a few megabytes at a time."""
        return self.batches(max(1, _AT_ONCE // (self.max_length * self.n_features)))

    def checked_by(self, check: Callable[[Sequences], None]) -> SequenceFolder:
        """Return the same folder, with ``check`` called on all that is read.

        A ``ValueError`` of ``check`` is raised again with the name of the file.
        """
        part = copy.copy(self)
        part._checks = (*self._checks, check)
        return part

    def fingerprint(self) -> str:
        """Return a digest that tells folders apart.

        It depends on the names, headers and sizes of the files, on their content up to a gigabyte,
        or on a few kilobytes of each where there is more, and on which sequences are chosen; not on
        where the folder is, or on the dates of its files.
        """
        parts = ("values", *self._parts)
        files = [self._file(name, part) for name in self._names for part in parts]
        whole = sum(path.stat().st_size for path in files) <= _HASHED
        named = self.is_codes, self.features, self.symbols, self.input_names, self.units
        digest = hashlib.sha256(repr(named).encode())
        for number, name in enumerate(self._names):
            for part in ("values", *self._parts):
                path = self._file(name, part)
                size = path.stat().st_size
                digest.update(repr((path.name, self._headers[number][part].shape, size)).encode())
                with path.open("rb") as file:
                    if whole:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
                        continue
                    for start in (0, (size - _BLOCK) // 2, size - _BLOCK):
                        file.seek(max(start, 0))
                        digest.update(file.read(_BLOCK))
        for index in (self._length, self._in_file, self._begin):
            digest.update(index.tobytes())
        return digest.hexdigest()


Data = Sequences | SequenceFolder
"""Sequences in memory or on disk."""


@boundary
def write_folder(
    sequences: Sequences | Iterable[npt.ArrayLike],
    path: str | os.PathLike[str],
    *,
    codes: bool = False,
    file_size: int = 2**27,
) -> Path:
    """Write sequences into a new folder that ``SequenceFolder`` reads, many per file.

    Args:
        sequences: an iterable of arrays (steps,) or (steps, features), NaN = missing, whole or of
            one floating type, which is gone through once; or ``Sequences``, of which all but the
            labels is written, names and units into ``beliefzoo.json``.
        path: a folder that does not exist, or is empty. It appears when everything is written.
        codes: the numbers are categories 0, 1, 2, … (``Sequences`` know this by themselves); the
            folder says so in ``beliefzoo.json``.
        file_size: bytes after which another file is begun; also the memory that is needed.

    Returns:
        The folder.

    Raises:
        ValueError: there is no sequence, one is empty, they differ in type or number of features,
            values are infinite, codes are invalid, or ``path`` cannot be made.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = write_folder(([n, n + 1] for n in range(1000)), Path(place) / "counts")
    ...     print(sorted(file.name for file in folder.iterdir()))
    ['000000.lengths.npy', '000000.npy']
    """
    require_path(path)
    target = Path(path)
    empty = target.is_dir() and not any(target.iterdir())
    if not target.absolute().parent.is_dir() or (target.exists() and not empty):
        raise ValueError(
            f"path must be a new folder inside an existing one; got {os.fspath(path)!r}"
        )
    _need_count(file_size, "file_size")
    if isinstance(sequences, Sequences):
        rows = _rows_of(sequences)
    else:
        rows = _checked_rows(sequences, codes)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        for number, shard in enumerate(_shards(rows, file_size)):
            for part, arrays in shard.items():
                suffix = "" if part == "values" else f".{part}"
                np.save(temporary / f"{number:06d}{suffix}.npy", np.concatenate(arrays))
            lengths = np.array([len(one) for one in shard["values"]])
            np.save(temporary / f"{number:06d}.lengths.npy", lengths)
        if not any(temporary.iterdir()):
            raise ValueError("sequences must hold at least one array; got none")
        if isinstance(sequences, Sequences):
            write_names(temporary, sequences)
        elif codes:
            write_names(temporary, None)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


# Writing


def _rows_of(data: Sequences) -> Iterator[dict[str, Array]]:
    """The sequences one by one, without padding, each with what goes with its steps."""
    for one in data.batches(1):
        rows = {"values": one.arrays()[0]}
        for part in ALONG:
            along = getattr(one, part)
            if along is not None:
                rows[part] = along[0].cpu().numpy()
        yield rows


def _checked_rows(arrays: Iterable[npt.ArrayLike], codes: bool) -> Iterator[dict[str, Array]]:
    if isinstance(arrays, str | bytes | dict) or not isinstance(arrays, Iterable):
        raise ValueError(f"sequences must be arrays, one per sequence; got {type(arrays).__name__}")
    tables.require_no_column(arrays, "sequences")
    first: Array | None = None
    for n, given in enumerate(arrays):
        name = f"sequences[{n}]"
        rows = as_numbers(given, name)
        first = rows if first is None else first
        if rows.ndim not in (1, 2) or 0 in rows.shape or rows.shape[1:] != first.shape[1:]:
            axes = "(steps,) or (steps, features)"
            raise ValueError(
                f"{name} must have shape {axes}, as all others, no size 0; got {rows.shape}"
            )
        if rows.dtype != first.dtype and not codes:
            raise ValueError(
                f"{name} must be {first.dtype}, as the arrays before; got {rows.dtype}"
            )
        bad = np.isinf(rows)
        if codes:
            seen = np.where(np.isnan(rows), 0, rows)
            bad |= (seen < 0) | (seen != np.floor(seen))
        if bad.any():
            requirement = "hold codes 0, 1, 2, …" if codes else "be finite (NaN = missing)"
            raise ValueError(f"{name} must {requirement}; got {rows[bad][0]}")
        # Whole numbers take no more room than they came in: counts in one byte, for instance.
        yield {"values": given if isinstance(given, np.ndarray) else rows}


def _shards(rows: Iterator[dict[str, Array]], file_size: int) -> Iterator[dict[str, list[Array]]]:
    """Gather sequences until they fill a file."""
    shard: dict[str, list[Array]] = {}
    held = 0
    for one in rows:
        size = sum(part.nbytes for part in one.values())
        if shard and held + size > file_size:
            yield shard
            shard, held = {}, 0
        for name, part in one.items():
            shard.setdefault(name, []).append(part)
        held += size
    if shard:
        yield shard


def _need_count(value: object, name: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
