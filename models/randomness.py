"""Reproducible numbers: seeded draws, and sums that do not depend on the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .checks import require_seed

TURNS = threading.RLock()
"""Held where the process's own state is in use: torch's generator, and Pyro's handlers.

Threads take turns there, so that every one gets the numbers that it would get alone. Whoever holds
it may take it again, but must not wait for another thread of this library.
"""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from torch's global generator seeded by ``seed``, and restore its state afterwards.

    With ``seed=None`` draws continue from the present state of the generator. Threads take turns.

    Raises:
        ValueError: a seed that is no whole number.
    """
    require_seed(seed)
    with TURNS:
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            _seed(int(seed))
            yield


def _seed(seed: int) -> None:
    """``torch.manual_seed``, which spends a millisecond on devices that are not there."""
    devices = getattr(torch, "accelerator", None)  # from torch 2.6 on
    if devices is None or devices.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def generator_from(seed: int | None) -> torch.Generator:
    """A generator of its own, seeded by the first number that ``seeded(seed)`` would draw."""
    require_seed(seed)
    if seed is None:
        with TURNS:
            first = torch.randint(2**62, ())
    else:
        first = torch.randint(2**62, (), generator=torch.Generator().manual_seed(int(seed)))
    return torch.Generator().manual_seed(int(first))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread inside, and as many as before afterwards.

    For small tensors, where threads wait for each other, for work that already runs in parallel,
    and because sums over several threads are rounded in another order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
