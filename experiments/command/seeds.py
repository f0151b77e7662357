"""Seeds of an experiment, and its figures over them: mean, 95 % interval, what falls short."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from joblib import Parallel, delayed
from scipy import stats

from ...inference.fitting.progress import progress_of
from ...inference.fitting.provenance import code_version
from ...inference.fitting.sweeps import job_key
from ...models.checks import require
from ...models.data.storage import read_json, write_json
from ...models.randomness import one_thread

T = TypeVar("T")
K = TypeVar("K", bound=tuple[object, ...])

Figures = Mapping[str, Any]
"""Results as JSON holds them: numbers, words, lists of these, and mappings of them to any depth."""


class Seeded(Protocol):
    """Settings of an experiment: a dataclass with a seed."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def seed(self) -> int:
        """Of everything."""


@dataclass(frozen=True)
class Repeated:
    """What the settings of an experiment begin with whose fits are repeated over seeds."""

    seed: int = 0
    """Of everything: models, simulations, weights, batches, draws."""
    seeds: int = 5
    """Fits of each kind, which differ in weights and in what they learn from."""
    jobs: int = 1
    """Fits at the same time, one thread each. The numbers do not depend on it."""

    def __post_init__(self) -> None:
        at_least(1, self, "seeds")


@dataclass(frozen=True)
class Resumable:
    """What settings hold of an experiment whose finished fits outlive an interrupted run."""

    kept: str = ""
    """Folder that keeps finished fits for a run that is interrupted, or that adds to them; none if
    empty."""

    # Settings on which no single fit depends: they say how many there are, and where.
    PLAN: ClassVar[tuple[str, ...]] = ("jobs", "kept", "seeds")


def at_least(least: float, settings: Seeded, *names: str) -> None:
    """Raise ``ValueError`` unless these settings are numbers of at least ``least``."""
    for name in names:
        value = getattr(settings, name)
        require(value >= least, name, f"must be >= {least}", value)


def all_counts(settings: Seeded) -> None:
    """Raise ``ValueError`` unless every setting that is a whole number, but the seed, is >= 1."""
    numbers = (field.name for field in fields(settings) if field.name != "seed")
    at_least(1, settings, *(name for name in numbers if type(getattr(settings, name)) is int))


def stream(settings: Seeded, *key: int) -> int:
    """A seed for one purpose, independent of those with another key."""
    return int(np.random.SeedSequence([settings.seed, *key]).generate_state(1)[0])


def over_seeds(
    work: Callable[..., T], plan: Sequence[tuple[object, ...]], *, jobs: int = 1, kept: str = ""
) -> list[T]:
    """``work(*arguments)`` for every entry of the plan, in its order, on one thread each.

    With several ``jobs`` in processes of their own; the results are the same. A bar, or lines,
    show how many are done. What is found in the folder ``kept`` is read there, whatever is computed
    is written there; results are then what JSON holds.
    """
    done = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_single)(work, entry, kept) for entry in plan
    )
    found: list[T] = []
    with progress_of(len(plan), "fit", shown=True) as bar:
        for result in done:
            found.append(result)
            bar.update()
    return found


def each_seed(work: Callable[..., T], settings: Repeated, kinds: Iterable[K]) -> dict[K, list[T]]:
    """``work(settings, *kind, number)`` for every kind and seed: by kind, in the order of seeds."""
    kept = settings.kept if isinstance(settings, Resumable) else ""
    numbers, kinds = range(settings.seeds), list(kinds)
    plan = [(settings, *kind, number) for kind in kinds for number in numbers]
    done = iter(over_seeds(work, plan, jobs=settings.jobs, kept=kept))
    return {kind: [next(done) for _ in numbers] for kind in kinds}


@one_thread()
def _single(work: Callable[..., T], entry: tuple[object, ...], kept: str) -> T:
    if not kept:
        return work(*entry)
    settings, *numbers = entry
    assert isinstance(settings, Resumable)
    own = {name: value for name, value in asdict(settings).items() if name not in settings.PLAN}
    name = f"{work.__module__}.{work.__qualname__}"
    path = Path(kept) / f"{job_key({'settings': own, 'numbers': numbers}, name, '')}.json"
    version = code_version(Path(inspect.getfile(work)))
    if not path.exists():
        found = work(*entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"version": version, "found": found})
    held = read_json(path, {"version": str, "found": object})
    if held["version"] != version:
        # Not refused: hours of work, and most changes have no part in them.
        warnings.warn(f"kept: {path} was computed by other source, {held['version']}", stacklevel=2)
    return held["found"]  # type: ignore[no-any-return]


def interval(values: Sequence[float]) -> list[float]:
    """95 % interval of the mean over seeds, by Student's t; the value itself for one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, mean]
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1))
    half /= math.sqrt(len(values))
    return [mean - half, mean + half]


def summary(each: Sequence[Figures]) -> dict[str, object]:
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


def spread(models: Sequence[Figures]) -> dict[str, Any]:
    """Mean, interval, smallest and largest of every figure over models (each a mean of seeds)."""
    found = {}
    for name, first in models[0].items():
        if isinstance(first, float):
            values = [one[name] for one in models]
            found[name] = {
                "mean": float(np.mean(values)),
                "interval": interval(values),
                "smallest": min(values),
                "largest": max(values),
            }
    return found


def against(figures: Figures, reach: Mapping[str, tuple[str, float]]) -> dict[str, object]:
    """The figures behind what was to be reached and what fell short of it."""
    return {"reach": reach, "not_reached": falls_short(figures, reach), **figures}


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


def above(figures: Mapping[str, Mapping[str, float]], reach: Mapping[str, float]) -> list[str]:
    """What is above the number to reach, in words; nothing if all was reached.

    Args:
        figures: by the name in ``reach``, and by where it was found.
        reach: the most that each may be.
    """
    return [
        f"{name} ({where}): {value:.4g}, reach {reach[name]:g}"
        for name, found in figures.items()
        for where, value in found.items()
        if not value <= reach[name]  # NaN reaches nothing
    ]
