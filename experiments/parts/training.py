"""Settings that experiments share where filters are trained on simulations.

Each record is a base of an experiment's `Settings`, which inherits its fields, their command-line
flags and the strings below them; several stand side by side, the last one's fields come first:

    @dataclass(frozen=True)
    class Settings(Shown, GradientSteps, Simulated, Repeated):
        steps: int = 800  # another default; a string below it would replace the inherited one

A default that has a reason of its own gets its string again in the experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...inference import FitSettings


@dataclass(frozen=True)
class GradientSteps:
    """Settings of a fit by gradient steps."""

    steps: int = 500
    """Gradient steps of every fit."""
    batch_size: int = 64
    """Sequences per step."""
    learning_rate: float = 2e-2
    """Adam's, falling along a cosine."""

    def fit_settings(self, **changes: Any) -> FitSettings:
        """Settings of one fit to simulations: to the end, with nothing held out of them.

        Args:
            changes: fields of `FitSettings` that differ.
        """
        usual: dict[str, Any] = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
        }
        return to_the_end(**{**usual, **changes})


def to_the_end(**how: Any) -> FitSettings:
    """Settings of a fit that takes all its steps, by nothing but its objective.

    There is no phase before it, nothing held out, and no early stopping, unless told.

    Args:
        how: fields of `FitSettings`.
    """
    return FitSettings(**{"sleep_steps": 0, "holdout": 0, "patience": None, **how})


@dataclass(frozen=True)
class Simulated:
    """Numbers of sequences drawn from a known process."""

    training_sequences: int = 5000
    """Of a fit."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured, the same for all fits of a case."""


@dataclass(frozen=True)
class Shown:
    """What of the held-out sequences is kept."""

    shown_sequences: int = 10
    """Held-out sequences of each case kept in posterior.nc."""
    draws: int = 200
    """Draws of their hidden states from the LSTM's guide, kept there as well."""


def positive(settings: Any, *names: str) -> None:
    """Refuse settings of which one is not finite and > 0.

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise ValueError(f"{name}: must be finite and > 0, got {getattr(settings, name)}")
