"""Settings of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from torch import Tensor

from .start import STARTS, Start

HOLDOUT = 0.1
"""Share of the sequences that is held out where a network is trained."""

COUNTS = (
    *("steps", "batch_size", "particles", "restarts", "restart_steps", "sleep_steps"),
    *("evaluate_every", "patience", "checkpoint_every"),
)
"""Settings that are whole numbers."""

METHODS = ("auto", "lbfgs", "adam")


@dataclass(frozen=True)
class FitSettings:
    """Settings of :func:`fit`; every value is checked.

    Point estimates with ``ExactFilter`` are found by L-BFGS on the exact evidence of all data:
    several starts climb, the best are finished until a Newton step promises less than
    ``tolerance``. Only ``steps``, ``tolerance``, ``start``, ``restarts``, ``evaluate_every`` and
    ``checkpoint_every`` count then.

    All other fits take gradient steps by Adam. Normal posteriors with ``ExactFilter`` begin with
    mode and curvature of the exact posterior, found in the same way, and take at most 400 steps.
    Fits return the best state by the bound on held-out sequences. If there are none and the loss
    has no noise (``"elbo"`` of a point estimate, or of the network alone, with every step on all
    sequences), they return the best state by the loss; otherwise the last state.

    Attributes:
        steps: number of steps at most.
        method: ``"lbfgs"``, ``"adam"``, or ``"auto"``: L-BFGS for point estimates with
            ``ExactFilter``, in memory and without held-out sequences, unless the model or the data
            are very large (2000 parameters, or 5e8 steps × states²).
        tolerance: nats by which a point estimate may miss the maximum.
        precision: ``"double"``, or ``"single"`` for the laws in gradient steps, which loses digits:
            data must then lie within 1000 standard deviations of zero. Networks run in the float
            type of their weights, float32 unless you set it. A step with an LSTM of 32 units takes
            1.02 (2 states) to 1.2 times (16 states) as long in double precision.
        batch_size: number of sequences per step.
        learning_rate: Adam's, for the filter's weights.
        parameter_learning_rate: Adam's, for the posterior of the model's parameters (on the
            unconstrained scale).
        weight_decay: weight of ½ Σ (filter weights)² in the loss (nats per step): a normal prior
            of precision ``weight_decay`` × steps in the data, against overfitting.
        schedule: both rates fall to a hundredth along a half cosine, or stay constant.
        clip_norm: largest norm of the gradient (loss in nats per step); larger ones are scaled
            down.
        particles: draws of the parameters (elbo) or of the paths (iwae, fivo, rws) per step.
        start: where the parameters start; see ``starting_values``.
        restarts: number of starts. L-BFGS climbs from all of them (on a part of long data, and from
            the best on all); None: 20, or 4 for models whose laws take one point at a time, or 1
            where EM has compared several. Of other fits each is improved with the exact filter, and
            the one with the best bound is continued; None: 1.
        restart_steps: steps of that improvement.
        sleep_steps: steps in which the network alone first learns to filter simulations of the
            start, so that no state dies (not if the first state has a flat prior, which cannot be
            simulated).
        holdout: share of the sequences held out for early stopping (none of fewer than 20
            sequences; of a folder at most 4096 sequences, which are kept in memory). None: a tenth
            where a network is trained, otherwise none.
        evaluate_every: steps between evaluations on the held-out sequences.
        patience: evaluations without a better bound before stopping; None: never stop early.
        checkpoint_every: steps between checkpoints, if a checkpoint file is given.

    Raises:
        ValueError: a value out of range.

    >>> from beliefzoo.inference import FitSettings
    >>> FitSettings(steps=400, restarts=5).parameter_learning_rate
    0.03
    >>> FitSettings(holdout=1.5)
    Traceback (most recent call last):
    ValueError: settings.holdout: must be in [0, 1) or None, got 1.5
    """

    steps: int = 1500
    method: Literal["auto", "lbfgs", "adam"] = "auto"
    tolerance: float = 1e-4
    precision: Literal["double", "single"] = "double"
    batch_size: int = 64
    learning_rate: float = 1e-2
    parameter_learning_rate: float = 3e-2
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 5.0
    particles: int = 1
    start: Start | Mapping[str, Tensor] = "kmeans"
    restarts: int | None = None
    restart_steps: int = 150
    sleep_steps: int = 100
    holdout: float | None = None
    evaluate_every: int = 50
    patience: int | None = 10
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            whole = isinstance(value, Integral) or (
                value is None and name in ("restarts", "patience")
            )
            self._need(name, whole, "must be a whole number")
        for name in ("steps", "batch_size", "particles", "evaluate_every"):
            self._need(name, getattr(self, name) >= 1, "must be >= 1")
        self._need("restarts", self.restarts is None or self.restarts >= 1, "must be >= 1 or None")
        for name, choices in (("method", METHODS), ("precision", ("double", "single"))):
            self._need(name, getattr(self, name) in choices, f"must be one of {choices}")
        for name in ("sleep_steps", "restart_steps"):
            self._need(name, getattr(self, name) >= 0, "must be >= 0")
        for name in ("learning_rate", "parameter_learning_rate", "clip_norm", "tolerance"):
            value = getattr(self, name)
            self._need(name, math.isfinite(value) and value > 0, "must be finite and > 0")
        decay = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        self._need("weight_decay", decay, "must be finite and >= 0")
        self._need("checkpoint_every", self.checkpoint_every >= 1, "must be >= 1")
        share = self.holdout is None or 0 <= self.holdout < 1
        self._need("holdout", share, "must be in [0, 1) or None")
        self._need("patience", self.patience is None or self.patience >= 1, "must be >= 1 or None")
        self._need("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'")
        known = isinstance(self.start, Mapping) or self.start in STARTS
        self._need("start", known, f"must be one of {STARTS} or values by name")

    def _need(self, name: str, condition: bool, requirement: str) -> None:
        if not condition:
            raise ValueError(f"settings.{name}: {requirement}, got {getattr(self, name)!r}")
