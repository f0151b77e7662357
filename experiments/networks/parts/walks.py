"""A level that walks at random, and the Kalman filter of each of its sequences step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ....inference.filters.recurrences import affine_scan
from ....models import LinearGaussianSSM, LocalLevel


@dataclass(frozen=True)
class Case:
    """A random walk with its observations, each (N, T) float64, and its Kalman filter."""

    ratio: float
    level: Tensor
    """z_t."""
    y: Tensor
    """Zero where missing."""
    seen: Tensor
    """Whether y_t is there."""
    noise: Tensor
    """R_t."""

    @cached_property
    def filtered(self) -> tuple[Tensor, Tensor, Tensor]:
        """P⁻, K (zero where y_t is missing) and m of every step: training does without."""
        y, seen, noise = self.y, self.seen, self.noise
        before, mean = y.new_full((len(y),), settled(self.ratio)), y.new_zeros(len(y))
        out: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(y.shape[1]):
            gain = seen[:, t] * before / (before + noise[:, t])
            mean = (1 - gain) * mean + gain * y[:, t]
            out.append((before, gain, mean))
            before = (1 - gain) * before + self.ratio
        predicted, gains, means = (torch.stack(each, 1) for each in zip(*out, strict=True))
        return predicted, gains, means

    @property
    def predicted(self) -> Tensor:
        """P⁻_t."""
        return self.filtered[0]

    @property
    def gain(self) -> Tensor:
        """K_t."""
        return self.filtered[1]

    @property
    def mean(self) -> Tensor:
        """m_t."""
        return self.filtered[2]


def settled(ratio: float) -> float:
    """P⁻ of the steady filter at R = 1: (q + √(q² + 4 q)) / 2."""
    return (ratio + math.sqrt(ratio**2 + 4 * ratio)) / 2


def level_model(ratio: float) -> LinearGaussianSSM:
    """The local level at R = 1, begun where its filter has settled."""
    return LinearGaussianSSM(LocalLevel(initial_variance=settled(ratio))).with_parameters(
        level_variance=ratio, observation_variance=1.0
    )


def errors(mean: Tensor, case: Case) -> dict[str, object]:
    """Squared error of a mean (N, T) by Kalman's, and the KL of its belief from the filter's.

    The belief has the filter's own variance P = (1 − K) P⁻, so that the KL is (m − m*)² / 2 P.
    """
    best = (case.mean - case.level).square().mean()
    variance = (1 - case.gain) * case.predicted
    return {
        "squared_error_over_kalman": float((mean - case.level).square().mean() / best),
        "kl_filter_per_step": float(((mean - case.mean).square() / (2 * variance)).mean()),
    }


def elbo(mean: Tensor, variance: Tensor, y: Tensor, ratio: float) -> Tensor:
    """The bound of a `BeliefGuide` whose belief at t is N(m_t, v), R = 1: nats, (N,).

    Σ_t E_q[log π_t(z_t) + log N(y_t; z_t, 1) − log β_t(z_t)] with the predictions π_t of these
    beliefs and the marginals of q by the model's own backward kernel (docs/science.md, I1).

    Args:
        mean: m_t, (N, T).
        variance: v, a number.
        y: all observed, (N, T).
        ratio: Q / R.
    """

    def expected_log(at: Tensor, spread: Tensor, of: Tensor, wide: Tensor) -> Tensor:
        """E[log N(z; of, wide)] for z of N(at, spread)."""
        return -0.5 * ((2 * math.pi * wide).log() + ((at - of).square() + spread) / wide)

    ahead = variance + ratio
    gain = variance / ahead
    at, spread, total = mean[:, -1], variance, torch.zeros_like(mean[:, 0])
    for t in range(mean.shape[1] - 1, -1, -1):
        if t < mean.shape[1] - 1:
            at = mean[:, t] + gain * (at - mean[:, t])
            spread = variance + gain**2 * (spread - ahead)
        first = torch.zeros_like(at), ahead.new_tensor(settled(ratio))
        predicted = (mean[:, t - 1], ahead) if t else first
        total = total + expected_log(at, spread, *predicted)
        total = total + expected_log(at, spread, y[:, t], torch.ones_like(ahead))
        total = total - expected_log(at, spread, mean[:, t], variance)
    return total


def fixed_gain(case: Case) -> tuple[float, Tensor]:
    """The constant gain of least squared error on these sequences, and its means."""

    def means(gain: float) -> Tensor:
        share = gain * case.seen.double()
        return affine_scan(1 - share, share * case.y)

    found = minimize_scalar(
        lambda gain: float((means(gain) - case.level).square().mean()),
        bounds=(0, 1),
        method="bounded",
    )
    return float(found.x), means(float(found.x))
