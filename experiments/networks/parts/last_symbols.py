"""A law that knows the last two symbols of another one, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from ....inference import SequenceLaw
from ....inference.machines.laws import sampled


class LastTwoSymbols:
    """The mean of a law's next-symbol laws after all pasts that end in the same two symbols.

    Args:
        law: which it is made of.
        sequences: drawn from it.
        length: of these.
        seed: of the draws.
    """

    def __init__(self, law: SequenceLaw, sequences: int, length: int, seed: int) -> None:
        self.symbols = law.symbols
        codes, log_p = sampled(law, sequences, length, seed)
        size = self.symbols + 1  # with the mark before a sequence
        total = torch.full((size**2, self.symbols), 1e-6, dtype=torch.float64)
        state = self.start(sequences)
        for step in range(length):
            total.index_add_(0, state[0], log_p[:, step].exp())
            state = self.read(state, codes[:, step])
        self._logs = (total / total.sum(-1, keepdim=True)).log()

    def start(self, n: int) -> tuple[Tensor, ...]:
        """Two marks."""
        return (torch.full((n,), (self.symbols + 1) ** 2 - 1),)

    def read(self, state: tuple[Tensor, ...], codes: Tensor) -> tuple[Tensor, ...]:
        """The last symbol becomes the last but one."""
        size = self.symbols + 1
        return (state[0] % size * size + codes,)

    def next_log_probabilities(self, state: tuple[Tensor, ...]) -> Tensor:
        """The mean law."""
        return self._logs[state[0]]
