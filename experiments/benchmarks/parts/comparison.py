"""Whoever computes the same: one record, checked against what is right, then timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ...command.seeds import Figures, all_counts, at_least
from ...parts.training import positive
from . import fresh
from .problems import Answer, Case, Described, Precision, check_agreement, tolerance
from .turns import Timing, in_turn

P = TypeVar("P")
C = TypeVar("C", bound=Described)


@dataclass(frozen=True)
class Timed:
    """What the settings of a benchmark begin with."""

    seed: int = 0
    """Of all that is drawn: parameters, sequences, weights."""
    threads: int = 2
    """Threads of every library; what is to be reached was set on two cores."""

    def __post_init__(self) -> None:
        at_least(0, self, "seed")
        all_counts(self)


@dataclass(frozen=True)
class Sized(Timed):
    """The same where there is one size of model and of data."""

    states: int = 16
    """Hidden states of the model."""
    length: int = 256
    """Steps of a sequence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "states", "length")


@dataclass(frozen=True)
class Compared(Timed):
    """The same where contenders take turns."""

    rounds: int = 15
    """Turns of each contender: the quartiles of fifteen are some per cent apart on a quiet
    machine."""
    seconds_each: float = 15.0
    """Time after which a contender gets no further turn on a case, but for the first three."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "seconds_each")


class Prepared(NamedTuple):
    """Work to be timed, and what its result says."""

    work: Callable[[], Any]
    answer: Callable[[Any], Any]
    belief_steps: int = 0
    """How many beliefs a call gives, where these are compared."""


@dataclass(frozen=True)
class Limits:
    """Sizes up to which peers are run."""

    gigabytes: float
    """Memory that a peer may be expected to need."""
    enumerated_steps: int
    """Longest sequence for a program with one Pyro site a step."""


@dataclass(frozen=True)
class Contender(Generic[P]):
    """One way of computing it."""

    name: str
    prepare: Callable[[P], Prepared]
    package: str | None = None
    """The package that it needs; None: nothing beyond what this library needs."""
    precision: Precision = "float32"
    obstacle: Callable[[Case, Limits], str | None] = lambda case, limits: None
    """A sentence on why a case is beyond it."""
    in_logs: bool = False
    """Whether it keeps logs of the probability of whole sequences; see ``tolerance``."""
    beside: tuple[str, ...] = ()
    """Which of this library's contenders do the same, for the ratios."""


def compare(
    given: P,
    contenders: Sequence[Contender[P]],
    settings: Compared,
    check: Callable[[Contender[P], Prepared], dict[str, object]],
    obstacle: Callable[[Contender[P]], str | None] = lambda contender: None,
) -> tuple[dict[str, dict[str, object]], dict[str, Timing]]:
    """Check every contender that is there, then time them in turn.

    Args:
        given: the problem.
        contenders: who is asked.
        settings: how many turns they take.
        check: its figures on a contender whose result is right; raises ``ValueError`` otherwise.
        obstacle: a sentence on why a contender is left out.

    Returns:
        Figures and timings by the contender's name; who is left out has a reason and no timing.
    """
    figures: dict[str, dict[str, object]] = {}
    work = {}
    for contender in contenders:
        reason = obstacle(contender)
        if contender.package and fresh.installed(contender.package) is None:
            reason = f"{contender.package} is not installed"
        if reason:
            figures[contender.name] = {"left_out": reason}
            continue
        prepared = contender.prepare(given)
        figures[contender.name] = check(contender, prepared)
        work[contender.name] = prepared.work
    timings = in_turn(work, rounds=settings.rounds, seconds_each=settings.seconds_each)
    for name, timing in timings.items():
        figures[name] |= timing.figures()
    return figures, timings


def checked(
    contender: Contender[P], case: Described, prepared: Prepared, expected: Answer
) -> dict[str, object]:
    """Agreement with the reference, and the seconds of the first call, compilation included."""
    began = time.perf_counter()
    result = prepared.work()
    first = time.perf_counter() - began
    allowed = tolerance(contender.precision, expected.log_evidence, in_logs=contender.in_logs)
    agreement = check_agreement(contender.name, case, prepared.answer(result), expected, allowed)
    return {"precision": contender.precision, "seconds_of_first_call": first, **agreement}


def by_case(
    cases: Iterable[C], figures_of: Callable[[C], dict[str, object]]
) -> dict[str, dict[str, object]]:
    """Figures by family and size; each case is named on the terminal as it begins."""
    figures: dict[str, dict[str, object]] = {}
    for case in cases:
        print(f"{case.family} {case.size}", flush=True)
        figures.setdefault(case.family, {})[case.size] = figures_of(case)
    return figures


def ratios(
    slow: Sequence[float], fast: Sequence[float], name: str = "times_slower"
) -> dict[str, float]:
    """How many times slower one is: median and quartiles of the ratios of turns side by side."""
    together = min(len(slow), len(fast))
    each = np.array(slow[:together]) / np.array(fast[:together])
    low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
    return {
        name: float(middle),
        f"{name}_lower_quartile": float(low),
        f"{name}_upper_quartile": float(high),
    }


def line(figures: Figures) -> str:
    """A contender's milliseconds, and how many times slower than ours it is."""
    if "left_out" in figures:
        return f"left out: {figures['left_out']}"
    said = f"{figures['milliseconds_median']:10.3g} ms"
    if "times_slower" in figures:
        said += f"{figures['times_slower']:8.3g} times ours"
    if "times_slower_to_reach" in figures:
        said += f" (reach: {figures['times_slower_to_reach']:g})"
    return said
