"""Baum–Welch for chains of symbols with weights: likelihood, density or variational Bayes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.special import xlogy

from ...models import HiddenMarkovModel, LabelledHMM, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_choice, require_count, require_positive, require_seed
from ...models.emissions.counts import Categorical
from ...models.model import as_tensor
from ...models.randomness import seeded
from ..exact import chains as exact

_NUMBERS = 2**20
"""Numbers in a table over sequences, steps and states that is held at once."""

_ROUNDING = 1e-13
"""Relative size of gains that rounding makes."""

Estimate = Literal["ml", "map", "variational"]


@dataclass(frozen=True)
class BaumWelch:
    """A chain of symbols that Baum–Welch has fitted.

    Attributes:
        model: with known parameters; of ``"variational"`` their posterior means.
        evidence: Σ_n w_n log p(x_n) before every step, in nats; of ``"variational"`` of the
            weights that stand for the parameters, which is no log density.
        left: nats that further steps would gain, if gains go on shrinking as the last two did; NaN
            after fewer than two steps.
        settled: whether that is less than asked for.
        heights: what each start came to, highest first: the log likelihood, with the log prior for
            ``"map"``, or the lower bound of ``"variational"``, in nats.

    >>> from beliefzoo.models import LabelledHMM, as_strings
    >>> found = baum_welch(LabelledHMM(1, 2, ends=True), as_strings([[0, 1], [0]], 2))
    >>> found.model.known["probs"].tolist()  # a single state: shares of the symbols and the end
    [[0.4, 0.2, 0.4]]
    """

    model: HiddenMarkovModel
    evidence: tuple[float, ...]
    left: float
    settled: bool
    heights: tuple[float, ...]

    def __str__(self) -> str:
        end = f"{self.left:.1g} nats left to gain"
        end = f"settled, {end}" if self.settled else f"used up, {end} or more: try more steps"
        lines = [f"{self.model!r}", f"  evidence  {self.evidence[-1]:.4f} nats"]
        lines.append(f"  steps     {len(self.evidence) - 1}, {end}")
        if len(self.heights) > 1:
            below = self.heights[0] - self.heights[1]
            lines.append(f"  starts    {len(self.heights)}, the second best {below:.2g} nats below")
        for name, value in self.model.known.items():
            rows = str(value.numpy().round(4)).splitlines()
            lines += [f"  {name:<10}  {rows[0]}", *(f"{'':14}{row}" for row in rows[1:])]
        return "\n".join(lines)


@boundary
def baum_welch(
    model: HiddenMarkovModel,
    data: Sequences,
    *,
    weights: npt.ArrayLike | Tensor | None = None,
    estimate: Estimate = "map",
    start: HiddenMarkovModel | None = None,
    restarts: int = 5,
    steps: int = 500,
    gain: float = 1e-5,
    seed: int = 0,
) -> BaumWelch:
    r"""Fit a ``LabelledHMM``, or a ``HiddenMarkovModel`` of symbols, by expected counts.

    The expected counts are the derivatives of Σ_n w_n log p(x_n) by the logarithms of the
    parameters, c = ∂ / ∂ log θ, and a step sets every row to

    .. math:: θ_i ∝ c_i, \qquad θ_i ∝ c_i + α_i - 1, \qquad
        \log θ_i = ψ(c_i + α_i) - ψ(\textstyle\sum_j c_j + α_j)

    for the largest likelihood, the highest posterior density, and variational Bayes, where α are
    the pseudo-counts of the priors. The last has few moves where α is small, and does not stick
    where α < 1 has no highest density.

    Args:
        model: the symbols' model, all of whose parameters are estimated.
        data: sequences without missing symbols.
        weights: w, (N,) >= 0, how often each sequence counts: the number of its copies, or its
            probability under another law, for which the fit then has the least divergence. None: 1.
        estimate: ``"ml"``, ``"map"`` or ``"variational"``.
        start: the same model with known parameters, to begin at; None: at random.
        restarts: random starts, of which the highest end counts.
        steps: of each at most.
        gain: in nats per unit of weight; a fit ends when further steps would gain less. Gains
            shrink by a constant factor near a maximum, so that what is left is d² / (d' − d)
            after gains d' and d. Slow fits shrink little, and small gains are no end.
        seed: of the random starts.

    Returns:
        The fitted model.

    Raises:
        ValueError: another model, missing symbols, weights that do not fit, or a start under which
            the data are impossible.

    Source: Baum, Petrie, Soules & Weiss (1970), Annals of Mathematical Statistics 41; MacKay
        (1997), Ensemble learning for hidden Markov models.

    >>> from beliefzoo.models import LabelledHMM, as_strings
    >>> words = as_strings([[0, 1], [0, 1, 0, 1], []], symbols=2)
    >>> found = baum_welch(LabelledHMM(2, 2, ends=True), words, estimate="ml", seed=1)
    >>> found.settled, round(found.evidence[-1], 3)  # "01" again or the end: log 2⁻⁶
    (True, -4.159)
    """
    _check(model, data, estimate, start)
    require_count(restarts, "restarts")
    require_count(steps, "steps")
    require_positive(gain, "gain")
    require_seed(seed, optional=False)
    weight = _weights(weights, data)
    fit = _Fit(
        model,
        list(_parts(model, data, weight)),
        {name: _pseudo_counts(model, name) for name in model.all_priors},
        estimate,
        steps,
        gain * float(weight.sum()),
    )
    begins = [start.own_known] if start is not None else _random(model, data, restarts, seed)
    ended = [fit.climb(values) for values in begins]
    best = max(ended, key=lambda one: one.height)
    heights = sorted((one.height for one in ended), reverse=True)
    known = model.with_parameters(**best.values)
    return BaumWelch(known, best.trace, best.left, best.left < fit.least, tuple(heights))


class _End(NamedTuple):
    """Where a start came to."""

    values: dict[str, Tensor]
    trace: tuple[float, ...]
    left: float
    height: float


@dataclass(frozen=True)
class _Fit:
    """What all starts have in common."""

    model: HiddenMarkovModel
    parts: list[tuple[Sequences, Tensor]]
    prior: dict[str, Tensor]
    estimate: Estimate
    steps: int
    least: float

    def climb(self, start: Mapping[str, Tensor]) -> _End:
        """Steps from some values until little is left to gain."""
        values, trace = dict(start), list[float]()
        law = None
        while True:
            counts, evidence = _counted(self.model, self.parts, values)
            requirement = "must be possible under the start"
            require(evidence > -torch.inf, "data", requirement, "probability 0")
            trace.append(evidence)
            left = _left(trace)
            if left < self.least or len(trace) > self.steps:
                break
            law = {name: counts[name] + self.prior[name] for name in values}
            values = {name: _row(counts[name], self.prior[name], self.estimate) for name in values}
        height = trace[-1] + self._prior_term(values, law)
        if self.estimate == "variational":
            values = {name: _shares(counts[name] + self.prior[name]) for name in values}
        return _End(values, tuple(trace), left, height)

    def _prior_term(self, values: dict[str, Tensor], law: dict[str, Tensor] | None) -> float:
        """log p(θ) up to a constant, or −KL of the law of θ from its prior; 0 for ``"ml"``."""
        if self.estimate == "map":
            inside = {name: x.clamp_min(1e-300) for name, x in values.items()}
            return sum(float(xlogy(self.prior[n] - 1, x).sum()) for n, x in inside.items())
        if self.estimate == "ml" or law is None:
            return 0.0
        pairs = [(Dirichlet(law[name]), Dirichlet(self.prior[name])) for name in law]
        return -sum(float(kl_divergence(*pair).sum()) for pair in pairs)


def _left(trace: list[float]) -> float:
    """Nats that steps have left to gain: the sum of a geometric series; NaN after fewer than two.

    What rounding makes of gains has no rate, and counts as nothing left.
    """
    if len(trace) < 3:
        return math.nan
    before, last = abs(trace[-2] - trace[-3]), abs(trace[-1] - trace[-2])
    if last <= _ROUNDING * max(1.0, abs(trace[-1])):
        return 0.0
    return last**2 / (before - last) if last < before else math.inf


def _random(
    model: HiddenMarkovModel, data: Sequences, restarts: int, seed: int
) -> Iterator[Mapping[str, Tensor]]:
    """Values to start from, drawn one after the other from one seed."""
    for number in range(restarts if model.states > 1 else 1):
        with seeded(seed + 7919 * number):
            values = dict(_drawn(model, data))
        yield values


def _check(
    model: HiddenMarkovModel, data: Sequences, estimate: Estimate, start: HiddenMarkovModel | None
) -> None:
    plain = type(model) is HiddenMarkovModel and {*model.all_priors} <= {
        "initial",
        "transition",
        "probs",
    }
    fits = type(model) is LabelledHMM or (plain and type(model.emission) is Categorical)
    require(fits, "model", "needs a LabelledHMM, or a HiddenMarkovModel of symbols", repr(model))
    assert isinstance(model, HiddenMarkovModel)
    free = model.initial == "free" and not model.known
    require(free, "model", "needs parameters that are free, none of them known", repr(model))
    require_choice(estimate, "estimate", ("ml", "map", "variational"))
    masked = getattr(model, "allowed", None) is not None and estimate == "variational"
    require(not masked, "estimate", "must be 'ml' or 'map' where moves are not allowed", estimate)
    model.check(data)
    missing = int((data.step_mask & ~data.observed_steps).sum())
    require(missing == 0, "data", "needs every symbol", f"{missing} missing")
    if start is not None:
        same = type(start) is type(model) and start.own_known.keys() == model.all_priors.keys()
        same = same and start.configuration.keys() == model.configuration.keys()
        same = same and all(
            start.own_known[name].shape == prior.event_shape
            for name, prior in model.all_priors.items()
        )
        require(same, "start", "needs the same model with known parameters", repr(start))


def _weights(weights: npt.ArrayLike | Tensor | None, data: Sequences) -> Tensor:
    if weights is None:
        return torch.ones(len(data), dtype=torch.float64)
    given = as_tensor("weights", weights)
    shape = tuple(given.shape)
    require(shape == (len(data),), "weights", f"needs one number a sequence, {len(data)}", shape)
    fits = bool((given >= 0).all()) and 0 < float(given.sum()) < math.inf
    require(fits, "weights", "needs finite numbers >= 0, not all 0", given.tolist()[:5])
    return given


def _pseudo_counts(model: HiddenMarkovModel, name: str) -> Tensor:
    prior = model.all_priors[name]
    rows = getattr(prior, "base_dist", prior)
    found = getattr(rows, "concentration", None)
    require(isinstance(found, Tensor), f"priors[{name!r}]", "needs rows of Dirichlet", repr(prior))
    assert isinstance(found, Tensor)
    return found.double().expand(prior.event_shape)


def _drawn(model: HiddenMarkovModel, data: Sequences) -> Mapping[str, Tensor]:
    if isinstance(model, LabelledHMM):
        return model.shown(model.start_from_frames(data))
    labelled = LabelledHMM(model.states, model.emission.encoding_size)
    found = labelled.start_from_frames(data)
    if "transition" in found:
        found["transition"] = found["transition"][0]
    return found


def _parts(
    model: HiddenMarkovModel, data: Sequences, weight: Tensor
) -> Iterator[tuple[Sequences, Tensor]]:
    """Sequences of like lengths together, in pieces that fit into memory, and their weights."""
    order = data.lengths.argsort(descending=True, stable=True)
    order = order[weight[order] > 0]
    first = 0
    while first < len(order):
        longest = int(data.lengths[order[first]])
        rows = order[first : first + max(1, _NUMBERS // (longest * model.states))]
        yield data[rows], weight[rows]
        first += len(rows)


def _counted(
    model: HiddenMarkovModel,
    parts: list[tuple[Sequences, Tensor]],
    values: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], float]:
    """Expected counts of all parameters, and Σ w log p."""
    counts = {name: torch.zeros_like(value) for name, value in values.items()}
    total = 0.0
    for data, weight in parts:
        laws = model.laws(values, data)
        chain = laws.chain
        moves = chain.log_transition.detach().requires_grad_()
        scores = chain.log_likelihood.detach().requires_grad_()
        with torch.enable_grad():
            each = exact.log_evidence(chain.log_initial, moves, scores, chain.lengths, chain.choice)
            weighted = (weight * each).sum()
            to_moves, to_scores = torch.autograd.grad(weighted, (moves, scores))
        total += float(weighted.detach())
        told = torch.zeros_like(values["probs"].mT.contiguous())
        inside = data.step_mask
        told.index_add_(0, data.codes()[inside], to_scores[inside])
        counts["probs"] += told.mT
        if "initial" in counts:
            counts["initial"] += to_scores[:, 0].sum(0)
        if "transition" in counts:
            symbols = getattr(model, "symbols", 1)
            own = to_moves[0, :symbols]
            counts["transition"] += own.reshape(counts["transition"].shape)
    return counts, total


def _row(counts: Tensor, prior: Tensor, estimate: Estimate) -> Tensor:
    if estimate == "ml":
        return _shares(counts)
    if estimate == "map":
        return _shares((counts + prior - 1).clamp_min(0))
    posterior = counts + prior
    logs = posterior.digamma() - posterior.sum(-1, keepdim=True).digamma()
    return logs.exp()


def _shares(counts: Tensor) -> Tensor:
    """Rows of shares; equal ones where nothing was counted."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1e-300), 1 / counts.shape[-1])
