"""Decision processes in files: Cassandra's .POMDP format, read and written."""

from __future__ import annotations

import codecs
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

from ..boundary import boundary
from ..checks import require, require_path
from ..data.storage import whole_file
from .file_grammar import MOST_WORDS, RESERVED, parse
from .pomdp import POMDP

Array = npt.NDArray[np.float64]

_MOST_BYTES = 2**26
"""Bytes of text that a file may have, unpacked."""

_GZIP = b"\x1f\x8b"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_pomdp(
    path: str | os.PathLike[str], *, unset: Literal["refuse", "reset"] = "refuse"
) -> POMDP:
    """Read a process with known parameters from a file in Cassandra's .POMDP format.

    The reader knows the whole grammar of pomdp-solve
    (`<https://pomdp.org/code/pomdp-file-spec.html>`_), compressed by gzip or not: states, actions
    and observations as numbers or names; ``start`` as a vector, ``uniform``, one or several states,
    ``include`` or ``exclude``, and uniform if absent; entries, rows and matrices of T, O and R with
    ``*``, ``uniform``, ``identity`` and ``reset``. Later entries override earlier ones, and entries
    that are never set are zero.

    Costs (``values: cost``) become negative rewards. A discount of 1 is accepted: such a process
    has a value only over a finite horizon. The table of rewards has size 1 along every axis that
    the rewards do not depend on. Rows of probabilities may miss a sum of 1 by 1e-5, as printed
    figures do, and are then normalised.

    A file has at most 64 MiB of text (unpacked), 2^22 words, 2^18 states, actions or observations,
    2^27 entries of T and of O, and 2^24 of R: more is refused before memory is taken.

    Args:
        path: the file.
        unset: what happens to a row of T that the file never sets: it is refused, or leads back to
            the initial distribution (``"reset"``). Rows of O must be set.

    Returns:
        The process.

    Raises:
        ValueError: no such file, or another format; the message names file, line and column, what
            was needed there and what came. For a row that does not sum to 1: the action, the state,
            where it was last set, and its sum.

    >>> import tempfile
    >>> from pathlib import Path
    >>> text = '''
    ... discount: 0.9
    ... values: reward
    ... states: well ill
    ... actions: wait treat
    ... observations: fine cough
    ... T: wait
    ... 0.9 0.1
    ... 0.0 1.0
    ... T: treat
    ... 1.0 0.0
    ... 0.8 0.2
    ... O: *
    ... 0.8 0.2
    ... 0.3 0.7
    ... R: * : ill : * : * -1
    ... R: treat : * : * : * -0.5
    ... '''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "clinic.POMDP"
    ...     _ = path.write_text(text)
    ...     model = read_pomdp(path)
    >>> model.action_names, model.known["transition"][1, 1].tolist()
    (('wait', 'treat'), [0.8, 0.2])
    """
    require_path(path)
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


@boundary
def write_pomdp(model: POMDP, path: str | os.PathLike[str]) -> Path:
    r"""Write a process to a file in Cassandra's .POMDP format.

    Reading it again gives the same process, bit for bit: numbers are written with all their digits.
    Tables with mostly zeros are written entry by entry; without rewards, zeros are written. The
    file appears completely or not at all.

    Args:
        model: a ``POMDP`` with known parameters and symbols for observations.
        path: the file; it is compressed by gzip if the name ends in .gz.

    Returns:
        The path.

    Raises:
        ValueError: another model; one with an observation before the first action or with learned
            rewards, which the format cannot express; names that it cannot hold; a file larger than
            ``read_pomdp`` takes; or ``path`` cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from beliefzoo.models import tiger
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_pomdp(tiger(), Path(folder) / "tiger.POMDP")
    ...     print("\n".join(path.read_text().splitlines()[:5]))
    discount: 0.95
    values: reward
    states: tiger-left tiger-right
    actions: listen open-left open-right
    observations: tiger-left tiger-right
    """
    require(isinstance(model, POMDP), "model", "must be a POMDP", type(model).__name__)
    require_path(path)
    require(model.emission.codes, "model", "must have symbols for observations", repr(model))
    require(
        not model.law.first,
        "model",
        "must have no observation before the first action: the format knows none",
        repr(model),
    )
    require(not model.learned_reward, "model", "must have known rewards", "learned ones")
    text = _written(model).encode("ascii")
    packed = gzip.compress(text, mtime=0) if Path(path).suffix == ".gz" else text
    with whole_file(path) as file:
        file.write(packed)
    return Path(path)


def _written(model: POMDP) -> str:
    lines, words, size = [], 0, 0
    for line in _lines(model):
        lines.append(f"{line}\n")
        words += len(line.split()) + 2 * line.count(":")
        size += len(lines[-1])
        fits = words <= MOST_WORDS and size <= _MOST_BYTES
        require(fits, "model", "must fit a file of 64 MiB and 2^22 words", repr(model))
    return "".join(lines)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if content.startswith(_GZIP):
        try:
            with gzip.open(path) as unpacked:  # no more than the limit is unpacked
                content = unpacked.read(_MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"path: needs a whole gzip file, got {str(path)!r} ({error})"
            ) from error
    came = f"{str(path)!r} with more"
    require(len(content) <= _MOST_BYTES, "path", "needs a file of at most 64 MiB of text", came)
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:  # old files have such comments; this encoding reads any byte
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
        for place, earned in zip(*model.reward.entries(), strict=True):
            # The format writes an axis of size 1 as *.
            sizes = zip(place, model.reward.shape, strict=True)
            names = ("*" if size == 1 else str(at) for at, size in sizes)
            yield f"R: {' : '.join(names)} {float(earned)!r}"


def _names(names: tuple[str, ...], argument: str) -> str:
    """The names, or their number if they are 0, 1, 2, …"""
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
    """One table for all actions if they share it; entry by entry if most of them are zero."""
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
