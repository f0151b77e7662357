"""How Gaussian beliefs of a known linear model are measured beside Kalman's filter and smoother."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....inference import ExactFilter, evidence_gap
from ....inference.filters.slot import Filter
from ....inference.guides.gaussian_posteriors import GaussianSmoother
from ....inference.guides.guide import Guide
from ....models import Model, Sequences, Simulation
from ...command.report import Array

_BATCH = 250  # sequences whose beliefs are computed at once


class Measured(NamedTuple):
    """A fit and how it did, beside the filter, or the smoother if it reads the future."""

    filter: Filter
    evidence_gap: Array
    """Nats per step of every held-out sequence, (N,)."""
    kl_filter: Array | None
    """The same of KL(Kalman ‖ belief), where there is a causal belief."""
    update_error: Array | None
    """The same of KL(belief ‖ Bayes' rule on the belief before)."""
    rmse_times_exact: float
    """Root mean square error of the mean against the true state, over that of the exact mean."""
    variance_error: float
    """Mean of |variance / exact variance − 1| over sequences, steps and components."""
    variance_ratio: Array
    """Mean of variance / exact variance over sequences and components, (T,)."""


class Moments(NamedTuple):
    """Means and variances of the state at every step, (N, T, D)."""

    mean: Tensor
    variance: Tensor


def moments(guide: Guide, data: Sequences) -> Moments:
    """What the guide says of z_t: its belief, or the marginal of a ``ForwardGuide``.

    The latter's sweep runs forward: with a causal network it depends on y_1 … y_t alone.
    """
    parts = []
    with torch.no_grad():
        for batch in data.batches(_BATCH):
            posterior = guide.posterior(guide.model.laws({}, batch))
            law: Any = getattr(posterior, "beliefs", posterior)
            parts.append((law.mean, law.variance))
    return Moments(*(torch.cat(each) for each in zip(*parts, strict=True)))


def exact_moments(model: Model, data: Sequences, *, causal: bool) -> Moments:
    """Kalman's filter or smoother."""
    laws = model.laws({}, data)
    assert laws.linear is not None
    law: Any = ExactFilter()(laws) if causal else GaussianSmoother(laws.linear)
    return Moments(law.mean, law.variance)


def measure(guide: Guide, test: Simulation) -> Measured:
    """A guide beside exact inference, in float64; all sequences must be of one length."""
    gap = evidence_gap(guide, test.data)
    steps = test.data.max_length
    causal = guide.filter.causal
    ours, exact = moments(guide, test.data), exact_moments(guide.model, test.data, causal=causal)
    error, least = (((x.mean - test.states).square().mean()).sqrt() for x in (ours, exact))
    ratio = ours.variance / exact.variance
    kl = gap.kl_filter if causal else None
    return Measured(
        filter=guide.filter,
        evidence_gap=((gap.log_evidence - gap.elbo) / steps).numpy(),
        kl_filter=None if kl is None else kl.mean(-1).numpy(),
        update_error=None if gap.update_error is None else gap.update_error.mean(-1).numpy(),
        rmse_times_exact=float(error / least),
        variance_error=float((ratio - 1).abs().mean()),
        variance_ratio=ratio.mean((0, 2)).numpy(),
    )


def summary(fits: Sequence[Measured]) -> dict[str, object]:
    """Figures of one method: mean over its fits, and every fit."""
    figures: dict[str, Any] = {}
    for name in ("evidence_gap", "kl_filter", "update_error"):
        values = [getattr(one, name) for one in fits]
        if values[0] is None:
            continue
        by_seed = [float(value.mean()) for value in values]
        figures[f"{name}_per_step"] = float(np.mean(by_seed))
        figures[f"{name}_per_step_by_seed"] = by_seed
        over_fits = np.stack(values).mean(0)
        error = over_fits.std(ddof=1) / math.sqrt(len(over_fits))
        figures[f"{name}_standard_error_over_sequences"] = float(error)
    for name in ("rmse_times_exact", "variance_error"):
        by_seed = [getattr(one, name) for one in fits]
        figures[name] = float(np.mean(by_seed))
        figures[f"{name}_by_seed"] = by_seed
    worst = [float(np.abs(one.variance_ratio - 1).max()) for one in fits]
    figures["variance_error_of_worst_step"] = float(np.mean(worst))
    figures["variance_error_of_worst_step_by_seed"] = worst
    return figures
