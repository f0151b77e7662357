"""Weights of an LSTM that keeps natural parameters, written from a model: W_h is not zero.

A natural cell needs the factor f(c_{t−1}) of Bayes' rule as a logistic function of h_{t−1}. The
auxiliary units make a basis of functions of c_{t−1}: each has a constant cell, and an output gate

    o_j = σ(w_j · (Φ̂ + u_{t−1}) + b_j),    Φ̂ = A h_{t−2} ≈ Φ(c_{t−2}),

which reads the step's observation (u is linear in it) and, in the outputs of the step before, the
basis itself. A, and the weights of logit f on the basis, are least squares over beliefs of
simulated sequences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...models import Model, Sequences
from ...models.checks import require, require_count
from ...models.randomness import seeded
from ..filters.natural import NaturalLSTMFilter, stationary_normal, stationary_scores
from .gate_identity import bayes_factors

LINEAR_SCALE = 1e5
"""Natural parameters that a cell of 1 stands for: tanh errs by a share (u / 1e5)² / 3 of u."""

OPEN = 40.0
"""Bias of a gate that is always open; −40 of one that is always closed."""

SIMULATED = 200, 150
"""Sequences, and their steps, over whose beliefs the basis is fitted."""

SATURATED = math.tanh(1.0)
"""Output of an auxiliary unit per unit of its output gate: its cell is 1."""

WIDER = 1.3
"""Factor of natural parameters beyond those that were simulated."""

SAME = 1e-6
"""Difference, in probability or relative, up to which a first law counts as the stationary one."""

_FIRST_LAW = "its first law must be the stationary one, from which empty cells start"
_LARGEST_LOGIT = 12.0
_STEEPNESS = 4.0
"""Slope of a basis function, per distance of neighbours."""


class _Update(NamedTuple):
    """What the network has to compute: c before, Φ(c), (steps, cells), and u = U x + u_0."""

    before: Tensor
    kept: Tensor
    told: Tensor
    constant: Tensor


def written_lstm(model: Model, units: int, *, seed: int = 0) -> NaturalLSTMFilter:
    """Returns an LSTM whose weights are written from a model; see ``construct``.

    Args:
        model: with known parameters: a chain that stays or redraws, or one normal state.
        units: number of auxiliary units; the more, the nearer is the network to Bayes' rule.
        seed: of the simulated sequences, and of the basis where there are several cells.
    """
    require_count(units, "units")
    failing = failing_of_written(model)
    require(not failing, "model", "needs a gate in (0, 1) for each cell", "; and ".join(failing))
    discrete = model.belief.discrete
    network = NaturalLSTMFilter(
        units, scale=LINEAR_SCALE, reads="likelihoods" if discrete else "observations"
    )
    network.build(model)
    network.double()
    data = model.sample(*SIMULATED, seed=seed).data
    network.calibrate(model, data)
    with torch.no_grad(), seeded(seed):
        update = _of_chain(model, data) if discrete else _of_normal(model, data, network)
        weights, offsets = _basis(update.before, units, one=not discrete)
        _write(network, update, weights, offsets)
    network.written.fill_(True)
    return network


def failing_of_written(model: Model) -> list[str]:
    """Conditions that fail for the factor of Bayes' rule to be a gate, in words."""
    model.complete({})
    if not model.belief.discrete:
        return _failing_of_normal(model)
    if model.belief.nodes is not None:
        return ["its states are binary nodes, whose gates are written without units"]
    if model.actions or model.inputs or model.timed:
        return ["its moves must be the same at all steps"]
    whole = model.laws({}, model.sample(1, 2, seed=0).data)
    laws = whole.discrete
    assert laws is not None
    matrix = laws.matrices[0, 0].exp()
    fresh = torch.stack(
        [matrix[(column + 1) % len(matrix), column] for column in range(len(matrix))]
    )
    kept = 1 - fresh.sum()
    same = torch.allclose(matrix, fresh + kept * torch.eye(len(matrix)).to(matrix), atol=1e-9)
    if not same:
        return ["its states must stay or be redrawn, T = (1 − ε) I + ε 1 π'"]
    if not float(kept) > 0:
        return [
            f"its states must stay rather than move, but a belief keeps {float(kept):.3g} of it"
        ]
    first = laws.log_initial.exp().flatten()
    settled = stationary_scores(whole, model.belief).exp().flatten()
    return [] if torch.allclose(first, settled, atol=SAME) else [_FIRST_LAW]


def _failing_of_normal(model: Model) -> list[str]:
    laws = model.laws({}, model.sample(1, 2, seed=0).data).linear
    if laws is None or laws.size != 1 or model.observations.features != 1:
        return ["it must have one normal state and one output"]
    moves = laws.transition, laws.offset, laws.noise
    outputs = laws.loading, laws.intercept, laws.observation_noise
    fixed = all(part.shape[:2] == (1, 1) for part in moves + outputs)
    if model.inputs or model.timed or not fixed:
        return ["its moves and outputs must be the same at all steps"]
    a = float(laws.transition.squeeze())
    if not 0 < a < 1:
        return [f"its state must be damped, 0 < a < 1, but a is {a:.3g}"]
    mean, precision = stationary_normal(laws, laws.initial_mean.double())
    first = torch.stack([laws.initial_mean.squeeze(), laws.initial_covariance.squeeze()]).double()
    settled = torch.stack([mean, precision.reciprocal()])
    known = not laws.diffuse.shape[-1] and torch.allclose(first, settled, rtol=SAME, atol=SAME)
    return [] if known else [_FIRST_LAW]


