"""Timing several ways of doing the same in turn, so that a slow minute is slow for all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]

FEWEST_TURNS = 3
"""Turns that even the slowest contender gets, so that there is a median."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call, one number a turn."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the turns."""
        return float(np.median(self.milliseconds))

    def figures(self) -> dict[str, float]:
        """Median, fastest, the quartiles, and the number of turns."""
        low, high = np.quantile(self.milliseconds, (0.25, 0.75))
        return {
            "milliseconds_median": self.median,
            "milliseconds_minimum": min(self.milliseconds),
            "milliseconds_lower_quartile": float(low),
            "milliseconds_upper_quartile": float(high),
            "turns": len(self.milliseconds),
        }


def in_turn(
    work: Mapping[str, Work],
    *,
    rounds: int,
    turn_seconds: float = 0.02,
    seconds_each: float = float("inf"),
) -> dict[str, Timing]:
    """Time every piece of work in every round, one after the other.

    A turn repeats a call until ``turn_seconds`` are over; its time is the median of all calls but
    the first, which finds the caches as the one before left them, unless there is time for one
    call only. Who has used up ``seconds_each`` gets no further turn beyond ``FEWEST_TURNS``.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    spent = dict.fromkeys(work, 0.0)
    for _ in range(rounds):
        gc.collect()
        for name, call in work.items():
            if spent[name] > seconds_each and len(taken[name]) >= FEWEST_TURNS:
                continue
            began = time.perf_counter()
            taken[name].append(_turn(call, turn_seconds))
            spent[name] += time.perf_counter() - began
    return {name: Timing(tuple(1e3 * seconds for seconds in taken[name])) for name in work}


def _turn(call: Work, seconds: float) -> float:
    """Seconds of a call, from one turn."""
    collects = gc.isenabled()
    gc.disable()
    try:
        calls: list[float] = []
        began = now = time.perf_counter()
        while not calls or now - began < seconds:
            start = time.perf_counter()
            call()
            now = time.perf_counter()
            calls.append(now - start)
    finally:
        if collects:
            gc.enable()
    return float(np.median(calls[1:] or calls))
