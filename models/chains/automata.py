"""Probabilistic automata and strings in the text formats of the PAutomaC challenge."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_path
from ..data.sequences import Sequences
from .labelled import ROUNDED, LabelledHMM

_ENTRY = re.compile(r"\(\s*(\d+(?:\s*,\s*\d+)*)\s*\)\s+(\S+)\s*$")
"""A line of a section: the places in brackets, and the number."""

_PLACES = {"I": 1, "F": 1, "S": 2, "T": 3}
"""Sections, and how many places an entry of them has."""

Entries = dict[str, dict[tuple[int, ...], float]]


@boundary
def as_strings(words: Iterable[Sequence[int]], symbols: int) -> Sequences:
    """Build sequences from strings of codes, each followed by the end symbol.

    Args:
        words: codes 0 to symbols − 1 of every string; it may be empty.
        symbols: number of symbols V; the end is code V, as for ``LabelledHMM(…, ends=True)``.

    Returns:
        The sequences, one step longer than the strings.

    Raises:
        ValueError: no string, or a code out of range, which is named.

    >>> as_strings([[0, 1, 1], []], symbols=2).arrays()
    [array([0, 1, 1, 2]), array([2])]
    """
    require_count(symbols, "symbols")
    listed = [list(word) for word in words]
    require(bool(listed), "words", "needs at least one string", "none")
    lengths = torch.tensor([len(word) + 1 for word in listed])
    values = torch.full((len(listed), int(lengths.max())), int(symbols))
    for n, word in enumerate(listed):
        for code in word:
            whole = isinstance(code, Integral) and not isinstance(code, bool)
            fits = whole and 0 <= code < symbols
            require(fits, "words", f"needs codes 0 to {symbols - 1}", f"{code!r} in string {n}")
        values[n, : len(word)] = torch.tensor(word, dtype=torch.int64)
    return Sequences.from_tensors(values, lengths=lengths, codes=True)


@boundary
def read_strings(path: str | PathLike[str]) -> tuple[Sequences, int]:
    """Read the strings of a file, each followed by the end symbol.

    The first line holds the numbers of strings and of symbols; each other line is a string, its
    length before its codes.

    Args:
        path: of the file, which may be compressed (``.gz``).

    Returns:
        The sequences as ``as_strings`` makes them, and the number of symbols V without the end.

    Raises:
        ValueError: no such file, or a line that is not of this form, which is named.

    Source: Verwer, Eyraud & de la Higuera (2014), Machine Learning 96.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "few.txt")
    >>> _ = path.write_text("2 3\\n2 0 2\\n0\\n")
    >>> data, symbols = read_strings(path)
    >>> [word.tolist() for word in data.arrays()], symbols
    ([[0, 2, 3], [3]], 3)
    """
    lines = _lines(path)
    head = _whole(lines[0].split(), path, 1)
    fits = len(head) == 2 and min(head) > 0
    needed = "needs numbers of strings and symbols, both above 0"
    require(fits, f"{path}, line 1", needed, repr(lines[0][:60]))
    count, symbols = head
    found = []
    for number, line in enumerate(lines[1 : count + 1], 2):
        numbers = _whole(line.split(), path, number)
        fits = bool(numbers) and len(numbers) == numbers[0] + 1
        require(fits, f"{path}, line {number}", "needs a length and so many codes", repr(line[:60]))
        most = max(numbers[1:], default=0)
        needed = f"needs codes 0 to {symbols - 1}, as line 1 says"
        require(most < symbols, f"{path}, line {number}", needed, most)
        found.append(numbers[1:])
    more = len([line for line in lines[count + 1 :] if line.strip()])
    told = len(found) + more
    require(told == count, f"{path}", f"needs {count} strings, as line 1 says", told)
    return as_strings(found, symbols), symbols


@boundary
def read_automaton(path: str | PathLike[str], symbols: int | None = None) -> LabelledHMM:
    """Read a known machine from a file.

    Sections ``I`` p(z_1), ``F`` the chance to stop in a state, ``S`` the symbol given the state and
    that it does not stop, ``T`` the next state given state and symbol. Entries are
    ``(places) number``; what is not listed is zero. A state without symbols stops.

    Args:
        path: of the file.
        symbols: number of symbols V, if there are more than the file names.

    Returns:
        The machine, with ends and known parameters.

    Raises:
        ValueError: no such file, a line that is not of this form, which is named, or chances that
            do not sum to 1.

    Source: Verwer, Eyraud & de la Higuera (2014), Machine Learning 96.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "coin.txt")
    >>> _ = path.write_text(
    ...     "I: (state)\\n (0) 1.0\\nF: (state)\\n (0) 0.5\\n"
    ...     "S: (state,symbol)\\n (0,0) 0.4\\n (0,1) 0.6\\n"
    ...     "T: (state,symbol,state)\\n (0,0,0) 1.0\\n (0,1,0) 1.0\\n"
    ... )
    >>> read_automaton(path).known["probs"].tolist()  # two symbols and the end
    [[0.2, 0.3, 0.5]]
    """
    found = _sections(_lines(path), path)
    states = 1 + max(
        place
        for name, entries in found.items()
        for places in entries
        for place in (places[:1] if name != "T" else (places[0], places[2]))
    )
    named = 1 + max((places[1] for places in (*found["S"], *found["T"])), default=0)
    require_count(symbols, "symbols", named, optional=True)
    size = named if symbols is None else symbols
    told = _filled(found["S"], states, size)
    stop = _filled(found["F"], states)
    stop = torch.where(told.sum(-1) > 0, stop, 1)
    moves = _filled(found["T"], states, size, states)
    for state, symbol in ((told > 0) & (moves.sum(-1) == 0)).nonzero().tolist()[:1]:
        requirement = f"needs next states of state {state} at symbol {symbol}"
        require(False, f"{path}, section T", requirement, "none")
    going = (1 - stop).unsqueeze(-1) * told
    tables = (going.unsqueeze(-1) * moves).transpose(0, 1)
    first = _filled(found["I"], states)
    total = float(first.sum())
    require(abs(total - 1) < ROUNDED, f"{path}, section I", "needs a sum of 1", f"{total:.6g}")
    return LabelledHMM.from_tables(first, tables, stop)


def _filled(entries: dict[tuple[int, ...], float], *shape: int) -> Tensor:
    out = torch.zeros(shape, dtype=torch.float64)
    for places, number in entries.items():
        out[places] = number
    return out


def _sections(lines: Sequence[str], path: str | PathLike[str]) -> Entries:
    found: Entries = {name: {} for name in _PLACES}
    name = ""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text[:1] in _PLACES and text[1:2] == ":":
            name = text[0]
            continue
        entry = _ENTRY.match(text)
        places = () if entry is None else tuple(map(int, entry[1].split(",")))
        value = _number("" if entry is None else entry[2])
        fits = name != "" and len(places) == _PLACES[name] and value is not None
        requirement = "needs a section I:, F:, S: or T:, or an entry '(places) number' of it"
        require(fits, f"{path}, line {number}", requirement, repr(text))
        assert value is not None
        found[name][places] = value
    require(bool(found["I"]), f"{path}", "needs a section I with the first states", "none")
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 + 1e-9 else None


def _whole(words: Sequence[str], path: str | PathLike[str], line: int) -> list[int]:
    fits = all(word.isascii() and word.isdigit() for word in words)
    require(fits, f"{path}, line {line}", "needs whole numbers >= 0", " ".join(words)[:60])
    return [int(word) for word in words]


def _lines(path: str | PathLike[str]) -> list[str]:
    require_path(path)
    try:
        raw = Path(path).read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return text.decode("utf-8-sig").splitlines() or [""]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"path: needs a file of text, or of it compressed, got {path}") from error
