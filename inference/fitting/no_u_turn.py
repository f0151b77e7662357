"""Chains of the no-U-turn sampler over unit-free coordinates, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.randomness import TURNS, one_thread, seeded
from ..guides.coordinates import Coordinates
from .no_u_turn_machine import (
    CHOICES,
    COLLECTED,
    DONE,
    MARKS,
    MEAN_ACCEPTED,
    POINT,
    RENEWED,
    SINGLES,
    SLOPE,
    STEP,
    STEP_ONLY,
    USED,
    Chain,
    factor,
    tell,
)
from .nuts import NutsSettings
from .parallel import Processes
from .points.landscape import Landscape
from .progress import progress_of
from .start import starting_values

JITTER = 1.0
"""Standard deviation of the chains' starts, in units of the posterior's width at the start."""

WIDEST = 1.0
"""Largest width that is believed before there are draws; flat directions have no other."""

_CHANGE = 1e-4
"""Of a coordinate, over which the slopes are compared that the curvature is read off."""

_TOGETHER = 256
"""Points whose slopes are asked for at once."""

_FIRST, _WINDOW, _LAST = 75, 25, 50
"""Steps of the warm-up before the first window, of that window, and after the last one (Stan)."""

_SHOWN = 25
"""Steps of all chains between two looks at how far they are."""

_NOISE = 4096
"""Numbers of its generator that a chain takes at once."""


class Walker(NamedTuple):
    """A chain, and what draws its noise."""

    chain: Chain
    generator: np.random.Generator

    @property
    def full(self) -> bool:
        """Whether there is noise for a step."""
        left = self.chain.noise.shape[1] - float(self.chain.singles[USED])
        return bool(left >= self.chain.vectors.shape[1] + CHOICES)

    def ready(self) -> None:
        """Draws new noise unless there is enough."""
        chain = self.chain
        if not self.full:
            chain.noise[0] = self.generator.random(chain.noise.shape[1])
            chain.noise[1] = self.generator.standard_normal(chain.noise.shape[1])
            chain.singles[USED] = 0


class Widths(NamedTuple):
    """The posterior near a start as a normal law.

    Args:
        covariance: of the coordinates, (P, P); of one row if only its diagonal counts.
        root: its lower Cholesky factor, or the square roots of the diagonal.
    """

    covariance: Tensor
    root: Tensor

    @classmethod
    def at(cls, landscape: Landscape, start: Tensor, dense: bool) -> Widths:
        """Read off the curvature at a start (P,), by one difference of slopes a coordinate."""
        _, here = landscape(start[None])
        rows = []
        for places in torch.arange(len(start)).split(_TOGETHER):
            moved = start.repeat(len(places), 1)
            moved[torch.arange(len(places)), places] += _CHANGE
            heights, slopes = landscape(moved)
            found = (here - slopes) / _CHANGE
            found = torch.where(heights[:, None].isfinite(), found, WIDEST**-2)
            rows.append(found if dense else found.gather(-1, places[:, None]))
        curvature = torch.cat(rows)
        if not dense:
            variances = curvature[:, 0].clamp_min(WIDEST**-2).reciprocal()[None]
            return cls(variances, variances.sqrt())
        sizes, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.mT))
        covariance = (vectors / sizes.clamp_min(WIDEST**-2)) @ vectors.mT
        covariance, root = covariance.contiguous(), torch.zeros_like(covariance)
        factor(covariance.numpy(), root.numpy())
        return cls(covariance, root)

    def times(self, noise: Tensor) -> Tensor:
        """Standard normal noise (P,) with these widths."""
        return self.root[0] * noise if len(self.root) == 1 < len(noise) else self.root @ noise


def plan_of(warmup: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """What every step of the warm-up does, (W,): windows for the metric that double in length.

    >>> plan_of(150).nonzero()[0][[0, -1]].tolist(), (plan_of(500) == RENEWED).nonzero()[0].tolist()
    ([75, 99], [99, 149, 249, 449])
    """
    plan = np.full(warmup, STEP_ONLY, dtype=np.int64)
    first, last, window = _FIRST, _LAST, _WINDOW
    if warmup < first + last + window:
        first, last = int(0.15 * warmup), int(0.1 * warmup)
        window = warmup - first - last
    if warmup < 20:
        return plan
    begin = first
    while begin < warmup - last:
        end = begin + window
        if end + 2 * window > warmup - last:
            end = warmup - last
        plan[begin:end], plan[end - 1] = COLLECTED, RENEWED
        begin, window = end, 2 * window
    return plan


def walker_at(
    start: Tensor,
    widths: Widths,
    generator: np.random.Generator,
    *,
    warmup: int,
    draws: int,
    depth: int,
    target: float,
) -> Walker:
    """A new chain.

    Args:
        start: where it begins, (P,).
        widths: its first metric.
        generator: its own.
        warmup, draws: numbers of steps.
        depth: a trajectory has at most 2^depth steps.
        target: mean acceptance that the step size aims at.
    """
    size = len(start)
    vectors = np.zeros((MARKS + 2 * depth, size))
    vectors[POINT] = start.numpy()
    singles = np.zeros(SINGLES)
    singles[USED] = np.inf  # there is no noise yet
    chain = Chain(
        vectors=vectors,
        singles=singles,
        covariance=widths.covariance.numpy().copy(),
        root=widths.root.numpy().copy(),
        mean=np.zeros(size),
        squares=np.zeros(tuple(widths.root.shape)),
        draws=np.zeros((draws, size)),
        told=np.zeros((draws, 2)),
        plan=plan_of(warmup),
        depth=depth,
        target=target,
        noise=np.empty((2, _NOISE + size)),
    )
    return Walker(chain, generator)


def run(
    landscape: Landscape, walkers: Sequence[Walker], each: Callable[[int, float], None]
) -> None:
    """Move chains on to their ends.

    Args:
        landscape: the log posterior of the coordinates.
        walkers: the chains, which are changed.
        each: called with the steps of all chains since the last time, and a step size.
    """
    chains = [walker.chain for walker in walkers]
    steps, taken = len(chains[0].plan) + len(chains[0].draws), 0
    for until in [*range(_SHOWN, steps, _SHOWN), steps]:
        _advance(landscape, walkers, until)
        done = int(sum(chain.singles[DONE] for chain in chains))
        each(done - taken, float(chains[0].singles[STEP]))
        taken = done


def _advance(landscape: Landscape, walkers: Sequence[Walker], until: int) -> None:
    """Move chains on until each has taken so many steps."""
    while waiting := [one for one in walkers if one.chain.singles[DONE] < until]:
        for one in waiting:
            one.ready()
        if landscape.climbs:
            landscape.walk([one.chain for one in waiting], until)
            waiting = [one for one in waiting if one.chain.singles[DONE] < until and one.full]
            if not waiting:
                continue
        points = torch.from_numpy(np.stack([one.chain.vectors[POINT] for one in waiting]))
        heights, slopes = (x.numpy() for x in landscape(points))
        for one, height, slope in zip(waiting, heights, slopes, strict=True):
            one.chain.vectors[SLOPE] = slope
            tell(one.chain, float(height))


class Chains(NamedTuple):
    """Chains at their end; the leading axis is theirs."""

    draws: dict[str, Tensor]
    log_density: Tensor
    divergences: Tensor
    accept: Tensor


def side_by_side(
    model: Model,
    data: Sequences,
    settings: NutsSettings,
    seed: int,
    numbers: list[int],
    shown: bool,
    alone: bool,
) -> Chains:
    """Some of the chains; ``alone``: in the only process."""
    first, last = numbers[0], numbers[-1]
    bar = progress_of(
        len(numbers) * (settings.warmup + settings.draws),
        "step",
        shown=shown,
        desc=f"chain {first}" if first == last else f"chains {first} to {last}",
        position=None if alone else first,
    )
    with (
        bar,
        TURNS,
        nullcontext() if alone else one_thread(),
        pyro.validation_enabled(False),
    ):
        landscape = landscape_of(model, data, settings, seed)
        walkers = [_walker(landscape, data, settings, seed, number) for number in numbers]

        def each(steps: int, size: float) -> None:
            if bar.update(steps):
                bar.set_postfix({"step size": f"{size:.2e}"}, refresh=False)

        run(landscape, walkers, each)
        return _read(landscape.coordinates, walkers)


def _own_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed % 2**64, number]).generate_state(1, np.uint32)[0])


def landscape_of(model: Model, data: Sequences, settings: NutsSettings, seed: int) -> Landscape:
    """The log posterior of the coordinates, whose centre is the start of the first chain."""
    first = starting_values(model, data, settings.start, seed=_own_seed(seed, 0))
    space = Coordinates(model.priors, model.units, first)
    return Landscape(model, data, space, prior="coordinates", processes=Processes(None))


def _walker(
    landscape: Landscape, data: Sequences, settings: NutsSettings, seed: int, number: int
) -> Walker:
    """A chain at its own start plus noise, which is reduced where the density is not finite."""
    space, own = landscape.coordinates, _own_seed(seed, number)
    with seeded(own):
        values = starting_values(landscape.model, data, settings.start, seed=own)
    start = space.at({name: values[name] for name in space.slices})
    widths = Widths.at(landscape, start, settings.full_mass)
    generator = np.random.default_rng(own)
    noise = widths.times(torch.from_numpy(generator.standard_normal(space.size)))
    scales = torch.tensor([*(JITTER / 2**halvings for halvings in range(8)), 0.0])
    tried = start + scales[:, None].double() * noise
    inside = landscape(tried)[0].isfinite()
    if not bool(inside.any()):
        at = {name: value.tolist() for name, value in space.values(start).items()}
        raise ValueError(f"start: the density of parameters and data must be finite, not at {at}")
    return walker_at(
        tried[int(inside.int().argmax())],
        widths,
        generator,
        warmup=settings.warmup,
        draws=settings.draws,
        depth=settings.max_tree_depth,
        target=settings.target_accept,
    )


def _read(space: Coordinates, walkers: Sequence[Walker]) -> Chains:
    """Draws of the parameters, and their density: the height is that of the coordinates."""
    parts = []
    for chain in (one.chain for one in walkers):
        points, told = torch.from_numpy(chain.draws), torch.from_numpy(chain.told)
        draws = space.values(points)
        volume = torch.stack(list(space.log_jacobians(points, draws).values())).sum(0)
        accept = torch.tensor(float(chain.singles[MEAN_ACCEPTED]), dtype=torch.float64)
        parts.append(Chains(draws, told[:, 0] - volume, told[:, 1] > 0, accept))
    return joined(parts, torch.stack)


def joined(parts: list[Chains], join: Callable[[list[Tensor]], Tensor]) -> Chains:
    """The chains of several parts."""
    names = parts[0].draws
    return Chains(
        {name: join([one.draws[name] for one in parts]) for name in names},
        join([one.log_density for one in parts]),
        join([one.divergences for one in parts]),
        join([one.accept for one in parts]),
    )
