"""States ±1 that switch with probability ε, y = μ z + N(0, 1); affine recursions on them."""

from __future__ import annotations

from scipy.optimize import minimize_scalar

from ...inference import filter
from ...models import HiddenMarkovModel, Sequences
from .belief_measures import divergence
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
    exact = filter(model, data)

    def kl(slope: float) -> float:
        return float(divergence(exact, AffineFilter(slope)(laws)).mean())

    return float(minimize_scalar(kl, bounds=(0.0, 5.0), method="bounded").x)
