"""The command `beliefzoo sweep NAME`: an experiment over a grid of settings and over seeds."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import os
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import joblib
import tyro

from ...inference.arviz_groups import write
from ...inference.fitting.plain import plain
from ...inference.fitting.provenance import code_version
from ...inference.fitting.sweeps import FailedJob, Sweep, job_key, sweep
from ...models.data.storage import read_json, write_json
from ..data import loaders as data
from .catalogue import Experiment, Flag, load, printable
from .folders import check_folder
from .report import save_drawing, versions
from .sweep_table import MOST_ROWS, Point, chosen, draw, label, point, table

_TABLE, _DRAWING, _POSTERIORS = "sweep.json", "sweep", "posteriors"

Parse = Callable[[str], Any]


@dataclass(frozen=True)
class SweepCommand:
    """Every combination of the values, once a seed.

    What has its result in the folder is not computed again: a sweep that was interrupted goes on,
    and more seeds or values only add to it.
    """

    out: Path
    """Folder to write to; it may hold an earlier sweep of the same experiment."""
    seeds: str = "0:10"
    """a:b for a, a + 1, … b − 1; a list a,b,c; or one number."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=VALUE,VALUE,… to vary one; give --set again for the next. Parts of a value that has
    several are joined by colons."""
    jobs: int = 1
    """Jobs at the same time; -1 for all cores. No number depends on it."""
    backend: Literal["loky", "threading", "dask", "ray"] = "loky"
    """Where they run: in processes; in threads, where they take turns; on Dask; on Ray."""
    scheduler: str | None = None
    """Address of a Dask or Ray cluster, all of which is used; without it one of so many workers is
    started on this machine."""
    chunk: int | None = None
    """Jobs that are sent to a worker at once; chosen by their number if not given."""
    figures: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Pattern of the figures to print and draw, such as *gap*; by default those that differ."""
    keep_posteriors: Flag = False
    """Write the posterior of every job too."""
    code_version: str | None = None
    """Take results of the same text here, whatever changed in the source since."""
    smoke: Flag = False
    """Vary about settings with which a job takes seconds; the figures mean nothing."""


@dataclass(frozen=True)
class _Grid:
    """What is asked for: base settings, values of the varied ones, seeds; and the jobs of it."""

    base: Any
    varied: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    @property
    def points(self) -> list[dict[str, object]]:
        values = itertools.product(*self.varied.values())
        return [dict(zip(self.varied, combination, strict=True)) for combination in values]

    def settings(self, at: Mapping[str, Any], seed: int) -> dict[str, object]:
        """All settings of a job.

        Raises:
            ValueError: from the experiment, for values that do not go together.
        """
        return dataclasses.asdict(dataclasses.replace(self.base, **at, seed=seed))


def run_sweep(name: str, arguments: Sequence[str]) -> int:
    """Check everything, run, write, print.

    Returns:
        The exit status: 0, or 1 if jobs failed.

    Raises:
        ValueError: bad input, before anything is run or written.
    """
    import matplotlib

    matplotlib.use("agg")
    experiment = load(name)
    command = tyro.cli(
        SweepCommand,
        prog=f"beliefzoo sweep {name}",
        args=list(arguments),
        default=SweepCommand(out=Path("runs") / "sweeps" / name),
    )
    _check(command, name)
    grid = _grid(name, experiment, command)
    version = command.code_version or code_version(*_sources(experiment))
    title = f"experiment {name}"
    jobs = [
        {"experiment": name, "settings": grid.settings(at, seed)}
        for seed in grid.seeds  # outermost: an interrupted sweep has few seeds of all points
        for at in grid.points
    ]
    keys = [job_key(job, title, version) for job in jobs]
    posteriors = _posteriors(command, keys)
    with _backend(command):
        if posteriors is not None:
            posteriors.mkdir(parents=True, exist_ok=True)
            for left in posteriors.glob(".unfinished-*"):  # by a killed worker
                shutil.rmtree(left, ignore_errors=True)
        found = sweep(
            functools.partial(run_job, title=title, version=version, posteriors=posteriors),
            jobs,
            command.out,
            name=title,
            version=version,
            workers=command.jobs if command.scheduler is None else -1,
            chunk=command.chunk,
        )
    return _finish(name, command, grid, found)


def run_job(
    job: Mapping[str, Any], *, title: str, version: str, posteriors: Path | None
) -> dict[str, object]:
    """In the worker: one run of an experiment, its progress bars silenced, its warnings kept."""
    import matplotlib

    matplotlib.use("agg")
    experiment = load(job["experiment"])
    settings = experiment.Settings(**job["settings"])
    silence = io.StringIO()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        outcome = experiment.run(settings)
    figures = plain(outcome.figures, "figures")
    if posteriors is not None:
        write(outcome.posterior, posteriors / f"{job_key(job, title, version)}.nc")
    said = dict.fromkeys(f"{one.category.__name__}: {one.message}" for one in caught)
    return {"figures": figures, "warnings": list(said)}


