"""Files that were damaged: refused by name, whatever the damage; never read with other numbers."""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    arviz_groups,
    fit,
    load_fit,
    load_plan,
    save_fit,
    sweep,
    value_iteration,
)
from beliefzoo.models import (
    HiddenMarkovModel,
    Poisson,
    Regression,
    Sequences,
    load_model,
    save_model,
    tiger,
)
from beliefzoo.models.data.storage import read_json, read_tensors, write_json, write_tensors
from fuzzing import TIMES

DATA = Sequences.from_arrays([[1.0, 2.0, 3.0], [4.0, 9.0]])
SHORT = FitSettings(steps=2, sleep_steps=0, holdout=0, patience=None)

pytestmark = pytest.mark.filterwarnings("ignore:fit:UserWarning")


class Saved(NamedTuple):
    """A file, and what reads it."""

    path: Path
    read: Callable[[], object]


def squares(job: Any) -> dict[str, int]:
    return {"square": job["x"] ** 2}


def saved_model(folder: Path) -> Saved:
    model = HiddenMarkovModel(2, Regression(Poisson(), inputs=1)).with_parameters(
        initial=[0.4, 0.6]
    )
    path = save_model(model, folder / "model.pt")
    return Saved(path, lambda: load_model(path))


def saved_fit(folder: Path) -> Saved:
    model = HiddenMarkovModel(2, "poisson")
    guide = BeliefGuide(model, LSTMFilter(2), parameters="map")
    found = fit(model, guide, DATA, settings=SHORT, progress=False)
    path = save_fit(found, folder / "fit.pt")
    return Saved(path, lambda: load_fit(path))


def saved_plan(folder: Path) -> Saved:
    path = value_iteration(tiger(), gap=5.0).save(folder / "plan.pt")
    return Saved(path, lambda: load_plan(path))


def saved_checkpoint(folder: Path) -> Saved:
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    path = folder / "checkpoint"

    def run() -> object:
        return fit(model, guide, DATA, settings=SHORT, checkpoint=path, progress=False)

    run()
    return Saved(path, run)


def saved_sweep(folder: Path) -> Saved:
    def run() -> object:
        options: dict[str, Any] = {"workers": 1, "progress": False, "version": "1"}
        return sweep(squares, [{"x": 7, "name": "a"}], folder / "sweep", **options).results

    run()
    (path,) = (folder / "sweep" / "jobs").iterdir()
    return Saved(path, run)


KINDS = {
    "model": saved_model,
    "fit": saved_fit,
    "plan": saved_plan,
    "checkpoint": saved_checkpoint,
    "sweep": saved_sweep,
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """One file of every kind."""
    torch.manual_seed(0)
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in KINDS.items()}


@pytest.fixture(params=KINDS)
def saved(everything: dict[str, Saved], request: pytest.FixtureRequest) -> Saved:
    made: Saved = everything[request.param]
    return made


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


def refused(saved: Saved) -> str:
    with pytest.raises(ValueError, match=re.escape(saved.path.name)) as raised:
        saved.read()
    return str(raised.value)


@pytest.mark.cases(200 * TIMES)
def test_fuzz_one_flipped_bit_is_refused(saved: Saved, rng: random.Random) -> None:
    whole = saved.path.read_bytes()
    places = [*range(140), *(rng.randrange(len(whole)) for _ in range(200 * TIMES))]
    places += [len(whole) - 1 - k for k in range(100)]
    try:
        for place in places:
            content = bytearray(whole)
            content[place] ^= 1 << rng.randrange(8)
            saved.path.write_bytes(content)
            refused(saved)
    finally:
        saved.path.write_bytes(whole)


def damages(whole: bytes, rng: random.Random) -> Iterator[bytes]:
    """Truncated, lengthened, parts left out, doubled, swapped, overwritten; other files."""
    first, second = sorted(rng.sample(range(1, len(whole)), 2))
    yield whole[:first]
    yield whole + rng.randbytes(1 + rng.randrange(9))
    yield whole[:first] + whole[second:]
    yield whole[:second] + whole[first:]
    yield whole[second:] + whole[first:second] + whole[:first]
    yield whole[:first] + bytes(second - first + 1) + whole[second + 1 :]
    yield rng.randbytes(first % 1000)
    yield whole[first:]
    yield whole[:first] + b"\n" + whole[first:]


@pytest.mark.cases(180 * TIMES)
def test_fuzz_other_damages_are_refused(saved: Saved, rng: random.Random) -> None:
    whole = saved.path.read_bytes()
    try:
        for content in (b"", b"\n", b"{}", b"[]", b"null", b"\x80", b"beliefzoo fit \n"):
            saved.path.write_bytes(content)
            refused(saved)
        for _ in range(20 * TIMES):
            for content in damages(whole, rng):
                if content != whole:
                    saved.path.write_bytes(content)
                    refused(saved)
    finally:
        saved.path.write_bytes(whole)


