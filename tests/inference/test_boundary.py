"""Public names answer wrong arguments with a ``ValueError``, whatever comes for whichever argument.

Each name is called with arguments that fit, one of which is replaced by each of ``WRONG``. A
``TypeError`` is for missing and unknown keywords alone. ``BELIEFZOO_FUZZ`` takes all values.
"""

import inspect
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beliefzoo import inference, models
from boundary_cases import CONSTRUCTORS, INFERENCE, MODELS, WRONG

THEIRS = {
    ("fit.callback", int): "a function like any other; what it raises is the user's own",
    ("leave_future_out.refit", int): "the same",
    ("nuts.jobs", -1): "all cores: a pool of processes, for seconds",
    ("calibrate.workers", -1): "the same",
    ("cross_validate.workers", -1): "the same",
}
"""Values that fit, and why they are not tried."""

KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def tried(name: str, argument: inspect.Parameter) -> list[Any]:
    """The values that are tried for an argument: its default is none of them."""
    return [
        value
        for value in WRONG
        if value is not argument.default
        and not any(name == where and value is what for where, what in THEIRS)
    ]


CALLS = {name: (models, fits) for name, fits in MODELS.items()}
CALLS |= {name: (inference, fits) for name, fits in INFERENCE.items()}
for one in CONSTRUCTORS:
    CALLS[one] = (models if hasattr(models, one.split(".")[0]) else inference, CONSTRUCTORS[one])


@pytest.mark.filterwarnings("ignore")  # of what is accepted
@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_end_in_value_errors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, fits = CALLS[name]
    assert name.split(".")[0] in module.__all__
    monkeypatch.chdir(tmp_path)  # for what is written
    call = attrgetter(name)(module)
    fits = fits() if callable(fits) else fits
    said = {}
    for argument in inspect.signature(call).parameters.values():
        if argument.kind in KINDS:
            continue
        for value in tried(f"{name}.{argument.name}", argument):
            try:
                call(**{**fits, argument.name: value})
            except (ValueError, FileNotFoundError):
                continue
            except Exception as error:  # noqa: BLE001 - each of them is a fault
                said[argument.name, repr(value)[:30]] = repr(error)
    assert said == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_of_these_tests_fit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every wrong value would end in the error of another argument."""
    monkeypatch.chdir(tmp_path)
    module, fits = CALLS[name]
    attrgetter(name)(module)(**(fits() if callable(fits) else fits))


def as_scalars(value: object) -> list[Any]:
    """A number of Python as a scalar of NumPy."""
    scalar = {bool: np.bool_, int: np.int64, float: np.float64}.get(type(value))
    return [] if scalar is None else [scalar(value)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_scalars_of_numpy_are_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a call at once: what fits and defaults, and seeds."""
    module, fits = CALLS[name]
    call = attrgetter(name)(module)
    monkeypatch.chdir(tmp_path)
    fits = dict(fits() if callable(fits) else fits)
    for argument in inspect.signature(call).parameters.values():
        usual = 3 if argument.name == "seed" else argument.default
        for scalar in as_scalars(fits.get(argument.name, usual)):
            fits[argument.name] = scalar
    call(**fits)


def constructors_of(kind: type) -> list[str]:
    """Names of the public class methods of ours."""
    own = {name: value for base in kind.__mro__ for name, value in vars(base).items()}
    return [
        name
        for name, value in own.items()
        if isinstance(value, classmethod) and not name.startswith("_")
        if value.__func__.__module__.startswith("beliefzoo.")
    ]


def test_every_public_call_is_tried() -> None:
    """But for records, protocols, bases, warnings, and what takes no arguments."""
    called = {*CALLS}
    for module in (models, inference):
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type):
                assert {f"{name}.{other}" for other in constructors_of(thing)} <= called
                record = hasattr(thing, "_fields") or "__dataclass_fields__" in vars(thing)
                base = inspect.isabstract(thing) or getattr(thing, "_is_protocol", False)
                if record or base or issubclass(thing, Exception | inference.ExactFilter):
                    continue
            elif not inspect.isfunction(thing) or not inspect.signature(thing).parameters:
                continue
            assert name in called, f"{name}: add arguments that fit to tests/boundary_cases.py"
