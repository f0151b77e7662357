"""Decision processes in files: Cassandra's .POMDP format, read and written."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from ..checks import require
from ..data.storage import whole_file
from .file_grammar import RESERVED, parse
from .pomdp import POMDP

Array = npt.NDArray[np.float64]

_GZIP = b"\x1f\x8b"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_pomdp(
    path: str | os.PathLike[str], *, unset: Literal["refuse", "reset"] = "refuse"
) -> POMDP:
    """Read a process with all parameters known from a file in Cassandra's .POMDP format.

    The whole grammar of pomdp-solve (`<https://pomdp.org/code/pomdp-file-spec.html>`_), gzip or
    not: states, actions and observations counted or named; ``start`` as a vector, ``uniform``,
    one or several states, ``include`` or ``exclude``, and uniform if absent; entries, rows and
    matrices of T, O and R with ``*``, ``uniform``, ``identity`` and ``reset``; what comes later
    overrides what came before, and what is never set is zero.

    Costs (``values: cost``) become negative rewards. A discount of 1 is read: such a process has a
    value over a finite horizon only. Rewards stay small: their table has size 1 along every axis
    that they do not depend on. Rows of probabilities may miss a sum of 1 by 1e-5, as printed
    figures do, and are then normalised, as ``with_parameters`` does.

    Args:
        path: the file.
        unset: what becomes of a row of T that the file never sets: it is refused, or leads back to
            the initial law (``"reset"``). Rows of O must be there.

    Raises:
        ValueError: no such file, or one that is not as above; the message names file, line and
            column, what was needed there and what came. Of a row that does not sum to 1, the
            action, the state, where it was last set, and its sum.
    """
    require(isinstance(path, str | os.PathLike), "path", "must be a path", repr(path))
    name = os.fspath(path)
    require(Path(path).is_file(), "path", "needs an existing file", repr(name))
    known = ("refuse", "reset")
    require(unset in known, "unset", f"must be one of {known}", repr(unset))
    problem = parse(_text(Path(path)), name, unset)
    return POMDP.from_tables(
        problem.transition,
        problem.observation,
        problem.reward,
        initial=problem.initial,
        discount=problem.discount,
        states=problem.states,
        actions=problem.actions,
        observations=problem.observations,
    )


def write_pomdp(model: POMDP, path: str | os.PathLike[str]) -> Path:
    """Write a process to a file in Cassandra's .POMDP format; gzip where the name ends in .gz.

    Reading it again gives the same process, bit for bit: numbers are written with all their digits.
    Tables of which most entries are zero are written entry by entry. Rewards that are None are
    written as zeros. The file appears whole or not at all.

    Returns:
        The path.

    Raises:
        ValueError: a model that is no POMDP with known parameters and symbols for observations;
            one with an observation before the first action or with learned rewards, for which the
            format has no words; names that it cannot hold; or ``path`` cannot be written.
    """
    require(isinstance(model, POMDP), "model", "must be a POMDP", type(model).__name__)
    require(model.emission.codes, "model", "must have symbols for observations", repr(model))
    require(
        not model.law.first,
        "model",
        "must have no observation before the first action: the format knows none",
        repr(model),
    )
    require(not model.learned_reward, "model", "must have known rewards", "learned ones")
    text = "".join(f"{line}\n" for line in _lines(model)).encode("ascii")
    packed = gzip.compress(text, mtime=0) if Path(path).suffix == ".gz" else text
    with whole_file(path) as file:
        file.write(packed)
    return Path(path)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"path: needs a whole gzip file, got {str(path)!r} ({error})"
            ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:  # comments of old files; this reads anything
        return content.decode("latin-1")


def _lines(model: POMDP) -> Iterator[str]:
    values = model.complete({})
    one = torch.ones(1, dtype=torch.float64)
    initial = values.get("initial", one).numpy()
    moves = values.get("transition", one.expand(model.actions, 1, 1)).numpy()
    yield f"discount: {model.discount!r}"
    yield "values: reward"
    yield f"states: {_names(model.state_names, 'state_names')}"
    yield f"actions: {_names(model.action_names, 'action_names')}"
    yield f"observations: {_names(model.observation_names, 'observation_names')}"
    even = bool((initial == 1 / len(initial)).all())
    yield "start: uniform" if even else f"start: {_row(initial)}"
    yield from _law("T", moves)
    yield from _law("O", values["probs"].numpy())
    if model.reward is not None:
        table = model.reward.table.numpy()
        for place in np.argwhere(table != 0):
            # An axis of size 1 stands for all.
            names = (
                "*" if size == 1 else str(at) for at, size in zip(place, table.shape, strict=True)
            )
            yield f"R: {' : '.join(names)} {float(table[tuple(place)])!r}"


def _names(names: tuple[str, ...], argument: str) -> str:
    """The names, or their number where they are 0, 1, 2, …"""
    if names == tuple(str(place) for place in range(len(names))):
        return str(len(names))
    for name in names:
        require(
            _NAME.fullmatch(name) is not None and name not in RESERVED,
            argument,
            "must be letters, digits, - and _, a letter first, and no word of the format",
            repr(name),
        )
    return " ".join(names)


def _law(section: str, tables: Array) -> Iterator[str]:
    """One table for all actions where they share it; entries where most of them are zero."""
    shared = len(tables) > 1 and bool((tables == tables[0]).all())
    for action, table in enumerate(tables[:1] if shared else tables):
        head = f"{section}: {'*' if shared else action}"
        if 2 * np.count_nonzero(table) >= table.size:
            yield head
            yield from map(_row, table)
            continue
        for state, column in np.argwhere(table != 0):
            yield f"{head} : {state} : {column} {float(table[state, column])!r}"


def _row(numbers: Array) -> str:
    return " ".join(repr(number) for number in numbers.tolist())
