"""No-U-turn sampling of a model's parameters, with the hidden states summed out exactly.

The reference for approximate posteriors: where it is affordable, it is exact up to the Monte Carlo
error that r̂ and the effective sample size of its draws measure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer import NUTS
from pyro.ops.integrator import potential_grad
from torch import Tensor
from torch.distributions import biject_to

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import (
    require_count,
    require_flag,
    require_jobs,
    require_share,
)
from ...models.emissions.emission import Parameters
from ...models.emissions.identified import unconstrained_size
from ...models.priors import in_double
from ...models.randomness import TURNS, one_thread, seeded
from ..queries.evidence import log_evidence
from .points.families import Products
from .progress import Progress, progress_of
from .provenance import versions
from .start import Start, require_start, starting_values, with_settled_names

JITTER = 1.0
"""Standard deviation of the chains' starts, in units of the posterior's width at the start."""

WIDEST = 1.0
"""Largest width that is believed, on the unconstrained scale; flat directions have no other."""

_STEP = 1e-4
"""Of the differences that the curvature is read off."""

SMALL = 50
"""Up to so many unconstrained parameters the mass matrix is dense unless told otherwise."""

_TABLE = 2**22
"""Numbers held at once while the log density of draws is computed."""


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


class _Chain(NamedTuple):
    """The result that a chain returns from its process."""

    draws: dict[str, np.ndarray[Any, np.dtype[np.float64]]]
    log_density: np.ndarray[Any, np.dtype[np.float64]]
    divergences: np.ndarray[Any, np.dtype[np.bool_]]
    accept: float


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
    r"""Samples the unknown parameters with Pyro's NUTS, the states summed out.

    .. math:: p(\theta \mid y) \propto p(\theta) \prod_n p(y_n \mid \theta)

    with the exact evidence and its analytic gradient. Everything is computed in float64, whatever
    the dtype of the model's priors.

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
        seed: each chain is seeded by (seed, chain) and runs on one thread, so that its numbers do
            not depend on ``jobs``; torch's global generator is left unchanged.
        start: see ``starting_values``; every chain computes it with its own seed and adds normal
            noise on the unconstrained scale, with the local width of the posterior by its curvature
            (at most 1).
        target_accept: acceptance that the step size aims at; raise it if draws diverge.
        max_tree_depth: a trajectory has at most 2^max_tree_depth steps.
        full_mass: dense mass matrix; default: for up to 50 unconstrained parameters.
        jobs: number of chains in parallel, through ``joblib.Parallel``. Choose the backend with
            ``joblib.parallel_config``; in threads they run one after the other.
        progress: show a progress bar per chain.

    Returns:
        The draws, with diagnostics.

    Raises:
        ValueError: a bad argument, no unknown parameter, data that the model cannot emit, or a
            start at which the density is not finite.

    Source: Hoffman & Gelman (2014).

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
    import joblib  # loaded when first needed
    from joblib.parallel import get_active_backend

    if getattr(get_active_backend()[0], "supports_sharedmem", False):
        jobs = 1  # chains in threads would take turns
    task = joblib.delayed(_run_chain)
    found: list[_Chain] = joblib.Parallel(n_jobs=jobs)(
        task(model, data, settings, seed, chain, progress, jobs != 1) for chain in range(chains)
    )
    return NutsFit(
        model=model,
        draws={name: _stack([chain.draws[name] for chain in found]) for name in model.priors},
        log_density=_stack([chain.log_density for chain in found]),
        divergences=_stack([chain.divergences for chain in found]),
        accept=torch.tensor([chain.accept for chain in found], dtype=torch.float64),
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
    require_count(seed, "seed", 0)
    require_jobs(jobs, "jobs")
    model.check(data)


def _stack(parts: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack(parts))


class _Target:
    """The collapsed posterior in the kernel's coordinates x.

    θ = transform(z), z = centre + width ∘ x: the unconstrained scale, centred at the start and
    scaled to unit curvature there, found in steps of the model's units. Without it the mass
    matrix, initially the identity, would make warm-up cost several times more than all the rest.
    """

    def __init__(self, model: Model, data: Sequences, start: Parameters) -> None:
        self.model = model
        self.data = data
        self.priors = {name: in_double(prior) for name, prior in model.priors.items()}
        self.transforms = {name: biject_to(prior.support) for name, prior in self.priors.items()}
        self.centre = {
            name: transform.inv(start[name].double()) for name, transform in self.transforms.items()
        }
        for name, value in self.centre.items():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"start[{name!r}]: needs values inside the support "
                    f"{self.priors[name].support}, got {start[name].tolist()}"
                )
        self.products = Products.of(model, data, {n: start[n].double() for n in self.priors})
        self.width = {name: model.units[name] for name in self.centre}
        self.width = self._widths()

    def constrain(self, x: Parameters) -> dict[str, Tensor]:
        """Parameters at coordinates with or without leading axes of draws."""
        return {name: self.transforms[name](z) for name, z in self._stretched(x).items()}

    def log_density(self, values: Parameters) -> Tensor:
        """log p(θ) + Σ_n log p(y_n | θ); ``values`` may have leading axes of draws."""
        prior = torch.stack([self.priors[name].log_prob(v) for name, v in values.items()]).sum(0)
        if self.products is not None:
            several = {name: v if prior.ndim else v.unsqueeze(0) for name, v in values.items()}
            density = prior + self.products.log_evidence(several).reshape(prior.shape)
            if bool(density.isfinite().all()):
                return density
        laws = self.model.laws(values, self.data)
        return prior + log_evidence(laws).sum(-1)

    def potential(self, x: Parameters) -> Tensor:
        """−log density of the coordinates, up to a constant."""
        stretched = self._stretched(x)
        values = {name: self.transforms[name](z) for name, z in stretched.items()}
        try:
            density = self.log_density(values)
        except ValueError as error:
            # The start was valid, so an error comes only from values at the edge of the support (a
            # reducible chain or singular covariance in float64). Pyro ends a trajectory at an error
            # that says "singular".
            raise RuntimeError(f"singular: {error}") from error
        for name, z in stretched.items():
            density = density + self.transforms[name].log_abs_det_jacobian(z, values[name]).sum()
        return -density

    def densities(self, draws: Parameters) -> Tensor:
        """``log_density`` of many draws, a few at a time."""
        count = len(next(iter(draws.values())))
        if not self.model.draws_together:
            each = ({name: v[draw] for name, v in draws.items()} for draw in range(count))
            return torch.stack([self.log_density(values) for values in each])
        table = len(self.data) * self.data.max_length * self.model.states
        size = max(1, _TABLE // table)
        parts = [
            self.log_density({name: v[first : first + size] for name, v in draws.items()})
            for first in range(0, count, size)
        ]
        return torch.cat(parts)

    def _stretched(self, x: Parameters) -> dict[str, Tensor]:
        return {name: self.centre[name] + self.width[name] * x[name] for name in self.centre}

    def _widths(self) -> dict[str, Tensor]:
        """1 / √curvature along every coordinate, by one difference of gradients each."""
        origin = {name: torch.zeros_like(value) for name, value in self.centre.items()}
        here, _ = potential_grad(self.potential, origin)
        widths = {}
        for name, zero in origin.items():
            unit = self.width[name]
            curvature = torch.empty(zero.shape, dtype=zero.dtype)
            for index in range(zero.numel()):
                moved = zero.clone(memory_format=torch.contiguous_format)
                moved.view(-1)[index] = _STEP
                there, _ = potential_grad(self.potential, {**origin, name: moved})
                difference = (there[name] - here[name]).reshape(-1)[index]
                curvature.view(-1)[index] = difference / _STEP
            believed = curvature > WIDEST**-2  # False for NaN
            widths[name] = unit * torch.where(believed, curvature, WIDEST**-2).rsqrt()
        return widths


def _run_chain(
    model: Model,
    data: Sequences,
    settings: NutsSettings,
    seed: int,
    number: int,
    progress: bool,
    beside_others: bool,
) -> _Chain:
    """One chain; a function of (seed, number) alone, independent of the process."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0])
    bar = progress_of(
        settings.warmup + settings.draws,
        "step",
        shown=progress,
        desc=f"chain {number}",
        position=number if beside_others else None,
    )
    with bar, TURNS, one_thread(), seeded(own), pyro.validation_enabled(False):
        target = _Target(model, data, starting_values(model, data, settings.start, seed=own))
        kernel = NUTS(
            potential_fn=target.potential,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            full_mass=settings.full_mass,
        )
        kernel.initial_params = _start(target)
        return _sample(kernel, target, settings, bar)


def _start(target: _Target) -> dict[str, Tensor]:
    """The start plus noise, reduced where the density is not finite."""
    noise = {name: torch.randn_like(value) for name, value in target.centre.items()}
    scales = [*(JITTER / 2**halvings for halvings in range(8)), 0.0]
    for scale in scales:
        x = {name: scale * value for name, value in noise.items()}
        if bool(target.log_density(target.constrain(x)).isfinite()):
            return x
    values = {name: value.tolist() for name, value in target.constrain(x).items()}
    raise ValueError(f"start: the density of parameters and data must be finite, not at {values}")


def _sample(kernel: NUTS, target: _Target, settings: NutsSettings, bar: Progress) -> _Chain:
    kernel.setup(settings.warmup)
    x = kernel.initial_params
    kept: list[dict[str, Tensor]] = []
    for step in range(settings.warmup + settings.draws):
        x = kernel.sample(x)
        if step >= settings.warmup:
            kept.append(x)
        if bar.update():
            bar.set_postfix(kernel.logging(), refresh=False)
    diverged = np.zeros(settings.draws, dtype=np.bool_)
    diverged[kernel.diagnostics()["divergences"]] = True
    with torch.no_grad():
        stacked = {name: torch.stack([x[name].detach() for x in kept]) for name in target.priors}
        draws = target.constrain(stacked)
        density = target.densities(draws)
    accept = float(kernel.logging()["acc. prob"])  # the mean that Pyro shows, three digits
    return _Chain({n: v.numpy() for n, v in draws.items()}, density.numpy(), diverged, accept)
