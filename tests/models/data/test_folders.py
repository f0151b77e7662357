"""Folders of sequences: what is read, what is refused, and that a fit is that of the data."""

import dataclasses
import pickle
import random
import re
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    fit,
    starting_values,
)
from beliefzoo.models import (
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    SequenceFolder,
    Sequences,
    write_folder,
)
from fuzzing import TIMES

FIELDS = ("values", "mask", "lengths", "times", "actions", "inputs")


def same(one, other):
    """Whether two containers hold the same numbers in the same types; names aside."""
    pairs = [(getattr(one, field), getattr(other, field)) for field in FIELDS]
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs
    )


def ragged(n=9, features=2, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(int(rng.integers(1, 8)), features)) for _ in range(n)]
    arrays[0][0, -1] = np.nan
    arrays[-1][:] = np.nan  # a sequence of which nothing was seen
    return arrays


def one_file_each(arrays, path):
    path.mkdir()
    for n, array in enumerate(arrays):
        np.save(path / f"{n:03d}.npy", array)
    return path


@pytest.fixture
def plain(tmp_path):
    return one_file_each(ragged(), tmp_path / "data")


@pytest.mark.parametrize("packed", [False, True], ids=["one a file", "packed"])
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "uint8"])
def test_what_is_read_is_what_from_arrays_makes(tmp_path, packed, features, dtype):
    arrays = ragged(features=features)
    if dtype == "uint8":
        arrays = [np.nan_to_num(np.abs(10 * one)) for one in arrays]
    arrays = [one.astype(dtype) for one in arrays]
    if features == 1:
        arrays[::2] = [one[:, 0] for one in arrays[::2]] if not packed else arrays[::2]
    path = tmp_path / "data"
    if packed:
        write_folder(iter(arrays), path, file_size=25 * features * arrays[0].itemsize)
        assert 1 < len(list(path.glob("*.lengths.npy"))) < len(arrays)
    else:
        one_file_each(arrays, path)
    assert np.load(sorted(path.glob("*.npy"))[-1]).itemsize == arrays[0].itemsize
    folder, whole = SequenceFolder(path), Sequences.from_arrays(arrays)
    assert same(folder[:], whole)
    assert len(folder) == folder.n_sequences == len(whole)
    assert torch.equal(folder.lengths, whole.lengths)
    assert (folder.n_steps, folder.max_length) == (whole.n_steps, whole.max_length)
    assert (folder.n_features, folder.features) == (whole.n_features, whole.features)
    for index in (3, -1, slice(2, 5), [5, 1, 1], torch.tensor([0, 8]), np.arange(9) % 2 == 0):
        assert same(folder[index], whole[index])
    for own, other in zip(folder, whole, strict=True):
        assert same(own, other)
    shuffled = [
        list(data.batches(4, generator=torch.Generator().manual_seed(1)))
        for data in (folder, whole)
    ]
    for own, other in zip(*shuffled, strict=True):
        assert same(own, other)
    parts = zip(folder.split([0.5, 0.3], seed=2), whole.split([0.5, 0.3], seed=2), strict=True)
    for own, other in parts:
        assert same(own[:], other)
        assert own.n_steps == other.n_steps
    assert same(folder.sample(100), whole)
    assert [len(piece) for piece in folder.pieces()] == [9]


def test_arrays_in_fortran_order_are_read_as_they_are(tmp_path):
    arrays = [np.asfortranarray(one) for one in ragged()]
    folder = SequenceFolder(one_file_each(arrays, tmp_path / "data"))
    assert same(folder[[3, 1]], Sequences.from_arrays(arrays)[[3, 1]])


def test_names(plain):
    assert SequenceFolder(plain).labels[:2] == ("000", "001")
    folder = SequenceFolder(plain, features=["left", "right"])
    assert folder[2:4].features == ("left", "right")
    assert folder[[1, 1]].labels == ("001", "001 (2)")
    np.save(plain / "001.lengths.npy", [1, len(np.load(plain / "001.npy")) - 1])
    assert SequenceFolder(plain).labels[:4] == ("000", "001[0]", "001[1]", "002")


