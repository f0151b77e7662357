"""Distributions of whole trajectories: the chain of states, and the observations given them.

Trajectories are one-hot, shape (sequence, time, state), and zero beyond the length of their
sequence. A guide may pass the *mean* of its trajectories instead of a draw; everything here that is
linear in the trajectory is then an exact expectation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, Self, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from .boundary import boundary
from .checks import require_alike, require_mask


class Chain(NamedTuple):
    """A chain of K discrete states and its observations, for N sequences padded to T steps.

    The fields are the arguments of the functions of ``beliefzoo.inference.exact.chains``, in their
    order. Axes of size 1 are shared; leading axes ``…`` of draws broadcast. An ``-inf`` is an exact
    zero.

    Attributes:
        log_initial: log p(z_1), (…, N|1, K).
        log_transition: log p(z_{t+1} = column | z_t = row), (…, N|1, T-1|1, K, K); with ``choice``
            the A matrices (…, 1, A, K, K) that steps choose from.
        log_likelihood: log O_k(y_t) in nats, (…, N, T, K); zero where nothing was observed.
        lengths: length of every sequence, (N,) int64.
        choice: number of the matrix that drives each step, (N, T-1) int64; None without a choice.

    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1, 4]
    ... )
    >>> chain = model.laws({}, Sequences.from_arrays([[0, 3, 1]])).chain
    >>> tuple(chain.log_transition.shape), tuple(chain.log_likelihood.shape)
    ((1, 1, 2, 2), (1, 3, 2))
    """

    log_initial: Tensor
    log_transition: Tensor
    log_likelihood: Tensor
    lengths: Tensor
    choice: Tensor | None = None


class LowRankMoves(NamedTuple):
    """A transition of K states of rank R, T = L R, that a law returns from ``structure``.

    Inference then costs K R a step in place of K².

    Attributes:
        log_left: log L, (K, R).
        log_right: log R, (R, K).

    >>> import torch
    >>> from beliefzoo.models import LowRankMoves
    >>> half = torch.full((2, 1), 0.5).log()
    >>> moves = LowRankMoves(torch.zeros(2, 1), half.mT)
    >>> (moves.log_left.exp() @ moves.log_right.exp()).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    log_left: Tensor
    log_right: Tensor


class BandedMoves(NamedTuple):
    """A transition with few diagonals, T(z + offsets[w] | z) = exp(log_bands[z, w]), else zero.

    A law returns it from ``structure``; inference then costs K W a step in place of K².

    Attributes:
        log_bands: (K, W); -inf where a band points outside of the states.
        offsets: W different whole numbers of size < K.

    >>> import torch
    >>> from beliefzoo.models import BandedMoves
    >>> left_right = BandedMoves(torch.tensor([[0.8, 0.2], [1.0, 0.0]]).log(), (0, 1))
    >>> left_right.offsets
    (0, 1)
    """

    log_bands: Tensor
    offsets: tuple[int, ...]


class SparseMoves(NamedTuple):
    """A transition with E entries, T(columns[e] | rows[e]) = exp(log_values[e]), else zero.

    A law returns it from ``structure``; inference then costs E a step in place of K².

    Attributes:
        log_values: log probabilities of the entries, (E,).
        rows: the states before, (E,) int64.
        columns: the states after, (E,) int64.
        states: number of states K.

    >>> import torch
    >>> from beliefzoo.models import SparseMoves
    >>> swap = torch.tensor([[1], [0]])  # from either of two states to the other
    >>> moves = SparseMoves.listed(torch.zeros(2, 1), swap, torch.ones(2, 1, dtype=torch.bool))
    >>> moves.rows.tolist(), moves.columns.tolist(), moves.states
    ([0, 1], [1, 0], 2)
    """

    log_values: Tensor
    rows: Tensor
    columns: Tensor
    states: int

    @classmethod
    @boundary
    def listed(cls, log_moves: Tensor, target: Tensor, inside: Tensor) -> Self:
        """Build from a table (K, M) of moves, their targets, and which of them exist."""
        require_alike(log_moves=log_moves, target=target, inside=inside)
        require_mask(inside, "inside")
        origin = torch.arange(len(target)).unsqueeze(-1).expand_as(target)
        return cls(log_moves[inside], origin[inside], target[inside], len(target))


