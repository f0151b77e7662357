"""Loaders of the data sets of the experiments.

Small series come with the package, English text with Python itself. Larger sets are read from the
folder that the environment variable ``BELIEFZOO_DATA`` names, and only if their SHA-256 is the
expected one. Nothing is downloaded: none of these sets has a public address with a published
checksum. `experiments/data/README.md` states where each comes from.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models import (
    POMDP,
    LabelledHMM,
    Sequences,
    read_automaton,
    read_pomdp,
    read_strings,
)

_SERIES = Path(__file__).parent
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

_SHAKESPEARE = (
    "text/letters_shakespeare_100k.txt",
    "de59cb3eacc31bcef5d9af505de12f4886215e73930139c2584da66a81346d6d",
)
_MACRODATA = (
    "series/us_macrodata.csv",
    "242dee4a4188894324cf152b49e31e1687e359cfdbc2ea5a2f8a69a9d0e1a849",
)
_CO2 = (
    "series/co2_weekly.csv",
    "2737f74222cf1fb702d41058927d2b8d2a34778d519bfa6b1dea2f1b47c234f4",
)
_RETURNS = (
    "reports/returns_212.csv",
    "f314fbd63f2a505b45ac177712108fe847c55df86c1d171c42735ee9c806890d",
)
_SPEED = (
    "reports/speed.csv",
    "0ff98ecbf8be4174bf7a9cef5f7be398c010e044fefdb89690c0e33791ae1d60",
)
_EARNINGS = (
    "series/johnson_johnson.csv",
    "68ede837df36f39abe1d8e07874e35bc69756311e402cc7ec20394939dc32c78",
)
_DANCES = (
    "bee/bee_dance_scaled.npz",
    "646f7699e4841532754884cdcecdd9add957e4b82021c5af343e94fc3bcb670c",
)
_CHORALES = (
    "music/jsb_chorales.npz",
    "c243f5ccd6c7ee5c28bb6bb6a523de6508cc64e03430e7071bcc30fe42a65fcf",
)
_PIANO = (
    "music/piano_midi.npz",
    "2c65c28b2c1558748adfba90549686458c0a0446bf3b2fe73c7c65de405509a4",
)
_MUSE = (
    "music/musedata.npz",
    "ac460af1bf4e5d35abbfcdd4a461c0b26469f4bd61f2afa9a7ed9b1d5710b14f",
)
_TRANSPLANTS = (
    "panel/cav.csv",
    "a21beacd07fea540edac41e1705690794e3a16ce354be5aea3ab44798ca51db0",
)

_FLOORS = {
    14: 116.7919,
    28: 52.7435,
    33: 31.8650,
    38: 21.4458,
    45: 24.0422,  # hidden Markov models
    30: 22.9260,
    31: 41.2136,
    39: 10.0020,
    29: 24.0308,  # automata
    24: 38.7288,
    42: 16.0038,
    7: 51.2243,  # deterministic automata
}
"""The score of the true machine of each set of strings, as the challenge has published it."""

_PARTS = ("train.gz", "test.gz", "model.txt", "solution.txt")

_PROBLEMS = {
    "1d": (
        "pomdp/1d.POMDP",
        "c1bda75146e93b0c91bb855a2f28aa8a7ffbafbe25edd85002be6eab41153b6c",
    ),
    "1d.noisy": (
        "pomdp/1d.noisy.POMDP",
        "d0a933cb7806b3b31549c0e6a91af90ada965ee92c4d0f8e29a4f10ccce77264",
    ),
    "4x3": (
        "pomdp/4x3.95.POMDP",
        "0fa62301931960d682b02961ffd38f4dd6b8e8835bc0203f4a12f849c267d6ff",
    ),
    "bridge-repair": (
        "pomdp/bridge-repair.POMDP",
        "d3f64b970d4612203da5eee5d2da14b2f0f1c36a347dda1aa6065c827e85f3b8",
    ),
    "cheese": (
        "pomdp/cheese.95.POMDP",
        "ccda4da997cca14e98d2a83873082cebfde9f053790c877f8768f0c658a8b93c",
    ),
    "concert": (
        "pomdp/concert.POMDP",
        "27e994437594d47eddba62dd13fb61930fd129e830c05297f95b149065c800d6",
    ),
    "hallway": (
        "pomdp/hallway.POMDP",
        "f32e63798d160aa62974d057dbb34259d400367678f5e33884c3ef34c2df9cd6",
    ),
    "light_maze": (
        "pomdp/light_maze.POMDP",
        "fa9b784581334841d4e49fc579ed53a4221a11efbf3f5fc19ad9500617f92eb2",
    ),
    "mini-hall2": (
        "pomdp/mini-hall2.POMDP",
        "c9040d0e0556284ff64f3580c4158f348c8b9679f5051303dd5c63f39e5ce37f",
    ),
    "network": (
        "pomdp/network.POMDP",
        "0fc9cfe80d0444b528b42f30b8d0f96d4595c36f397ab213732d90b1d144d321",
    ),
    "paint": (
        "pomdp/paint.95.POMDP",
        "eca05e85c18715f86658b480540bb89ede0cb1577c071c0e3c731a160794b38a",
    ),
    "parr95": (
        "pomdp/parr95.95.POMDP",
        "f96875c1b71d58af6bd4279f10df46f25b4bb7d1fe0249472a717fe071fd5265",
    ),
    "query.s2": (
        "pomdp/query.s2.POMDP",
        "2f150bb412b1ad70ccf371f1104b33aea85515eafd4d44b85c28f5b41153a83a",
    ),
    "saci": (
        "pomdp/saci-s12-a6-z5.95.POMDP",
        "f0f0dd4d45a8bb2fa0ef07ff28b2e7d59d7de739049d72969361a053ff0095c0",
    ),
    "shuttle": (
        "pomdp/shuttle.95.POMDP",
        "a69baec2d6e83e239bafa4c6b74faead794e7c91400bf69c7d3813ed114cea94",
    ),
    "stand-tiger": (
        "pomdp/stand-tiger.95.POMDP",
        "b0befc53712ff44e150d21f0214203b97c98ae6b4acb31f8c16144c30d5c75df",
    ),
    "tag": (
        "pomdp/tag_avoid.POMDP.gz",
        "14fd61303ec73e4afd23952c7c60f5aaeb1905bb1e18ee38afeb64fbc96bf818",
    ),
    "tiger": (
        "pomdp/tiger.95.POMDP",
        "ef15515a230f600a9e5c5f1636708e15aca7a962d1095356652f8ebe82053ba0",
    ),
    "tiger.aaai": (
        "pomdp/tiger.aaai.POMDP",
        "61454b9bf84faf427c8275feea26d81d8e69fea30a727bed5cfb63b3a1c21ae1",
    ),
}
"""Files of decision processes, and their checksums, by the names that ``load_problem`` takes."""


def load_earthquakes() -> Sequences:
    """Earthquakes of magnitude 7 and above in the world, a year, 1900 to 2006.

    One sequence of 107 counts (shape (1, 107, 1)); ``times`` are the years.
    """
    return _series("earthquakes", "count")


def load_nile() -> Sequences:
    """Yearly flow of the Nile at Aswan, 1871 to 1970, in 10⁸ m³.

    One sequence of 100 flows (shape (1, 100, 1)); ``times`` are the years.
    """
    return _series("nile", "flow")


def load_unemployment() -> Sequences:
    """Unemployment rate of the United States in percent, quarterly, 1959 to the autumn of 2009.

    One sequence of 203 rates (shape (1, 203, 1), float64); ``times`` are years, quarters being
    0, 0.25, 0.5 and 0.75.

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    table = np.genfromtxt(_from_data_folder(*_MACRODATA), delimiter=",", names=True)
    years = table["year"] + (table["quarter"] - 1) / 4
    return Sequences.from_arrays(
        [table["unemp"]], times=[years], labels=["unemployment"], features=["percent"]
    )


