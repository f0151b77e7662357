"""Processes of symbols whose hidden state moves as it emits, with exact beliefs.

Computational mechanics describes a process by one matrix per symbol: T_x(z, z') = p(z', x | z), the
probability to emit x and go from z to z'. The symbol may depend on the move, whereas the symbol of
a hidden Markov model depends on the state alone. The process is therefore written as a hidden
Markov model of pairs (new state, emitted symbol).

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

from ..checks import require, require_count, require_finite, require_last, require_share
from ..emissions.counts import Categorical
from ..model import Number, Simulation, as_tensor
from .hmm import HiddenMarkovModel

_ROUNDING = 1e-9
"""Largest distance of the sum of a row of probabilities from 1."""

_LARGEST_PAIRS = 4096
"""Most pairs of state and symbol: their transition matrix is kept in memory."""


@dataclass(frozen=True)
class LabelledChain:
    r"""A stationary process of symbols, given by its labelled transition matrices.

    .. math::
        p(x_1, \dots, x_L) = \pi\, T_{x_1} \cdots T_{x_L} 1, \qquad
        \eta_t = \frac{\eta_{t-1} T_{x_t}}{\eta_{t-1} T_{x_t} 1}, \qquad \eta_0 = \pi

    The belief η_t is the distribution of the state *after* x_t was emitted, given x_1 … x_t: all
    that the past tells about the future. ``labelled_chain`` makes a process from its matrices.

    Args:
        matrices: T_x(z, z'), (symbols, K, K) float64; Σ_x T_x has rows that sum to 1.
        stationary: π, (K,), the distribution of the state before the first symbol.
        model: the same process as a hidden Markov model with known parameters, whose states are the
            pairs (z', x), numbered z' · symbols + x.

    >>> from beliefzoo.models import golden_mean
    >>> chain = golden_mean()
    >>> chain.next_symbol(chain.stationary)  # before any symbol: a 1 two times of three
    tensor([0.3333, 0.6667], dtype=torch.float64)
    >>> chain.block_entropies(3).exp()  # at most 2, 3, 5 words: no two zeros in a row
    tensor([1.8899, 3.0000, 4.7622], dtype=torch.float64)
    """

    matrices: Tensor
    stationary: Tensor
    model: HiddenMarkovModel

    @property
    def symbols(self) -> int:
        """Number of symbols V."""
        return len(self.matrices)

    @property
    def states(self) -> int:
        """Number of states K."""
        return self.matrices.shape[-1]

    def state_beliefs(self, pair_beliefs: Tensor) -> Tensor:
        """Return η (…, K) from beliefs over pairs (…, K · symbols), as ``filter(chain.model, …)``
        gives.

        Raises:
            ValueError: beliefs of another size.
        """
        require_last(pair_beliefs, self.states * self.symbols, "pair_beliefs")
        pairs = pair_beliefs.reshape(*pair_beliefs.shape[:-1], self.states, self.symbols)
        return pairs.sum(-1)

    def next_symbol(self, beliefs: Tensor) -> Tensor:
        """Return p(x_{t+1} | x_1 … x_t) = η_t T_x 1, (…, symbols), from beliefs η_t (…, K).

        Raises:
            ValueError: beliefs of another size.
        """
        require_last(beliefs, self.states, "beliefs")
        return beliefs @ self.matrices.sum(-1).mT.to(beliefs)

    def sample(self, n: int, length: int, *, seed: int | None = None) -> Simulation:
        """Draw n stationary sequences; ``states`` (N, L) are the states after each symbol."""
        drawn = self.model.sample(n, length, seed=seed)
        return drawn._replace(states=drawn.states // self.symbols)

    def block_entropies(self, length: int) -> Tensor:
        """Return H(x_1 … x_l) for l = 1 … ``length``, (length,) nats, by a sum over all words.

        H(length) / length is the smallest mean loss per symbol of a predictor of words of
        ``length`` symbols that starts without any context.

        Raises:
            ValueError: there are too many words of this length to enumerate.
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
        """True if state and symbol determine the next state (a unifilar process)."""
        return bool(((self.matrices > 0).sum(-1) <= 1).all())

    def entropy_rate(self) -> float:
        """Return h = Σ_z π(z) H(x | z) in nats, where state and symbol determine the next state.

        Raises:
            ValueError: another process, for which there is no such formula; the mean of
                −``step_log_likelihood(chain.model, data)`` over long simulations estimates h.
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
    """Make a stationary process from labelled transition matrices.

    Args:
        matrices: T_x(z, z') = p(z', x | z), (symbols, K, K).

    Returns:
        The process with its stationary distribution and its hidden Markov model.

    Raises:
        ValueError: a wrong shape, negative entries, rows that do not sum to 1 over symbols and next
            states, or several stationary distributions.

    >>> even = [[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 0.0]]]  # ones in runs of even length
    >>> chain = labelled_chain(even)
    >>> chain.stationary, round(chain.entropy_rate(), 4)  # 2/3 log 2
    (tensor([0.6667, 0.3333], dtype=torch.float64), 0.4621)
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
    """The only π with π P = π."""
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
    r"""Return Mess3: three states, three symbols, beliefs on a fractal in the triangle.

    .. math::
        T_s(i, j) = P(i, j)\, E(j, s), \qquad P = x + (1 - 3x) I, \qquad
        E = \beta + (\alpha - \beta) I, \quad \beta = (1 - \alpha) / 2

    The process goes to each other state with probability x, and emits the name of the new state
    with probability α. With the default values, those of Shai et al. (2024), the entropy rate is
    .7935 nats.

    Args:
        x: probability of going to one of the other states.
        alpha: probability of emitting the name of the state.

    Returns:
        The process.

    Raises:
        ValueError: x outside (0, 1/2], or α outside [0, 1].

    >>> chain = mess3()
    >>> data = chain.sample(2, 10, seed=0).data
    >>> data.n_steps, chain.deterministic
    (20, False)
    """
    require_finite(x, "x")
    require_share(alpha, "alpha")
    require(0 < x <= 0.5, "x", "must be in (0, 1/2]", x)
    unit, beta = torch.eye(3, dtype=torch.float64), (1 - alpha) / 2
    moves = x + (1 - 3 * x) * unit
    emitted = beta + (alpha - beta) * unit
    return labelled_chain(moves * emitted.mT.unsqueeze(1))


def random_random_xor() -> LabelledChain:
    """Return RRXOR: two random bits, then their exclusive or, over and over; five states.

    The states are S (nothing emitted yet), 0 and 1 (the first bit), and F and T (what the exclusive
    or will be), in this order. There are two random bits in three steps: the entropy rate is ⅔ log
    2. An observer who does not know where a triple begins finds it out in the end; 36 beliefs
    occur.

    Returns:
        The process.

    >>> round(random_random_xor().entropy_rate(), 4)  # 2/3 log 2
    0.4621
    """
    start, zero, one, false, true = range(5)
    moves = torch.zeros(2, 5, 5, dtype=torch.float64)
    moves[0, start, zero] = moves[1, start, one] = 0.5
    moves[0, zero, false] = moves[1, zero, true] = 0.5
    moves[0, one, true] = moves[1, one, false] = 0.5
    moves[0, false, start] = moves[1, true, start] = 1
    return labelled_chain(moves)


def zero_one_random() -> LabelledChain:
    """Return Z1R: 0, then 1, then a random bit, over and over; three states.

    There is one random bit in three steps: the entropy rate is ⅓ log 2.

    Returns:
        The process.

    >>> chain = zero_one_random()
    >>> chain.sample(1, 9, seed=0).states.diff().unique().tolist()  # 0, 1, 2, 0, 1, 2, …
    [-2, 1]
    """
    moves = torch.zeros(2, 3, 3, dtype=torch.float64)
    moves[0, 0, 1] = moves[1, 1, 2] = 1
    moves[:, 2, 0] = 0.5
    return labelled_chain(moves)


def golden_mean(p: float = 0.5) -> LabelledChain:
    """Return the golden mean process: bits without two zeros in a row; two states.

    After a 1 comes another with probability p; after a 0 comes a 1. The entropy rate is H(p) / (2 −
    p), H the entropy of a coin; the numbers of its words are Fibonacci numbers.

    Args:
        p: probability of a 1 after a 1.

    Returns:
        The process.

    Raises:
        ValueError: p outside (0, 1).

    >>> round(golden_mean(0.5).entropy_rate(), 4)  # 2/3 log 2
    0.4621
    """
    require_share(p, "p", inside=True)
    moves = torch.zeros(2, 2, 2, dtype=torch.float64)
    moves[1, 0, 0], moves[0, 0, 1], moves[1, 1, 0] = p, 1 - p, 1
    return labelled_chain(moves)
