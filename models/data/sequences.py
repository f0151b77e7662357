"""The container of data: padded sequences with a mask of what was observed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require_seed
from . import padding, tables
from .grids import on_grid
from .parts import distinct, positions, split_bounds
from .summary import summary

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = npt.NDArray[Any]

_PER_STEP = ("values", "mask", "times", "actions", "rewards", "inputs")


@boundary
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Sequences:
    """N sequences of at most T steps with F features: padded, immutable and checked.

    Build one with a ``from_*`` constructor: these turn NaN into ``mask`` and refuse infinite
    values. The plain constructor takes padded tensors in the form below and checks them. Treat the
    tensors as read-only.

    Args:
        values: (N, T, F) floating, in the units of the data, or (N, T) int64 codes 0, 1, 2, …
            Zero where ``mask`` is False.
        mask: bool, same shape as ``values``; True = observed, False beyond ``lengths``.
        lengths: (N,) int64, 1 <= length <= T.
        times: (N, T) float64 or None; finite, never decreasing along a row (the padding repeats the
            last time).
        actions: (N, T) int64 or None; ``actions[:, t]`` drives the step from t to t + 1, that of
            the last step the first forecast step.
        rewards: (N, T) float64, finite, or None; ``rewards[:, t]`` is earned by ``actions[:, t]``.
        inputs: (N, T, U) floating, finite, or None.
        labels: names of the sequences, all different; by default "0", "1", …
        features: names of the features, all different; by default "0", "1", …; ("code",) for codes.
        symbols: names of the codes, all different, or None.
        input_names: names of the input columns, all different; by default "0", "1", …
        units: units of features, of input columns and of ``"time"``, by their names, as text; they
            are kept and compared, and nothing is converted.

    Raises:
        ValueError: a shape, dtype, length or value is not as above; the message gives the first
            offending value and its place.

    >>> data = Sequences.from_arrays([[2, 0, 5], [1, float("nan")]], labels=["north", "south"])
    >>> data.lengths.tolist(), data.n_observed
    ([3, 2], 4)
    >>> data[1].arrays()
    [array([[ 1.],
           [nan]])]
    """

    values: Tensor
    mask: Tensor
    lengths: Tensor
    times: Tensor | None = None
    actions: Tensor | None = None
    rewards: Tensor | None = None
    inputs: Tensor | None = None
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None
    input_names: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        padding.check_layout(self)
        if self.symbols is not None and not self.is_codes:
            raise ValueError("symbols name integer codes; got floating values")
        features = ("code",) if self.is_codes else range(self.n_features)
        symbols = None if self.symbols is None else padding.names(self.symbols, "symbols")
        named = self.input_names
        if self.inputs is None or named == tuple(map(str, range(len(named)))):
            named = ()  # replace(data, inputs=…)
        vars(self).update(
            labels=padding.names(self.labels, "labels", range(len(self))),
            features=padding.names(self.features, "features", features),
            symbols=symbols,
            input_names=padding.names(named, "input_names", range(self.n_inputs)),
        )
        vars(self)["units"] = padding.units(self.units, self._with_units)
        padding.check_entries(self)

    # Constructors

    @classmethod
    def from_arrays(
        cls,
        arrays: Iterable[npt.ArrayLike],
        *,
        codes: bool = False,
        times: Iterable[npt.ArrayLike] | None = None,
        actions: Iterable[npt.ArrayLike] | None = None,
        rewards: Iterable[npt.ArrayLike] | None = None,
        inputs: Iterable[npt.ArrayLike] | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
        input_names: Iterable[object] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Sequences:
        """Build from one array per sequence, of any lengths; NaN marks missing values.

        Whole numbers become torch's default floating type, or float64 if they need it, unless
        ``codes=True``, which keeps them as categories 0, 1, 2, …; floating values keep their
        precision. A single padded array goes
        to :meth:`from_array`.

        Args:
            arrays: one array (steps,) or (steps, features) per sequence.
            codes: the values are categories 0, 1, 2, …
            times, actions, rewards: one array (steps,) per sequence.
            inputs: one array (steps,) or (steps, inputs) per sequence.
            labels, features, symbols, input_names: names of the sequences, features, codes and
                input columns.
            units: of features, input columns and ``"time"``, by their names.

        Returns:
            The padded sequences.

        Raises:
            ValueError: there is no sequence, one is empty, feature counts or lengths disagree, or
                entries are not numbers, are infinite, or are all missing.

        >>> Sequences.from_arrays([[1.0, float("nan"), 2.0], [3.0]])
        Sequences(n_sequences=2, max_length=3, n_features=1, n_steps=4, n_observed=3, float64)
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        read = tables.read_arrays(arrays, along, codes=codes, symbols=symbols)
        symbols = read.pop("symbols", symbols)
        return cls.from_tensors(
            **read,
            codes=codes,
            labels=labels,
            features=features,
            symbols=symbols,
            input_names=input_names,
            units=units,
        )

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        *,
        codes: bool = False,
        times: npt.ArrayLike | None = None,
        actions: npt.ArrayLike | None = None,
        rewards: npt.ArrayLike | None = None,
        inputs: npt.ArrayLike | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
        input_names: Iterable[object] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Sequences:
        """Build from one padded array; NaN marks missing values.

        Args:
            array: (N, T, F), (N, T) with one feature, or (T,) for one sequence.
            lengths: (N,) whole numbers in 1..T; T for all if None.
            mask: bool, shape of ``array`` or (N, T); True = observed.
            codes, times, actions, rewards, inputs, labels, features, symbols, input_names, units:
                as for :meth:`from_tensors`.

        Returns:
            The sequences.

        Raises:
            ValueError: as for :meth:`from_tensors`.

        >>> data = Sequences.from_array([[3, 1, 4], [1, 5, 0]], lengths=[3, 2])
        >>> data.n_sequences, data.n_steps
        (2, 5)
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        beside = {"lengths": lengths, "mask": mask, **along}
        read = tables.read_array(array, beside, codes=codes, symbols=symbols)
        symbols = read.pop("symbols", symbols)
        return cls.from_tensors(
            **read,
            codes=codes,
            labels=labels,
            features=features,
            symbols=symbols,
            input_names=input_names,
            units=units,
        )

    @classmethod
    def from_tensors(
        cls,
        values: Tensor,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        codes: bool = False,
        times: Tensor | None = None,
        actions: Tensor | None = None,
        rewards: Tensor | None = None,
        inputs: Tensor | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
        input_names: Iterable[object] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Sequences:
        """Build from padded tensors on any device, which are copied and detached.

        Values in the padding are ignored.

        Args:
            values: (N, T, F), (N, T) with one feature, or (T,) for one sequence (mask, times,
                actions, rewards and inputs then come without the leading axis too). NaN = missing.
            mask: bool, shape of ``values`` or (N, T); True = observed. NaN is missing in any case.
            lengths: (N,) whole numbers in 1..T; T for all if None.
            codes: the values are categories 0, 1, 2, …
            times: (N, T), or (T,) for a grid common to all sequences.
            actions: (N, T) whole numbers.
            rewards: (N, T) finite numbers.
            inputs: (N, T, U), or (N, T) for one input.
            labels, features, symbols, input_names: names of the sequences, features, codes and
                input columns.
            units: of features, input columns and ``"time"``, by their names.

        Returns:
            The sequences.

        Raises:
            ValueError: shapes or values are not as above, or nothing at all is observed.

        >>> import torch
        >>> nan = float("nan")
        >>> Sequences.from_tensors(torch.tensor([[[0.5, nan], [0.1, 2.0]]])).mask.tolist()
        [[[True, False], [True, True]]]
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        fields: dict[str, Any] = padding.canonical(values, mask, lengths, along, codes=codes)
        names = {
            "labels": labels,
            "features": features,
            "symbols": symbols,
            "input_names": input_names,
            "units": units,
        }
        fields |= {name: given for name, given in names.items() if given is not None}
        return cls(**fields)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        layout: Literal["long", "wide"] = "long",
        sequence: Hashable | None = None,
        time: Hashable | None = None,
        columns: Hashable | Iterable[Hashable] | None = None,
        action: Hashable | None = None,
        reward: Hashable | None = None,
        inputs: Hashable | Iterable[Hashable] | None = None,
        lengths: npt.ArrayLike | None = None,
        steps: Literal["columns", "rows"] | None = None,
        codes: bool = False,
        symbols: Iterable[object] | None = None,
        units: Mapping[Hashable, str] | None = None,
    ) -> Sequences:
        """Build from a pandas frame; NaN, None and pd.NA mark missing values.

        Long layout: one row per step. With ``codes=True`` a column of categories or strings gives
        codes, and its categories, or its sorted strings, become the symbols. Steps without a row
        are not put in; :meth:`filled` does that.

        Wide layout: one row per sequence, or one column with ``steps="rows"``, of one feature.
        Labels of steps that are numbers or dates become ``times``. Sequences shorter than the
        frame need ``lengths``: a trailing NaN is a missing value like any other.

        Datetimes, dates and ISO strings become float days since the first stamp of the data set (in
        whichever sequence it is), timedeltas float days, periods whole numbers of their unit.

        Args:
            frame: the data.
            layout: ``"long"`` or ``"wide"``.
            sequence: column (or index level) that tells sequences apart, kept in order of
                appearance; one sequence if None.
            time: long layout: column that orders the rows of a sequence and becomes ``times``; if
                None, an index of dates, periods or spans, otherwise the order of the rows.
            columns: long layout: the features; wide layout: the steps. All columns without another
                role if None.
            action, reward, inputs: long layout: columns of the actions, rewards and inputs.
            lengths: wide layout: number of steps of every sequence, (N,).
            steps: wide layout: what the steps of a sequence are. Must be given where rows have
                dates, or there is a single column.
            codes: the values are categories 0, 1, 2, …, or symbols.
            symbols: names of the codes; a column of categories or strings is read by them.
            units: units of columns, as text; those of ``frame.attrs["units"]`` if None.

        Returns:
            The sequences, labelled by ``sequence``.

        Raises:
            ValueError: a column is absent or not numeric, a row lacks its sequence or time, levels
                of an index have no role, or as for :meth:`from_tensors`.

        >>> import pandas as pd
        >>> columns = {"rat": ["a", "a", "b"], "day": [1, 3, 2], "weight": [210, 215, 198]}
        >>> frame = pd.DataFrame(columns)
        >>> data = Sequences.from_frame(frame, sequence="rat", time="day")
        >>> data.labels, data.features, data.times.tolist()
        (('a', 'b'), ('weight',), [[1.0, 3.0], [2.0, 2.0]])
        >>> units = {"weight": "g", "day": "days"}
        >>> dict(Sequences.from_frame(frame, sequence="rat", time="day", units=units).units)
        {'weight': 'g', 'time': 'days'}
        """
        read = tables.read_frame(
            frame,
            layout=layout,
            sequence=sequence,
            time=time,
            columns=columns,
            action=action,
            reward=reward,
            inputs=inputs,
            lengths=lengths,
            steps=steps,
            codes=codes,
            symbols=symbols,
        )
        read.setdefault("symbols", symbols)
        read["units"] = tables.units_of_frame(frame, units, layout, time, action, reward, read)
        return cls.from_tensors(**read, codes=codes)

    @classmethod
    def from_xarray(
        cls,
        array: xr.DataArray,
        *,
        sequence: str = "sequence",
        time: str = "time",
        feature: str = "feature",
        lengths: npt.ArrayLike | None = None,
        codes: bool = False,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """Build from a DataArray; NaN marks missing values.

        Coordinates become labels, feature names and, if they are numeric or datetimes (as in
        :meth:`from_frame`), ``times``. The dimensions may come in any order. The text
        ``array.attrs["units"]`` is the unit of all features.

        Args:
            array: the data, with dimension ``time`` and perhaps ``sequence`` and ``feature``.
            sequence, time, feature: names of these dimensions in ``array``.
            lengths: number of steps of every sequence, (N,); all if None.
            codes: the values are categories 0, 1, 2, …
            symbols: names of the codes.

        Returns:
            The sequences.

        Raises:
            ValueError: other dimensions, or as for :meth:`from_tensors`.

        >>> import xarray as xr
        >>> array = xr.DataArray([[3.0, 1.0]], dims=("site", "time"), coords={"site": ["pond"]})
        >>> Sequences.from_xarray(array, sequence="site").labels
        ('pond',)
        """
        read = tables.read_xarray(
            array,
            sequence=sequence,
            time=time,
            feature=feature,
            lengths=lengths,
            codes=codes,
            symbols=symbols,
        )
        read.setdefault("symbols", symbols)
        data = cls.from_tensors(**read, codes=codes)
        unit = array.attrs.get("units")
        named = isinstance(unit, str) and unit != "" and not codes
        return data._derived(units=dict.fromkeys(data.features, unit)) if named else data

    @classmethod
    def from_text(
        cls,
        strings: str | Iterable[str],
        alphabet: str | Sequence[str] = "abcdefghijklmnopqrstuvwxyz ",
        *,
        unknown: Literal["error", "missing"] = "error",
        labels: Iterable[object] | None = None,
    ) -> Sequences:
        """Build from strings, one character per step.

        A character's code is its place in ``alphabet``, which becomes ``symbols``. Upper and lower
        case differ: lower the case beforehand if the alphabet has no capitals.

        Args:
            strings: one string per sequence; a single string is one sequence.
            alphabet: the characters, in the order of their codes.
            unknown: ``"error"`` refuses characters outside the alphabet, ``"missing"`` makes them
                missing.
            labels: names of the sequences.

        Returns:
            The sequences of codes.

        Raises:
            ValueError: a character is not in ``alphabet``, a string is empty, or ``alphabet``
                repeats a character.

        >>> Sequences.from_text(["abba", "ab"], alphabet="ab").codes()
        tensor([[0, 1, 1, 0],
                [0, 1, 0, 0]])
        """
        read = tables.read_text(strings, alphabet, unknown=unknown)
        return cls.from_tensors(**read, codes=True, labels=labels, symbols=tuple(alphabet))

    # Sizes

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_sequences(self) -> int:
        """Number of sequences N."""
        return len(self.values)

    @property
    def max_length(self) -> int:
        """Padded number of steps T."""
        return self.values.shape[1]

    @property
    def n_features(self) -> int:
        """Number of features F; 1 for codes."""
        return 1 if self.is_codes else self.values.shape[2]

    @property
    def n_steps(self) -> int:
        """Number of steps of all sequences, without the padding."""
        return int(self.lengths.sum())

    @property
    def n_observed(self) -> int:
        """Number of observed values; each feature of a step counts."""
        return int(self.mask.sum())

    @property
    def n_inputs(self) -> int:
        """Number of input columns U; 0 without inputs."""
        return 0 if self.inputs is None else self.inputs.shape[2]

    @property
    def is_codes(self) -> bool:
        """True if the values are integer codes (N, T), False if they are numbers (N, T, F)."""
        return self.values.ndim == 2

    @property
    def step_mask(self) -> Tensor:
        """(N, T) bool: True where the step lies within its sequence."""
        return torch.arange(self.max_length, device=self.lengths.device) < self.lengths[:, None]

    @property
    def observed_steps(self) -> Tensor:
        """(N, T) bool: True where at least one feature is observed."""
        return self.mask if self.is_codes else self.mask.any(dim=2)

    # Parts

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | Array) -> Sequences:
        """Return the chosen sequences, copied and trimmed to the longest of them.

        ``index`` is a position, a slice, a list of positions, or one bool per sequence. A position
        that comes more than once (a bootstrap) yields labels "a", "a (2)", …

        Raises:
            IndexError: a position outside the data.
            ValueError: an index of another kind, or one that chooses nothing.
        """
        return self._taken(positions(index, len(self)))

    def __iter__(self) -> Iterator[Sequences]:
        return (self[n] for n in range(len(self)))

    def _taken(self, chosen: Tensor) -> Sequences:
        at = chosen.to(self.values.device)
        lengths = self.lengths[at]
        longest = int(lengths.max())
        labels = distinct([self.labels[n] for n in chosen.tolist()])
        kept = {k: v[:, :longest][at] for k, v in self._tensors(*_PER_STEP).items()}
        return self._derived(lengths=lengths, labels=labels, **kept)

    def _tensors(self, *names: str) -> dict[str, Tensor]:
        """The named tensors that are not None."""
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def _derived(self, **fields: Any) -> Sequences:
        # Parts of checked data are valid: a second check would cost a device transfer a batch.
        part = copy.copy(self)
        vars(part).update(fields)
        return part

    def head(self, steps: int) -> Sequences:
        """Return the first steps of every sequence, at most so many.

        >>> Sequences.from_arrays([[1.0, 2.0, 3.0], [4.0]]).head(2).lengths
        tensor([2, 1])
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1; got {steps!r}")
        cut = {name: part[:, :steps] for name, part in self._tensors(*_PER_STEP).items()}
        return self._derived(**cut, lengths=self.lengths.clamp_max(steps))

    def after(self, steps: int) -> Sequences:
        """Return what follows the first steps of every sequence, all of which must go on.

        >>> Sequences.from_arrays([[1.0, 2.0, 3.0], [4.0, 5.0]]).after(1).arrays()[0].tolist()
        [[2.0], [3.0]]
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1; got {steps!r}")
        shortest = int(self.lengths.min())
        if steps >= shortest:
            raise ValueError(
                f"steps must be below the length of every sequence; got {steps}, and "
                f"{self.labels[int(self.lengths.argmin())]!r} has {shortest}"
            )
        cut = {name: part[:, steps:] for name, part in self._tensors(*_PER_STEP).items()}
        return self._derived(**cut, lengths=self.lengths - steps)

    def split(self, parts: Sequence[float] | Sequence[int], *, seed: int) -> tuple[Sequences, ...]:
        """Split at random into disjoint parts, each in the order of the data.

        Args:
            parts: floats are fractions of the sequences that sum to at most 1, ints are numbers of
                sequences that sum to at most N. The rest is in no part.
            seed: seed of the shuffle.

        Returns:
            The parts.

        Raises:
            ValueError: other ``parts``, or a part would be empty.

        >>> data = Sequences.from_arrays([[1.0, 2.0]] * 10)
        >>> [len(part) for part in data.split([0.8, 0.2], seed=0)]
        [8, 2]
        """
        require_seed(seed, optional=False)
        bounds = split_bounds(parts, len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return tuple(self._taken(order[low:high].sort().values) for low, high in pairwise(bounds))

    def batches(
        self, size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[Sequences]:
        """Iterate once over all sequences, ``size`` at a time (the last batch may be smaller).

        Args:
            size: sequences per batch.
            generator: shuffles the sequences; in order if None.

        Returns:
            An iterator of batches, each trimmed to its longest sequence.

        Raises:
            ValueError: a size that is no whole number >= 1, or another kind of generator.

        >>> data = Sequences.from_arrays([[1.0], [2.0, 3.0], [4.0]])
        >>> [batch.lengths.tolist() for batch in data.batches(2)]
        [[1, 2], [1]]
        """
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"size must be a whole number of at least 1; got {size!r}")
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator must be a torch.Generator or None; got {generator!r}")
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator, device=generator.device)
        return (self._taken(chosen) for chosen in order.split(int(size)))

    @property
    def _with_units(self) -> tuple[str, ...]:
        """What may have a unit."""
        return (*self.features, *self.input_names, *(("time",) * (self.times is not None)))

    def _units_of(self, *names: str) -> dict[str, str]:
        return {name: unit for name, unit in self.units.items() if name in names}

    # Conversions

    def without(self, *names: Literal["times", "actions", "rewards", "inputs"]) -> Sequences:
        """Return the same data without their times, actions, rewards or inputs.

        Raises:
            ValueError: another name.

        >>> data = Sequences.from_arrays([[1.0, 2.0, 1.5]], times=[[0.0, 1.0, 9.0]])
        >>> data.without("times").times is None
        True
        """
        for name in names:
            if name not in ("times", "actions", "rewards", "inputs"):
                raise ValueError(
                    f"names must be 'times', 'actions', 'rewards' or 'inputs'; got {name!r}"
                )
        gone: dict[str, Any] = dict.fromkeys(names)
        if "inputs" in names:
            gone["input_names"] = ()
        part = self._derived(**gone)
        return part._derived(units=self._units_of(*part._with_units))

    def select(self, *features: str) -> Sequences:
        """Return the same data with some of their features, by name, in the order given.

        Raises:
            ValueError: codes, or names that are no different features of the data.

        >>> data = Sequences.from_arrays([[[0.5, 1.0], [0.7, 0.0]]], features=["rt", "correct"])
        >>> data.select("correct").values.flatten().tolist()
        [1.0, 0.0]
        """
        unknown = [name for name in features if name not in self.features]
        if self.is_codes or unknown or not features or len({*features}) < len(features):
            known = "none, since they are codes" if self.is_codes else str(self.features)
            raise ValueError(f"features must be different ones of {known}; got {features}")
        places = [self.features.index(name) for name in features]
        part = self._derived(
            values=self.values[..., places], mask=self.mask[..., places], features=features
        )
        return part._derived(units=self._units_of(*part._with_units))

    def filled(self, every: float | None = None) -> Sequences:
        """Return the same data on a regular grid of times, with missing steps in its gaps.

        Sequences keep their own first and last time. Actions, rewards and inputs of a step that is
        put in are unknown, so that data with any of them cannot have gaps.

        Args:
            every: gap between the steps of the grid, in the unit of ``times``; the smallest gap
                between two steps of the data if None.

        Returns:
            The sequences, with times on the grid.

        Raises:
            ValueError: no times, times that are not on a grid of this gap (to 1e-6 of it) or share
                a place on it, more than a thousand missing steps for each one of the data, or
                actions, rewards or inputs that a gap would need.

        >>> data = Sequences.from_arrays([[1.0, 2.0, 1.5]], times=[[0.0, 1.0, 4.0]])
        >>> data.filled().times.tolist(), data.filled().mask[..., 0].tolist()
        ([[0.0, 1.0, 2.0, 3.0, 4.0]], [[True, True, False, False, True]])
        """
        return self._derived(**on_grid(self, every))

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequences:
        """Return the same data on another device, or with another floating type.

        Args:
            device: the device; a dtype may come first, as in torch.
            dtype: floating type of ``values`` and ``inputs``. Codes, mask, lengths, actions,
                rewards and times keep their type.

        Returns:
            The converted sequences.

        Raises:
            ValueError: a dtype that is not floating, or one in which the values overflow.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and dtype not in padding.FLOATING:
            raise ValueError(f"dtype must be a plain floating type; got {dtype}")
        tensors = self._tensors(*_PER_STEP, "lengths")
        moved: dict[str, Any] = {name: part.to(device) for name, part in tensors.items()}
        if dtype is None:
            return self._derived(**moved)
        for name in {"values", "inputs"} & set(moved):
            if moved[name].is_floating_point():
                moved[name] = moved[name].to(dtype)
        return dataclasses.replace(self, **moved)  # checked again: a narrow type can overflow

    def codes(self) -> Tensor:
        """Return the values as int64 codes, (N, T).

        Values of a single feature are converted if they are 0, 1, 2, …

        Raises:
            ValueError: there are several features, or an observed value is no such number.
        """
        if self.is_codes:
            return self.values
        if self.n_features != 1:
            raise ValueError(f"codes need a single feature; got {self.n_features} features")
        return padding.whole(self.values[..., 0], self.mask[..., 0], "codes", self.labels)

    def arrays(self) -> list[Array]:
        """Return one array (steps, features) per sequence, NaN where missing.

        Codes come as (steps,): int64 if all are observed, otherwise float64 with NaN.
        """
        values, mask = self.values.cpu(), self.mask.cpu()
        if self.is_codes:
            values = values if self.n_observed == self.n_steps else values.double()
        elif values.dtype == torch.bfloat16:  # unknown to numpy
            values = values.float()
        if values.is_floating_point():
            values = values.masked_fill(~mask, torch.nan)
        numbers = values.numpy()
        return [numbers[n, :length].copy() for n, length in enumerate(self.lengths.tolist())]

    def summary(self) -> str:
        """Describe the data in a few lines: sizes, lengths, share missing, distributions."""
        return summary(self)

    def __repr__(self) -> str:
        kind = "codes" if self.is_codes else str(self.values.dtype).removeprefix("torch.")
        units = f", units={dict(self.units)}" if self.units else ""
        return (
            f"Sequences(n_sequences={len(self)}, max_length={self.max_length}, "
            f"n_features={self.n_features}, n_steps={self.n_steps}, "
            f"n_observed={self.n_observed}, {kind}{units})"
        )
