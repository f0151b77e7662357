"""No-U-turn sampling of a model's parameters, with the hidden states summed out exactly.

The reference for approximate posteriors: where it is affordable, it is exact up to the Monte Carlo
error that r̂ and the effective sample size of its draws measure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import (
    require_count,
    require_flag,
    require_jobs,
    require_seed,
    require_share,
)
from ...models.emissions.identified import unconstrained_size
from ...models.randomness import TURNS
from .provenance import versions
from .start import Start, require_start, starting_values, with_settled_names

SMALL = 50
"""Up to so many unconstrained parameters the mass matrix is dense unless told otherwise."""


@boundary
@dataclass(frozen=True)
class NutsSettings:
    """Settings of :func:`nuts`; every value is checked.

    Attributes:
        chains: number of chains, each with its own start and seed.
        draws: draws kept per chain.
        warmup: steps before them, which adapt the step size and the mass matrix.
        start: where the chains start, before noise is added; see ``starting_values``.
        target_accept: mean acceptance that the step size aims at.
        max_tree_depth: a trajectory has at most 2 to the power of this many steps.
        full_mass: dense mass matrix instead of a diagonal one.

    Raises:
        ValueError: a value out of range.

    >>> from beliefzoo.inference import NutsSettings
    >>> settings = NutsSettings(
    ...     chains=4, draws=500, warmup=500, start="kmeans",
    ...     target_accept=0.9, max_tree_depth=8, full_mass=True,
    ... )
    >>> settings.chains * settings.draws
    2000
    """

    chains: int
    draws: int
    warmup: int
    start: Start | Mapping[str, Tensor]
    target_accept: float
    max_tree_depth: int
    full_mass: bool

    def __post_init__(self) -> None:
        for name in ("chains", "draws", "warmup", "max_tree_depth"):
            require_count(getattr(self, name), name)
        require_share(self.target_accept, "target_accept", inside=True)
        require_flag(self.full_mass, "full_mass")
        require_start(self.start)


@dataclass(frozen=True)
class NutsFit:
    """Draws of the parameters from their posterior, float64; made by :func:`nuts`.

    Attributes:
        model: the model.
        draws: of every unknown parameter, (chains, draws, …).
        log_density: log p(θ) + Σ_n log p(y_n | θ) of every draw, (chains, draws) nats.
        divergences: whether the trajectory of a draw diverged, (chains, draws).
        accept: mean acceptance probability after warm-up, (chains,).
        settings, seed: arguments of the run.
        seconds: duration.
        versions: versions of Python and of the packages used.

    >>> from beliefzoo.inference import nuts
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> data = Sequences.from_arrays([[3, 5, 4, 4]])
    >>> found = nuts(model, data, chains=1, draws=5, warmup=5, progress=False)
    >>> found.draws["rate"].shape, found.log_density.shape
    (torch.Size([1, 5, 1]), torch.Size([1, 5]))
    >>> "chains=1, draws=5, divergences=" in repr(found)  # not the draws themselves
    True
    """

    model: Model
    draws: Mapping[str, Tensor]
    log_density: Tensor
    divergences: Tensor
    accept: Tensor
    settings: NutsSettings
    seed: int
    seconds: float
    versions: Mapping[str, str]

    def __repr__(self) -> str:
        chains, draws = self.log_density.shape
        return (
            f"NutsFit({self.model!r}, chains={chains}, draws={draws}, "
            f"divergences={int(self.divergences.sum())})"
        )


@boundary
def nuts(
    model: Model,
    data: Sequences,
    *,
    chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    seed: int = 0,
    start: Start | Mapping[str, Tensor] = "kmeans",
    target_accept: float = 0.9,
    max_tree_depth: int = 8,
    full_mass: bool | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> NutsFit:
    r"""Samples the unknown parameters by the no-U-turn sampler, the states summed out.

    .. math:: p(\theta \mid y) \propto p(\theta) \prod_n p(y_n \mid \theta)

    with the exact evidence and its analytic gradient. Everything is computed in float64, whatever
    the dtype of the model's priors, over coordinates in which no unit counts. Step size and mass
    matrix adapt in the windows of Stan, and begin with the curvature at the start.

    The states of most models can be renamed without changing the posterior, which then has K!
    copies of each mode, and r̂ of the draws is large because chains are in different copies. Build
    the model with ``ordered=True``, or ordered by a parameter, or leave it to ``to_arviz``, which
    brings chains to one labelling. Draws are not relabelled here.

    Args:
        model: with some unknown parameters; known ones stay fixed.
        data: all sequences enter every gradient.
        chains: number of chains; r̂ needs several.
        draws: draws kept per chain.
        warmup: steps before them, for step size and mass matrix.
        seed: each chain is seeded by (seed, chain); torch's global generator is left unchanged.
            Where the density is machine code (chains in closed form, structural models) a chain
            depends neither on ``jobs`` nor on those beside it. Other densities are computed at the
            points of all chains at once, and are rounded by how many there are.
        start: see ``starting_values``; every chain computes it with its own seed and adds normal
            noise on the unconstrained scale, with the local width of the posterior by its curvature
            (at most 1).
        target_accept: acceptance that the step size aims at; raise it if draws diverge.
        max_tree_depth: a trajectory has at most 2^max_tree_depth steps.
        full_mass: dense mass matrix; default: for up to 50 unconstrained parameters.
        jobs: number of processes that share the chains, through ``joblib.Parallel``. Choose the
            backend with ``joblib.parallel_config``; in threads, and in one process, all chains go
            on side by side.
        progress: show a progress bar per process.

    Returns:
        The draws, with diagnostics.

    Raises:
        ValueError: a bad argument, no unknown parameter, data that the model cannot emit, or a
            start at which the density is not finite.

    Source: Hoffman & Gelman (2014), Betancourt (2017).

    >>> from beliefzoo.inference import nuts
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> data = Sequences.from_arrays([[3, 5, 4, 4, 3, 6, 2, 5]])
    >>> found = nuts(model, data, chains=2, draws=30, warmup=30, seed=0, progress=False)
    >>> rate = found.draws["rate"]
    >>> rate.shape, bool(3 < rate.mean() < 5)
    (torch.Size([2, 30, 1]), True)
    """
    _check(model, data, seed, jobs)
    data = model.names.read(data)
    with TURNS:
        model = with_settled_names(model.adapted_to(data), start, "nuts")
    dense = unconstrained_size(model.priors) <= SMALL if full_mass is None else full_mass
    settings = NutsSettings(chains, draws, warmup, start, target_accept, max_tree_depth, dense)
    if isinstance(start, Mapping):
        starting_values(model, data, start, seed=seed)  # raises for unknown names
    started = time.monotonic()
    import joblib  # loaded when first needed, as numba
    from joblib.parallel import get_active_backend

    from .no_u_turn import Chains, joined, side_by_side

    if getattr(get_active_backend()[0], "supports_sharedmem", False):
        jobs = 1  # chains in threads would take turns
    groups = np.array_split(range(chains), min(chains, joblib.effective_n_jobs(jobs)))
    task = joblib.delayed(side_by_side)
    parts: list[Chains] = joblib.Parallel(n_jobs=len(groups))(
        task(model, data, settings, seed, group.tolist(), progress, len(groups) == 1)
        for group in groups
    )
    found = joined(parts, torch.cat)
    return NutsFit(
        model=model,
        draws=found.draws,
        log_density=found.log_density,
        divergences=found.divergences,
        accept=found.accept,
        settings=settings,
        seed=seed,
        seconds=time.monotonic() - started,
        versions=versions(),
    )


def _check(model: Model, data: Sequences, seed: int, jobs: int) -> None:
    if not isinstance(model, Model):
        raise ValueError(f"model: must be a model of beliefzoo.models, got {model!r}")
    if not model.exact:
        raise ValueError(
            "model: needs one whose hidden states can be integrated out exactly (NUTS samples the "
            f"parameters alone), got {model}"
        )
    if not isinstance(data, Sequences):
        raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
    if not model.priors:
        raise ValueError(f"model: nothing to sample, all parameters are known, got {model}")
    require_seed(seed, optional=False)
    require_jobs(jobs, "jobs")
    model.check(data)
