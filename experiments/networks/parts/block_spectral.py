"""The spectral filter with blocks of symbols for future and past."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ....inference.filters.spectral import ObservableOperators
from ....models import Laws, Model, Sequences
from ....models.checks import require

FLOOR = 1e-6
"""Least probability of a state before its symbol is seen; noise can make it negative."""

CUT = 1e-3
"""Singular values smaller than this, by the largest, are not inverted."""


class BlockSpectralFilter(nn.Module):
    r"""Predictive states of blocks of w symbols, turned into a belief over a model's states.

    With P_21 the law of a block and the block before it, U its m leading left singular vectors,
    b_1 = U'P_1, b_∞' = P_1'(U'P_21)⁺, B_x = U'P_{x}(U'P_21)⁺, P_x that of a block, a symbol x
    before it and a block before that: ``ObservableOperators`` whose rank can exceed the number of
    symbols. Let F be the law of a block that begins in a state of the model. The predicted beliefs
    lie in the span of the rows of its transition: p(z_t | y_1 … y_{t-1}) = T'(U'F T')⁺ b_t, then
    Bayes' rule with the model's own emission. The operators stay; the model can learn through this.

    Args:
        rank: m.
        window: w; ``SpectralFilter`` has 1.
    """

    causal = True

    def __init__(self, rank: int, window: int) -> None:
        super().__init__()
        self.rank, self.window = rank, window
        self.operators: ObservableOperators | None = None

    def build(self, model: Model) -> None:
        """Nothing to build."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Estimates the operators from the moments of the data, once."""
        if self.operators is None:
            self.operators = self.estimated(data.codes(), model.observations.channels)

    def estimated(self, codes: Tensor, symbols: int) -> ObservableOperators:
        """The operators of the frequencies of blocks in codes (N, T)."""
        w, blocks = self.window, symbols**self.window
        require(self.rank <= blocks, "rank", f"must be at most {blocks}", self.rank)
        short = codes.shape[1] < 2 * w + 1
        require(not short, "codes", f"needs {2 * w + 1} symbols or more", codes.shape[1])
        digits = symbols ** torch.arange(w - 1, -1, -1)
        block = codes.unfold(1, w, 1) @ digits  # (N, T − w + 1)

        def law(*columns: tuple[Tensor, int]) -> Tensor:
            place, sizes = torch.zeros_like(columns[0][0]), [size for _, size in columns]
            for column, size in columns:
                place = place * size + column
            counts = torch.bincount(place.flatten(), minlength=int(torch.tensor(sizes).prod()))
            return (counts.double() / counts.sum()).reshape(sizes)

        past, between, future = block[:, : -w - 1], codes[:, w:-w], block[:, w + 1 :]
        pairs = law((block[:, w:], blocks), (block[:, :-w], blocks))
        triples = law((between, symbols), (future, blocks), (past, blocks))
        return operators_of(pairs, triples, self.rank)

    def forward(self, laws: Laws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        assert self.operators is not None
        with torch.no_grad():
            states = self.operators.predictive_states(laws.data.codes())[:, :-1]
        moves = laws.log_transition[0, 0].exp().double()
        emits = laws.emission.mean(laws.parameters).double()
        told = self.operators.basis.mT @ block_law(moves, emits, self.window) @ moves.mT
        back = torch.linalg.pinv(told, rtol=CUT)  # (K, m)
        predicted = (states @ back.mT @ moves).clamp_min(FLOOR)
        found: Tensor = (predicted.log() + laws.log_likelihood.double()).log_softmax(-1)
        return found


def operators_of(pairs: Tensor, triples: Tensor, rank: int) -> ObservableOperators:
    """The operators of moments.

    Args:
        pairs: P_21, (block, block before).
        triples: P_x, (symbol between, block after it, block before it).
        rank: m.
    """
    basis = torch.linalg.svd(pairs).U[:, :rank]
    inverse = torch.linalg.pinv(basis.mT @ pairs)
    first = pairs.sum(0)
    start, end = basis.mT @ first, inverse.mT @ first
    return ObservableOperators(basis, start, end, basis.mT @ triples @ inverse)


def block_law(moves: Tensor, emits: Tensor, window: int) -> Tensor:
    """p(w symbols from now on | state), (S ** w, K), the last symbol fastest."""
    columns = []
    for block in itertools.product(range(emits.shape[1]), repeat=window):
        ahead = torch.ones_like(emits[:, 0])
        for place, symbol in enumerate(reversed(block)):
            ahead = emits[:, symbol] * (moves @ ahead if place else ahead)
        columns.append(ahead)
    return torch.stack(columns)
