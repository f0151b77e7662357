"""Importance weights of a guide's draws: Pareto k̂, and the evidence corrected by them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require_count
from ...models.emissions.emission import Parameters
from ...models.randomness import seeded
from ..exact import chains as exact
from ..fitting import objectives
from ..fitting.draws import batches, blocks, draw_parameters, draw_paths, for_batch
from ..fitting.objectives import log_mean_exp
from ..fitting.record import Fit
from ..guides.guide import Guide
from ..pareto import k_threshold, pareto_k, psis_log_mean
from ..queries.evidence import log_evidence
from .evidence_gap import guide_of

FEWEST = 25
"""Fewest weights that a Pareto tail is fitted to."""

_SEQUENCES = 64
"""Sequences whose trajectories are weighted at once."""

_NUMBERS = 2**22
"""Numbers in a table of trajectories, of which a dozen live at a time."""

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class WeightedEvidence:
    r"""Evidence of every sequence at known parameters, estimated by weighted paths from a guide.

    .. math::
        \log \hat p(y) = \log \frac1S \sum_s w_s, \qquad
        w_s = \frac{p(y, z_s)}{q(z_s \mid y)}, \quad z_s \sim q

    On average it is below log p(y) and above the ELBO, which it equals for S = 1. All in nats, one
    entry per sequence.

    Attributes:
        log_evidence: log of the mean weight, (N,).
        bound: mean log weight, an estimate of the guide's ELBO, (N,).
        k_hat: Pareto k̂ of the weights, (N,); NaN if it cannot be estimated.
        threshold: largest k̂ to rely on with so many draws.
        lengths: lengths of the sequences, (N,).

    Source: Burda, Grosse & Salakhutdinov (2016).

    >>> from beliefzoo.inference import ExactFilter, MeanFieldGuide, weighted_evidence
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> guide = MeanFieldGuide(model, ExactFilter())
    >>> found = weighted_evidence(guide, model.sample(5, 10, seed=0).data, draws=100)
    >>> bool((found.bound < found.log_evidence).all()), found.k_hat.shape
    (True, torch.Size([5]))
    """

    log_evidence: Tensor
    bound: Tensor
    k_hat: Tensor
    threshold: float
    lengths: Tensor

    @property
    def per_step(self) -> float:
        """Σ log evidence / steps."""
        return float(self.log_evidence.sum()) / int(self.lengths.sum())

    @property
    def bound_per_step(self) -> float:
        """Σ bound / steps."""
        return float(self.bound.sum()) / int(self.lengths.sum())

    @property
    def reliable_share(self) -> float:
        """Share of sequences whose k̂ is below the threshold."""
        return float((self.k_hat <= self.threshold).double().mean())


@boundary
def weighted_evidence(
    result: Fit | Guide, data: Sequences, *, draws: int = 500, seed: int = 0
) -> WeightedEvidence:
    """Estimates the evidence at the posterior medians of the parameters by importance weighting.

    For any model and guide; with exact inference :func:`evidence_gap` is better.

    Args:
        result: a fit, or a guide on its own.
        data: sequences, seen in training or not.
        draws: paths for every sequence, S >= 25.
        seed: of the draws; torch's global generator is left unchanged.

    Returns:
        Evidence, bound and k̂ of every sequence.

    Raises:
        ValueError: a bad argument, or data that the model cannot emit.

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, LSTMFilter, log_evidence, weighted_evidence
    >>> from beliefzoo.models import mess3
    >>> model, _ = mess3().model, torch.manual_seed(0)
    >>> data = model.sample(5, 4, seed=0).data
    >>> guide = BeliefGuide(model, LSTMFilter(4))  # untrained: its bound is far below the evidence
    >>> found, exact = weighted_evidence(guide, data, draws=4000), log_evidence(model, data)
    >>> bool((exact - found.bound).min() > 1), bool((found.log_evidence - exact).abs().max() < 0.3)
    (True, True)
    """
    guide = guide_of(result, "result")
    require_count(draws, "draws", FEWEST)
    if not isinstance(data, Sequences):
        raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
    guide.model.check_values(data)  # not `check`: only a fit needs more data
    with seeded(seed), torch.no_grad():
        medians = guide.median()
        parts = [log_weights(guide, medians, batch, draws) for batch in data.batches(_SEQUENCES)]
        log_w = torch.cat(parts, -1).double()
    return WeightedEvidence(
        log_evidence=log_mean_exp(log_w),
        bound=log_w.mean(0),
        k_hat=torch.tensor([k_hat(_array(each)) for each in log_w.unbind(-1)]),
        threshold=k_threshold(draws),
        lengths=data.lengths,
    )


def log_weights(guide: Guide, values: Parameters, data: Sequences, draws: int) -> Tensor:
    """log p(y, z_s) − log q(z_s | y) of paths drawn from the guide, (draws, N) nats.

    Uses torch's global generator, and draws a block at a time.
    """
    laws = guide.model.laws(values, data)
    posterior = guide.posterior(laws, learn=False)
    block = max(1, _NUMBERS // (data.max_length * len(data) * guide.model.states))
    parts = []
    for first in range(0, draws, block):
        paths = posterior.sample_paths(min(block, draws - first))
        parts.append(objectives.log_weights(posterior, paths))
    return torch.cat(parts)


@dataclass(frozen=True)
class Importance:
    r"""Quality of a guide q measured by the importance weights of its draws.

    .. math::
        w_s = \frac{p(\theta_s)\, p(y \mid \theta_s)}{q(\theta_s)}, \qquad
        w^{joint}_s = \frac{p(\theta_s)\, p(y, z_s \mid \theta_s)}
        {q(\theta_s)\, q(z_s \mid y, \theta_s)}

    A k̂ below ``threshold`` says that q covers the posterior (of the parameters; of parameters and
    states) well enough for its draws to be corrected by weighting. A k̂ is NaN if a weight is not a
    number or none is positive. Weights see only where q has draws: a guide that covers one of the
    K! relabelled copies of a posterior has a good k̂, and ``log_evidence`` is then that of this
    copy, too small by log K! (not so with an ordered prior).

    Attributes:
        k_hat_parameters: k̂ of the parameters alone, the states summed out exactly.
        k_hat_joint: k̂ of parameters and one path of states per draw.
        log_evidence: log p(y) of all sequences: log mean w with Pareto-smoothed tail, nats.
        elbo: the guide's ELBO, with exact expectations over the states, nats.
        elbo_standard_error: its Monte Carlo error, nats.
        threshold: largest k̂ to rely on with so many draws.
        draws: number of draws.
        log_weights: log w_s, (draws,).
        log_weights_joint: log w_s of parameters and paths, (draws,).

    Source: Yao et al. (2018); Vehtari et al. (2024).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, importance
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model  # parameters known and the exact filter: all weights are equal
    >>> guide = BeliefGuide(model, ExactFilter())
    >>> found = importance(guide, model.sample(5, 9, seed=0).data, draws=50)
    >>> round(abs(found.log_evidence - found.elbo), 6), found.log_weights_joint.shape
    (0.0, (50,))
    """

    k_hat_parameters: float
    k_hat_joint: float
    log_evidence: float
    elbo: float
    elbo_standard_error: float
    threshold: float
    draws: int
    log_weights: Weights = field(repr=False)
    log_weights_joint: Weights = field(repr=False)

    @property
    def reliable(self) -> bool:
        """Whether the weights of the parameters can be relied on; False if k̂ is NaN."""
        return self.k_hat_parameters <= self.threshold

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.draws} draws of the guide as importance proposals; nats",
                f"  log evidence, importance-corrected {self.log_evidence:>14.4f}",
                f"  ELBO                               {self.elbo:>14.4f}"
                f" ± {self.elbo_standard_error:.1e}",
                f"  Pareto k̂ of the parameters         {self.k_hat_parameters:>14.2f}"
                f" (rely on up to {self.threshold:.2f})",
                f"  Pareto k̂ with the states           {self.k_hat_joint:>14.2f}",
            ]
        )


@boundary
def importance(
    result: Fit | Guide, data: Sequences, *, draws: int = 1000, seed: int = 0
) -> Importance:
    """Computes importance weights of a guide's draws, their k̂, and the corrected evidence.

    Args:
        result: a fit, or a guide on its own, whose parameters have a posterior density (or are all
            known; then only the states matter).
        data: the data that the guide approximates the posterior of: all that it was fitted to.
        draws: number of draws, at least 25.
        seed: of the draws; torch's global generator is left unchanged.

    Returns:
        Weights, k̂ and evidence.

    Raises:
        ValueError: a point estimate ("map", "ml"), which has no density; too few draws; data that
            the model cannot emit.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit, importance
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> data = model.with_parameters(rate=[4.0]).sample(8, 5, seed=0).data
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    >>> settings = FitSettings(steps=60, parameter_learning_rate=0.1)
    >>> result = fit(model, guide, data, settings=settings, seed=0, progress=False)
    >>> found = importance(result, data, draws=200)
    >>> found.elbo < found.log_evidence, found.reliable
    (True, True)
    """
    guide = guide_of(result, "result")
    _check(guide, data, draws)
    model = guide.model
    with seeded(seed), torch.no_grad():
        drawn = draw_parameters(guide, draws)
        if model.draws_together:
            evidence, joint, bound = _of_blocks(guide, model, data, drawn.values, draws)
        else:
            evidence, joint, bound = _one_by_one(guide, model, data, drawn.values, draws)
    ratio = drawn.log_prior - drawn.log_q
    log_w, log_w_joint = _array(ratio + evidence), _array(ratio + joint)
    elbo = _array(ratio + bound)
    return Importance(
        k_hat_parameters=k_hat(log_w),
        k_hat_joint=k_hat(log_w_joint),
        log_evidence=corrected_evidence(log_w),
        elbo=float(elbo.mean()),
        elbo_standard_error=float(elbo.std(ddof=1)) / math.sqrt(draws),
        threshold=k_threshold(draws),
        draws=draws,
        log_weights=log_w,
        log_weights_joint=log_w_joint,
    )


def _of_blocks(
    guide: Guide, model: Model, data: Sequences, values: Parameters, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence, log weight of a path, and bound of every draw, (draws,) each."""
    evidence, joint, bound = (torch.zeros(draws, dtype=torch.float64) for _ in range(3))
    one = {name: value[0] for name, value in values.items()}
    for _, batch in batches(model, data):
        here = for_batch(guide, model, batch, one)
        for block in blocks(model, batch, values, draws):
            paths = draw_paths(here, block)
            evidence[block.place] += exact.log_evidence(*block.chain).sum(-1)
            joint[block.place] += (paths.log_joint - paths.log_q).sum(-1)
            bound[block.place] += paths.elbo.sum(-1)
    return evidence, joint, bound


