"""States of a machine that say nearly the same of the future are one state."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models import LabelledHMM
from ...models.boundary import boundary
from ...models.checks import require_count, require_share
from .hankel import Words

_WORDS = 2**14
"""Most words that are enumerated."""

_STEPS = 200
"""Steps over which the occupancy of the states is averaged."""


@boundary
def merge_states(hmm: LabelledHMM, tolerance: float, *, length: int = 6) -> LabelledHMM:
    r"""Merges states from which all words have nearly the same probabilities.

    .. math:: d(z, z') = \tfrac12 \sum_{|w| = L} \lvert p(w \mid z) - p(w \mid z') \rvert

    over words of L symbols, and of strings with an end over shorter ones that have ended too.
    States with d at most ``tolerance``, directly or through others, become one; its moves are the
    mean of theirs, weighted by how often the machine is in them. With tolerance 0 and long words
    the machine keeps its law.

    Args:
        hmm: with known parameters.
        tolerance: largest total variation distance, in [0, 1].
        length: L; shorter where there would be more than 16384 words.

    Returns:
        A model with as many states or fewer, in the order of their first members.

    Raises:
        ValueError: unknown parameters, or a tolerance outside [0, 1].

    >>> from beliefzoo.inference import merge_states
    >>> from beliefzoo.models import LabelledHMM
    >>> twins = [[[0, 0.25, 0.25], [0, 0, 0], [0, 0, 0]], [[0.5, 0, 0], [1, 0, 0], [1, 0, 0]]]
    >>> merge_states(LabelledHMM.from_tables([1, 0, 0], twins), 1e-6).tables().tables.tolist()
    [[[0.0, 0.5], [0.0, 0.0]], [[0.5, 0.0], [1.0, 0.0]]]
    """
    require_share(tolerance, "tolerance")
    require_count(length, "length")
    initial, tables, end = hmm.tables()
    if end is not None:  # a new string begins
        tables = torch.cat([tables, torch.outer(end, initial).unsqueeze(0)])
    while len(tables) ** length > _WORDS and length > 1:
        length -= 1
    told = _word_laws(tables, length, ends=end is not None)
    near = (told.unsqueeze(0) - told.unsqueeze(1)).abs().sum(-1) / 2 <= tolerance
    reach = torch.linalg.matrix_power(near.double(), len(near)) > 0  # through others too
    group = reach.double().argmax(1).unique(return_inverse=True)[1]
    member = torch.nn.functional.one_hot(group).double()
    weight = _occupancy(initial, tables.sum(0)).unsqueeze(-1) * member
    share = weight / weight.sum(0)
    merged = share.mT @ tables @ member
    if end is None:
        return LabelledHMM.from_tables(initial @ member, merged)
    return LabelledHMM.from_tables(initial @ member, merged[:-1], share.mT @ end)


def _word_laws(tables: Tensor, length: int, *, ends: bool) -> Tensor:
    """p(w | z) of all words of this length, and of shorter ones that have ended, (K, words)."""
    level, told = torch.eye(tables.shape[-1], dtype=tables.dtype).unsqueeze(1), []
    for step, (parents, symbols) in enumerate(Words.every(len(tables), length, ends=ends).levels):
        level = torch.einsum("zwi,wij->zwj", level[:, parents], tables[symbols])
        last = (symbols == len(tables) - 1) & ends
        told.append(level[:, last if step + 1 < length else ...].sum(-1))
    return torch.cat(told, 1)


def _occupancy(initial: Tensor, moves: Tensor) -> Tensor:
    """Mean law of the state; a trifle for states that are never met."""
    law, total = initial, torch.zeros_like(initial)
    for _ in range(_STEPS):
        total = total + law / _STEPS
        law = law @ moves
    return total + 1e-12