class FactorialMoves(NamedTuple):
    """Independent chains side by side: T is the Kronecker product of their transitions.

    A law returns it from ``structure``. The last chain changes fastest in the joint state.

    Attributes:
        log_transitions: log T of every chain, (K_c, K_c) each.

    >>> import torch
    >>> from beliefzoo.models import FactorialMoves
    >>> two = FactorialMoves((torch.eye(2).log(), torch.eye(3).log()))
    >>> [len(one) for one in two.log_transitions]  # six joint states
    [2, 3]
    """

    log_transitions: tuple[Tensor, ...]


Moves = LowRankMoves | BandedMoves | SparseMoves | FactorialMoves
"""The forms that inference has recursions for; see ``beliefzoo.inference.exact.structured``."""


class HardPaths(constraints.Constraint):
    """The support of trajectories (T, K) of hard states: one 1 in each step, zeros beyond the end.

    With ``beside``, the trajectories are (T, K + D) and continuous from column ``beside`` on.
    Autoguides and NUTS have no coordinates for them and are refused in words that say what has.
    """

    is_discrete = True
    event_dim = 2

    def __init__(self, way_out: str, beside: int | None = None) -> None:
        self.way_out, self.beside = way_out, beside
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether trajectories are of this kind, (…)."""
        hard = value[..., : self.beside]
        each = ((hard == 0) | (hard == 1)).all(-1) & (hard.sum(-1) <= 1)
        inside: Tensor = each.all(-1)
        return inside


@biject_to.register(HardPaths)
@transform_to.register(HardPaths)
def _no_coordinates(constraint: HardPaths) -> NoReturn:
    raise ValueError(
        "states: autoguides and NUTS need continuous states, got discrete ones; give them "
        f"{constraint.way_out}"
    )


CHAINS = HardPaths(
    "collapsed(model) of beliefzoo.inference, the same program with the states summed out (fit and "
    "nuts of beliefzoo.inference take the model itself)"
)


class _MeanOf(Protocol):
    def sample(self) -> Tensor: ...

    def kl_to_chain(self, chain: MarkovChain) -> Tensor: ...


def mean_of(value: Tensor) -> _MeanOf | None:
    """Return the law whose mean trajectory this is, as ``meant`` noted it; None for a draw."""
    return cast("_MeanOf | None", getattr(value, "_mean_of", None))


def meant(value: Tensor, law: object) -> Tensor:
    """Note on a mean trajectory which law it is the mean of."""
    value._mean_of = law  # type: ignore[attr-defined]
    return value


def require_hard(support: HardPaths, value: Tensor) -> None:
    """Raise ``ValueError`` unless trajectories are of hard states: others have no density."""
    if not bool(support.check(value.detach()).all()):
        raise ValueError(
            "states: needs trajectories with one 1 in each step, or the mean trajectory of a guide "
            "as TraceMeanField_ELBO, Trace_ELBO and TraceEnum_ELBO pass it on, got other numbers"
        )


def safe_log(probability: Tensor) -> Tensor:
    """log p with exact -inf at p = 0 and gradient 0 there (torch gives inf, then NaN)."""
    positive = probability > 0
    return torch.where(positive, probability, 1).log().masked_fill(~positive, -torch.inf)


def one_hot(paths: Tensor, states: int, dtype: torch.dtype) -> Tensor:
    """One-hot trajectories (…, time, state) from paths (…, time); -1 (padding) becomes zeros."""
    codes = torch.arange(states, device=paths.device)
    return (paths.unsqueeze(-1) == codes).to(dtype)


def transition_log_prob(
    log_transition: Tensor, paths: Tensor, lengths: Tensor, choice: Tensor | None = None
) -> Tensor:
    """Σ_t log T_t(z_{t+1} | z_t) of hard paths (…, N, T), shape (…, N).

    With ``choice`` (N, T-1), ``log_transition`` holds the matrices (1, A, K, K) to choose from.
    Entries are picked by index, so neither the value nor its gradient builds a tensor of
    (time, from, to) when the transition is the same at every step, or one of few.
    """
    steps = paths.shape[-1]
    if steps == 1:
        return log_transition.new_zeros(paths.shape[:-1])
    origin, target = paths[..., :-1].clamp_min(0), paths[..., 1:].clamp_min(0)
    if choice is None:
        picked = _pick(log_transition, origin, target)
    else:
        picked = log_transition[0][choice, origin, target]
    inside = torch.arange(1, steps, device=paths.device) < lengths.unsqueeze(-1)
    return torch.where(inside, picked, 0).sum(-1)


def _pick(log_transition: Tensor, origin: Tensor, target: Tensor) -> Tensor:
    lead = log_transition.shape[:-2]
    index: list[Tensor] = []
    for position, size in enumerate(lead):
        axis = torch.arange(size, device=origin.device)
        index.append(axis.reshape(-1, *[1] * (len(lead) - 1 - position)))
    return log_transition[(*index, origin, target)]


_FEW = 32
"""Up to this number of paths, each is drawn by itself: for few numbers a step in plain Python costs
less than a call of torch, for a single path a hundredth of it."""


def sample_chain(
    log_initial: Tensor,
    log_transition: Tensor,
    sequences: int,
    steps: int,
    generator: torch.Generator | None = None,
    *,
    choice: Tensor | None = None,
) -> Tensor:
    """Ancestral draws of hidden paths, int64 (N, T).

    ``log_initial`` (N|1, K) and ``log_transition`` (N|1, T-1|1, K, K), or (1, A, K, K) with
    ``choice`` (N, T-1). The first emission belongs to the first state: no transition comes before
    it.
    """
    cumulative_first = log_initial.exp().cumsum(-1)
    cumulative = log_transition.exp().cumsum(-1)
    uniform = torch.rand(
        steps, sequences, 1, generator=generator, dtype=log_initial.dtype, device=log_initial.device
    )
    rows = torch.arange(log_transition.shape[0], device=log_initial.device)
    paths = torch.empty(sequences, steps, dtype=torch.int64, device=log_initial.device)
    paths[:, 0] = invert(cumulative_first, uniform[0])
    fixed = log_transition.shape[1] == 1 and choice is None
    if fixed and sequences <= _FEW:
        walks = [_walker(table) for table in cumulative[:, 0]]
        for n in range(sequences):
            walk = walks[n % len(walks)]
            paths[n, 1:] = torch.tensor(walk(int(paths[n, 0]), uniform[1:, n, 0].tolist()))
        return paths
    for t in range(1, steps):
        place = choice[:, t - 1] if choice is not None else 0 if fixed else t - 1
        table = cumulative[rows, place, paths[:, t - 1]]
        paths[:, t] = invert(table, uniform[t])
    return paths


def _walker(cumulative: Tensor) -> Callable[[int, list[float]], list[int]]:
    """A function from first state and uniform numbers to the states that ``invert`` chooses."""
    total = cumulative[:, -1:]
    last = (cumulative < total).sum(-1).tolist()
    tables, totals = cumulative.tolist(), total[:, 0].tolist()

    def walk(state: int, uniform: list[float]) -> list[int]:
        path = []
        for u in uniform:
            state = min(bisect_right(tables[state], u * totals[state]), last[state])
            path.append(state)
        return path

    return walk


def invert(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of a cumulative distribution (…, K) at uniform numbers (…, 1) from [0, 1).

    It is scaled by its last entry and cut at the last state with a positive probability, so that
    rounding never leads to an impossible state.
    """
    total = cumulative[..., -1:]
    last = (cumulative < total).sum(-1)
    return (cumulative <= uniform * total).sum(-1).minimum(last)


