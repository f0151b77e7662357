"""`beliefzoo compile`: make all machine code ahead, so that no first call waits for it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...models import Model

STEPS = 30
"""Of the sequences that are fitted: what is compiled does not depend on their length."""


def compile_all() -> None:
    """Call everything that has machine code, in processes of their own, and say how long it took.

    >>> from beliefzoo.experiments.command.compiling import GROUPS
    >>> list(GROUPS)
    ['chains', 'linear models']
    """
    started = time.perf_counter()
    print("compiling, once an installation; it takes a minute or two", flush=True)
    processes = min(len(GROUPS), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(_compile, GROUPS))  # what failed is raised here
    print(f"ready after {time.perf_counter() - started:.0f} s")


def _compile(group: str) -> None:
    last = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that are cut short on purpose
        for name in GROUPS[group]():
            now = time.perf_counter()
            print(f"  {group}: {name}, {now - last:.1f} s", flush=True)
            last = now


def _chains() -> Iterator[str]:
    """Use chains of discrete states in every way; yields what was done."""
    from ...models import ContinuousTimeHMM, HiddenMarkovModel, LabelledHMM

    yield from _uses("counts", HiddenMarkovModel(2, "poisson"))
    yield from _uses("reals", HiddenMarkovModel(2, "gaussian"))
    yield from _uses("moves by symbols", LabelledHMM(2, 2))
    yield from _uses("continuous time", ContinuousTimeHMM(2, "gaussian"))


def _linear() -> Iterator[str]:
    """Use linear-Gaussian models in every way; yields what was done."""
    from ...models import LinearDynamics, LinearEmission, LinearGaussianSSM, LocalLevel

    yield from _uses("a level", LinearGaussianSSM(LocalLevel()))
    two = LinearGaussianSSM(LinearDynamics(2), emission=LinearEmission(2))
    yield from _uses("two features", two, features=2)


GROUPS: dict[str, Callable[[], Iterator[str]]] = {"chains": _chains, "linear models": _linear}


def _uses(name: str, model: Model, features: int = 1) -> Iterator[str]:
    """Fit the model, with the exact filter and with an LSTM, and ask every query."""
    import torch

    from ... import inference as calls
    from ...models import HiddenMarkovModel, Sequences

    values = torch.randn(STEPS, features, generator=torch.Generator().manual_seed(0)) > 0
    times = [torch.arange(STEPS).double()] if model.timed else None
    data = Sequences.from_arrays([values.double()], times=times)
    settings = calls.FitSettings(steps=2)
    exact = calls.BeliefGuide(model, calls.ExactFilter(), parameters="ml")
    found = calls.fit(model, exact, data, settings=settings, seed=0, progress=False).fitted
    yield f"point estimate, {name}"
    network = calls.BeliefGuide(model, calls.LSTMFilter(4))
    calls.fit(model, network, data, settings=settings, seed=0, progress=False)
    yield f"LSTM beside it, {name}"
    for query in (calls.filter, calls.predict, calls.smooth):
        query(found, data)
    calls.sample_states(found, data, seed=0)
    later = times and torch.tensor([[STEPS, STEPS + 1.0]]).double()
    calls.forecast(found, data, steps=2, times=later)
    if isinstance(found, HiddenMarkovModel):
        calls.most_likely_states(found, data)
    yield f"queries, {name}"
    calls.nuts(model, data, chains=1, draws=1, warmup=1, progress=False)
    yield f"draws by NUTS, {name}"