def load_co2() -> Sequences:
    """Carbon dioxide in the air at Mauna Loa, weekly, from 29 March 1958 to 29 December 2001.

    One sequence of 2284 values in parts per million (shape (1, 2284, 1), float64), 59 of them
    missing; ``times`` are days since the first Saturday, 7 apart.

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    table = np.genfromtxt(
        _from_data_folder(*_CO2), delimiter=",", names=True, dtype="M8[D],f8", encoding="ascii"
    )
    days = (table["date"] - table["date"][0]).astype(np.float64)
    return Sequences.from_arrays([table["co2"]], times=[days], labels=["co2"], features=["ppm"])


def load_returns() -> Sequences:
    """Returns of a security, 212 numbers of the order of 1e-4, on which fits have failed.

    One sequence (shape (1, 212, 1), float64).

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    return Sequences.from_arrays([np.loadtxt(_from_data_folder(*_RETURNS))])


def load_response_times() -> Sequences:
    """Logarithms of response times in 439 trials, as one sequence, and the pay-off for accuracy.

    ``inputs`` are the pay-offs with mean 0 and standard deviation 1 (data ``speed`` of the R
    package depmixS4).

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    path = _from_data_folder(*_SPEED)
    times, payoff = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 2)).T
    driver = (payoff - payoff.mean()) / payoff.std(ddof=1)
    return Sequences.from_arrays([times], inputs=[driver[:, None]])


def load_earnings() -> Sequences:
    """Quarterly earnings a share of Johnson & Johnson, 1960 to 1980, 84 numbers (dollars).

    One sequence (shape (1, 84, 1), float64); ``times`` are years.

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    years, values = np.loadtxt(_from_data_folder(*_EARNINGS), delimiter=",", skiprows=1).T
    return Sequences.from_arrays([values], times=[years])


