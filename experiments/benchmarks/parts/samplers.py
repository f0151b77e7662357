"""Whoever samples parameters with the states summed out: this library, and other samplers."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.distributions import biject_to

from ....inference import collapsed, nuts, starting_values
from ....inference.fitting.parallel import Processes
from ....inference.fitting.points.landscape import Landscape
from ....inference.guides.coordinates import Coordinates
from ....models import Model, Sequences

OURS = "beliefzoo"

Array = npt.NDArray[np.float64]

CHAINS = 4


class Task(NamedTuple):
    """A model and data; draws kept of each chain, after as many of warm-up."""

    name: str
    model: Model
    data: Sequences
    draws: int
    seed: int


class Drawn(NamedTuple):
    """Parameters by name, (chains, draws, …), and what they took, compiling included."""

    parameters: Mapping[str, Array]
    seconds: float
    processor_seconds: float


Sampler = Callable[[Task], Mapping[str, Array]]


def timed(sampler: Sampler, task: Task) -> Drawn:
    """What a sampler returns, with its progress bars and warnings held back."""
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        began, spent = time.perf_counter(), time.process_time()
        drawn = sampler(task)
        return Drawn(drawn, time.perf_counter() - began, time.process_time() - spent)


def ours(task: Task) -> Mapping[str, Array]:
    """``nuts`` at its defaults but for the number of draws."""
    found = nuts(
        task.model,
        task.data,
        chains=CHAINS,
        draws=task.draws,
        warmup=task.draws,
        seed=task.seed,
        progress=False,
    )
    return {name: value.numpy() for name, value in found.draws.items()}


def by_pyro(task: Task) -> Mapping[str, Array]:
    """Pyro's NUTS on the program whose states are summed out, chain after chain, from our start."""
    import pyro
    from pyro.infer import MCMC, NUTS

    model = task.model.adapted_to(task.data)
    given, chains = collapsed(model), []
    values = starting_values(model, task.data, seed=task.seed)
    start = {n: biject_to(p.support).inv(values[n].double()) for n, p in model.priors.items()}

    def program(data: Sequences) -> None:
        try:
            given(data)
        except ValueError as error:  # parameters at the edge, where Pyro ends a trajectory
            raise RuntimeError(f"singular: {error}") from error

    for number in range(CHAINS):
        pyro.set_rng_seed(task.seed + number)
        pyro.clear_param_store()
        kernel = NUTS(program, target_accept_prob=0.9, full_mass=True, max_tree_depth=8)
        sampler = MCMC(
            kernel,
            task.draws,
            warmup_steps=task.draws,
            initial_params=start,
            disable_progbar=True,
        )
        sampler.run(task.data)
        chains.append(sampler.get_samples())
    return {name: np.stack([one[name].double().numpy() for one in chains]) for name in model.priors}


def by_nutpie(task: Task) -> Mapping[str, Array]:
    """nutpie's NUTS, given the log density and gradient that ``nuts`` has, as a Python function."""
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    model = task.model.adapted_to(task.data)
    space = Coordinates(model.priors, model.units, starting_values(model, task.data, seed=0))
    seen = Landscape(model, task.data, space, prior="coordinates", processes=Processes(None))

    def density(x: Array) -> tuple[float, Array]:
        heights, slopes = seen(torch.from_numpy(np.array(x)[None]))
        return float(heights[0]), slopes[0].numpy()

    given = from_pyfunc(
        space.size,
        lambda: density,
        lambda *_: lambda x: {"v": np.array(x)},
        [np.dtype(np.float64)],
        [(space.size,)],
        ["v"],
        make_initial_point_fn=lambda seed: (
            0.1 * np.random.default_rng(seed).normal(size=space.size)
        ),
    )
    trace = nutpie.sample(
        given, draws=task.draws, tune=task.draws, chains=CHAINS, seed=task.seed, progress_bar=False
    )
    points = torch.from_numpy(np.asarray(trace.posterior["v"].values))
    return {name: value.numpy() for name, value in space.values(points).items()}


def by_numpyro(task: Task) -> Mapping[str, Array]:
    """numpyro's NUTS on a program of its own, with the same priors, in float64; all four chains are
    vectorised."""
    import jax
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    model = task.model.adapted_to(task.data)
    y = jax.numpy.asarray(task.data.values[0, :, 0].double().numpy())
    program = _level if task.name == "nile" else _counts
    kernel = NUTS(program(model, y), target_accept_prob=0.9, dense_mass=True, max_tree_depth=8)
    sampler = MCMC(
        kernel,
        num_warmup=task.draws,
        num_samples=task.draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    sampler.run(jax.random.PRNGKey(task.seed))
    found = {n: np.asarray(v) for n, v in sampler.get_samples(group_by_chain=True).items()}
    return {name: found[name] for name in model.priors}


def _counts(model: Model, y: Any) -> Callable[[], None]:
    """A Poisson chain with ordered rates."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.distributions import constraints, transforms

    base = model.priors["rate"].base.base_dist  # the law of a rate, before they are ordered
    shape, rate = (float(x.flatten()[0]) for x in (base.concentration, base.rate))
    states = model.states

    def program() -> None:
        initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(states)))
        with numpyro.plate("rows", states):
            moves = numpyro.sample("transition", dist.Dirichlet(jnp.ones(states)))
        free = numpyro.sample("free", dist.ImproperUniform(constraints.real_vector, (), (states,)))
        logs = transforms.OrderedTransform()(free)
        rates = numpyro.deterministic("rate", jnp.exp(logs))
        volume = free[1:].sum() + logs.sum()
        numpyro.factor("prior", dist.Gamma(shape, rate).log_prob(rates).sum() + volume)
        scores = dist.Poisson(rates).log_prob(y[:, None])

        def step(belief: Any, score: Any) -> tuple[Any, None]:
            onward = jax.scipy.special.logsumexp(belief[:, None] + jnp.log(moves), 0)
            return onward + score, None

        belief, _ = jax.lax.scan(step, jnp.log(initial) + scores[0], scores[1:])
        numpyro.factor("evidence", jax.scipy.special.logsumexp(belief))

    return program


def _level(model: Model, y: Any) -> Callable[[], None]:
    """A local level with an exactly diffuse start: its first value is given."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    laws = {name: (float(prior.loc), float(prior.scale)) for name, prior in model.priors.items()}

    def program() -> None:
        noise = {name: numpyro.sample(name, dist.LogNormal(*law)) for name, law in laws.items()}
        seen, moved = noise["observation_variance"], noise["level_variance"]

        def step(belief: Any, value: Any) -> tuple[Any, Any]:
            mean, variance = belief[0], belief[1] + moved
            total = variance + seen
            score = dist.Normal(mean, jnp.sqrt(total)).log_prob(value)
            gain = variance / total
            return (mean + gain * (value - mean), variance * (1 - gain)), score

        _, scores = jax.lax.scan(step, (y[0], seen), y[1:])
        numpyro.factor("evidence", scores.sum())

    return program


SAMPLERS: Mapping[str, tuple[Sampler, str | None]] = {
    OURS: (ours, None),
    "pyro": (by_pyro, None),
    "nutpie": (by_nutpie, "nutpie"),
    "numpyro": (by_numpyro, "numpyro"),
}
"""Each with the package that it needs beside what this library needs."""
