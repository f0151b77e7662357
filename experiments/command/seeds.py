"""Seeds of an experiment, and its figures over them: mean, 95 % interval, what falls short."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from joblib import Parallel, delayed
from scipy import stats
from tqdm import tqdm

from ...models.randomness import one_thread

Figures = Mapping[str, Any]


class Seeded(Protocol):
    """Settings of an experiment."""

    @property
    def seed(self) -> int:
        """Of everything."""


def stream(settings: Seeded, *key: int) -> int:
    """A seed for one purpose, independent of those with another key."""
    return int(np.random.SeedSequence([settings.seed, *key]).generate_state(1)[0])


def over_seeds(
    work: Callable[..., Any], plan: Sequence[tuple[Any, ...]], *, jobs: int = 1
) -> list[Any]:
    """``work(*arguments)`` for every entry of the plan, in its order, on one thread each.

    With several ``jobs`` in processes of their own; the results are the same. On a terminal a bar
    shows how many are done.
    """
    done = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_single)(work, entry) for entry in plan
    )
    return list(tqdm(done, total=len(plan), unit="fit", disable=None))


@one_thread()
def _single(work: Callable[..., Any], entry: tuple[Any, ...]) -> Any:
    return work(*entry)


def interval(values: Sequence[float]) -> list[float]:
    """95 % interval of the mean over seeds, by Student's t; the value itself for one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, mean]
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1))
    half /= math.sqrt(len(values))
    return [mean - half, mean + half]


def summary(each: Sequence[Figures]) -> dict[str, Any]:
    """Mean, interval and single values of every figure of the seeds' (nested) figures.

    A figure ``kl`` becomes ``kl``, ``kl_interval`` and ``kl_by_seed``; what is no number is taken
    from the first seed.
    """
    out: dict[str, Any] = {}
    for name, first in each[0].items():
        values = [one[name] for one in each]
        if isinstance(first, Mapping):
            out[name] = summary(values)
        elif isinstance(first, bool) or not isinstance(first, int | float):
            out[name] = first
        else:
            numbers = [float(value) for value in values]
            out[name] = float(np.mean(numbers))
            out[f"{name}_interval"] = interval(numbers)
            out[f"{name}_by_seed"] = numbers
    return out


def falls_short(figures: Figures, reach: Mapping[str, tuple[str, float]]) -> list[str]:
    """What fell short, in words; nothing if all was reached.

    ``reach`` maps the dotted path of a figure to ``("<=", most)`` or ``(">=", least)``.
    """
    short = []
    for path, (sense, bound) in reach.items():
        value: Any = figures
        for key in path.split("."):
            value = value[key]
        reached = value <= bound if sense == "<=" else value >= bound
        if not reached:  # NaN reaches nothing
            short.append(f"{path}: {value:.4g}, set was {sense} {bound:g}")
    return short
