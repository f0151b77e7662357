"""The one container of data: padded sequences with a mask."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from . import padding, tables
from .parts import distinct, positions, split_bounds
from .summary import summary

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = npt.NDArray[Any]

_PER_STEP = ("values", "mask", "times", "actions", "rewards", "inputs")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Sequences:
    """N sequences of at most T steps with F features, padded, immutable and checked.

    Data come in through the ``from_*`` constructors, where NaN becomes ``mask`` and infinite
    values are refused. The plain constructor takes padded tensors as described below and checks
    them. Treat the tensors as read-only.

    Attributes:
        values: (N, T, F) floating, in the units of the data, or (N, T) int64 codes 0, 1, 2, …
            Zero where ``mask`` is False.
        mask: bool, same shape as ``values``; True = observed, False beyond ``lengths``.
        lengths: (N,) int64, 1 <= length <= T.
        times: (N, T) float64 or None; finite, never decreasing along a row (the padding repeats
            the last time).
        actions: (N, T) int64 or None; ``actions[:, t]`` drives the step from t to t + 1. An
            action is needed at the last step too: it drives the first forecast step.
        rewards: (N, T) float64, finite, or None; ``rewards[:, t]`` is earned by ``actions[:, t]``.
        inputs: (N, T, U) floating, finite, or None.
        labels: names of the sequences, all different; by default "0", "1", …
        features: names of the features, all different; by default "0", "1", …; ("code",) for codes.
        symbols: names of the codes, all different, or None.

    Raises:
        ValueError: if a shape, dtype, length or value is not as above; the message gives the first
            offending value and its place.
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

    def __post_init__(self) -> None:
        padding.check_layout(self)
        if self.symbols is not None and not self.is_codes:
            raise ValueError("symbols name integer codes; got floating values")
        features = ("code",) if self.is_codes else range(self.n_features)
        symbols = None if self.symbols is None else padding.names(self.symbols, "symbols")
        vars(self).update(
            labels=padding.names(self.labels, "labels", range(len(self))),
            features=padding.names(self.features, "features", features),
            symbols=symbols,
        )
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
    ) -> Sequences:
        """One array a sequence, (steps,) or (steps, features), of any lengths; NaN = missing.

        Whole numbers become torch's default floating type unless ``codes=True``, which keeps them
        as categories 0, 1, 2, …; floating values keep their precision. ``times``, ``actions`` and
        ``rewards`` hold one (steps,) array a sequence, ``inputs`` one (steps,) or (steps, inputs)
        array.
        A single padded array goes to :meth:`from_array`.

        Raises:
            ValueError: if there is no sequence, one is empty, feature counts or lengths disagree,
                or entries are not numbers, infinite, or all missing.

        >>> Sequences.from_arrays([[1.0, float("nan"), 2.0], [3.0]])
        Sequences(n_sequences=2, max_length=3, n_features=1, n_steps=4, n_observed=3, float64)
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        read = tables.read_arrays(arrays, along)
        return cls.from_tensors(
            **read, codes=codes, labels=labels, features=features, symbols=symbols
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
    ) -> Sequences:
        """One array (N, T, F), (N, T) with one feature, or (T,) for one sequence; NaN = missing.

        The other arguments are arrays of the shapes that :meth:`from_tensors` names.
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        read = tables.read_array(array, {"lengths": lengths, "mask": mask, **along})
        return cls.from_tensors(
            **read, codes=codes, labels=labels, features=features, symbols=symbols
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
    ) -> Sequences:
        """Padded tensors on any device, copied and detached; whatever lies in the padding is void.

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
            labels, features, symbols: names of the sequences, features and codes.

        Raises:
            ValueError: if shapes or values are not as above, or nothing at all is observed.
        """
        along = {"times": times, "actions": actions, "rewards": rewards, "inputs": inputs}
        fields: dict[str, Any] = padding.canonical(values, mask, lengths, along, codes=codes)
        names = {"labels": labels, "features": features, "symbols": symbols}
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
        codes: bool = False,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """A pandas frame; NaN and pd.NA = missing.

        Long: one row a step. ``sequence`` names the column (or index level) that tells sequences
        apart, kept in order of appearance (one sequence if None); ``time`` the one that orders
        rows inside a sequence and becomes ``times`` (row order if None). ``columns`` name the
        features, ``inputs`` the inputs, ``action`` and ``reward`` these; ``columns=None`` takes
        all that are left. Absent rows are not filled in. With ``codes=True`` a categorical column
        gives its codes and its categories as symbols.

        Wide: one row a sequence, ``columns`` (all but ``sequence`` if None) are its steps, of one
        feature. Numeric or datetime column labels become ``times``. Rows shorter than the frame
        need ``lengths``: a trailing NaN is a missing value like any other.

        Datetimes become float days since the first stamp of the data set (whichever sequence has
        it), timedeltas float days.

        Raises:
            ValueError: if a column is absent or not numeric, or sequence or time is missing in a
                row, or as in :meth:`from_tensors`.
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
            codes=codes,
        )
        if symbols is not None:
            read["symbols"] = symbols
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
        """A DataArray with dimension ``time`` and, if it has them, ``sequence`` and ``feature``.

        The arguments name the dimensions; their order is free. Coordinates become labels, feature
        names and, if numeric or datetime (as in :meth:`from_frame`), ``times``. NaN = missing.
        """
        read = tables.read_xarray(
            array, sequence=sequence, time=time, feature=feature, lengths=lengths, codes=codes
        )
        return cls.from_tensors(**read, codes=codes, symbols=symbols)

    @classmethod
    def from_text(
        cls,
        strings: str | Iterable[str],
        alphabet: str | Sequence[str] = "abcdefghijklmnopqrstuvwxyz ",
        *,
        unknown: Literal["error", "missing"] = "error",
        labels: Iterable[object] | None = None,
    ) -> Sequences:
        """One string a sequence (a single string is one sequence), one character a step.

        A character's code is its place in ``alphabet``, which becomes ``symbols``. Nothing is
        folded: lower the case beforehand if the alphabet has no capitals.

        Raises:
            ValueError: if a character is not in ``alphabet`` (``unknown="missing"`` makes it a
                missing value), a string is empty, or ``alphabet`` repeats itself.

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
        """Number of steps of all sequences, padding left out."""
        return int(self.lengths.sum())

    @property
    def n_observed(self) -> int:
        """Number of observed values; each feature of a step counts."""
        return int(self.mask.sum())

    @property
    def is_codes(self) -> bool:
        """Whether the values are integer codes, (N, T), rather than numbers, (N, T, F)."""
        return self.values.ndim == 2

    @property
    def step_mask(self) -> Tensor:
        """(N, T) bool: the step lies within the sequence."""
        return torch.arange(self.max_length, device=self.lengths.device) < self.lengths[:, None]

    @property
    def observed_steps(self) -> Tensor:
        """(N, T) bool: at least one feature is observed at the step."""
        return self.mask if self.is_codes else self.mask.any(dim=2)

    # Parts

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | Array) -> Sequences:
        """The chosen sequences, copied and trimmed to their longest.

        ``index`` is a position, a slice, positions, or one bool a sequence. A position that comes
        more than once (a bootstrap) yields labels "a", "a (2)", …
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
        """Those of the tensors that there are."""
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def _derived(self, **fields: Any) -> Sequences:
        # Parts of checked data are valid: a second check would cost a device transfer a batch.
        part = copy.copy(self)
        vars(part).update(fields)
        return part

    def split(self, parts: Sequence[float] | Sequence[int], *, seed: int) -> tuple[Sequences, ...]:
        """Disjoint parts of randomly chosen sequences, each in the order of the data.

        Args:
            parts: floats are fractions of the sequences that sum to at most 1, ints are numbers
                of sequences that sum to at most N. What is left over is in no part.
            seed: seed of the shuffle.

        Raises:
            ValueError: if ``parts`` are not so, or a part would be empty.
        """
        bounds = split_bounds(parts, len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return tuple(self._taken(order[low:high].sort().values) for low, high in pairwise(bounds))

    def batches(
        self, size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[Sequences]:
        """All sequences once, ``size`` at a time (the last batch may be smaller).

        In order, or shuffled by ``generator``; each batch is trimmed to its longest sequence.
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

    # Conversions

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequences:
        """The same data on another device, ``values`` and ``inputs`` in floating ``dtype``.

        A dtype may come first, as in torch. Codes, mask, lengths, actions, rewards and times keep
        their type.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating type; got {dtype}")
        tensors = self._tensors(*_PER_STEP, "lengths")
        moved: dict[str, Any] = {name: part.to(device) for name, part in tensors.items()}
        if dtype is None:
            return self._derived(**moved)
        for name in {"values", "inputs"} & set(moved):
            if moved[name].is_floating_point():
                moved[name] = moved[name].to(dtype)
        return dataclasses.replace(self, **moved)  # checked again: a narrow type can overflow

    def codes(self) -> Tensor:
        """(N, T) int64 codes; single-feature values are converted if they are 0, 1, 2, …

        Raises:
            ValueError: if there are several features or an observed value is no such number.
        """
        if self.is_codes:
            return self.values
        if self.n_features != 1:
            raise ValueError(f"codes need a single feature; got {self.n_features} features")
        return padding.whole(self.values[..., 0], self.mask[..., 0], "codes", self.labels)

    def arrays(self) -> list[Array]:
        """One (steps, features) array a sequence, NaN where missing.

        Codes are (steps,), int64 if all are observed, else float64 with NaN.
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
        """A few lines to read: sizes, lengths, share missing, and the law of each feature."""
        return summary(self)

    def __repr__(self) -> str:
        kind = "codes" if self.is_codes else str(self.values.dtype).removeprefix("torch.")
        return (
            f"Sequences(n_sequences={len(self)}, max_length={self.max_length}, "
            f"n_features={self.n_features}, n_steps={self.n_steps}, "
            f"n_observed={self.n_observed}, {kind})"
        )
