"""Discriminative Markov chains: states given observations, without a law of the observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...models import DiscreteLaws, Model, Sequences
from ...models.checks import require
from ...models.trajectories import transition_log_prob
from ..exact import chains as exact
from ..exact.potentials import filter_beliefs
from .channels import Channels, Reading

_LEAST = -1e4
"""Log-likelihoods are cut here: potentials need no common scale, but finite numbers."""


class _MarkovPotentials(nn.Module, ABC):
    """Potentials A(z', z), (U x)_z and a first step, common to both ways of normalising them."""

    causal = True

    def __init__(self, *, reads: Reading = "observations") -> None:
        super().__init__()
        self.channels = Channels(reads, least=_LEAST)
        self.states: int | None = None

    moves: nn.Parameter
    """A (K, K), from row to column."""
    input_weight: nn.Parameter
    """U (K, width)."""
    first: nn.Parameter
    """The first step's part, (K,)."""

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"reads": self.channels.reads}

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        belief, name = model.belief, type(self).__name__
        require(
            belief.discrete,
            "filter",
            f"{name} needs a model of discrete states",
            belief,
        )
        assert belief.discrete
        width = self.channels.width(model)
        if self.states is not None:
            built = self.states, self.input_weight.shape[1]
            require(
                built == (belief.states, width),
                "filter",
                f"was built for (states, channels) = {built}; make a new {name}",
                (belief.states, width),
            )
            self.channels.build(model)
            return
        self.channels.build(model)
        self.states = belief.states
        self.moves = nn.Parameter(torch.zeros(belief.states, belief.states))
        drawn = torch.empty(belief.states, width).uniform_(-1, 1) / width**0.5
        self.input_weight = nn.Parameter(drawn)
        self.first = nn.Parameter(torch.zeros(belief.states))

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data."""
        del model
        self.channels.calibrate(data)

    def write(self, model: Model) -> Self:
        """Builds the filter and sets its potentials to those of a hidden Markov model.

        A = log T, U x_t = log O(y_t | ·), first = log p(z_1).

        Args:
            model: with all parameters known.

        Returns:
            The filter.

        Raises:
            ValueError: a filter that does not read likelihoods, unknown parameters, or transitions
                that are impossible or differ between steps.
        """
        require(
            self.channels.reads == "likelihoods",
            "filter",
            "must read 'likelihoods' for a model's potentials to be written into it",
            repr(self.channels.reads),
        )
        require(
            not (model.inputs or model.actions or model.timed),
            "model",
            "must move alike at all steps",
            model,
        )
        self.build(model)
        like = Sequences.from_tensors(
            model.observations.blank(1, 2), codes=model.observations.codes
        )
        with torch.no_grad():
            laws = model.laws({}, like).discrete
            assert laws is not None  # since the belief is discrete
            moves, first = laws.log_transition[0, 0], laws.log_initial[0]
            finite = bool(moves.isfinite().all() & first.isfinite().all())
            require(finite, "model", "needs initial and transition probabilities > 0", "zeros")
            self.moves.copy_(moves)
            self.first.copy_(first)
            self.input_weight.copy_(torch.eye(len(first)))
        return self

    def scores(self, laws: DiscreteLaws) -> Tensor:
        """Returns (U x_t)_z, plus the first step's term, (N, T, K)."""
        if self.states is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        told = self.channels(laws).to(self.input_weight) @ self.input_weight.mT
        return torch.cat([told[:, :1] + self.first, told[:, 1:]], 1).to(laws.log_initial.dtype)

    @abstractmethod
    def forward(self, laws: DiscreteLaws) -> Tensor:
        """Returns log beliefs (N, T, K)."""

    @abstractmethod
    def conditional_log_prob(self, laws: DiscreteLaws, paths: Tensor) -> Tensor:
        """Returns log p(z_1 … z_L | y_1 … y_L) of paths (N, T), (N,) nats; differentiable."""

    def _sums(self, laws: DiscreteLaws, scores: Tensor, table: Tensor, paths: Tensor) -> Tensor:
        """Σ_t scores_t(z_t) + table_t(z_{t-1}, z_t) along paths, (N,)."""
        own = scores.gather(-1, paths.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        along = transition_log_prob(table, paths, laws.lengths)
        return torch.where(paths >= 0, own, 0).sum(-1) + along


class MEMMFilter(_MarkovPotentials):
    r"""Maximum-entropy Markov model, normalised at every step.

    .. math::
        p(z_t | z_{t-1}, x_t) = \frac{\exp(A_{z_{t-1} z_t} + (U x_t)_{z_t})}{Z(z_{t-1}, x_t)},
        \qquad \beta_t(z) = \sum_{z'} \beta_{t-1}(z')\, p(z | z', x_t)

    With A = log T and U x = log O it has the exact p(z_t | z_{t-1}, y_t), but its belief is not the
    filter: Z, which is p(y_t | z_{t-1}), is divided out, so that y_t is never evidence against the
    previous state (label bias).

    Args:
        reads: ``"observations"`` or ``"likelihoods"``, see ``Channels``.

    Source: McCallum, Freitag & Pereira (2000); label bias: Lafferty, McCallum & Pereira (2001).

    >>> from beliefzoo.inference import BeliefGuide, CRFFilter, MEMMFilter, evidence_gap
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 5.0]
    ... )
    >>> data = model.sample(10, 20, seed=0).data
    >>> for kind in (MEMMFilter, CRFFilter):  # the same potentials, normalised in two ways
    ...     guide = BeliefGuide(model, kind(reads="likelihoods").write(model))
    ...     round(abs(evidence_gap(guide, data).gap_per_step), 3)
    0.022
    0.0
    """

    def forward(self, laws: DiscreteLaws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        scores = self.scores(laws)
        return filter_beliefs(
            scores[:, 0].log_softmax(-1), self._log_kernels(scores), torch.zeros_like(scores)
        )

    def conditional_log_prob(self, laws: DiscreteLaws, paths: Tensor) -> Tensor:
        """Returns log p(z_1 … z_L | y_1 … y_L) of paths (N, T), (N,) nats; differentiable."""
        scores = self.scores(laws)
        first = torch.zeros_like(scores)
        first[:, 0] = scores[:, 0].log_softmax(-1)
        return self._sums(laws, first, self._log_kernels(scores), paths)

    def _log_kernels(self, scores: Tensor) -> Tensor:
        """log p(z_t | z_{t-1}, x_t), (N, T-1|1, K, K); T = 1: one not used."""
        after = scores[:, 1:] if scores.shape[1] > 1 else scores
        return (self.moves.to(scores) + after.unsqueeze(-2)).log_softmax(-1)


class CRFFilter(_MarkovPotentials):
    r"""Linear-chain conditional random field, normalised once for a sequence.

    .. math::
        p(z | x) \propto \prod_t \exp(A_{z_{t-1} z_t} + (U x_t)_{z_t}), \qquad
        \beta_t(z) \propto e^{(U x_t)_z} \sum_{z'} \beta_{t-1}(z') e^{A_{z' z}}

    β, its normalised forward message, is p(z_t | x_1 … x_t) of the field on the first t steps. With
    A = log T and U x = log O it is the exact filter; ``write`` sets these potentials.

    Args:
        reads: ``"observations"`` or ``"likelihoods"``, see ``Channels``.

    Source: Lafferty, McCallum & Pereira (2001).

    >>> import torch
    >>> from beliefzoo.inference import CRFFilter
    >>> from beliefzoo.inference import filter as exact_filter
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 5.0]
    ... )
    >>> data = model.sample(10, 20, seed=0).data
    >>> beliefs = CRFFilter(reads="likelihoods").write(model)(model.laws(model.known, data)).exp()
    >>> torch.allclose(beliefs.double(), exact_filter(model, data), atol=1e-4)
    True
    """

    def forward(self, laws: DiscreteLaws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        scores = self.scores(laws)
        return filter_beliefs(torch.zeros_like(scores[:1, 0]), self._table(scores), scores)

    def conditional_log_prob(self, laws: DiscreteLaws, paths: Tensor) -> Tensor:
        """Returns log p(z_1 … z_L | y_1 … y_L) of paths (N, T), (N,) nats; differentiable."""
        scores = self.scores(laws)
        table = self._table(scores)
        log_z = exact.log_evidence(torch.zeros_like(scores[:1, 0]), table, scores, laws.lengths)
        return self._sums(laws, scores, table, paths) - log_z

    def _table(self, scores: Tensor) -> Tensor:
        """A, (1, 1, K, K)."""
        return self.moves.to(scores)[None, None]
