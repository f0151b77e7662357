"""The distance of a guide from exact inference, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import DiscreteLaws, LinearGaussianLaws, Sequences, TrajectoryLaws
from ...models.beliefs import divergence
from ...models.boundary import boundary
from ...models.checks import Impossible
from ..exact import chains as exact
from ..exact import gaussian as exact_gaussian
from ..filters.gaussian_beliefs import GaussianBeliefs
from ..filters.linear_likelihood import LinearLikelihood
from ..fitting.record import Fit
from ..guides.guide import Guide, Posterior, parameters_of
from ..queries.batches import BATCH
from ..queries.linear import arguments
from ..queries.possible import possible_data, require_possible


@dataclass(frozen=True)
class EvidenceGap:
    """A guide compared with exact inference at fixed parameters; made by :func:`evidence_gap`.

    All figures are in nats. A step is one time step of one sequence. Fields over time are zero
    beyond the length of a sequence.

    Attributes:
        log_evidence: log p(y_n), the states summed out exactly, (N,).
        elbo: the guide's lower bound on it, with exact expectations over the states, (N,).
        kl_filter: KL(b_t ‖ β_t) of the exact filter and the guide's belief, (N, T); None if the
            guide has no belief. For continuous states zero where the exact filter has no density:
            where the state is known exactly or not at all.
        update_error: u_t = KL(β_t ‖ Bayes(β_{t-1}, y_t)), the error added by this step's update,
            (N, T); see docs/science.md, I1.
        surprise: −log p(y_t | y_1 … y_{t-1}) under the exact filter, (N, T).
        lengths: lengths of the sequences, (N,).

    >>> from beliefzoo.inference import BeliefGuide, LSTMFilter, evidence_gap
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> gap = evidence_gap(BeliefGuide(model, LSTMFilter(4)), model.sample(5, 20, seed=0).data)
    >>> gap.kl_filter.shape, gap.steps
    (torch.Size([5, 20]), 100)
    >>> bool((gap.elbo <= gap.log_evidence).all())
    True
    """

    log_evidence: Tensor
    elbo: Tensor
    kl_filter: Tensor | None
    update_error: Tensor | None
    surprise: Tensor
    lengths: Tensor

    @property
    def steps(self) -> int:
        """Number of time steps of all sequences."""
        return int(self.lengths.sum())

    @property
    def evidence_per_step(self) -> float:
        """Σ log p(y_n) / steps."""
        return float(self.log_evidence.sum()) / self.steps

    @property
    def elbo_per_step(self) -> float:
        """Σ ELBO_n / steps."""
        return float(self.elbo.sum()) / self.steps

    @property
    def gap_per_step(self) -> float:
        """Σ (log p(y_n) − ELBO_n) / steps; never negative, apart from rounding."""
        return float((self.log_evidence - self.elbo).sum()) / self.steps

    @property
    def gap_standard_error(self) -> float:
        """Standard error of ``gap_per_step`` over sequences; NaN for a single sequence."""
        return standard_error(self.log_evidence - self.elbo, self.lengths)

    @property
    def kl_filter_per_step(self) -> float:
        """Mean of KL(exact filter ‖ guide's belief); NaN if the guide has no belief."""
        return math.nan if self.kl_filter is None else float(self.kl_filter.sum()) / self.steps

    @property
    def kl_filter_standard_error(self) -> float:
        """Standard error of ``kl_filter_per_step`` over sequences."""
        if self.kl_filter is None:
            return math.nan
        return standard_error(self.kl_filter.sum(-1), self.lengths)

    @property
    def update_error_per_step(self) -> float:
        """Mean of the update error; NaN if the guide has no belief."""
        return (
            math.nan if self.update_error is None else float(self.update_error.sum()) / self.steps
        )

    def over_time(self, values: Tensor) -> Tensor:
        """Returns the mean (T,) of a field (N, T) over the sequences that reach each step."""
        reached = torch.arange(values.shape[1]) < self.lengths.unsqueeze(-1)
        return (values * reached).sum(0) / reached.sum(0).clamp_min(1)

    def __str__(self) -> str:
        rows = [
            ("log evidence", self.evidence_per_step, ""),
            ("ELBO", self.elbo_per_step, ""),
            ("gap: evidence − ELBO", self.gap_per_step, f" ± {self.gap_standard_error:.1e}"),
        ]
        if self.kl_filter is not None:
            spread = f" ± {self.kl_filter_standard_error:.1e}"
            rows.append(("KL(exact filter ‖ guide)", self.kl_filter_per_step, spread))
            rows.append(("update error of a step", self.update_error_per_step, ""))
        lines = [f"  {name:<26}{value:>12.6f}{spread}" for name, value, spread in rows]
        head = f"{len(self.lengths)} sequences, {self.steps} steps; nats per step"
        return "\n".join([head, *lines])


@boundary
def evidence_gap(
    fitted: Fit | Guide, data: Sequences, *, impossible: Impossible = "raise"
) -> EvidenceGap:
    """Compares a guide with exact inference at the posterior medians of the parameters.

    log p(y) − ELBO is the divergence KL(q ‖ p) of the guide's posterior q over whole paths from the
    exact one. It is zero for a ``BeliefGuide`` with the exact filter.

    Args:
        fitted: a fit, or a guide on its own.
        data: sequences, seen in training or not.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Evidence, bound, and errors of every step.

    Raises:
        ValueError: data that the model cannot emit, or a model without exact inference.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, MeanFieldGuide, evidence_gap
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 9.0]
    ... )
    >>> data = model.sample(20, 30, seed=0).data
    >>> round(abs(evidence_gap(BeliefGuide(model, ExactFilter()), data).gap_per_step), 6)
    0.0
    >>> round(evidence_gap(MeanFieldGuide(model, ExactFilter()), data).gap_per_step, 3)
    0.017
    """
    guide = guide_of(fitted, "fitted")
    if not guide.model.exact:
        raise ValueError(
            "fitted: needs a model with exact inference; weighted_evidence estimates it for "
            f"others, got {guide.model}"
        )
    if not isinstance(data, Sequences):
        raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
    guide.model.check_values(data)  # not `check`: only a fit needs more data
    medians = {name: value.double() for name, value in guide.median().items()}
    if impossible != "raise":
        data = possible_data(parameters_of(guide, medians), data, impossible)
    parts = []
    with torch.no_grad():
        for batch in data.batches(BATCH):
            laws = guide.model.laws(medians, batch)
            require_possible(laws)
            parts.append(_compare(laws, guide.posterior(laws)))
    evidence, bound, kl, update, surprise = zip(*parts, strict=True)
    steps = data.max_length
    return EvidenceGap(
        torch.cat(evidence),
        torch.cat(bound),
        _join(kl, steps),
        _join(update, steps),
        torch.cat([_wide(part, steps) for part in surprise]),
        data.lengths,
    )


def guide_of(result: Fit | Guide, argument: str) -> Guide:
    """The guide of a fit, or the guide itself; ``ValueError`` for anything else."""
    guide = result.guide if isinstance(result, Fit) else result
    if not isinstance(guide, Guide):
        raise ValueError(f"{argument}: must be a Fit or a guide, got {type(guide).__name__}")
    return guide


class _Compared(NamedTuple):
    """Fields of ``EvidenceGap`` for one batch."""

    evidence: Tensor
    bound: Tensor
    kl: Tensor | None
    update: Tensor | None
    surprise: Tensor


def _compare(laws: TrajectoryLaws, posterior: Posterior) -> _Compared:
    if laws.discrete is not None:
        return _compare_paths(laws.discrete, posterior)
    assert laws.linear is not None  # the model is exact
    return _compare_trajectories(laws.linear, posterior)


def _compare_paths(laws: DiscreteLaws, posterior: Posterior) -> _Compared:
    filtered = exact.filter_chain(*laws.chain)
    inside = laws.data.step_mask
    beliefs = getattr(posterior, "log_beliefs", None)
    kl = update = None
    if beliefs is not None:
        kl = divergence(filtered.log_beliefs, beliefs) * inside
    predicted = getattr(posterior, "log_predicted", None)
    if beliefs is not None and predicted is not None:
        bayes = (predicted + laws.log_likelihood).log_softmax(-1)
        update = divergence(beliefs, bayes) * inside
    evidence = exact.log_evidence(*laws.chain)
    surprise = -filtered.log_increments * inside
    return _Compared(evidence, posterior.elbo(), kl, update, surprise)


def _compare_trajectories(laws: LinearGaussianLaws, posterior: Posterior) -> _Compared:
    laws = laws.in_double()
    given = arguments(laws)
    inside = laws.data.step_mask
    found = exact_gaussian.filter(*given)
    beliefs: GaussianBeliefs | None = getattr(posterior, "beliefs", None)
    kl = update = None
    if getattr(posterior, "exact", False):
        kl = update = torch.zeros(inside.shape, dtype=torch.float64)
    elif beliefs is not None:
        regular, law = _regular(found.means, found.covariances, inside)
        kl = torch.where(regular, law.divergence(beliefs), 0)
    later: tuple[Tensor, Tensor] | None = getattr(posterior, "predicted", None)
    if beliefs is not None and later is not None:
        first = laws.initial_mean, laws.initial_covariance
        mean = torch.cat([first[0].expand(len(inside), -1).unsqueeze(1), later[0]], 1)
        wide = first[1].expand(len(mean), -1, -1).unsqueeze(1)
        bayes = LinearLikelihood(laws).updated(mean, torch.cat([wide, later[1]], 1))
        known = inside.clone()
        known[:, 0] &= not laws.diffuse.shape[-1]
        regular, law = _regular(*bayes, known)
        update = torch.where(regular, beliefs.divergence(law), 0)
    evidence = exact_gaussian.log_evidence(*given)
    surprise = -exact_gaussian.step_log_likelihood(*given) * inside
    return _Compared(evidence, posterior.elbo(), kl, update, surprise)


def _regular(mean: Tensor, covariance: Tensor, inside: Tensor) -> tuple[Tensor, GaussianBeliefs]:
    """Steps at which these normal laws have a density, and the laws, standard normal elsewhere."""
    unit = torch.eye(mean.shape[-1], dtype=mean.dtype)
    finite = covariance.isfinite().all(-1).all(-1)
    _, info = torch.linalg.cholesky_ex(torch.where(finite[..., None, None], covariance, unit))
    regular = finite & (info == 0) & inside
    covariance = torch.where(regular[..., None, None], covariance, unit)
    return regular, GaussianBeliefs.of_moments(mean, covariance)


def _wide(values: Tensor, steps: int) -> Tensor:
    """Batches are cut to their longest sequence: back to the common number of steps."""
    return torch.nn.functional.pad(values, (0, steps - values.shape[-1]))


def _join(parts: tuple[Tensor | None, ...], steps: int) -> Tensor | None:
    present = [_wide(part, steps) for part in parts if part is not None]
    return torch.cat(present) if present else None


def standard_error(totals: Tensor, lengths: Tensor) -> float:
    """Standard error of Σ totals / Σ lengths, a ratio over independent sequences (delta method)."""
    n = len(totals)
    if n < 2:
        return math.nan
    mean_length = float(lengths.double().mean())
    residual = totals - lengths * (float(totals.sum()) / float(lengths.sum()))
    return float(residual.double().std()) / math.sqrt(n) / mean_length
