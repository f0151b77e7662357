"""What every test starts from: an empty parameter store, fixed seeds, float32, one thread."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib

import pyro
import pytest
import torch

import fuzzing

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism; their threads would compete


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Make a test independent of the ones before it, in whatever order and worker it runs.

    Torch, NumPy's legacy generator and ``random`` restart from one seed, Pyro's parameter store is
    emptied, and the default dtype is put back afterwards.
    """
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)  # seeds torch, numpy and random
    yield
    torch.set_default_dtype(dtype)
    pyro.clear_param_store()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data sets that are too large, or not ours, to keep in the repository.

    The environment variable BELIEFZOO_DATA names it; without it, ``shared/data`` beside the
    checkout is taken. Tests that need it are skipped where neither exists.
    """
    named = os.environ.get("BELIEFZOO_DATA")
    if named is not None:
        if not Path(named).is_dir():
            pytest.fail(f"BELIEFZOO_DATA must name an existing folder, got {named!r}")
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not beside.is_dir():
        pytest.skip("needs the shared data sets: set BELIEFZOO_DATA to their folder")
    return beside


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Reports how many cases a test drew, for ``make fuzz``, by its marker.

    Others say so themselves: ``record_property("cases", n)``.
    """
    began = fuzzing.cpu_seconds()
    try:
        return (yield)
    finally:
        marker = item.get_closest_marker("cases")
        if marker is not None:
            item.user_properties.append(("cases", marker.args[0]))
        item.user_properties.append(("seconds", fuzzing.cpu_seconds() - began))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if fuzzing.LONG:
        terminalreporter.section("cases drawn")
        ended = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
        for line in fuzzing.table(one for one in ended if one.when == "call"):
            terminalreporter.write_line(line)
