"""The grammar of Cassandra's .POMDP files: from text to tables of numbers."""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from .rewards import MOST, Rewards

Array = npt.NDArray[np.float64]

RESERVED = frozenset(
    (
        *("discount", "values", "states", "actions", "observations"),
        *("start", "include", "exclude", "T", "O", "R"),
        *("uniform", "identity", "reset", "reward", "cost"),
    )
)
"""Words that have a meaning in the format and cannot be names."""

_ROUNDED = 1e-5
"""Rows of probabilities that miss a sum of 1 by more than this are refused (as in pomdp-solve)."""

_LARGEST = 2**27
"""Entries that the tables of T and of O may have: a gibibyte."""

_MOST_NAMES = 2**18
"""States, actions or observations that there may be."""

_MOST_SET = 2**31
"""Entries that all lines together may set: lines with * may set whole tables, time and again."""

MOST_WORDS = 2**22
"""Words that a text may have, comments aside."""

_PREAMBLE = ("discount", "values", "states", "actions", "observations")
_WORD = re.compile(r"#[^\n]*|[:*]|[^\s:*#]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[0-9]+")
_NAME = re.compile(r"[^\W\d_][\w.'-]*")
_ALL = slice(None)

_Where = tuple[slice, ...]


class Problem(NamedTuple):
    """The content of a file, as numbers; costs have become negative rewards."""

    discount: float
    states: tuple[str, ...]
    actions: tuple[str, ...]
    observations: tuple[str, ...]
    initial: Array
    """p(z_1), (K,)."""
    transition: Array
    """T(z' | z, a), (A, K, K)."""
    observation: Array
    """O(o | a, z'), (A, K, S)."""
    reward: Rewards
    """R(a, z, z', o), (A|1, K|1, K|1, S|1): of size 1 along an axis that it does not depend on."""


def parse(text: str, name: str, unset: Literal["refuse", "reset"]) -> Problem:
    """Parse the text of a file called ``name``; see ``read_pomdp`` for what is refused."""
    return _Reader(_Words(text, name), unset).read()


class _Words:
    """The words of a text, one after the other, each with its place."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._words: list[str] = []
        self._starts = array("q")
        for match in _WORD.finditer(text):
            if match[0][0] == "#":
                continue
            self._words.append(match[0])
            self._starts.append(match.start())
            if len(self._words) > MOST_WORDS:
                raise ValueError(f"{name}: needs at most 2^22 words, got more")
        self._starts.append(len(text.rstrip()))
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.at = 0
        """Number of the word that comes next."""

    @property
    def next(self) -> str:
        """The next word; empty at the end."""
        return self._words[self.at] if self.at < len(self._words) else ""

    def take(self) -> str:
        """Return the next word and move on."""
        word = self.next
        self.at += 1
        return word

    def line(self, at: int) -> int:
        """Line of a word, from 1 on."""
        return bisect_right(self._lines, self._starts[at])

    def fail(self, requirement: str, at: int | None = None, came: str | None = None) -> NoReturn:
        """Raise ``ValueError`` at a word; by default at the next one."""
        at = self.at if at is None else at
        line = self.line(at)
        column = self._starts[at] - self._lines[line - 1] + 1
        if came is None:
            came = repr(self._words[at]) if at < len(self._words) else "the end of the file"
        raise ValueError(
            f"{self.name}, line {line}, column {column}: needs {requirement}, got {came}"
        )

    def colon(self) -> None:
        if self.next != ":":
            self.fail("':'")
        self.at += 1

    @property
    def is_number(self) -> bool:
        """Whether the next word is a number, perhaps after a separate sign."""
        word = self.next
        if word in ("+", "-") and self.at + 1 < len(self._words):
            word = self._words[self.at + 1]
        return _NUMBER.fullmatch(word) is not None

    @property
    def is_alone(self) -> bool:
        """Whether the next word is a whole number and no number follows: a state's number."""
        after = self._words[self.at + 1] if self.at + 1 < len(self._words) else ""
        return _WHOLE.fullmatch(self.next) is not None and _NUMBER.fullmatch(after) is None

    @property
    def whole(self) -> int | None:
        """The next word as a whole number; None if it is none, −1 if it is one of many digits."""
        word = self.next
        if _WHOLE.fullmatch(word) is None:
            return None
        return int(word) if len(word.lstrip("0")) < 10 else -1

    def number(self, requirement: str) -> float:
        if not self.is_number:
            self.fail(requirement)
        at = self.at
        sign = self.take() if self.next in ("+", "-") else ""
        found = float(sign + self.take())
        if not math.isfinite(found):
            self.fail("a number that float64 can hold", at)
        return found


