"""How near elementwise gates can come to Bayes' rule: a number of the transition, not of a fit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...models import Model
from ...models.checks import require, require_count, require_seed
from ...models.randomness import seeded
from ..exact import chains as exact
from ..filters.natural import stationary_scores
from .gate_identity import natural

_STEPS, _HALVINGS, _STILL = 50, 20, 1e-9
_RIDGE = 1e-12
"""Curvature that is added, lest a cell of next to nothing makes it singular."""


def gate_floor(
    model: Model, *, sequences: int = 40, length: int = 50, nodes: int = 200, seed: int = 0
) -> float:
    r"""Returns the least error of an update by elementwise gates, in nats a step.

    .. math::
        \mathrm{E}_{\beta} \min_{f \in [0, 1]^{K-1}} \mathrm{E}_{y | \beta}\,
        \mathrm{KL}\big(\mathrm{Bayes}(\beta, y) \,\|\,
        \mathrm{softmax}(\lambda^* + f \odot c + \log O(y))\big)

    c = λ − λ* are the natural parameters log β_k / β_K of a belief, measured from the stationary
    ones. A gate may be any function of the belief, and what is written is Bayes' rule's own; what
    is left is that a gate neither turns a cell's sign nor lets it grow. It is zero for two states
    that stay rather than move and for states that stay or are redrawn (docs/science.md, I9). An
    LSTM whose work is divided has this error or more at every belief of its own
    (``update_errors``), unless what it writes makes up for a part.

    Beliefs are the exact filter's along simulated sequences. The observations of other simulations
    are the nodes of a quadrature over y, weighted by what the belief expects of them: no network
    is trained.

    Args:
        model: a chain with known parameters, the same at all steps.
        sequences: simulated sequences whose beliefs are averaged over…
        length: …and their steps.
        nodes: observations in the quadrature.
        seed: of the simulations.

    Returns:
        The floor, in nats a step.

    Raises:
        ValueError: another model, or one without a single stationary law.

    >>> from beliefzoo.inference import gate_floor
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> ring = HiddenMarkovModel(3, "poisson").with_parameters(
    ...     initial=[1 / 3] * 3, rate=[1.0, 4.0, 9.0],
    ...     transition=[[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]],
    ... )
    >>> stays = ring.with_parameters(
    ...     transition=[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    ... )
    >>> gate_floor(stays) < 1e-12 < 1e-3 < gate_floor(ring)
    True
    """
    for name, count in (("sequences", sequences), ("length", length), ("nodes", nodes)):
        require_count(count, name)
    require_seed(seed, optional=False)
    require(isinstance(model, Model), "model", "must be a model", type(model).__name__)
    model.complete({})
    plain = model.belief.discrete and model.belief.nodes is None
    fixed = not (model.actions or model.inputs or model.timed)
    require(plain and fixed, "model", "needs one chain that moves the same at all steps", model)
    simulated = [model.sample(sequences, length, seed=seed + n).data for n in range(2)]
    with torch.no_grad(), seeded(seed):
        laws, other = (model.laws({}, data) for data in simulated)
        assert laws.discrete is not None
        assert other.discrete is not None
        beliefs = exact.filter_chain(*laws.discrete.chain).log_beliefs.flatten(0, 1).double()
        matrix = laws.discrete.matrices[0, 0].exp().double()
        rest = stationary_scores(laws, model.belief).flatten().double()
        # Any steps of the other sequences: drawn, on the whole, from the mean of the predictions.
        expected = exact.filter_chain(*other.discrete.chain).log_predicted.exp().mean((0, 1)).log()
        told = other.discrete.log_likelihood.flatten(0, 1).double()
        told = told[torch.randperm(len(told))[:nodes]]
        possible = bool(beliefs.isfinite().all() and told.isfinite().all())
        require(possible, "model", "needs observations that rule out no state", model)
        mass = -(expected.double() + told).logsumexp(-1)
        return float(update_floor(beliefs, matrix, rest, told, mass).mean())


def update_floor(
    beliefs: Tensor, matrix: Tensor, rest: Tensor, told: Tensor, mass: Tensor
) -> Tensor:
    """The least error at each of these beliefs, (M,) nats.

    Args:
        beliefs: their logs, (M, K).
        matrix: T, (K, K).
        rest: log probabilities of the stationary law, (K,).
        told: log O_k(y) of the nodes of a quadrature over y, (Q, K).
        mass: logs of the nodes' masses, (Q,), up to a constant.
    """
    before = natural(beliefs, None) - natural(rest, None)
    predicted = (beliefs.exp() @ matrix).log()
    kept = natural(predicted, None) - natural(rest, None)
    joint = predicted.unsqueeze(1) + told
    weights = (joint.logsumexp(-1) + mass).softmax(-1)
    problem = _Problem(before, rest, told, weights, joint.log_softmax(-1))
    start = torch.where(before == 0, 0.5, kept / before).clamp(0, 1)
    return problem.errors(_least(problem, start))


class _Problem(NamedTuple):
    """Errors of gates (M, K − 1) at M beliefs, and their derivatives."""

    before: Tensor
    rest: Tensor
    told: Tensor
    weights: Tensor
    exactly: Tensor

    def _found(self, gate: Tensor) -> Tensor:
        score = nn.functional.pad(gate * self.before, (0, 1)) + self.rest
        return (score.unsqueeze(1) + self.told).log_softmax(-1)

    def errors(self, gate: Tensor) -> Tensor:
        """Mean divergence over the nodes of the quadrature, (M,)."""
        each = (self.exactly.exp() * (self.exactly - self._found(gate))).sum(-1)
        return (self.weights * each).sum(-1)

    def derivatives(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (M, K − 1) and curvature (M, K − 1, K − 1); the errors are convex."""
        found = self._found(gate).exp()[..., :-1]
        mean = (self.weights.unsqueeze(-1) * found).sum(1)
        wanted = (self.weights.unsqueeze(-1) * self.exactly[..., :-1].exp()).sum(1)
        pairs = torch.einsum("mq,mqk,mql->mkl", self.weights, found, found)
        scale = self.before.unsqueeze(-1) * self.before.unsqueeze(-2)
        return self.before * (mean - wanted), scale * (mean.diag_embed() - pairs)


def _least(problem: _Problem, gate: Tensor) -> Tensor:
    """The gates in [0, 1] of least error, by Newton's method on those between the ends."""
    unit = torch.eye(gate.shape[-1], dtype=gate.dtype)
    for _ in range(_STEPS):
        slope, curvature = problem.derivatives(gate)
        held = ((gate <= 0) & (slope > 0)) | ((gate >= 1) & (slope < 0))
        free = ~held.unsqueeze(-1) & ~held.unsqueeze(-2)
        step = torch.linalg.solve(
            torch.where(free, curvature, 0) + unit * (held.unsqueeze(-1) + _RIDGE),
            torch.where(held, 0, slope),
        )
        now, share = problem.errors(gate), torch.ones(len(gate), 1, dtype=gate.dtype)
        for _ in range(_HALVINGS):
            other = (gate - share * step).clamp(0, 1)
            worse = problem.errors(other) > now
            if not bool(worse.any()):
                break
            share = torch.where(worse.unsqueeze(-1), share / 2, share)
        other = torch.where(worse.unsqueeze(-1), gate, other)
        moved, gate = float((other - gate).abs().max()), other
        if moved < _STILL:
            break
    return gate