def load_english_letters(
    length: int = 100, *, source: Literal["pydoc", "shakespeare"] = "pydoc"
) -> Sequences:
    """English text as codes of 27 symbols: 0 the space, shown as "_", then a to z.

    Letters are lower-cased and every run of other characters is one space. The text is cut into
    pieces of ``length`` characters, in order; the last piece may be shorter.

    Args:
        length: characters a piece, at least 1.
        source: ``"pydoc"``, the help topics of the running Python (about 375 000 letters and
            spaces; they differ a little between Python versions), or ``"shakespeare"``, 100 000
            characters from the folder BELIEFZOO_DATA.

    Raises:
        ValueError: for another source or length, and, with ``"shakespeare"``, where
            BELIEFZOO_DATA is not set or does not hold the file with the expected checksum.
    """
    if source not in ("pydoc", "shakespeare"):
        raise ValueError(f"source must be 'pydoc' or 'shakespeare'; got {source!r}")
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"length must be a whole number of at least 1; got {length!r}")
    if source == "pydoc":
        from pydoc_data.topics import topics

        text = " ".join(topics[name] for name in sorted(topics))
    else:
        text = _from_data_folder(*_SHAKESPEARE).read_text(encoding="ascii")
    text = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    pieces = [text[start : start + length] for start in range(0, len(text), length)]
    letters = Sequences.from_text(pieces, alphabet=" " + _LETTERS)
    return Sequences.from_tensors(
        letters.values, letters.mask, letters.lengths, codes=True, symbols=("_", *_LETTERS)
    )


def load_bee_dances() -> tuple[Sequences, list[list[int]]]:
    """Six dances of honey bees (Oh, Rehg, Balch & Dellaert 2008), tracked frame by frame.

    Returns the dances (6 sequences of 602 to 1124 frames; features x, y, turn), and of each the
    frames at which the behaviour changes (turning left, turning right, waggling: which of them it
    is, is not in the file). Each feature was scaled to [0, 1] over each dance by those who passed
    the file on. The third is described as the heading, but it has no level that drifts or wraps
    around, and returns to the middle when the bee flies straight: it is a heading's change.

    Raises:
        ValueError: where BELIEFZOO_DATA is not set or does not hold the file with the expected
            checksum.
    """
    with np.load(_from_data_folder(*_DANCES), allow_pickle=False) as file:
        dances = [file[f"y{number}"] for number in range(1, 7)]
        marks = [np.flatnonzero(file[f"change{number}"]).tolist() for number in range(1, 7)]
    data = Sequences.from_arrays(
        dances,
        labels=[f"dance {number}" for number in range(1, 7)],
        features=("x", "y", "turn"),
    )
    return data, marks


