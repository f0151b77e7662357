"""The command line: `beliefzoo list`, `compile`, and `run`, `sweep` or `bench` with a NAME."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import tyro

from ... import __version__
from .catalogue import (
    Benchmark,
    Experiment,
    Flag,
    benchmarks,
    experiments,
    load,
    load_benchmark,
    printable,
)

# The heavy imports (torch through the experiments, matplotlib) wait until one is run.


_USAGE = """\
usage: beliefzoo list
       beliefzoo run NAME [--smoke] [--seed N] [--out DIR] [--force] [--SETTING VALUE ...]
       beliefzoo run NAME --help
       beliefzoo sweep NAME [--seeds A:B] [--set SETTING=VALUE,VALUE,...]... [--jobs N]
       beliefzoo sweep NAME --help
       beliefzoo bench list
       beliefzoo bench NAME [--smoke] [--threads N] [--out DIR] [--force] [--SETTING VALUE ...]
       beliefzoo bench NAME --help
       beliefzoo compile
       beliefzoo --version

`list` names the experiments, `bench list` the benchmarks; `run NAME --help` and `bench NAME --help`
show every setting with its default and why; `sweep` runs an experiment for every combination of
values, once a seed, and resumes where it was; `compile` makes all machine code at once, which first
calls would wait for.
"""


S = TypeVar("S")
M = TypeVar("M", Experiment, Benchmark)


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
        The exit status: 0; 1 if jobs of a sweep failed; 2 for bad input, or for a file that cannot
        be read or written, with a message on standard error; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:  # python -X dev: whoever writes an experiment wants the traceback
            raise
        print(printable(f"beliefzoo: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("beliefzoo: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a bad argument
        return stop.code if isinstance(stop.code, int) else 2


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
        case ["compile"]:
            from .compiling import compile_all

            compile_all()
        case ["--version"]:
            print(f"beliefzoo {__version__}")
        case ["-h" | "--help"] | [
            "run" | "sweep" | "bench" | "list" | "compile",
            "-h" | "--help",
        ]:
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
                f"the command must be list, run, sweep, bench or compile; got {got}\n\n{_USAGE}"
            )
    return 0


def _list(titles: Mapping[str, str]) -> None:
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")


def _run(name: str, arguments: Sequence[str]) -> None:
    """Check everything, run, write."""
    experiment, command = _prepared(load, f"run {name}", Path("runs") / name, arguments)
    from .report import leaves, readable, write_report

    started = time.perf_counter()
    outcome = experiment.run(command.settings)
    seconds = time.perf_counter() - started
    for path, value in leaves(outcome.figures):  # first: they are not lost if the disk is full
        print(f"{path}: {readable(value)}", flush=True)
    write_report(
        command.out,
        experiment=name,
        title=experiments()[name],
        settings=command.settings,
        outcome=outcome,
        draw=experiment.draw,
        seconds=seconds,
    )
    print(printable(f"written to {command.out}"))


def _bench(name: str, arguments: Sequence[str]) -> None:
    """Check everything, measure, write."""
    out = Path("runs") / f"bench-{name}"
    benchmark, command = _prepared(load_benchmark, f"bench {name}", out, arguments)
    from ..benchmarks.parts.fresh import machine, peer_versions
    from .report import write_benchmark

    started = time.perf_counter()
    figures = benchmark.run(command.settings)
    seconds = time.perf_counter() - started
    print(benchmark.table(figures), flush=True)
    write_benchmark(
        command.out,
        benchmark=name,
        settings=command.settings,
        figures=figures,
        draw=benchmark.draw,
        peers=peer_versions(),
        machine=machine(command.settings.threads),
        seconds=seconds,
    )
    print(printable(f"written to {command.out}"))


def _prepared(
    import_by_name: Callable[[str], M], what: str, out: Path, arguments: Sequence[str]
) -> tuple[M, Command[Any]]:
    """The module and its command, all of it checked before anything is computed."""
    import matplotlib

    matplotlib.use("agg")  # before an experiment imports pyplot: PNG files need no display
    module = import_by_name(what.partition(" ")[2])
    command = _parse(f"beliefzoo {what}", module, out, arguments)
    from .folders import check_folder
    from .report import plain

    check_folder(command.out, force=command.force)
    plain(dataclasses.asdict(command.settings), "settings")
    return module, command


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
