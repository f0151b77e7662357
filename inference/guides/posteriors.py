"""Joint posteriors over hidden paths, built from beliefs and the model's own laws.

All are Pyro distributions of one-hot trajectories, batch (N,), event (T, K). ``sample`` draws hard
trajectories; the differentiable ``rsample`` returns their *mean*, the posterior marginals, so that
every expectation that is linear in the trajectory is exact. ``kl_divergence`` to the model's
``MarkovChain`` is in closed form: an ELBO over them has no sampling noise. All particles of a
``RenyiELBO`` are then alike; ``fit(objective="iwae")`` draws hard ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import register_kl

from ...models import DiscreteLaws
from ...models.trajectories import (
    CHAINS,
    MarkovChain,
    mean_of,
    meant,
    one_hot,
    require_hard,
    transition_log_prob,
)
from ..exact import chains as exact

Form = Literal["backward", "forward", "mean-field"]
"""How a posterior joins its steps: from the last one, from the first one, or not at all."""


class PathPosterior(dist.TorchDistribution, ABC):
    """A law of hidden paths with known marginals.

    ``mean`` (N, T, K) are the marginals, zero beyond the length of a sequence.
    """

    arg_constraints: dict[str, Any] = {}
    support = CHAINS
    has_rsample = True
    form: ClassVar[Form | None] = None

    def __init__(self, laws: DiscreteLaws, shape: torch.Size) -> None:
        self.laws = laws
        super().__init__(shape[:-2], shape[-2:], validate_args=False)

    @cached_property
    def marginals(self) -> Tensor:
        """q(z_t), (N, T, K)."""
        return self._marginals()

    @abstractmethod
    def _marginals(self) -> Tensor: ...

    @property
    def mean(self) -> Tensor:
        return self.marginals

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> PathPosterior:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"{type(self).__name__}: batch shape is fixed at {tuple(self.batch_shape)}, one "
                f"entry a sequence; got {tuple(batch_shape)}"
            )
        return self

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        mean = self.marginals.expand(torch.Size(sample_shape) + self.marginals.shape)
        return meant(mean, self)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        paths = self.sample_paths(max(1, torch.Size(sample_shape).numel()))
        hard = one_hot(paths, self.event_shape[-1], self.marginals.dtype)
        return hard.reshape(torch.Size(sample_shape) + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if mean_of(value) is self:
            return torch.zeros_like(value[..., 0, 0])  # see MarkovChain
        require_hard(CHAINS, value)
        paths = value.argmax(-1).masked_fill(~self._inside, -1)
        return self.path_log_prob(paths)

    @property
    def _inside(self) -> Tensor:
        return self.laws.data.step_mask

    @abstractmethod
    def sample_paths(self, n: int) -> Tensor:
        """n hard paths per sequence, int64 (n, N, T), -1 beyond the length."""

    @abstractmethod
    def path_log_prob(self, paths: Tensor) -> Tensor:
        """log q(z_1 … z_L) of hard paths (…, N, T), shape (…, N)."""

    @abstractmethod
    def kl_to_chain(self, chain: MarkovChain) -> Tensor:
        """KL(q ‖ chain), shape (N,)."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """log p(z_1 … z_L) under the model's chain, shape (…, N)."""
        first = self._pick(self.laws.log_initial.unsqueeze(-2), paths[..., :1])
        return first.sum(-1) + self._moves_log_prob(paths)

    def _moves_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log T(z_{t+1} | z_t), shape (…, N)."""
        laws = self.laws
        return transition_log_prob(laws.matrices, paths, laws.lengths, laws.choice)

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log O(y_t | z_t), shape (…, N)."""
        return self._pick(self.laws.log_likelihood, paths).sum(-1)

    @staticmethod
    def _pick(table: Tensor, paths: Tensor) -> Tensor:
        """Entries of (N|1, T, K) at paths (…, N, T), 0 beyond the length."""
        shape = torch.broadcast_shapes(table.shape[:-1], paths.shape)
        index = paths.clamp_min(0).expand(shape).unsqueeze(-1)
        picked = table.expand(*shape, table.shape[-1]).gather(-1, index).squeeze(-1)
        return torch.where(paths >= 0, picked, 0)

    def expected(self, table: Tensor) -> Tensor:
        """E_q Σ_t table_t(z_t) of a (N, T, K) table, shape (N,); 0 · ∞ counts as 0."""
        possible = self.marginals > 0
        return torch.where(possible, table, 0).mul(self.marginals).sum((-1, -2))

    def elbo(self) -> Tensor:
        """The bound on log p(y) of each sequence at these parameters, (N,) nats."""
        return self.expected(self.laws.log_likelihood) - self.kl_to_chain(self.laws.states())