class MarkovChain(dist.TorchDistribution):
    r"""Hidden paths of a batch of sequences, as one-hot trajectories.

    .. math:: p(z_{1:L}) = p(z_1) \prod_{t=1}^{L-1} T_t(z_{t+1} \mid z_t)

    Batch shape (N,), event shape (T, K). With ``choice`` (N, T-1), ``log_transition`` holds the
    matrices (1, A, K, K) that steps choose from.

    ``log_prob`` takes hard (0/1) trajectories. Of the mean trajectory of a guide's q it is
    −KL(q ‖ p), and ``q.log_prob`` is then zero: an ELBO needs but the difference of the two.
    """

    arg_constraints: dict[str, Any] = {}
    support = CHAINS

    def __init__(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        lengths: Tensor,
        steps: int,
        choice: Tensor | None = None,
    ) -> None:
        self.log_initial = log_initial
        self.log_transition = log_transition
        self.choice = choice
        self.lengths = lengths
        event = torch.Size([steps, log_initial.shape[-1]])
        super().__init__(lengths.shape, event, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> MarkovChain:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"MarkovChain: batch shape is fixed at {tuple(self.batch_shape)}, one entry per "
                f"sequence; got {tuple(batch_shape)}"
            )
        return self

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if torch.Size(sample_shape).numel() != 1:
            raise ValueError(f"MarkovChain: one draw at a time, got {tuple(sample_shape)}")
        steps, states = self.event_shape
        with torch.no_grad():
            chain = self.log_initial, self.log_transition
            paths = sample_chain(*chain, len(self.lengths), steps, choice=self.choice)
            beyond = torch.arange(steps, device=paths.device) >= self.lengths.unsqueeze(-1)
            draw = one_hot(paths.masked_fill(beyond, -1), states, self.log_initial.dtype)
        return draw.reshape(torch.Size(sample_shape) + draw.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        law = mean_of(value)
        if law is not None:
            return -law.kl_to_chain(self)
        require_hard(CHAINS, value)
        paths = value.argmax(-1)
        first = torch.where(value[..., 0, :] > 0, self.log_initial, 0).mul(value[..., 0, :]).sum(-1)
        return first + transition_log_prob(self.log_transition, paths, self.lengths, self.choice)


class Emitted(dist.TorchDistribution):
    """Observations given a trajectory: log p(y | z) = Σ_t Σ_k z_tk log O_k(y_t).

    ``score(y)`` returns log O_k(y_t) as (N, T, K), zero where nothing was observed; ``draw``
    samples observations for hard paths (N, T), of a mean trajectory for a draw of its law. Batch
    shape (N,), event (T,) for codes or (T, F).
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        states: Tensor,
        score: Callable[[Tensor], Tensor],
        draw: Callable[[Tensor], Tensor],
        event_shape: torch.Size,
    ) -> None:
        self.states = states
        self._score = score
        self._draw = draw
        super().__init__(states.shape[:-2], event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Emitted:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"Emitted: batch shape is fixed at {tuple(self.batch_shape)}, one entry per "
                f"sequence; got {tuple(batch_shape)}"
            )
        return self

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if torch.Size(sample_shape).numel() != 1:
            raise ValueError(f"Emitted: one draw at a time, got {tuple(sample_shape)}")
        with torch.no_grad():
            law = mean_of(self.states)
            states = self.states if law is None else law.sample()
            require_hard(CHAINS, states)
            draw = self._draw(states.argmax(-1))
        return draw.reshape(torch.Size(sample_shape) + draw.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        log_likelihood = self._score(value)
        possible = self.states > 0
        return torch.where(possible, log_likelihood, 0).mul(self.states).sum((-1, -2))
