"""Laws of strings without hidden states to fit: a 3-gram, and a spectral automaton."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ....models import Sequences, as_strings

SMALLEST = 0.01
"""A spectral automaton may give a string no chance, or less: it gets this share of its 3-gram's."""


class Counted(NamedTuple):
    """Different strings and how often each is there."""

    data: Sequences
    weights: Tensor

    def mean(self, log_p: Tensor) -> float:
        """Mean log p of a string, nats, from those of the different strings (N,)."""
        return float((self.weights * log_p).sum() / self.weights.sum())


def counted(data: Sequences, symbols: int) -> Counted:
    """The different strings of data that end with the end symbol."""
    counts = Counter(tuple(word.tolist()[:-1]) for word in data.arrays())
    weights = torch.tensor([*counts.values()], dtype=torch.float64)
    return Counted(as_strings(list(counts), symbols), weights)


def score(log_q: Tensor, chances: Tensor) -> float:
    """Perplexity 2^{−Σ p log2 q}, q normalised over the strings on which the chances p are.

    Source: Verwer, Eyraud & de la Higuera (2014), Machine Learning 96.
    """
    normal = log_q - log_q.logsumexp(0)
    return float((-(chances * normal).sum()).exp())


class Trigram:
    """p(x_t | x_{t−2}, x_{t−1}) by interpolated Kneser-Ney, strings begin after two marks.

    Source: Chen & Goodman (1999), Computer Speech & Language 13.

    Args:
        words: strings to count.
        symbols: number of symbols V; the end is code V.
    """

    def __init__(self, words: Counted, symbols: int) -> None:
        size = symbols + 2  # the end, and the mark before a string
        first, second, last, weights = _triples(words)
        place = (first * size + second) * size + last
        counts = torch.bincount(place, weights, minlength=size**3).reshape(size, size, size)
        counts = counts[..., :-1]
        types = (counts > 0).sum(0).double()
        single = (types > 0).sum(0).double()
        uniform = torch.full((size - 1,), 1 / (size - 1), dtype=torch.float64)
        lowest = _discounted(single, uniform)
        self.logs = _discounted(counts, _discounted(types, lowest)).log()

    def log_prob(self, data: Sequences) -> Tensor:
        """log p of every string, (N,)."""
        first, second, last, _ = _triples(Counted(data, torch.ones(len(data))))
        rows = torch.arange(len(data)).repeat_interleave(data.lengths)
        out = torch.zeros(len(data), dtype=torch.float64)
        return out.index_add_(0, rows, self.logs[first, second, last])


def _triples(words: Counted) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two symbols before, the symbol, and the weight, of all steps."""
    codes, inside = words.data.codes(), words.data.step_mask
    mark = int(codes[words.data.step_mask].max()) + 1  # the end is the largest code of strings
    padded = torch.nn.functional.pad(codes, (2, 0), value=mark)
    weights = words.weights.unsqueeze(-1).expand(inside.shape)
    return padded[:, :-2][inside], padded[:, 1:-1][inside], codes[inside], weights[inside]


def _discounted(counts: Tensor, lower: Tensor) -> Tensor:
    """Rows of counts less a discount, and what this leaves to the lower order."""
    ones, twos = float((counts == 1).sum()), float((counts == 2).sum())
    discount = ones / (ones + 2 * twos) if ones else 0.5
    total = counts.sum(-1, keepdim=True)
    kept = (counts - discount).clamp_min(0)
    share = torch.where(total > 0, kept / total.clamp_min(1), 0)
    return share + (1 - share.sum(-1, keepdim=True)) * lower


class Spectral:
    """An automaton with linear states from the chances of strings: H = U S V', A_x = S⁻¹ U' H_x V.

    Source: Balle, Carreras, Luque & Quattoni (2014), Machine Learning 96.

    Args:
        words: strings to count.
        symbols: number of symbols.
        basis: most frequent prefixes, and suffixes, that are rows and columns of H.
    """

    def __init__(self, words: Counted, symbols: int, basis: int) -> None:
        total = float(words.weights.sum())
        listed = [tuple(word.tolist()[:-1]) for word in words.data.arrays()]
        shares = dict(zip(listed, (words.weights / total).tolist(), strict=True))
        before, after = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
        for word, share in shares.items():
            for cut in range(len(word) + 1):
                before[word[:cut]] += share
                after[word[cut:]] += share
        rows = {word: n for n, (word, _) in enumerate(before.most_common(basis))}
        columns = {word: n for n, (word, _) in enumerate(after.most_common(basis))}
        hankel = torch.zeros(symbols + 1, len(rows), len(columns), dtype=torch.float64)
        first = torch.zeros(len(columns), dtype=torch.float64)
        last = torch.zeros(len(rows), dtype=torch.float64)
        for word, share in shares.items():
            if word in columns:
                first[columns[word]] = share
            if word in rows:
                last[rows[word]] = share
            for cut in range(len(word) + 1):
                row = rows.get(word[:cut])
                if row is None:
                    break  # longer prefixes are rarer
                if (column := columns.get(word[cut:])) is not None:
                    hankel[-1, row, column] = share
                if cut < len(word) and (column := columns.get(word[cut + 1 :])) is not None:
                    hankel[word[cut], row, column] = share
        left, sizes, right = torch.linalg.svd(hankel[-1], full_matrices=False)
        self.sizes = sizes
        self.start, self.stop = first @ right.mT, left.mT @ last
        self.moves = left.mT @ hankel[:-1] @ right.mT

    def log_prob(self, data: Sequences, rank: int, least: Tensor) -> Tensor:
        """log of the chances of strings (N,), no smaller than ``least`` (N,), of the first
        ``rank`` directions.
        """
        inverse = 1 / self.sizes[:rank].unsqueeze(-1)
        stay = torch.eye(rank, dtype=torch.float64).unsqueeze(0)
        moves = torch.cat([inverse * self.moves[:, :rank, :rank], stay])
        state = self.start[:rank].expand(len(data), 1, rank)
        codes = data.codes().masked_fill(~data.step_mask, len(moves) - 1)
        for code in codes.unbind(1):
            state = state @ moves[code.clamp_max(len(moves) - 1)]
        found: Tensor = (state.squeeze(1) @ (inverse.squeeze(-1) * self.stop[:rank])).clamp_min(
            1e-300
        )
        logs: Tensor = found.log().maximum(least)
        return logs

    def ranks(self, asked: Sequence[int]) -> list[int]:
        """Those of the ranks that the matrix has."""
        return [rank for rank in asked if rank <= int((self.sizes > 1e-12).sum())] or [1]