class Backward(PathPosterior):
    r"""The backward factorisation with causal beliefs β_t; see docs/science.md, I1.

    .. math::
        q(z) = \beta_T(z_T) \prod_{t<T}
        \frac{\beta_t(z_t) T(z_{t+1}|z_t)}{\pi_{t+1}(z_{t+1})},
        \qquad \pi_{t+1} = \beta_t T, \quad \pi_1 = p(z_1)

    With the model's own T the chain's terms cancel in log q − log p(z):
    KL(q ‖ p(z)) = Σ_t E_q[log β_t(z_t) − log π_t(z_t)], without a pairwise tensor. It is the exact
    posterior if β is the exact filter (Campbell et al. 2021).
    """

    form = "backward"

    def __init__(self, laws: DiscreteLaws, log_beliefs: Tensor) -> None:
        self.log_beliefs = _supported(laws, log_beliefs)
        super().__init__(laws, self.log_beliefs.shape)

    @cached_property
    def _joined(self) -> tuple[Tensor, Tensor]:
        laws = self.laws
        chain = laws.log_initial, laws.matrices
        return exact.join_beliefs(*chain, self.log_beliefs, laws.lengths, laws.choice)

    @property
    def log_predicted(self) -> Tensor:
        """log π_t, (N, T, K)."""
        return self._joined[0]

    def tilt(self) -> Tensor:
        """log β_t − log π_t, (N, T, K): what q says of z_t beyond the model's transition."""
        impossible = self.log_predicted.isneginf()
        ratio = self.log_beliefs - self.log_predicted.masked_fill(impossible, 0)
        return ratio.masked_fill(impossible, -torch.inf)

    def _marginals(self) -> Tensor:
        return self._joined[1]

    def elbo(self) -> Tensor:
        initial, moves, likelihood, lengths, choice = self.laws.chain
        return exact.belief_elbo(initial, moves, likelihood, self.log_beliefs, lengths, choice)

    def sample_paths(self, n: int) -> Tensor:
        laws = self.laws
        with torch.no_grad():
            return exact.sample_backward(
                laws.matrices, self.log_beliefs, laws.lengths, n, choice=laws.choice
            )

    def path_log_prob(self, paths: Tensor) -> Tensor:
        residual = self.log_beliefs - torch.where(
            self.log_predicted.isneginf(), 0, self.log_predicted
        )
        return self._pick(residual, paths).sum(-1) + self.chain_log_prob(paths)

    def kl_to_chain(self, chain: MarkovChain) -> Tensor:
        _same_chain(self.laws, chain)
        return self.expected(self.log_beliefs) - self.expected(self.log_predicted)


