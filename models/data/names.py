"""Names of symbols and columns: what a model was fitted to, and by which it reads other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from .folders import SequenceFolder
    from .sequences import Sequences

Given: TypeAlias = tuple[str, ...] | None
"""Names, or None where none were given."""


@dataclass(frozen=True)
class Names:
    """Names of the data that a model was fitted to; None where they had none.

    Args:
        features: of the columns that are observed.
        symbols: of the codes 0, 1, 2, …
        inputs: of the input columns.
        units: of columns, inputs and ``"time"``, by their names.

    >>> from beliefzoo.models import Sequences
    >>> names = Names(symbols=("a", "b", "c"))
    >>> names.read(Sequences.from_text("cb", alphabet="bc")).codes()
    tensor([[2, 1]])
    """

    features: Given = None
    symbols: Given = None
    inputs: Given = None
    units: Mapping[str, str] | None = None

    @classmethod
    def of(cls, data: Sequences | SequenceFolder) -> Names:
        """Return the names of the data; numbers, which stand for names, are none."""
        inputs: tuple[str, ...] = getattr(data, "input_names", ())
        features = None if data.is_codes else _given(data.features)
        units: Mapping[str, str] = getattr(data, "units", {})
        return cls(features, data.symbols, _given(inputs), dict(units) or None)

    @classmethod
    def from_plain(cls, names: Mapping[str, object]) -> Names:
        """Return names from plain values, as a file holds them.

        Raises:
            ValueError: values of another form.
        """
        for name, value in names.items():
            listed = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
            if name == "units" and isinstance(value, Mapping):
                listed = all(isinstance(one, str) for pair in value.items() for one in pair)
            if name not in ("features", "symbols", "inputs", "units") or not (
                value is None or listed
            ):
                raise ValueError(f"path: needs names as lists of strings, got {name}={value!r}")
        made = {n: dict(v) if isinstance(v, Mapping) else v and tuple(v) for n, v in names.items()}  # type: ignore
        return cls(**made)  # type: ignore[arg-type]

    @property
    def any(self) -> bool:
        """Whether anything has a name."""
        return self != Names()

    def plain(self) -> dict[str, Any]:
        """Return the names that there are, as plain values."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def read(self, data: Sequences) -> Sequences:
        """Return the data with the codes that these names give to their symbols.

        Data without names are read by their places.

        Raises:
            ValueError: an observed symbol that has no code here, or columns of other names or in
                another order, or in another unit.
        """
        own = Names.of(data)
        for name, unit in (self.units or {}).items():
            told = (own.units or {}).get(name, unit)
            if told != unit:
                raise ValueError(
                    f"data.units: must be {unit!r} for {name!r}, as in the data that the model was "
                    f"fitted to, got {told!r}"
                )
        asked = (
            (
                "data.features",
                self.features,
                own.features,
                "columns=[…] of from_frame chooses them",
            ),
            ("data.input_names", self.inputs, own.inputs, "inputs=[…] of from_frame chooses them"),
        )
        for argument, known, came, remedy in asked:
            if known is not None and came is not None and known != came:
                raise ValueError(
                    f"{argument}: must be {known}, in this order, as those that the model was "
                    f"fitted to ({remedy}), got {came}"
                )
        if self.symbols is None or own.symbols is None or self.symbols == own.symbols:
            return data
        return self._recoded(data, self.symbols, own.symbols)

    def marked(self, data: Sequences) -> Sequences:
        """Return data made of these names with the units of their columns."""
        own = (*data.features, *data.input_names, *(("time",) * (data.times is not None)))
        return data._derived(units={n: u for n, u in (self.units or {}).items() if n in own})

    def _recoded(self, data: Sequences, known: tuple[str, ...], own: tuple[str, ...]) -> Sequences:
        place = {symbol: code for code, symbol in enumerate(known)}
        codes = torch.tensor([place.get(symbol, -1) for symbol in own], device=data.values.device)
        values = torch.where(data.mask, codes[data.values.clamp_max(len(own) - 1)], 0)
        for n, t in (values < 0).nonzero()[:1].tolist():
            raise ValueError(
                f"data.symbols: must be among {known}, as those that the model was fitted to, "
                f"got {own[int(data.values[n, t])]!r} in sequence {data.labels[n]!r}, step {t}"
            )
        return replace(data, values=values, symbols=known)


def _given(names: tuple[str, ...]) -> Given:
    """The names, unless they are the numbers that stand for names."""
    return None if names == tuple(map(str, range(len(names)))) else names
