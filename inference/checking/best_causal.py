"""The best causal guides of discrete chains, by dynamic programming over beliefs.

The future depends on the past through the exact filter b_t alone. So the value of a choice at step
t is a function of b_t and of the number of steps left. These functions are regressed, backward from
the last step, on polynomials of beliefs that occur in simulated sequences.

For a forward-structured guide, W = 0 at the last step and

    W_t(z, b_t) = E[V_{t+1}(z, y_{t+1}) | b_t],
    V_{t+1}(z, y) = log Σ_{z'} T(z'|z) O(y|z') exp W_{t+1}(z', b_{t+1}),

and the best q(z_t | z_{t-1}, y_{1:t}) is ∝ T(z_t|z_{t-1}) O(y_t|z_t) exp W_t(z_t, b_t): the soft
value iteration of control as inference (Levine 2018), with the future averaged over instead of
seen. For independent steps, U = 0 at the last step and

    U_t(q_t, b_t) = E[max_q' {q'·(log O(y_{t+1}) + log T' q_t) + H(q') + U_{t+1}(q', b_{t+1})}],

whose gradient in q_t is log T · E[q_{t+1}], and the best q_t solves
log q_t = log O(y_t) + log T' q_{t-1} + ∂U_t(q_t, b_t) + constant.

If the regression is not exact, the resulting guide is still a causal one: in expectation its bound
is a lower bound on the best, with an error of second order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import DiscreteLaws, HiddenMarkovModel
from ...models.checks import require
from ...models.randomness import seeded
from ..exact import chains as exact
from ..guides.posteriors import Forward, MeanField
from .outcomes import Outcomes, outcomes

FEATURES = 200
"""Most polynomials in a regression."""

HIGHEST_DEGREE = 10
"""Of the polynomials; in few dimensions."""

_BELIEFS = 500
"""Beliefs that a regression is over, at least."""

_BELIEFS_PER_FEATURE = 4

_FORWARD_OUTCOMES, _MEAN_FIELD_OUTCOMES = 256, 24
"""Outcomes of a step where they cannot be listed."""

_ROWS = 40_000
"""Beliefs after an outcome that are worked on at once."""

_ROUNDS = 24
"""Of the fixed point of independent steps."""

_VERTICES = 4
"""States that the fixed point is looked for near, beside the belief."""


def highest_degree(dimensions: int) -> int:
    """Largest degree for which polynomials in so many variables are few enough.

    Raises:
        ValueError: even linear functions are too many.
    """
    require(
        1 + dimensions <= FEATURES,
        "model",
        f"the best causal guide is known up to {FEATURES - 1} free numbers of a belief",
        dimensions,
    )
    degree = 1
    while degree < HIGHEST_DEGREE and math.comb(dimensions + degree + 1, degree + 1) <= FEATURES:
        degree += 1
    return degree


@dataclass(frozen=True)
class Polynomials:
    """Chebyshev polynomials of total degree at most ``degree``, on a box around given points."""

    low: Tensor
    high: Tensor
    exponents: Tensor
    """Degree of each feature in each variable, (F, D)."""

    @classmethod
    def over(cls, points: Tensor, degree: int) -> Polynomials:
        """For functions on the box around points (P, D)."""
        dimensions = points.shape[-1]
        powers = _compositions(dimensions, degree)
        return cls(points.amin(0), points.amax(0), torch.tensor(powers, dtype=torch.int64))

    def features(self, points: Tensor) -> Tensor:
        """(P, F) at points (P, D), which are moved into the box."""
        width = (self.high - self.low).clamp_min(1e-12)
        x = (2 * (points - self.low) / width - 1).clamp(-1, 1)
        ladder = [torch.ones_like(x), x]
        top = int(self.exponents.max()) if self.exponents.numel() else 0
        for _ in range(top - 1):
            ladder.append(2 * x * ladder[-1] - ladder[-2])
        table = torch.stack(ladder)  # (degree, P, D)
        out = points.new_ones(len(points), len(self.exponents))
        for d in range(points.shape[-1]):
            out = out * table[self.exponents[:, d], :, d].mT
        return out


def _compositions(dimensions: int, degree: int) -> list[tuple[int, ...]]:
    """All exponents of total degree up to ``degree``."""
    found: list[tuple[int, ...]] = []
    for total in range(degree + 1):
        for picked in itertools.combinations_with_replacement(range(dimensions), total):
            found.append(tuple(picked.count(d) for d in range(dimensions)))
    return found


@dataclass(frozen=True)
class _Chain:
    """A homogeneous chain, with the possible outcomes of its next step."""

    log_transition: Tensor
    """(K, K)."""
    table: Outcomes

    def onward(self, beliefs: Tensor) -> tuple[Tensor, Tensor]:
        """From filters b_t (P, K): p(y_{t+1}) (P, J) and b_{t+1} (P, J, K)."""
        return self.table.onward(beliefs @ self.log_transition.exp())


def best_causal_forward(
    model: HiddenMarkovModel, laws: DiscreteLaws, *, degree: int, seed: int = 0
) -> Forward:
    """The best q(z_t | z_{t-1}, y_{1:t}) at every step, on average over the model's sequences.

    Args:
        model: with all parameters known, and laws that are the same at every step.
        laws: its laws for the sequences in question.
        degree: of the polynomials.
        seed: of the simulated beliefs, and of outcomes where these are drawn.

    Raises:
        ValueError: laws that change over time; outcomes that some states rule out.
    """
    chain = _chain(model, laws, _FORWARD_OUTCOMES, seed)
    pool = _beliefs(model, laws, degree, laws.log_initial.shape[-1] - 1, seed)
    basis = Polynomials.over(pool[:, :-1], degree)
    inside = basis.features(pool[:, :-1])
    coefficients: Tensor | None = None
    tables = []
    for _ in range(laws.data.max_length - 1):
        value = torch.cat(
            [_forward_value(chain, part, basis, coefficients) for part in _pieces(chain, pool)]
        )
        _require_possible(value)
        coefficients = _regress(inside, value - value.mean(-1, keepdim=True))
        tables.append(coefficients)
    filtered = exact.filter_chain(*laws.chain).log_beliefs.exp()
    worth = _by_steps_left(laws, tables, basis.features(filtered[..., :-1].flatten(0, 1)))
    return Forward(laws, laws.log_likelihood + worth)


def _forward_value(
    chain: _Chain, beliefs: Tensor, basis: Polynomials, coefficients: Tensor | None
) -> Tensor:
    """W_t(z, b), (P, K), from the regression of W_{t+1}; None for zero."""
    probability, after = chain.onward(beliefs)
    told = chain.table.log_score.expand(len(beliefs), -1, -1)
    if coefficients is not None:
        flat = after.flatten(0, 1)
        told = told + (basis.features(flat[:, :-1]) @ coefficients).reshape(told.shape)
    # log Σ_z' T(z'|z) exp(…): a product of matrices, scaled by the largest term
    top = told.amax(-1, keepdim=True)
    value = ((told - top).exp() @ chain.log_transition.exp().mT).log() + top
    return torch.where(probability.unsqueeze(-1) > 0, value * probability.unsqueeze(-1), 0).sum(1)


def best_causal_mean_field(
    model: HiddenMarkovModel, laws: DiscreteLaws, *, degree: int, seed: int = 0
) -> MeanField:
    """The best independent steps q(z_t | y_{1:t}), on average over the model's sequences.

    Arguments and errors as of ``best_causal_forward``. The bound is not concave: at every step the
    better of two fixed points is taken, which may miss a better one.
    """
    chain = _chain(model, laws, _MEAN_FIELD_OUTCOMES, seed)
    states = laws.log_initial.shape[-1]
    pool = _beliefs(model, laws, degree, 2 * (states - 1), seed)
    with seeded(seed):
        power = 0.5 + 2.5 * torch.rand(len(pool), 1, dtype=torch.float64)
        noise = torch.randn(pool.shape, dtype=torch.float64)
    # Choices near the belief, and far from it, since a choice may depend on the past.
    near = pool.clamp_min(1e-6).log() * power + 0.5 * noise
    far = torch.arange(len(pool)).unsqueeze(-1) % 2 == 0
    chosen = torch.where(far, 3 * noise, near).softmax(-1)
    program = _MeanFieldProgram(chain, Polynomials.over(_pairs(pool, chosen), degree))
    inside = program.basis.features(_pairs(pool, chosen))
    tables: list[Tensor] = []
    for _ in range(laws.data.max_length - 1):
        target = program.worth(pool, chosen, tables[-1] if tables else None)
        _require_possible(target)
        tables.append(_regress(inside, target))
    return MeanField(laws, program.walk(laws, tables))


@dataclass(frozen=True)
class _MeanFieldProgram:
    """Value U(q, b) and its gradient in q, together the columns of a regression, (F, 1 + K)."""

    chain: _Chain
    basis: Polynomials

    def worth(self, beliefs: Tensor, chosen: Tensor, coefficients: Tensor | None) -> Tensor:
        """U_t and ∂U_t at pairs (b, q), (P, 1 + K)."""
        rows = _rows(self.chain)
        parts = []
        for b, q in zip(beliefs.split(rows), chosen.split(rows), strict=True):
            probability, after = self.chain.onward(b)
            moved = q @ self.chain.log_transition
            base = self.chain.table.log_score + moved.unsqueeze(1)
            flat = after.flatten(0, 1)
            value, best = self.choose(flat, base.flatten(0, 1), coefficients)
            value = (probability * value.reshape(probability.shape)).sum(1, keepdim=True)
            mean = torch.einsum("pj,pjk->pk", probability, best.reshape(after.shape))
            parts.append(torch.cat([value, mean @ self.chain.log_transition.mT], -1))
        return torch.cat(parts)

    def choose(
        self, beliefs: Tensor, base: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The largest q·base + H(q) + U(q, b) at filters b (P, K), (P,), and the q (P, K)."""
        if coefficients is None:  # a closed form
            log_q = base.log_softmax(-1)
            return base.logsumexp(-1), log_q.exp()
        states = base.shape[-1]
        vertices = torch.eye(states, dtype=base.dtype) * 0.98 + 0.02 / states
        starts = [beliefs, *(vertex.expand_as(beliefs) for vertex in vertices[:_VERTICES])]
        worth, best = None, beliefs
        for q in starts:
            for _ in range(_ROUNDS):
                slope = self._at(beliefs, q, coefficients)[1]
                q = 0.5 * (q + (base + slope).softmax(-1))
            own, slope = self._at(beliefs, q, coefficients)
            value = (q * base).sum(-1) - torch.special.xlogy(q, q).sum(-1) + own
            if worth is None:
                worth, best = value, q
                continue
            best = torch.where((value > worth).unsqueeze(-1), q, best)
            worth = torch.maximum(value, worth)
        assert worth is not None
        return worth, best

    def _at(self, beliefs: Tensor, q: Tensor, coefficients: Tensor | None) -> tuple[Tensor, Tensor]:
        """U (P,) and its gradient (P, K)."""
        if coefficients is None:
            return q.new_zeros(len(q)), torch.zeros_like(q)
        both = self.basis.features(_pairs(beliefs, q)) @ coefficients
        return both[:, 0], both[:, 1:]

    def walk(self, laws: DiscreteLaws, tables: Sequence[Tensor]) -> Tensor:
        """log q_t of every sequence, step by step, (N, T, K)."""
        filtered = exact.filter_chain(*laws.chain).log_beliefs.exp()
        steps = []
        before: Tensor | None = None
        for t in range(laws.data.max_length):
            moved = laws.log_initial if before is None else before @ self.chain.log_transition
            base = laws.log_likelihood[:, t] + moved
            q = torch.empty_like(base)
            left = (laws.lengths - 1 - t).clamp_min(0)
            for number in left.unique().tolist():
                rows = left == number
                table = tables[number - 1] if number else None
                q[rows] = self.choose(filtered[rows, t], base[rows], table)[1]
            steps.append(q.clamp_min(torch.finfo(q.dtype).tiny).log())
            before = q
        return torch.stack(steps, 1)


