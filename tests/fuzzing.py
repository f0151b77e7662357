"""How many cases the tests named fuzz draw: ``make fuzz`` multiplies, and lists them at the end."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import pytest

LONG = "BELIEFZOO_FUZZ" in os.environ
TIMES = int(os.environ.get("BELIEFZOO_FUZZ", "1"))


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Cases and CPU seconds of every test that the marker ``cases`` counts, and their sums."""
    cases: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for report in reports:
        told = dict(report.user_properties)
        if "cases" in told:
            name = report.nodeid.split("[")[0]
            cases[name] += told["cases"]
            seconds[name] += told["seconds"]
    rows = [(count, seconds[name], name) for name, count in cases.most_common()]
    rows.append((cases.total(), seconds.total(), "in all"))
    return [f"{count:9d} cases {spent:8.1f} CPU s  {name}" for count, spent, name in rows]


class Named(Protocol):
    """A case that says what it is."""

    name: str


Case = TypeVar("Case", bound=Named)


def each(
    cases: Iterable[int], draw: Callable[[int], Case], claim: Callable[[Case], bool | None]
) -> int:
    """Checks a claim on the cases of some numbers, which the message of a failure names.

    Returns for how many of them it did not say, by False, that they are none of its own.
    """
    tried = 0
    for number in cases:
        case = draw(number)
        try:
            tried += claim(case) is not False
        except Exception as error:
            raise AssertionError(f"case {number}, {case.name}: {error}") from error
    return tried
