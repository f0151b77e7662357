"""Calibration of beliefs about discrete states: how often is a state there that has chance p?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require_count
from ...models.randomness import seeded
from ..checking.evidence_gap import guide_of
from ..fitting.record import Fit
from ..guides.guide import Guide
from ..queries.batches import require_data

_BATCH = 64
"""Sequences whose beliefs are computed at once."""

FEWEST = 20
"""Fewest sequences in a bin whose deviation is tested."""


@dataclass(frozen=True)
class BeliefCalibration:
    """Beliefs about the states of simulated sequences, against the states; see
    :func:`belief_calibration`.

    Attributes:
        probability: mean probability that the beliefs in a bin gave a state, (bins,).
        frequency: share of them whose state was there, (bins,); NaN in an empty bin.
        standard_error: of frequency − probability, from its variation over sequences, (bins,).
        count: beliefs in a bin, one for every step and state, (bins,) int64.
        error: expected calibration error, Σ_b count_b abs(frequency_b − probability_b) / Σ count.
        p_value: of the hypothesis that the beliefs are calibrated; NaN if no bin has enough.

    Source: Guo, Pleiss, Sun & Weinberger (2017).

    >>> import torch
    >>> from beliefzoo.inference import BeliefCalibration
    >>> found = BeliefCalibration(
    ...     torch.tensor([0.2, 0.8]), torch.tensor([0.3, 0.7]), torch.tensor([0.01, 0.01]),
    ...     torch.tensor([500, 500]), error=0.1, p_value=1e-20,
    ... )
    >>> print(found)
    probability   frequency  standard error    count
          0.200       0.300          0.0100      500
          0.800       0.700          0.0100      500
    expected calibration error 0.1000; p = 1e-20
    """

    probability: Tensor
    frequency: Tensor
    standard_error: Tensor
    count: Tensor
    error: float
    p_value: float

    def __str__(self) -> str:
        columns = self.probability, self.frequency, self.standard_error, self.count
        lines = ["probability   frequency  standard error    count"]
        for p, share, error, count in zip(*(each.tolist() for each in columns), strict=True):
            if count:
                lines.append(f"{p:>11.3f} {share:>11.3f} {error:>15.4f} {count:>8}")
        return "\n".join(
            [*lines, f"expected calibration error {self.error:.4f}; p = {self.p_value:.2g}"]
        )


@boundary
def belief_calibration(
    result: Fit | Guide, like: Sequences, *, sequences: int = 200, bins: int = 10, seed: int = 0
) -> BeliefCalibration:
    r"""Compares a guide's beliefs with the states of sequences simulated from the fitted model.

    .. math:: P(z_t = k \mid b_{tk} = p) = p

    holds for exact beliefs. It can hold for poor ones too, which say little: the evidence gap
    tells how much a belief has lost. Parameters are at their posterior medians.

    Args:
        result: a fit, or a guide on its own, that has beliefs (``BeliefGuide``,
            ``MeanFieldGuide``, ``ForwardGuide``) about discrete states.
        like: sequences whose lengths, gaps, times, inputs and actions the simulations share.
        sequences: number of simulated sequences, at least; those of ``like`` in turn.
        bins: number of equal intervals of probability.
        seed: of the simulations; torch's global generator is left unchanged.

    Returns:
        Mean probability and frequency in every bin, and whether they differ by more than chance.
        Sequences, not steps, count as independent.

    Raises:
        ValueError: a bad argument, or a guide without beliefs about discrete states.

    Source: Guo, Pleiss, Sun & Weinberger (2017).

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, LSTMFilter, belief_calibration
    >>> from beliefzoo.models import mess3
    >>> model, _ = mess3().model, torch.manual_seed(0)
    >>> data = model.sample(100, 30, seed=0).data
    >>> exact = belief_calibration(BeliefGuide(model, ExactFilter()), data)
    >>> untrained = belief_calibration(BeliefGuide(model, LSTMFilter(4)), data)
    >>> exact.p_value > 0.01, untrained.p_value < 1e-6
    (True, True)
    """
    guide = guide_of(result, "result")
    require_data(like)
    require_count(sequences, "sequences")
    require_count(bins, "bins")
    model = guide.model
    if not model.has_paths:
        raise ValueError(f"result: needs a model of discrete states, got {model}")
    copies = torch.arange(math.ceil(sequences / len(like)) * len(like)) % len(like)
    medians = {name: value.double() for name, value in guide.median().items()}
    totals = []
    with seeded(seed), torch.no_grad():
        for rows in copies.split(_BATCH):
            simulated = model.simulate(medians, like[rows])
            posterior = guide.posterior(model.laws(medians, simulated.data))
            log_beliefs = getattr(posterior, "log_beliefs", None)
            if log_beliefs is None:
                came = type(guide).__name__
                raise ValueError(f"result: needs a guide with beliefs, got {came}")
            steps = log_beliefs.shape[1]
            inside = simulated.data.step_mask[:, :steps]
            totals.append(_binned(log_beliefs.exp(), simulated.states[:, :steps], inside, bins))
    return _calibration(torch.cat(totals, 1))


def _binned(belief: Tensor, states: Tensor, inside: Tensor, bins: int) -> Tensor:
    """Sums of probability, states that were there and beliefs, (3, N, bins)."""
    belief = belief.double()
    states = states.clamp_min(0).unsqueeze(-1)
    there = torch.zeros_like(belief).scatter_(-1, states, 1.0)
    place = (belief * bins).long().clamp(0, bins - 1)
    weight = inside.unsqueeze(-1).expand_as(belief).double()
    parts = (belief * weight, there * weight, weight)
    empty = belief.new_zeros(len(belief), bins)
    return torch.stack([empty.scatter_add(1, place.flatten(1), x.flatten(1)) for x in parts])


def _calibration(totals: Tensor) -> BeliefCalibration:
    """From the sums of every sequence, (3, N, bins)."""
    chance, there, count = totals.sum(1)
    apart = totals[1] - totals[0]
    spread = apart.square().sum(0).sqrt()
    some = count > 0
    known = torch.where(some, count, 1)
    error = float((there - chance).abs().sum() / count.sum())
    tested = ((totals[2] > 0).sum(0) >= FEWEST) & (spread > 0)
    z = ((there - chance).abs() / torch.where(tested, spread, 1))[tested]
    p = math.nan
    if len(z):
        p = min(1.0, len(z) * math.erfc(float(z.max()) / math.sqrt(2)))
    nothing = torch.full_like(chance, math.nan)
    return BeliefCalibration(
        torch.where(some, chance / known, nothing),
        torch.where(some, there / known, nothing),
        torch.where(some, spread / known, nothing),
        count.long(),
        error,
        p,
    )