def _pairs(beliefs: Tensor, chosen: Tensor) -> Tensor:
    """The free numbers of beliefs and choices, (P, 2 (K − 1))."""
    return torch.cat([beliefs[:, :-1], chosen[:, :-1]], -1)


def _rows(chain: _Chain) -> int:
    return max(1, _ROWS // len(chain.table.log_score))


def _pieces(chain: _Chain, beliefs: Tensor) -> Sequence[Tensor]:
    pieces: Sequence[Tensor] = beliefs.split(_rows(chain))
    return pieces


def _regress(features: Tensor, target: Tensor) -> Tensor:
    """Least squares; the solution of least norm if points are fewer than features."""
    found: Tensor = torch.linalg.lstsq(features, target, rcond=1e-12, driver="gelsd").solution
    return found


def _chain(model: HiddenMarkovModel, laws: DiscreteLaws, count: int, seed: int) -> _Chain:
    require(
        not model.actions,
        "data",
        "the best causal guide is known for laws that are the same for all sequences and steps",
        f"{model.actions} actions that choose them",
    )
    shape = tuple(laws.log_transition.shape[:2])
    require(
        shape == (1, 1) and len(laws.log_initial) == 1,
        "data",
        "the best causal guide is known for laws that are the same for all sequences and steps",
        f"transitions of {shape[0]} sequence(s), {shape[1]} step(s)",
    )
    return _Chain(laws.log_transition[0, 0], outcomes(model, count, seed=seed))


def _require_possible(value: Tensor) -> None:
    require(
        bool(value.isfinite().all()),
        "model",
        "the best causal guide is known where every state may lead to every outcome",
        "states that rule some out; the bound of a causal guide may then be -inf",
    )


def _beliefs(
    model: HiddenMarkovModel, laws: DiscreteLaws, degree: int, dimensions: int, seed: int
) -> Tensor:
    """Filters b_t of simulated sequences, and the most extreme ones of the data, (P, K)."""
    count = max(_BELIEFS, _BELIEFS_PER_FEATURE * math.comb(dimensions + degree, degree))
    steps = laws.data.max_length
    like = model.sample(max(20, -(-4 * count // steps)), steps, seed=seed).data
    parts = []
    for given in (model.laws({}, like), laws):
        found = exact.filter_chain(*given.chain).log_beliefs.exp()
        parts.append(found[given.data.step_mask])
    simulated, met = parts
    with seeded(seed):
        picked = simulated[torch.randperm(len(simulated))[:count]]
    both = torch.cat([simulated, met])
    extreme = torch.cat([both.argmin(0), both.argmax(0)])
    return torch.cat([picked, both[extreme]]).double()


def _by_steps_left(laws: DiscreteLaws, tables: Sequence[Tensor], features: Tensor) -> Tensor:
    """Regressions at features (N T, F), each step by the number of steps after it; (N, T, K)."""
    worth = torch.zeros_like(laws.log_likelihood)
    steps = torch.arange(laws.data.max_length)
    left = laws.lengths.unsqueeze(-1) - 1 - steps
    wide = features.reshape(*left.shape, -1)
    for number, table in enumerate(tables, 1):
        rows = left == number
        worth[rows] = wide[rows] @ table
    return worth