def test_codes(tmp_path):
    arrays = [np.array([0, 2, 1]), np.array([1.0, np.nan, 2.0, 0.0]), np.array([3], dtype="uint8")]
    for path in (
        one_file_each(arrays, tmp_path / "one"),
        write_folder(arrays, tmp_path / "two", codes=True, file_size=30),
    ):
        folder = SequenceFolder(path, codes=True, symbols=list("abcd"))
        whole = Sequences.from_arrays(arrays, codes=True, symbols=list("abcd"))
        assert same(folder[:], whole)
        assert folder[1].symbols == tuple("abcd")
        assert folder.is_codes
        with pytest.raises(ValueError, match=r"'\w+\.npy': codes must be below 3"):
            SequenceFolder(path, codes=True, symbols=list("abc"))[:]


def test_sequences_are_written_with_all_that_goes_with_their_steps(tmp_path):
    rng = np.random.default_rng(0)
    arrays = ragged(7)
    data = Sequences.from_arrays(
        arrays,
        times=[np.sort(rng.random(len(one))) for one in arrays],
        actions=[rng.integers(0, 3, len(one)) for one in arrays],
        inputs=[rng.normal(size=(len(one), 2)) for one in arrays],
    )
    folder = SequenceFolder(write_folder(data, tmp_path / "data", file_size=200))
    assert same(folder[:], data)
    assert same(folder[[4, 2]], data[[4, 2]])
    codes = Sequences.from_arrays([[0, 1], [2.0, np.nan, 1.0]], codes=True)
    assert same(SequenceFolder(write_folder(codes, tmp_path / "c"), codes=True)[:], codes)


def test_names_and_units_are_written_and_compared(tmp_path):
    """A folder knows them as its data do, and so does a model fitted to it."""
    named = {"features": ["rt", "size"], "input_names": ["dose"]}
    units = {"rt": "ms", "dose": "mg", "time": "s"}
    rows = [[[1.0, 2.0], [3.0, 1.0]], [[2.0, 2.0]]]
    along = {"times": [[0.5, 1.0], [0.0]], "inputs": [[[1.0], [0.0]], [[1.0]]]}
    data = Sequences.from_arrays(rows, **along, **named, units=units)
    path = write_folder(data, tmp_path / "data")
    folder = SequenceFolder(path)
    assert folder[1].units == folder.split([1, 1], seed=0)[0].units == folder.units == units
    assert (folder[:].features, folder[:].input_names) == (("rt", "size"), ("dose",))
    assert "units={'rt': 'ms'" in repr(folder)
    assert SequenceFolder(path, features=["a", "size"]).units == {"dose": "mg", "time": "s"}
    seconds = SequenceFolder(path, units={"rt": "s"})
    assert seconds.units == {"rt": "s"}
    assert seconds.fingerprint() != folder.fingerprint()
    model = HiddenMarkovModel(1, Gaussian(2)).named_after(folder)
    assert model.names.units == units
    with pytest.raises(ValueError, match=r"data\.units: must be 'ms' for 'rt', .* got 's'"):
        model.check_values(seconds[:])
    with pytest.raises(ValueError, match="units must be of 'rt', 'size', 'dose', 'time'; got 'x'"):
        SequenceFolder(path, units={"x": "s"})
    with pytest.raises(ValueError, match=r"beliefzoo\.json.* does not have its checksum"):
        (path / "beliefzoo.json").write_text(
            (path / "beliefzoo.json").read_text().replace('"ms"', '"µs"')
        )
        SequenceFolder(path)
    letters = Sequences.from_text("abca", alphabet="abc")
    assert SequenceFolder(write_folder(letters, tmp_path / "letters"))[:].symbols == tuple("abc")
    codes = SequenceFolder(write_folder([[0, 1], [2]], tmp_path / "codes", codes=True))
    assert codes[:].is_codes
    assert not SequenceFolder(codes.path, codes=False)[:].is_codes


def test_a_sample_is_bounded_seeded_and_in_order(tmp_path):
    folder = SequenceFolder(one_file_each([np.full(5, n) for n in range(50)], tmp_path / "d"))
    first = folder.sample(7, seed=1).values[:, 0, 0].tolist()
    assert len(set(first)) == 7
    assert first == sorted(first) == folder.sample(7, seed=1).values[:, 0, 0].tolist()
    assert first != folder.sample(7, seed=2).values[:, 0, 0].tolist()
    assert len(folder.sample(seed=1, numbers=5 * 12)) == 12
    assert len(folder.sample(seed=1, numbers=1)) == 1