def _one_by_one(
    guide: Guide, model: Model, data: Sequences, values: Parameters, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for models whose laws hold one draw of the parameters at a time."""
    evidence, joint, bound = (torch.zeros(draws, dtype=torch.float64) for _ in range(3))
    for draw in range(draws):
        one = {name: value[draw] for name, value in values.items()}
        for batch in data.batches(_SEQUENCES):
            laws = model.laws(one, batch)
            posterior = guide.posterior(laws, learn=False)
            path = posterior.sample_paths(1)
            joint[draw] += objectives.log_weights(posterior, path).sum()
            evidence[draw] += log_evidence(laws).sum()
            bound[draw] += posterior.elbo().sum()
    return evidence, joint, bound


def k_hat(log_weights: Weights) -> float:
    """Pareto k̂, or NaN if it cannot be estimated."""
    return pareto_k(log_weights) if _usable(log_weights) else math.nan


def corrected_evidence(log_weights: Weights) -> float:
    """Log of the mean weight with smoothed tail, or NaN if it cannot be estimated."""
    return psis_log_mean(log_weights) if _usable(log_weights) else math.nan


def _usable(log_weights: Weights) -> bool:
    finite = np.isfinite(log_weights)
    return bool(
        len(log_weights) >= FEWEST and finite.any() and (finite | np.isneginf(log_weights)).all()
    )


def is_point(guide: Guide) -> bool:
    """Whether unknown parameters have a point estimate instead of a posterior density."""
    return bool(guide.model.priors) and guide.uncertainty in ("map", "ml")


def _array(values: Tensor) -> Weights:
    return np.asarray(values.numpy(), dtype=np.float64)


def _check(guide: Guide, data: Sequences, draws: int) -> None:
    if is_point(guide):
        raise ValueError(
            "result: needs a guide with a density of the parameters ('normal' or 'multivariate'), "
            f"got the point estimate {guide.uncertainty!r}"
        )
    require_count(draws, "draws", FEWEST)
    if not guide.model.exact:
        raise ValueError(
            "result: needs a model with exact inference, whose parameters alone can be judged; "
            f"weighted_evidence judges trajectories, got {guide.model}"
        )
    if not isinstance(data, Sequences):
        raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
    guide.model.check(data)
