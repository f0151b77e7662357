"""States ±1 that switch with probability ε, y = μ z + N(0, 1); affine recursions on them."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

from ....inference import filter
from ....models import HiddenMarkovModel, Sequences
from ....models.beliefs import divergence
from ...command.report import Array
from .reference_filters import AffineFilter

PUBLISHED_AFFINE = {(0.1, 1.0): 0.0007, (0.05, 0.5): 0.0043, (0.02, 0.5): 0.0152}
"""KL(filter ‖ best affine recursion), nats per step, on longer sequences without their start."""


def chain(epsilon: float, mu: float) -> HiddenMarkovModel:
    """The model of a case; state 0 is −1, state 1 is +1."""
    return HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5],
        transition=[[1 - epsilon, epsilon], [epsilon, 1 - epsilon]],
        mean=[-mu, mu],
        scale=[1.0, 1.0],
    )


def case_name(epsilon: float, mu: float) -> str:
    """How a case is called in the report."""
    return f"eps{epsilon:g}_mu{mu:g}"


def best_affine_slope(model: HiddenMarkovModel, data: Sequences) -> float:
    """The slope whose KL(filter ‖ affine recursion) is least on these very sequences.

    One number from all their steps: that it was chosen on them flatters the baseline by nothing
    that matters.
    """
    laws = model.laws({}, data)
    exact = filter(model, data).log()

    def kl(slope: float) -> float:
        return float(divergence(exact, AffineFilter(slope)(laws)).mean())

    return float(minimize_scalar(kl, bounds=(0.0, 5.0), method="bounded").x)


def readings(epsilon: float) -> dict[str, float]:
    """The slope that means a belief, and the one that means a bit."""
    return {"belief": 1 - 2 * epsilon, "bit": math.atanh(1 - 2 * epsilon)}


def slopes(before: Array, added: Array, near_zero: float, certain: float) -> dict[str, float]:
    """What is added to μ y_t per unit of m_{t-1}: near m = 0 and, by the chord, at |m| near 1.

    0 where no step is there.
    """
    found = {}
    near = np.abs(before) < near_zero
    spread = before[near] - before[near].mean() if near.any() else np.zeros(1)
    moved = float(spread @ added[near]) if near.any() else 0.0
    found["slope"] = moved / max(float(spread @ spread), 1e-12)
    sure = np.abs(before) > certain
    chord = float(np.abs(before[sure]).sum())
    found["slope_between_certainties"] = float((added * np.sign(before))[sure].sum()) / (chord or 1)
    return found


def affine_gap(slope: float, gain: float, y: Array, epsilon: float, mu: float) -> float:
    """Evidence − ELBO per step of ½ logit_t = gain μ y_t + slope m_{t-1}, by the sums of I1.

    The evidence is that of the same recursion with artanh((1 − 2ε) m), whose bound is exact.
    """

    def bound(exact: bool) -> float:
        half, predicted = np.empty_like(y), np.empty_like(y)
        m = np.zeros(len(y))
        keep = 1 - 2 * epsilon
        for t in range(y.shape[1]):
            predicted[:, t] = keep * m
            moved = np.arctanh(keep * m) if exact else slope * m
            half[:, t] = (1 if exact else gain) * mu * y[:, t] + moved
            m = np.tanh(half[:, t])
        log_on, log_off = (-np.logaddexp(0, sign * 2 * half) for sign in (-1, 1))
        up = 1 / (1 + np.exp(-2 * half[:, -1]))  # q(z_T = +1)
        total: float = 0.0
        for t in range(y.shape[1] - 1, -1, -1):
            if t + 1 < y.shape[1]:  # q(z_t) from q(z_{t+1}): β_t T / π_{t+1}
                belief = np.exp(log_on[:, t])
                ratio = up / (1 + predicted[:, t + 1]), (1 - up) / (1 - predicted[:, t + 1])
                up = belief * 2 * ((1 - epsilon) * ratio[0] + epsilon * ratio[1])
            for share, sign, log_belief in ((up, 1, log_on), (1 - up, -1, log_off)):
                prior = np.log((1 + sign * predicted[:, t]) / 2)
                told = -0.5 * (y[:, t] - sign * mu) ** 2
                total += float((share * (prior + told - log_belief[:, t])).mean())
        return float(total / y.shape[1])

    return bound(True) - bound(False)


BINS = np.linspace(-1, 1, 41)
