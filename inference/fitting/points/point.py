"""A fit of a point estimate by climbs of the exact evidence."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ....models import Sequences
from ...guides.coordinates import Coordinates
from ..progress import Progress, progress_of
from ..record import Ending, Fit
from ..run import Run
from .ascent import Ascent
from .climb import Prior
from .endings import doubts, too_few
from .landscape import Landscape, Recorded
from .maximum import maximise


class PointRun(Run):
    """The state of such a fit while it runs."""

    redundant = False
    asked_for = 0
    """Evaluations of a climb that were not known from an earlier run."""

    def finish(self) -> Fit:
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
        self.landscape = landscape = Landscape(model, train, space, prior=prior, processes=shared)
        known = [] if self.resumed is None else self.resumed["answers"]
        bar = progress_of(None, "step", shown=self.progress and shared.first, desc="fit ml/map")
        with bar:
            self.asked = asked = Recorded(landscape, known, self._save_sometimes)
            found = maximise(
                asked,
                model,
                space,
                self.batches.sample,
                prior=prior,
                start=settings.start,
                starts=settings.restarts,
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

    def _answers(self) -> list[Tensor]:
        """Heights and gradients that were computed."""
        return self.asked.answers

    def _after(self, bar: Progress, point: Tensor, value: float, steps: int) -> None:
        """Shows steps, and calls the callback every now and then."""
        before, every = self.step, self.settings.evaluate_every
        self.step += steps
        bar.update(steps)
        bar.set_postfix({"nats per step": f"{value / self.batches.n_steps:.5f}"}, refresh=False)
        if self.callback is None:
            return
        for step in range(before - before % every + every, self.step + 1, every):
            self._place(point)
            self.guide.eval()
            with torch.no_grad():
                self.callback(step, self.guide)

    def _save_sometimes(self, evaluations: int) -> None:
        every = self.settings.checkpoint_every
        before, self.asked_for = self.asked_for, self.asked_for + evaluations
        if before // every < self.asked_for // every:
            self._save()

    def _visits(self, data: Sequences) -> Tensor:
        """Expected visits of the states, by machine code of all data where there is some."""
        posterior = self.guide.parameter_posterior
        assert posterior is not None  # there are unknown parameters
        found = self.landscape.visits(posterior.mean.detach())
        return super()._visits(data) if found is None else found

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
        data = self.batches.train
        if found.why == "converged" and isinstance(data, Sequences):
            said += too_few(found, self.model, space, data, self.settings.tolerance)
        self.ended = Ending(found.why, found.why == "converged", flat, found.curvature, said)
