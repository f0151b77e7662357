"""The command line: `beliefzoo list`, and `run`, `sweep` or `bench` with a NAME.

An experiment is a module of this package that defines

- a docstring, whose first line is its title;
- `Settings`, a frozen dataclass with `seed: int = 0` and, below each field, a string that says
  what it is and why it has its default;
- `SMOKE`, replacements of fields with which a run takes seconds;
- `run(settings) -> Outcome` (`experiments.report`);
- `draw(posterior, figures) -> dict[str, Figure]`.

Its name on the command line is that of the module with dashes. Nothing needs registering.

A benchmark is a module of the subpackage `benchmarks` that defines a docstring, `Settings` with
`seed` and `threads`, and `SMOKE` in the same way, and

- `run(settings) -> dict`, figures named in plain words;
- `draw(figures) -> dict[str, Figure]`;
- `table(figures) -> str`, what the terminal shows at the end.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import pkgutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar, cast

import tyro

from .. import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inference.arviz_groups import Idata
    from .report import Outcome

# The heavy imports (torch through the experiments, matplotlib) wait until one is run.

NOT_EXPERIMENTS = frozenset(
    {
        "benchmarks",
        "cli",
        "data",
        "kalman_cells",
        "language_models",
        "recurrent_ppo",
        "reference_filters",
        "report",
        "seeds",
        "spectral_error",
        "sweep",
        "sweep_table",
    }
)
"""Modules of this package that are not experiments."""

DRAWINGS = "drawings_"
"""What a module is named that holds the figures of a long experiment."""

NOT_BENCHMARKS = frozenset({"contenders", "fresh", "problems", "turns"})
"""Modules of the subpackage `benchmarks` that are not benchmarks."""

_USAGE = """\
usage: beliefzoo list
       beliefzoo run NAME [--smoke] [--seed N] [--out DIR] [--force] [--SETTING VALUE ...]
       beliefzoo run NAME --help
       beliefzoo sweep NAME [--seeds A:B] [--set SETTING=VALUE,VALUE,...]... [--jobs N]
       beliefzoo sweep NAME --help
       beliefzoo bench list
       beliefzoo bench NAME [--smoke] [--threads N] [--out DIR] [--force] [--SETTING VALUE ...]
       beliefzoo bench NAME --help
       beliefzoo --version

`list` names the experiments, `bench list` the benchmarks; `run NAME --help` and `bench NAME --help`
show every setting with its default and why; `sweep` runs an experiment for every combination of
values, once a seed, and resumes where it was.
"""


class Experiment(Protocol):
    """What a module must define to be an experiment."""

    Settings: type[Any]
    SMOKE: Mapping[str, object]
    run: Callable[[Any], Outcome]
    draw: Callable[[Idata, Mapping[str, Any]], Mapping[str, Figure]]


class Benchmark(Protocol):
    """What a module must define to be a benchmark."""

    Settings: type[Any]
    SMOKE: Mapping[str, object]
    run: Callable[[Any], Mapping[str, Any]]
    draw: Callable[[Mapping[str, Any]], Mapping[str, Figure]]
    table: Callable[[Mapping[str, Any]], str]


S = TypeVar("S")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # --force without a --no-force


@dataclass(frozen=True)
class Command(Generic[S]):
    """Arguments of `run NAME` and `bench NAME`: the settings of what is run, and these."""

    settings: tyro.conf.OmitArgPrefixes[S]
    out: Path
    """Folder to write to; it must not exist yet."""
    force: Flag = False
    """Replace the files of an earlier run in that folder."""
    smoke: Flag = False
    """Take settings with which the run is over in seconds; its figures mean nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the command's name; those of the process if None.

    Returns:
        The exit status: 0; 1 if jobs of a sweep failed; 2 for bad input, with a message on
        standard error; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except ValueError as error:
        if sys.flags.dev_mode:  # python -X dev: whoever writes an experiment wants the traceback
            raise
        print(f"beliefzoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("beliefzoo: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a bad argument
        return stop.code if isinstance(stop.code, int) else 2


def experiments() -> dict[str, str]:
    """Names of the experiments and their titles, without importing any of them.

    Raises:
        ValueError: for a module without docstring.
    """
    return _titles(__package__, NOT_EXPERIMENTS)


def benchmarks() -> dict[str, str]:
    """Names of the benchmarks and their titles, without importing any of them.

    Raises:
        ValueError: for a module without docstring.
    """
    return _titles(f"{__package__}.benchmarks", NOT_BENCHMARKS)


def _titles(package: str, beside: frozenset[str]) -> dict[str, str]:
    titles = {}
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.name in beside or module.name.startswith(DRAWINGS):
            continue
        spec = module.module_finder.find_spec(module.name, None)
        source = Path(spec.origin) if spec and spec.origin else None
        docstring = ast.get_docstring(ast.parse(source.read_bytes())) if source else None
        if not docstring:
            raise ValueError(f"{module.name} must begin with a docstring that gives its title")
        titles[module.name.replace("_", "-")] = docstring.splitlines()[0].rstrip(".")
    return dict(sorted(titles.items()))


def load(name: str) -> Experiment:
    """Import an experiment by its name on the command line.

    Raises:
        ValueError: if there is none of that name, or its module lacks a part.
    """
    module = _import(__package__, list(experiments()), name)
    _check_module(module, f"experiment {name}", ("run", "draw"), ("seed",))
    return cast(Experiment, module)


def load_benchmark(name: str) -> Benchmark:
    """Import a benchmark by its name on the command line.

    Raises:
        ValueError: if there is none of that name, or its module lacks a part.
    """
    module = _import(f"{__package__}.benchmarks", list(benchmarks()), name)
    _check_module(module, f"benchmark {name}", ("run", "draw", "table"), ("seed", "threads"))
    return cast(Benchmark, module)


def _import(package: str, known: Sequence[str], name: str) -> ModuleType:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"NAME must be one of {', '.join(known) or '(none)'}; got {name!r}{hint}")
    return import_module(f"{package}.{name.replace('-', '_')}")


