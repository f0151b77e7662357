"""How beliefs of a known hidden Markov model are measured beside exact inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....inference import EvidenceGap, evidence_gap, filter, smooth, update_errors
from ....inference.filters.slot import Filter
from ....inference.guides.guide import Guide
from ....models import Sequences, Simulation
from ....models.beliefs import divergence
from ...command.report import Array
from ...command.seeds import interval

AFTER_SWITCH = 3
"""A switch of the regime counts as recent on the step it happens and this many more."""

LAGS = 16
"""Steps after a switch that are told apart."""

_BATCH = 500  # sequences whose beliefs are computed at once


@dataclass(frozen=True)
class Measured:
    """A fit and how it did: nats per step of every held-out sequence, (N,)."""

    filter: Filter
    evidence_gap: Array
    kl_filter: Array | None
    kl_smoother: Array | None
    update_error: Array | None


def measure(guide: Guide, data: Sequences) -> Measured:
    """A guide beside exact inference, in float64; all sequences must be of one length."""
    gap = evidence_gap(guide, data)
    steps = data.max_length
    log_belief = log_beliefs(guide, data)
    causal = guide.filter.causal
    exact = filter(guide.model, data) if causal else smooth(guide.model, data)
    kl = divergence(exact.log(), log_belief).mean(-1).numpy()
    return Measured(
        filter=guide.filter,
        evidence_gap=((gap.log_evidence - gap.elbo) / steps).numpy(),
        kl_filter=kl if causal else None,
        kl_smoother=None if causal else kl,
        update_error=None if gap.update_error is None else gap.update_error.mean(-1).numpy(),
    )


def log_beliefs(guide: Guide, data: Sequences) -> Tensor:
    """What the guide says of z_t at step t, (N, T, K).

    A ``ForwardGuide`` has no belief of its own. Its marginal q(z_t) is taken: its sweep runs
    forward, so with a causal network this depends on y_1 … y_t alone.
    """
    parts = []
    with torch.no_grad():
        for batch in data.batches(_BATCH):
            posterior = guide.posterior(guide.model.laws({}, batch))
            smallest = torch.finfo(posterior.mean.dtype).tiny
            own: Tensor | None = getattr(posterior, "log_beliefs", None)
            parts.append(posterior.mean.clamp_min(smallest).log() if own is None else own)
    return torch.cat(parts)


def summary(fits: Sequence[Measured]) -> dict[str, object]:
    """Figures of one method: mean over its fits, spread over fits, standard error over sequences.

    The fits share their held-out sequences: the standard error is that of the mean over
    sequences of the mean over fits, the interval holds the chance of training.
    """
    figures: dict[str, Any] = {}
    for name in ("kl_filter", "kl_smoother", "evidence_gap", "update_error"):
        fields = [getattr(one, name) for one in fits]
        if fields[0] is None:
            continue
        table = np.stack(fields)
        by_seed = table.mean(1)
        key = f"{name}_per_step"
        figures[key] = float(table.mean())
        figures[f"{key}_standard_error"] = _standard_error(table.mean(0))
        figures[f"{key}_by_seed"] = by_seed.tolist()
        if len(fits) > 1:
            figures[f"{key}_sd"] = float(by_seed.std(ddof=1))
            figures[f"{key}_interval95"] = interval(by_seed.tolist())
    return figures


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size))


@dataclass(frozen=True)
class Profile:
    """Where a network errs, means over held-out sequences, nats."""

    kl_filter_over_time: Array
    update_error_over_time: Array
    update_error_by_surprise: Array
    """In the ten deciles of the surprise −log p(y_t | y_<t)."""
    update_error_since_switch: Array
    """0, 1, … steps after the state changed; NaN for lags that do not occur."""
    update_error_after_switch: float
    update_error_elsewhere: float
    surprise_correlation: float
    """Spearman's, of update error and surprise over all steps."""

    def figures(self) -> dict[str, object]:
        """What goes into the report; the lags after a switch are drawn only."""
        found = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name != "update_error_since_switch"
        }
        # NaN where no state ever changed, as can be in a handful of short sequences
        return {name: x for name, x in found.items() if isinstance(x, list) or math.isfinite(x)}


def profile(gap: EvidenceGap, test: Simulation) -> Profile:
    """The update error over time, against the surprise of y_t and against switches of the state."""
    assert gap.kl_filter is not None
    errors = update_errors(gap, test.data, states=test.states, lags=LAGS)
    assert errors.since_switch is not None
    recent = list(range(AFTER_SWITCH + 1))
    return Profile(
        kl_filter_over_time=gap.over_time(gap.kl_filter).numpy(),
        update_error_over_time=errors.over_time.mean.numpy(),
        update_error_by_surprise=errors.by_surprise.mean.numpy(),
        update_error_since_switch=errors.since_switch.mean[:LAGS].numpy(),
        update_error_after_switch=errors.since_switch.over(recent),
        update_error_elsewhere=errors.since_switch.over(range(AFTER_SWITCH + 1, LAGS + 2)),
        surprise_correlation=errors.surprise_correlation,
    )
