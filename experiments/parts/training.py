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
from ...models.checks import require
from ..command.seeds import Repeated, Seeded


@dataclass(frozen=True)
class GradientSteps:
    """Settings of a fit by gradient steps."""

    steps: int = 500
    """Gradient steps of every fit."""
    batch_size: int = 64
    """Sequences per step."""
    learning_rate: float = 2e-2
    """Adam's, falling along a cosine."""

    def fit_settings(self, **changes: object) -> FitSettings:
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


def to_the_end(**how: object) -> FitSettings:
    """Settings of a fit that takes all its steps, by nothing but its objective.

    There is no phase before it, nothing held out, and no early stopping, unless told.

    Args:
        how: fields of `FitSettings`.
    """
    usual: dict[str, Any] = {"sleep_steps": 0, "holdout": 0, "patience": None}
    return FitSettings(**{**usual, **how})


@dataclass(frozen=True)
class Simulated:
    """Numbers of sequences drawn from a known process."""

    training_sequences: int = 5000
    """Of a fit."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured, the same for all fits of a case."""


@dataclass(frozen=True)
class NodeRange(Repeated):
    """Sizes of the models of binary nodes."""

    smallest_nodes: int = 2
    """Nodes of the smallest models…"""
    largest_nodes: int = 8
    """…and of the largest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 1 <= self.smallest_nodes <= self.largest_nodes
        came = f"{self.smallest_nodes} and {self.largest_nodes}"
        names = "smallest_nodes, largest_nodes"
        require(fits, names, "need 1 <= smallest <= largest", came)


@dataclass(frozen=True)
class Units:
    """Size of the network where it is one LSTM."""

    hidden_size: int = 32
    """Units of the LSTM."""


@dataclass(frozen=True)
class Kept:
    """How many of the held-out sequences are kept, with draws of their hidden states."""

    shown: int = 10
    """Held-out sequences kept in posterior.nc."""


@dataclass(frozen=True)
class Drawn:
    """What is drawn of the held-out sequences."""

    shown_sequences: int = 5
    """Held-out sequences whose hidden states are drawn from the first LSTM's guide."""
    draws: int = 100
    """Draws of each, in posterior.nc."""


@dataclass(frozen=True)
class Shown:
    """What of the held-out sequences is kept."""

    shown_sequences: int = 10
    """Held-out sequences of each case kept in posterior.nc."""
    draws: int = 200
    """Draws of their hidden states from the LSTM's guide, kept there as well."""


def positive(settings: Seeded, *names: str) -> None:
    """Refuse settings of which one is not finite and > 0.

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise ValueError(f"{name}: must be finite and > 0, got {getattr(settings, name)}")
