"""Recurrent units whose gates are the terms of Bayes' rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models import DiscreteLaws, Model, Sequences
from ...models.beliefs import DiscreteBelief
from ...models.boundary import boundary
from ...models.chains.nodes import product_law
from ...models.checks import require
from ..exact.potentials import filter_beliefs
from .channels import Channels, Reading


@boundary
class BayesianRecurrentFilter(nn.Module):
    r"""Recurrent units whose gates are the terms of Bayes' rule.

    .. math::
        \pi_t = \rho_t \beta_{t-1} + (1 - \rho_t)\, p, \qquad
        \beta_t(s) \propto \pi_t(s) \exp\big((U x_t)_s\big)

    A unit keeps its state with probability ρ_t and otherwise draws a new one from p: the forget
    gate is the probability that the past still counts, and exp(U x_t) is the likelihood of the
    input. In log odds the new belief is that of the prediction plus a term linear in the input.
    ρ_t = σ(r·x_t + r_0), or constant.

    The units are the k binary nodes of the model, or one unit of K states. Exact for independent
    units that hold or reset with constant ρ, whose log-likelihoods are linear in the inputs. There
    is no rotation of states and no coupling of nodes: W_h of an Elman network is reduced to one
    number per unit.

    Args:
        gated: whether the probability of holding depends on the input.
        reads: ``"observations"`` or ``"likelihoods"``, see ``Channels``.

    Raises:
        ValueError: a bad argument, or a model without discrete states.

    Source: Garner & Tong (2020), where a hidden indicator of context decides between the two.

    >>> from beliefzoo.inference import BayesianRecurrentFilter, BeliefGuide, evidence_gap
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> guide = BeliefGuide(model, BayesianRecurrentFilter())
    >>> gap = evidence_gap(guide, model.sample(5, 10, seed=0).data)
    >>> gap.kl_filter_per_step > 0  # untrained
    True
    """

    causal = True

    def __init__(self, *, gated: bool = True, reads: Reading = "observations") -> None:
        super().__init__()
        self.gated = bool(gated)
        self.channels = Channels(reads)
        self.belief: DiscreteBelief | None = None

    evidence_weight: nn.Parameter
    """U (units, states of a unit, width); the first state of a unit has zeros."""
    hold_weight: nn.Parameter
    """r (units, width); zeros that are not learned if not ``gated``."""
    hold_bias: nn.Parameter
    """r_0 (units,)."""
    reset: nn.Parameter
    """log p up to a constant, (units, states of a unit)."""
    first: nn.Parameter
    """The same at the first step."""

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"gated": self.gated, "reads": self.channels.reads}

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        belief = model.belief
        require(
            belief.discrete and belief.states > 1,
            "filter",
            "BayesianRecurrentFilter needs a model of at least two discrete states",
            belief,
        )
        assert belief.discrete
        width = self.channels.width(model)
        if self.belief is not None:
            built = self.belief, self.evidence_weight.shape[-1]
            require(
                built == (belief, width),
                "filter",
                f"was built for {built}; make a new BayesianRecurrentFilter",
                (belief, width),
            )
            self.channels.build(model)
            return
        self.channels.build(model)
        self.belief = belief
        units, states = (1, belief.states) if belief.nodes is None else (belief.nodes, 2)
        drawn = torch.empty(units, states - 1, width).uniform_(-1, 1) / width**0.5
        self.evidence_weight = nn.Parameter(drawn)
        self.hold_weight = nn.Parameter(torch.zeros(units, width), requires_grad=self.gated)
        self.hold_bias = nn.Parameter(torch.full((units,), 2.0))  # initially held for 8 steps
        self.reset = nn.Parameter(torch.zeros(units, states))
        self.first = nn.Parameter(torch.zeros(units, states))

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data."""
        del model
        self.channels.calibrate(data)

    def hold(self, laws: DiscreteLaws) -> Tensor:
        """Returns ρ_t, the probability of keeping the previous state, (N, T, units)."""
        logit: Tensor = (
            self.channels(laws).to(self.hold_weight) @ self.hold_weight.mT + self.hold_bias
        )
        return logit.sigmoid()

    def forward(self, laws: DiscreteLaws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        if self.belief is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        x, dtype = self.channels(laws).to(self.hold_weight), laws.log_initial.dtype
        told = torch.einsum("ntc,usc->nuts", x, self.evidence_weight)
        scores = nn.functional.pad(told, (1, 0))  # (N, units, T, states)
        units = len(self.reset)
        log_move = self._log_moves(x)  # (N|1, units, T-1|1, states, states)
        sequences = len(scores)
        log_move = log_move.expand(sequences, *log_move.shape[1:]).flatten(0, 1)
        first = self.first.log_softmax(-1).repeat(sequences, 1)
        parts = first, log_move, scores.flatten(0, 1)
        beliefs = filter_beliefs(*(part.to(dtype) for part in parts))
        by_unit: Tensor = beliefs.unflatten(0, (sequences, units))
        if self.belief.nodes is None:
            return by_unit[:, 0]
        return product_law((by_unit[..., 1] - by_unit[..., 0]).movedim(1, -1))

    def _log_moves(self, x: Tensor) -> Tensor:
        """log [ρ 1(s = s') + (1 − ρ) p(s)] of every step and unit."""
        x = x[:, 1:] if self.gated else x[:1, :1]
        logit = (x @ self.hold_weight.mT + self.hold_bias).movedim(-1, 1)[..., None, None]
        stays = nn.functional.logsigmoid(logit)
        leaves = nn.functional.logsigmoid(-logit)
        p = self.reset.log_softmax(-1)[:, None, None, :]
        states = self.reset.shape[-1]
        same = torch.eye(states, dtype=torch.bool, device=x.device)
        redrawn = (leaves + p).expand(*logit.shape[:-2], states, states)
        return torch.where(same, torch.logaddexp(redrawn, stays.expand_as(redrawn)), redrawn)