def load_piano_midi() -> tuple[Sequences, Sequences, Sequences]:
    """Classical piano pieces: which of 88 pitches sound, a quarter-beat at a time.

    The splits of Boulanger-Lewandowski, Bengio and Vincent (2012), as (train, valid, test) of 87,
    12 and 25 sequences with 111 to 3857 steps in training, as ``load_jsb_chorales``.

    Raises:
        ValueError: as ``load_jsb_chorales``.
    """
    return _music(*_PIANO)


def load_musedata() -> tuple[Sequences, Sequences, Sequences]:
    """Orchestral and piano music: which of 88 pitches sound, a quarter-beat at a time.

    The splits of Boulanger-Lewandowski, Bengio and Vincent (2012), as (train, valid, test) of 524,
    135 and 124 sequences with 9 to 3457 steps in training, as ``load_jsb_chorales``.

    Raises:
        ValueError: as ``load_jsb_chorales``.
    """
    return _music(*_MUSE)


def load_jsb_chorales() -> tuple[Sequences, Sequences, Sequences]:
    """Chorales by J. S. Bach: which of 88 pitches sound, a quarter-beat at a time.

    The splits of Boulanger-Lewandowski, Bengio and Vincent (2012), as (train, valid, test) of
    229, 76 and 77 sequences with 25 to 160 steps and 88 features (0 or 1), named from A0 to C8.

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    return _music(*_CHORALES)


def _music(relative: str, sha256: str) -> tuple[Sequences, Sequences, Sequences]:
    with np.load(_from_data_folder(relative, sha256), allow_pickle=False) as archive:
        train, valid, test = (
            _piano_rolls(archive[f"{split}_bits"], archive[f"{split}_lengths"])
            for split in ("train", "valid", "test")
        )
    return train, valid, test


def load_heart_transplants() -> Sequences:
    """Coronary disease after heart transplants: 622 patients seen at irregular times until death.

    Codes 0 to 3 (none, mild, severe, dead) at 2846 visits, at most 15 a patient, with ``times`` in
    years since the transplant, which is the first visit. Times of death are exact; grades are read
    off angiograms, and can be wrong but for the first (Sharples et al. 2003; data ``cav`` of the R
    package msm).

    Raises:
        ValueError: where the environment variable BELIEFZOO_DATA is not set or does not hold the
            file with the expected checksum.
    """
    names = "PTNUM", "years", "state"
    with _from_data_folder(*_TRANSPLANTS).open(encoding="ascii", newline="") as file:
        rows = [[row[name] for name in names] for row in csv.DictReader(file)]
    patients: dict[str, list[tuple[float, int]]] = {}
    for patient, years, state in rows:
        patients.setdefault(patient, []).append((float(years), int(state) - 1))
    return Sequences.from_arrays(
        [[state for _, state in visits] for visits in patients.values()],
        times=[[years for years, _ in visits] for visits in patients.values()],
        labels=patients,
        codes=True,
        symbols=("none", "mild", "severe", "dead"),
    )


def load_problem(name: str) -> POMDP:
    """A classic decision process, read from its .POMDP file.

    Args:
        name: tiger (discount .95), tiger.aaai (.75), 1d, 1d.noisy, 4x3, bridge-repair, cheese,
            concert, hallway, light_maze, mini-hall2, network, paint, parr95, query.s2, saci,
            shuttle, stand-tiger or tag. Two have a discount of 1: bridge-repair and concert.

    In the file of mini-hall2 the row of T for the goal, which leads back to the initial law, is a
    comment; it is read as if it were there.

    Raises:
        ValueError: another name, or where BELIEFZOO_DATA is not set or does not hold the file with
            the expected checksum.
    """
    if name not in _PROBLEMS:
        raise ValueError(f"name must be one of {sorted(_PROBLEMS)}; got {name!r}")
    path = _from_data_folder(*_PROBLEMS[name])
    return read_pomdp(path, unset="reset" if name == "mini-hall2" else "refuse")


class StringProblem(NamedTuple):
    """Strings of a known machine, of the PAutomaC challenge (Verwer, Eyraud & de la Higuera 2014).

    Every string ends with the end symbol, see ``as_strings``.
    """

    train: Sequences
    """Strings to learn from; many are there several times."""
    test: Sequences
    """1000 different strings."""
    symbols: int
    """Number of symbols V without the end."""
    machine: LabelledHMM
    """The machine that drew them."""
    chances: Tensor
    """p of the test strings under it, as published, normalised over them, (1000,)."""


def load_strings(problem: int) -> StringProblem:
    """Strings of one of twelve problems of the PAutomaC challenge.

    Args:
        problem: 14, 28, 33, 38, 45 (hidden Markov models), 29, 30, 31, 39 (automata), 7, 24, 42
            (deterministic automata).

    Raises:
        ValueError: another problem, or where BELIEFZOO_DATA is not set or does not hold its files,
            or the score of the published chances is not the published one.
    """
    if problem not in _FLOORS:
        raise ValueError(f"problem must be one of {sorted(_FLOORS)}; got {problem!r}")
    paths = [_in_data_folder(f"strings/{problem}.{part}") for part in _PARTS]
    (train, symbols), (test, _) = map(read_strings, paths[:2])
    machine = read_automaton(paths[2], symbols)
    listed = [float(word) for word in paths[3].read_text(encoding="utf-8").split()[1:]]
    chances = torch.tensor(listed, dtype=torch.float64)
    chances /= chances.sum()
    floor = float(2 ** -(chances * chances.log2()).sum())
    if len(chances) != len(test) or abs(floor - _FLOORS[problem]) > 1e-4:
        raise ValueError(
            f"{paths[3]} must have the chances of the {len(test)} test strings, of score "
            f"{_FLOORS[problem]}; got {len(chances)} of score {floor:.4f}"
        )
    return StringProblem(train, test, symbols, machine, chances)


def _series(name: str, feature: str) -> Sequences:
    """A yearly series of the package."""
    table = np.loadtxt(_SERIES / f"{name}.csv", delimiter=",", skiprows=1, dtype=np.int64)
    return Sequences.from_arrays(
        [table[:, 1]], times=[table[:, 0]], labels=[name], features=[feature]
    )


def _piano_rolls(bits: np.ndarray, lengths: np.ndarray) -> Sequences:
    """Stacked frames of 88 packed bits, cut into sequences."""
    frames = np.unpackbits(bits, axis=1, count=88)
    return Sequences.from_arrays(
        np.split(frames, np.cumsum(lengths)[:-1]), features=list(_pitch_names())
    )


def _pitch_names() -> Iterator[str]:
    """Names of MIDI pitches 21 to 108, the keys of a piano."""
    for pitch in range(21, 109):
        yield f"{_NOTES[pitch % 12]}{pitch // 12 - 1}"


def _from_data_folder(relative: str, sha256: str) -> Path:
    """A file below the folder BELIEFZOO_DATA, its checksum verified."""
    path = _in_data_folder(relative)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{relative} must have the SHA-256 {sha256}; the file there has {found}")
    return path


def _in_data_folder(relative: str) -> Path:
    """A file below the folder BELIEFZOO_DATA."""
    named = os.environ.get("BELIEFZOO_DATA")
    if not named:
        raise ValueError(
            f"the environment variable BELIEFZOO_DATA must name the folder that holds {relative}; "
            "it is not set"
        )
    path = Path(named) / relative
    if not path.is_file():
        raise ValueError(f"BELIEFZOO_DATA must name a folder that holds {relative}; got {named!r}")
    return path
