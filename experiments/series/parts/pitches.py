"""Music as frames of 88 pitches: made-up pieces, shorter ones, and what knows no harmony."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ....models import Sequences

Splits = tuple[Sequences, Sequences, Sequences]

PITCHES = 88


def simulated() -> Splits:
    """Four voices that walk about, 30 pieces of 12 to 20 frames, and a few more."""
    generator = np.random.default_rng(0)
    pieces = []
    for _ in range(42):
        length = int(generator.integers(12, 21))
        moves = generator.integers(-2, 3, size=(length, 4)).cumsum(0)
        place = np.clip(moves + np.array([30, 40, 50, 60]), 0, PITCHES - 1)
        frames = np.zeros((length, PITCHES))
        frames[np.arange(length)[:, None], place] = 1
        pieces.append(frames)
    train, valid, test = (
        Sequences.from_arrays(part) for part in (pieces[:30], pieces[30:36], pieces[36:])
    )
    return train, valid, test


def cut(data: Sequences, longest: int) -> Sequences:
    """The same frames in sequences of at most so many."""
    if data.max_length <= longest:
        return data
    pieces = [
        piece
        for array in data.arrays()
        for piece in np.array_split(array, math.ceil(len(array) / longest))
    ]
    return Sequences.from_arrays(pieces, features=list(data.features))


def baselines(train: Sequences, test: Sequences) -> dict[str, float]:
    """Pitches that know nothing of each other: independent frames, and a chain per pitch.

    Counts with ½ added.
    """
    y = train.values.double()
    inside = train.step_mask.unsqueeze(-1)
    rate = ((y * inside).sum((0, 1)) + 0.5) / (train.n_steps + 1)
    before, after, both = y[:, :-1], y[:, 1:], inside[:, 1:]
    chain = torch.stack(
        [
            ((after * (before == bit) * both).sum((0, 1)) + 0.5)
            / (((before == bit) * both).sum((0, 1)) + 1)
            for bit in (0, 1)
        ]
    )
    x = test.values.double()
    seen = test.step_mask.unsqueeze(-1)

    def log_p(bits: Tensor, probability: Tensor) -> Tensor:
        return torch.where(bits > 0, probability, 1 - probability).log()

    alone = (log_p(x, rate) * seen).sum()
    moved = torch.where(x[:, :-1] > 0, chain[1], chain[0])
    follows = (log_p(x[:, :1], rate) * seen[:, :1]).sum()
    follows = follows + (log_p(x[:, 1:], moved) * seen[:, 1:]).sum()
    return {
        "independent_pitches": -float(alone) / test.n_steps,
        "first_order_chain_of_each_pitch": -float(follows) / test.n_steps,
    }
