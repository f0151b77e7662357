"""Fit a model and its guide together: one loop, one record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from ..models import HiddenMarkovModel, Sequences
from ..models.persistence import describe, read_tensors, write_tensors
from ..models.randomness import seeded
from .filters import ExactFilter
from .guides import BeliefGuide, Guide, parameters_of
from .objectives import LOSSES, OBJECTIVES, Batch, Objective
from .provenance import versions
from .start import STARTS, Start, starting_values

SMALLEST_SPLIT = 20
"""Sequences needed before some are held out."""

DEAD_SHARE = 1e-3
"""A state with less than this share of the expected visits of an average state is dead."""


@dataclass(frozen=True)
class FitSettings:
    """Everything that a fit can be told; every value is checked."""

    steps: int = 1500
    """Gradient steps."""
    batch_size: int = 64
    """Sequences per step."""
    learning_rate: float = 1e-2
    """Adam's, for the filter's weights."""
    parameter_learning_rate: float = 3e-2
    """Adam's, for the posterior of the model's parameters (on the unconstrained scale)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Both rates fall to a hundredth along a half cosine, or stay."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm (loss in nats per step)."""
    particles: int = 1
    """Draws of the parameters (elbo) or of the trajectories (iwae, rws) per step."""
    start: Start | Mapping[str, Tensor] = "kmeans"
    """Where the parameters start; see ``starting_values``."""
    restarts: int = 1
    """Starts that are tried; each is improved with the exact filter, the best bound goes on."""
    restart_steps: int = 150
    """Steps of that improvement."""
    sleep_steps: int = 100
    """First the network alone learns to filter simulations of the start, so that no state dies."""
    holdout: float = 0.1
    """Share of the sequences held out for early stopping (none below 20 sequences)."""
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
        self._need("checkpoint_every", self.checkpoint_every >= 1, "must be >= 1")
        self._need("holdout", 0 <= self.holdout < 1, "must be in [0, 1)")
        self._need("patience", self.patience is None or self.patience >= 1, "must be >= 1 or None")
        self._need("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'")
        known = isinstance(self.start, Mapping) or self.start in STARTS
        self._need("start", known, f"must be one of {STARTS} or values by name")

    def _need(self, name: str, condition: bool, requirement: str) -> None:
        if not condition:
            raise ValueError(f"settings.{name}: {requirement}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Fit:
    """The result of a fit: the fitted guide, and all that is needed to tell how it came about."""

    model: HiddenMarkovModel
    guide: Guide
    objective: Objective
    settings: FitSettings
    seed: int
    losses: Tensor
    """Loss of every step, nats per observed-sequence step."""
    evaluations: Tensor
    """(evaluations, 2): step, and bound on the held-out sequences at the medians, nats per step."""
    restart_bounds: Tensor
    """Bound of every start that was tried, nats per step."""
    seconds: float
    versions: Mapping[str, str] = field(repr=False)

    @property
    def fitted(self) -> HiddenMarkovModel:
        """The model with its parameters known, at the posterior medians."""
        return parameters_of(self.guide)


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient was not finite; ``last_good`` is the fit just before it."""

    def __init__(self, message: str, last_good: Fit) -> None:
        super().__init__(message)
        self.last_good = last_good


def fit(
    model: HiddenMarkovModel,
    guide: Guide,
    data: Sequences,
    *,
    objective: Objective = "elbo",
    settings: FitSettings | None = None,
    seed: int = 0,
    heldout: Sequences | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    callback: Callable[[int, Guide], None] | None = None,
) -> Fit:
    """Fit model and guide together by maximising one objective over minibatches of sequences.

    The guide that is passed in stays as it is; the fitted one is in the result. The same seed gives
    the same numbers, also when a killed fit is taken up again from its checkpoint.

    Args:
        model: the model; what it knows stays fixed.
        guide: a guide made from this model.
        data: training sequences.
        objective: ``"elbo"``, ``"iwae"``, ``"rws"`` (reweighted wake-sleep) or ``"forward_kl"``.
        settings: see ``FitSettings``.
        seed: of starts, batches and noise; torch's global generator is left as it was.
        heldout: sequences for early stopping; by default a share of ``data``.
        checkpoint: file that is written while fitting, and continued from if it exists.
        progress: show a bar.
        callback: called with the step and the guide, in evaluation mode, every
            ``settings.evaluate_every`` steps; it must not draw random numbers.

    Raises:
        ValueError: bad argument, or a checkpoint of another fit; before anything is computed.
        NonFiniteLossError: naming step, site and sequence.
    """
    settings = settings or FitSettings()
    _check(model, guide, data, objective, heldout, checkpoint)
    run = _Run(guide, data, objective, settings, seed, heldout, checkpoint, progress, callback)
    with seeded(seed), warnings.catch_warnings():
        # Pyro's warning without a name, where an error with step, site and sequence follows.
        warnings.filterwarnings("ignore", message="Encountered (NaN|.*inf)", category=UserWarning)
        return run.finish()


def _check(
    model: HiddenMarkovModel,
    guide: Guide,
    data: Sequences,
    objective: str,
    heldout: Sequences | None,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    if not isinstance(guide, Guide):
        raise ValueError(
            f"guide: must be a BeliefGuide, ForwardGuide or MeanFieldGuide, got {guide!r}"
        )
    if guide.model is not model:
        raise ValueError(
            f"guide: must be made from the model that is fitted, {model}, got one for {guide.model}"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: must be one of {OBJECTIVES}, got {objective!r}")
    if not isinstance(data, Sequences):
        raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
    if objective != "elbo" and isinstance(guide.filter, ExactFilter) and not model.priors:
        raise ValueError("objective: nothing to fit with ExactFilter and all parameters known")
    if objective in ("rws", "forward_kl") and isinstance(guide.filter, ExactFilter):
        raise ValueError(f"objective: {objective!r} trains a network, got ExactFilter")
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(
            f"checkpoint: needs a file in an existing folder, got {os.fspath(checkpoint)!r}"
        )
    for part in (data, heldout):
        if part is not None:
            model.check(part)


class _Run:
    """One fit while it runs."""

    def __init__(
        self,
        guide: Guide,
        data: Sequences,
        objective: Objective,
        settings: FitSettings,
        seed: int,
        heldout: Sequences | None,
        checkpoint: str | os.PathLike[str] | None,
        progress: bool,
        callback: Callable[[int, Guide], None] | None,
    ) -> None:
        self.model = guide.model
        self.objective = objective
        self.settings = settings
        self.seed = seed
        self.progress = progress
        self.callback = callback
        if heldout is None and settings.holdout and len(data) >= SMALLEST_SPLIT:
            data, heldout = data.split([1 - settings.holdout, settings.holdout], seed=seed)
        self.data = data
        self.heldout = heldout
        self.path = None if checkpoint is None else Path(checkpoint)
        self.print = _fingerprint(guide, data, objective, settings, seed)
        saved = self._saved()
        self.started = time.monotonic()
        self.restart_bounds: list[float] = []
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, float]] = []
        self.step = 0
        self.best: dict[str, Tensor] | None = None
        self.origin = guide
        self.start: dict[str, Tensor] = {} if saved is None else saved["start"]
        self.resumed = saved

    def _saved(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        saved = read_tensors(self.path, {"fingerprint", "step", "guide", "optimizer", "random"})
        if saved["fingerprint"] != self.print:
            raise ValueError(
                f"checkpoint: {os.fspath(self.path)!r} belongs to another fit (model, guide, data, "
                "objective, settings or seed differ); name another file or remove it"
            )
        return saved

    def finish(self) -> Fit:
        if self.resumed is None:
            self.start = self._best_start()
        self.guide = self.origin.fresh(self.start)
        self.guide.filter.calibrate(self.model, self.data)
        self.guide.train()
        self.optimizer = self._make_optimizer(self.guide)
        if self.resumed is None:
            self._sleep()
        else:
            self._restore(self.resumed)
        self._loop()
        if self.best is not None:
            self.guide.load_state_dict(self.best)
        self.guide.eval()
        self._warn_of_dead_states()
        return self._record()

    def _best_start(self) -> dict[str, Tensor]:
        """The start whose bound is best after some exact improvement; the only one if one."""
        settings = self.settings
        if not self.model.priors:
            return {}
        best: dict[str, Tensor] = {}
        for number in range(settings.restarts):
            values = starting_values(
                self.model, self.data, settings.start, seed=self.seed + 7919 * number
            )
            if settings.restarts == 1:
                return values
            bound, values = self._improve(values)
            self.restart_bounds.append(bound)
            if bound >= max(self.restart_bounds):
                best = values
        return best

    def _improve(self, values: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        point = BeliefGuide(self.model, ExactFilter(), parameters="map").fresh(values)
        optimizer = self._make_optimizer(point)
        for step in range(self.settings.restart_steps):
            self._descend(point, optimizer, "elbo", step, self.settings.restart_steps)
        return bound_per_step(point, self.heldout or self.data), point.median()

    def _make_optimizer(self, guide: Guide) -> torch.optim.Adam:
        groups = [
            {"params": list(guide.filter_modules()), "lr": self.settings.learning_rate},
            {
                "params": list(guide.parameter_modules()),
                "lr": self.settings.parameter_learning_rate,
            },
        ]
        for group in groups:
            group["initial_lr"] = group["lr"]
        kept = [group for group in groups if group["params"]]
        if not kept:
            raise ValueError(
                "guide: nothing to fit, all parameters are known and the filter is exact"
            )
        return torch.optim.Adam(kept)

    def _sleep(self) -> None:
        """Bring the network near the filter of the start, on simulations."""
        if self.settings.sleep_steps == 0 or not list(self.guide.filter_modules()):
            return
        values = {n: v.to(torch.get_default_dtype()) for n, v in self.start.items()}
        optimizer = torch.optim.Adam(self.guide.filter_modules(), self.settings.learning_rate)
        for step in range(self.settings.sleep_steps):
            simulated = self.model.simulate(values, self._batch(step))
            laws = self.model.laws(values, simulated.data)
            loss = self.guide.sleep_loss(laws, simulated.states).sum() / simulated.data.n_steps
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.guide.filter_modules(), self.settings.clip_norm)
            optimizer.step()

    def _batch(self, step: int) -> Sequences:
        """The minibatch of a step: a function of seed and step, so a resumed fit sees the same."""
        size = min(self.settings.batch_size, len(self.data))
        if size == len(self.data):
            return self.data
        per_epoch = len(self.data) // size
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data), generator=generator)
        return self.data[order[place * size : (place + 1) * size]]

    def _descend(
        self,
        guide: Guide,
        optimizer: torch.optim.Adam,
        objective: Objective,
        step: int,
        steps: int,
    ) -> float:
        settings = self.settings
        batch = self._batch(step)
        for group in optimizer.param_groups:
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            rate = share if settings.schedule == "cosine" else 1.0
            group["lr"] = group["initial_lr"] * max(rate, 0.01)
        whole = Batch(batch, len(self.data) / len(batch), settings.particles)
        # Everything was checked before; what is not finite is named below, with its sequence.
        with pyro.validation_enabled(False):
            loss = LOSSES[objective](guide, whole) / self.data.n_steps
        if not bool(loss.isfinite()):
            self._stop(f"loss {loss.item()}", step, batch, guide)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(guide.parameters(), settings.clip_norm)
        if not bool(norm.isfinite()):
            self._stop("gradient", step, batch, guide)
        optimizer.step()
        return loss.item()

    def _loop(self) -> None:
        settings = self.settings
        bar = tqdm(
            total=settings.steps,
            initial=self.step,
            disable=not self.progress,
            unit="step",
            desc=f"fit {self.objective}",
        )
        with bar:
            while self.step < settings.steps and not self._out_of_patience():
                loss = self._descend(
                    self.guide, self.optimizer, self.objective, self.step, settings.steps
                )
                self.losses.append(loss)
                self.step += 1
                if self.step % settings.evaluate_every == 0 or self.step == settings.steps:
                    self._evaluate()
                    shown = {"loss": f"{loss:.4f}"}
                    if self.evaluations:
                        shown["held out"] = f"{self.evaluations[-1][1]:.4f}"
                    bar.set_postfix(shown, refresh=False)
                if self.path is not None and self.step % settings.checkpoint_every == 0:
                    self._save()
                bar.update()
        if self.path is not None:
            self._save()

    def _evaluate(self) -> None:
        if self.callback is not None:
            self.guide.eval()
            with torch.no_grad():
                self.callback(self.step, self.guide)
            self.guide.train()
        if self.heldout is None:
            return
        bound = bound_per_step(self.guide, self.heldout)
        if all(bound > earlier for _, earlier in self.evaluations):
            self.best = {n: v.detach().clone() for n, v in self.guide.state_dict().items()}
        self.evaluations.append((float(self.step), bound))

    def _out_of_patience(self) -> bool:
        if self.settings.patience is None or not self.evaluations:
            return False
        bounds = [bound for _, bound in self.evaluations]
        return len(bounds) - 1 - bounds.index(max(bounds)) >= self.settings.patience

    def _save(self) -> None:
        assert self.path is not None
        content = {
            "fingerprint": self.print,
            "step": self.step,
            "start": self.start,
            "guide": self.guide.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "best": self.best,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": torch.tensor(self.evaluations, dtype=torch.float64),
            "restart_bounds": torch.tensor(self.restart_bounds, dtype=torch.float64),
        }
        write_tensors(self.path, content)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.guide.load_state_dict(saved["guide"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self.best = saved["best"]
        self.losses = saved["losses"].tolist()
        self.evaluations = [(step, bound) for step, bound in saved["evaluations"].tolist()]
        self.restart_bounds = saved["restart_bounds"].tolist()
        torch.set_rng_state(saved["random"])

    def _stop(self, what: str, step: int, batch: Sequences, guide: Guide) -> None:
        """Name the first site and sequence that is not finite, and give up."""
        site, sequence = _blame(guide, batch)
        if self.path is not None and hasattr(self, "guide"):
            self._save()
        raise NonFiniteLossError(
            f"fit: {what} is not finite at step {step}, site {site!r}, sequence {sequence}; "
            "the state before this step is in last_good",
            self._record() if hasattr(self, "guide") else self._record_of(guide),
        )

    def _record(self) -> Fit:
        return self._record_of(self.guide)

    def _record_of(self, guide: Guide) -> Fit:
        return Fit(
            model=self.model,
            guide=guide,
            objective=self.objective,
            settings=self.settings,
            seed=self.seed,
            losses=torch.tensor(self.losses, dtype=torch.float64),
            evaluations=torch.tensor(self.evaluations, dtype=torch.float64).reshape(-1, 2),
            restart_bounds=torch.tensor(self.restart_bounds, dtype=torch.float64),
            seconds=time.monotonic() - self.started,
            versions=versions(),
        )

    def _warn_of_dead_states(self) -> None:
        if not self.model.priors:
            return
        data = self.data[: 4 * self.settings.batch_size]
        with torch.no_grad():
            marginals = self.guide.posterior(self.model.laws(self.guide.median(), data)).mean
        visits = marginals.sum((0, 1)) / marginals.sum() * self.model.states
        dead = (visits < DEAD_SHARE).nonzero()[:, 0].tolist()
        if dead:
            warnings.warn(
                f"fit: states {dead} are hardly ever visited; try restarts > 1, another start, or "
                "fewer states",
                stacklevel=4,
            )


def bound_per_step(guide: Guide, data: Sequences, batch_size: int = 256) -> float:
    """ELBO of the states at the posterior medians, nats per step; no noise."""
    total = 0.0
    with torch.no_grad():
        median = guide.median()
        for batch in data.batches(batch_size):
            laws = guide.model.laws(median, batch)
            total += float(guide.posterior(laws).elbo().double().sum())
    return total / data.n_steps


def _blame(guide: Guide, batch: Sequences) -> tuple[str, str]:
    with torch.no_grad():
        draw = guide.draw_parameters()
        for name, value in draw.values.items():
            if not bool(value.isfinite().all()):
                return name, "all"
        laws = guide.model.laws(draw.values, batch)
        likelihood = laws.log_likelihood
        for site, table in (("obs", likelihood.amax(-1).sum(-1)), ("states", None)):
            each = guide.posterior(laws).elbo() if table is None else table
            bad = (~each.isfinite()).nonzero()[:, 0].tolist()
            if bad:
                return site, repr(batch.labels[bad[0]])
    return "unknown", "all"


def _fingerprint(
    guide: Guide, data: Sequences, objective: str, settings: FitSettings, seed: int
) -> str:
    """Tells fits apart: model, guide, data, objective, settings, seed."""
    description, tensors = describe(guide.model)
    digest = hashlib.sha256()
    plain = dataclasses.asdict(settings) | {"start": repr(settings.start)}
    shapes = {name: list(value.shape) for name, value in guide.filter_shapes().items()}
    parts = [type(guide).__name__, guide.uncertainty, objective, seed, plain, description, shapes]
    digest.update(json.dumps(parts, sort_keys=True, default=repr).encode())
    for tensor in (*tensors.values(), data.values, data.mask, data.lengths):
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
