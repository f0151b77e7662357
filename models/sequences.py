"""The one container of data: padded sequences with a mask, built and checked here only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = npt.NDArray[Any]

_PER_STEP = ("values", "mask", "times", "actions", "inputs")
_LARGEST_WHOLE = 2**53  # whole numbers beyond it are not exact in float64


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
    inputs: Tensor | None = None
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_layout(self.values, self.mask, self.lengths)
        if self.symbols is not None and not self.is_codes:
            raise ValueError("symbols name integer codes; got floating values")
        features = ("code",) if self.is_codes else tuple(map(str, range(self.n_features)))
        names = {
            "labels": _names(self.labels or range(len(self)), "labels", len(self)),
            "features": _names(self.features or features, "features", self.n_features),
            "symbols": None if self.symbols is None else _names(self.symbols, "symbols"),
        }
        for name, value in names.items():
            object.__setattr__(self, name, value)
        self._check_values()
        self._check_companions()

    def _check_values(self) -> None:
        values, mask, labels = self.values, self.mask, self.labels
        if self.is_codes:
            _refuse(mask & (values < 0), values, "codes must be 0, 1, 2, …", labels)
            if self.symbols is not None:
                requirement = f"codes must be below {len(self.symbols)}, the number of symbols"
                _refuse(mask & (values >= len(self.symbols)), values, requirement, labels)
        else:
            requirement = "values must be finite where observed (NaN alone marks missing values)"
            _refuse(mask & ~values.isfinite(), values, requirement, labels)
        outside = mask & ~_like(self.step_mask, mask)
        _refuse(outside, mask, "mask must be False beyond lengths", labels)
        _refuse(~mask & (values != 0), values, "values must be 0 where mask is False", labels)

    def _check_companions(self) -> None:
        shape = tuple(self.values.shape[:2])
        device = self.values.device
        for name in _PER_STEP[1:]:
            tensor = getattr(self, name)
            if tensor is not None and tensor.device != device:
                raise ValueError(f"{name} must be on {device}, as values; got {tensor.device}")
        if self.times is not None:
            _require(self.times, "times", shape, torch.float64)
            _refuse(~self.times.isfinite(), self.times, "times must be finite", self.labels)
            falls = torch.zeros_like(self.times, dtype=torch.bool)
            falls[:, 1:] = self.times.diff(dim=1) < 0
            _refuse(falls, self.times, "times must not decrease in a sequence", self.labels)
        if self.actions is not None:
            _require(self.actions, "actions", shape, torch.int64)
            _refuse(self.actions < 0, self.actions, "actions must be 0, 1, 2, …", self.labels)
        if self.inputs is not None:
            if self.inputs.ndim != 3 or not self.inputs.is_floating_point():
                raise ValueError(
                    "inputs must be floating of shape (sequences, steps, inputs); got "
                    f"{self.inputs.dtype} of shape {tuple(self.inputs.shape)}"
                )
            _require(self.inputs, "inputs", (*shape, self.inputs.shape[2]), self.inputs.dtype)
            _refuse(~self.inputs.isfinite(), self.inputs, "inputs must be finite", self.labels)

    # Constructors

    @classmethod
    def from_arrays(
        cls,
        arrays: Iterable[npt.ArrayLike],
        *,
        codes: bool = False,
        times: Iterable[npt.ArrayLike] | None = None,
        actions: Iterable[npt.ArrayLike] | None = None,
        inputs: Iterable[npt.ArrayLike] | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """One array a sequence, (steps,) or (steps, features), of any lengths; NaN = missing.

        Whole numbers become torch's default floating type unless ``codes=True``, which keeps them
        as categories 0, 1, 2, …; floating values keep their precision. ``times`` and ``actions``
        hold one (steps,) array a sequence, ``inputs`` one (steps,) or (steps, inputs) array.
        A single padded array goes to :meth:`from_array`.

        Raises:
            ValueError: if there is no sequence, one is empty, feature counts or lengths disagree,
                or entries are not numbers, infinite, or all missing.

        >>> Sequences.from_arrays([[1.0, float("nan"), 2.0], [3.0]])
        Sequences(n_sequences=2, max_length=3, n_features=1, n_steps=4, n_observed=3, float64)
        """
        flat, lengths = _joined(arrays, "arrays")

        def padded(data: Iterable[npt.ArrayLike] | None, name: str) -> Tensor | None:
            return None if data is None else _pad(_joined(data, name, lengths)[0], lengths)

        return cls.from_tensors(
            _pad(flat, lengths),
            lengths=torch.from_numpy(lengths),
            codes=codes,
            times=padded(times, "times"),
            actions=padded(actions, "actions"),
            inputs=padded(inputs, "inputs"),
            labels=labels,
            features=features,
            symbols=symbols,
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
        inputs: npt.ArrayLike | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """One array (N, T, F), (N, T) with one feature, or (T,) for one sequence; NaN = missing.

        The other arguments are arrays of the shapes that :meth:`from_tensors` names.
        """

        def tensor(data: npt.ArrayLike | None, name: str) -> Tensor | None:
            return None if data is None else torch.from_numpy(_numbers(data, name).copy())

        return cls.from_tensors(
            torch.from_numpy(_numbers(array, "array").copy()),
            tensor(mask, "mask"),
            tensor(lengths, "lengths"),
            codes=codes,
            times=tensor(times, "times"),
            actions=tensor(actions, "actions"),
            inputs=tensor(inputs, "inputs"),
            labels=labels,
            features=features,
            symbols=symbols,
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
        inputs: Tensor | None = None,
        labels: Iterable[object] | None = None,
        features: Iterable[object] | None = None,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """Padded tensors on any device, copied and detached; whatever lies in the padding is void.

        Args:
            values: (N, T, F), (N, T) with one feature, or (T,) for one sequence (mask, times,
                actions and inputs then come without the leading axis too). NaN = missing.
            mask: bool, shape of ``values`` or (N, T); True = observed. NaN is missing in any case.
            lengths: (N,) whole numbers in 1..T; T for all if None.
            codes: the values are categories 0, 1, 2, …
            times: (N, T), or (T,) for a grid common to all sequences.
            actions: (N, T) whole numbers.
            inputs: (N, T, U), or (N, T) for one input.
            labels, features, symbols: names of the sequences, features and codes.

        Raises:
            ValueError: if shapes or values are not as above, or nothing at all is observed.
        """
        values = _tensor(values, "values")
        rest = [("mask", mask), ("times", times), ("actions", actions), ("inputs", inputs)]
        given = {k: _tensor(v, k).to(values.device) for k, v in rest if v is not None}
        if values.ndim == 1:
            values, given = values[None], {k: v[None] for k, v in given.items()}
        if values.ndim not in (2, 3) or 0 in values.shape:
            raise ValueError(
                "values must have shape (sequences, steps, features), (sequences, steps) or "
                f"(steps,), none of them 0; got {tuple(values.shape)}"
            )
        if values.ndim == 2:
            values = values[..., None]
        if codes and values.shape[2] != 1:
            raise ValueError(f"codes must have one feature; got {values.shape[2]} features")
        n, t = values.shape[:2]
        lengths = torch.full((n,), t) if lengths is None else _tensor(lengths, "lengths")
        lengths = _checked_lengths(lengths, n, t).to(values.device, torch.int64, copy=True)
        steps = torch.arange(t, device=values.device) < lengths[:, None]
        observed = _observed(values, given.get("mask"), steps)
        if not observed.any():
            raise ValueError("values must hold at least one observed number; all are missing")
        if codes:
            observed = observed[..., 0]
            values = _whole(values[..., 0], observed, "codes")
        else:
            values = _floating(values).masked_fill(~observed, 0)
        return cls(
            values=values,
            mask=observed,
            lengths=lengths,
            **_companions(given, lengths, steps),
            labels=() if labels is None else _names(labels, "labels", n),
            features=() if features is None else _names(features, "features"),
            symbols=None if symbols is None else _names(symbols, "symbols"),
        )

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
        inputs: Hashable | Iterable[Hashable] | None = None,
        lengths: npt.ArrayLike | None = None,
        codes: bool = False,
        symbols: Iterable[object] | None = None,
    ) -> Sequences:
        """A pandas frame; NaN and pd.NA = missing.

        Long: one row a step. ``sequence`` names the column (or index level) that tells sequences
        apart, kept in order of appearance (one sequence if None); ``time`` the one that orders
        rows inside a sequence and becomes ``times`` (row order if None). ``columns`` name the
        features, ``inputs`` the inputs, ``action`` the action; ``columns=None`` takes all that
        are left. Absent rows are not filled in. With ``codes=True`` a categorical column gives
        its codes and its categories as symbols.

        Wide: one row a sequence, ``columns`` (all but ``sequence`` if None) are its steps, of one
        feature. Numeric or datetime column labels become ``times``. Rows shorter than the frame
        need ``lengths``: a trailing NaN is a missing value like any other.

        Datetimes become float days since the first stamp of the data set (whichever sequence has
        it), timedeltas float days.

        Raises:
            ValueError: if a column is absent or not numeric, or sequence or time is missing in a
                row, or as in :meth:`from_tensors`.
        """
        if not hasattr(frame, "iloc") or not hasattr(frame, "columns"):
            raise ValueError(f"frame must be a pandas DataFrame; got {type(frame).__name__}")
        if layout not in ("long", "wide"):
            raise ValueError(f"layout must be 'long' or 'wide'; got {layout!r}")
        absent = {"lengths": lengths} if layout == "long" else {"time": time, "action": action}
        for name, value in absent.items():
            if value is not None:
                raise ValueError(f"{name} has no meaning with layout={layout!r}; got {value!r}")
        chosen, extra = _listed(columns), _listed(inputs) or []
        if extra and layout == "wide":
            raise ValueError(f"inputs have no meaning with layout='wide'; got {inputs!r}")
        named = [name for name in (sequence, time, action) if name is not None]
        frame = _with_columns(frame, [*named, *extra, *(chosen or [])])
        if chosen is None:
            chosen = [name for name in frame.columns if name not in (*named, *extra)]
        if not chosen:
            raise ValueError("columns must name at least one column; got none")
        if layout == "wide":
            return _from_wide(frame, sequence, chosen, lengths, codes, symbols)
        return _from_long(frame, sequence, time, chosen, action, extra, codes, symbols)

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
        dims = tuple(getattr(array, "dims", ()))
        if (
            time not in dims
            or set(dims) - {sequence, time, feature}
            or not hasattr(array, "to_numpy")
        ):
            raise ValueError(
                f"array must be a DataArray with dimension {time!r} and none but {sequence!r}, "
                f"{time!r} and {feature!r}; got {type(array).__name__} with dimensions {dims}"
            )
        order = [name for name in (sequence, time, feature) if name in dims]
        numbers = _numbers(array.transpose(*order).to_numpy(), "array")

        def names(dim: str) -> list[str] | None:
            known = dim in dims and dim in array.coords
            return [str(name) for name in array.coords[dim].to_numpy()] if known else None

        stamps = array.coords[time].to_numpy() if time in array.coords else None
        known = stamps is not None and stamps.dtype.kind in "iufMm"
        times = _days(stamps, f"coordinate {time!r}") if known else None
        return cls.from_array(
            numbers if sequence in dims else numbers[None],
            lengths,
            codes=codes,
            times=times,
            labels=names(sequence),
            features=None if codes else names(feature),
            symbols=symbols,
        )

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
        symbols = tuple(alphabet)
        if not symbols or any(not isinstance(s, str) or len(s) != 1 for s in symbols):
            raise ValueError(f"alphabet must be single characters, at least one; got {alphabet!r}")
        if unknown not in ("error", "missing"):
            raise ValueError(f"unknown must be 'error' or 'missing'; got {unknown!r}")
        texts = [strings] if isinstance(strings, str) else list(strings)
        for n, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise ValueError(f"strings[{n}] must be a string, not empty; got {text!r}")
        if not texts:
            raise ValueError("strings must hold at least one string; got none")
        points = [ord(symbol) for symbol in symbols]
        place = np.full(max(points) + 2, -1)  # the last entry stands for all characters beyond
        place[points] = np.arange(len(symbols))
        joined = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        flat = place[np.minimum(joined, len(place) - 1)]
        lengths = np.array([len(text) for text in texts])
        if unknown == "error" and (flat < 0).any():
            at = int((flat < 0).argmax())
            n = int(np.searchsorted(lengths.cumsum(), at, side="right"))
            position = at - int(lengths[:n].sum())
            raise ValueError(
                "strings must hold characters of the alphabet only; got "
                f"{texts[n][position]!r} at position {position} of strings[{n}] "
                "(unknown='missing' leaves such characters out)"
            )
        return cls.from_tensors(
            _pad(flat, lengths),
            _pad(flat >= 0, lengths),
            torch.from_numpy(lengths),
            codes=True,
            labels=labels,
            symbols=symbols,
        )

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
        return self._taken(_positions(index, len(self)))

    def __iter__(self) -> Iterator[Sequences]:
        return (self[n] for n in range(len(self)))

    def _taken(self, positions: Tensor) -> Sequences:
        at = positions.to(self.values.device)
        lengths = self.lengths[at]
        longest = int(lengths.max())
        labels = [self.labels[n] for n in positions.tolist()]
        tensors = {name: getattr(self, name) for name in _PER_STEP}
        parts = {k: None if v is None else v[:, :longest][at] for k, v in tensors.items()}
        return self._derived(lengths=lengths, labels=_distinct(labels), **parts)

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
        bounds = _bounds(parts, len(self))
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

        A dtype may come first, as in torch. Codes, mask, lengths, actions and times keep their
        type.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating type; got {dtype}")
        tensors = {name: getattr(self, name) for name in (*_PER_STEP, "lengths")}
        moved: dict[str, Any] = {k: None if v is None else v.to(device) for k, v in tensors.items()}
        if dtype is None:
            return self._derived(**moved)
        for name in ("values", "inputs"):
            if moved[name] is not None and moved[name].is_floating_point():
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
        return _whole(self.values[..., 0], self.mask[..., 0], "codes", self.labels)

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
        lengths = self.lengths.double()
        cells = self.n_steps * self.n_features
        lines = [
            f"{len(self)} sequences, {self.n_steps} steps; length min {int(lengths.min())}, "
            f"median {float(lengths.quantile(0.5)):g}, max {int(lengths.max())}",
            f"{'codes' if self.is_codes else f'{self.n_features} features'}, "
            f"{100 * (1 - self.n_observed / cells):.3g} % missing",
        ]
        if self.times is not None:
            lines.append(f"times {float(self.times.min()):g} to {float(self.times.max()):g}")
        if self.actions is not None:
            lines.append(f"{int(self.actions[self.step_mask].max()) + 1} actions")
        if self.inputs is not None:
            lines.append(f"{self.inputs.shape[2]} inputs")
        return "\n".join(lines + (_code_lines(self) if self.is_codes else _feature_lines(self)))

    def __repr__(self) -> str:
        kind = "codes" if self.is_codes else str(self.values.dtype).removeprefix("torch.")
        return (
            f"Sequences(n_sequences={len(self)}, max_length={self.max_length}, "
            f"n_features={self.n_features}, n_steps={self.n_steps}, "
            f"n_observed={self.n_observed}, {kind})"
        )


# Checks


def _refuse(bad: Tensor, shown: Tensor, requirement: str, labels: Sequence[str] = ()) -> None:
    """Raise a ValueError that gives the first entry where ``bad`` is True, and its place."""
    if not bad.any():
        return
    place = torch.nonzero(bad)[0].tolist()
    name = f" ({labels[place[0]]!r})" if labels else ""
    feature = f", feature {place[2]}" if len(place) == 3 else ""
    raise ValueError(
        f"{requirement}; got {shown[tuple(place)].item()} "
        f"in sequence {place[0]}{name}, step {place[1]}{feature}"
    )


def _require(tensor: Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}; got {tensor.dtype} "
            f"of shape {tuple(tensor.shape)}"
        )


def _check_layout(values: Tensor, mask: Tensor, lengths: Tensor) -> None:
    for name, tensor in (("values", values), ("mask", mask), ("lengths", lengths)):
        _tensor(tensor, name)
    codes = values.ndim == 2 and values.dtype == torch.int64
    if not (codes or (values.ndim == 3 and values.is_floating_point())) or 0 in values.shape:
        raise ValueError(
            "values must be floating (sequences, steps, features) or int64 codes "
            f"(sequences, steps), no size 0; got {values.dtype} of shape {tuple(values.shape)}"
        )
    _require(mask, "mask", tuple(values.shape), torch.bool)
    _require(lengths, "lengths", (len(values),), torch.int64)
    _checked_lengths(lengths, *values.shape[:2])
    if lengths.device != values.device:
        raise ValueError(f"lengths must be on {values.device}, as values; got {lengths.device}")


def _checked_lengths(lengths: Tensor, n: int, t: int) -> Tensor:
    whole = not lengths.is_floating_point() and lengths.dtype != torch.bool
    if not whole or tuple(lengths.shape) != (n,):
        raise ValueError(
            f"lengths must be whole numbers of shape ({n},), one a sequence; "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    outside = (lengths < 1) | (lengths > t)
    if outside.any():
        at = int(torch.nonzero(outside)[0])
        raise ValueError(
            f"lengths must lie in 1..{t}, the number of steps; "
            f"got {int(lengths[at])} for sequence {at}"
        )
    return lengths


def _tensor(data: Tensor, name: str) -> Tensor:
    if not isinstance(data, Tensor) or data.is_complex():
        got = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"{name} must be a real torch.Tensor; got {got}")
    return data.detach()


def _names(names: Iterable[object], name: str, count: int | None = None) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"{name} must be a list of names; got the single string {names!r}")
    strings = tuple(str(one) for one in names)
    if count is not None and len(strings) != count:
        raise ValueError(f"{name} must be {count} names; got {len(strings)}")
    if len(set(strings)) < len(strings):
        twice = next(one for one in strings if strings.count(one) > 1)
        raise ValueError(f"{name} must all be different; got {twice!r} more than once")
    return strings


# Tensors


def _like(steps: Tensor, values: Tensor) -> Tensor:
    """An (N, T) tensor broadcast to the shape of ``values``, (N, T) or (N, T, F)."""
    return (steps if values.ndim == 2 else steps[..., None]).expand(values.shape)


def _floating(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _whole(numbers: Tensor, where: Tensor, name: str, labels: Sequence[str] = ()) -> Tensor:
    """int64 of whole numbers 0, 1, 2, …; 0 where ``where`` is False, whatever stood there."""
    kept = numbers.masked_fill(~where, 0)
    bad = kept < 0
    if kept.is_floating_point():
        bad = bad | (kept != kept.floor()) | (kept >= _LARGEST_WHOLE)
    _refuse(bad, kept, f"{name} must be whole numbers 0, 1, 2, …", labels)
    return kept.to(torch.int64)


def _observed(values: Tensor, mask: Tensor | None, steps: Tensor) -> Tensor:
    """(N, T, F) bool: within the sequence, not NaN and not masked."""
    observed = _like(steps, values)
    if values.is_floating_point():
        observed = observed & ~values.isnan()
    if mask is None:
        return observed.clone()
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[:2]):
        raise ValueError(
            f"mask must be bool of shape {tuple(values.shape)} or {tuple(values.shape[:2])}; "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return observed & (mask if mask.ndim == 3 else _like(mask, values))


def _companions(given: dict[str, Tensor], lengths: Tensor, steps: Tensor) -> dict[str, Tensor]:
    """Times, actions and inputs as the container holds them."""
    shape = tuple(steps.shape)
    made: dict[str, Tensor] = {}
    for name in ("times", "actions", "inputs"):
        if name not in given:
            continue
        data = given[name]
        if name == "times" and tuple(data.shape) == shape[1:]:
            data = data.expand(shape)
        data = data[..., None] if data.ndim == 2 else data
        if tuple(data.shape[:-1]) != shape or (name != "inputs" and data.shape[2] != 1):
            axes = f"{shape} or {(*shape, 'U')}" if name == "inputs" else f"{shape}"
            raise ValueError(
                f"{name} must have shape {axes}, an entry a step; got {tuple(given[name].shape)}"
            )
        made[name] = data if name == "inputs" else data[..., 0]
    if "times" in made:
        times = made["times"].double()
        last = times.gather(1, lengths[:, None] - 1)
        made["times"] = torch.where(steps, times, last)
    if "actions" in made:
        made["actions"] = _whole(made["actions"], steps, "actions")
    if "inputs" in made:
        made["inputs"] = _floating(made["inputs"]).masked_fill(~steps[..., None], 0)
    return made


def _positions(index: int | slice | Sequence[int] | Tensor | Array, n: int) -> Tensor:
    """int64 positions in 0..n-1 that ``index`` means, at least one."""
    if isinstance(index, slice):
        chosen = np.arange(n)[index]
    else:
        chosen = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if chosen.dtype == bool and chosen.shape == (n,):
            chosen = np.flatnonzero(chosen)
        elif chosen.size and (chosen.dtype.kind not in "iu" or chosen.ndim > 1):
            raise ValueError(
                f"index must be positions or {n} bools, one a sequence; "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
    if not chosen.size:
        raise ValueError(f"index must choose at least one of {n} sequences; got {index!r}")
    chosen = np.atleast_1d(chosen).astype(np.int64)
    if chosen.min() < -n or chosen.max() >= n:
        raise IndexError(f"index must lie in {-n}..{n - 1}; got {index!r}")
    return torch.from_numpy(chosen % n)


def _distinct(labels: list[str]) -> tuple[str, ...]:
    """The labels, with " (2)", " (3)", … behind one that came before."""
    taken = set(labels)
    seen: dict[str, int] = {}
    for n, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            while (name := f"{label} ({seen[label]})") in taken:
                seen[label] += 1
            taken.add(name)
            labels[n] = name
    return tuple(labels)


def _bounds(parts: Sequence[float] | Sequence[int], n: int) -> list[int]:
    """Where parts begin and end among n shuffled sequences."""
    if isinstance(parts, str) or not isinstance(parts, Iterable):
        raise ValueError(f"parts must be a list of fractions or of counts; got {parts!r}")
    sizes = np.asarray(list(parts))
    whole = sizes.dtype.kind in "iu"
    if sizes.ndim != 1 or not sizes.size or not (whole or sizes.dtype.kind == "f"):
        raise ValueError(f"parts must be a list of fractions or of counts; got {parts!r}")
    limit = n if whole else 1.0
    if not (sizes > 0).all() or not sizes.sum() <= limit * (1 + 1e-9):
        raise ValueError(
            f"parts must be positive and sum to at most {limit} "
            f"({'counts' if whole else 'fractions'} of {n} sequences); got {parts!r}"
        )
    ends = sizes.cumsum() if whole else np.rint(sizes.cumsum() * n)
    bounds = [0, *(int(end) for end in ends)]
    if (np.diff(bounds) < 1).any():
        raise ValueError(f"parts must each hold a sequence; got {parts!r} of {n} sequences")
    return bounds


# Arrays and frames


def _numbers(data: Any, name: str) -> Array:
    """A numpy array of bool, int64 or floating numbers, or a ValueError that names the argument."""
    array: Array
    if isinstance(data, Tensor):
        data = _tensor(data, name).cpu()
        array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
    elif np.ma.isMaskedArray(data):
        array = np.ma.filled(data.astype(np.float64), np.nan)
    elif hasattr(data, "iloc"):
        if data.ndim == 1:
            array = _column(data, name)
        else:
            array = np.column_stack([_column(data[c], f"{name}[{c!r}]") for c in data.columns])
    else:
        try:
            array = np.asarray(data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a rectangular array of numbers; {error}") from error
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got dtype {array.dtype}")
    if kind == "f":
        native = array.dtype.newbyteorder("=") if size <= 8 else np.dtype(np.float64)
    elif kind == "b":
        native = array.dtype
    else:
        native = np.dtype(np.float64 if (kind, size) == ("u", 8) else np.int64)
    converted: Array = array.astype(native, copy=False)
    return converted


def _joined(data: Iterable[Any], name: str, like: Array | None = None) -> tuple[Array, Array]:
    """Arrays of all sequences end to end, (steps, columns), and their lengths (as in ``like``)."""
    table = hasattr(data, "iloc") or hasattr(data, "coords")
    if table or isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise ValueError(f"{name} must be a list of arrays; got {type(data).__name__}")
    items = [_numbers(item, f"{name}[{n}]") for n, item in enumerate(data)]
    if not items or (like is not None and len(items) != len(like)):
        count = "at least one array" if like is None else f"{len(like)} arrays, one a sequence"
        raise ValueError(f"{name} must hold {count}; got {len(items)}")
    for n, item in enumerate(items):
        if item.ndim not in (1, 2) or 0 in item.shape:
            raise ValueError(
                f"{name}[{n}] must have shape (steps,) or (steps, columns), at least one step and "
                f"one column; got {item.shape}"
            )
        if like is not None and len(item) != like[n]:
            raise ValueError(f"{name}[{n}] must have {like[n]} steps; got {len(item)}")
        items[n] = item if item.ndim == 2 else item[:, None]
        if items[n].shape[1] != items[0].shape[1]:
            raise ValueError(
                f"{name} must all have the same number of columns; got {items[0].shape[1]} "
                f"in {name}[0] and {items[n].shape[1]} in {name}[{n}]"
            )
    return np.concatenate(items), np.array([len(item) for item in items])


def _pad(flat: Array, lengths: Array) -> Tensor:
    """Steps of all sequences end to end, (steps, …), into zero-padded (sequences, T, …)."""
    within = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros((*within.shape, *flat.shape[1:]), flat.dtype)
    padded[within] = flat
    return torch.from_numpy(padded)


def _column(series: Any, name: str) -> Array:
    """A numeric pandas column; nullable ones become float64, with NaN for pd.NA."""
    if series.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got dtype {series.dtype}")
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series)
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _days(stamps: Any, name: str) -> Array:
    """Numbers as they are; datetimes in days since the first, timedeltas in days."""
    kind = stamps.dtype.kind
    if kind == "M" and not isinstance(stamps.dtype, np.dtype):  # with a time zone
        stamps = stamps.to_numpy(dtype="datetime64[ns]")
    numbers = np.asarray(stamps) if kind in "Mm" else _column(stamps, name)
    if kind not in "Mm":
        return numbers.astype(np.float64)
    if np.isnat(numbers).any():
        raise ValueError(f"{name} must not be missing; got NaT at row {np.isnat(numbers).argmax()}")
    spans = numbers - numbers.min() if kind == "M" else numbers
    return np.asarray(spans / np.timedelta64(1, "D"))


def _listed(names: Any) -> list[Hashable] | None:
    """Column labels as a list; a tuple is one label, as everywhere in pandas."""
    if names is None:
        return None
    single = isinstance(names, str | tuple) or not isinstance(names, Iterable)
    return [names] if single else list(names)


def _with_columns(frame: Any, names: list[Hashable]) -> Any:
    """The frame with the index levels among ``names`` as columns; each name must be there once."""
    levels = [n for n in names if n not in frame.columns and n in frame.index.names]
    if levels:
        frame = frame.reset_index(levels)
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"frame must have a column {name!r}; got {list(frame.columns)}")
        if names.count(name) > 1:
            raise ValueError(f"a column can play one role only; got {name!r} twice")
    if not frame.columns.is_unique:
        raise ValueError(f"columns of frame must be unique; got {list(frame.columns)}")
    if not len(frame):
        raise ValueError("frame must have at least one row; got none")
    return frame


def _from_long(
    frame: Any,
    sequence: Hashable | None,
    time: Hashable | None,
    columns: list[Hashable],
    action: Hashable | None,
    inputs: list[Hashable],
    codes: bool,
    symbols: Iterable[object] | None,
) -> Sequences:
    group, labels = np.zeros(len(frame), np.int64), None
    if sequence is not None:
        group, names = frame[sequence].factorize()
        labels = [str(name) for name in names]
        if (group < 0).any():
            row = int((group < 0).argmax())
            raise ValueError(f"column {sequence!r} must not be missing; got NaN at row {row}")
    stamps = np.zeros(len(frame)) if time is None else _days(frame[time], f"column {time!r}")
    if np.isnan(stamps).any():
        row = int(np.isnan(stamps).argmax())
        raise ValueError(f"column {time!r} must not be missing; got NaN at row {row}")
    order = np.lexsort((stamps, group))
    lengths = np.bincount(group)

    def padded(name: Hashable) -> Tensor:
        return _pad(_column(frame[name], f"column {name!r}")[order], lengths)

    first = frame[columns[0]]
    if codes and len(columns) == 1 and hasattr(first.dtype, "categories"):
        known = np.asarray(first.cat.codes)[order]
        values, mask = _pad(known, lengths), _pad(known >= 0, lengths)
        symbols = first.cat.categories if symbols is None else symbols
    else:
        values, mask = torch.stack([padded(name) for name in columns], dim=2), None
    return Sequences.from_tensors(
        values,
        mask,
        torch.from_numpy(lengths),
        codes=codes,
        times=None if time is None else _pad(stamps[order], lengths),
        actions=None if action is None else padded(action),
        inputs=torch.stack([padded(name) for name in inputs], dim=2) if inputs else None,
        labels=labels,
        features=None if codes else columns,
        symbols=symbols,
    )


def _from_wide(
    frame: Any,
    sequence: Hashable | None,
    columns: list[Hashable],
    lengths: npt.ArrayLike | None,
    codes: bool,
    symbols: Iterable[object] | None,
) -> Sequences:
    labels = frame.index if sequence is None else frame[sequence]
    if labels.isna().any():
        row = int(np.asarray(labels.isna()).argmax())
        raise ValueError(f"names of sequences must not be missing; got NaN at row {row}")
    steps = frame[columns].columns.infer_objects()
    timed = steps.dtype.kind in "iufMm"
    return Sequences.from_array(
        frame[columns],
        lengths,
        codes=codes,
        times=_days(steps, "column labels") if timed else None,
        labels=labels,
        symbols=symbols,
    )


# Summaries


def _feature_lines(data: Sequences, most: int = 12) -> list[str]:
    """A table of mean, sd, min and max over the observed values of each feature."""
    width = max(8, *(len(name) for name in data.features[:most]))
    columns = ("mean", "sd", "min", "max", "missing")
    lines = [" " * width + "".join(f"{head:>12}" for head in columns)]
    for f, name in enumerate(data.features[:most]):
        seen = data.values[..., f][data.mask[..., f]].double()
        missing = f"{100 * (1 - len(seen) / data.n_steps):.3g} %"
        figures = ["-"] * 4
        if len(seen):
            sd = seen.std(correction=0)
            figures = [f"{float(x):.4g}" for x in (seen.mean(), sd, seen.min(), seen.max())]
        lines.append(f"{name:<{width}}" + "".join(f"{x:>12}" for x in (*figures, missing)))
    left = data.n_features - most
    return lines + ([f"… and {left} more features"] if left > 0 else [])


def _code_lines(data: Sequences, most: int = 30) -> list[str]:
    """The codes met, the most frequent first, with their shares of the observed steps."""
    met, counts = data.values[data.mask].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True).tolist()
    names = [str(c) if data.symbols is None else repr(data.symbols[c]) for c in met.tolist()]
    shown = [f"{names[i]} {100 * int(counts[i]) / data.n_observed:.3g} %" for i in order[:most]]
    left = len(order) - most
    return [
        f"{len(order)} codes met: " + ", ".join(shown) + (f", … {left} more" if left > 0 else "")
    ]
