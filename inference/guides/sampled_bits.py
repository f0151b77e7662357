"""A gate as the law of the next bits: the guide that feeds back samples."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models import DiscreteLaws, Model, TrajectoryLaws
from ...models.boundary import boundary
from ...models.chains.nodes import node_states, product_law
from ...models.trajectories import MarkovChain
from ..exact import chains as exact
from ..filters.channels import nodes_of
from ..filters.sigmoid import SigmoidFilter
from ..filters.slot import Filter
from .guide import Guide
from .posteriors import PathPosterior, _moves_inside, _reversal, _same_chain


class SampledBits(PathPosterior):
    r"""q(h_t | h_{t-1}) = Π_j σ((W h_{t-1} + a_t)_j) over k binary nodes, q(h_1) = Π_j σ(a_1).

    As a law of the next state it is N(h | h') exp(h · a_t) / Z_t(h'), with N(h | h') the product of
    σ(W h') and log Z_t(h') = Σ_j log(1 + e^{(W h' + a_t)_j}) − log(1 + e^{(W h')_j}). So its
    marginals and its KL to the chain come from products with K × K matrices that are the same at
    every step, and no (time, from, to) tensor. Drawing and scoring paths is done bit by bit.

    Args:
        laws: of a model over the 2^k states of k nodes, with transitions without zeros.
        drive: a, (N, T, k).
        weight: W, (k, k).

    Raises:
        ValueError: zeros in the initial or transition law, where the KL would be infinite.
    """

    def __init__(self, laws: DiscreteLaws, drive: Tensor, weight: Tensor) -> None:
        moves = _moves_inside(laws.log_transition, laws.lengths)
        if bool(moves.isneginf().any() | laws.log_initial.isneginf().any()):
            raise ValueError(
                "SampledBitGuide: needs initial and transition probabilities > 0, got exact zeros; "
                "use BeliefGuide or ForwardGuide"
            )
        self.drive, self.weight = drive, weight
        states = node_states(len(weight)).to(drive)
        self._states, self._moved = states, states @ weight.mT  # W h' of every h'
        super().__init__(laws, drive.shape[:-1] + states.shape[:1])
        # A constant added to all scores of a step changes nothing: make the largest 0.
        self._scores = drive @ states.mT - drive.relu().sum(-1, keepdim=True)

    @property
    def _log_normalisers(self) -> Tensor:
        """log Z_t(h') by the previous state, (N, T-1, K)."""
        after = self.drive[:, 1:]
        total = -after.relu().sum(-1, keepdim=True)
        for node, logit in enumerate(self._moved.unbind(-1)):  # node by node, to save memory
            both = after[..., node, None] + logit
            total = total + torch.nn.functional.softplus(both) - torch.nn.functional.softplus(logit)
        return total

    def _marginals(self) -> Tensor:
        """The backward sweep of I1 on the reversed chain, as for ``Forward``."""
        turned = _reversal(self.laws)
        weight = torch.cat([product_law(self.drive[:, :1]), self._scores[:, 1:]], 1)
        divisor = torch.cat([self._log_normalisers, torch.zeros_like(weight[:, :1])], 1)
        onward = product_law(self._moved).mT[None, None]
        marginals = exact.backward_marginals(
            onward, turned(weight), turned(divisor), self.laws.lengths
        )
        return turned(marginals) * self._inside.unsqueeze(-1)

    def kl_to_chain(self, chain: MarkovChain) -> Tensor:
        """E_q Σ_t [h_t · a_t − log Z_t(h_{t-1}) + log N − log T], KL(q ‖ chain), (N,)."""
        _same_chain(self.laws, chain)
        first = product_law(self.drive[:, :1]) - chain.log_initial.unsqueeze(-2)
        each = self.expected(torch.cat([first, self._scores[:, 1:]], 1))
        if self._scores.shape[1] == 1:
            return each
        steps = torch.arange(1, self._scores.shape[1], device=self.drive.device)
        leaves = (steps < self.laws.lengths.unsqueeze(-1)).unsqueeze(-1)
        before = torch.where(leaves, self.marginals[:, :-1], 0)
        log_z = self._log_normalisers
        own = product_law(self._moved)
        table = _moves_inside(chain.log_transition, self.laws.lengths)
        weighted = own.exp() * (own - table)
        weight = self._scores[:, 1:].exp()
        if table.shape[:2] == (1, 1):
            moved = weight @ weighted[0, 0].mT
        else:
            moved = (weighted @ weight.unsqueeze(-1)).squeeze(-1)
        return each + (before * ((-log_z).exp() * moved - log_z)).sum((-1, -2))

    def sample_paths(self, n: int) -> Tensor:
        sequences, steps, nodes = self.drive.shape
        place = 2 ** torch.arange(nodes - 1, -1, -1, device=self.drive.device)
        with torch.no_grad():
            uniform = torch.rand(steps, n, sequences, nodes).to(self.drive)
            bits = torch.zeros_like(uniform[0])
            paths = torch.empty(n, sequences, steps, dtype=torch.int64, device=place.device)
            for t in range(steps):  # each step needs the bits before it
                logit = self.drive[:, t] + (bits @ self.weight.mT if t else 0)
                bits = (uniform[t] < logit.sigmoid()).to(bits)
                paths[..., t] = (bits.long() * place).sum(-1)
            return paths.masked_fill(~self._inside, -1)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        bits = self._states[paths.clamp_min(0)]
        fed = torch.nn.functional.pad(bits[..., :-1, :] @ self.weight.mT, (0, 0, 1, 0))
        logit = self.drive + fed
        each = (bits * logit - torch.nn.functional.softplus(logit)).sum(-1)
        return torch.where(paths >= 0, each, 0).sum(-1)


@boundary
class SampledBitGuide(Guide):
    """A gate as the law of a bit: q(h_t | h_{t-1}, y_t) = Π_j σ((W_h h_{t-1} + W_y y_t + b)_j).

    The weights are those of a ``SigmoidFilter``, which in a ``BeliefGuide`` feeds back its
    probability instead of a sampled bit. Under the conditions of docs/science.md, I3, this gate is
    the exact p(h_t | h_{t-1}, y_t), to which forward KL leads. It is not a filter (I2, I4).

    Its bound is exact in the states, by enumeration of the 2^k of them; for many nodes ``"iwae"``
    and ``"rws"`` draw paths instead.

    Args:
        model: over the states of k binary nodes.
        filter: a ``SigmoidFilter``.
        parameters: as of :class:`Guide`.

    Raises:
        ValueError: a filter without such weights, or a model without binary nodes.

    >>> from beliefzoo.inference import SampledBitGuide, SigmoidFilter, evidence_gap
    >>> from beliefzoo.models import TemporalSigmoidBeliefNetwork, node_gate
    >>> model = TemporalSigmoidBeliefNetwork(1, "gaussian").with_parameters(
    ...     node_initial=[0.0], node_weight=[[2.0]], node_bias=[-1.0],
    ...     node_loading=[[1.0]], node_intercept=[0.0], scale=[1.0],
    ... )
    >>> guide = SampledBitGuide(model, SigmoidFilter().write(model, node_gate(model)))
    >>> gap = evidence_gap(guide, model.sample(20, 30, seed=0).data)
    >>> gap.gap_per_step > 0  # the gate is exact given the bit before, but ignores the future
    True
    """

    filter: SigmoidFilter

    def _check_filter(self, filter: Filter) -> None:
        if not isinstance(filter, SigmoidFilter):
            raise ValueError(
                "filter: SampledBitGuide needs the weights of a SigmoidFilter, got "
                f"{type(filter).__name__}"
            )

    def _check_model(self, model: Model) -> None:
        nodes_of(model, type(self).__name__)

    def posterior(self, laws: TrajectoryLaws, *, learn: bool = True) -> SampledBits:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""
        chain = laws.discrete
        assert chain is not None  # since the model has nodes
        dtype = chain.log_initial.dtype
        drive, weight = self.filter.drive(chain).to(dtype), self.filter.matrix.to(dtype)
        return SampledBits(
            chain, *((drive, weight) if learn else (drive.detach(), weight.detach()))
        )

    def sleep_loss(self, laws: TrajectoryLaws, paths: Tensor) -> Tensor:
        """Returns −log q(z | y) of simulated paths, (N,): the loss of the forward KL."""
        return -self.posterior(laws).path_log_prob(paths)