class _Reader:
    """Reads a text once; later entries override earlier ones."""

    def __init__(self, words: _Words, unset: Literal["refuse", "reset"]) -> None:
        self.words = words
        self.unset = unset
        self.discount = 0.0
        self.costs = False
        self.names: dict[str, dict[str, int]] = {}
        """Of states, actions and observations: their numbers by name."""
        self.once: dict[str, int] = {}
        """Sections of which there is one, with the place of their first word."""
        self.initial: Array | None = None
        self.tables: dict[str, Array] = {}
        """T (A, K, K) and O (A, K, S)."""
        self.set_at: dict[str, npt.NDArray[np.int64]] = {}
        """Of each row of them (A, K), the word that set it last; −1 for none."""
        self.rewards: list[tuple[_Where, Array]] = []
        self.entries = 0
        """Set by the lines so far."""
        self.rewards_at = 0
        """The word that the last of them begins with."""

    def read(self) -> Problem:
        words = self.words
        sections: dict[str, Callable[[], None]] = {
            "discount": self._discount,
            "values": self._values,
            **{axis: lambda axis=axis: self._axis(axis) for axis in _PREAMBLE[2:]},  # type: ignore[misc]
            "start": self._start,
            "T": lambda: self._probabilities("T", "states"),
            "O": lambda: self._probabilities("O", "observations"),
            "R": self._reward,
        }
        while words.next:
            section = words.next
            if section not in sections:
                words.fail(f"one of {', '.join(sections)}")
            if section in ("T", "O", "R"):
                self._begin_tables()
            elif section in self.once:
                line = words.line(self.once[section])
                words.fail(f"no second {section!r}, which line {line} has already")
            elif self.tables:
                words.fail(f"{section!r} before the first T, O or R")
            else:
                self.once[section] = words.at
            words.take()
            sections[section]()
        self._begin_tables()
        initial = self._uniform() if self.initial is None else self.initial
        if self.unset == "reset":
            self.tables["T"][self.set_at["T"] < 0] = initial
        self._check_rows("T")
        self._check_rows("O")
        states, actions, observations = (tuple(self.names[axis]) for axis in _PREAMBLE[2:])
        return Problem(
            self.discount,
            states,
            actions,
            observations,
            initial,
            self.tables["T"],
            self.tables["O"],
            self._compact_rewards(),
        )

    # The preamble

    def _discount(self) -> None:
        self.words.colon()
        at = self.words.at
        self.discount = self.words.number("a discount from 0 to 1")
        if not 0 <= self.discount <= 1:
            self.words.fail("a discount from 0 to 1", at)

    def _values(self) -> None:
        self.words.colon()
        if self.words.next not in ("reward", "cost"):
            self.words.fail("'reward' or 'cost'")
        self.costs = self.words.take() == "cost"

    def _axis(self, axis: str) -> None:
        """A count, or names up to the next word of the format."""
        words = self.words
        words.colon()
        at = words.at
        names: dict[str, int] = {}
        count = words.whole
        if count is not None:
            if not 1 <= count <= _MOST_NAMES:
                words.fail(f"a number of {axis} from 1 to 2^18, or their names")
            words.take()
            names = {str(number): number for number in range(count)}
            if words.next and words.next not in RESERVED:
                words.fail(f"the next section after the number of {axis}")
        while count is None and words.next and words.next not in RESERVED:
            if words.next in names:
                words.fail(f"{axis} of different names")
            if _NAME.fullmatch(words.next) is None:
                words.fail(f"names of {axis} (a letter, then letters, digits, - and _)")
            names[words.take()] = len(names)
            if len(names) > _MOST_NAMES:
                words.fail(f"at most 2^18 {axis}", at)
        if not names:
            words.fail(f"a number of {axis} of at least 1, or their names", at)
        self.names[axis] = names

    def _start(self) -> None:
        """Read any form of the initial distribution."""
        words = self.words
        if "states" not in self.names:
            words.fail("'states' before 'start'", self.once["start"])
        form = words.take() if words.next in ("include", "exclude") else ""
        words.colon()
        count = len(self.names["states"])
        if not form and words.next == "uniform":
            words.take()
            self.initial = self._uniform()
        elif form or not words.is_number or (count > 1 and words.is_alone):
            self.initial = self._start_among(form)
        else:
            self.initial = self._start_vector(count)

    def _start_among(self, form: str) -> Array:
        """The uniform distribution on the listed states, or on all others."""
        words = self.words
        at = words.at
        chosen = np.zeros(len(self.names["states"]), dtype=bool)
        while words.at == at or (words.next and words.next not in RESERVED):
            chosen[self._place("states")] = True
        if form == "exclude":
            chosen = ~chosen
        if not chosen.any():
            words.fail("a state that is left to start in", at)
        return np.asarray(chosen / chosen.sum(), dtype=np.float64)

    def _start_vector(self, count: int) -> Array:
        at = self.words.at
        vector = self._numbers((count,), "probabilities of the states", at_most=1)
        if abs(vector.sum() - 1) > _ROUNDED:
            self.words.fail("probabilities that sum to 1", at, f"{vector.sum():.10g}")
        return vector

    def _uniform(self) -> Array:
        count = len(self.names["states"])
        return np.full(count, 1 / count)

    # Tables

    def _begin_tables(self) -> None:
        """Make the tables, once the sizes are known."""
        if self.tables:
            return
        for section in _PREAMBLE:
            if section not in self.once:
                self.words.fail(f"'{section}:' before the first T, O or R")
        states, actions, observations = (len(self.names[axis]) for axis in _PREAMBLE[2:])
        if actions * states * max(states, observations) > _LARGEST:
            size = f"{actions} actions, {states} states, {observations} observations"
            self.words.fail("tables of at most 2^27 entries", None, size)
        for section, columns in ("T", states), ("O", observations):
            self.tables[section] = np.zeros((actions, states, columns))
            self.set_at[section] = np.full((actions, states), -1)

    def _place(self, axis: str) -> slice:
        """The entries along an axis that a name, a number or * selects."""
        names, word = self.names[axis], self.words.next
        whole = self.words.whole
        number = names.get(word, -1) if whole is None else whole
        if word != "*" and not 0 <= number < len(names):
            kinds = "name" if axis == "actions" else f"name of one of the {axis}"
            self.words.fail(f"'*', a {kinds} or a number from 0 to {len(names) - 1} ({axis})")
        self.words.take()
        return _ALL if word == "*" or len(names) == 1 else slice(number, number + 1)

    def _places(self, axes: tuple[str, ...]) -> _Where:
        """Places along the first of these axes, one for each colon."""
        self.words.colon()
        found = [self._place(axes[0])]
        while self.words.next == ":" and len(found) < len(axes):
            self.words.take()
            found.append(self._place(axes[len(found)]))
        return tuple(found)

    def _probabilities(self, section: str, columns: str) -> None:
        """``T`` and ``O``: one entry, a row or a matrix."""
        words, table = self.words, self.tables[section]
        at = words.at - 1
        where = self._places(("actions", "states", columns))
        self._count(table[where].size, at)
        shape = table.shape[len(where) :]
        table[where] = self._law(section, shape)
        self.set_at[section][where[:2]] = at

    def _count(self, entries: int, at: int) -> None:
        self.entries += entries
        if self.entries > _MOST_SET:
            self.words.fail("at most 2^31 entries that lines set, all together", at)

    def _law(self, section: str, shape: tuple[int, ...]) -> Array:
        word = self.words.next
        if word == "uniform" and shape:
            self.words.take()
            return np.full(shape, 1 / shape[-1])
        if word == "identity" and section == "T" and len(shape) == 2:
            self.words.take()
            return np.eye(shape[0])
        if word == "reset" and section == "T" and len(shape) == 1:
            self.words.take()
            return self._uniform() if self.initial is None else self.initial
        return self._numbers(shape, "probabilities", at_most=1)

    def _numbers(self, shape: tuple[int, ...], what: str, at_most: float | None = None) -> Array:
        """Numbers that fill the shape; probabilities if there is a limit."""
        words = self.words
        count = int(np.prod(shape))
        found = np.empty(count)
        for place in range(count):
            at = words.at
            tale = f"; it is number {place + 1} of them" if count > 1 else ""
            found[place] = words.number(f"{count} {what}{tale}")
            if at_most is not None and not 0 <= found[place] <= at_most:
                words.fail("a probability from 0 to 1", at)
        return found.reshape(shape)

    def _reward(self) -> None:
        """``R``: one entry, a row of observations, or a matrix (state_to, observation)."""
        axes = ("actions", "states", "states", "observations")
        self.rewards_at = self.words.at - 1
        where = self._places(axes)
        if len(where) == 1:
            self.words.fail("':' and a state (rewards need an action and a state at least)")
        shape = tuple(len(self.names[axis]) for axis in axes[len(where) :])
        numbers = self._numbers(shape, "rewards")
        # 0 − x instead of −x, so that a cost of zero does not become a negative zero.
        self.rewards.append((where, 0.0 - numbers if self.costs else numbers))

    def _compact_rewards(self) -> Rewards:
        """The rewards in a table that has size 1 along every axis that no entry names."""
        shape = [1, 1, 1, 1]
        axes = ("actions", "states", "states", "observations")
        for where, _ in self.rewards:
            for axis in range(4):
                if axis >= len(where) or where[axis] != _ALL:
                    shape[axis] = len(self.names[axes[axis]])
        if math.prod(shape) > MOST:
            return self._sparse_rewards(tuple(shape))
        table = np.zeros(shape)
        for where, numbers in self.rewards:
            self._count(table[where].size, self.rewards_at)
            table[where] = numbers
        for axis in range(4):
            first = table.take([0], axis)
            table = first if np.array_equal(np.broadcast_to(first, table.shape), table) else table
        return Rewards.of_table(table)

    def _sparse_rewards(self, shape: tuple[int, ...]) -> Rewards:
        """The entries that lines set, of which the last one counts at each place."""
        places, values, held = [np.zeros(0, np.int64)], [np.zeros(0)], 0
        for where, numbers in self.rewards:
            chosen = (*where, *(_ALL,) * (4 - len(where)))
            axes = [np.arange(size)[one] for one, size in zip(chosen, shape, strict=True)]
            sizes = tuple(len(axis) for axis in axes)
            held += math.prod(sizes)
            if held > MOST:
                self.words.fail(
                    "at most 2^24 rewards in a table of "
                    f"{' × '.join(map(str, shape))} (action, state, state_to, observation)",
                    self.rewards_at,
                    str(held),
                )
            self._count(math.prod(sizes), self.rewards_at)
            places.append(np.ravel_multi_index(np.ix_(*axes), shape).ravel())
            values.append(np.broadcast_to(numbers, sizes).ravel())
        flat, earned = np.concatenate(places)[::-1], np.concatenate(values)[::-1]
        kept, first = np.unique(flat, return_index=True)
        there = earned[first] != 0
        return Rewards(shape, tuple(earned[first][there].tolist()), tuple(kept[there].tolist()))

    def _check_rows(self, section: str) -> None:
        sums = self.tables[section].sum(-1)
        for action, state in np.argwhere(np.abs(sums - 1) > _ROUNDED)[:1]:
            row = f"{section} : {list(self.names['actions'])[action]} : "
            row += list(self.names["states"])[state]
            at = int(self.set_at[section][action, state])
            if at < 0:
                hint = " (or unset='reset')" if section == "T" else ""
                self.words.fail(f"rows that sum to 1; {row} is never set{hint}", None, "0")
            came = f"{sums[action, state]:.10g}"
            self.words.fail(f"rows that sum to 1; {row}, last set here, does not", at, came)