def _sources(experiment: Experiment) -> list[Path]:
    """What the figures of an experiment come from, beside the library itself."""
    own = Path(str(sys.modules[experiment.Settings.__module__].__file__))
    here = Path(__file__)
    shared = sorted((here.parents[1] / "parts").glob("*.py"))
    return [own, Path(data.__file__), here.with_name("seeds.py"), *shared]


def _check(command: SweepCommand, name: str) -> None:
    if command.jobs == 0:
        raise ValueError("jobs must be a whole number other than 0 (-1: all cores); got 0")
    if command.chunk is not None and command.chunk < 1:
        raise ValueError(f"chunk must be a whole number >= 1; got {command.chunk}")
    if command.scheduler is not None and command.backend not in ("dask", "ray"):
        raise ValueError(f"scheduler goes with the backends dask and ray; got {command.backend}")
    out = command.out
    if not out.is_dir():
        check_folder(out, force=True)
        return
    if not os.access(out, os.W_OK):
        raise ValueError(f"out must be a folder that can be written to; {out} is not")
    if (out / _TABLE).exists():
        held = _experiment_of(out / _TABLE)
        if held != name:
            raise ValueError(f"out must not hold the sweep of another experiment; {out}: {held}")
    elif any(out.iterdir()) and not (out / "jobs").is_dir():
        raise ValueError(f"out must be empty or hold an earlier sweep; {out} holds other files")


def _experiment_of(path: Path) -> object:
    try:
        return read_json(path, {"experiment": str})["experiment"]
    except ValueError as error:
        raise ValueError(f"out must hold a {_TABLE} that can be read; {path}: {error}") from error


def _posteriors(command: SweepCommand, keys: Sequence[str]) -> Path | None:
    """Where posteriors go, if they are kept: then no job may have its figures alone."""
    if not command.keep_posteriors:
        return None
    folder = command.out.absolute() / _POSTERIORS
    bare = [
        key
        for key in keys
        if (command.out / "jobs" / f"{key}.json").exists() and not (folder / f"{key}.nc").exists()
    ]
    if bare:
        raise ValueError(
            f"keep_posteriors needs a folder without results that lack theirs; {command.out} holds "
            f"{len(bare)} of them, {bare[0]} the first (choose another --out)"
        )
    return folder


# --- the grid


def _grid(name: str, experiment: Experiment, command: SweepCommand) -> _Grid:
    base = experiment.Settings()
    if command.smoke:
        base = dataclasses.replace(base, **dict(experiment.SMOKE))
    varied: dict[str, list[Any]] = {}
    types_of = get_type_hints(experiment.Settings, include_extras=True)
    fields = [field.name for field in dataclasses.fields(experiment.Settings)]
    for text in command.set:
        field, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"set must be SETTING=VALUE,VALUE,…; got {text!r}")
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(fields)}"
            raise ValueError(f"set must name a setting of {name}; got {field!r}{hint}")
        if field == "seed":
            raise ValueError(f"set must not vary seed, which --seeds does; got {text!r}")
        if field in varied:
            raise ValueError(f"set must name each setting once; got {field} twice")
        varied[field] = _values(field, types_of[field], values)
    return _Grid(base, varied, _seeds(command.seeds))


def _values(field: str, annotation: Any, text: str) -> list[Any]:
    try:
        parse = _parser(annotation)
    except TypeError as error:
        raise ValueError(
            f"set: {field} is of type {_shown(annotation)}, whose values cannot be given here"
        ) from error
    values = []
    for part in text.split(","):
        try:
            value = parse(part)
        except ValueError as error:
            raise ValueError(
                f"set: {field} must be of type {_shown(annotation)}; got {part!r}"
            ) from error
        if value in values:
            raise ValueError(f"set: values of {field} must differ; got {part} twice")
        values.append(value)
    return values


