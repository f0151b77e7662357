"""Fitting a model and its guide together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from ...models import Model, SequenceFolder, Sequences
from ...models.boundary import boundary
from ...models.checks import require, warn
from ...models.data.folders import Data
from ...models.randomness import TURNS, seeded
from ..arviz_groups import ConvergenceWarning
from ..filters.slot import ExactFilter
from ..guides.guide import Guide
from .objectives import OBJECTIVES, Objective
from .parallel import Fabric, Processes
from .points.direct import (
    is_direct,
)
from .points.point import PointRun
from .record import Fit
from .run import Run
from .settings import FitSettings


@boundary
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

    The guide passed in is not changed; the fitted one is in the result. The same guide and seed
    give the same numbers, also when an interrupted fit is continued from its checkpoint. The first
    weights of a network are drawn when its guide is made: call ``torch.manual_seed`` before.

    Nothing depends on the unit of the data: parameters are fitted in coordinates of order one, and
    settings of priors that you left at their defaults are read off the training data (see
    ``Model.adapted_to``; ``Fit.model`` has these priors). Parameters and laws are in float64, so
    that data far from zero keep their digits.

    Of a ``SequenceFolder`` only one minibatch is in memory at a time, besides the sample for
    starting values and scales (``SequenceFolder.sample``) and the held-out sequences. If these hold
    all sequences, the numbers equal those of a fit of the same data in memory.

    Fits in several threads take turns, and get the same numbers as alone.

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
            random numbers, nor wait for another thread that does.
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
    settings = FitSettings() if settings is None else settings
    if not isinstance(settings, FitSettings):
        raise ValueError(f"settings: must be FitSettings, got {settings!r}")
    _check(model, guide, data, objective, heldout, checkpoint)
    fits = callback is None or callable(callback)
    require(fits, "callback", "must be a function of step and guide, or None", repr(callback))
    processes = Processes(fabric)
    kind = PointRun if is_direct(guide, data, objective, settings, heldout) else Run
    with TURNS:
        run = kind(
            *(guide, data, objective, settings, seed),
            *(heldout, checkpoint, progress, callback, processes),
        )
        with seeded(seed), warnings.catch_warnings():
            # Pyro warns without naming the site; our error names step, site and sequence.
            said = "Encountered (NaN|.*inf)"
            warnings.filterwarnings("ignore", message=said, category=UserWarning)
            result = run.finish()
    for said in result.warnings if processes.first else ():
        warn(f"fit: {said}", ConvergenceWarning)
    return result


def _check_guide(model: Model, guide: Guide) -> None:
    if not isinstance(guide, Guide):
        raise ValueError(f"guide: must be a guide, for instance a BeliefGuide, got {guide!r}")
    if guide.model is not model:
        came = f"one for {guide.model}"
        if repr(guide.model) == repr(model):
            came = (
                "one for another object that looks alike, whose priors or known values may differ: "
                "fit(guide.model, guide, …) fits that one"
            )
        raise ValueError(f"guide: must be made from the model that is fitted, {model}, got {came}")


def _check(
    model: Model,
    guide: Guide,
    data: Data,
    objective: str,
    heldout: Data | None,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    _check_guide(model, guide)
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
    if checkpoint is not None:
        path = Path(checkpoint).absolute()
        fits = path.parent.is_dir() and not path.is_dir()
        require(
            fits, "checkpoint", "needs a file in an existing folder", repr(os.fspath(checkpoint))
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