def _of_chain(model: Model, data: Sequences) -> _Update:
    """c_k = log β_k/π_k − log β_K/π_K; the network reads log O_k(y), up to a constant."""
    whole = model.laws({}, data)
    laws = whole.discrete
    assert laws is not None
    before = _wider(bayes_factors(model, data)["before"].flatten(0, 1))
    rest = stationary_scores(whole, model.belief).flatten()
    belief = (nn.functional.pad(before, (0, 1)) + rest).softmax(-1)
    odds = (belief @ laws.matrices[0, 0].exp()).log() - rest
    kept = odds[:, :-1] - odds[:, -1:]
    cells = before.shape[-1]
    told = torch.cat([torch.eye(cells), -torch.ones(cells, 1)], -1).double()
    return _Update(before, kept, told, torch.zeros(cells, dtype=torch.float64))


def _of_normal(model: Model, data: Sequences, network: NaturalLSTMFilter) -> _Update:
    """Information and precision in units of the states; the network reads y and whether it is not.

    About a third of the observations is left out, so that precisions of all sizes occur.
    """
    laws = model.laws({}, data).linear
    assert laws is not None
    unseen = torch.rand(data.mask.shape) < torch.rand(len(data), 1, 1) ** 2
    part = Sequences.from_tensors(data.values.masked_fill(unseen, torch.nan), lengths=data.lengths)
    unit = network.state_scale.double()
    units = torch.cat([unit, unit.square()])
    before = _wider(bayes_factors(model, part)["before"].flatten(0, 1))
    before[:, 1].clamp_(min=0)  # precisions do not fall below the stationary one
    centre, settled = stationary_normal(laws, network.state_shift.double())
    factor, moves = laws.transition.double().mean(), laws.noise.double().mean()
    shrunk = 1 / (factor.square() + moves * (before[:, 1] + settled))
    kept = before * torch.stack([factor * shrunk, factor.square() * shrunk], -1) * units
    before = before * units
    loading, noise = laws.loading.mean(), laws.observation_noise.mean()
    shift, spread = network.shift.squeeze(), network.scale.squeeze()
    gain = unit.squeeze() * loading / noise
    away = gain * (shift - laws.intercept.mean() - loading * centre)
    sure = (unit.squeeze() * loading).square() / noise
    told = torch.stack([torch.stack([gain * spread, -away]), torch.stack([0 * sure, -sure])])
    return _Update(before, kept, told, torch.stack([away, sure]))


def _wider(points: Tensor) -> Tensor:
    """The points, and as many further out, so that the basis holds where beliefs seldom go."""
    return torch.cat([points, WIDER * points])


def _basis(points: Tensor, units: int, *, one: bool) -> tuple[Tensor, Tensor]:
    """Directions (units, cells) and offsets (units,) of σ(w · c + b); the first is constant.

    Of one cell, or where only the last one matters, they lie side by side between the least and the
    largest value; of several, at random points in random directions.
    """
    cells = points.shape[-1]
    weights = torch.zeros(units, cells, dtype=torch.float64)
    offsets = torch.zeros(units, dtype=torch.float64)
    if units == 1:
        return weights, offsets
    if cells == 1 or one:
        own = points[:, -1]
        low, high = float(own.min()), float(own.max())
        places = torch.linspace(low, high, units - 1, dtype=torch.float64)
        slope = _STEEPNESS * max(units - 2, 1) / (high - low)
        weights[1:, -1] = slope / 2
        offsets[1:] = -slope / 2 * places
        return weights, offsets
    spread = points.std(0)
    direction = nn.functional.normalize(torch.randn(units - 1, cells, dtype=torch.float64), dim=-1)
    weights[1:] = 2.0 * torch.rand(units - 1, 1, dtype=torch.float64).add(0.5) * direction / spread
    chosen = points[torch.randint(len(points), (units - 1,))]
    offsets[1:] = -(weights[1:] * chosen).sum(-1)
    return weights, offsets


def _write(network: NaturalLSTMFilter, update: _Update, weights: Tensor, offsets: Tensor) -> None:
    """Sets all weights of the network."""
    before, kept, told, constant = update
    seen = SATURATED * (before @ weights.mT + offsets).sigmoid()
    shrink = _least_squares(seen, kept, torch.ones_like(kept))
    factor = torch.where(before == 0, 0.5, kept / before).clamp(1e-6, 1 - 1e-6)
    importance = (before * factor * (1 - factor)).abs() + 1e-6
    logits = factor.logit().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    forget = _least_squares(seen, logits, importance)
    lstm = network.network
    assert isinstance(lstm, nn.LSTM)
    own = dict(lstm.named_parameters())
    for one in own.values():
        one.zero_()
    size, cells = network.hidden_size, network.natural
    i, f, g, o = (slice(start * size, start * size + size) for start in range(4))
    read, turned, bias = own["weight_ih_l0"], own["weight_hh_l0"], own["bias_ih_l0"]
    bias[i], bias[g] = OPEN, OPEN
    bias[f], bias[o] = -OPEN, -OPEN
    bias[f][:cells] = 0  # the constant unit of the basis carries it
    turned[f][:cells, cells:] = forget.mT
    read[g][:cells] = told / LINEAR_SCALE
    bias[g][:cells] = constant / LINEAR_SCALE
    turned[o][cells:, cells:] = weights @ shrink.mT
    read[o][cells:] = weights @ told
    bias[o][cells:] = offsets + weights @ constant


def _least_squares(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Coefficients (features, targets), each target with weights of its own."""
    found = []
    for target, importance in zip(y.unbind(-1), weight.unbind(-1), strict=True):
        features, goal = importance.unsqueeze(-1) * x, (importance * target).unsqueeze(-1)
        solved = torch.linalg.lstsq(features, goal, rcond=1e-12, driver="gelsd")
        found.append(solved.solution[:, 0])
    return torch.stack(found, -1)