def _seeds(text: str) -> list[int]:
    first, colon, end = text.partition(":")
    try:
        seeds = list(range(int(first), int(end))) if colon else [int(n) for n in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds must be a:b, a,b,c or one number; got {text!r}") from error
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers >= 0, at least one; got {text!r}")
    return seeds


def _parser(annotation: Any) -> Parse:
    """How the text of one value of this type is read.

    Raises:
        TypeError: for a type that has no such text.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _parser(arguments[0])
    if origin is Literal:
        return functools.partial(_one_of, {str(choice): choice for choice in arguments})
    if origin in (Union, types.UnionType):
        # Text last: it would take whatever comes.
        ordered = sorted(arguments, key=lambda one: one in (str, Path))
        return functools.partial(_first, [_parser(one) for one in ordered])
    if origin in (tuple, Sequence, list):
        return functools.partial(_several, [one for one in arguments if one is not Ellipsis])
    simple: dict[Any, Parse] = {
        bool: functools.partial(_one_of, {"true": True, "false": False}),
        types.NoneType: functools.partial(_one_of, {"none": None}),
        int: int,
        float: float,
        str: str,
        Path: Path,
    }
    if annotation not in simple:
        raise TypeError(annotation)
    return simple[annotation]


def _one_of(choices: Mapping[str, Any], text: str) -> Any:
    key = text if text in choices else text.lower()
    if key not in choices:
        raise ValueError(text)
    return choices[key]


def _first(parsers: Sequence[Parse], text: str) -> Any:
    for parse in parsers:
        with contextlib.suppress(ValueError):
            return parse(text)
    raise ValueError(text)


def _several(kinds: Sequence[Any], text: str) -> tuple[Any, ...]:
    parts = text.split(":")
    every = list(kinds) * len(parts) if len(kinds) == 1 else list(kinds)
    return tuple(_parser(kind)(part) for kind, part in zip(every, parts, strict=True))


def _shown(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


# --- where it runs


@contextlib.contextmanager
def _backend(command: SweepCommand) -> Iterator[None]:
    """Joblib's backend inside; a cluster of ours is gone afterwards."""
    if command.backend == "dask":
        with _dask(command), joblib.parallel_config(backend="dask"):
            yield
    elif command.backend == "ray":
        with _ray(command), joblib.parallel_config(backend="ray"):
            yield
    else:
        with joblib.parallel_config(backend=command.backend):
            yield


@contextlib.contextmanager
def _dask(command: SweepCommand) -> Iterator[None]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(_missing("dask", "distributed")) from error
    if command.scheduler is not None:
        with Client(command.scheduler):
            yield
        return
    cluster = LocalCluster(
        n_workers=joblib.effective_n_jobs(command.jobs),
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs="ERROR",
    )
    with cluster, Client(cluster):
        yield


@contextlib.contextmanager
def _ray(command: SweepCommand) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ValueError(_missing("ray", "ray")) from error
    if command.scheduler is not None:
        ray.init(address=command.scheduler, logging_level="ERROR")
    else:
        workers = joblib.effective_n_jobs(command.jobs)
        ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR")
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _missing(backend: str, extra: str) -> str:
    return (
        f"backend {backend} needs a package that is not installed; "
        f"pip install 'beliefzoo[{extra}]' brings it"
    )


# --- what comes out


@dataclass(frozen=True)
class _Failed:
    """A failure as the table names it: by what is varied."""

    settings: Mapping[str, Any]
    kind: str
    message: str
    key: str

    @classmethod
    def of(cls, failure: FailedJob, names: Sequence[str]) -> _Failed:
        settings = failure.settings["settings"]
        at = {name: settings[name] for name in names}
        return cls(at, failure.kind, failure.message, failure.key)


def _finish(name: str, command: SweepCommand, grid: _Grid, found: Sweep) -> int:
    results = iter(found.results)
    by_point: list[dict[int, Any]] = [{} for _ in grid.points]
    for seed in grid.seeds:
        for figures_of in by_point:
            result = next(results)
            figures_of[seed] = None if result is None else result["figures"]
    points = [point(at, found) for at, found in zip(grid.points, by_point, strict=True)]
    failures = [_Failed.of(failure, (*grid.varied, "seed")) for failure in found.failures]
    content = {
        "experiment": name,
        "smoke": command.smoke,
        "base": dataclasses.asdict(grid.base),
        "varied": grid.varied,
        "seeds": grid.seeds,
        "points": [dataclasses.asdict(at) for at in points],
        "failures": [dataclasses.asdict(failed) for failed in failures],
        "jobs": {"computed": found.computed, "skipped": found.skipped, "failed": len(failures)},
        "versions": versions(),
        "seconds": found.seconds,
    }
    write_json(command.out / _TABLE, plain(content, "sweep"))
    paths = chosen(points, command.figures)
    if paths:
        save_drawing(draw(points, paths), _DRAWING, command.out)
    _print(points, paths if command.figures else paths[:MOST_ROWS], len(paths))
    counts = f"{found.computed} computed, {found.skipped} skipped, {len(failures)} failed"
    print(printable(f"{len(found.jobs)} jobs: {counts}; written to {command.out}"))
    for failed in failures:
        said = (failed.message.splitlines() or [""])[0]
        where = label(failed.settings)
        print(printable(f"beliefzoo: failed at {where}: {failed.kind}: {said}"), file=sys.stderr)
    return 1 if failures else 0


def _print(points: Sequence[Point], paths: Sequence[str], of: int) -> None:
    if not paths:
        print("no figure of this kind" if any(at.figures for at in points) else "no result")
        return
    print("mean ± sd over seeds, 95 % interval of the mean")
    print(table(points, paths))
    if len(paths) < of:
        print(f"and {of - len(paths)} figures more in {_TABLE} (--figures GLOB chooses)")