class Forward(PathPosterior):
    """Forward-structured: q(z_t | z_{t-1}) ∝ T(z_t | z_{t-1}) exp(s_t(z_t)).

    s_t is the network's score at step t; with Z_t the normalisers,
    KL(q ‖ p(z)) = Σ_t E_q[s_t(z_t) − log Z_t(z_{t-1})]. Exact if s_t is the log-likelihood plus the
    log backward message, which needs the future: a causal network cannot compute it
    (docs/science.md, I2).
    """

    form = "forward"

    def __init__(self, laws: DiscreteLaws, scores: Tensor) -> None:
        scores = _reachable(laws, scores)
        # A constant added to all scores of a step changes nothing; this one prevents overflow.
        scores = scores - scores.detach().amax(-1, keepdim=True)
        log_z, first = _normalisers(laws, scores)
        self.scores, self.log_first = scores, first
        self.log_normalisers = log_z  # (N, T-1, K) by the state that is left
        super().__init__(laws, scores.shape)

    def tilt(self) -> Tensor:
        """s_t, (N, T, K): what q says of z_t beyond the model's transition."""
        return self.scores

    def _marginals(self) -> Tensor:
        """The backward sweep of I1 on the reversed chain.

        m_t = e^{s_t} ∘ T'(m_{t-1} / Z_t) has the form m_t = β_t ∘ T(m_{t+1} / π_{t+1}).
        """
        laws = self.laws
        turned = _reversal(laws)
        weight = torch.cat([self.log_first.unsqueeze(1), self.scores[:, 1:]], 1)
        divisor = torch.cat([self.log_normalisers, torch.zeros_like(weight[:, :1])], 1)
        moves, choice = _reverse_moves(laws)
        marginals = exact.backward_marginals(
            moves, turned(weight), turned(divisor), laws.lengths, choice
        )
        return turned(marginals) * laws.data.step_mask.unsqueeze(-1)

    def sample_paths(self, n: int) -> Tensor:
        sequences, steps, states = self.scores.shape
        with torch.no_grad():
            log_kernel_first = self.log_first.unsqueeze(1)
            paths = [_draw(log_kernel_first.expand(n, sequences, 1, states))[..., 0]]
            for t in range(1, steps):
                table = self.laws.step(t - 1)
                rows = torch.arange(len(table), device=table.device)
                logits = table[rows, paths[-1]] + self.scores[:, t]
                paths.append(_draw(logits))
            return torch.stack(paths, -1).masked_fill(~self._inside, -1)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        first = self._pick(self.log_first.unsqueeze(1), paths[..., :1]).sum(-1)
        rest = self._moves_log_prob(paths)
        if paths.shape[-1] == 1:
            return first + rest
        scores = self._pick(self.scores[:, 1:], paths[..., 1:]).sum(-1)
        leaving = torch.where(paths[..., 1:] >= 0, paths[..., :-1], -1)
        return first + rest + scores - self._pick(self.log_normalisers, leaving).sum(-1)

    def kl_to_chain(self, chain: MarkovChain) -> Tensor:
        _same_chain(self.laws, chain)
        first = self.log_first - self.laws.log_initial
        table = torch.cat([first.unsqueeze(1), self.scores[:, 1:]], 1)
        onward = torch.arange(1, table.shape[1] + 1, device=table.device)
        leaves = (onward < self.laws.lengths.unsqueeze(-1)).unsqueeze(-1)
        log_z = torch.cat([self.log_normalisers, torch.zeros_like(table[:, :1])], 1)
        return self.expected(table - torch.where(leaves, log_z, 0))


class MeanField(PathPosterior):
    """Independent steps: q(z) = Π_t β_t(z_t), which ignores the chain.

    Needs transitions without zeros: otherwise its KL to the chain is infinite.
    """

    form = "mean-field"

    def __init__(self, laws: DiscreteLaws, log_beliefs: Tensor) -> None:
        moves = _moves_inside(laws.matrices, laws.lengths, laws.choice)
        if bool(moves.isneginf().any() | laws.log_initial.isneginf().any()):
            raise ValueError(
                "MeanFieldGuide: needs initial and transition probabilities > 0, got exact zeros; "
                "use BeliefGuide or ForwardGuide"
            )
        self.log_beliefs = log_beliefs
        super().__init__(laws, log_beliefs.shape)

    def _marginals(self) -> Tensor:
        return self.log_beliefs.exp() * self._inside.unsqueeze(-1)

    def sample_paths(self, n: int) -> Tensor:
        with torch.no_grad():
            paths = _draw(self.log_beliefs.expand(n, *self.log_beliefs.shape))
        return paths.masked_fill(~self._inside, -1)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        return self._pick(self.log_beliefs, paths).sum(-1)

    def kl_to_chain(self, chain: MarkovChain) -> Tensor:
        m = self.marginals
        first = (m[:, 0] * chain.log_initial).sum(-1)
        table = _moves_inside(chain.log_transition, self.laws.lengths, chain.choice)
        moved = _through(table, m[:, :-1], chain.choice)
        return self.expected(self.log_beliefs) - first - (moved * m[:, 1:]).sum((-1, -2))


@register_kl(PathPosterior, MarkovChain)
def _kl_path_chain(q: PathPosterior, p: MarkovChain) -> Tensor:
    return q.kl_to_chain(p)


def _through(matrices: Tensor, weight: Tensor, choice: Tensor | None) -> Tensor:
    """Σ_z w_t(z) M_t(z, z') of weights (N, S, K), one matrix product for each distinct matrix.

    Matrices (N|1, S|1, K, K), or with ``choice`` (N, S) the (1, A, K, K) to choose from.
    """
    if matrices.shape[:2] == (1, 1):
        return weight @ matrices[0, 0]
    if choice is None:
        return (weight.unsqueeze(-2) @ matrices).squeeze(-2)
    out = torch.zeros_like(weight)
    for number, matrix in enumerate(matrices[0]):
        here = choice == number
        out[here] = weight[here] @ matrix
    return out