def _check_module(
    module: Any, what: str, functions: Sequence[str], needed_fields: Sequence[str]
) -> None:
    """Raise ``ValueError`` unless the module has what the command line uses."""
    parts = ("Settings", "SMOKE", *functions)
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        raise ValueError(f"{what} must define {', '.join(missing)}")
    name = what.partition(" ")[2]
    if not dataclasses.is_dataclass(module.Settings):
        raise ValueError(f"Settings of {name} must be a dataclass; got {module.Settings!r}")
    fields = {field.name for field in dataclasses.fields(module.Settings)}
    for needed in needed_fields:
        if needed not in fields:
            raise ValueError(f"Settings of {name} must have a field {needed}; got {sorted(fields)}")
    if not set(module.SMOKE) <= fields:
        raise ValueError(f"SMOKE of {name} must replace fields of Settings; got {module.SMOKE}")


def _dispatch(arguments: Sequence[str]) -> int:
    match arguments:
        case ["list"]:
            _list(experiments())
        case ["bench", "list"]:
            _list(benchmarks())
        case ["run", name, *rest] if not name.startswith("-"):
            _run(name, rest)
        case ["sweep", name, *rest] if not name.startswith("-"):
            from .sweep import run_sweep

            return run_sweep(name, rest)
        case ["bench", name, *rest] if not name.startswith("-"):
            _bench(name, rest)
        case ["--version"]:
            print(f"beliefzoo {__version__}")
        case ["-h" | "--help"] | ["run" | "sweep" | "bench" | "list", "-h" | "--help"]:
            print(_USAGE, end="")
        case ["run" | "sweep"]:
            raise ValueError(
                f"NAME must be one of {', '.join(experiments())}; got none\n\n{_USAGE}"
            )
        case ["bench"]:
            raise ValueError(
                f"NAME must be list or one of {', '.join(benchmarks())}; got none\n\n{_USAGE}"
            )
        case _:
            got = " ".join(arguments) or "nothing"
            raise ValueError(
                f"the command must be list, run, sweep or bench; got {got}\n\n{_USAGE}"
            )
    return 0


def _list(titles: Mapping[str, str]) -> None:
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")


def _run(name: str, arguments: Sequence[str]) -> None:
    """Check everything, run, write."""
    import matplotlib

    matplotlib.use("agg")  # before an experiment imports pyplot: PNG files need no display

    experiment = load(name)
    command = _parse(f"beliefzoo run {name}", experiment, Path("runs") / name, arguments)
    _run_and_write(name, experiment, command.settings, command.out, command.force)


def _bench(name: str, arguments: Sequence[str]) -> None:
    """Check everything, measure, write."""
    import matplotlib

    matplotlib.use("agg")

    benchmark = load_benchmark(name)
    out = Path("runs") / f"bench-{name}"
    command = _parse(f"beliefzoo bench {name}", benchmark, out, arguments)
    _bench_and_write(name, benchmark, command.settings, command.out, command.force)


def _parse(
    program: str, module: Experiment | Benchmark, out: Path, arguments: Sequence[str]
) -> Command[Any]:
    smoke = "--smoke" in arguments  # ahead of the rest: it sets their defaults

    defaults = module.Settings()
    if smoke:
        defaults = dataclasses.replace(defaults, **dict(module.SMOKE))
    command: Command[Any] = tyro.cli(
        cast(Any, Command)[module.Settings],
        prog=program,
        description=inspect.getdoc(module),
        args=list(arguments),
        default=Command(settings=defaults, out=out),
    )
    return command


def _run_and_write(
    name: str, experiment: Experiment, settings: Any, folder: Path, force: bool
) -> None:
    from .report import check_folder, leaves, plain, readable, write_report

    check_folder(folder, force=force)
    plain(dataclasses.asdict(settings), "settings")
    started = time.perf_counter()
    outcome = experiment.run(settings)
    write_report(
        folder,
        experiment=name,
        title=experiments()[name],
        settings=settings,
        outcome=outcome,
        draw=experiment.draw,
        seconds=time.perf_counter() - started,
    )
    for path, value in leaves(outcome.figures):
        print(f"{path}: {readable(value)}")
    print(f"written to {folder}")


def _bench_and_write(
    name: str, benchmark: Benchmark, settings: Any, folder: Path, force: bool
) -> None:
    from .benchmarks.fresh import machine, peer_versions
    from .report import check_folder, plain, write_benchmark

    check_folder(folder, force=force)
    plain(dataclasses.asdict(settings), "settings")
    started = time.perf_counter()
    figures = benchmark.run(settings)
    write_benchmark(
        folder,
        benchmark=name,
        settings=settings,
        figures=figures,
        draw=benchmark.draw,
        peers=peer_versions(),
        machine=machine(settings.threads),
        seconds=time.perf_counter() - started,
    )
    print(benchmark.table(figures))
    print(f"written to {folder}")
