"""A fit by gradient steps."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ...models import Sequences
from ...models.chains.nodes import node_probabilities
from ...models.checks import warn
from ...models.data.folders import Data
from ...models.data.storage import reading, write_tensors
from ...models.emissions.identified import unconstrained_size
from ...models.randomness import seeded
from ..arviz_groups import ConvergenceWarning
from ..filters.recurrent import channel_scale
from ..filters.slot import ExactFilter
from ..guides.guide import BeliefGuide, Guide
from ..guides.parameters import POINTS
from ..pareto import k_threshold, pareto_k
from .checkpoints import digest_of, fingerprint, made_with, read_checkpoint
from .criteria import COUNTED, extent_of
from .minibatches import Minibatches
from .objectives import LOSSES, Batch, Objective
from .parallel import Processes
from .points.direct import (
    HEAVIEST,
    WEIGHTS,
    covariance_of,
    is_exact,
    laplace,
    weights_of,
    work,
)
from .progress import progress_of
from .provenance import versions
from .record import Ending, Fit, NonFiniteLossError
from .settings import HOLDOUT, FitSettings
from .start import starting_values, with_settled_names

DEAD_SHARE = 1e-3
"""A state with less than this share of the expected visits of an average state is dead."""

POLISH = 400
"""Steps at most of a normal posterior that begins with mode and curvature of the exact one."""

EVALUATED = 2**20
"""Steps, padding included, and at most 256 sequences, that are evaluated at once."""

FAR = 1000
"""Standard deviations from zero at which float32 keeps four digits of what varies."""


class Run:
    """The state of a fit while it runs."""

    redundant = True
    """Whether points have redundant coordinates, see ``Coordinates``."""

    def __init__(
        self,
        guide: Guide,
        data: Data,
        objective: Objective,
        settings: FitSettings,
        seed: int,
        heldout: Data | None,
        checkpoint: str | os.PathLike[str] | None,
        progress: bool,
        callback: Callable[[int, Guide], None] | None,
        processes: Processes,
    ) -> None:
        self.model = guide.model
        self.objective = objective
        self.settings = settings
        self.seed = seed
        self.progress = progress
        self.callback = callback
        self.processes = processes
        processes.must_agree(
            lambda: repr(
                (digest_of(data), heldout and digest_of(heldout), objective, settings, seed)
            ),
            "data, heldout, objective, settings, seed",
        )
        self.path = None if checkpoint is None else Path(checkpoint)
        self.unwritten = False
        self.ended = Ending()
        self.steps = settings.steps
        self.k_hat = math.nan
        self.print = ""
        if self.path is not None:
            told = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}
            self.print = fingerprint(guide, data, heldout, objective, told, seed)
        saved = processes.by_first(lambda: read_checkpoint(self.path, self.print))
        self.batches = Minibatches(
            self.model,
            data,
            heldout,
            share=_held_out(settings, guide),
            size=settings.batch_size,
            seed=seed,
            processes=processes,
        )
        self.origin = self._adapted(guide)
        self.optimizer: torch.optim.Adam | None = None
        self.started = time.monotonic()
        self.restart_bounds: list[float] = []
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, float]] = []
        self.step = 0
        self.lowest = math.inf
        self.best: dict[str, Tensor] | None = None
        self.start: dict[str, Tensor] = {} if saved is None else saved["start"]
        self.resumed = saved

    def _adapted(self, guide: Guide) -> Guide:
        """The guide with priors on the scale of the data, as this fit needs it."""
        model, sample = self.model, self.batches.sample
        self.model = model.adapted_to(sample) if model.priors else model.named_after(sample)
        self.model = with_settled_names(self.model, self.settings.start, "fit")
        own = guide.of(self.model)
        if own.uncertainty in POINTS and self.redundant:
            own.in_redundant_coordinates()
        if self.settings.precision == "single":
            _require_near_zero(self.batches.sample)
            own.precision = torch.float32
        return own

    def _answers(self) -> list[Tensor]:
        """What an interrupted run need not ask again."""
        return []

    def finish(self) -> Fit:
        """Runs to the end, or on from the checkpoint."""
        if self.resumed is None:
            self.start = self._best_start()
        self.guide = self.origin.fresh(self.start)
        self._widen()
        self.guide.calibrate(self.batches.sample)
        self.guide.load_state_dict(self.processes.by_first(self.guide.state_dict))
        self.guide.train()
        self.optimizer = self._make_optimizer(self.guide)
        if self.resumed is None:
            self._sleep()
        else:
            with reading(self.path or "", "the checkpoint of this fit"):
                self._restore(self.resumed)
        self._loop()
        self._end_at_the_best()
        self.guide.eval()
        self._weigh()
        self._warn_of_dead_states()
        return self._record()

    def _weigh(self) -> None:
        """Judges a normal posterior of the parameters by the weights of its draws."""
        guide, train = self.guide, self.batches.train
        normal = guide.uncertainty not in POINTS and bool(self.model.priors)
        if not (normal and self.model.exact and isinstance(train, Sequences)):
            return
        weights = weights_of(guide, train, self.seed)
        if weights is None:
            return
        sound = bool((weights < torch.inf).all()) and bool(weights.isfinite().any())
        self.k_hat = pareto_k(weights.numpy()) if sound else math.inf
        limit = k_threshold(WEIGHTS)
        if self.k_hat > limit:
            other = "parameters='multivariate', " if guide.uncertainty == "normal" else ""
            warn(
                f"fit: the posterior of the parameters is not normal enough: k̂ = {self.k_hat:.2f} "
                f"where {limit:.2f} can be relied on, so that intervals may be too narrow; use "
                f"{other}nuts, or draws corrected by their weights",
                ConvergenceWarning,
            )

    def _best_start(self) -> dict[str, Tensor]:
        """The start whose bound is best after a few exact steps; if only one is tried, that one."""
        settings = self.settings
        if not self.model.priors:
            return {}
        best: dict[str, Tensor] = {}
        restarts = settings.restarts or 1
        for number in range(restarts):
            values = self.processes.by_first(partial(self._start, number))
            if restarts == 1:
                return values
            bound, values = self._improve(values)
            self.restart_bounds.append(bound)
            if bound >= max(self.restart_bounds):
                best = values
        return best

    def _widen(self) -> None:
        """Gives a normal posterior the width that the exact one has, where there is one.

        That of an exact guide also begins at its mode; others begin at the start.
        """
        guide, sample = self.origin, self.batches.sample
        posterior = self.guide.parameter_posterior
        normal = posterior is not None and guide.uncertainty not in POINTS
        if not (normal and self.model.exact and work(self.model, sample) <= HEAVIEST):
            return
        assert posterior is not None  # normal
        if not is_exact(guide):
            covariance = self.processes.by_first(partial(covariance_of, self.guide, sample))
            if covariance is not None:
                posterior.set_covariance(torch.ones_like(posterior.mean), covariance)
            return
        found = self.processes.by_first(partial(laplace, guide, sample, self.settings, self.seed))
        if found is not None:
            self.guide = guide.fresh(found.values)
            posterior = self.guide.parameter_posterior
            assert posterior is not None  # as before
            posterior.set_covariance(found.widths, found.covariance)
            self.ended = Ending(warnings=found.doubts)
            self.steps = min(self.steps, POLISH)

    def _start(self, number: int) -> dict[str, Tensor]:
        seed = self.seed + 7919 * number
        return starting_values(self.model, self.batches.sample, self.settings.start, seed=seed)

    def _improve(self, values: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        point: Guide = self.origin.fresh(values)
        if self.model.exact:
            point = BeliefGuide(self.model, ExactFilter(), parameters="map").fresh(values)
        if point.uncertainty in POINTS:
            point.in_redundant_coordinates()
        optimizer = self._make_optimizer(point)
        for step in range(self.settings.restart_steps):
            self._differentiate(point, optimizer, "elbo", step)
            self._descend(optimizer, step, self.settings.restart_steps)
        return self._bound(point, self.batches.heldout or self.batches.sample), point.median()

    def _bound(self, guide: Guide, data: Data) -> float:
        return bound_per_step(guide, data, self.processes)

    def _make_optimizer(self, guide: Guide) -> torch.optim.Adam:
        groups = [
            {
                "params": list(guide.filter_modules()),
                "lr": self.settings.learning_rate,
                "weight_decay": self.settings.weight_decay,
            },
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
                "guide: nothing to fit, all parameters are known and the filter has no weights"
            )
        return torch.optim.Adam(kept)

    def _sleep(self) -> None:
        """Trains the network on simulations of the start, towards their filter."""
        weights = list(self.guide.filter_modules())
        if self.settings.sleep_steps == 0 or not weights:
            return
        values = {n: v.to(self.origin.precision) for n, v in self.start.items()}
        laws = self.model.laws(values, self.batches.whole(0))
        if laws.linear is not None and laws.linear.diffuse.shape[-1]:
            return  # a first state with a flat prior cannot be simulated
        optimizer = torch.optim.Adam(weights, self.settings.learning_rate)
        for step in range(self.settings.sleep_steps):
            # Every process simulates the whole minibatch, so that their generators stay together.
            states, whole, _ = self.model.simulate(values, self.batches.whole(step))
            rows, weight = self.processes.part(len(whole))
            data = whole[rows]
            laws = self.model.laws(values, data)
            each = self.guide.sleep_loss(laws, states[rows, : data.max_length])
            loss = each.sum() * (weight / whole.n_steps)
            optimizer.zero_grad()
            loss.backward()
            self.processes.average_gradients(weights)
            torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
            optimizer.step()

    def _loss(self, guide: Guide, objective: Objective, step: int) -> Tensor:
        """The objective of a step on this process's part; the mean over processes is that of all.

        With draws of trajectories each process goes its own way after the parameters are drawn, and
        all are together again afterwards.
        """
        part = self.batches.part(step)
        noise = None if objective == "elbo" else self.processes.noise()
        own = None if noise is None else noise[1]
        batch = Batch(part.data, part.scale, self.settings.particles, own)
        # Checked already; the error below names the sequence of a number that is not finite.
        with pyro.validation_enabled(False):
            loss = LOSSES[objective](guide, batch) / self.batches.n_steps
        if noise is not None:
            torch.manual_seed(noise[0])
        return loss

    def _differentiate(
        self, guide: Guide, optimizer: torch.optim.Adam, objective: Objective, step: int
    ) -> float:
        """Loss and clipped gradient of the whole minibatch, in every process."""
        loss = self._loss(guide, objective, step)
        value = self.processes.mean(loss.detach())
        if not bool(value.isfinite()):
            raise self._not_finite(f"loss {value.item()}", step, guide)
        optimizer.zero_grad()
        loss.backward()
        self.processes.average_gradients(guide.parameters())
        norm = torch.nn.utils.clip_grad_norm_(guide.parameters(), self.settings.clip_norm)
        if not bool(norm.isfinite()):
            raise self._not_finite("gradient", step, guide)
        return value.item()

    def _descend(self, optimizer: torch.optim.Adam, step: int, steps: int) -> None:
        for group in optimizer.param_groups:
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            rate = share if self.settings.schedule == "cosine" else 1.0
            group["lr"] = group["initial_lr"] * max(rate, 0.01)
        optimizer.step()

    def _loop(self) -> None:
        settings = self.settings
        bar = progress_of(
            self.steps,
            "step",
            shown=self.progress and self.processes.first,
            desc=f"fit {self.objective}",
            initial=self.step,
        )
        optimizer = self.optimizer
        assert optimizer is not None  # made before
        with bar:
            while self.step < self.steps and not self._out_of_patience():
                loss = self._differentiate(self.guide, optimizer, self.objective, self.step)
                if self._exact and loss < self.lowest:
                    self.lowest = loss
                    self._keep()
                self._descend(optimizer, self.step, self.steps)
                self.losses.append(loss)
                self.step += 1
                if self.step % settings.evaluate_every == 0 or self.step == self.steps:
                    self._evaluate()
                    shown = {"loss": f"{loss:.4f}"}
                    if self.evaluations:
                        shown["held out"] = f"{self.evaluations[-1][1]:.4f}"
                    bar.set_postfix(shown, refresh=False)
                if self.step % settings.checkpoint_every == 0:
                    self._save()
                bar.update()
        self._save()

    @property
    def _exact(self) -> bool:
        """Whether the loss alone ranks states: no noise, and nothing held out."""
        known = not self.model.priors or self.origin.uncertainty in ("map", "ml")
        whole = self.batches.full and self.batches.heldout is None
        return whole and known and self.objective == "elbo" and self.origin.noiseless

    def _keep(self) -> None:
        self.best = {n: v.detach().clone() for n, v in self.guide.state_dict().items()}

    def _end_at_the_best(self) -> None:
        if self.best is None:
            return
        if self._exact:
            # Losses are of the states before their steps; that of the last state is still missing.
            with torch.no_grad():
                last = self.processes.mean(self._loss(self.guide, self.objective, self.step))
            if last.item() <= self.lowest:
                return
        self.guide.load_state_dict(self.best)

    def _evaluate(self) -> None:
        if self.callback is not None:
            self.guide.eval()
            with torch.no_grad():
                self.callback(self.step, self.guide)
            self.guide.train()
        if self.batches.heldout is None:
            return
        bound = self._bound(self.guide, self.batches.heldout)
        if all(bound > earlier for _, earlier in self.evaluations):
            self._keep()
        self.evaluations.append((float(self.step), bound))

    def _out_of_patience(self) -> bool:
        if self.settings.patience is None or not self.evaluations:
            return False
        bounds = [bound for _, bound in self.evaluations]
        return len(bounds) - 1 - bounds.index(max(bounds)) >= self.settings.patience

    def _save(self) -> None:
        if self.path is None:
            return
        content = {
            "fingerprint": self.print,
            "made_with": made_with(),
            "step": self.step,
            "start": self.start,
            "answers": self._answers(),
            "guide": self.guide.state_dict(),
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "best": self.best,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": torch.tensor(self.evaluations, dtype=torch.float64),
            "restart_bounds": torch.tensor(self.restart_bounds, dtype=torch.float64),
        }
        path = self.path
        try:
            self.processes.by_first(lambda: write_tensors(path, content, "checkpoint"))
        except (OSError, ValueError) as error:
            # What was computed counts more than its copy.
            if self.processes.first and not self.unwritten:
                warn(
                    f"fit: the checkpoint cannot be written ({error}); the fit goes on without",
                )
            self.unwritten = True

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["best"] is not None:  # which is read at the end alone
            self.guide.load_state_dict(saved["best"])
        self.guide.load_state_dict(saved["guide"])
        assert self.optimizer is not None  # made before
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self.best = saved["best"]
        self.losses = saved["losses"].tolist()
        self.lowest = min(self.losses, default=math.inf)
        self.evaluations = [(step, bound) for step, bound in saved["evaluations"].tolist()]
        self.restart_bounds = saved["restart_bounds"].tolist()
        torch.set_rng_state(saved["random"])

    def _not_finite(self, what: str, step: int, guide: Guide) -> NonFiniteLossError:
        """The error that names the first site and sequence that is not finite."""
        found = self.processes.of_any(_blame(guide, self.batches.part(step).data))
        place = found or "site unknown, sequence unknown"
        if hasattr(self, "guide") and self.optimizer is not None:
            self._save()
        return NonFiniteLossError(
            f"fit: {what} is not finite at step {step}, {place}; "
            "the state before this step is in last_good",
            self._record() if hasattr(self, "guide") else self._record_of(guide),
        )

    def _why(self) -> str:
        patient = not self._out_of_patience()
        return "steps used up" if patient else "no better bound on held-out sequences"

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
            k_hat=self.k_hat,
            why_ended=self.ended.why or self._why(),
            converged=self.ended.converged,
            gradient_norm=self.ended.gradient_norm,
            curvature=self.ended.curvature,
            seconds=time.monotonic() - self.started,
            versions=versions(),
            extent=extent_of(self.model, self.batches.train, counted=self._few()),
            warnings=self.ended.warnings,
        )

    def _few(self) -> bool:
        return self.optimizer is None and unconstrained_size(self.model.priors) <= COUNTED

    def _warn_of_dead_states(self) -> None:
        if not self.model.has_paths:
            return  # only discrete states can die
        if not self.model.priors or not self.processes.first:
            return
        nodes = self.model.belief.nodes
        if self.model.tied and nodes is None:
            return  # known states may be rarely visited
        data = self.batches.train[: 4 * self.settings.batch_size]
        visits = self._visits(data)
        visits = visits / visits.sum() * self.model.states
        if nodes is not None:  # of 2^k states many may well be rare
            _warn_of_still_nodes(visits / self.model.states)
            return
        dead = (visits < DEAD_SHARE).nonzero()[:, 0].tolist()
        if dead:
            warn(
                f"fit: states {dead} are hardly ever visited; try more restarts, another start, or "
                "fewer states",
            )

    def _visits(self, data: Sequences) -> Tensor:
        """Expected visits of the states, (K,)."""
        with torch.no_grad():
            posterior = self.guide.posterior(self.model.laws(self.guide.median(), data))
            found: Tensor = posterior.mean.sum((0, 1))
        return found


def _require_near_zero(data: Sequences) -> None:
    """Raises ValueError for data so far from zero that float32 would round what varies."""
    if data.is_codes:
        return
    shift, scale = channel_scale(data)
    far = float((shift.abs() / scale).max())
    if far > FAR:
        raise ValueError(
            f"settings.precision: 'single' needs data within {FAR} standard deviations of zero, "
            f"got {far:.3g}; subtract a constant from the data, or use 'double'"
        )


def _held_out(settings: FitSettings, guide: Guide) -> float:
    """Share of the sequences to hold out: none where no network is trained."""
    if settings.holdout is not None:
        return settings.holdout
    return 0.0 if is_exact(guide) else HOLDOUT


def bound_per_step(guide: Guide, data: Data, processes: Processes) -> float:
    """ELBO at the posterior medians of the parameters, nats per step.

    Deterministic: a guide that draws paths for it uses the same draws every time. Processes share
    the batches.
    """
    total = 0.0
    size = max(1, min(256, EVALUATED // data.max_length))
    with torch.no_grad(), seeded(0):
        median = guide.median()
        for first in range(processes.rank * size, len(data), processes.size * size):
            laws = guide.model.laws(median, data[first : first + size])
            total += float(guide.bound(laws).double().sum())
    return processes.total(total) / data.n_steps


def _warn_of_still_nodes(shares: Tensor) -> None:
    """Warns of nodes that are almost always on, or off, by the shares (K,) of the states."""
    on = node_probabilities(shares)
    still = (torch.minimum(on, 1 - on) < DEAD_SHARE / 2).nonzero()[:, 0].tolist()
    if still:
        warn(
            f"fit: nodes {still} hardly ever change; try more restarts, another start, or fewer "
            "nodes",
        )


def _blame(guide: Guide, batch: Sequences) -> str | None:
    """Site and sequence of the first number that is not finite; None if all are."""
    with torch.no_grad():
        draw = guide.draw_parameters()
        for name, value in draw.values.items():
            if not bool(value.isfinite().all()):
                return f"site {name!r}, sequence all"
        laws = guide.model.laws(draw.values, batch)
        tables: dict[str, Tensor] = {}
        if laws.discrete is not None:
            tables["obs"] = laws.discrete.log_likelihood.amax(-1).sum(-1)
        for site, each in (tables | {"states": guide.bound(laws)}).items():
            bad = (~each.isfinite()).nonzero()[:, 0].tolist()
            if bad:
                return f"site {site!r}, sequence {batch.labels[bad[0]]!r}"
    return None
