"""The evidence gap of a guide divided into family, causality and amortization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ...models import DiscreteLaws, HiddenMarkovModel, LinearGaussianLaws, Sequences
from ...models.beliefs import Belief, divergence
from ...models.boundary import boundary
from ...models.chains.nodes import node_log_probabilities, product_law
from ...models.checks import Impossible, require, require_count
from ...models.data.summary import missing_elements
from ..exact import chains as exact
from ..fitting.record import Fit
from ..guides.guide import Guide, Posterior, parameters_of
from ..guides.posteriors import Backward, Forward, MeanField, PathPosterior
from ..queries.possible import possible_data
from . import best_gaussian
from .best_causal import best_causal_forward, best_causal_mean_field, highest_degree
from .best_chains import DiscreteFamily, best_free
from .best_prefixes import PrefixTree
from .evidence_gap import evidence_gap, guide_of, standard_error

_FORWARD_DEGREE, _MEAN_FIELD_DEGREE = 4, 4
"""Of the regressions; a degree more changed the bound by less than 1e-5 nats a step in trials."""


@dataclass(frozen=True)
class GapParts:
    """Parts of the evidence gap at fixed parameters: family + causality + amortization, in nats.

    With q over all members of the guide's family, whose parameters at every step are free:

    - *family*: log p(y) − max_q ELBO(q; y), the parameters free for each sequence and dependent on
      all of it;
    - *causality*: max_q ELBO(q; y) − ELBO(q*; y), where q* is the best causal member: its
      parameters at step t are functions of y_{1:t}, optimal on average over the model's sequences.
      It may be negative for a single sequence, but not on average. It is zero for guides that read
      the future (one that reads backward alone is compared with the best that sees all);
    - *amortization*: ELBO(q*; y) − ELBO(guide; y): what is lost by the network, its size and its
      training (Cremer et al. 2018).

    A ``BeliefGuide`` with free beliefs has no family or causality gap: with the exact filter, which
    is causal, its ELBO is the evidence (docs/science.md, I1). If its beliefs are products of
    Bernoulli laws, KL(b_t ‖ β_t) = TC(b_t) + Σ_j KL(b_tj ‖ β_tj): the total correlation TC of the
    exact filter is a floor that no network can get below (docs/science.md, I5).

    Attributes:
        log_evidence: (N,).
        elbo: of the guide, (N,).
        best_elbo: of the best member of the family for each sequence, (N,).
        best_causal_elbo: of the best causal member, (N,); ``best_elbo`` for guides that read the
            future.
        lengths: lengths of the sequences, (N,).
        causal: how the best causal member was found, in words.
        causal_error: by how many nats per step the best causal member may be better than the one
            found: 0 in closed form; for a regression on polynomials, how much the bound changed
            with the last degree; NaN if not known.
        total_correlation: TC(b_t) of the exact filter, (N, T), if beliefs are products over nodes.
        node_divergence: Σ_j KL(b_tj ‖ β_tj), (N, T), likewise.

    >>> from beliefzoo.inference import LSTMFilter, MeanFieldGuide, gaps
    >>> from beliefzoo.models import LinearDynamics, LinearGaussianSSM
    >>> model = LinearGaussianSSM(LinearDynamics(1)).with_parameters(
    ...     initial_mean=[0.0], initial_variance=[1.0], transition=[[0.9]], process_variance=[1.0],
    ...     loading=[[1.0]], intercept=0.0, observation_variance=1.0,
    ... )
    >>> parts = gaps(MeanFieldGuide(model, LSTMFilter(4)), model.sample(10, 20, seed=0).data)
    >>> whole = parts.family + parts.causality + parts.amortization
    >>> parts.causal, bool((whole - parts.total).abs().max() < 1e-9)
    ('in closed form', True)
    """

    log_evidence: Tensor
    elbo: Tensor
    best_elbo: Tensor
    best_causal_elbo: Tensor
    lengths: Tensor
    causal: str
    causal_error: float
    total_correlation: Tensor | None = None
    node_divergence: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """log p(y) − ELBO, (N,)."""
        return self.log_evidence - self.elbo

    @property
    def family(self) -> Tensor:
        """Family gap, (N,)."""
        return self.log_evidence - self.best_elbo

    @property
    def causality(self) -> Tensor:
        """Causality gap, (N,)."""
        return self.best_elbo - self.best_causal_elbo

    @property
    def amortization(self) -> Tensor:
        """Amortization gap, (N,)."""
        return self.best_causal_elbo - self.elbo

    @property
    def steps(self) -> int:
        """Number of time steps of all sequences."""
        return int(self.lengths.sum())

    def per_step(self, values: Tensor) -> tuple[float, float]:
        """Returns Σ values / steps of (N,) or (N, T), and its standard error over sequences."""
        totals = values if values.ndim == 1 else values.sum(-1)
        return float(totals.sum()) / self.steps, standard_error(totals, self.lengths)

    def per_sequence(self, values: Tensor) -> tuple[float, float]:
        """Returns the mean over sequences of (N,), or of sums of (N, T), and its standard error."""
        totals = values if values.ndim == 1 else values.sum(-1)
        n = len(totals)
        spread = float(totals.std()) / math.sqrt(n) if n > 1 else math.nan
        return float(totals.mean()), spread

    def parts(self) -> dict[str, Tensor]:
        """Returns the gap and its parts, (N,), and the floor TC(b_t) if there is one, (N, T)."""
        rows = {name: getattr(self, name) for name in ("total", "family", "causality")}
        rows["amortization"] = self.amortization
        if self.total_correlation is not None and self.node_divergence is not None:
            rows["factorial_floor"] = self.total_correlation
            rows["node_divergence"] = self.node_divergence
        return rows

    def figures(self) -> dict[str, float]:
        """Returns nats per step and per sequence of every part, with standard errors."""
        out = {}
        for name, values in self.parts().items():
            for unit, found in (
                ("step", self.per_step(values)),
                ("sequence", self.per_sequence(values)),
            ):
                out[f"{name}_per_{unit}"], out[f"{name}_per_{unit}_standard_error"] = found
        out["best_causal_error_per_step"] = self.causal_error
        return out

    def __str__(self) -> str:
        titles: Mapping[str, str] = {
            "total": "gap: evidence − ELBO",
            "family": "  family",
            "causality": "  causality",
            "amortization": "  amortization",
            "factorial_floor": "KL(filter ‖ belief): floor",
            "node_divergence": "  beyond it, node by node",
        }
        lines = [f"{'':<28}{'per step':>12}{'':>10}{'per sequence':>16}"]
        for name, values in self.parts().items():
            step, error = self.per_step(values)
            whole, spread = self.per_sequence(values)
            lines.append(
                f"{titles[name]:<28}{step:>12.6f} ± {error:.1e}{whole:>14.5f} ± {spread:.1e}"
            )
        lines.append(f"best causal member: {self.causal}")
        if math.isnan(self.causal_error):
            lines.append("  so causality is at most, and amortization at least, what stands here")
        elif self.causal_error:
            lines.append(f"  its error: {self.causal_error:.1e} nats per step")
        head = f"{len(self.lengths)} sequences, {self.steps} steps; nats"
        return "\n".join([head, *lines])


@boundary
def gaps(
    fitted: Fit | Guide,
    data: Sequences,
    *,
    degree: int | None = None,
    seed: int = 0,
    impossible: Impossible = "raise",
) -> GapParts:
    """Divides the evidence gap of a guide into parts, at the posterior medians of the parameters.

    The best causal member is found in closed form for linear-Gaussian models; by dynamic
    programming over all prefixes if the sequences are short, the symbols few and no element is
    missing; otherwise, for discrete states and guides with free scores or beliefs, by dynamic
    programming over beliefs.

    For a ``BeliefGuide`` whose beliefs are products over binary nodes, and whose sequences are too
    long to be listed or have missing elements, the best causal member is not known. The product of
    the exact filter's marginals, a causal member that need not be the best, takes its place. Then,
    on average over the model's sequences, *causality* is an upper bound and *amortization* a lower
    one, which is negative if the network does better; ``causal_error`` is NaN.

    Missing elements are summed out of the evidence and of all bounds. Which elements are missing is
    no part of a model, so the best causal member expects all later elements to be observed.
    Causality is then the cost of not seeing the future for such a member, not for one that is told
    in advance what will be missing.

    Args:
        fitted: a fit, or a guide on its own (``BeliefGuide``, ``ForwardGuide``,
            ``MeanFieldGuide``).
        data: sequences, seen in training or not.
        degree: degree of the polynomials in beliefs for the dynamic program; None: 4, or less for
            many states.
        seed: of the beliefs that it simulates.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        The parts of every sequence.

    Raises:
        ValueError: data that the model cannot emit; a model without exact inference; a family
            whose best members are not known (the message says which).

    >>> from beliefzoo.inference import ForwardGuide, LSTMFilter, gaps
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> parts = gaps(ForwardGuide(model, LSTMFilter(4)), model.sample(10, 4, seed=0).data)
    >>> bool(parts.family.abs().max() < 1e-6)  # the family holds the exact posterior,
    True
    >>> round(parts.per_step(parts.causality)[0], 4)  # but no causal member is exact
    0.1175
    """
    if degree is not None:
        require_count(degree, "degree")
    whole = evidence_gap(fitted, data, impossible=impossible)  # checks the arguments
    guide = guide_of(fitted, "fitted")
    medians = {name: value.double() for name, value in guide.median().items()}
    if impossible != "raise":
        data = possible_data(parameters_of(guide, medians), data, impossible)
    with torch.no_grad():
        laws = guide.model.laws(medians, data)
        posterior = guide.posterior(laws)
    if laws.discrete is not None:
        known = cast(HiddenMarkovModel, parameters_of(guide, medians))
        paths = cast(PathPosterior, posterior)
        question = _Question(guide, known, laws.discrete, paths, degree, seed)
        found = _discrete(question, whole.log_evidence)
    else:
        assert laws.linear is not None  # the model is exact
        found = _gaussian(guide, laws.linear, posterior, whole.log_evidence)
    floor = _floor(guide, posterior)
    return GapParts(
        log_evidence=whole.log_evidence,
        elbo=whole.elbo,
        best_elbo=found.best,
        best_causal_elbo=found.best_causal,
        lengths=whole.lengths,
        causal=found.how,
        causal_error=found.error,
        total_correlation=None if floor is None else floor[0],
        node_divergence=None if floor is None else floor[1],
    )


class _Best(NamedTuple):
    """Bounds of the best members, (N,), and how the causal one was found."""

    best: Tensor
    best_causal: Tensor
    how: str
    error: float


class _Question(NamedTuple):
    """A guide of discrete states, its laws and posterior for some data."""

    guide: Guide
    model: HiddenMarkovModel
    laws: DiscreteLaws
    posterior: PathPosterior
    degree: int | None
    seed: int


_NO_NEED = "the best, there is nothing that the future would tell it"
_SEES_ALL = "not asked for, the guide reads the future"


def _discrete(question: _Question, evidence: Tensor) -> _Best:
    guide, posterior, laws = question.guide, question.posterior, question.laws
    kind = type(posterior)
    require(
        kind in (Backward, Forward, MeanField),
        "fitted",
        "needs a BeliefGuide, ForwardGuide or MeanFieldGuide",
        type(guide).__name__,
    )
    family = DiscreteFamily(kind, _nodes(guide))
    if family.nodes is None and kind is not MeanField:
        best = evidence
        if kind is Backward:
            return _Best(evidence, evidence, _NO_NEED, 0.0)
    else:
        best = best_free(family, laws, posterior)
    if not guide.filter.causal:
        return _Best(best, best, _SEES_ALL, 0.0)
    return _Best(best, *_causal(question, family))


def _causal(question: _Question, family: DiscreteFamily) -> tuple[Tensor, str, float]:
    """The bound of the best causal member for the data, how it was found, and its error."""
    laws, data = question.laws, question.laws.data
    complete = not missing_elements(data)  # the lists have complete prefixes only
    if complete and PrefixTree.of(question.model, data.max_length) is not None:
        return _by_prefixes(question, family), "over all prefixes", 0.0
    if family.nodes is None:
        return _by_regression(question, family)
    require(
        family.kind is Backward,
        "data",
        f"the best causal {family.kind.__name__} posterior over binary nodes is known for complete "
        "sequences so short, of so few symbols, that all of them can be listed",
        f"{data}",
    )
    numbers = family.of_marginals(exact.filter_chain(*laws.chain).log_beliefs)
    how = "not known; a causal one, the product of the exact filter's marginals, stands in for it"
    return family.member(laws, numbers).elbo(), how, math.nan


def _by_prefixes(question: _Question, family: DiscreteFamily) -> Tensor:
    """One tree for each length among the sequences."""
    data = question.laws.data
    found = torch.zeros(len(data), dtype=torch.float64)
    for length in data.lengths.unique().tolist():
        tree = PrefixTree.of(question.model, int(length))
        assert tree is not None
        rows = (data.lengths == length).nonzero().squeeze(-1)
        with torch.no_grad():
            own = cast(PathPosterior, question.guide.posterior(tree.laws))
        members = [own]
        if family.kind is MeanField and family.nodes is None:
            degree = min(
                _MEAN_FIELD_DEGREE, highest_degree(2 * (tree.laws.log_initial.shape[-1] - 1))
            )
            members.append(best_causal_mean_field(question.model, tree.laws, degree=degree))
        bounds = tree.best(family, *members).elbo()
        found[rows] = bounds[tree.places(data[rows])].detach()
    return found


def _by_regression(question: _Question, family: DiscreteFamily) -> tuple[Tensor, str, float]:
    """Dynamic programming over beliefs, with a degree less for its error."""
    free = question.laws.log_initial.shape[-1] - 1
    forward = family.kind is Forward
    usual = _FORWARD_DEGREE if forward else _MEAN_FIELD_DEGREE
    most = highest_degree(free if forward else 2 * free)
    degree = min(most, usual) if question.degree is None else question.degree
    require(degree <= most, "degree", f"must be <= {most} for {free + 1} states", degree)
    program = best_causal_forward if forward else best_causal_mean_field

    def bound(at: int) -> Tensor:
        return program(question.model, question.laws, degree=at, seed=question.seed).elbo()

    found, coarser = bound(degree), bound(max(degree - 1, 0))
    change = float((found - coarser).mean().abs()) * len(found) / question.laws.data.n_steps
    return found, f"by regression over beliefs, polynomials of degree {degree}", change


def _gaussian(
    guide: Guide, laws: LinearGaussianLaws, posterior: Posterior, evidence: Tensor
) -> _Best:
    belief: Belief = getattr(guide.filter, "belief", guide.model.belief)
    full = belief.discrete or belief.full or belief.size == 1
    form = getattr(posterior, "form", None)
    mean_field = form == "mean-field"
    require(
        full or mean_field,
        "fitted",
        f"the best {type(guide).__name__} is known for beliefs with full covariances",
        f"{belief}",
    )
    if form == "backward":
        return _Best(evidence, evidence, _NO_NEED, 0.0)
    best = best_gaussian.best_mean_field(laws, full=full).elbo() if mean_field else evidence
    if not guide.filter.causal:
        return _Best(best, best, _SEES_ALL, 0.0)
    if mean_field:
        causal = best_gaussian.best_causal_mean_field(laws, full=full).elbo()
    else:
        causal = best_gaussian.best_causal_forward(laws).elbo()
    return _Best(best, causal, "in closed form", 0.0)


def _nodes(guide: Guide) -> int | None:
    """Nodes of a filter whose beliefs are products of Bernoulli laws; None if they are free."""
    belief: Belief | None = getattr(guide.filter, "belief", None)
    nodes = belief.nodes if belief is not None and belief.discrete else None
    return None if nodes == 1 else nodes


def _floor(guide: Guide, posterior: Posterior) -> tuple[Tensor, Tensor] | None:
    """TC(b_t) and Σ_j KL(b_tj ‖ β_tj), (N, T), of causal beliefs over nodes."""
    nodes = _nodes(guide)
    if nodes is None or getattr(posterior, "form", None) != "backward":
        return None
    posterior = cast(Backward, posterior)
    laws = posterior.laws
    log_b = exact.filter_chain(*laws.chain).log_beliefs
    family = DiscreteFamily(Backward, nodes)
    apart = product_law(family.of_marginals(log_b))
    b = log_b.exp()
    possible = b > 0
    correlation = torch.where(possible, b * (log_b - apart), 0).sum(-1)
    exactly, said = (
        torch.stack(node_log_probabilities(logs.double()), -1)
        for logs in (log_b, posterior.log_beliefs)
    )
    inside = laws.data.step_mask
    return correlation * inside, divergence(exactly, said).sum(-1) * inside
