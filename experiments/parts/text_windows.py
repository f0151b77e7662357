"""Windows of a text that are held out, and the rest that has no passage in common with them."""

from __future__ import annotations

from typing import Literal

import torch

from ...models import Sequences
from ...models.checks import require
from ..data.loaders import load_english_letters

PASSAGE = 16
"""Letters and spaces, some three words: what is repeated at this length was copied."""


def passages(data: Sequences, length: int = PASSAGE) -> list[set[tuple[int, ...]]]:
    """Every run of so many symbols, by sequence; a shorter sequence is one run."""
    rows = [row[:n] for row, n in zip(data.codes().tolist(), data.lengths.tolist(), strict=True)]
    return [
        {tuple(row[at : at + length]) for at in range(max(1, len(row) - length + 1))}
        for row in rows
    ]


def held_apart(
    length: int, heldout: int, *, source: Literal["pydoc", "shakespeare"], seed: int
) -> tuple[Sequences, Sequences]:
    """Windows for training, and windows held out with which they share no run of 16 symbols.

    Help topics quote one another: of windows drawn at random half have such a run in common with
    those held out, and a model that knows letters by heart would be paid for it. Windows are held
    out at random; of the others those that share a run with any of them are left out.

    Args:
        length: characters of a window.
        heldout: windows that are held out.
        source: of the text, see `load_english_letters`.
        seed: of the windows that are held out.

    Raises:
        ValueError: fewer than ``heldout`` + 1 windows.
    """
    letters = load_english_letters(length, source=source)
    whole = letters[(letters.lengths == length).nonzero()[:, 0]]
    require(0 < heldout < len(whole), "heldout", f"must be in 1 … {len(whole) - 1}", heldout)
    kept, others = whole.split([heldout, len(whole) - heldout], seed=seed)
    known = set().union(*passages(kept))
    clean = torch.tensor([known.isdisjoint(one) for one in passages(others)])
    return others[clean.nonzero()[:, 0]], kept
