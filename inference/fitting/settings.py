"""Settings of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...models.checks import is_number, require, require_choice, require_count, require_positive
from .start import Start, require_start

HOLDOUT = 0.1
"""Share of the sequences that is held out where a network is trained."""

COUNTS = {
    **dict.fromkeys(("steps", "batch_size", "particles", "restarts"), 1),
    **dict.fromkeys(("restart_steps", "sleep_steps"), 0),
    **dict.fromkeys(("evaluate_every", "patience", "checkpoint_every"), 1),
}
"""Settings that are whole numbers, with their least values."""

METHODS = ("auto", "lbfgs", "adam")
PRECISIONS = ("double", "single")
SCHEDULES = ("cosine", "constant")


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
            the best on all); None: 20, or 40 for symbols and for three states or more, more where
            climbs are cheap and maxima many (120 or 240 of counts, symbols, regressions and, over
            few steps, mixtures; up to 120 of labelled chains, beside the best that EM found), or 8
            for models whose laws take one point at a time (4 over more than 1000 steps), and up to
            three times as many while only one reached the best height; or 1 for decision
            processes, where EM has compared several. Of other fits each is improved with the exact
            filter, and the one with the best bound is continued; None: 1.
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
        for name, least in COUNTS.items():
            optional = name in ("restarts", "patience")
            require_count(getattr(self, name), f"settings.{name}", least, optional=optional)
        for name in ("learning_rate", "parameter_learning_rate", "clip_norm", "tolerance"):
            require_positive(getattr(self, name), f"settings.{name}")
        require_positive(self.weight_decay, "settings.weight_decay", zero=True)
        require_choice(self.method, "settings.method", METHODS)
        require_choice(self.precision, "settings.precision", PRECISIONS)
        require_choice(self.schedule, "settings.schedule", SCHEDULES)
        share = is_number(self.holdout) and 0 <= self.holdout < 1
        require(
            share or self.holdout is None,
            "settings.holdout",
            "must be in [0, 1) or None",
            repr(self.holdout),
        )
        require_start(self.start, "settings.start")
