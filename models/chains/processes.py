"""Processes of symbols whose hidden state moves as it emits, with exact beliefs.

Computational mechanics writes a process as one matrix a symbol: T_x(z, z') = p(z', x | z), the
chance to emit x while going from z to z'. The symbol may say which way the state went, which a
hidden Markov model, whose symbol depends on the state alone, cannot say of the same states. Over
pairs of (state gone to, symbol emitted) it can: then the symbol is part of the state.

References:
    Shai, Marzen, Teixeira, Oldenziel and Riechers (2024), Transformers represent belief state
    geometry in their residual stream, NeurIPS.
    Marzen and Crutchfield (2017), Nearly maximally predictive features and their dimensions,
    Physical Review E 95 (Mess3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import require, require_count, require_last
from ..emissions.counts import Categorical
from ..model import Number, Simulation, as_tensor
from .hmm import HiddenMarkovModel

_ROUNDING = 1e-9
"""By which a row of probabilities may miss a sum of 1."""

_LARGEST_PAIRS = 4096
"""Pairs of state and symbol whose transition matrix is still kept whole."""


@dataclass(frozen=True)
class LabelledChain:
    r"""A stationary process of symbols by its labelled transition matrices.

    .. math::
        p(x_1, \dots, x_L) = \pi\, T_{x_1} \cdots T_{x_L} 1, \qquad
        \eta_t = \frac{\eta_{t-1} T_{x_t}}{\eta_{t-1} T_{x_t} 1}, \qquad \eta_0 = \pi

    The belief η_t is the law of the state *after* x_t was emitted, given x_1 … x_t: what there is
    to know of the past in order to tell the future.
    """

    matrices: Tensor
    """T_x(z, z'), (symbols, K, K) float64; Σ_x T_x has rows that sum to 1."""
    stationary: Tensor
    """π, (K,): the law of the state before the first symbol."""
    model: HiddenMarkovModel
    """The same process over pairs (z', x), numbered z' · symbols + x, with known parameters."""

    @property
    def symbols(self) -> int:
        """Number of symbols V."""
        return len(self.matrices)

    @property
    def states(self) -> int:
        """Number of states K."""
        return self.matrices.shape[-1]

    def state_beliefs(self, pair_beliefs: Tensor) -> Tensor:
        """η (…, K), of beliefs over pairs (…, K · symbols), which ``filter(chain.model, …)`` gives.

        Raises:
            ValueError: beliefs of another width.
        """
        require_last(pair_beliefs, self.states * self.symbols, "pair_beliefs")
        pairs = pair_beliefs.reshape(*pair_beliefs.shape[:-1], self.states, self.symbols)
        return pairs.sum(-1)

    def next_symbol(self, beliefs: Tensor) -> Tensor:
        """p(x_{t+1} | x_1 … x_t) = η_t T_x 1, (…, symbols), of beliefs η_t (…, K).

        Raises:
            ValueError: beliefs of another width.
        """
        require_last(beliefs, self.states, "beliefs")
        return beliefs @ self.matrices.sum(-1).mT.to(beliefs)

    def sample(self, n: int, length: int, *, seed: int | None = None) -> Simulation:
        """n stationary sequences; ``states`` (N, L) are the states after each symbol."""
        drawn = self.model.sample(n, length, seed=seed)
        return drawn._replace(states=drawn.states // self.symbols)

    def block_entropies(self, length: int) -> Tensor:
        """H(x_1 … x_l) of l = 1 … ``length``, (length,) nats, by a sum over all words.

        The smallest mean loss a symbol of anything that predicts words of ``length`` symbols, one
        after the other and without knowing what was before, is H(length) / length.

        Raises:
            ValueError: a length of more words than can be enumerated.
        """
        require_count(length, "length")
        words = self.symbols**length
        require(words <= 2**22, "length", "needs at most 2^22 words", f"{words} words")
        weight, found = self.stationary.unsqueeze(0), []
        for _ in range(length):
            weight = torch.einsum("wi,xij->wxj", weight, self.matrices).flatten(0, 1)
            p = weight.sum(-1)
            weight = weight[p > 0]
            found.append(-torch.xlogy(p, p).sum())
        return torch.stack(found)

    @property
    def deterministic(self) -> bool:
        """Whether state and symbol determine the next state (a unifilar process)."""
        return bool(((self.matrices > 0).sum(-1) <= 1).all())

    def entropy_rate(self) -> float:
        """h = Σ_z π(z) H(x | z) nats, of a process whose next state follows from state and symbol.

        Raises:
            ValueError: a process of which there is no such formula; the mean of
                −``step_log_likelihood(chain.model, data)`` over long simulations estimates it.
        """
        require(
            self.deterministic,
            "chain",
            "the entropy rate has a closed form where state and symbol determine the next state",
            "a process where they do not",
        )
        emitted = self.matrices.sum(-1)
        return float(-(self.stationary * torch.xlogy(emitted, emitted).sum(0)).sum())


def labelled_chain(matrices: Number) -> LabelledChain:
    """A stationary process of labelled transition matrices (symbols, K, K).

    Raises:
        ValueError: a wrong shape, negative entries, rows that do not sum to 1 over symbols and
            next states, or a chain with several stationary laws.
    """
    table = as_tensor("matrices", matrices).detach()
    shape = tuple(table.shape)
    square = len(shape) == 3 and shape[0] >= 2 and shape[1] == shape[2] >= 1
    require(square, "matrices", "needs shape (symbols, K, K), two symbols or more", shape)
    symbols, states = shape[:2]
    require(
        symbols * states <= _LARGEST_PAIRS,
        "matrices",
        f"needs at most {_LARGEST_PAIRS} pairs of state and symbol",
        symbols * states,
    )
    total = table.sum((0, 2))
    require(
        bool(table.isfinite().all()) and bool((table >= 0).all()),
        "matrices",
        "needs probabilities >= 0",
        f"a smallest entry of {float(table.min())}",
    )
    require(
        bool(((total - 1).abs() <= _ROUNDING).all()),
        "matrices",
        "needs rows that sum to 1 over symbols and next states",
        total.tolist(),
    )
    table = table / total.unsqueeze(-1)
    stationary = _stationary(table.sum(0))
    # The pair (z', x) is entered from z with probability T_x(z, z'), whatever symbol came before.
    moves = table.permute(1, 2, 0).flatten(1)
    model = HiddenMarkovModel(states * symbols, Categorical(symbols)).with_parameters(
        initial=stationary @ moves,
        transition=moves.repeat_interleave(symbols, 0),
        probs=torch.eye(symbols, dtype=torch.float64).repeat(states, 1),
    )
    return LabelledChain(table, stationary, model)


def _stationary(transition: Tensor) -> Tensor:
    """π with π P = π, the only one."""
    states = len(transition)
    unit = torch.eye(states, dtype=transition.dtype)
    balance = torch.cat([transition.mT - unit, torch.ones(1, states, dtype=transition.dtype)])
    rank = int(torch.linalg.matrix_rank(balance))
    require(
        rank == states,
        "matrices",
        "needs a chain with one stationary law (it must not fall into separate parts)",
        f"{states - rank + 1} of them",
    )
    right = torch.zeros(states + 1, 1, dtype=transition.dtype)
    right[-1] = 1
    found: Tensor = torch.linalg.lstsq(balance, right).solution.squeeze(-1).clamp_min(0)
    return found / found.sum()


def mess3(x: float = 0.05, alpha: float = 0.85) -> LabelledChain:
    r"""Mess3: three states, three symbols, beliefs on a fractal in the triangle.

    .. math::
        T_s(i, j) = P(i, j)\, E(j, s), \qquad P = x + (1 - 3x) I, \qquad
        E = \beta + (\alpha - \beta) I, \quad \beta = (1 - \alpha) / 2

    Go to another state with probability x each, and emit the name of the state arrived at with
    probability α. At the values of Shai et al. (2024) the entropy rate is .7935 nats.

    Raises:
        ValueError: x outside (0, 1/2], or α outside [0, 1].
    """
    require(0 < x <= 0.5, "x", "must be in (0, 1/2]", x)
    require(0 <= alpha <= 1, "alpha", "must be in [0, 1]", alpha)
    unit, beta = torch.eye(3, dtype=torch.float64), (1 - alpha) / 2
    moves = x + (1 - 3 * x) * unit
    emitted = beta + (alpha - beta) * unit
    return labelled_chain(moves * emitted.mT.unsqueeze(1))


def random_random_xor() -> LabelledChain:
    """RRXOR: two random bits, then their exclusive or, over and over; five states.

    The states are S (nothing emitted yet), 0 and 1 (the first bit), and F and T (what the
    exclusive or will be), in this order. Two bits in three steps: the entropy rate is ⅔ log 2. An
    observer who does not know where a triple begins finds out in the end: 36 beliefs are met.
    """
    start, zero, one, false, true = range(5)
    moves = torch.zeros(2, 5, 5, dtype=torch.float64)
    moves[0, start, zero] = moves[1, start, one] = 0.5
    moves[0, zero, false] = moves[1, zero, true] = 0.5
    moves[0, one, true] = moves[1, one, false] = 0.5
    moves[0, false, start] = moves[1, true, start] = 1
    return labelled_chain(moves)


def zero_one_random() -> LabelledChain:
    """Z1R: 0, then 1, then a random bit, over and over; three states.

    One bit in three steps: the entropy rate is ⅓ log 2.
    """
    moves = torch.zeros(2, 3, 3, dtype=torch.float64)
    moves[0, 0, 1] = moves[1, 1, 2] = 1
    moves[:, 2, 0] = 0.5
    return labelled_chain(moves)


def golden_mean(p: float = 0.5) -> LabelledChain:
    """The golden mean process: bits without two zeros in a row; two states.

    After a 1 comes another with probability p; after a 0 a 1 for sure. The entropy rate is H(p) /
    (2 − p), H the entropy of a coin; its words number as the Fibonacci numbers.

    Raises:
        ValueError: p outside (0, 1).
    """
    require(0 < p < 1, "p", "must be in (0, 1)", p)
    moves = torch.zeros(2, 2, 2, dtype=torch.float64)
    moves[1, 0, 0], moves[0, 0, 1], moves[1, 1, 0] = p, 1 - p, 1
    return labelled_chain(moves)
