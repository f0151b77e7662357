"""Data sets of the experiments: their content against what is published about them."""

import hashlib
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.experiments.data import loaders as data
from beliefzoo.experiments.data.loaders import (
    load_co2,
    load_earthquakes,
    load_english_letters,
    load_heart_transplants,
    load_jsb_chorales,
    load_musedata,
    load_nile,
    load_piano_midi,
    load_problem,
    load_unemployment,
)
from beliefzoo.models import Sequences
from checkout import ROOT


@pytest.fixture
def data_folder(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BELIEFZOO_DATA", str(shared_data))
    return shared_data


def test_the_files_of_the_package_are_those_of_the_readme() -> None:
    folder = ROOT / "experiments" / "data"
    stated = dict(
        re.findall(r"`(\w+\.csv)` \| `([0-9a-f]{64})`", (folder / "README.md").read_text())
    )
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.csv")}
    assert stated == found


def test_earthquakes() -> None:
    # Zucchini & MacDonald: 107 years, mean 19.36, variance 51.57; 41 in 1943 the most, 6 the least.
    quakes = load_earthquakes()
    counts = quakes.values[0, :, 0].double()
    assert quakes.values.shape == (1, 107, 1)
    assert quakes.mask.all()
    assert quakes.times is not None
    assert torch.equal(quakes.times[0], torch.arange(1900, 2007, dtype=torch.float64))
    assert counts.mean().item() == pytest.approx(19.36, abs=5e-3)
    assert counts.var().item() == pytest.approx(51.57, abs=5e-3)
    assert quakes.times[0, counts.argmax()] == 1943
    assert (counts.max().item(), counts.min().item()) == (41, 6)
    assert torch.equal(counts, counts.round())
    assert (quakes.labels, quakes.features) == (("earthquakes",), ("count",))


def test_heart_transplants(data_folder: Path) -> None:
    # The table of consecutive states that msm's manual prints for these data.
    cav = load_heart_transplants()
    assert (len(cav), cav.n_steps, int(cav.lengths.max())) == (622, 2846, 15)
    assert cav.times is not None
    assert not cav.times[:, 0].any()
    assert not cav.values[:, 0].any()
    pairs = torch.zeros(4, 4, dtype=torch.int64)
    for codes in cav.arrays():
        for here, there in pairwise(codes):
            pairs[here, there] += 1
    assert pairs.tolist() == [[1367, 204, 44, 148], [46, 134, 54, 48], [4, 13, 107, 55], [0] * 4]


def test_nile() -> None:
    # The first and last flows as printed by R; the mean that is published everywhere, 919.35.
    nile = load_nile()
    assert nile.values.shape == (1, 100, 1)
    assert nile.times is not None
    assert nile.times[0, [0, -1]].tolist() == [1871, 1970]
    assert nile.values[0, :3, 0].tolist() == [1120, 1160, 963]
    assert nile.values[0, -1, 0] == 740
    assert nile.values.double().mean().item() == pytest.approx(919.35, abs=1e-9)


def test_unemployment(data_folder: Path) -> None:
    # The first rates and the last as published by the Bureau of Labor Statistics.
    rates = load_unemployment()
    assert rates.values.shape == (1, 203, 1)
    assert rates.mask.all()
    assert rates.times is not None
    assert rates.times[0, [0, 1, -1]].tolist() == [1959, 1959.25, 2009.5]
    assert rates.values[0, [0, 1, -1], 0].tolist() == [5.8, 5.1, 9.6]


def test_co2(data_folder: Path) -> None:
    co2 = load_co2()
    assert co2.values.shape == (1, 2284, 1)
    assert int((~co2.mask).sum()) == 59
    assert co2.times is not None
    assert (co2.times.diff() == 7).all()
    assert co2.values[0, :3, 0].tolist() == pytest.approx([316.1, 317.3, 317.6])
    assert co2.values[0, -1, 0].item() == pytest.approx(371.5)


def text_of(letters: Any) -> str:
    """All pieces, joined in order."""
    codes, lengths = letters.codes(), letters.lengths
    return "".join(
        letters.symbols[code] for row, n in zip(codes, lengths, strict=True) for code in row[:n]
    )


def test_letters_of_the_help_topics() -> None:
    from pydoc_data.topics import topics

    letters = load_english_letters(length=80)
    assert letters.symbols == ("_", *"abcdefghijklmnopqrstuvwxyz")
    assert letters.is_codes
    assert letters.mask[letters.step_mask].all()
    assert (letters.lengths[:-1] == 80).all()
    assert 1 <= letters.lengths[-1] <= 80
    text = text_of(letters)
    assert len(text) == letters.n_steps > 100_000
    assert "__" not in text
    assert text[0] != "_" != text[-1]
    # Word for word, by a slow route.
    kept = "".join(c if c in "abcdefghijklmnopqrstuvwxyz" else " " for c in joined(topics).lower())
    assert text == "_".join(kept.split())


def joined(topics: dict[str, str]) -> str:
    return " ".join(text for _, text in sorted(topics.items()))


def test_the_length_of_pieces_leaves_the_text_alone() -> None:
    short, long = load_english_letters(50), load_english_letters(100)
    assert len(short) == int(np.ceil(long.n_steps / 50))
    assert text_of(short[:4]) == text_of(long[:2])


def test_letters_of_shakespeare(data_folder: Path) -> None:
    letters = load_english_letters(source="shakespeare")
    assert len(letters) == 1000
    expected = (data_folder / "text" / "letters_shakespeare_100k.txt").read_text().strip()
    assert text_of(letters) == expected.replace(" ", "_")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "brown"}, "source must be 'pydoc' or 'shakespeare'; got 'brown'"),
        ({"length": 0}, "length must be a whole number of at least 1; got 0"),
        ({"length": 2.5}, "length must be a whole number of at least 1; got 2.5"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_english_letters(**options)


def test_chorales(data_folder: Path) -> None:
    # Numbers of sequences as published; frames, lengths and notes as counted from the originals.
    splits = load_jsb_chorales()
    assert [len(split) for split in splits] == [229, 76, 77]
    assert [int(split.n_steps) for split in splits] == [13807, 4602, 4725]
    assert [split.max_length for split in splits] == [129, 144, 160]
    train = splits[0]
    assert train.values.shape == (229, 129, 88)
    assert set(train.values.unique().tolist()) == {0.0, 1.0}
    assert train.values.sum().item() / 13807 == pytest.approx(3.898, abs=5e-4)
    assert int((train.values.sum((0, 1)) > 0).sum()) == 51
    assert (train.features[0], train.features[39], train.features[-1]) == ("A0", "C4", "C8")
    # The first bits of the file, unpacked by hand.
    with np.load(data_folder / "music" / "jsb_chorales.npz", allow_pickle=False) as archive:
        byte = archive["train_bits"][0]
    bits = [int(byte[pitch // 8]) >> (7 - pitch % 8) & 1 for pitch in range(88)]
    assert train.values[0, 0].tolist() == bits


@pytest.mark.parametrize(
    ("load", "pieces", "frames", "lengths", "notes", "pitches"),
    [
        (load_piano_midi, (87, 12, 25), (75911, 8540, 19036), (111, 3857), 3.044, 88),
        (load_musedata, (524, 135, 124), (245202, 82755, 64339), (9, 3457), 3.493, 76),
    ],
)
def test_larger_sets_of_music(
    data_folder: Path,
    load: Callable[[], tuple[Sequences, Sequences, Sequences]],
    pieces: tuple[int, ...],
    frames: tuple[int, ...],
    lengths: tuple[int, int],
    notes: float,
    pitches: int,
) -> None:
    # Numbers of sequences as published; frames, lengths and notes as counted from the originals.
    splits = load()
    assert tuple(len(split) for split in splits) == pieces
    assert tuple(int(split.n_steps) for split in splits) == frames
    train = splits[0]
    assert (int(train.lengths.min()), train.max_length) == lengths
    assert float(train.values.sum()) / frames[0] == pytest.approx(notes, abs=5e-4)
    assert int((train.values.amax((0, 1)) > 0).sum()) == pitches


@pytest.mark.parametrize("name", sorted(data._PROBLEMS))
def test_decision_processes(data_folder: Path, name: str) -> None:
    tables = load_problem(name).tables()
    assert tables.discount in (0.75, 0.95, 0.99, 1.0)
    for table in tables[:3]:
        np.testing.assert_allclose(table.sum(-1), 1, rtol=0, atol=1e-12)


def test_the_goal_of_mini_hall2_leads_back(data_folder: Path) -> None:
    tables = load_problem("mini-hall2").tables()
    np.testing.assert_allclose(tables.initial, [*[1 / 12] * 12, 0], atol=4e-6)
    np.testing.assert_array_equal(tables.transition[:, 12], [tables.initial] * 3)


def test_every_decision_process_has_a_name(data_folder: Path) -> None:
    there = {f"pomdp/{path.name}" for path in (data_folder / "pomdp").iterdir()}
    assert {relative for relative, _ in data._PROBLEMS.values()} == there
    with pytest.raises(ValueError, match=r"name must be one of \['1d', .*got 'chess'"):
        load_problem("chess")


def test_the_data_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BELIEFZOO_DATA", raising=False)
    with pytest.raises(
        ValueError, match="BELIEFZOO_DATA must name the folder that holds music/jsb"
    ):
        load_jsb_chorales()
    monkeypatch.setenv("BELIEFZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="BELIEFZOO_DATA must name a folder that holds text/lett"):
        load_english_letters(source="shakespeare")


def test_changed_data_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BELIEFZOO_DATA", str(tmp_path))
    (tmp_path / "file").write_bytes(b"abc")
    # The published digest of "abc" (FIPS 180-2, B.1).
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert data._from_data_folder("file", digest) == tmp_path / "file"
    (tmp_path / "file").write_bytes(b"abd")
    with pytest.raises(
        ValueError, match=f"file must have the SHA-256 {digest}; the file there has"
    ):
        data._from_data_folder("file", digest)
