"""A fresh process for what is timed, and what it ran on.

How many threads OpenMP, BLAS, numba and XLA start, and whether they spin while they wait, is read
once from the environment when these libraries are loaded. So the work of a benchmark is done in a
process whose environment is set before anything is imported, whatever the caller has loaded.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Threaded(Protocol):
    """Settings of a benchmark: a dataclass with a number of threads."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def threads(self) -> int:
        """Of every library."""


PEERS = (
    "hmmlearn",
    "dynamax",
    "jax",
    "jaxlib",
    "pomegranate",
    "statsmodels",
    "pykalman",
    "numpyro",
    "nutpie",
    "filterpy",
    "inferactively-pymdp",
    "pomdp-py",
    "numba",
)
"""Packages whose versions are reported where they are installed."""

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",  # XLA's thread pools
)


def measured(
    measure: Callable[..., Mapping[str, object]], settings: Threaded, **arguments: str
) -> dict[str, object]:
    """What ``measure(settings, **arguments)`` returns in a fresh process.

    Args:
        measure: a function of the top level of a module; it returns what JSON can hold.
        settings: an instance of the module's ``Settings``, which has a field ``threads``.
        arguments: further arguments.

    Raises:
        ValueError: the process's own ValueError, with its message.
        RuntimeError: the process ended in another way; what it wrote to standard error is there.
    """
    call = {
        "module": measure.__module__,
        "function": measure.__name__,
        "settings": dataclasses.asdict(settings),
        "arguments": arguments,
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(answer)],
            input=json.dumps(call),
            text=True,
            env=environment(settings.threads),
        )
        if done.returncode or not answer.exists():
            raise RuntimeError(
                f"{measure.__name__} of {measure.__module__} ended with exit status "
                f"{done.returncode} in its own process"
            )
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in told:
        raise ValueError(told["error"])
    figures: dict[str, Any] = told["figures"]
    return figures


def environment(threads: int) -> dict[str, str]:
    """This process's environment with the number of threads set, and waiting threads asleep.

    A waiting thread that spins takes a core from the one that it waits for: where there are as many
    threads as cores, that makes timings fall into two groups an order of magnitude apart.
    """
    here = Path(__file__).resolve()
    sources = str(Path(import_module("beliefzoo").__file__ or here).parents[1])
    paths = [sources, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **dict.fromkeys(_THREADS, str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",  # the same for Intel's OpenMP
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def machine(threads: int) -> dict[str, object]:
    """Processor, cores, and the threads that were used."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def peer_versions(packages: Iterable[str] = PEERS) -> dict[str, str]:
    """Versions of the packages that are installed."""
    return {package: found for package in packages if (found := installed(package)) is not None}


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _limit_to(threads: int) -> None:
    """Keep this process on as many cores as it has threads, for libraries that count cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were in the settings."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _main(answer: Path) -> None:
    call = json.load(sys.stdin)
    _limit_to(call["settings"]["threads"])
    module = import_module(call["module"])
    settings = module.Settings(**{name: _tuples(v) for name, v in call["settings"].items()})
    try:
        told = {"figures": getattr(module, call["function"])(settings, **call["arguments"])}
    except ValueError as error:
        if sys.flags.dev_mode:
            raise
        told = {"error": str(error)}
    answer.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
