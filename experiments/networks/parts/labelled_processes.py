"""Processes whose next-symbol law is known, by their names in reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ....models import LabelledChain, golden_mean, mess3, random_random_xor, zero_one_random


class Process(NamedTuple):
    """A process, its name in drawings, and the share of the steps that it is trained for."""

    make: Callable[[], LabelledChain]
    title: str
    share: float


PROCESSES: Mapping[str, Process] = {
    "mess3": Process(mess3, "Mess3", 0.5),
    "random_random_xor": Process(random_random_xor, "RRXOR", 1),
    "zero_one_random": Process(zero_one_random, "zero-one-random", 0.25),
    "golden_mean": Process(golden_mean, "golden mean", 0.25),
}