def _moves_inside(log_transition: Tensor, lengths: Tensor, choice: Tensor | None = None) -> Tensor:
    """A transition for every step, (N|1, T-1|1, K, K), with 0 after a sequence has ended.

    The stored one belongs to no transition: in continuous time it is the identity, which has zeros.
    Matrices that steps choose from are returned as they are.
    """
    steps = log_transition.shape[1]
    if steps < 2 or choice is not None:
        return log_transition
    onward = torch.arange(1, steps + 1, device=lengths.device)
    inside = onward < lengths.unsqueeze(-1)
    return torch.where(inside[..., None, None], log_transition, 0)


def _same_chain(laws: DiscreteLaws, chain: MarkovChain) -> None:
    """Raises unless this is the chain that q was built from, for which the closed form holds."""
    for own, other in (
        (laws.log_initial, chain.log_initial),
        (laws.matrices, chain.log_transition),
        (laws.choice, chain.choice),
    ):
        if own is other:
            continue
        if own is None or other is None or not torch.equal(own, other):
            raise ValueError(
                "guide: its posterior was built from another model's initial or transition law; "
                "make the guide from the model that it is used with"
            )


def _supported(laws: DiscreteLaws, log_beliefs: Tensor) -> Tensor:
    """Beliefs restricted to the states that can be held at all.

    A network's softmax has mass everywhere; where the model's zeros rule a state out, that mass
    would make the bound -inf. Models without zeros are left unchanged.
    """
    parts = laws.log_initial, laws.matrices, laws.log_likelihood
    if not any(bool(part.isneginf().any()) for part in parts):
        return log_beliefs
    possible = exact.support(*laws.chain)
    return log_beliefs.masked_fill(~possible, -torch.inf).log_softmax(-1)


def _reachable(laws: DiscreteLaws, scores: Tensor) -> Tensor:
    """Scores restricted to the states on some possible path, given past and future.

    A path that ends where the model's zeros allow no next state would make the bound -inf.
    """
    parts = laws.log_initial, laws.matrices, laws.log_likelihood
    if not any(bool(part.isneginf().any()) for part in parts):
        return scores
    with torch.no_grad():
        initial, transition, likelihood = (
            torch.zeros_like(x).masked_fill(x.isneginf(), -torch.inf) for x in parts
        )
        smoothed = exact.smooth_chain(initial, transition, likelihood, laws.lengths, laws.choice)
        possible = ~smoothed.isneginf()
    beyond = ~laws.data.step_mask.unsqueeze(-1)
    return scores.masked_fill(~(possible | beyond), -torch.inf)


def _normalisers(laws: DiscreteLaws, scores: Tensor) -> tuple[Tensor, Tensor]:
    """log Z_t(z_{t-1}) = log Σ_z T(z|z_{t-1}) e^{s_t(z)} for t >= 2, and log q(z_1)."""
    first = (laws.log_initial + scores[:, 0]).log_softmax(-1)
    top = scores[:, 1:].amax(-1, keepdim=True)
    weight = (scores[:, 1:] - top).exp()
    total = _through(laws.matrices.exp().mT, weight, laws.choice)
    # For states on no possible path, which have probability zero under q.
    total = torch.where(total > 0, total, 1)
    return total.log() + top, first


def _reversal(laws: DiscreteLaws) -> Callable[[Tensor], Tensor]:
    """Returns the map that reverses (N, T, K) within each sequence's length."""
    steps = torch.arange(laws.data.max_length, device=laws.lengths.device)
    index = (laws.lengths.unsqueeze(-1) - 1 - steps).clamp_min(0).unsqueeze(-1)

    def turned(x: Tensor) -> Tensor:
        return x.gather(1, index.expand(-1, -1, x.shape[-1]))

    return turned


def _reverse_moves(laws: DiscreteLaws) -> tuple[Tensor, Tensor | None]:
    """The transitions of each sequence from its end to its beginning, as the kernels take them."""
    table, choice = laws.matrices.mT, laws.choice
    if table.shape[1] == 1 and choice is None:
        return table, None
    steps = torch.arange(laws.data.max_length - 1, device=table.device)
    index = (laws.lengths.unsqueeze(-1) - 2 - steps).clamp_min(0)
    if choice is not None:
        return table, choice.gather(1, index)
    states = table.shape[-1]
    wide = index[..., None, None].expand(-1, -1, states, states)
    return table.expand(len(index), -1, -1, -1).gather(1, wide), None


def _draw(logits: Tensor) -> Tensor:
    drawn: Tensor = dist.Categorical(logits=logits, validate_args=False).sample()
    return drawn
