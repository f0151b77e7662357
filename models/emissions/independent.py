"""Channels of different families on different columns, independent given the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require
from ..data.sequences import Sequences
from .emission import (
    ClosedForm,
    Emission,
    Parameters,
    Priors,
    axis_labels,
    closed_forms,
    in_products,
)
from .observations import Mixed, naming

Value = TypeVar("Value")

Columns = Mapping[str, str | Sequence[str]] | tuple[tuple[str, tuple[str, ...]], ...]

_SHARED_AXES = "state", "input"
"""Axes that are the same for all channels."""

_TAKEN = "initial", "transition", "input", "lag", "node", "emission", "reward", "states", "obs"
"""First words of the names of parameters of other laws, and sites."""


@dataclass(frozen=True)
class Channel:
    """A family, the columns that it describes, and the names of its parameters."""

    name: str
    family: Emission
    columns: tuple[str, ...]
    place: int
    """Number of the channel."""
    predictor: slice
    """Where its linear predictor lies."""

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Names of the model's parameters, by the family's own."""
        return {own: f"{self.name}_{own}" for own in self.family.dims()}

    def own(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the family's own parameters, those that are there."""
        names = self.parameters.items()
        return {own: parameters[name] for own, name in names if name in parameters}

    def named(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the family's own values under the names that they have in the model."""
        return {f"{self.name}_{own}": value for own, value in values.items()}

    def axis(self, name: str) -> str:
        """Return the name that an axis of the family has in the model."""
        return name if name in _SHARED_AXES else f"{self.name}_{name}"


@boundary
@dataclass(frozen=True, init=False, repr=False)
class Independent(Emission):
    r"""A family for each column: several kinds of observations of one hidden state.

    .. math:: \log O_k(y) = \sum_c \log O^{(c)}_k(y_c)

    Given the state the channels c are independent; what they share is the state. Each channel is
    any family: ``Independent(rt=Gaussian(), correct=Bernoulli())`` describes the columns ``rt`` and
    ``correct``. Data are read by the names of their columns, which must come in this order; data
    whose columns have no names are read by their places. An element that is missing leaves out its
    channel alone, of a family of vectors as that family does. Symbols are columns of whole numbers.

    The parameters, their axes and their priors are those of the families after the name of the
    channel: ``rt_mean``, ``rt_scale``, ``correct_probs``. Convenient ones have it too
    (``position_covariance``). ``ordered=True`` sorts the states by the first channel that can sort
    them. A channel can be a ``Regression``, on its own earlier values or on the inputs; in
    ``Regression(Independent(…))`` all channels follow all inputs, and earlier values of each other.

    Args:
        columns: of each channel that is not named after its only column, the names of its columns:
            ``columns={"position": ("x", "y")}`` for ``position=FullGaussian(2)``.
        families: the families of the channels in ``columns``, in place of ``channels``.
        **channels: the families, by the names of the channels, in the order of their columns.

    Raises:
        ValueError: no channel, one that is no family of a single step, a name that is no Python
            name or that other parameters have, columns that are not as many as the family's
            features or that belong to two channels, or channels that read different numbers of
            inputs.

    Source: Visser & Speekenbrink (2010), Journal of Statistical Software 36 (multivariate
    responses, each with a distribution of its own).

    >>> from beliefzoo.models import Bernoulli, Gaussian, HiddenMarkovModel
    >>> emission = Independent(rt=Gaussian(), correct=Bernoulli())
    >>> list(emission.priors(states=2))
    ['rt_mean', 'rt_scale', 'correct_probs']

    The response times and errors of two ways to answer, in which one is right half of the time:

    >>> model = HiddenMarkovModel(2, emission).with_parameters(
    ...     initial=[1, 0], transition=[[0.92, 0.08], [0.1, 0.9]],
    ...     rt_mean=[6.4, 5.5], rt_scale=[0.24, 0.2], correct_probs=[0.9, 0.5],
    ... )
    >>> data = model.sample(1, 3, seed=0).data
    >>> data.features, data.select("correct").values.flatten()
    (('rt', 'correct'), tensor([1., 1., 1.], dtype=torch.float64))
    """

    families: tuple[Emission, ...]
    columns: tuple[tuple[str, tuple[str, ...]], ...]

    def __init__(
        self,
        *,
        columns: Columns | None = None,
        families: tuple[Emission, ...] = (),
        **channels: Emission,
    ) -> None:
        named = _pairs(columns)
        require(isinstance(families, tuple), "families", "must be a tuple", repr(families))
        if families:
            fits = len(families) == len(named) and not channels
            require(fits, "families", f"needs one each for {list(named)} alone", len(families))
            channels = dict(zip(named, families, strict=True))
        require(bool(channels), "channels", "needs a family at least", "none")
        stray = sorted(set(named) - set(channels))
        require(not stray, "columns", f"needs names of channels, {list(channels)}", stray)
        pairs = tuple((name, named.get(name, (name,))) for name in channels)
        object.__setattr__(self, "families", tuple(channels.values()))
        object.__setattr__(self, "columns", pairs)
        for (name, own), family in zip(self.columns, self.families, strict=True):
            _check_channel(name, family, own)
        _check_together(self.columns, self.families)

    def __repr__(self) -> str:
        told = [f"{channel.name}={channel.family!r}" for channel in self.channels]
        other = {name: own for name, own in self.columns if own != (name,)}
        return f"Independent({', '.join([*told, *([f'columns={other}'] if other else [])])})"

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of their columns."""
        made, start = [], 0
        for place, (pair, family) in enumerate(zip(self.columns, self.families, strict=True)):
            stop = start + family.shift_size
            made.append(Channel(pair[0], family, pair[1], place, slice(start, stop)))
            start = stop
        return tuple(made)

    @cached_property
    def observations(self) -> Mixed:
        names = tuple(name for _, own in self.columns for name in own)
        return Mixed(tuple(family.observations for family in self.families), names)

    @property
    def features(self) -> int:
        return self.observations.features

    def _views(self, data: Sequences) -> list[Sequences]:
        """The data of each channel."""
        return [data.select(*data.features[place]) for place in self.observations.places]

    def check(self, data: Sequences) -> None:
        self.observations.check_columns(data, "Independent")
        for channel, view in zip(self.channels, self._views(data), strict=True):
            with naming(channel.columns):
                channel.family.check(view)

    def check_model(self, model: Any) -> None:
        """Raise ``ValueError`` unless every channel can be part of the model."""
        for channel in self.channels:
            if hasattr(channel.family, "check_model"):
                channel.family.check_model(model)

    # Parameters

    def priors(self, states: int) -> Priors:
        out: Priors = {}
        for channel in self.channels:
            out |= channel.named(channel.family.priors(states))
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {}
        for channel in self.channels:
            for own, axes in channel.family.dims().items():
                out[channel.parameters[own]] = tuple(map(channel.axis, axes))
        return out

    def coords(self, states: int) -> dict[str, Sequence[str]]:
        """Return the columns along the axes of features, and labels of the families' own axes."""
        out: dict[str, Sequence[str]] = {}
        names = self.observations.channel_names
        for channel in self.channels:
            own: dict[str, Sequence[str]] = dict.fromkeys(
                ("feature", "feature_from"), channel.columns
            )
            own |= dict.fromkeys(("predictor", "predictor_from"), names[channel.predictor])
            own |= axis_labels(channel.family, states)
            out |= {channel.axis(axis): labels for axis, labels in own.items()}
        return out

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        left, out = dict(values), dict[str, Tensor]()
        # The longest name first: what begins with "left_hand_" may also begin with "left_".
        for channel in sorted(self.channels, key=lambda one: -len(one.name)):
            start = f"{channel.name}_"
            own = {
                name: left.pop(name) for name in values if name in left if name.startswith(start)
            }
            try:
                found = channel.family.natural(
                    {name.removeprefix(start): value for name, value in own.items()}
                )
            except ValueError as error:
                raise ValueError(f"{start}{error}") from error
            out |= channel.named(found)
        return left | out

    def redundant(self, priors: Priors, states: int) -> int:
        total = 0
        for channel in self.channels:
            names = channel.parameters.items()
            own = {name: priors[full] for name, full in names if full in priors}
            total += channel.family.redundant(own, states)
        return total

    def idle(self, states: int) -> int:
        return sum(family.idle(states) for family in self.families)

    @property
    def networks(self) -> bool:
        return any(family.networks for family in self.families)

    @property
    def reorderable(self) -> bool:
        return all(family.reorderable for family in self.families)

    @property
    def ordering(self) -> str | None:
        for channel in self.channels:
            if channel.family.ordering is not None:
                return channel.parameters[channel.family.ordering]
        return None

    def ranks(self, laws: Parameters) -> Tensor | None:
        for channel in self.channels:
            found = channel.family.ranks(channel.own(laws))
            if found is not None:
                return found
        return None

    # The law

    @property
    def inputs(self) -> int:
        return max(family.inputs for family in self.families)

    @property
    def lags(self) -> int:
        return max(family.lags for family in self.families)

    @property
    def scored_at_once(self) -> int:
        return max(family.scored_at_once for family in self.families)

    def _shift_of(self, channel: Channel, shift: Tensor | None) -> Tensor | None:
        """The part of a shift that moves a channel; it is that of inputs, if any channel reads
        some.
        """
        moved = shift is not None and (channel.family.inputs > 0 or not self.inputs)
        return shift[..., channel.predictor] if moved and shift is not None else None

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        parts = (
            one.family.score(
                one.own(parameters),
                self._of(one, y),
                self._of(one, mask),
                self._shift_of(one, shift),
            )
            for one in self.channels
        )
        return reduce(torch.add, parts)

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor | None:
        """The statistics of all channels side by side; None if one has none, or a regression."""
        if self.inputs or self.lags:
            return None
        parts = []
        for channel in self.channels:
            law = in_products(channel.family)
            seen = self._of(channel, y), self._of(channel, mask)
            own = None if law is None else law.statistics(*seen)
            if own is None:
                return None
            parts.append(own)
        return torch.cat(parts, -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """The coefficients of all channels side by side."""
        laws = ((channel, in_products(channel.family)) for channel in self.channels)
        parts = [law.coefficients(one.own(parameters)) for one, law in laws if law is not None]
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        """The forms of all channels; none if one has none."""
        found: list[ClosedForm] = []
        for channel in self.channels:
            own = closed_forms(channel.family)
            if not own:
                return ()
            names = channel.parameters
            found += (x._replace(parameters=tuple(names[n] for n in x.parameters)) for x in own)
        return tuple(found)

    def _of(self, channel: Channel, y: Tensor) -> Tensor:
        return self.observations.of_kind(channel.place, y)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        drawn = [
            one.family.draw(one.own(parameters), paths, self._shift_of(one, shift))
            for one in self.channels
        ]
        return self._joined(drawn, parameters)

    def continued(
        self,
        parameters: Parameters,
        paths: Tensor,
        shift: Tensor | None,
        past: tuple[Tensor, Tensor],
    ) -> Tensor:
        drawn = []
        for channel in self.channels:
            seen, own = [self._of(channel, part) for part in past], self._shift_of(channel, shift)
            values = channel.own(parameters)
            drawn.append(channel.family.continued(values, paths, own, (seen[0], seen[1])))
        return self._joined(drawn, parameters)

    def _joined(self, drawn: list[Tensor], parameters: Parameters) -> Tensor:
        """Draws of the channels as columns (N, T, F)."""
        like = next(iter(parameters.values()), torch.zeros((), dtype=torch.float64))
        return torch.cat([(x if x.ndim == 3 else x.unsqueeze(-1)).to(like) for x in drawn], -1)

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | z = k] of all columns, (…draws, K, channels); of symbols the probabilities.

        A column of symbols has as many entries as there are symbols, as in ``encode``.
        """
        parts = [one.family.mean(one.own(parameters)) for one in self.channels]
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)

    def expected(self, parameters: Parameters, data: Sequences, chance: Tensor) -> Tensor | None:
        parts = []
        for channel, view in zip(self.channels, self._views(data), strict=True):
            part = channel.family.expected(channel.own(parameters), view, chance)
            if part is None:
                return None
            parts.append(part)
        return torch.cat(parts, -1)

    def labels(self, data: Sequences) -> Tensor | None:
        for channel, view in zip(self.channels, self._views(data), strict=True):
            found = channel.family.labels(view)
            if found is not None:
                return found
        return None

    def emitting(self, data: Sequences) -> Tensor:
        found = [
            channel.family.emitting(view)
            for channel, view in zip(self.channels, self._views(data), strict=True)
        ]
        return torch.stack(found).any(0)

    def given(self, data: Sequences) -> Emission:
        views = zip(self.families, self._views(data), strict=True)
        found = tuple(family.given(view) for family, view in views)
        same = all(one is other for one, other in zip(found, self.families, strict=True))
        return self if same else Independent(families=found, columns=self.columns)

    # The linear predictor

    @property
    def predictor_scale(self) -> Tensor:
        return torch.cat([family.predictor_scale.double() for family in self.families])

    def from_inputs(self, parameters: Parameters, inputs: Tensor | None) -> Tensor | None:
        parts = [one.family.from_inputs(one.own(parameters), inputs) for one in self.channels]
        told = [part for part in parts if part is not None]
        if not told:
            return None
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in told))
        sizes = [family.shift_size for family in self.families]
        zero = told[0].new_zeros(())
        filled = (zero if part is None else part for part in parts)
        columns = zip(filled, sizes, strict=True)
        return torch.cat([part.expand(*lead, size) for part, size in columns], -1)

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        parts = []
        for channel in self.channels:
            part, seen = self._of(channel, y), self._of(channel, mask)
            parts.append(channel.family.lagged(channel.own(parameters), part, seen))
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)

    # Fits

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        parts = []
        for channel in self.channels:
            part, seen = self._of(channel, y), self._of(channel, mask)
            parts.append(channel.family.coordinates(part, seen).double())
        return torch.cat(parts, -1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return the starts of the channels; of one that was never observed there is none."""
        out: dict[str, Tensor] = {}
        for channel in self.channels:
            seen = self._of(channel, mask)
            if bool(seen.any()):
                found = channel.family.start(self._of(channel, y), seen, weight)
                out |= channel.named(found)
        return out

    def scaled_to(self, data: Sequences) -> Independent:
        families = tuple(
            family.scaled_to(view) if view.n_observed else family
            for family, view in zip(self.families, self._views(data), strict=True)
        )
        return Independent(families=families, columns=self.columns)

    def widened(self, factor: float) -> Independent:
        families = tuple(family.widened(factor) for family in self.families)
        same = all(one is other for one, other in zip(families, self.families, strict=True))
        return self if same else Independent(families=families, columns=self.columns)


def _pairs(columns: Any) -> dict[str, tuple[str, ...]]:
    """The columns of the channels that name them."""
    known = columns is None or isinstance(columns, Mapping | tuple | list)
    given: dict[str, Any]
    try:
        given = dict(columns or ()) if known else {"": None}
    except (TypeError, ValueError):
        given = {"": None}
    out = {}
    for name, own in given.items():
        names = (own,) if isinstance(own, str) else own
        fits = isinstance(names, tuple | list) and all(isinstance(one, str) for one in names)
        requirement = "must be names of columns by channel, such as {'position': ('x', 'y')}"
        require(bool(name) and fits and len(names) > 0, "columns", requirement, repr(columns))
        out[name] = tuple(names)
    return out


def _check_channel(name: str, family: object, columns: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless a family can be a channel."""
    plain = isinstance(family, Emission) and not hasattr(family, "start_chain")
    plain = plain and not isinstance(family, Independent)
    require(plain, name, "must be an Emission of one step, such as Gaussian()", repr(family))
    word = name.partition("_")[0].rstrip("0123456789")
    fits = name.isidentifier() and word not in _TAKEN
    requirement = (
        f"must be Python names that do not begin with {', '.join(_TAKEN)} "
        "(columns={'name': 'a column'} gives a channel another name than its column)"
    )
    require(fits, "channels", requirement, repr(name))
    assert isinstance(family, Emission)
    wanted = f"needs {family.features} name(s) for {name!r}, one a feature of {family}"
    require(len(columns) == family.features, "columns", wanted, columns)


def _check_together(
    columns: tuple[tuple[str, tuple[str, ...]], ...], families: tuple[Emission, ...]
) -> None:
    """Raise ``ValueError`` unless channels have different columns and parameters."""
    read = [name for _, own in columns for name in own]
    twice = sorted({name for name in read if read.count(name) > 1})
    require(not twice, "columns", "must belong to one channel each", twice)
    inputs = {family.inputs for family in families} - {0}
    require(len(inputs) < 2, "channels", "must read the same input columns", sorted(inputs))
    names = [
        f"{name}_{own}"
        for (name, _), family in zip(columns, families, strict=True)
        for own in family.dims()
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "channels", "need names that tell their parameters apart", twice)
