"""What a fit can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .start import STARTS, Start


@dataclass(frozen=True)
class FitSettings:
    """Everything that a fit can be told; every value is checked.

    A fit ends with the best state that it knows of: by the bound on the sequences held out, or, if
    none are and the loss is without noise (``"elbo"`` of a point estimate, or with nothing but the
    network to learn, and every step on all sequences), by the loss itself. Otherwise it is the last
    state.
    """

    steps: int = 1500
    """Gradient steps."""
    batch_size: int = 64
    """Sequences per step."""
    learning_rate: float = 1e-2
    """Adam's, for the filter's weights."""
    parameter_learning_rate: float = 3e-2
    """Adam's, for the posterior of the model's parameters (on the unconstrained scale)."""
    weight_decay: float = 0.0
    """Half the squared weights of the filter, times this, are added to the loss (nats per step): a
    normal prior of precision ``weight_decay`` × steps in the data, against overfitting."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Both rates fall to a hundredth along a half cosine, or stay."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm (loss in nats per step)."""
    particles: int = 1
    """Draws of the parameters (elbo) or of the trajectories (iwae, fivo, rws) per step."""
    start: Start | Mapping[str, Tensor] = "kmeans"
    """Where the parameters start; see ``starting_values``."""
    restarts: int = 1
    """Starts that are tried; each is improved with the exact filter, the best bound goes on."""
    restart_steps: int = 150
    """Steps of that improvement."""
    sleep_steps: int = 100
    """First the network alone learns to filter simulations of the start, so that no state dies (not
    where the first state has a flat prior: there is nothing to simulate)."""
    holdout: float = 0.1
    """Share of the sequences held out for early stopping (none below 20 sequences; of a folder at
    most 4096 sequences, which are kept in memory)."""
    evaluate_every: int = 50
    """Steps between evaluations on what is held out."""
    patience: int | None = 10
    """Evaluations without a better bound before stopping; None: never stop early."""
    checkpoint_every: int = 250
    """Steps between checkpoints, where a checkpoint file was named."""

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "batch_size", "particles", "evaluate_every"):
            self._need(name, getattr(self, name) >= 1, "must be >= 1")
        for name in ("sleep_steps", "restart_steps"):
            self._need(name, getattr(self, name) >= 0, "must be >= 0")
        for name in ("learning_rate", "parameter_learning_rate", "clip_norm"):
            value = getattr(self, name)
            self._need(name, math.isfinite(value) and value > 0, "must be finite and > 0")
        decay = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        self._need("weight_decay", decay, "must be finite and >= 0")
        self._need("checkpoint_every", self.checkpoint_every >= 1, "must be >= 1")
        self._need("holdout", 0 <= self.holdout < 1, "must be in [0, 1)")
        self._need("patience", self.patience is None or self.patience >= 1, "must be >= 1 or None")
        self._need("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'")
        known = isinstance(self.start, Mapping) or self.start in STARTS
        self._need("start", known, f"must be one of {STARTS} or values by name")

    def _need(self, name: str, condition: bool, requirement: str) -> None:
        if not condition:
            raise ValueError(f"settings.{name}: {requirement}, got {getattr(self, name)!r}")
