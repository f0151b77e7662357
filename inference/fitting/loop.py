"""Fitting a model and its guide together."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from ...models import Model, SequenceFolder, Sequences
from ...models.chains.nodes import node_probabilities
from ...models.data.folders import Data
from ...models.data.storage import write_tensors
from ...models.emissions.identified import unconstrained_size
from ...models.randomness import seeded
from ..arviz_groups import ConvergenceWarning, k_threshold, pareto_k
from ..filters.recurrent import channel_scale
from ..filters.slot import ExactFilter
from ..guides.coordinates import Coordinates
from ..guides.guide import BeliefGuide, Guide, parameters_of
from ..guides.parameters import POINTS
from .ascent import ALIKE, Ascent
from .checkpoints import digest_of, fingerprint, read_checkpoint
from .direct import (
    HEAVIEST,
    WEIGHTS,
    Landscape,
    Prior,
    Recorded,
    curvature_of,
    is_direct,
    is_exact,
    laplace,
    maximise,
    number_of_starts,
    weights_of,
    work,
)
from .endings import doubts
from .extent import COUNTED, Extent, extent_of
from .minibatches import Minibatches
from .objectives import LOSSES, OBJECTIVES, Batch, Objective
from .parallel import Fabric, Processes
from .provenance import versions
from .settings import HOLDOUT, FitSettings
from .standard_errors import StandardErrors, standard_errors
from .start import starting_values
from .summary import Plain, Summary, ending, summarise

DEAD_SHARE = 1e-3
"""A state with less than this share of the expected visits of an average state is dead."""

POLISH = 400
"""Steps at most of a normal posterior that begins with mode and curvature of the exact one."""

EVALUATED = 2**20
"""Steps, padding included, and at most 256 sequences, that are evaluated at once."""


@dataclass(frozen=True)
class Fit:
    """Result of a fit: the fitted guide, and the record of how it came about; made by :func:`fit`.

    The guide is in the best state that the fit found, see ``FitSettings``. ``print`` shows the
    summary.

    Attributes:
        model: the model that was fitted.
        guide: the fitted guide.
        objective, settings, seed: arguments of the fit.
        losses: loss at the state before each step, nats per observed time step; of L-BFGS, those of
            the climb that led to the result, the last state included.
        evaluations: (evaluations, 2): step, and bound on the held-out sequences at the medians of
            the parameters, nats per time step.
        restart_bounds: bound of every start that was tried, nats per time step.
        why_ended: what ended the fit.
        converged: whether a point estimate by L-BFGS is within ``settings.tolerance`` of a maximum;
            None for fits by Adam, which a count of steps or held-out sequences end.
        gradient_norm: largest element of the gradient at the end, nats per unit of a coordinate;
            NaN for fits by Adam.
        k_hat: Pareto k̂ of the posterior of the parameters, the states summed out exactly: up to
            0.58 its draws can be corrected by weighting; NaN for point estimates, without exact
            inference, and where it would take long.
        curvature: of a point estimate by L-BFGS, minus the second derivatives of what it maximises,
            (P, P), in the guide's coordinates; None otherwise, and for many parameters.
        seconds: duration.
        versions: versions of Python and of the packages used.
        extent: numbers of training sequences, steps and free parameters; None if not recorded.
        warnings: what ``fit`` warned of at the end of a point estimate.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson", ordered=True)
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="map")
    >>> result = fit(model, guide, data, seed=0, progress=False)
    >>> result.converged, sorted(result.fitted.known)
    (True, ['initial', 'rate', 'transition'])
    """

    model: Model
    guide: Guide
    objective: Objective
    settings: FitSettings
    seed: int
    losses: Tensor
    evaluations: Tensor
    restart_bounds: Tensor
    seconds: float
    versions: Mapping[str, str]
    k_hat: float = math.nan
    why_ended: str = ""
    converged: bool | None = None
    gradient_norm: float = math.nan
    curvature: Tensor | None = None
    extent: Extent | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Fit({self.model!r}, {type(self.guide).__name__}, parameters="
            f"{self.guide.uncertainty!r}, why_ended={self.why_ended!r})"
        )

    def __str__(self) -> str:
        return str(self.summary())

    @property
    def restarts_agreeing(self) -> int | None:
        """Starts that reached the best height of a point estimate by L-BFGS; otherwise None."""
        if self.converged is None or self.extent is None:
            return None
        below = (self.restart_bounds.max() - self.restart_bounds) * self.extent.steps
        return int((below < ALIKE).sum())

    def standard_errors(
        self, level: float = 0.95, *, data: Sequences | None = None
    ) -> StandardErrors:
        """Computes standard errors and intervals of a point estimate, see ``StandardErrors``.

        Args:
            level: probability of the intervals.
            data: the training data, where the fit has no ``curvature``: with more than 60
                parameters, and by Adam. It is then computed, by two gradients a parameter.

        Raises:
            ValueError: a fit of a posterior, whose draws have a spread, or of known parameters;
                data where the evidence is not exact.
        """
        posterior = self.guide.parameter_posterior
        if posterior is None or self.guide.uncertainty not in POINTS:
            came = "known parameters" if posterior is None else repr(self.guide.uncertainty)
            raise ValueError(
                f"fit: standard errors are of estimates by parameters='ml' or 'map', got {came}"
            )
        curvature = self.curvature
        if curvature is None and data is not None and self.why_ended != "unbounded":
            curvature = curvature_of(self.guide, data)
        return standard_errors(
            self.model,
            posterior.coordinates,
            posterior.mean,
            curvature,
            why_none="unbounded" if self.why_ended == "unbounded" else "needs data",
            tolerance=self.settings.tolerance,
            level=level,
        )

    def summary(
        self, level: float = 0.95, *, data: Sequences | None = None, seed: int = 0
    ) -> Summary:
        """Returns a table: what was fitted, how it ended, and every parameter with an interval.

        Point estimates have standard errors, see ``standard_errors``, posteriors the median, the
        standard deviation and the quantiles of independent draws.

        Args:
            level: probability of the intervals.
            data: the training data, for standard errors and criteria of large models; see
                ``standard_errors``.
            seed: of the draws.
        """
        return summarise(self, level, data, seed)

    @property
    def ending(self) -> dict[str, Plain]:
        """How the fit ended, as plain values for a report; what does not apply is left out."""
        return ending(self)

    @property
    def fitted(self) -> Model:
        """The model with its parameters known, at the posterior medians."""
        return parameters_of(self.guide)


class Ending(NamedTuple):
    """How a fit ended, as its record says; without arguments, by Adam."""

    why: str = ""
    converged: bool | None = None
    gradient_norm: float = math.nan
    curvature: Tensor | None = None
    warnings: tuple[str, ...] = ()


class NonFiniteLossError(ArithmeticError):
    """Raised when a loss or gradient is not finite.

    Args:
        message: names the step, the site and the sequence.
        last_good: the fit just before; its guide can be saved and examined.

    >>> from beliefzoo.inference import NonFiniteLossError
    >>> issubclass(NonFiniteLossError, ArithmeticError)
    True
    """

    def __init__(self, message: str, last_good: Fit) -> None:
        super().__init__(message)
        self.last_good = last_good


def fit(
    model: Model,
    guide: Guide,
    data: Data,
    *,
    objective: Objective = "elbo",
    settings: FitSettings | None = None,
    seed: int = 0,
    heldout: Data | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    callback: Callable[[int, Guide], None] | None = None,
    fabric: Fabric | None = None,
) -> Fit:
    """Fits a model and a guide together by maximising one objective over minibatches of sequences.

    The guide passed in is not changed; the fitted one is in the result. The same seed gives the
    same numbers, also when an interrupted fit is continued from its checkpoint.

    Nothing depends on the unit of the data: parameters are fitted in coordinates of order one, and
    settings of priors that you left at their defaults are read off the training data (see
    ``Model.adapted_to``; ``Fit.model`` has these priors). Parameters and laws are in float64, so
    that data far from zero keep their digits.

    Of a ``SequenceFolder`` only one minibatch is in memory at a time, besides the sample for
    starting values and scales (``SequenceFolder.sample``) and the held-out sequences. If these hold
    all sequences, the numbers equal those of a fit of the same data in memory.

    With ``fabric`` every process calls this function with the same arguments and gets the same
    result. Together they take the steps of a single process: each works on its part of every
    minibatch, and gradients are averaged. ``"elbo"`` gives the numbers of a single process up to
    rounding; the other objectives draw paths in every process and agree in distribution. All start
    from the weights of the first process, which alone writes the checkpoint and shows the bar.

    Args:
        model: the model; known parameters stay fixed.
        guide: a guide made from this model.
        data: training sequences, in memory or in a folder.
        objective: ``"elbo"``, ``"iwae"``, ``"rws"`` (reweighted wake-sleep), ``"forward_kl"`` or
            ``"fivo"`` (by a particle filter, for continuous states).
        settings: see ``FitSettings``.
        seed: of starts, batches and noise; torch's global generator is left unchanged.
        heldout: sequences for early stopping; default: a share of ``data``.
        checkpoint: file written during the fit, and continued from if it exists.
        progress: show a progress bar.
        callback: called with the step and the guide, in evaluation mode, every
            ``settings.evaluate_every`` steps, with ``fabric`` in every process; it must not draw
            random numbers.
        fabric: a launched ``lightning.fabric.Fabric``, to share the work among its processes.

    Returns:
        The fitted guide and model, with losses and settings.

    Raises:
        ValueError: a bad argument, or a checkpoint of another fit; before anything is computed.
            From a folder also when values that the model cannot emit are read; names the file.
        NonFiniteLossError: names step, site and sequence; in every process.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> known = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 20.0]
    ... )
    >>> data = known.sample(20, 50, seed=0).data
    >>> model = HiddenMarkovModel(states=2, emission="poisson", ordered=True)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")  # or LSTMFilter(hidden_size=32)
    >>> result = fit(model, guide, data, settings=FitSettings(steps=30), seed=0, progress=False)
    >>> result.fitted.known["rate"].numpy().round()
    array([ 2., 20.])
    """
    settings = settings or FitSettings()
    _check(model, guide, data, objective, heldout, checkpoint)
    processes = Processes(fabric)
    run = _Run(
        guide, data, objective, settings, seed, heldout, checkpoint, progress, callback, processes
    )
    with seeded(seed), warnings.catch_warnings():
        # Pyro warns without naming the site; our error names step, site and sequence.
        warnings.filterwarnings("ignore", message="Encountered (NaN|.*inf)", category=UserWarning)
        result = run.finish()
        for said in result.warnings if processes.first else ():
            warnings.warn(f"fit: {said}", ConvergenceWarning, stacklevel=2)
        return result


def _check(
    model: Model,
    guide: Guide,
    data: Data,
    objective: str,
    heldout: Data | None,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    if not isinstance(guide, Guide):
        raise ValueError(f"guide: must be a guide, for instance a BeliefGuide, got {guide!r}")
    if guide.model is not model:
        raise ValueError(
            f"guide: must be made from the model that is fitted, {model}, got one for {guide.model}"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: must be one of {OBJECTIVES}, got {objective!r}")
    if objective == "fivo" and model.belief.discrete:
        raise ValueError(
            "objective: 'fivo' needs a model of continuous states without discrete ones, "
            f"got {model}"
        )
    if objective != "elbo" and isinstance(guide.filter, ExactFilter) and not model.priors:
        raise ValueError("objective: nothing to fit with ExactFilter and all parameters known")
    if objective in ("rws", "forward_kl") and isinstance(guide.filter, ExactFilter):
        raise ValueError(f"objective: {objective!r} trains a network, got ExactFilter")
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(
            f"checkpoint: needs a file in an existing folder, got {os.fspath(checkpoint)!r}"
        )
    for name, part in ("data", data), ("heldout", heldout):
        if part is None and name == "heldout":
            continue
        if not isinstance(part, Sequences | SequenceFolder):
            raise ValueError(
                f"{name}: must be Sequences or a SequenceFolder, got {type(part).__name__}"
            )
        if isinstance(part, Sequences):  # folders are checked when read
            model.check(part)


class _Run:
    """The state of a fit while it runs."""

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
        self.direct = is_direct(guide, data, objective, settings, heldout)
        self.ended = Ending()
        self.steps = settings.steps
        self.k_hat = math.nan
        self.print = ""
        if self.path is not None:
            plain = dataclasses.asdict(settings) | {"start": repr(settings.start)}
            self.print = fingerprint(guide, data, heldout, objective, plain, seed)
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
        self.model = self.model.adapted_to(self.batches.sample) if self.model.priors else self.model
        self.origin = guide.of(self.model)
        if settings.precision == "single":
            _require_near_zero(self.batches.sample)
            self.origin.precision = torch.float32
        self.started = time.monotonic()
        self.restart_bounds: list[float] = []
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, float]] = []
        self.step = 0
        self.lowest = math.inf
        self.best: dict[str, Tensor] | None = None
        self.start: dict[str, Tensor] = {} if saved is None else saved["start"]
        self.resumed = saved

    def finish(self) -> Fit:
        if self.direct:
            return self._ascend()
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
            self._restore(self.resumed)
        self._loop()
        self._end_at_the_best()
        self.guide.eval()
        self._weigh()
        self._warn_of_dead_states()
        return self._record()

    def _ascend(self) -> Fit:
        """A point estimate by L-BFGS from several starts."""
        settings, model = self.settings, self.model
        if self.resumed is None:
            self.start = self.processes.by_first(partial(self._start, 0))
        self.guide = self.origin.fresh(self.start)
        posterior = self.guide.parameter_posterior
        train = self.batches.train
        assert posterior is not None  # is_direct saw to it
        assert isinstance(train, Sequences)
        shared = self.processes
        prior: Prior = "parameters" if self.guide.uncertainty == "map" else "none"
        space = posterior.coordinates
        landscape = Landscape(model, train, space, prior=prior, processes=shared)
        known = [] if self.resumed is None else self.resumed["answers"]
        bar = tqdm(disable=not self.progress or not shared.first, unit="step", desc="fit ml/map")
        with bar:
            asked = Recorded(landscape, known, self._save_sometimes)
            self.asked = asked
            found = maximise(
                asked,
                model,
                space,
                self.batches.sample,
                prior=prior,
                start=settings.start,
                starts=settings.restarts or number_of_starts(model),
                seed=self.seed,
                steps=settings.steps,
                tolerance=settings.tolerance,
                each=partial(self._after, bar),
            )
        if found is None:
            raise self._not_finite("log density", 0, self.guide)
        self._arrive(found, space)
        self._save()
        self.guide.eval()
        self._warn_of_dead_states()
        return self._record()

    def _after(self, bar: Any, point: Tensor, value: float) -> None:
        """Shows a step, and calls the callback every now and then."""
        self.step += 1
        bar.update()
        bar.set_postfix({"nats per step": f"{value / self.batches.n_steps:.5f}"}, refresh=False)
        if self.callback is not None and self.step % self.settings.evaluate_every == 0:
            self._place(point)
            self.guide.eval()
            with torch.no_grad():
                self.callback(self.step, self.guide)

    def _save_sometimes(self) -> None:
        if len(self.asked.answers) % self.settings.checkpoint_every == 0:
            self._save()

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
            warnings.warn(
                f"fit: the posterior of the parameters is not normal enough: k̂ = {self.k_hat:.2f} "
                f"where {limit:.2f} can be relied on, so that intervals may be too narrow; use "
                f"{other}nuts, or draws corrected by their weights",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _place(self, point: Tensor) -> None:
        posterior = self.guide.parameter_posterior
        assert posterior is not None  # there are unknown parameters
        with torch.no_grad():
            posterior.mean.copy_(point)

    def _arrive(self, found: Ascent, space: Coordinates) -> None:
        steps = self.batches.n_steps
        self._place(found.point)
        self.losses = [-value / steps for value in found.values]
        self.restart_bounds = [height / steps for height in found.heights]
        self.step = len(found.values) - 1
        flat = float(found.gradient.abs().max()) if len(found.gradient) else 0.0
        said = doubts(found, self.model, space)
        self.ended = Ending(found.why, found.why == "converged", flat, found.curvature, said)

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
        """Gives a normal posterior of an exact guide mode and curvature of the posterior itself."""
        guide, sample = self.origin, self.batches.sample
        normal = guide.uncertainty not in POINTS and bool(self.model.priors)
        if not (normal and is_exact(guide) and work(self.model, sample) <= HEAVIEST):
            return
        found = self.processes.by_first(partial(laplace, guide, sample, self.settings, self.seed))
        if found is not None:
            self.guide = guide.fresh(found.values)
            posterior = self.guide.parameter_posterior
            assert posterior is not None  # there are unknown parameters
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
        bar = tqdm(
            total=self.steps,
            initial=self.step,
            disable=not self.progress or not self.processes.first,
            unit="step",
            desc=f"fit {self.objective}",
        )
        with bar:
            while self.step < self.steps and not self._out_of_patience():
                loss = self._differentiate(self.guide, self.optimizer, self.objective, self.step)
                if self._exact and loss < self.lowest:
                    self.lowest = loss
                    self._keep()
                self._descend(self.optimizer, self.step, self.steps)
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
            "step": self.step,
            "start": self.start,
            "answers": self.asked.answers if self.direct else [],
            "guide": self.guide.state_dict(),
            "optimizer": {} if self.direct else self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "best": self.best,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": torch.tensor(self.evaluations, dtype=torch.float64),
            "restart_bounds": torch.tensor(self.restart_bounds, dtype=torch.float64),
        }
        path = self.path
        self.processes.by_first(lambda: write_tensors(path, content))

    def _restore(self, saved: dict[str, Any]) -> None:
        self.guide.load_state_dict(saved["guide"])
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
        if hasattr(self, "guide") and not self.direct:
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
        return self.direct and unconstrained_size(self.model.priors) <= COUNTED

    def _warn_of_dead_states(self) -> None:
        if not self.model.has_paths:
            return  # only discrete states can die
        if not self.model.priors or not self.processes.first:
            return
        nodes = self.model.belief.nodes
        if self.model.tied and nodes is None:
            return  # known states may be rarely visited
        data = self.batches.train[: 4 * self.settings.batch_size]
        with torch.no_grad():
            marginals = self.guide.posterior(self.model.laws(self.guide.median(), data)).mean
        visits = marginals.sum((0, 1)) / marginals.sum() * self.model.states
        if nodes is not None:  # of 2^k states many may well be rare
            _warn_of_still_nodes(visits / self.model.states)
            return
        dead = (visits < DEAD_SHARE).nonzero()[:, 0].tolist()
        if dead:
            warnings.warn(
                f"fit: states {dead} are hardly ever visited; try restarts > 1, another start, or "
                "fewer states",
                stacklevel=4,
            )


FAR = 1000
"""Standard deviations from zero at which float32 keeps four digits of what varies."""


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
        warnings.warn(
            f"fit: nodes {still} hardly ever change; try restarts > 1, another start, or fewer "
            "nodes",
            stacklevel=4,
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
