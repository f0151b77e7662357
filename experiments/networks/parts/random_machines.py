"""Machines to be found in networks: random ones, the even process, and a counter that is none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ....inference.machines.hankel import plan_of, spectrum_of
from ....inference.machines.known_laws import OperatorLaw
from ....inference.machines.laws import SequenceLaw, sampled
from ....models import LabelledChain, labelled_chain
from ....models.randomness import generator_from

Kind = Literal["hmm", "automaton"]

SYMBOLS = 4
"""Of random machines."""


def even() -> LabelledChain:
    """Ones in runs of even length; two states, which no number of ones tells apart."""
    return labelled_chain([[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 0.0]]])


def random_machine(
    kind: Kind, states: int, place: int, *, candidates: int, seed: int
) -> OperatorLaw:
    """The law of the machine with the ``place``-th largest of the smallest singular values.

    Of most random machines of five states or more, one state says hardly anything of its own; what
    is in no law cannot be found in a network.
    """
    return OperatorLaw.of(_drawn(kind, states, candidates, seed)[place])


@cache
def _drawn(kind: Kind, states: int, candidates: int, seed: int) -> list[LabelledChain]:
    """Random machines, the most visible ones first."""
    found = []
    for number in range(candidates):
        rng = np.random.default_rng([seed, states, number, kind == "hmm"])
        table = _hmm(states, rng) if kind == "hmm" else _automaton(states, rng)
        try:
            chain = labelled_chain(table)
        except ValueError:  # it falls into parts
            continue
        found.append((smallest_direction(OperatorLaw.of(chain), states), number, chain))
    return [chain for _, _, chain in sorted(found, reverse=True)]


def smallest_direction(law: OperatorLaw, states: int) -> float:
    """The ``states``-th singular value of the law's Hankel matrix."""
    plan = plan_of(law, prefixes=400, suffixes=90, length=9, gigabytes=1, seed=0)
    return float(spectrum_of(law, plan, seed=0, progress=False).singular_values[states - 1])


def _hmm(states: int, rng: np.random.Generator) -> Tensor:
    moves = rng.dirichlet(np.full(states, 0.1), states)
    emits = rng.dirichlet(np.full(SYMBOLS, 0.15), states)
    return torch.from_numpy(emits.T[:, :, None] * moves)


def _automaton(states: int, rng: np.random.Generator) -> Tensor:
    emits = rng.dirichlet(np.full(SYMBOLS, 0.5), states)
    moves = rng.dirichlet(np.full(states, 0.05), (SYMBOLS, states))
    return torch.from_numpy(emits.T[:, :, None] * moves)


def batches_of(law: SequenceLaw, batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """Fresh sequences of a law without end, (batch, length) each."""
    generator = generator_from(seed)
    while True:
        fresh = int(torch.randint(2**31, (), generator=generator))
        yield sampled(law, batch, length, fresh)[0]


class Counter:
    """Brackets that open with probability ½ and close as often; a dot where none is open.

    The number of open brackets is the state: no finite machine has this law.
    """

    symbols = 3

    def start(self, n: int) -> tuple[Tensor, ...]:
        """Nothing is open."""
        return (torch.zeros(n, dtype=torch.int64),)

    def read(self, state: tuple[Tensor, ...], codes: Tensor) -> tuple[Tensor, ...]:
        """One more, one fewer, or as many open ones."""
        return ((state[0] + (codes == 0).long() - (codes == 1).long()).clamp_min(0),)

    def next_log_probabilities(self, state: tuple[Tensor, ...]) -> Tensor:
        """½ for an opening one."""
        closes = (state[0] > 0).double()
        return (torch.stack([torch.ones_like(closes), closes, 1 - closes], -1) / 2).log()