def test_files_of_each_other_are_refused(saved: Saved, everything: dict[str, Saved]) -> None:
    whole = saved.path.read_bytes()
    others = [other.path.read_bytes() for other in everything.values() if other is not saved]
    try:
        for other in others:
            saved.path.write_bytes(other)
            refused(saved)
    finally:
        saved.path.write_bytes(whole)


@pytest.mark.cases(60 * TIMES)
def test_fuzz_a_flipped_bit_in_a_posterior_is_refused_or_means_nothing(
    tmp_path: Path, rng: random.Random
) -> None:
    """NetCDF has bytes that nothing reads; all numbers, names and labels have checksums of HDF5."""
    numbers = np.random.default_rng(0)
    made = arviz_groups.build(
        {"posterior": {"rate": numbers.random((2, 9, 2)), "n": numbers.integers(0, 9, (2, 9))}},
        dims={"rate": ["state"]},
        coords={"state": ["low", "high"]},
        attrs={"seed": 3},
    )
    path = tmp_path / "posterior.nc"
    arviz_groups.write(made, path)
    whole, expected = path.read_bytes(), arviz_groups.read(path)
    said: list[str] = []
    for _ in range(60 * TIMES):
        content = bytearray(whole)
        content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = arviz_groups.read(path)
        except ValueError as error:
            said.append(str(error))
        else:
            assert found.attrs == expected.attrs
            one, other = (arviz_groups.group(idata, "posterior") for idata in (found, expected))
            assert one.identical(other)
    assert said
    assert [one for one in said if path.name not in one] == []


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2.5, 1e308, "", "x", "nan", [], {}, [1, "a"], {"kind": "x"}),
    *({"tensor": "no"}, "os:system", "beliefzoo.models:Poisson", 2**70, [[]], "(", {"class": 1}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of nested mappings and lists."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    for name, entry in entries:
        yield (*path, name)
        yield from places(entry, (*path, name))


def distorted(content: Any, rng: random.Random) -> Any:
    """The content with one entry replaced, renamed or removed; tensors of other shapes, too."""
    made = copy.deepcopy(content)
    *above, name = rng.choice(list(places(made)))
    held = made
    for step in above:
        held = held[step]
    if isinstance(held, tuple):
        return made
    way = rng.randrange(4)
    if way == 0 and isinstance(held, dict):
        held[rng.choice(["x", "kind", 3])] = held.pop(name)
    elif way == 1:
        del held[name]
    elif way == 2 and isinstance(held[name], torch.Tensor):
        held[name] = rng.choice(
            [torch.zeros(3, 0), torch.ones(1, dtype=torch.bool), held[name].flatten()[:0]]
        )
    else:
        held[name] = copy.deepcopy(rng.choice(ODD))
    return made


@pytest.mark.cases(15 * TIMES)
def test_fuzz_content_of_other_types_is_refused_or_read(saved: Saved, rng: random.Random) -> None:
    """With the right checksum: whoever writes such a file gets a ``ValueError`` at worst."""
    whole = saved.path.read_bytes()
    of_json, kind = saved.path.suffix == ".json", saved.path.stem
    content = read_json(saved.path, {}) if of_json else read_tensors(saved.path, {}, kind)
    told = [name for name in ("fit", "model") if name in content]
    said: list[str] = []
    try:
        for number in range((15 if kind == "checkpoint" else 60) * TIMES):
            if told and number % 4:  # most of what can be distorted is in the descriptions
                name = rng.choice(told)
                text = json.dumps(distorted(json.loads(content[name]), rng))
                other = content | {name: text}
            else:
                other = distorted(content, rng)
            try:
                if of_json:
                    write_json(saved.path, other)
                else:
                    write_tensors(saved.path, other, kind)
            except (TypeError, AttributeError):
                continue  # no such file can be
            try:
                saved.read()
            except ValueError as error:
                said.append(str(error))
    finally:
        saved.path.write_bytes(whole)
    assert said
    assert [one for one in said if saved.path.name not in one] == []


@pytest.mark.parametrize("odd", [-1, None, [1.0]])
def test_a_checkpoint_whose_start_holds_no_tensors_is_refused(
    everything: dict[str, Saved], odd: object
) -> None:
    saved = everything["checkpoint"]
    whole = saved.path.read_bytes()
    content = read_tensors(saved.path, {}, "checkpoint")
    start = dict.fromkeys(content["start"], odd)
    assert start
    try:
        write_tensors(saved.path, content | {"start": start}, "checkpoint")
        assert "a start of tensors" in refused(saved)
    finally:
        saved.path.write_bytes(whole)
