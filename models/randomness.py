"""Reproducible numbers: seeded draws, and sums that do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from torch's global generator seeded by ``seed``, and restore its state afterwards.

    With ``seed=None`` draws continue from the present state of the generator.

    Raises:
        ValueError: a seed that is no whole number.
    """
    if seed is None:
        yield
        return
    if not isinstance(seed, Integral):
        raise ValueError(f"seed: must be a whole number or None, got {seed!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