# Refusals


def spoil_header(path):
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'" + b" " * 90)


BROKEN = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-3]), "whole .npy file of numbers"),
    "cut header": (lambda p: p.write_bytes(p.read_bytes()[:40]), "whole .npy file"),
    "no bytes": (lambda p: p.write_bytes(b""), "whole .npy file"),
    "foreign": (lambda p: p.write_text("1,2,3\n"), "whole .npy file"),
    "header": (spoil_header, "whole .npy file"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps([1.0])), "whole .npy file"),
    "objects": (lambda p: np.save(p, np.array([1, "a"], dtype=object)), "whole .npy file"),
    "archive": (lambda p: zipfile.ZipFile(p, "w").close(), "whole .npy file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "whole .npy file"),
    "too long": (lambda p: p.write_bytes(p.read_bytes() + b"x"), r"bytes by its header; got \d+"),
    "text": (lambda p: np.save(p, np.array(["a"])), "must hold numbers; got dtype <U1"),
    "complex": (lambda p: np.save(p, np.ones((2, 2)) * 1j), "must hold numbers; got dtype comp"),
    "dates": (lambda p: np.save(p, np.zeros(2, "M8[s]")), "must hold numbers; got dtype dat"),
    "no steps": (lambda p: np.save(p, np.ones((0, 2))), r"no size 0; got \(0, 2\)"),
    "no feature": (lambda p: np.save(p, np.ones((3, 0))), r"no size 0; got \(3, 0\)"),
    "scalar": (lambda p: np.save(p, np.float64(1)), r"must have shape \(steps,\).*; got \(\)"),
    "three axes": (lambda p: np.save(p, np.ones((2, 2, 2))), r"must have shape .* got \(2, 2, 2\)"),
    "features": (lambda p: np.save(p, np.ones((2, 3))), "columns; got 2 in '000.npy' and 3 in"),
    "whole": (lambda p: np.save(p, np.ones((2, 2), int)), "float64 numbers in '000.npy' and whole"),
    "precision": (lambda p: np.save(p, np.ones((2, 2), "f4")), "float64 .* and float32 in"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_before_anything_is_read(plain, kind):
    break_it, message = BROKEN[kind]
    break_it(plain / "004.npy")
    with pytest.raises(ValueError, match=message) as caught:
        SequenceFolder(plain)
    assert str(caught.value).startswith("path: ")
    assert "'004.npy'" in str(caught.value)


def test_what_lies_beside_must_fit(plain):
    steps = [len(np.load(path)) for path in sorted(plain.glob("*.npy"))]
    for wrong in ([1] * (steps[1] + 1), [steps[1] + 1, -1], [float(steps[1])], [[steps[1]]], []):
        np.save(plain / "001.lengths.npy", np.array(wrong))
        with pytest.raises(ValueError, match=rf"'001.lengths.npy' must hold .* {steps[1]}, the"):
            SequenceFolder(plain)
    (plain / "001.lengths.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'001.lengths.npy' must be a whole"):
        SequenceFolder(plain)
    (plain / "001.lengths.npy").rename(plain / "gone.lengths.npy")
    with pytest.raises(ValueError, match=r"'gone.lengths.npy' must lie beside"):
        SequenceFolder(plain)
    (plain / "gone.lengths.npy").unlink()
    for n, length in enumerate(steps[:-1]):
        np.save(plain / f"{n:03d}.times.npy", np.arange(length))
    with pytest.raises(ValueError, match=r"times beside them; got no '008.times.npy'"):
        SequenceFolder(plain)
    np.save(plain / "008.times.npy", np.arange(steps[-1] + 1.0))
    with pytest.raises(ValueError, match=rf"'008.times.npy' must have {steps[-1]} rows"):
        SequenceFolder(plain)


def test_other_bad_arguments(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").touch()
    (tmp_path / "empty" / ".hidden.npy").touch()
    cases = [
        (tmp_path / "none", {}, "path must be a folder; got"),
        (tmp_path / "empty", {}, "path must be a folder of .npy files; got none"),
        (plain / "000.npy", {}, "path must be a folder; got"),
        (plain, {"codes": True}, "codes must have one feature; got 2 columns in '000.npy'"),
        (plain, {"features": ["one"]}, "features must be 2 names; got 1"),
        (plain, {"symbols": ["a"]}, "symbols name integer codes"),
    ]
    for path, options, message in cases:
        with pytest.raises(ValueError, match=message):
            SequenceFolder(path, **options)
    folder = SequenceFolder(plain)
    for call in (lambda: folder.batches(0), lambda: folder.sample(1.5), lambda: folder.sample(0)):
        with pytest.raises(ValueError, match="must be a whole number of at least 1; got"):
            call()
    with pytest.raises(ValueError, match="parts must"):
        folder.split([2.0], seed=0)
    with pytest.raises(IndexError):
        folder[9]


def test_values_that_are_none_are_refused_with_their_file_when_they_are_read(plain):
    rows = np.load(plain / "005.npy")
    rows[0, 0] = np.inf
    np.save(plain / "005.npy", rows)
    folder = SequenceFolder(plain)
    assert len(folder[:5]) == 5
    with pytest.raises(
        ValueError, match=r"^'005\.npy': values must be finite .* in sequence 3 .'005'"
    ):
        folder[2:]
    np.save(plain / "006.npy", np.ones((99, 2)))
    with pytest.raises(ValueError, match=r"'006\.npy' has changed, .*; got \d+"):
        folder[6]
    (plain / "007.npy").unlink()
    with pytest.raises(ValueError, match=r"'007\.npy' cannot be read any more"):
        folder[[1, 7]]


def test_bad_writing_leaves_nothing_behind(tmp_path):
    good = np.ones((3, 2))
    cases = [
        ([], "sequences must hold at least one array; got none"),
        ([good, np.ones((0, 2))], r"sequences\[1\] must have shape"),
        ([good, np.ones((3, 3))], r"sequences\[1\] must have shape"),
        ([good, np.ones((3, 2), "f4")], r"sequences\[1\] must be float64.*; got float32"),
        ([good, good * np.inf], r"sequences\[1\] must be finite .*; got inf"),
        ([good, "text"], r"sequences\[1\] must hold numbers"),
        ({"a": good}, "sequences must be arrays, one per sequence; got dict"),
    ]
    for sequences, message in cases:
        with pytest.raises(ValueError, match=message):
            write_folder(sequences, tmp_path / "data", file_size=40)
        assert not list(tmp_path.iterdir())
    for wrong in ([0, -1], [0.5, 1.0]):
        with pytest.raises(ValueError, match=r"sequences\[0\] must hold codes 0, 1, 2"):
            write_folder([np.array(wrong)], tmp_path / "data", codes=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for path in (tmp_path / "full", tmp_path / "none" / "data"):
        with pytest.raises(ValueError, match="path must be a new folder inside an existing one"):
            write_folder([good], path)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    with pytest.raises(ValueError, match="file_size must be a whole number"):
        write_folder([good], tmp_path / "data", file_size=0)


# Models and fits


def counts(n=30, seed=0):
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    truth = model.with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 8.0]
    )
    lengths = np.random.default_rng(seed).integers(3, 12, n)
    return model, truth.sample(n, lengths, seed=seed).data


def test_a_model_checks_a_folder_and_names_the_file(tmp_path, monkeypatch):
    model, data = counts()
    path = one_file_each(data.arrays(), tmp_path / "data")
    monkeypatch.setattr("beliefzoo.models.data.folders._AT_ONCE", 5 * data.max_length)
    folder = SequenceFolder(path)
    assert [len(piece) for piece in folder.pieces()] == [5] * 6
    model.check(folder)
    assert model.scaled_to(folder).emission == model.scaled_to(data).emission
    few = SequenceFolder(one_file_each([[1.0]], tmp_path / "few"))
    with pytest.raises(ValueError, match="2 states need at least as many observed steps, got 1"):
        model.check(few)
    np.save(path / "017.npy", np.full((4, 1), 0.5))
    with pytest.raises(ValueError, match=r"'017\.npy': data: Poisson needs whole numbers >= 0"):
        model.check(SequenceFolder(path))
    guide = BeliefGuide(model, ExactFilter())
    with pytest.raises(ValueError, match=r"'017\.npy': data: Poisson needs whole numbers"):
        fit(model, guide, SequenceFolder(path), progress=False)
    with pytest.raises(ValueError, match=r"'017\.npy': data: Poisson needs whole numbers"):
        fit(model, guide, data, heldout=SequenceFolder(path), progress=False)


@pytest.mark.parametrize("batch_size", [8, 100], ids=["minibatches", "all at once"])
@pytest.mark.parametrize("filt", [ExactFilter(), LSTMFilter(4)], ids=["exact", "lstm"])
def test_a_fit_of_a_folder_is_a_fit_of_its_data_bit_for_bit(tmp_path, filt, batch_size):
    """Starts, scales, what is held out, batches, evaluations: all as in memory."""
    model, data = counts()
    folder = SequenceFolder(write_folder(data, tmp_path / "data", file_size=300))
    settings = FitSettings(
        steps=8,
        batch_size=batch_size,
        sleep_steps=2,
        restarts=2,
        restart_steps=2,
        evaluate_every=4,
    )
    guide = BeliefGuide(model, filt)
    memory, disk = (
        fit(model, guide, one, settings=settings, seed=3, progress=False) for one in (data, folder)
    )
    for field in ("losses", "evaluations", "restart_bounds"):
        assert torch.equal(getattr(memory, field), getattr(disk, field)), field
    for name, value in memory.guide.state_dict().items():
        assert torch.equal(disk.guide.state_dict()[name], value), name
    starts = [starting_values(model, one, seed=1) for one in (data, folder)]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


def test_a_fit_of_codes_and_of_inputs(tmp_path):
    rng = np.random.default_rng(0)
    text = Sequences.from_text(["abba", "abab", "bb"] * 8, alphabet="ab")
    driven = Sequences.from_arrays(
        [rng.normal(size=5) for _ in range(24)], inputs=[rng.normal(size=5) for _ in range(24)]
    )
    moved = HiddenMarkovModel(2, Gaussian(1), transition=InputTransition(1))
    settings = FitSettings(steps=3, batch_size=8, sleep_steps=1)
    for model, data in ((HiddenMarkovModel(2, Categorical(2)), text), (moved, driven)):
        path = write_folder(data, tmp_path / str(data.is_codes))
        folder = SequenceFolder(path, codes=data.is_codes)
        guide = BeliefGuide(model, LSTMFilter(3))
        runs = [fit(model, guide, one, settings=settings, progress=False) for one in (data, folder)]
        assert torch.equal(runs[0].losses, runs[1].losses)


def test_a_checkpoint_knows_its_folder_wherever_it_lies(tmp_path):
    model, data = counts()
    folder = SequenceFolder(one_file_each(data.arrays(), tmp_path / "data"))
    settings = FitSettings(steps=3, batch_size=8)
    guide = BeliefGuide(model, ExactFilter())
    path = tmp_path / "fit.pt"
    first = fit(model, guide, folder, settings=settings, checkpoint=path, progress=False)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    copied = SequenceFolder(tmp_path / "copy")
    again = fit(model, guide, copied, settings=settings, checkpoint=path, progress=False)
    assert torch.equal(again.losses, first.losses)
    rows = np.load(tmp_path / "copy" / "009.npy")
    rows[-1] += 1
    np.save(tmp_path / "copy" / "009.npy", rows)
    others = SequenceFolder(tmp_path / "copy"), copied.split([0.5], seed=0)[0], data
    for other in others:
        with pytest.raises(ValueError, match="belongs to another fit"):
            fit(model, guide, other, settings=settings, checkpoint=path, progress=False)


def test_every_number_of_a_folder_counts(tmp_path):
    rows = np.zeros(20_000)
    for place in (None, 6_000):  # far from what a glance at the file would read
        if place is not None:
            rows[place] = 1e-300
        one_file_each([rows], tmp_path / str(place))
    prints = [SequenceFolder(tmp_path / str(place)).fingerprint() for place in (None, 6_000)]
    assert prints[0] != prints[1]


def test_a_folder_larger_than_memory_is_fitted_in_a_little_of_it(tmp_path, monkeypatch):
    """16 GB in four files, sparse on disk: a fit of three steps reads and holds a few megabytes.

    What is held is what numpy allocates; what is read are the rows taken from the mapped files.
    """
    steps, sequences = 1000, 10**6
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0, "f4"))
    lengths = np.full(sequences, steps)
    for n in range(4):
        with (tmp_path / f"{n}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header | {"shape": (sequences * steps,)})
            file.truncate(file.tell() + 4 * sequences * steps)
        np.save(tmp_path / f"{n}.lengths.npy", lengths)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 16e9
    model = HiddenMarkovModel(2, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    start = {"rate": torch.tensor([0.5, 1.0])}
    settings = FitSettings(steps=3, batch_size=16, start=start)
    read = [0]
    take = np.array

    def counted(rows, *arguments, **options):
        if isinstance(rows, np.memmap):
            read[0] += rows.nbytes
        return take(rows, *arguments, **options)

    monkeypatch.setattr("beliefzoo.models.data.folders.np.array", counted)
    tracemalloc.start()
    folder = SequenceFolder(tmp_path)
    opened = read[0]
    assert opened == 8 * 4 * sequences  # the lengths alone
    heldout = folder.split([4 * sequences - 16, 16], seed=0)[1]
    monkeypatch.setattr(SequenceFolder.sample, "__kwdefaults__", {"seed": 0, "numbers": 2**16})
    fit(model, guide, folder, settings=settings, heldout=heldout, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 4 * sequences  # bytes a sequence, whatever its length
    batches = 3 + 1 + 4  # steps, evaluation, dead states
    assert read[0] - opened <= 4 * steps * 16 * batches + 4 * 2**16


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.npy", tmp_path / "data"
    np.save(outside, np.arange(3.0))
    folder.mkdir()
    np.save(folder / "a.npy", np.arange(4.0))
    (folder / "b.npy").symlink_to("a.npy")  # inside
    data = SequenceFolder(folder)
    assert data.lengths.tolist() == [4, 4]
    for name in ("c.npy", "a.times.npy", "a.lengths.npy"):
        link = folder / name
        link.symlink_to(outside)
        with pytest.raises(ValueError, match=f"'{name}' must lie in the folder itself; got a link"):
            SequenceFolder(folder)
        link.unlink()
    np.save(outside, np.arange(4.0))
    (folder / "a.npy").unlink()
    (folder / "a.npy").symlink_to(outside)  # after it was opened
    with pytest.raises(ValueError, match=r"'a.npy' must lie in the folder itself; got a link"):
        data[0]
    elsewhere = tmp_path / "elsewhere"  # the folder itself may be reached by a link
    elsewhere.symlink_to(tmp_path / "own")
    write_folder([[1.0, 2.0]], tmp_path / "own")
    assert len(SequenceFolder(elsewhere)) == 1


def spoiled(files, rng):
    """A file with flipped bits, cut, lengthened, gone, doubled under another name, or swapped."""
    path, other = rng.choice(files), rng.choice(files)
    whole = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "head", "head", "cut", "long", "gone", "name", "swap"])
    if kind in ("flip", "head"):
        for _ in range(rng.randrange(1, 4)):
            end = 128 if kind == "head" else len(whole)
            whole[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del whole[rng.randrange(len(whole)) :]
    elif kind == "long":
        whole += rng.randbytes(1 + rng.randrange(20))
    elif kind == "swap":
        whole[:] = other.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "name":
        endings = ("", ".lengths", ".times", ".actions", ".inputs", ".nosuch", "\n", "é")
        (path.parent / f"{path.name.split('.')[0]}{rng.choice(endings)}.npy").write_bytes(whole)
    else:
        path.write_bytes(whole)


@pytest.mark.cases(150 * TIMES)
def test_fuzz_spoiled_folders_are_read_or_refused(tmp_path):
    """Numbers have no checksum: what is still a folder is read, and is data."""
    rng, place = random.Random(0), tmp_path / "data"
    arrays = [array for array in ragged(5) if not np.isnan(array).all()]
    times = [np.arange(len(array)) + 0.5 for array in arrays]
    actions = [np.arange(len(array)) % 2 for array in arrays]
    data = Sequences.from_arrays(arrays, times=times, actions=actions)
    write_folder(data, tmp_path / "whole", file_size=200)
    said = []
    for number in range(150 * TIMES):
        shutil.copytree(tmp_path / "whole", place)
        spoiled(sorted(place.iterdir()), rng)
        try:
            data = SequenceFolder(place)[:]
            assert same(dataclasses.replace(data), data)
        except ValueError as error:
            said.append(str(error))
        except Exception as error:
            raise AssertionError(f"case {number} ends otherwise: {error!r}") from error
        shutil.rmtree(place)
    assert said
    assert [one for one in said if not re.search(r"\.npy'|^path", one)] == []
