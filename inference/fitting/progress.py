"""Progress: a bar on a terminal or in a notebook, and elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

EVERY = 30.0
"""Seconds between lines: hours of work fill no more than a few pages of a log."""


class Progress(Protocol):
    """What shows how far work has come; used in a ``with`` statement."""

    def __enter__(self) -> Self:
        """Begins."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends; shows the last state."""

    def update(self, n: int = 1) -> bool | None:
        """Goes on by ``n``; returns whether it was shown."""

    def set_postfix(self, ordered_dict: Mapping[str, object], refresh: bool = True) -> None:
        """Says what else is to be shown from now on."""


def progress_of(
    total: int | None,
    unit: str,
    *,
    shown: bool,
    desc: str = "",
    initial: int = 0,
    position: int | None = None,
) -> Progress:
    """A bar of tqdm on a terminal or in a notebook, lines for any other output.

    Args:
        total: steps; None if unknown.
        unit: what a step is called.
        shown: whether to show anything.
        desc: what is done.
        initial: steps that were done before.
        position: line of the bar among others that are shown at the same time.
    """
    stream = sys.stderr
    notebook = type(stream).__module__.startswith("ipykernel")
    if not shown or notebook or stream.isatty():
        bar: Any = tqdm(
            total=total, unit=unit, desc=desc or None, initial=initial, position=position,
            disable=not shown,
        )  # fmt: skip
        made: Progress = bar
        return made
    return _Lines(total, unit, desc, initial)


class _Lines:
    """A line on standard error every ``EVERY`` seconds, and one at the end."""

    def __init__(self, total: int | None, unit: str, desc: str, initial: int) -> None:
        self._total, self._unit, self._desc = total, unit, desc
        self._done, self._postfix = initial, ""
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def update(self, n: int = 1) -> bool:
        self._done += n
        due = time.monotonic() - self._said >= EVERY
        if due:
            self._say()
        return due

    def set_postfix(self, ordered_dict: Mapping[str, object], refresh: bool = True) -> None:
        del refresh
        self._postfix = "".join(f", {name}={value}" for name, value in ordered_dict.items())

    def _say(self) -> None:
        self._said = time.monotonic()
        of = "" if self._total is None else f"/{self._total}"
        elapsed = tqdm.format_interval(self._said - self._began)
        about = f"{self._desc}: " if self._desc else ""
        words = f"{about}{self._done}{of} {self._unit}s in {elapsed}{self._postfix}"
        print(words, file=sys.stderr, flush=True)  # noqa: T201 -- what else should show it
